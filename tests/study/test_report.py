import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.study import run
from smt_plugin.study.figures import scaling_figure
from smt_plugin.study.report import crossing_text, sections_of, write_report
from smt_plugin.study.results import Law, StudyResults, Value, read_study
from smt_plugin.study.run import run_cells
from smt_plugin.training.shipped import read_config
from tests.report.test_report import finish_arm
from tests.study.microworld_study import CONFIGS, RUN_FILE, STUDY_FILE, Commands, write_study

THREE = STUDY_FILE.replace("[2K, 4K]", "[1K, 2K, 4K]")
EXPECTED = {"questions": (0.3, 0.35, 0.4), "mixed": (0.3, 0.45, 0.6)}


def accuracies(name: str, expected: float) -> list[float]:
    """Two questions each of 30 documents, drawn by the run's name."""
    rng = np.random.default_rng(sum(map(ord, name)))
    return [float(each) for each in rng.binomial(8, expected, 60) / 8]


def finish(folder: Path, study: str = THREE, without: str = "") -> StudyResults:
    """A study whose answers are made up: each mix has its own slope, and base + RAG 45 %."""
    settings, cells = write_study(folder, study)
    for cell in cells:
        place = sorted({other.budget for other in cells}).index(cell.budget)
        if cell.name != without:
            answers = accuracies(cell.name, EXPECTED[cell.mix][place])
            finish_arm(cell.run_file.run, "trained", answers)
    finish_arm(cells[0].base.run, "base_rag", accuracies("base", 0.45))
    return read_study(settings.study, cells)


def test_known_slopes_crossings_and_their_difference_are_found(tmp_path: Path) -> None:
    results = finish(tmp_path)
    questions, mixed = results.curves
    assert questions.law is not None
    assert mixed.law is not None
    assert questions.law.slope.low < 0.05 < questions.law.slope.high
    assert mixed.law.slope.low < 0.15 < mixed.law.slope.high
    assert mixed.law.crossing == pytest.approx(2000, rel=0.25)
    assert not questions.law.crossing
    (compared,) = results.slopes
    assert (compared.curve, compared.other) == ("mixed", "questions")
    assert compared.difference.low < 0.1 < compared.difference.high
    assert compared.holm < 0.05


def test_accuracies_are_compared_at_the_largest_budget_also_where_there_is_no_law(tmp_path: Path) -> None:
    results = finish(tmp_path, STUDY_FILE + "seeds: [1, 2, 3]\n")
    assert [curve.law for curve in results.curves] == [None, None]
    (compared,) = results.largest
    assert (compared.curve, compared.other) == ("mixed", "questions")
    assert compared.difference.low < EXPECTED["mixed"][1] - EXPECTED["questions"][1] < compared.difference.high
    questions, mixed = results.curves
    assert compared.difference.mean == pytest.approx(mixed.means[4000].mean - questions.means[4000].mean)
    done = [each.mean for each in mixed.points[4000]]
    assert mixed.means[4000].mean == pytest.approx(np.mean(done))
    assert mixed.above[4000].mean == pytest.approx(np.mean(done) - np.mean(accuracies("base", 0.45)))
    page = write_report(results, sections_of(results)).read_text()
    assert "Accuracies compared at 4K tokens, paired" in page
    assert "Means over the trainings" in page


def test_with_one_training_a_cell_no_means_are_shown_beside_the_cells(tmp_path: Path) -> None:
    results = finish(tmp_path)
    assert len(results.largest) == 1
    assert "Means over the trainings" not in write_report(results, sections_of(results)).read_text()


def test_a_curve_with_a_missing_cell_names_it_and_has_no_line(tmp_path: Path) -> None:
    results = finish(tmp_path, without="mixed.2K")
    assert results.missing == ["mixed.2K"]
    questions, mixed = results.curves
    assert questions.law is not None
    assert mixed.law is None
    assert mixed.no_law == "1 of 3 cells are missing"
    assert results.slopes == results.largest == []
    assert lines_in(scaling_figure([questions], None)) == 1
    assert lines_in(scaling_figure([mixed], None)) == 0
    page = write_report(results, sections_of(results)).read_text()
    assert "missing: mixed.2K" in page
    assert "no law: 1 of 3 cells are missing" in page


