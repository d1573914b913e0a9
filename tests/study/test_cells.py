from pathlib import Path

import pytest
import yaml

from smt_plugin.cli.command import read_run
from smt_plugin.errors import BadInput
from smt_plugin.study.cells import of_each, path_of, write_cell, write_run_file
from tests.study.microworld_study import RUN_FILE, STUDY_FILE, write_study

MANY = (
    STUDY_FILE
    + """\
generators:
  weak: {kind: microworld, strength: 0.3}
  strong: {kind: microworld, strength: 1}
targets:
  slow: {config: microworld/full}
  fast: {config: microworld/full}
seeds: [1, 2, 3]
"""
)


def test_a_cell_is_one_mix_at_one_budget_and_named_by_what_varies(tmp_path: Path) -> None:
    _, cells = write_study(tmp_path)
    assert [cell.name for cell in cells] == ["questions.2K", "questions.4K", "mixed.2K", "mixed.4K"]
    _, cells = write_study(tmp_path, MANY)
    assert len(cells) == 2 * 2 * 2 * 3 * 2
    assert cells[0].name == "weak.slow.questions.seed1.2K"
    assert len({cell.run_file.run for cell in cells}) == len(cells)


def test_what_cells_have_in_common_is_made_in_one_place(tmp_path: Path) -> None:
    _, cells = write_study(tmp_path, MANY)
    names = [[run.run.name for run in of_each(cells, shared)] for shared in (
        lambda cell: cell.generated, lambda cell: cell.mixed, lambda cell: cell.base)]  # fmt: skip
    # Both targets train the same model, so they share mixes and base arms, too.
    assert names == [
        ["weak", "strong"],
        ["weak.slow.questions", "weak.slow.mixed", "strong.slow.questions", "strong.slow.mixed"],
        ["slow"],
    ]


def test_records_are_the_same_run_for_all_targets_and_of_the_methods_that_mixes_take_alone(tmp_path: Path) -> None:
    study = MANY.replace("fast: {config: microworld/full}", "fast: {config: qwen3-8b/full}")
    run_file = RUN_FILE.replace(
        "  active_reading", "  wrap: {tokens: 12K}\n  focal_rewrite: {tokens: 12K}\n  active_reading"
    )
    run_file = run_file.replace("synthetic_qa: {tokens: 12K", "synthetic_qa: {tokens: 12K, pairs_per_call: 3")
    _, cells = write_study(tmp_path, study, run_file)
    assert len({cell.generated.run for cell in cells}) == len({repr(cell.generated) for cell in cells}) == 2
    assert list(cells[0].generated.methods) == ["synthetic_qa", "active_reading"]
    # What a method takes over from another one's options stays where that one is not generated.
    focal = STUDY_FILE.replace("{shares: {synthetic_qa: 1}}", "{shares: {focal_rewrite: 1}}").partition("  mixed")[0]
    _, cells = write_study(tmp_path, focal + "budgets: [2K]\n", run_file)
    assert list(cells[0].generated.methods) == ["focal_rewrite"]
    assert cells[0].generated.methods["focal_rewrite"]["synthetic_qa"] == {"pairs_per_call": 3}


def test_targets_of_other_models_have_base_arms_and_mixes_of_their_own(tmp_path: Path) -> None:
    study = STUDY_FILE + "targets: {small: {config: microworld/full}, large: {config: qwen3-8b/full}}\n"
    _, cells = write_study(tmp_path, study)
    assert [run.run.name for run in of_each(cells, lambda cell: cell.base)] == ["small", "large"]
    assert len(of_each(cells, lambda cell: cell.mixed)) == 4


def test_every_run_file_of_a_study_is_one_that_the_other_commands_take(tmp_path: Path) -> None:
    _, cells = write_study(tmp_path, MANY)
    cell = cells[-1]
    for shared in (cell.generated, cell.mixed, cell.base):
        assert read_run(write_run_file(shared)).run == shared.run
    written = read_run(write_cell(cell, "microworld/full"))
    assert path_of(written) == path_of(cell.run_file)
    assert written.mix.tokens == 4000
    assert written.mix.sources["synthetic_qa"] == cell.generated.run / "records" / "synthetic_qa.jsonl"
    assert written.backend.model_dump() == {
        "kind": "microworld",
        "strength": 1,
        "question_coverage": 1,
        "error_rate": 0,
    }
    assert yaml.safe_load(Path(written.train.config).read_text())["seed"] == 3


