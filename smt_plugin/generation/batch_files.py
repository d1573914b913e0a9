"""OpenAI batch files: what a run has yet to ask, written for a batch endpoint, and what came back, read again.

A batch endpoint answers a file of requests within hours, often at half the price; `vllm run-batch` works one off
without a server. Prompts that are made from answers, such as rewrites by a strategy, come in a later file.
"""

from pathlib import Path
from typing import IO, Any

import orjson

from smt_plugin.backends.base import Deferred, Keep, Refused, Reply, Request
from smt_plugin.backends.loose_json import read_body
from smt_plugin.backends.refusals import Failure
from smt_plugin.backends.replies import reply_of
from smt_plugin.backends.request_body import SCHEMA, request_body
from smt_plugin.errors import BadInput
from smt_plugin.files import check_target, make_folder, private, reading
from smt_plugin.generation.completions import completion_key

# What OpenAI's batch endpoint takes in one file (its documentation: 50,000 requests, 200 MB).
MOST_REQUESTS = 50_000
MOST_BYTES = 200 * 10**6
# Batch work has no rounds under way: all that a budget needs is asked at once.
ROUNDS_AHEAD = 10**6
_GLOB = "requests-*.jsonl"


class BatchExport:
    """A backend that writes each request into `<folder>/requests-<n>.jsonl` and defers its answer.

    Args:
        folder: made for the first request if it is not there; files of an earlier export must be gone.
        structured_output: send JSON schemas where a method has one.
        options: set, rename or null fields of every request, see `request_body`.
    """

    concurrency = 64
    has_room = True
    context = None

    def __init__(
        self, folder: Path, model: str, structured_output: bool, options: dict[str, Any] | None = None
    ) -> None:
        self.model = model
        self.requests = 0
        self.files: list[Path] = []
        self._folder = folder
        self._options = ({} if structured_output else {SCHEMA: None}) | (options or {})
        self._file: IO[bytes] | None = None
        self._in_file = 0
        # Two methods may share a request.
        self._written: set[bytes] = set()

    async def start(self) -> None:
        """Look at the folder.

        Raises:
            BadInput: it holds the files of an earlier export, whose requests would be paid for twice.
        """
        check_target(self._folder / "requests-0001.jsonl", with_folder=True)
        if any(self._folder.glob(_GLOB)):
            raise BadInput(f"{self._folder} holds requests already; import their results and remove them first.")
        for left in self._folder.glob("requests-*.partial"):  # by an export that was killed
            left.unlink()

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        """Write the request, once.

        Raises:
            Deferred: always, unless the folder cannot be made (BadInput).
        """
        key = completion_key(request, self.model)
        if bytes.fromhex(key) in self._written:
            raise Deferred
        self._written.add(bytes.fromhex(key))
        body = request_body(request, self.model, self._options)
        content = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        line = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
        if self._file is None or self._in_file == MOST_REQUESTS or self._file.tell() + len(line) > MOST_BYTES:
            self._file = await self._next_file()
        self._file.write(line)
        self._in_file += 1
        self.requests += 1
        raise Deferred

    async def _next_file(self) -> IO[bytes]:
        await self.close()
        make_folder(self._folder)
        self.files.append(self._folder / f"requests-{len(self.files) + 1:04}.jsonl")
        self._in_file = 0
        # Under their own name only when all are whole.
        return open(self.files[-1].with_suffix(".partial"), "wb", opener=private)

    async def cache_use(self) -> None:
        """There is no server."""

    async def close(self) -> None:
        """Close the last file."""
        if self._file is not None:
            self._file.close()

    def finish(self) -> None:
        """Give the files their names; called when every request was written."""
        for file in self.files:
            file.with_suffix(".partial").rename(file)


class BatchImport:
    """A backend that answers from the result files of a batch endpoint, and defers what they do not hold.

    Attributes:
        results: lines in the files.
        taken: results that were asked for now; the others are in the store already or belong to something else.
        failed: results with a passing failure, which the next export asks for again.
    """

    concurrency = 64
    has_room = True
    context = None

    def __init__(self, files: list[Path], model: str) -> None:
        self.model = model
        self.results = self.taken = self.failed = 0
        self._paths = files
        self._files: list[IO[bytes]] = []
        # A million results are a few hundred MB of places: bytes are smaller than text.
        self._places: dict[bytes, tuple[int, int]] = {}

    async def start(self) -> None:
        """Find the place of every result.

        Raises:
            BadInput: a file is missing, or a line is no batch result.
        """
        for number, path in enumerate(self._paths):
            offset = 0
            with reading(path, "give the result files of the batch") as file:
                for line_number, line in enumerate(file, start=1):
                    if line.strip():
                        key, answered = _read(line, path, line_number)
                        # A request that was exported again after a failure has a result in two files, in any order.
                        if answered or key not in self._places:
                            self._places[key] = (number, offset)
                        self.results += 1
                    offset += len(line)
            self._files.append(path.open("rb"))

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        """Return the result of a request.

        Raises:
            Refused: its status is 400, 413 or 422.
            Deferred: there is none, or a passing failure.
        """
        place = self._places.get(bytes.fromhex(completion_key(request, self.model)))
        if place is None:
            raise Deferred
        file = self._files[place[0]]
        file.seek(place[1])
        result = read_body(file.readline())
        self.taken += 1
        response = result.get("response") or {}
        body = response.get("body")
        failure = Failure(orjson.dumps(body).decode(errors="replace"), _status_of(response))
        if failure.of_prompt and not failure.of_account:
            raise Refused(failure.reason)
        try:
            reply = reply_of(body or {}) if response.get("status_code") == 200 else None
        except (KeyError, IndexError, TypeError, AttributeError):
            reply = None
        if reply is None:
            self.failed += 1
            raise Deferred
        if keep is not None:
            await keep(reply)
        return reply

    async def cache_use(self) -> None:
        """There is no server."""

    async def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _status_of(response: dict[str, Any]) -> int:
    status = response.get("status_code")
    return status if isinstance(status, int) else 0


def _read(line: bytes, path: Path, number: int) -> tuple[bytes, bool]:
    """Return the key of a result and whether it is an answer."""
    try:
        result: Any = read_body(line)
        return bytes.fromhex(result["custom_id"]), (result["response"] or {}).get("status_code") == 200
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            f"{path}, line {number}: not a batch result with a `custom_id` of ours; give the files that the batch "
            "endpoint wrote for the exported requests."
        ) from None
