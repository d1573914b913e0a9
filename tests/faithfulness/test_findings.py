import json
import os
from pathlib import Path

from smt_plugin.faithfulness.check import Finding
from smt_plugin.faithfulness.findings import FindingsFile, findings_path
from smt_plugin.records import Record


def record(number: int) -> Record:
    return Record("wrap", f"d{number}", 0, 0, number, 9, "wrap/rewrite", "hash", "m", {}, [f"key {number}"], text="x")


def test_the_worst_record_comes_first_and_one_without_findings_not_at_all(tmp_path: Path) -> None:
    number, name = Finding("number", "7", 0, 0), Finding("name", "Kepler", 0, 4)
    with FindingsFile(tmp_path, "wrap") as file:
        for place, findings in enumerate([[name], [number], [], [number, name], [name, name], [number], [number] * 2]):
            file.add(record(place), findings)
        file.write()
    rows = [json.loads(line) for line in findings_path(tmp_path, "wrap").read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == ["d6", "d3", "d1", "d5", "d4", "d0"]
    assert rows[0]["id"] == record(6).id
    assert rows[1]["findings"][1] == {"kind": "name", "said": "Kepler", "turn": 0, "start": 4}


def test_what_was_not_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with FindingsFile(tmp_path, "wrap") as file:
        file.add(record(0), [Finding("number", "7", 0, 0)])
    assert os.listdir(tmp_path / "faithfulness") == []


def test_where_nothing_is_found_any_more_there_is_no_file(tmp_path: Path) -> None:
    for findings in ([Finding("number", "7", 0, 0)], []):
        with FindingsFile(tmp_path, "wrap") as file:
            file.add(record(0), findings)
            file.write()
        assert findings_path(tmp_path, "wrap").is_file() == bool(findings)
