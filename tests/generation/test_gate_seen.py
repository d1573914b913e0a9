"""What the records so far tell of the gate, and the plan that is made of it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.backends.base import Keep, Reply, Request
from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.generation.asker import AGAIN
from smt_plugin.generation.completions import CompletionStore
from smt_plugin.generation.gate_seen import gate_seen
from smt_plugin.generation.generate import generate_run
from smt_plugin.generation.plan import Plan, make_plan, plan_text
from smt_plugin.generation.summary import Summary
from smt_plugin.methods.base import stable_draw
from smt_plugin.microworld import archive
from smt_plugin.microworld.scripted import ScriptedBackend
from smt_plugin.rejects import OPEN, Verdict, add_verdicts
from tests.quality_data import write_lines

KINDS = ["number", "date", "quotation", "name"]


def run_file(folder: Path, tokens: int, gate: list[str], *names: str) -> RunFile:
    return RunFile.model_validate(
        {
            "run": folder / "run",
            "corpus": folder / "archive",
            "backend": {"kind": "microworld"},
            "methods": {name: {"tokens": tokens} for name in names or ("synthetic_qa", "wrap")},
            "gate": gate,
        }
    )


class Careless(ScriptedBackend):
    """Adds to a third of the texts a number that is in no document, unless it is told so."""

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        reply = await super().complete(request)
        if request.prompt == "wrap/rewrite" and len(request.messages) == 2 and not stable_draw(3, str(request)):
            reply = replace(reply, text=f"{reply.text} It cost 778,123 crowns.")
        if keep is not None:
            await keep(reply)
        return reply


def generate(file: RunFile) -> Summary:
    # No call is asked ahead, which the plan does not count.
    return asyncio.run(generate_run(file, Careless(0), rounds_ahead=1))


def plan(file: RunFile) -> Plan:
    return asyncio.run(make_plan(file, ScriptedBackend(0)))


def asked_again(file: RunFile) -> int:
    async def count() -> int:
        store = CompletionStore(file.run)
        try:
            return sum(1 for _ in store.uses_with(AGAIN, ScriptedBackend(0).model))
        finally:
            await store.close()

    return asyncio.run(count())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    archive.write(tmp_path / "archive")
    path = tmp_path / "archive/documents.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))
    return tmp_path


def said_of_gate(found: Plan, file: RunFile) -> list[str]:
    return [line for line in plan_text(found, file).splitlines() if "gate will ask" in line or "records so far" in line]


@pytest.mark.parametrize("first_gate", [KINDS, []])
def test_after_a_small_budget_the_plan_tells_how_often_the_gate_of_a_large_one_asks(
    folder: Path, first_gate: list[str]
) -> None:
    generate(run_file(folder, 9000, first_gate))
    file = run_file(folder, 20_000, KINDS)
    found = plan(file)
    assert found.gate is not None
    assert found.gate.objected["wrap/rewrite"] > 20
    again = found.prompts[AGAIN]
    assert (again.stored > 0) == bool(first_gate)
    summary = generate(file)
    assert found.total("calls") - found.total("stored") == pytest.approx(summary.asked, rel=0.15)
    assert found.total("output_tokens") == pytest.approx(summary.completion_tokens, rel=0.15)
    assert again.calls == pytest.approx(asked_again(file), rel=0.25)
    [sentence] = said_of_gate(found, file)
    assert sentence.startswith(
        f"gate/again: by the records so far; the gate objected to {found.gate.objected.total()} "
    )
    assert "is not among them" not in sentence


def test_without_a_record_yet_the_plan_says_that_the_gates_calls_are_not_in_it(folder: Path) -> None:
    file = run_file(folder, 9000, KINDS)
    found = plan(file)
    assert AGAIN not in found.prompts
    [sentence] = said_of_gate(found, file)
    assert sentence.startswith("What the gate will ask again is not among them")
    generate(run_file(folder, 9000, [], "synthetic_qa"))
    [sentence] = said_of_gate(plan(file), file)
    assert "What the gate will ask again of wrap is not among them" in sentence


def test_what_was_asked_again_is_no_reply_to_the_first_prompt_whether_there_is_still_a_gate_or_not(
    folder: Path,
) -> None:
    generate(run_file(folder, 9000, []))
    before = plan(run_file(folder, 30_000, []))
    generate(run_file(folder, 9000, KINDS))
    after = plan(run_file(folder, 30_000, []))
    assert AGAIN not in after.prompts
    # Asked in place of what was rejected.
    assert 0 <= after.total("stored") - before.total("stored") < 0.2 * before.total("stored")


def test_more_is_planned_where_the_gate_lets_less_pass(folder: Path) -> None:
    generate(run_file(folder, 9000, [], "synthetic_qa"))
    file = run_file(folder, 30_000, ["date"], "synthetic_qa")
    found = plan(file)
    records = (folder / "run/records/synthetic_qa.jsonl").read_text().splitlines()
    ids = [line.partition('"id":"')[2][:32] for line in records]
    add_verdicts(file.run, [Verdict(name, "synthetic_qa", by="gate") for name in ids[::2]])
    less = plan(file)
    assert less.gate is not None
    assert less.gate.passed["synthetic_qa"] == pytest.approx(0.5, abs=0.05)
    assert less.prompts["synthetic_qa/pairs"].calls == pytest.approx(
        found.prompts["synthetic_qa/pairs"].calls / less.gate.passed["synthetic_qa"], rel=0.15
    )
    add_verdicts(file.run, [Verdict(name, "synthetic_qa", OPEN, "gate") for name in ids[::2]])
    assert plan(file) == found


def row(number: int, key: int, **changes: Any) -> dict[str, Any]:
    made = {"id": f"r{number}", "prompt": "p", "model": "m", "tokens": 10, "completions": [f"{key:032x}"]}
    return made | changes


def test_a_reply_counts_once_however_many_of_its_records_have_findings(tmp_path: Path) -> None:
    file = run_file(tmp_path, 1000, ["number"], "synthetic_qa")
    for name in ("records", "faithfulness"):
        (file.run / name).mkdir(parents=True)
    rows = [row(0, 1), row(1, 1), row(2, 1), row(3, 2), row(4, 3), row(5, 4, model="another"), row(6, 5, prompt="q")]
    write_lines(file.run / "records/synthetic_qa.jsonl", rows)
    findings = {"r0": "number", "r2": "number", "r3": "name", "r5": "number"}
    write_lines(
        file.run / "faithfulness/synthetic_qa.jsonl",
        [{"id": name, "findings": [{"kind": kind}]} for name, kind in findings.items()],
    )
    seen = gate_seen(file, "m", {bytes.fromhex(f"{5:032x}")})
    assert seen.replies == {"p": 3, "q": 1}
    assert seen.objected == {"p": 1, "q": 1}
    assert seen.passed == {"synthetic_qa": 1}


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    file = run_file(tmp_path, 1000, ["number"], "synthetic_qa")
    (file.run / "records").mkdir(parents=True)
    write_lines(file.run / "records/synthetic_qa.jsonl", [row(0, 1), {"id": "r1"}])
    with pytest.raises(BadInput, match=r"synthetic_qa\.jsonl, line 2: .*`prompt`.*run `smt generate RUN\.YAML`"):
        gate_seen(file, "m", ())