def test_a_generator_may_have_a_gate_of_its_own_and_else_has_the_run_files(tmp_path: Path) -> None:
    generators = "generators:\n  open: {kind: microworld, gate: []}\n  closed: {kind: microworld, gate: [judge]}\n"
    generators += "  other: {kind: microworld}\n"
    run_file = "gate: [number]\n" + RUN_FILE.replace("arms:", "judge: {kind: microworld}, arms:")
    _, cells = write_study(tmp_path, STUDY_FILE + generators, run_file)
    gates = {cell.generator: [cell.run_file.gate, cell.generated.gate, cell.mixed.gate] for cell in cells}
    assert gates == {"open": [[]] * 3, "closed": [["judge"]] * 3, "other": [["number"]] * 3}
    with pytest.raises(BadInput, match=r"generators.closed.gate: the run file .* has no evaluate.judge"):
        write_study(tmp_path, STUDY_FILE + generators)
    with pytest.raises(BadInput, match=r"generators.closed.gate.0: Input should be"):
        write_study(tmp_path, STUDY_FILE + generators.replace("[judge]", "[judges]"), run_file)


def test_a_mix_may_be_made_of_some_generators_alone(tmp_path: Path) -> None:
    study = MANY.replace("synthetic_qa: 1}}", "synthetic_qa: 1}, generators: [strong]}", 1)
    _, cells = write_study(tmp_path, study)
    made = {(cell.mix, cell.generator) for cell in cells}
    assert made == {("questions", "strong"), ("mixed", "weak"), ("mixed", "strong")}
    with pytest.raises(BadInput, match=r"mixes.questions.generators: stronger is none of `generators`"):
        write_study(tmp_path, study.replace("[strong]", "[stronger]"))


def test_without_seeds_the_seed_is_that_of_the_config(tmp_path: Path) -> None:
    _, cells = write_study(tmp_path)
    written = read_run(write_cell(cells[0], "microworld/full"))
    assert yaml.safe_load(Path(written.train.config).read_text())["seed"] == 42


def test_a_corpus_brings_its_questions(tmp_path: Path) -> None:
    study = STUDY_FILE + "corpora: {a: {corpus: archive}, b: {corpus: archive, data: other}}\n"
    _, cells = write_study(tmp_path, study)
    data = {cell.corpus: cell.run_file.evaluate and cell.run_file.evaluate.data for cell in cells}
    assert data == {"a": tmp_path / "archive", "b": tmp_path / "other"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("budgets:", "seed: 1\nbudgets:"), "seed: unknown key"),
        (("synthetic_qa: 1", "synthetic: 1"), "mixes.questions.shares: synthetic is none of the methods"),
        (("synthetic_qa: 1", "replay: 1"), "mixes.questions.shares: `replay` has a key of its own"),
        (("synthetic_qa: 1", "synthetic_qa: -1"), "mixes.questions.shares.synthetic_qa: Input should be greater"),
        (("[2K, 4K]", "[2K, 2000]"), "budgets: one of them is given twice"),
        (("[2K, 4K]", "[]"), "budgets: List should have at least 1 item"),
        (("  mixed:", "  a/b:"), "mixes.a/b"),
        (("  mixed:", "  Questions:"), "mixes: questions and Questions would be one folder where case does not count"),
        (("study: study", f"study: {'s' * 99}/{'t' * 99}/{'u' * 99}"), "this path is too long for lm-eval"),
        (("run_file: run.yaml", "run_file: none.yaml"), "none.yaml does not exist"),
    ],
)
def test_what_is_wrong_in_a_study_file_is_named(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(BadInput) as error:
        write_study(tmp_path, STUDY_FILE.replace(*change))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("arms: [base_rag, traind]", "unknown arm 'traind'"),
        ("arms: [base_rag]", "a study trains models; add `trained`"),
        ("arms: [trained], model_args: 'token=hf_abcdefghijklmnopqrst'", "evaluate: it holds what looks like a secret"),
    ],
)
def test_a_run_file_that_cannot_be_that_of_a_study_is_refused(tmp_path: Path, change: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        write_study(tmp_path, run_file=RUN_FILE.replace("arms: [base_rag, trained]", change))
    with pytest.raises(BadInput, match="evaluate: this key is missing"):
        write_study(tmp_path, run_file=RUN_FILE[: RUN_FILE.index("evaluate")])


def test_a_corpus_may_have_a_benchmark_of_its_own_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    corpora = "corpora:\n  one: {corpus: archive}\n  two: {corpus: archive, benchmark: BENCHMARK}\n"
    _, cells = write_study(tmp_path, STUDY_FILE + corpora.replace("BENCHMARK", "chronicle"))
    asked = {cell.corpus: cell.run_file.evaluate for cell in cells}
    assert (asked["one"].benchmark, asked["one"].data) == ("microworld", tmp_path / "archive")
    assert (asked["two"].benchmark, asked["two"].data) == ("chronicle", None)
    with pytest.raises(BadInput, match=r"corpora.two.benchmark: unknown benchmark 'chronicles'; choose one of: "):
        write_study(tmp_path, STUDY_FILE + corpora.replace("BENCHMARK", "chronicles"))