def lines_in(picture: str) -> int:
    """How many curves have a law, whose bands alone are filled areas in a picture."""
    return picture.count('id="FillBetweenPolyCollection_') or picture.count('id="PolyCollection_')


def test_two_budgets_draw_no_law(tmp_path: Path) -> None:
    results = finish(tmp_path, STUDY_FILE)
    assert [curve.no_law for curve in results.curves] == ["2 budgets; a law takes 3"] * 2
    assert lines_in(scaling_figure(results.curves, None)) == 0
    assert results.slopes == []


def test_one_training_a_cell_is_told_and_several_are_counted(tmp_path: Path) -> None:
    one, three = finish(tmp_path / "one"), finish(tmp_path / "three", THREE + "seeds: [1, 2, 3]\n")
    assert "the variance of training is left out" in write_report(one, sections_of(one)).read_text()
    page = write_report(three, sections_of(three)).read_text()
    assert "left out of all intervals" not in page
    assert "3 trainings a cell: the intervals of laws and means hold the variance of training" in page
    assert [curve.seeds for curve in three.curves] == [3, 3]
    said = "<!-- one training each: the variance of training is left out -->"
    pictures = [scaling_figure(results.curves, None) for results in (one, three)]
    assert [said in picture for picture in pictures] == [True, False]


def test_the_report_is_page_figure_tables_and_json(tmp_path: Path) -> None:
    results = finish(tmp_path)
    write_report(results, sections_of(results))
    folder = results.study
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "cells.csv",
        "figure-trained.svg",
        "laws.csv",
        "report.html",
        "report.json",
    ]
    cells = list(csv.DictReader((folder / "cells.csv").open()))
    assert [row["cell"] for row in cells][:2] == ["questions.1K", "questions.2K"]
    assert float(cells[0]["accuracy"]) == pytest.approx(np.mean(accuracies("questions.1K", 0.3)))
    assert cells[0]["questions"] == "60"
    law_rows = list(csv.DictReader((folder / "laws.csv").open()))
    data = json.loads((folder / "report.json").read_text())
    assert float(law_rows[1]["slope"]) == data["curves"][1]["law"]["slope"]["mean"]
    assert law_rows[1]["no_law"] == ""
    assert data["missing"] == []
    assert (folder / "figure-trained.svg").read_text().startswith("<svg")


def test_the_same_results_give_the_same_files_byte_by_byte(tmp_path: Path) -> None:
    results = finish(tmp_path)
    contents = []
    for _ in range(2):
        write_report(results, sections_of(results))
        contents.append({path.name: path.read_bytes() for path in results.study.iterdir() if path.is_file()})
    assert contents[0] == contents[1]


def test_each_arm_and_corpus_has_a_figure_of_its_own(tmp_path: Path) -> None:
    settings, cells = write_study(
        tmp_path,
        STUDY_FILE + "corpora: {a: {corpus: archive}, b: {corpus: archive}}\n",
        RUN_FILE.replace("trained]", "trained, trained_rag]"),
    )
    for cell in cells:
        for arm in cell.arms:
            finish_arm(cell.run_file.run, arm, accuracies(cell.name + arm, 0.4))
    results = read_study(settings.study, cells)
    write_report(results, sections_of(results))
    assert sorted(path.name for path in settings.study.glob("*.svg")) == [
        f"figure-{corpus}.{arm}.svg" for corpus in "ab" for arm in ("trained", "trained_rag")
    ]
    assert all(result.difference is None for result in results.cells)


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((12_345.0, 10_000.0, 15_678.0, True), "12K (10K to 16K)"),
        ((12_345.0, None, None, True), "12K (below the range to beyond the range)"),
        ((None, 10_000.0, None, True), "not in the range (10K to beyond the range)"),
        ((None, None, None, False), "not in the range"),
        ((None, None, None, None), "no base + RAG"),
    ],
)
def test_a_crossing_is_said_with_its_interval(
    ends: tuple[float | None, float | None, float | None, bool | None], text: str
) -> None:
    value = Value(0.0, 0.0, 0.0, 1.0)
    assert crossing_text(Law(value, value, {}, *ends)) == text


