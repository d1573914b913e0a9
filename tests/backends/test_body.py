import gzip
import tracemalloc
import zlib

import pytest

from smt_plugin.backends.body import LARGEST, Body, TooLarge


def whole(content: bytes, encoding: str | None, size: int = 1000) -> bytes:
    body = Body(encoding)
    for start in range(0, len(content), size):
        body.add(content[start : start + size])
    return body.content()


@pytest.mark.parametrize("encoding", [None, "identity", "gzip", "X-GZIP"])
def test_an_answer_is_the_same_packed_or_not(encoding: str | None) -> None:
    content = b"some words " * 1000
    packed = gzip.compress(content) if encoding and "gzip" in encoding.lower() else content
    assert whole(packed, encoding) == content
    assert whole(b"", encoding) == b""


def test_an_answer_that_unpacks_to_billions_is_given_up_at_the_limit() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(bytes(2**20)) for _ in range(1024)]) + packer.flush()
    assert len(bomb) < 2**21
    tracemalloc.start()
    with pytest.raises(TooLarge, match="larger than 32 MiB"):
        whole(bomb, "gzip", len(bomb))
    assert tracemalloc.get_traced_memory()[1] < 4 * LARGEST
    tracemalloc.stop()
    with pytest.raises(TooLarge):
        whole(bytes(LARGEST + 1), None, 2**20)


def test_an_answer_packed_otherwise_or_broken_is_no_answer() -> None:
    with pytest.raises(ValueError, match="packed as br, which was not asked for"):
        Body("br")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        whole(b"no gzip at all", "gzip")
    with pytest.raises(ValueError, match="breaks off"):
        whole(gzip.compress(b"some words")[:-9], "gzip")
