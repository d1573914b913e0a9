from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.evaluation.audit import Judged
from smt_plugin.evaluation.audit_results import Audit, found_by, is_outdated, read_audit, write_audit
from smt_plugin.evaluation.audit_sample import Drawn, Sampled, record_hashes
from smt_plugin.faithfulness.verdicts import Verdict
from smt_plugin.prompts import Prompts
from smt_plugin.report.report import page
from smt_plugin.report.results import RunResults
from smt_plugin.report.sections import audit_section, audited, judge_itself, judge_section
from tests.evaluation.test_audit_sample import write_records

FILES = {"records/wrap.jsonl": "0" * 64}


def judged(doc_id: str, of_document: int, verdicts: list[str], tokens: int = 10, number: int = 0) -> Judged:
    """A record with as many claims as verdicts, each twice as long as the one before it; "" is none."""
    claims = tuple("x" * 2**n for n in range(len(verdicts)))
    record = Sampled("wrap", f"{doc_id}.{number}", doc_id, 0, tokens, claims, of_document, 16_000, None)
    told = {n: Verdict(verdict, "") for n, verdict in enumerate(verdicts, start=1) if verdict}
    return Judged(doc_id, 0, claims, record, verdicts=told)


def audit_of(texts: list[Judged], files: dict[str, str] | None = None) -> Audit:
    sample = [text.record for text in texts if text.record]
    drawn = {"wrap": Drawn(1000, len({text.doc_id for text in texts}), sample)}
    return found_by(texts, drawn, 300, "a-judge", Prompts(), files or FILES)


def test_what_was_drawn_counts_for_the_records_of_its_document_that_were_not() -> None:
    texts = [judged(f"d{n}", 10, ["supported"]) for n in range(9)]
    # Of the largest document two of 90 records were drawn, one of them in error.
    texts += [judged("large", 90, ["supported"], number=1), judged("large", 90, ["contradicted"], number=2)]
    found = audit_of(texts).methods["wrap"].per_record
    assert found is not None
    assert found.mean == pytest.approx(45 / 180)
    assert (found.questions, found.documents) == (11, 10)
    # Half of all records are those of one document, which says as much as few.
    assert found.effective_documents == pytest.approx(180**2 / (9 * 10**2 + 90**2))
    assert found.refusal is not None


def test_claims_and_tokens_in_error_are_shares_of_all_that_stand_in_the_records() -> None:
    texts = [judged(f"d{n}", 1, ["supported", "supported", "no_claim"], tokens=70) for n in range(8)]
    texts += [judged("d8", 1, ["not_in_document", "supported", "contradicted"], tokens=700)]
    found = audit_of(texts).methods["wrap"]
    assert found.per_record is not None
    assert found.per_claim is not None
    assert found.per_token is not None
    assert found.per_record.mean == pytest.approx(1 / 9)
    assert found.per_claim.mean == pytest.approx(2 / (8 * 2 + 3))
    # One and four of seven signs, of the longest record.
    assert found.per_token.mean == pytest.approx(700 * 5 / 7 / (8 * 70 + 700))
    assert found.claims == 19


def test_a_record_of_which_a_claim_has_no_verdict_is_in_no_estimate() -> None:
    texts = [judged(f"d{n}", 2, ["supported"]) for n in range(8)]
    texts += [judged("d0", 2, ["contradicted", ""], number=1)]
    found = audit_of(texts).methods["wrap"]
    assert found.per_record is not None
    assert (found.per_record.mean, found.per_record.questions, found.left_out) == (0, 8, 1)
    nothing = audit_of([judged("d0", 1, ["", ""])]).methods["wrap"]
    assert (nothing.per_record, nothing.per_claim, nothing.per_token, nothing.left_out) == (None, None, None, 1)
    # A record that claims nothing has no error, and is no claim.
    silent = audit_of([judged("d0", 1, [])]).methods["wrap"]
    assert silent.per_record is not None
    assert (silent.per_record.mean, silent.per_claim) == (0, None)


