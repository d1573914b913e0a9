import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.leaks import find_leaks
from smt_plugin.question import Question
from smt_plugin.report.answers import write_answers
from smt_plugin.report.report import table_of, write_report
from smt_plugin.report.results import RunResults, arm_results, faithfulness_of, leaks_text
from smt_plugin.report.sections import Section, accuracy, doubts, faithfulness, leaks, reading, scoring, sections_of
from smt_plugin.report.verdicts import verdicts
from tests.evaluation.test_leaks import pair, write_records
from tests.report.test_answers import questions_in

ARMS = ["base", "base_rag", "trained"]


def write_arm(run: Path, arm: str, questions: list[tuple[dict[str, Any], dict[str, Any]]], marker: str) -> None:
    """Write what lm-eval and `smt evaluate` leave of an arm: of each question its own fields and the answers' ones."""
    folder = run / "results" / arm / "model"
    folder.mkdir(parents=True)
    rows = [
        {"doc": {"question_id": f"q{n}", "doc_id": f"d{n // 2}", "identity": f"document {n // 2}"} | own} | answers
        for n, (own, answers) in enumerate(questions)
    ]
    (folder / "samples_x_2026.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder.parent / "arm.json").write_text(marker)


def finish_arm(run: Path, arm: str, accuracies: list[float]) -> None:
    """Write what is left of an arm: two questions a document."""
    own = {"options": [], "answer": -1, "gold": "Nobody"}
    questions = [
        (
            {"question": "Who won?" if n == 1 else "Where?"} | own,
            {"acc": accuracy, "unparsed": 0.25, "resps": [["The answer is (A)."] * 4]},
        )
        for n, accuracy in enumerate(accuracies)
    ]
    write_arm(run, arm, questions, "{}")


def finish_likelihood_arm(run: Path, arm: str, chosen: list[int]) -> None:
    """Write what is left of an arm by likelihood: two questions a document, the first of two options right."""
    own = {"question": "Where?", "options": ["Rome", "Oslo"], "answer": 0, "gold": "Rome"}
    questions = [
        (
            own,
            {
                "acc": float(option == 0),
                "acc_norm": 0.0,
                "resps": [[["-1.5" if option == 0 else "-9.5", "False"]], [["-3.0", "False"]]],
            },
        )
        for option in chosen
    ]
    write_arm(run, arm, questions, '{"tokens": {"questions": 24, "samples": 0, "prompts": 2400, "answers": 0}}')


def html_of(results: RunResults) -> str:
    return write_report(results, sections_of(results)).read_text()


def cell(section: Section, column: str, row: int = 0) -> str:
    return section.rows[row][list(section.columns).index(column)]


def test_arms_by_likelihood_are_compared_with_each_other_and_lead_where_they_come_first(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.0] * 24)
    finish_arm(tmp_path, "trained", [1.0] * 24)
    for arm, chosen in (("base_rag_ll", [1, 1, 0, 1]), ("base_full_ll", [0, 0, 0, 1]), ("trained_ll", [0, 0, 1, 1])):
        finish_likelihood_arm(tmp_path, arm, chosen * 6)
    names = ["base_rag_ll", "base_full_ll", "trained_ll", "base_rag", "trained"]
    results = RunResults(tmp_path, arm_results(tmp_path, names))
    rag, _, trained, _, sampled = results.arms
    assert (rag.name, trained.name) == ("base + RAG, by likelihood", "trained, closed-book, by likelihood")
    assert [arm.accuracy and arm.accuracy.mean for arm in results.arms] == [0.25, 0.75, 0.5, 0.0, 1.0]
    assert rag.difference is None
    assert (trained.difference and trained.difference.mean, sampled.difference and sampled.difference.mean) == (0.25, 1)
    assert trained.to_reading
    assert (trained.to_reading.mean, sampled.to_reading, trained.answer_tokens) == (-0.25, None, 0)
    table = accuracy(results)
    assert cell(table, "vs base + RAG, paired") == cell(table, "vs base + RAG, paired", 3) == "reference"
    said = [answer for verdict in verdicts(results) for answer in verdict.answers]
    assert [answer.partition(" (")[0] for answer in said] == [
        "Not shown: trained closed-book, by likelihood is 25.0 points above base + RAG, by likelihood",
        "Not asked: evaluate.arms has no trained_rag_ll.",
        "Below: trained closed-book, by likelihood is 25.0 points below base + full document, by likelihood",
    ]
    write_answers(results)
    shown = questions_in((tmp_path / "answers.html").read_text())[0]["answers"][2]
    assert shown == [{"text": "Rome", "read": "A", "state": "right"}]