def test_the_commands_plan_run_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, cells = write_study(tmp_path, THREE)
    study_file = str(tmp_path / "study.yaml")
    planned = CliRunner().invoke(cli, ["study", "plan", study_file], catch_exceptions=False)
    assert planned.exit_code == 0
    assert "6 cells, 0 of them done" in planned.output
    assert "generated/run  for 6 cells" in planned.output
    # 6 weights x 5 epochs x the tokens of all cells with a tenth of replay.
    tokens = 2 * 7000 / 0.9 * 5
    assert f"6 trainings on {tokens:,.0f} tokens" in planned.output
    assert not settings.study.exists()
    commands = Commands(lambda folder, arm: accuracies(folder.name, 0.4))
    monkeypatch.setattr(run, "run_command", commands)
    ran = CliRunner().invoke(cli, ["study", "run", study_file, "--cell", "2/3"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert [each for each in commands.said if each.startswith("axolotl")] == [
        "axolotl train cells/questions.4K",
        "axolotl train cells/mixed.1K",
    ]
    reported = CliRunner().invoke(cli, ["study", "report", study_file], catch_exceptions=False)
    assert reported.exit_code == 1
    left = "questions.1K, questions.2K, mixed.2K, mixed.4K"
    assert f"missing cells, or made by other settings: {left}; run" in reported.output
    assert run_cells(settings, cells, CONFIGS, lambda line: None) == {}
    reported = CliRunner().invoke(cli, ["study", "report", study_file], catch_exceptions=False)
    assert reported.exit_code == 0, reported.output
    assert re.search(r"questions +[-+]\d", reported.output)
    ran = CliRunner().invoke(cli, ["study", "run", study_file, "--cell", "4/3"])
    assert ran.exit_code == 2
    # Answers of another learning rate are no answers of this study, and no line goes through them.
    config = read_config("microworld/full") | {"learning_rate": 1e-5}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run.yaml").write_text(RUN_FILE.replace("microworld/full", "config.yaml"))
    ran = CliRunner().invoke(cli, ["study", "run", study_file, "--cell", "1/2"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    reported = CliRunner().invoke(cli, ["study", "report", study_file], catch_exceptions=False)
    assert reported.exit_code == 1
    assert "missing cells, or made by other settings: mixed.1K, mixed.2K, mixed.4K; run" in reported.output


def test_arms_by_likelihood_are_compared_with_base_and_rag_by_likelihood(tmp_path: Path) -> None:
    arms = "arms: [base_rag, base_rag_ll, trained, trained_ll]"
    settings, cells = write_study(tmp_path, THREE, RUN_FILE.replace("arms: [base_rag, trained]", arms))
    for cell in cells:
        finish_arm(cell.run_file.run, "trained", accuracies(cell.name, 0.4))
        finish_arm(cell.run_file.run, "trained_ll", accuracies(cell.name, 0.4))
    finish_arm(cells[0].base.run, "base_rag", [0.25] * 60)
    finish_arm(cells[0].base.run, "base_rag_ll", [0.75] * 60)
    results = read_study(settings.study, cells)
    assert {group: round(found.mean, 2) for group, found in results.reference.items()} == {
        "trained": 0.25,
        "trained_ll": 0.75,
    }
    signs = {(result.arm, result.difference.mean > 0) for result in results.cells if result.difference}
    assert signs == {("trained", True), ("trained_ll", False)}
    above = {curve.group: curve.above[1000].mean > 0 for curve in results.curves}
    assert above == {"trained": True, "trained_ll": False}


def test_a_plan_counts_the_epochs_of_the_arguments_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    gated = RUN_FILE.replace("{kind: microworld}", "{kind: microworld}\ngate: [number]")
    gated += "price: {gpus: 8, gpu_hour: 2.5}\n"
    write_study(tmp_path, THREE + "train_arguments: [--num-epochs=1, --max-steps, '9']\n", gated)
    planned = CliRunner().invoke(cli, ["study", "plan", str(tmp_path / "study.yaml")], catch_exceptions=False)
    assert planned.exit_code == 0, planned.output
    assert f"6 trainings on {2 * 7000 / 0.9:,.0f} tokens" in planned.output
    assert "What the gate will ask again is not among them" in planned.output
    assert "the GPUs' price is left out where no speed is known" in planned.output
    assert "A training that max_steps ends is reckoned by its epochs all the same" in planned.output