def test_what_false_alarms_alone_would_do_to_records_of_many_claims_is_told() -> None:
    texts = [judged(f"d{n}", 1, ["supported"] * (8 if n % 2 else 1)) for n in range(8)]
    own = [Judged(f"d{n}", 0, ("a", "b", "c", "d")) for n in range(5)]
    for n, text in enumerate(own):
        text.verdicts = {number: Verdict("supported", "") for number in range(1, 5)}
        if n == 0:
            text.verdicts |= {1: Verdict("contradicted", ""), 2: Verdict("not_in_document", "")}
    audit = audit_of(texts + own)
    (probe,) = audit.judge
    assert (probe.called_wrong.mean, probe.called_wrong.questions) == (0.1, 20)
    assert audit.methods["wrap"].by_alarms == pytest.approx((0.1 + 1 - 0.9**8) / 2)
    (row,) = audited(RunResults(Path(), [], audit=audit)).rows
    assert row[3] == "33.5%"


def probed(before: str, changed: str, own: str, count: int = 12) -> Audit:
    """An audit whose judge says the same of every record, of every copy with an error, and of every sentence."""
    texts = []
    for n in range(count):
        record = judged(f"d{n}", 1, [before])
        texts += [record, replace(record, changed=(1, "number"), verdicts={1: Verdict(changed, "")})]
        texts.append(Judged(f"d{n}", 0, ("It is so.",), verdicts={1: Verdict(own, "")}))
    return audit_of(texts)


def test_a_judge_who_judges_nothing_is_named_with_the_rates_that_say_nothing() -> None:
    # As SmolLM2 135M does, which writes the form of the reply and no verdict of its own.
    idle = probed("no_claim", "no_claim", "no_claim")
    assert idle.methods["wrap"].per_record is not None
    assert idle.methods["wrap"].per_record.mean == 0
    assert idle.borne_out is not None
    assert (idle.borne_out.mean, idle.borne_out.questions) == (0, 12)
    note = audit_section(idle).note
    assert "An error could be put into no claim that it called supported" in note
    assert note.endswith("these rates say nothing of the records.")
    assert "Of these it calls 0.0% (" in judge_section(idle).note
    blind = probed("supported", "supported", "supported")
    assert "It is not shown to tell errors from right sentences: these rates say nothing" in audit_section(blind).note
    severe = probed("supported", "contradicted", "contradicted")
    assert severe.doubt == blind.doubt


def test_a_judge_who_finds_errors_and_lets_right_sentences_pass_is_not_doubted() -> None:
    good = probed("supported", "contradicted", "supported")
    assert (good.doubt, "say nothing" in audit_section(good).note) == ("", False)
    assert "Of these it calls 100.0% (" in judge_section(good).note


def test_the_report_shows_an_audit_and_says_when_the_records_have_changed_since(tmp_path: Path) -> None:
    assert (audited(RunResults(tmp_path, [])).rows, judge_itself(RunResults(tmp_path, [])).rows) == ((), ())
    path = write_records(tmp_path, "wrap", [{"doc_id": f"d{n}", "text": "A."} for n in range(8)])
    texts = [judged(f"d{n}", 1, ["contradicted" if n == 0 else "supported"]) for n in range(8)]
    write_audit(tmp_path, audit_of(texts, record_hashes(tmp_path, ["wrap"])), texts)
    audit = read_audit(tmp_path)
    assert audit is not None
    assert not is_outdated(tmp_path, audit)
    results = RunResults(tmp_path, [], audit=audit)
    (row,) = audited(results).rows
    assert row[:2] == ("wrap", "8 (8) of 1,000")
    assert row[2].startswith("12.5% (")
    assert judge_itself(results).rows == []
    html = page("t", "h", {}, [audited(results), judge_itself(results)], [])
    assert "Faithfulness, judged" in html
    assert "12.5% (" in html
    assert audited(results).data == {"audit": audit}
    path.write_text(path.read_text() + "\n")
    assert is_outdated(tmp_path, audit)
    path.unlink()
    assert is_outdated(tmp_path, audit)
    assert "have changed since: run `smt audit` again" in audited(replace(results, audit_outdated=True)).note


@pytest.mark.parametrize("broken", ["{", "[]", '{"model": "m"}'])
def test_a_broken_audit_is_named_with_what_to_do(tmp_path: Path, broken: str) -> None:
    (tmp_path / "audit.json").write_text(broken)
    with pytest.raises(BadInput, match=r"audit\.json: .*; remove it and run `smt audit` again"):
        read_audit(tmp_path)


def test_an_audit_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    texts: list[Any] = [judged(f"d{n}", 3, ["supported", "contradicted"]) for n in range(6)]
    written = audit_of(texts)
    write_audit(tmp_path, written, texts)
    assert read_audit(tmp_path) == written