def test_the_table_has_means_intervals_counts_and_paired_differences(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base", [0.0, 0.5, 0.25, 0.25, 0.5, 0.0] * 4)
    finish_arm(tmp_path, "base_rag", [0.5, 1.0, 0.75, 0.75, 1.0, 0.5] * 4)
    finish_arm(tmp_path, "trained", [1.0, 1.0, 0.75, 1.0, 1.0, 0.25] * 4)
    base, rag, trained = arm_results(tmp_path, ARMS)
    assert base.accuracy is not None
    assert base.difference is not None
    assert base.accuracy.mean == 0.25
    assert (base.accuracy.questions, base.accuracy.documents) == (24, 12)
    assert base.difference.mean == -0.5
    # That no variance was seen does not mean that there is none.
    assert base.difference.low < -0.5 < base.difference.high < 0
    assert rag.difference is None
    assert trained.difference is not None
    assert trained.difference.mean == pytest.approx(1 / 12)
    assert trained.difference.low < 0 < trained.difference.high
    assert cell(scoring(RunResults(tmp_path, [trained])), "questions (documents)") == "24 (12)"


def test_cut_prompts_and_answers_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 0.5, 0.25, 0.5])
    assert doubts(RunResults(tmp_path, arm_results(tmp_path, ["base_rag"]))) == []
    tokens = {"questions": 4, "samples": 16, "prompts": 400, "answers": 160, "cut": 3}
    (tmp_path / "results/base_rag/arm.json").write_text(json.dumps({"tokens": tokens}))
    (result,) = arm_results(tmp_path, ["base_rag"])
    cut, unparsed = doubts(RunResults(tmp_path, [replace(result, unparsed=0.75)]))
    assert cut.startswith("base + RAG: 3 of 4 prompts were longer than the model's context and lost their beginning")
    assert unparsed.startswith("base + RAG: 75% of the answers state none of the options")
    assert cut.split("'")[0] in html_of(RunResults(tmp_path, [result]))


