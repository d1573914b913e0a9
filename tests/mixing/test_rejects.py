"""What a mix does about rejected records, and the file that says where its rows come from."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smt_plugin.cli.app import cli
from smt_plugin.config import RunFile
from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.generation.generate import generate_run
from smt_plugin.microworld import archive
from smt_plugin.rejects import Verdict, add_verdicts, rejects_path
from tests.generation.test_gate import Stubborn
from tests.generation.test_stale import METHODS, RUN_FILE


def smt(folder: Path, command: str, changes: dict[str, Any] | None = None, **mix: Any) -> Result:
    values = RUN_FILE | {"mix": RUN_FILE["mix"] | mix} | (changes or {})
    (folder / "smt.yaml").write_text(json.dumps(values))
    result = CliRunner().invoke(cli, [command, str(folder / "smt.yaml")])
    if isinstance(result.exception, BadInput):
        raise result.exception
    return result


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    archive.write(tmp_path / "archive")
    # A few documents have several rounds each.
    documents = tmp_path / "archive/documents.jsonl"
    documents.write_text("".join(documents.read_text().splitlines(keepends=True)[:8]))
    assert smt(tmp_path, "generate").exit_code == 0
    return tmp_path


def test_rejected_records_are_left_out_counted_and_listed_with_who_and_why(folder: Path) -> None:
    run = folder / "run"
    first, second, third = rows(run / "records/synthetic_qa.jsonl")[:3]
    add_verdicts(
        run,
        [
            Verdict(first["id"], "synthetic_qa", reason="wrong year"),
            Verdict(second["id"], "synthetic_qa", by="gate", reason="a number"),
            Verdict(third["id"], "synthetic_qa", by="gate", reason="a number"),
            Verdict(third["id"], "synthetic_qa", "keep"),
        ],
    )
    result = smt(folder, "mix")
    assert result.exit_code == 0
    assert "2 records are left out, since rejects.jsonl rejects them" in result.output
    dropped = {row["id"]: row["reason"] for row in rows(run / "mix/dropped.jsonl")}
    assert dropped[first["id"]] == "rejected by a person: wrong year"
    assert dropped[second["id"]] == "rejected by the gate: a number"
    assert third["id"] not in dropped
    manifest = json.loads((run / "mix/manifest.json").read_text())
    assert manifest["sources"]["synthetic_qa"]["rejected"] == 2
    assert manifest["sources"]["focal_rewrite"]["rejected"] == 0
    assert manifest["rejects"]["records"] == 2
    assert json.dumps({"messages": first["messages"]}, separators=(",", ":")) not in (run / "mix/qa.jsonl").read_text()


def test_what_the_gate_rejected_is_left_out(folder: Path) -> None:
    gate = {"gate": ["number", "date", "name"], "backend": {"kind": "microworld", "strength": 0.2}}
    run_file = RunFile.model_validate(RUN_FILE | gate, context=folder)
    asyncio.run(generate_run(run_file, Stubborn(0.2)))
    left_out = len(rows(rejects_path(folder / "run")))
    assert left_out > 0
    result = smt(folder, "mix", gate)
    assert result.exit_code == 0, result.output
    assert f"{left_out} records are left out, since rejects.jsonl rejects them" in result.output


def test_rejects_of_records_that_are_not_there_are_told(folder: Path) -> None:
    other = Verdict("of another", "active_reading")
    add_verdicts(folder / "run", [Verdict("gone", "synthetic_qa"), Verdict("by hand"), other])
    assert (
        "rejects.jsonl rejects 2 records that are not among those to be mixed (any more), such as 'by hand'."
        in smt(folder, "mix").output
    )


def test_the_rejects_of_another_run_go_for_the_records_that_are_taken_from_it(folder: Path) -> None:
    other = Path(shutil.copytree(folder / "run", folder / "other"))
    first, second = rows(other / "records/focal_rewrite.jsonl")[:2]
    add_verdicts(other, [Verdict(first["id"], "focal_rewrite"), Verdict(second["id"], "synthetic_qa")])
    mix = {"shares": {"elsewhere": 1}, "sources": {"elsewhere": str(other / "records/focal_rewrite.jsonl")}}
    result = smt(folder, "mix", **mix)
    assert "1 records are left out, since rejects.jsonl rejects them" in result.output
    dropped = {row["id"]: row["reason"] for row in rows(folder / "run/mix/dropped.jsonl")}
    assert dropped[first["id"]] == "rejected by a person"
    assert second["id"] not in dropped
    plain = folder / "plain.jsonl"
    plain.write_bytes((other / "records/focal_rewrite.jsonl").read_bytes())
    add_verdicts(folder / "run", [Verdict(second["id"], "elsewhere")])
    assert "1 records are left out" in smt(folder, "mix", **(mix | {"sources": {"elsewhere": str(plain)}})).output


def test_a_broken_line_stops_the_mix_before_anything_is_touched(folder: Path) -> None:
    assert smt(folder, "mix").exit_code == 0
    before = {path: path.read_bytes() for path in (folder / "run/mix").iterdir()}
    rejects_path(folder / "run").write_text("{")
    with pytest.raises(BadInput, match=r"rejects\.jsonl, line 1: not valid JSON"):
        smt(folder, "mix")
    assert before == {path: path.read_bytes() for path in (folder / "run/mix").iterdir()}


def test_every_row_of_a_record_has_its_passage_in_the_file_beside_it(folder: Path) -> None:
    run = folder / "run"
    assert smt(folder, "mix", tokens="4K", provenance=True, validation_rounds=1).exit_code == 0
    texts = {document.id: document.text for document in read_documents(folder / "archive")}
    records = {row["id"]: row for name in METHODS for row in rows(run / f"records/{name}.jsonl")}
    for name in ("qa.jsonl", "rewrites.jsonl", "validation_qa.jsonl", "validation_rewrites.jsonl"):
        mixed, origins = rows(run / "mix" / name), rows(run / "mix/provenance" / name)
        assert [origin["row"] for origin in origins] == list(range(len(mixed)))
        for row, origin in zip(mixed, origins, strict=True):
            record = records[origin["id"]]
            assert row == {key: record[key] for key in row}
            assert origin["doc_id"] == record["doc_id"]
            assert 0 <= origin["start"] < origin["end"] <= len(texts[record["doc_id"]])


def test_the_passage_is_the_sentence_that_answers_the_question(folder: Path) -> None:
    run = folder / "run"
    assert smt(folder, "mix", provenance=True).exit_code == 0
    texts = {document.id: document.text for document in read_documents(folder / "archive")}
    found = rows(run / "mix/provenance/qa.jsonl")
    passages = [texts[origin["doc_id"]][origin["start"] : origin["end"]] for origin in found]
    answers = [row["messages"][-1]["content"] for row in rows(run / "mix/qa.jsonl")]
    # Of an answer in the microworld the value is the last word.
    hits = sum(answer.split()[-1].strip(".") in passage for answer, passage in zip(answers, passages, strict=True))
    assert hits > 0.8 * len(answers)
    assert sum(map(len, passages)) < 0.8 * sum(len(texts[origin["doc_id"]]) for origin in found)


def test_without_the_key_what_an_earlier_mix_said_of_its_rows_is_gone(folder: Path) -> None:
    content = []
    for provenance in (True, False):
        assert smt(folder, "mix", provenance=provenance).exit_code == 0
        assert (folder / "run/mix/provenance").exists() == provenance
        content.append(json.loads((folder / "run/mix/manifest.json").read_text())["content_hash"])
    assert content[0] == content[1]


def test_replay_and_records_from_elsewhere_have_no_passage(folder: Path) -> None:
    elsewhere = folder / "elsewhere.jsonl"
    elsewhere.write_text('{"text": "Some text about a town."}\n{"text": "And one more.", "doc_id": "unknown"}\n')
    replay = str(folder / "archive/replay.jsonl")
    mix = {"shares": {"synthetic_qa": 1, "elsewhere": 1}, "sources": {"elsewhere": str(elsewhere)}}
    result = smt(folder, "mix", provenance=True, tokens="2K", replay=replay, replay_share=0.5, **mix)
    assert "elsewhere ran dry" in result.output
    found = rows(folder / "run/mix/provenance/rewrites.jsonl")
    assert {(origin["doc_id"], origin["start"], origin["end"]) for origin in found} == {
        (None, None, None),
        ("unknown", None, None),
    }
    assert not (folder / "run/mix/provenance/replay.jsonl").exists()
    assert (folder / "run/mix/replay.jsonl").exists()
