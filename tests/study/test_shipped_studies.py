import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.config import read_study_file
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import read_jsonl, write_jsonl
from smt_plugin.generation.generate import methods_of
from smt_plugin.microworld import archive, chronicle, tokenizer, world
from smt_plugin.study import run
from smt_plugin.study.cells import cells_of, configs_of
from smt_plugin.study.run import run_cells
from smt_plugin.training.smollm2 import ready_model
from tests.study.microworld_study import Commands

FOLDER = Path(__file__).parents[2] / "examples" / "studies"
STUDIES = sorted(path for path in FOLDER.glob("*.yaml") if "\nstudy: " in path.read_text())
WITHOUT_LAWS = ("faithfulness.yaml", "figure-7.yaml", "figure-7-smollm2.yaml", "mechanism-160K.yaml")
GENERATED_HERE = [path for path in STUDIES if path.name != "figure-7.yaml"]  # by the scripted backend


def prepare(folder: Path) -> None:
    """Put the studies into a folder, with what their comments say is made before them."""
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    archive.write(folder / "archive")
    archive.write(folder / "mechanism-archive", 21)
    archive.write(folder / "faithfulness-archive", 31)
    for seed in (1, 2):
        chronicle.write(folder / f"chronicle-{seed}", seed)
    for name in ("quality", "longhealth", "financebench"):
        document = Document(id="d", title="A document", text="The keeper wrote in the log each night. " * 100)
        write_jsonl(folder / name / "documents.jsonl", [document.to_json()])
    for size in ("small", "large"):
        tokenizer.build().save_pretrained(folder / "models" / size)


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder whose modules can be imported, as with PYTHONPATH=. there."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_study_can_be_planned_once_its_archive_is_there(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    enter(tmp_path, monkeypatch)
    study, run_file = read_study_file(tmp_path / path.name)
    result = CliRunner().invoke(cli, ["study", "plan", str(tmp_path / path.name)], catch_exceptions=False)
    assert result.exit_code == 0
    cells = cells_of(study, run_file)
    assert f"{len(cells)} cells, 0 of them done" in result.output
    # Of fewer there is no law.
    assert len(study.budgets) > 2 or path.name in WITHOUT_LAWS
    # What a mix at the largest budget takes of each method.
    for mix in study.mixes.values():
        for method in mix.shares.keys() - mix.sources.keys():
            assert methods_of(run_file)[method][1] >= max(study.budgets) * mix.shares[method] / sum(mix.shares.values())


def test_figure_7_asks_each_model_each_benchmarks_questions(tmp_path: Path) -> None:
    prepare(tmp_path)
    study, run_file = read_study_file(tmp_path / "figure-7.yaml")
    cells = cells_of(study, run_file)
    asked = {(cell.corpus, cell.target): cell.run_file.evaluate for cell in cells}
    assert len(cells) == len(asked) == 6
    assert all(evaluate is not None and evaluate.benchmark == corpus for (corpus, _), evaluate in asked.items())


def test_the_controls_rewrites_are_focused_on_the_next_documents_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    enter(tmp_path, monkeypatch)
    name = "other_questions:OtherQuestions"
    values = yaml.safe_load((tmp_path / "other-questions-run.yaml").read_text())
    values["methods"] = {"synthetic_qa": {"tokens": "20K"}, name: {"tokens": "20K", "corpus": "archive"}}
    values |= {"run": "run", "backend": {"kind": "microworld", "strength": 1}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(cli, ["generate", "small.yaml"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    titles = [document.title for document in world.documents()]
    next_title = dict(zip(titles, [*titles[1:], *titles[:1]], strict=True))
    documents = {document.id: document.title for document in world.documents()}
    rows = [row for _, row in read_jsonl(tmp_path / "run/records" / f"{name}.jsonl")]
    assert len({row["doc_id"] for row in rows}) > 20
    for row in rows:
        assert next_title[documents[row["doc_id"]]] in row["question"]
        assert documents[row["doc_id"]] in row["text"]


def test_models_that_are_to_be_pretrained_first_are_missed_before_anything_is_made(tmp_path: Path) -> None:
    prepare(tmp_path)
    shutil.rmtree(tmp_path / "models")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=r"model \./models/small: there is no such folder; make it first"):
        CliRunner().invoke(cli, ["study", "run", str(tmp_path / "figure-8.yaml")], catch_exceptions=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_other_domain_has_no_name_of_the_archive() -> None:
    said = (FOLDER / "other-domain.yaml").read_text()
    seed = int(said.split("--seed ")[1].split()[0])
    names = {document.title for document in chronicle.documents(seed)}
    assert names.isdisjoint(document.title for document in world.documents())


@pytest.mark.slow
@pytest.mark.parametrize("path", GENERATED_HERE, ids=lambda path: path.name)
def test_no_source_of_a_study_runs_dry(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and mixes are made, trainings and answers are not."""
    prepare(tmp_path)
    enter(tmp_path, monkeypatch)
    if path.name == "figure-5.yaml":
        chronicle.write(tmp_path / "chronicle", 183)
        generated = CliRunner().invoke(cli, ["generate", "other-domain.yaml"], catch_exceptions=False)
        assert generated.exit_code == 0, generated.output
    if path.name == "figure-7-smollm2.yaml":
        ready_model()
    study, run_file = read_study_file(tmp_path / path.name)
    monkeypatch.setattr(run, "run_command", Commands(lambda folder, arm: [0.25, 0.5, 0.75, 0.5] * 3))
    configs = configs_of(study, run_file)
    assert run_cells(study, cells_of(study, run_file), configs, lambda line: None) == {}