def test_an_arm_that_was_not_run_or_not_finished_is_missing_and_never_0(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base", [0.0, 0.5, 0.25, 0.25])
    finish_arm(tmp_path, "trained", [0.0, 0.5, 0.25, 0.25])
    (tmp_path / "results" / "trained" / "arm.json").unlink()
    results = RunResults(tmp_path, arm_results(tmp_path, ARMS), {"run": "<b>x</b>"})
    assert results.missing == ["base_rag", "trained"]
    shown = accuracy(results)
    assert [row[1].split(" (")[0] for row in shown.rows] == ["25.0%", "missing", "missing"]
    assert cell(shown, "vs base + RAG, paired") == "no base + RAG"
    html = html_of(results)
    assert html.count('class="missing"') == 2
    assert "<svg" in html
    assert "&lt;b&gt;x" in html


def test_what_records_say_and_documents_do_not_is_added_up_over_shards_and_of_older_runs_not_told(
    tmp_path: Path,
) -> None:
    new = {
        "budget": 9,
        "records": 40,
        "checked": 40,
        "unfaithful": 3,
        "findings": {"number": 2, "name": 1},
        "unchecked": {},
    }
    for number, unchecked in enumerate(({}, {"names: the script has no capitals": 5}), start=1):
        folder = tmp_path / "shards" / f"{number}-of-2"
        (folder / "records").mkdir(parents=True)
        (folder / "records" / "wrap.jsonl").touch()
        methods = {"wrap": new | {"unchecked": unchecked}, "spa": {"budget": 9, "records": 7}}
        (folder / "generate.json").write_text(json.dumps({"methods": methods}))
    section = faithfulness(RunResults(tmp_path, [], faithfulness=faithfulness_of(tmp_path)))
    (row,) = section.rows
    assert row[:3] == ("wrap", "80 of 80", "6 (7.5%)")
    assert (cell(section, "a number"), cell(section, "a name"), cell(section, "a date")) == ("4", "2", "0")
    assert cell(section, "not compared") == "names: the script has no capitals (5)"


def test_arms_that_answered_different_questions_are_not_compared(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base", [0.0, 0.5, 0.25, 0.25])
    finish_arm(tmp_path, "base_rag", [0.0, 0.5, 0.25, 0.25, 1.0])
    with pytest.raises(BadInput, match="answered different questions"):
        arm_results(tmp_path, ARMS)


def test_a_run_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run `smt evaluate` first"):
        arm_results(tmp_path, ARMS)


def test_an_arm_of_one_document_has_no_verdict_and_one_of_none_is_refused_with_the_key_that_gives_more(
    tmp_path: Path,
) -> None:
    finish_arm(tmp_path, "base", [0.5, 1.0])
    results = RunResults(tmp_path, arm_results(tmp_path, ARMS))
    assert cell(accuracy(results), "accuracy") == "75.0% (too few documents)"
    assert "too few documents" in html_of(results)
    tuned = {"by": "recall", "chosen": {}, "held_out": ["d0"], "questions": 2, "tried": []}
    (tmp_path / "tune.json").write_text(json.dumps(tuned))
    with pytest.raises(
        BadInput, match=r"arm base answered no question but those about the 1 documents .* evaluate\.limit"
    ):
        arm_results(tmp_path, ARMS)


def test_leaks_give_a_second_headline_without_them_and_a_sentence(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 1.0, 0.75, 0.75, 1.0, 0.5])
    write_records(tmp_path, [pair("Who won?")])
    questions = [Question(f"q{n}", f"d{n // 2}", "Who won?" if n == 1 else "Where?", None, "x") for n in range(6)]
    find_leaks(tmp_path, [Document(f"d{n}", f"Story {n}", "x") for n in range(3)], questions)
    (result,) = arm_results(tmp_path, ["base_rag"])
    assert result.without_leaks is not None
    assert result.without_leaks.mean == pytest.approx(0.7)
    without = leaks(RunResults(tmp_path, [result]))
    assert cell(without, "without leaks").startswith("70.0% (")
    assert cell(without, "questions (documents)") == "5 (3)"
    assert "without leaks</th>" in html_of(RunResults(tmp_path, [result]))
    assert leaks_text(tmp_path).startswith(
        "1 of 6 evaluation questions (16.7%) are nearly asked (1), asked in other words (0)"
    )
    questions[3] = structs.replace(questions[3], question="Whither?")
    find_leaks(tmp_path, [Document(f"d{n}", f"Story {n}", "x") for n in range(3)], questions)
    with pytest.raises(BadInput, match="arm base_rag answered other questions than `smt leaks` looked for; run"):
        arm_results(tmp_path, ["base_rag"])
    write_records(tmp_path, [pair("Who lost?")])
    assert "run `smt leaks` again" in leaks_text(tmp_path)
    (result,) = arm_results(tmp_path, ["base_rag"])
    assert result.without_leaks is None
    assert "without leaks</th>" not in html_of(RunResults(tmp_path, [result]))


def test_samples_a_question_and_tokens_stand_in_the_table_and_missing_ones_are_said(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 1.0, 0.75, 0.75])
    shown = scoring(RunResults(tmp_path, arm_results(tmp_path, ["base_rag"])))
    assert cell(shown, "n") == "4"
    assert cell(shown, "tokens in / out") == "not known"
    tokens = {"questions": 4, "samples": 16, "prompts": 4800, "answers": 320}
    (tmp_path / "results" / "base_rag" / "arm.json").write_text(json.dumps({"tokens": tokens}))
    shown = scoring(RunResults(tmp_path, arm_results(tmp_path, ["base_rag"])))
    assert cell(shown, "tokens in / out") == "1,200 / 20"


def test_the_time_an_arm_took_is_read_from_lm_evals_own_file(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 1.0, 0.75, 0.75])
    folder = tmp_path / "results" / "base_rag" / "model"
    (folder / "results_2026.json").write_text('{"total_evaluation_time_seconds": "1234.5"}')
    assert cell(scoring(RunResults(tmp_path, arm_results(tmp_path, ["base_rag"]))), "seconds") == "1,234"


def printed(results: RunResults) -> list[str]:
    """The lines of all tables on a terminal of 80 columns, none of which is cut."""
    out = io.StringIO()
    Console(file=out, width=80).print(*(table_of(section, 80) for section in sections_of(results) if section.rows))
    assert "…" not in out.getvalue()
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    return lines


