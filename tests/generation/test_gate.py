"""The gate: what is asked again, what is taken, what is rejected, and that nothing is paid for twice."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from smt_plugin.backends.base import Deferred, Keep, Refused, Reply, Request
from smt_plugin.cli.app import cli
from smt_plugin.config import RunFile
from smt_plugin.corpus import Document, read_documents
from smt_plugin.errors import BadInput
from smt_plugin.faithfulness.check import Source, turns_of
from smt_plugin.files import read_jsonl
from smt_plugin.generation.asker import AGAIN, messages_about
from smt_plugin.generation.completions import Completion, look_up
from smt_plugin.generation.gate import Gate, Round, gated_round
from smt_plugin.generation.generate import generate_run
from smt_plugin.generation.summary import Summary
from smt_plugin.methods.base import Answer, Ask, Complete, stable_draw
from smt_plugin.microworld import archive, grammar
from smt_plugin.microworld.scripted import ScriptedBackend
from smt_plugin.prompts import Prompts
from smt_plugin.records import Record
from smt_plugin.rejects import GATE, Verdict, add_verdicts, read_verdicts, rejects_path
from tests.kills import driver

METHODS = ("synthetic_qa", "focal_rewrite")
KINDS = ["number", "date", "quotation", "name"]


def write_archive(folder: Path) -> None:
    """An archive of twenty documents."""
    archive.write(folder / "archive")
    path = folder / "archive/documents.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))


class Stubborn(ScriptedBackend):
    """Says the same again to one of three objections."""

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        if len(request.messages) == 4 and not stable_draw(3, str(request.messages)):
            text = request.messages[2]["content"]
            reply = Reply(text, "stop", 100, 0, len(text.split()))
            if keep is not None:
                await keep(reply)
            return reply
        return await super().complete(request, keep)


def run_file(folder: Path, gate: list[str], **changes: Any) -> RunFile:
    values = {
        "run": str(folder / "run"),
        "corpus": str(folder / "archive"),
        "backend": {"kind": "microworld", "strength": 0},
        "methods": {name: {"tokens": 9000} for name in METHODS},
        "gate": gate,
        "mix": {"replay_share": 0, "sequence_len": 512},
        "train": {"config": "microworld/full"},
    } | changes
    (folder / "smt.yaml").write_text(json.dumps(values))
    return RunFile.model_validate(values)


def generate(folder: Path, gate: list[str], backend: Any = None, shard: tuple[int, int] | None = None) -> Summary:
    backend = backend or Stubborn(0)
    return asyncio.run(generate_run(run_file(folder, gate), backend, shard=shard))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_archive(tmp_path)
    return tmp_path


def records(folder: Path, place: str = "run") -> list[dict[str, Any]]:
    return [row for name in METHODS for _, row in read_jsonl(folder / place / f"records/{name}.jsonl")]


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records, whose order is that in which their documents were done."""
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def unfaithful(folder: Path, rows: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Record -> the kinds of its findings, by a check of its own."""
    sources = {document.id: Source(document) for document in read_documents(folder / "archive")}
    found = {}
    for row in rows:
        findings = sources[row["doc_id"]].check(turns_of(row["text"], row["messages"])).findings
        found[row["id"]] = {finding.kind for finding in findings}
    return found


def test_what_passes_has_no_finding_and_the_rest_is_rejected_with_the_kinds(folder: Path) -> None:
    summary = generate(folder, KINDS)
    rows = records(folder)
    kinds = unfaithful(folder, rows)
    verdicts = read_verdicts(folder / "run", GATE)
    assert verdicts.keys() == {name for name, found in kinds.items() if found}
    for name, verdict in verdicts.items():
        assert set(verdict.reason.removeprefix("the document lacks ").replace("a ", "").split(" and ")) == kinds[name]
    for name, count in summary.methods.items():
        own = [row for row in rows if row["method"] == name]
        passed = [row for row in own if row["id"] not in verdicts]
        # What is rejected meets no budget.
        assert count.tokens == sum(row["tokens"] for row in passed)
        assert count.tokens > 0.95 * count.budget
        assert count.rejected == len(own) - len(passed)
        assert sum(count.asked_again.values()) >= sum(count.repaired.values()) > 0
    assert sum(count.rejected for count in summary.methods.values()) > 0
    assert "focal_rewrite: the gate rejected" in summary.text
    assert "focal_rewrite: replies asked again: a number in" in summary.text


def test_without_the_gate_more_records_have_findings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_archive(other)
    generate(folder, KINDS)
    generate(other, [])
    shares = []
    for each in (folder, other):
        kinds = unfaithful(each, records(each))
        shares.append(sum(bool(found) for found in kinds.values()) / len(kinds))
    assert shares[0] < shares[1]
    assert not rejects_path(other / "run").exists()


def test_run_again_through_the_gate_nothing_is_asked_twice_and_the_files_are_the_same(folder: Path) -> None:
    assert generate(folder, KINDS).asked > 0
    before, rejects = by_id(records(folder)), rejects_path(folder / "run").read_bytes()
    assert generate(folder, KINDS).asked == 0
    assert by_id(records(folder)) == before
    assert rejects_path(folder / "run").read_bytes() == rejects


def test_a_gate_on_a_run_that_is_paid_for_asks_only_what_it_objects_to_and_may_go_again(folder: Path) -> None:
    paid = generate(folder, []).asked
    before = by_id(records(folder))
    summary = generate(folder, ["number"])
    completions = stored(folder)
    again = [completion for completion in completions if AGAIN in completion.variables]
    assert again
    # What is rejected met a part of a budget, for which others were asked.
    assert summary.asked < 0.5 * paid
    assert {verdict.reason for verdict in read_verdicts(folder / "run").values()} == {"the document lacks a number"}
    assert generate(folder, []).asked == 0
    assert by_id(records(folder)) == before
    assert read_verdicts(folder / "run") == {}


def stored(folder: Path) -> list[Completion]:
    keys = {key for row in records(folder) for key in row["completions"]}
    return list(look_up(folder / "run", sorted(keys)).values())


def test_what_is_asked_again_follows_the_reply_and_names_what_the_document_lacks(folder: Path) -> None:
    generate(folder, KINDS)
    documents = {document.id: document for document in read_documents(folder / "archive")}
    found = [completion for completion in stored(folder) if AGAIN in completion.variables]
    for completion in found:
        variables = dict(completion.variables)
        again = variables.pop(AGAIN)
        document = documents[completion.doc_id]
        messages = messages_about(document, Prompts(), completion.prompt, completion.variables)
        assert messages[:2] == messages_about(document, Prompts(), completion.prompt, variables)
        assert [message["role"] for message in messages[2:]] == ["assistant", "user"]
        assert messages[2]["content"] == again["reply"]
        for said in again["said"]:
            assert f"- {said}\n" in messages[3]["content"]
            kind, _, words = said.partition(": ")
            assert kind in KINDS
            assert words in again["reply"]
    assert len({completion.prompt for completion in found}) == 2
    result = CliRunner().invoke(cli, ["show", str(folder / "smt.yaml"), "--method", "focal_rewrite", "--count", "500"])
    assert "Your reply says things that the document above does not say" in result.output
    assert "has changed since" not in result.output


def test_a_persons_word_holds_against_the_gates(folder: Path) -> None:
    generate(folder, KINDS)
    name, verdict = next(iter(read_verdicts(folder / "run").items()))
    add_verdicts(folder / "run", [Verdict(name, verdict.method, "keep")])
    generate(folder, KINDS)
    assert read_verdicts(folder / "run")[name].verdict == "keep"


def test_records_of_another_gate_are_not_mixed(folder: Path) -> None:
    generate(folder, [])
    run_file(folder, ["number"])
    result = CliRunner().invoke(cli, ["mix", str(folder / "smt.yaml")])
    assert isinstance(result.exception, BadInput)
    assert "made with the gate none, which is number now" in str(result.exception)


def test_the_gate_of_a_shard_takes_back_nothing_of_another_shard(folder: Path) -> None:
    for number in (1, 2):
        generate(folder, KINDS, shard=(number, 2))
    before = read_verdicts(folder / "run")
    first, second = ({row["id"] for row in records(folder, f"run/shards/{n}-of-2")} for n in (1, 2))
    assert before.keys() & first
    assert before.keys() & second
    generate(folder, [], shard=(1, 2))
    assert read_verdicts(folder / "run").keys() == before.keys() & second


def test_a_broken_verdict_is_told_before_anything_is_asked(folder: Path) -> None:
    (folder / "run").mkdir()
    rejects_path(folder / "run").write_text("{")
    with pytest.raises(BadInput, match=r"rejects\.jsonl, line 1"):
        generate(folder, KINDS)
    assert not (folder / "run/completions.sqlite").exists()


class Postpones(Stubborn):
    """Puts off what is asked again, as a batch endpoint does."""

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        if len(request.messages) > 2:
            raise Deferred
        return await super().complete(request, keep)


class Refuses(Stubborn):
    """Refuses what is asked again, as a server does where prompt, reply and objection do not fit its context."""

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        if len(request.messages) > 2:
            raise Refused("too long for the context")
        return await super().complete(request, keep)


def test_what_is_refused_when_asked_again_is_rejected_and_no_prompt_counts_as_given_up(folder: Path) -> None:
    summary = generate(folder, KINDS, Refuses(0))
    assert summary.refused > 0
    assert summary.given_up == 0
    assert summary.failures["too long for the context"] == summary.refused
    assert all(not count.repaired for count in summary.methods.values())
    kinds = unfaithful(folder, records(folder))
    assert read_verdicts(folder / "run", GATE).keys() == {name for name, found in kinds.items() if found}
    again = generate(folder, KINDS, Refuses(0))
    assert (again.asked, again.given_up) == (0, 0)


def test_where_what_is_asked_again_is_put_off_no_records_are_written_until_it_is_there(folder: Path) -> None:
    assert generate(folder, KINDS, Postpones(0)).deferred > 0
    assert not list((folder / "run/records").glob("*.jsonl"))
    assert generate(folder, KINDS).asked > 0
    assert read_verdicts(folder / "run")


TEXT = "The mill was built in 1816. It burned in 1850. Ada owned it."


class Told:
    """A method of two replies, of several texts each, which come from a table."""

    name = "told"

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        asks = [Ask(document, "told/step", {"number": n}, {}, r, lambda reply: reply.text) for n in range(2)]
        answers = await asyncio.gather(*map(complete, asks))
        return [
            Record("told", document.id, 0, r, index, 9, "told/step", "h", "m", {}, [answer.key], text)
            for answer in answers
            if answer is not None
            for index, text in enumerate(answer.value)
        ]


def play(replies: dict[str, list[str] | None]) -> tuple[Round, list[str]]:
    """A round whose replies are told by `0`, `1`, and of what is asked again by `0 again`, `1 again`."""
    asked = []

    async def complete(ask: Ask) -> Answer | None:
        key = f"{ask.variables['number']}{' again' if AGAIN in ask.variables else ''}"
        asked.append(key)
        texts = replies[key]
        return Answer(texts, key, 9, ask.prompt, "h", "m", {}) if texts is not None else None

    async def reply_of(key: str) -> str:
        return f"the reply {key}"

    document = Document("mill", "The mill", TEXT)
    found = asyncio.run(gated_round(document, Source(document), Told(), 0, complete, reply_of, Gate(["number"])))
    return found, sorted(asked)


GOOD, WRONG, OTHER = "It was built in 1816.", "It was built in 1817.", "It burned in 1851."


def texts(found: Round) -> list[str | None]:
    return [record.text for record in found.records]


def test_a_round_without_a_finding_is_taken_as_it_is() -> None:
    found, asked = play({"0": [GOOD], "1": [GOOD, "It burned in 1850."]})
    assert (len(found.records), found.rejected, found.asked, asked) == (3, {}, {}, ["0", "1"])


def test_a_better_reply_takes_the_place_of_all_records_of_the_first() -> None:
    found, asked = play({"0": [GOOD, WRONG], "1": [GOOD], "0 again": [GOOD, "It burned in 1850."]})
    assert texts(found) == [GOOD, "It burned in 1850.", GOOD]
    assert [record.completions[0] for record in found.records] == ["0 again", "0 again", "1"]
    assert found.rejected == {}
    assert (found.asked, found.repaired) == ({"number": 1}, {"number": 1})
    assert asked == ["0", "0 again", "1"]


@pytest.mark.parametrize("reply", [None, [WRONG], [OTHER], [GOOD], [GOOD, OTHER]])
def test_a_reply_that_is_no_better_is_not_taken_and_the_record_with_the_finding_is_rejected(
    reply: list[str] | None,
) -> None:
    found, asked = play({"0": [GOOD, WRONG], "1": [GOOD], "0 again": reply})
    assert texts(found) == [GOOD, WRONG, GOOD]
    assert found.rejected == {found.records[1].id: ("number",)}
    assert [record.text for record in found.passed] == [GOOD, GOOD]
    assert (found.asked, found.repaired) == ({"number": 1}, {})
    assert asked == ["0", "0 again", "1"]


def test_what_a_better_reply_still_says_wrongly_is_rejected() -> None:
    found, _ = play({"0": [WRONG], "1": [WRONG], "0 again": [GOOD, OTHER], "1 again": [WRONG]})
    assert texts(found) == [GOOD, OTHER, WRONG]
    assert [record.id in found.rejected for record in found.records] == [False, True, True]
    assert (found.asked, found.repaired) == ({"number": 2}, {"number": 1})


JUDGED = {"evaluate": {"benchmark": "microworld", "judge": {"kind": "microworld"}}}


class Judge(ScriptedBackend):
    """The microworld's judge; leaves out each verdict that `is_silent` says, and counts what it is asked."""

    def __init__(self, is_silent: Callable[[str], bool] = lambda claim: False) -> None:
        super().__init__(strength=1)
        self.model, self.asked, self.is_silent = "microworld", 0, is_silent

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        self.asked += 1
        rows = json.loads((await super().complete(request)).text)["verdicts"]
        claims = request.variables["claims"]
        rows = [row for row in rows if not self.is_silent(claims[row["number"] - 1])]
        reply = Reply(json.dumps({"verdicts": rows}), "stop", 100, 0, 100)
        if keep is not None:
            await keep(reply)
        return reply


def judged_run(folder: Path, judge: Judge, gate: Sequence[str] = ("judge",)) -> Summary:
    """Of a generator that lies, through a gate with a judge."""
    settings = run_file(folder, [*gate], backend={"kind": "microworld", "strength": 1, "error_rate": 0.1}, **JUDGED)
    return asyncio.run(generate_run(settings, ScriptedBackend(1, error_rate=0.1), judge=judge))


def lies(folder: Path, row: dict[str, Any]) -> bool:
    """Whether a record states a fact that its document does not."""
    (document,) = (each for each in read_documents(folder / "archive") if each.id == row["doc_id"])
    truth = [grammar.parse_statement(sentence) for sentence in grammar.sentences(document.text)]
    said = [row["text"]] if row["text"] else [turn["content"] for turn in row["messages"]]
    tails = [sentence.rpartition(": ")[2] for text in said for sentence in grammar.sentences(text)]
    return any(fact is not None and fact not in truth for fact in map(grammar.parse_statement, tails))


def test_through_a_judge_only_what_is_true_passes_and_it_is_asked_of_nothing_twice(folder: Path) -> None:
    judge = Judge()
    summary = judged_run(folder, judge)
    rows, rejected = records(folder), read_verdicts(folder / "run", GATE)
    assert {row["id"] for row in rows if lies(folder, row)} == rejected.keys()
    assert {verdict.reason for verdict in rejected.values()} == {"the judge calls a claim wrong"}
    for count in summary.methods.values():
        assert count.gate == ["judge microworld"]
        assert count.tokens > 0.95 * count.budget
        assert sum(count.repaired.values()) > 0
    assert summary.judge is not None
    assert summary.judge.asked == judge.asked > 0
    assert "focal_rewrite: replies asked again: by the judge in" in summary.text
    assert "the gate's judge: " in summary.text
    again = [completion for completion in stored(folder) if AGAIN in completion.variables]
    assert again
    assert all("(contradicted: " in said for completion in again for said in completion.variables[AGAIN]["said"])
    before = by_id(rows)
    judge.asked = 0
    assert judged_run(folder, judge).asked == 0
    assert judge.asked == 0
    assert by_id(records(folder)) == before


def test_what_the_gates_judge_has_said_an_audit_does_not_ask_again(folder: Path) -> None:
    judged_run(folder, Judge())
    result = CliRunner().invoke(cli, ["audit", str(folder / "smt.yaml"), "--records", "20"])
    assert result.exception is None, result.output
    found = json.loads((folder / "run/audit.json").read_text())
    assert [method["per_record"]["mean"] for method in found["methods"].values()] == [0, 0]
    # Only of copies with errors put in, and of the documents' own sentences.
    asked = [line for line in result.output.splitlines() if "reused" in line][-1]
    assert int(re.search(r"([\d,]+) reused", asked)[1].replace(",", "")) >= 40


def test_the_judge_is_asked_only_where_the_check_by_code_finds_nothing(folder: Path) -> None:
    alone, after = Judge(), Judge()
    judged_run(folder, alone)
    shutil.rmtree(folder / "run")
    summary = judged_run(folder, after, gate=["judge", *KINDS])
    assert 0 < after.asked < alone.asked
    assert sum("number" in count.asked_again for count in summary.methods.values())
    assert not any(lies(folder, row) for row in records(folder) if row["id"] not in read_verdicts(folder / "run"))


def test_records_on_which_the_judge_says_too_little_pass_and_are_counted_and_many_are_an_error(folder: Path) -> None:
    summary = judged_run(folder, Judge(lambda claim: not stable_draw(40, claim)))
    assert summary.judge is not None
    (told,) = summary.judge.losses.values()
    assert 0 < told < 0.2 * summary.judge.asked
    assert "times that the judge said nothing on some claim of a record, which passed" in summary.text
    shutil.rmtree(folder / "run")
    with pytest.raises(RuntimeError, match="the judge microworld gave no verdict on some claim of"):
        judged_run(folder, Judge(lambda claim: bool(stable_draw(2, claim))))
    assert not list((folder / "run/records").glob("*.jsonl"))


def test_a_gate_with_a_judge_needs_one_and_the_mix_tells_another_ones_records(folder: Path) -> None:
    with pytest.raises(ValidationError):
        run_file(folder, ["judge"])
    result = CliRunner().invoke(cli, ["generate", str(folder / "smt.yaml")])
    assert "gate: `judge` is among its kinds and the run file has no evaluate.judge" in str(result.exception)
    backend = {"kind": "microworld", "strength": 1, "error_rate": 0.1}
    run_file(folder, ["judge"], backend=backend, **JUDGED)
    result = CliRunner().invoke(cli, ["generate", str(folder / "smt.yaml")])
    assert result.exception is None, result.output
    run_file(folder, ["judge"], backend=backend, evaluate={"benchmark": "microworld", "judge": OTHER_JUDGE})
    result = CliRunner().invoke(cli, ["mix", str(folder / "smt.yaml")])
    assert "made with the gate judge microworld, which is judge other now" in str(result.exception)


OTHER_JUDGE = {"endpoint": "http://127.0.0.1:9/v1", "model": "other"}


def test_a_probe_leaves_the_judge_out_and_its_records_are_not_taken_for_judged_ones(folder: Path) -> None:
    run_file(folder, ["judge"], **JUDGED)
    result = CliRunner().invoke(cli, ["plan", str(folder / "smt.yaml"), "--probe", "60"])
    assert result.exception is None, result.output
    assert "The gate's judge is not among them" in result.output
    result = CliRunner().invoke(cli, ["mix", str(folder / "smt.yaml")])
    assert "made with the gate none, which is judge microworld now" in str(result.exception)


def test_a_judge_that_is_not_there_is_told_before_anything_is_asked(folder: Path) -> None:
    run_file(folder, ["judge"], evaluate={"benchmark": "microworld", "judge": OTHER_JUDGE | {"patience": 1}})
    result = CliRunner().invoke(cli, ["generate", str(folder / "smt.yaml")])
    assert str(result.exception).startswith("judge: ")
    assert "9/v1" in str(result.exception)
    assert look_up(folder / "run", ["00"]) == {}


def test_killed_while_it_puts_records_and_verdicts_in_place_it_ends_as_if_left_alone(folder: Path) -> None:
    run_file(folder, KINDS, methods={"focal_rewrite": {"tokens": 20_000}})
    run = folder / "run"
    modules = ["smt_plugin.cli.app", "smt_plugin.generation.generate"]
    with driver(run, modules, {"HOME": str(folder)}, folder) as smt:

        def state() -> tuple[Any, Any]:
            rows = {row["id"]: row for _, row in read_jsonl(run / "records/focal_rewrite.jsonl")}
            return rows, read_verdicts(run)

        changes = smt.smt("generate", "smt.yaml")["changes"]
        before = state()
        assert before[1]
        for kill_at in range(changes - 5, changes + 1):
            shutil.rmtree(run)
            assert smt.smt("generate", "smt.yaml", kill_at=kill_at)["status"] == -9
            assert smt.smt("generate", "smt.yaml")["status"] in (0, 1)
            assert state() == before
