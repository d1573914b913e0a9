"""Records that were made from what is no longer so, and what `smt mix` does about them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from smt_plugin.cli.app import cli
from smt_plugin.config import read_run_file
from smt_plugin.errors import BadInput
from smt_plugin.generation.stale import Stale, stale_records
from smt_plugin.microworld import archive

METHODS = ("synthetic_qa", "focal_rewrite")
RUN_FILE: dict[str, Any] = {
    "run": "run",
    "corpus": "archive",
    "backend": {"kind": "microworld"},
    "methods": {name: {"tokens": 6000} for name in METHODS},
    "mix": {"replay_share": 0, "sequence_len": 512},
    "train": {"config": "microworld/full"},
}


def run(folder: Path, *words: str, **changes: Any) -> Result:
    """Run a command whose errors are raised, on the run file with some keys changed."""
    (folder / "smt.yaml").write_text(json.dumps(RUN_FILE | changes))
    result = CliRunner().invoke(cli, [words[0], str(folder / "smt.yaml"), *words[1:]])
    if isinstance(result.exception, BadInput):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    archive.write(folder / "archive")
    assert run(folder, "generate").exit_code == 0
    return folder


@pytest.fixture
def folder(generated: Path, tmp_path: Path) -> Path:
    """A run with records, on which nothing has changed."""
    return Path(shutil.copytree(generated, tmp_path / "folder"))


def compare(folder: Path, **changes: Any) -> Stale:
    (folder / "smt.yaml").write_text(json.dumps(RUN_FILE | changes))
    return stale_records(read_run_file(folder / "smt.yaml"), METHODS)


def change_documents(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = folder / "archive" / "documents.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def records(folder: Path, method: str = "synthetic_qa") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "records" / f"{method}.jsonl").read_text().splitlines()]


def edit_records(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    for method in METHODS:
        rows = records(folder, method)
        for row in rows:
            edit(row)
        path = folder / "run" / "records" / f"{method}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_records_of_what_has_not_changed_fit(folder: Path) -> None:
    methods = {name: {"tokens": 300} for name in METHODS}
    # Another order, another budget, a default written out, other keys of documents: nothing that was asked.
    methods["synthetic_qa"]["pairs_per_call"] = 8
    change_documents(folder, lambda rows: (rows.reverse(), [row.update(source="elsewhere") for row in rows]))
    assert compare(folder, methods=methods) == Stale()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": {n: {"tokens": 6000, "temperature": 0.5} for n in METHODS}}, "temperature 1.0, which is 0.5 now"),
        ({"methods": {n: {"tokens": 6000, "max_tokens": 999} for n in METHODS}}, "max_tokens 2048, which is 999 now"),
        ({"methods": {n: {"tokens": 6000, "seed": 1} for n in METHODS}}, "seed None, which is 1 now"),
        ({"backend": {"kind": "microworld", "strength": 0.5}}, "by the model 'microworld-scripted-0.9', and the run f"),
        ({"backend": {"endpoints": ["http://h/v1"], "model": "other"}}, "has 'other'"),
        ({"language": "German"}, "made by another prompt synthetic_qa/pairs.jinja, system text or language"),
    ],
)
def test_another_model_option_or_prompt_leaves_no_record_that_fits(
    folder: Path, changes: dict[str, Any], says: str
) -> None:
    found = compare(folder, **changes)
    total = len(records(folder))
    assert f"synthetic_qa: {total} of {total} records no longer fit ({total} made" in found.hopeless[0]
    assert says in found.hopeless[0]
    assert len(found.hopeless) == 2
    for flag in ([], ["--drop-stale"]):
        with pytest.raises(BadInput, match=r"set back what was changed, or run `smt generate .*smt\.yaml`"):
            run(folder, "mix", *flag, **changes)
    assert not (folder / "run" / "mix").exists()


def test_an_option_or_a_prompt_that_a_method_only_draws_on_counts_for_it_and_not_for_others(folder: Path) -> None:
    methods = {"synthetic_qa": {"tokens": 6000, "pairs_per_call": 5}, "focal_rewrite": {"tokens": 6000}}
    assert "synthetic_qa.pairs_per_call 8, which is 5 now" in compare(folder, methods=methods).hopeless[1]
    own = folder / "own" / "active_reading" / "strategies.jinja"
    own.parent.mkdir(parents=True)
    own.write_text("Propose study strategies for <document>{{ document }}</document> of {{ identity }}.")
    (found,) = compare(folder, prompts="own").hopeless
    assert found.startswith("focal_rewrite: ")
    assert "made by another prompt active_reading/strategies.jinja" in found


def test_a_removed_and_a_changed_document_are_named_with_counts_refused_and_left_out_when_told(folder: Path) -> None:
    ids = list(dict.fromkeys(row["doc_id"] for row in records(folder)))
    removed, changed, renamed = ids[0], ids[1], ids[2]

    def change(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["doc_id"] != removed]
        for row in rows:
            row["text"] += " It was so." if row["doc_id"] == changed else ""
            row["meta"] |= {"identity": "the other one"} if row["doc_id"] == renamed else {}

    change_documents(folder, change)
    left = [row["doc_id"] for row in records(folder)]
    with pytest.raises(BadInput, match="--drop-stale") as raised:
        run(folder, "mix")
    sentence = raised.value.sentences[0]
    assert f"{sum(map(left.count, (removed, changed, renamed)))} of {len(left)} records no longer fit" in sentence
    assert f"({left.count(removed)} because its document is not in the corpus any more: {removed!r};" in sentence
    assert f" because its document has changed, or its parts: {changed!r} and 1 more)" in sentence
    assert not (folder / "run" / "mix").exists()

    result = run(folder, "mix", "--drop-stale")
    assert result.exit_code == 0, result.output
    rows = [*records(folder), *records(folder, "focal_rewrite")]
    stale = {row["id"] for row in rows if row["doc_id"] in (removed, changed, renamed)}
    assert f"{len(stale)} records no longer fit and are left out" in result.output
    dropped = [json.loads(line) for line in (folder / "run" / "mix" / "dropped.jsonl").read_text().splitlines()]
    assert {row["id"] for row in dropped if "its document" in row["reason"]} == stale
    run(folder, "generate")
    assert compare(folder) == Stale()


def test_documents_that_are_split_otherwise_have_changed(folder: Path) -> None:
    found = compare(folder, max_document_tokens=40)
    assert "its document has changed, or its parts" in " ".join(found.hopeless + found.problems)


def test_a_corpus_that_is_not_here_is_told_and_the_mix_goes_on(folder: Path) -> None:
    shutil.rmtree(folder / "archive")
    result = run(folder, "mix")
    assert result.exit_code == 0, result.output
    assert "archive is not here, so it is not known whether documents have changed" in result.output


def test_a_run_of_an_older_version_is_told_of_once_mixed_and_made_whole_for_nothing(folder: Path) -> None:
    def written() -> dict[str, list[dict[str, Any]]]:
        return {method: sorted(records(folder, method), key=lambda row: str(row["id"])) for method in METHODS}

    before = written()
    edit_records(folder, lambda row: row.pop("document_hash"))
    path = folder / "run" / "generate.json"
    counts = orjson.loads(path.read_bytes())
    for method in counts["methods"].values():
        for key in ("options", "prompts", "is_whole"):
            del method[key]
    path.write_bytes(orjson.dumps(counts))
    result = run(folder, "mix")
    assert result.exit_code == 0, result.output
    assert result.output.count("(synthetic_qa, focal_rewrite) do not say from which text or with which options") == 1
    # What they do say counts.
    change_documents(folder, lambda rows: rows.pop())
    assert compare(folder, backend={"kind": "microworld", "strength": 0.5}).hopeless
    shutil.rmtree(folder / "archive")
    archive.write(folder / "archive")
    assert "0 completions asked" in run(folder, "generate").output
    assert written() == before
    assert compare(folder) == Stale()


def test_records_written_by_hand_fit(folder: Path) -> None:
    edit_records(folder, lambda row: [row.pop(key) for key in set(row) - {"messages", "text"}])
    found = compare(folder)
    assert (found.drop, found.problems, found.hopeless) == ({}, [], [])


def test_a_method_whose_package_is_not_here_is_told_and_compared_no_further(folder: Path) -> None:
    name = "no_such_package.module:Method"
    path = folder / "run" / "records" / f"{name}.jsonl"
    path.write_text((folder / "run" / "records" / "synthetic_qa.jsonl").read_text())
    generate = folder / "run" / "generate.json"
    counts = orjson.loads(generate.read_bytes())
    counts["methods"][name] = counts["methods"]["synthetic_qa"]
    generate.write_bytes(orjson.dumps(counts))
    (folder / "smt.yaml").write_text(json.dumps(RUN_FILE | {"methods": RUN_FILE["methods"] | {name: {"tokens": 9}}}))
    found = stale_records(read_run_file(folder / "smt.yaml"), [name, "synthetic_qa"])
    assert (found.drop, found.problems, found.hopeless) == ({}, [], [])
    assert found.notes == [
        f"{name}: it is not known whether its options or prompts have changed: method {name!r} cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_package'."
    ]


def test_a_mix_that_ends_before_its_config_leaves_no_config_of_the_earlier_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **options: object) -> Path:
        raise RuntimeError("killed")

    config, manifest = folder / "run" / "axolotl.yaml", folder / "run" / "mix" / "manifest.json"
    assert run(folder, "mix").exit_code == 0
    before = orjson.loads(manifest.read_bytes())["content_hash"]
    other = {"mix": {"replay_share": 0, "sequence_len": 64}}
    with monkeypatch.context() as patch:
        patch.setattr("smt_plugin.training.axolotl_config.write_axolotl_config", killed)
        assert isinstance(run(folder, "mix", **other).exception, RuntimeError)
    content = orjson.loads(manifest.read_bytes())["content_hash"]
    assert content != before
    assert not config.exists()
    run(folder, "mix", **other)
    assert f"prepared/{content[:16]}" in config.read_text()
