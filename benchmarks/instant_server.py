"""An OpenAI-compatible server that answers at once, so that whoever asks is what one measures.

    python benchmarks/instant_server.py

Prints its URL, and serves until stopped. It reads a request without parsing it, and answers with the same text of
some 700 tokens under another number. It speaks just enough HTTP/1.1 for that. `/times` tells how many requests came
and when the first and the last did, and forgets them.
"""

import asyncio
import json
import time

MODEL = "instant"
TOKENS = 700
_NUMBER = b"#0000000"
_TEXT = (
    f"Answer {_NUMBER.decode()}. " + "The keeper wrote the log each night, and the lamp burned for thirty years. " * 37
)


def _response(body: object) -> bytes:
    content = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content


_MODELS = _response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
_COMPLETION = _response(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2_000, "completion_tokens": TOKENS, "total_tokens": 2_000 + TOKENS},
    }
)
_BEFORE, _AFTER = _COMPLETION.split(_NUMBER)


class Times:
    """How many requests came, and when the first and the last did (seconds of a clock that only goes forward)."""

    count = 0
    first = 0.0
    last = 0.0

    @classmethod
    def note(cls) -> int:
        cls.last = time.monotonic()
        if cls.count == 0:
            cls.first = cls.last
        cls.count += 1
        return cls.count

    @classmethod
    def tell(cls) -> bytes:
        told = _response({"count": cls.count, "seconds": cls.last - cls.first})
        cls.count = 0
        return told


class Connection(asyncio.Protocol):
    """One connection: whole requests in, responses out."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = bytearray()
        self.wanted = 0

    def data_received(self, data: bytes) -> None:
        self.received += data
        while len(self.received) >= self.wanted:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.received[:end]).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            self.wanted = end + 4 + length
            if len(self.received) < self.wanted:
                return
            del self.received[: self.wanted]
            self.wanted = 0
            if head.startswith(b"post"):
                self.transport.write(b"%s#%07d%s" % (_BEFORE, Times.note(), _AFTER))
            elif b"/times" in head[:30]:
                self.transport.write(Times.tell())
            else:
                self.transport.write(_MODELS)
            if b"connection: close" in head:
                self.transport.close()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
