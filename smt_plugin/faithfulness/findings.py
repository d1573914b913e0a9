"""The files that name the records which say what their documents do not, the worst first."""

import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import orjson

from smt_plugin.errors import naming
from smt_plugin.faithfulness.check import NAME, Finding
from smt_plugin.files import make_folder, whole
from smt_plugin.records import Record


def findings_path(folder: Path, method: str) -> Path:
    """The file in a folder of records that lists what a method's records say and their documents do not."""
    return folder / "faithfulness" / f"{method}.jsonl"


class FindingsFile:
    """Takes findings as records come, and writes them with the worst record first; in memory is a number a record.

    Worse is who says more numbers, dates and quoted passages that the document lacks; among equals, more names, since
    more of these are told by mistake.
    """

    def __init__(self, folder: Path, method: str) -> None:
        self._path = findings_path(folder, method)
        make_folder(self._path.parent)
        # It has no name, so that nothing is left of it when the process is killed.
        self._kept = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115
        self._places: dict[tuple[int, int], array[int]] = defaultdict(lambda: array("Q"))

    def add(self, record: Record, findings: list[Finding]) -> None:
        """Keep a record's findings; of one without any nothing is kept."""
        if findings:
            names = sum(finding.kind == NAME for finding in findings)
            self._places[len(findings) - names, names].append(self._kept.tell())
            row = {"id": record.id, "doc_id": record.doc_id, "part": record.part, "round": record.round}
            self._kept.write(_line(row | {"findings": [finding._asdict() for finding in findings]}))

    def write(self) -> None:
        """Write `<folder>/faithfulness/<method>.jsonl`, a line a record; the file appears whole or not at all.

        Where nothing was found there is no such file.
        """
        if not self._places:
            self._path.unlink(missing_ok=True)
            return
        with naming(self._path), whole(self._path) as file:
            file.writelines(self._worst_first())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.close()

    def _worst_first(self) -> Iterator[bytes]:
        for _, places in sorted(self._places.items(), key=lambda item: item[0], reverse=True):
            for place in places:
                self._kept.seek(place)
                yield self._kept.readline()


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row) + b"\n"
