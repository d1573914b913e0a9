import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.audit_sample import draw, quotas, record_hashes
from smt_plugin.rejects import Verdict, add_verdicts


def write_records(run: Path, method: str, rows: list[dict[str, Any]]) -> Path:
    """Write records of which only what an audit reads is given."""
    path = run / "records" / f"{method}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = ({"id": f"{method}{n}", "part": 0, "tokens": 10} | row for n, row in enumerate(rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in whole))
    return path


def run_of(folder: Path, **keys: Any) -> RunFile:
    values = {"run": folder / "run", "corpus": folder, "backend": {"kind": "microworld"}, "methods": {"wrap": {}}}
    return RunFile.model_validate(values | keys)


def test_a_sample_is_shared_out_evenly_and_a_larger_one_holds_a_smaller_one() -> None:
    sizes = {f"d{n}": size for n, size in enumerate([1, 2, 50, 50, 9, 50])}
    assert quotas(sizes, 10**6) == sizes
    assert quotas(sizes, 3 + 9 + 3 * 20) == {"d0": 1, "d1": 2, "d2": 20, "d3": 20, "d4": 9, "d5": 20}
    before: dict[str, int] = {}
    for total in range(1, 163):
        found = quotas(sizes, total)
        assert sum(found.values()) == total
        assert all(found[name] >= number for name, number in before.items())
        level = max(found.values())
        assert all(number >= min(sizes[name], level - 1) for name in sizes if (number := found.get(name, 0)) >= 0)
        before = found


def test_records_are_drawn_the_same_again_and_of_more_documents_than_records_some_give_one(tmp_path: Path) -> None:
    rows = [{"doc_id": f"d{n % 7}", "text": f"Text {n}. More."} for n in range(70)]
    rows += [{"doc_id": "rare", "text": "Rare."}]
    write_records(tmp_path / "run", "wrap", rows)
    drawn = draw(run_of(tmp_path), ["wrap"], 22)["wrap"]
    assert (drawn.records, drawn.documents) == (71, 8)
    assert Counter(record.doc_id for record in drawn.sample) == {f"d{n}": 3 for n in range(7)} | {"rare": 1}
    assert {record.of_document for record in drawn.sample} == {10, 1}
    assert drawn.sample[0].claims[1] == "More."
    assert draw(run_of(tmp_path), ["wrap"], 22)["wrap"] == drawn
    # The order of the file says nothing.
    path = write_records(tmp_path / "run", "wrap", rows)
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    again = draw(run_of(tmp_path), ["wrap"], 22)["wrap"]
    assert {record.id for record in again.sample} == {record.id for record in drawn.sample}
    few = draw(run_of(tmp_path), ["wrap"], 3)["wrap"].sample
    assert len({record.doc_id for record in few}) == 3
    assert {record.id for record in few} <= {record.id for record in drawn.sample}


def test_a_line_that_is_no_record_and_a_method_without_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"wrap\.jsonl does not exist; run `smt generate RUN\.YAML --method wrap`"):
        draw(run_of(tmp_path), ["wrap"], 3)
    path = write_records(tmp_path / "run", "wrap", [{"doc_id": "d", "text": "A.", "part": "two"}])
    with pytest.raises(BadInput, match=r"wrap\.jsonl, line 1: expected `int`, got `str` .*part.*run `smt generate"):
        draw(run_of(tmp_path), ["wrap"], 3)
    path.write_text("")
    with pytest.raises(BadInput, match="wrap has no records"):
        draw(run_of(tmp_path), ["wrap"], 3)


def test_rejected_records_are_not_drawn_and_others_rejected_are_another_state(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_records(run, "wrap", [{"doc_id": f"d{n % 2}", "text": f"Text {n}."} for n in range(6)])
    before = record_hashes(run, ["wrap"])
    add_verdicts(run, [Verdict("wrap0", "wrap"), Verdict("wrap2"), Verdict("wrap1", "spa")])
    drawn = draw(run_of(tmp_path), ["wrap"], 10)["wrap"]
    assert {record.id for record in drawn.sample} == {"wrap1", "wrap3", "wrap4", "wrap5"}
    assert {record.of_document for record in drawn.sample} == {1, 3}
    assert record_hashes(run, ["wrap"]) != before
    add_verdicts(run, [Verdict(f"wrap{n}") for n in range(6)])
    with pytest.raises(BadInput, match="wrap has no records that are not rejected"):
        draw(run_of(tmp_path), ["wrap"], 3)


def test_memory_holds_the_sample_and_not_the_records(tmp_path: Path) -> None:
    rows = [{"doc_id": f"d{n % 5}", "text": "A sentence of some length. " * 40} for n in range(6000)]
    path = write_records(tmp_path / "run", "wrap", rows)
    del rows
    tracemalloc.start()
    draw(run_of(tmp_path), ["wrap"], 50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 10