def test_the_tables_for_the_terminal_fit_80_columns_with_their_headings_whole(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base", [0.0, 0.5, 0.25, 0.25, 0.5, 0.0] * 4)
    finish_arm(tmp_path, "base_rag", [0.5, 1.0, 0.75, 0.75, 1.0, 0.5] * 4)
    lines = printed(RunResults(tmp_path, arm_results(tmp_path, [*ARMS, "trained_full"])))
    for words in ("vs base + RAG, paired", "unparsed", "tokens in / out", "seconds", "another seed"):
        assert sum(words in line for line in lines) == 1
    # One line an arm, also where it is missing.
    assert sum("-50.0 (-" in line and line.startswith("base, closed-book") for line in lines) == 1
    assert sum(line.startswith("trained + full document") and "missing" in line for line in lines) == 1


def test_long_names_on_a_terminal_break_the_headings_first_and_are_broken_only_where_that_is_not_enough(
    tmp_path: Path,
) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 1.0, 0.75, 0.75, 1.0, 0.5] * 4)
    finish_arm(tmp_path, "trained_full", [0.0, 0.5, 0.25, 0.25, 0.5, 0.0] * 4)
    rag, trained = arm_results(tmp_path, ["base_rag", "trained_full"])
    lines = printed(RunResults(tmp_path, [rag, replace(trained, arm="trained_full-10M")]))
    name = "trained on 10M + full document"
    assert sum(line.startswith(f"{name}  ") for line in lines) >= 2  # in the tables that have room for it
    assert any(line.startswith(name) and "24 (12)" in line and "25.0%" in line for line in lines)
    # The score's own table: the cells stay whole.
    assert sum("-50.0 (-" in line and "25.0% (" in line and "0.0" in line for line in lines) == 1


def test_a_section_of_ones_own_is_in_html_terminal_and_json_and_one_without_rows_is_in_json_only(
    tmp_path: Path,
) -> None:
    finish_arm(tmp_path, "base", [0.0, 0.5, 0.25, 0.25] * 4)
    results = RunResults(tmp_path, arm_results(tmp_path, ["base"]), {"run": "run"}, outdated=["base"])
    own = Section("Of <its> own", ("what", "much"), [("a", "1")], "Noted.", "Explained.", "<svg>x</svg>", {"own": [1]})
    html = write_report(results, [*sections_of(results), own]).read_text()
    for part in ("<h2>Of &lt;its&gt; own</h2>", "<figure><svg>x", "<th>much</th>", "<td>1</td>", "Noted. Explained."):
        assert part in html
    assert "What was forgotten" not in html
    report = json.loads((tmp_path / "report.json").read_text())
    assert [arm["arm"] for arm in report.pop("arms")] == ["base"]
    assert {"facts": {"run": "run"}, "outdated": ["base"], "retention": [], "own": [1]}.items() <= report.items()
    out = io.StringIO()
    Console(file=out, width=80).print(table_of(own, 80))
    assert out.getvalue().split() == ["Of", "<its>", "own", "what", "much", "─" * 11, "a", "1", "Noted."]


@pytest.mark.parametrize(
    ("name", "command"), [("leaks.json", "leaks"), ("tune.json", "tune"), ("results/base/arm.json", "evaluate")]
)
def test_a_broken_file_of_the_run_is_named_with_the_command_that_writes_it(
    tmp_path: Path, name: str, command: str
) -> None:
    finish_arm(tmp_path, "base", [0.0, 0.5, 0.5] * 4)
    (tmp_path / name).write_text("{")
    with pytest.raises(BadInput, match=rf"{name}: not valid JSON \(.*\); remove it and run `smt {command}` again"):
        arm_results(tmp_path, ARMS)
    (tmp_path / name).write_text("[]")
    with pytest.raises(
        BadInput, match=rf"{name}: expected `object`, got `array`; remove it and run `smt {command}` again"
    ):
        arm_results(tmp_path, ARMS)


def test_what_could_not_be_read_is_told_by_kind_and_accuracy_also_of_the_rest(tmp_path: Path) -> None:
    finish_arm(tmp_path, "base_rag", [0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    path = next((tmp_path / "results" / "base_rag").rglob("samples_*.jsonl"))
    rows = [json.loads(line) | {"unparsed": 0.25, "no_option": 0.125} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = reading(RunResults(tmp_path, arm_results(tmp_path, ["base_rag"]))).rows
    assert row == ("base + RAG", "12.5%", "12.5%", "50.0%", "66.7%")
