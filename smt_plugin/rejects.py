"""What a person or the gate says of records: `<run>/rejects.jsonl`, to which lines are added and none is taken away."""

import fcntl
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
import orjson

from smt_plugin.errors import naming
from smt_plugin.files import Text, content_hash, make_file, private, read_rows

REJECT: Final = "reject"
KEEP: Final = "keep"
OPEN: Final = "open"
PERSON: Final = "person"
GATE: Final = "gate"
_SAID = {PERSON: "a person", GATE: "the gate"}


class Verdict(msgspec.Struct, frozen=True):
    """A line of the file; one that was written by hand may hold the `id` alone.

    Attributes:
        id: the record's.
        method: the one that made it; empty where it is not known.
        verdict: `open` takes back what was said before.
        reason: in the words of whoever said it.
    """

    id: Text
    method: str = ""
    verdict: Literal["reject", "keep", "open"] = REJECT
    by: Literal["person", "gate"] = PERSON
    reason: str = ""

    @property
    def why(self) -> str:
        """Who rejected the record, and why, as a reason to leave it out."""
        return f"rejected by {_SAID[self.by]}{self.reason and ': '}{self.reason}"


def rejects_path(run: Path) -> Path:
    """The file of a run's verdicts, those of all its shards."""
    return run / "rejects.jsonl"


def read_verdicts(run: Path, by: str = "") -> dict[str, Verdict]:
    """Return what holds of each record that is not open: the last word, but a person's before the gate's.

    Args:
        by: whose words alone count; everybody's where empty.

    Raises:
        BadInput: a line is none of this kind; it is named.
    """
    path = rejects_path(run)
    said: dict[str, dict[str, Verdict]] = {GATE: {}, PERSON: {}}
    if os.path.lexists(path):
        for verdict, _ in read_rows(path, Verdict, "correct the line or remove it"):
            said[verdict.by].pop(verdict.id, None)
            if verdict.verdict != OPEN:
                said[verdict.by][verdict.id] = verdict
    return said[by] if by else said[GATE] | said[PERSON]


def rejected(run: Path, methods: Collection[str]) -> dict[str, Verdict]:
    """Return the records of some methods that are rejected, and those of which no method is told."""
    return {
        name: verdict
        for name, verdict in read_verdicts(run).items()
        if verdict.verdict == REJECT and verdict.method in ("", *methods)
    }


def rejects_hash(rejects: Iterable[str]) -> str:
    """A hash that changes when other records are rejected, whatever the reason and the order."""
    return content_hash(sorted(rejects))


def add_verdicts(run: Path, verdicts: Iterable[Verdict]) -> None:
    """Write verdicts down, each on a line of its own; when this returns, they outlive a crash.

    Several processes may do so at once. Where the disk is full, none of them is written.

    Raises:
        OSError: they cannot be written.
    """
    lines = b"".join(orjson.dumps(msgspec.to_builtins(verdict)) + b"\n" for verdict in verdicts)
    path = rejects_path(run)
    make_file(path)
    with naming(path), open(path, "r+b", buffering=0, opener=private) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        # After a line that somebody wrote by hand, or that a crash of the machine left without its end.
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            lines = b"\n" + lines
        try:
            while lines:
                lines = lines[file.write(lines) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
