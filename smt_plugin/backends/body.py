"""The bytes of a server's answer, unpacked as they come, and never more than a limit: a few may unpack to billions."""

import zlib

# Bytes, unpacked. A long reply has a million, one in a stream of events, a token each, ten; a batch of embeddings ten.
LARGEST = 2**25
ACCEPTED = "gzip"


class TooLarge(ValueError):
    """The answer has more than `LARGEST` bytes."""


class Body:
    """Takes the bytes of an answer as they come.

    Args:
        encoding: the answer's Content-Encoding.

    Raises:
        ValueError: it is neither `ACCEPTED` nor none.
    """

    def __init__(self, encoding: str | None) -> None:
        encoding = (encoding or "identity").strip().lower()
        if encoding not in ("identity", ACCEPTED, f"x-{ACCEPTED}"):
            raise ValueError(f"the answer is packed as {encoding[:40]}, which was not asked for")
        self._unpacker = None if encoding == "identity" else zlib.decompressobj(wbits=31)
        self._content = bytearray()

    def add(self, block: bytes) -> None:
        """Take some bytes more; raises TooLarge, or ValueError where they cannot be unpacked."""
        if self._unpacker is not None:
            try:
                block = self._unpacker.decompress(block, LARGEST + 1 - len(self._content))
            except zlib.error as error:
                raise ValueError(f"the answer cannot be unpacked ({error})") from None
        self._content += block
        if len(self._content) > LARGEST:
            raise TooLarge(f"the answer is larger than {LARGEST // 2**20} MiB")

    def content(self) -> bytes:
        """Return all bytes, unpacked; raises ValueError where the end is missing."""
        if self._unpacker is not None and not self._unpacker.eof and self._content:
            raise ValueError("the answer breaks off")
        return bytes(self._content)
