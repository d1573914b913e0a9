"""A local HTTP server of files that knows byte ranges, and breaks off when told to."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Files:
    """`content` is path -> bytes; `breaks` how many of the next answers stop half-way; `asked` what was asked for.

    `statuses` maps a path to a status that it is refused with.
    """

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.content = dict(content)
        self.breaks = 0
        self.statuses: dict[str, int] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.url = ""


@contextmanager
def serve_files(content: Mapping[str, bytes]) -> Iterator[Files]:
    """Serve `content` on a free port; its address is `files.url`, which ends in a slash."""
    files = Files(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, wanted = self.path.removeprefix("/"), self.headers.get("Range")
            files.asked.append((path, wanted))
            if path in files.statuses or path not in files.content:
                self.send_error(files.statuses.get(path, 404))
                return
            content = files.content[path]
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            if wanted and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            rest = content[start:]
            if files.breaks:
                files.breaks -= 1
                rest = rest[: len(rest) // 2]
                self.close_connection = True
            files.sent += len(rest)
            self.wfile.write(rest)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
