import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smt_plugin.benchmarks.find import held_out, load
from smt_plugin.cli.app import cli
from smt_plugin.config import EvaluateSection, RetrievalSettings, RunFile
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.lm_eval_link import dataset
from smt_plugin.evaluation.tune import Grid, Trial, default_grid, read_tuned, tune
from smt_plugin.report.results import arm_results, run_facts
from tests.endpoint import MODEL, serve_in_thread
from tests.quality_data import QUESTIONS, write_own
from tests.report.test_report import finish_arm


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def section(tmp_path: Path, **settings: Any) -> EvaluateSection:
    return EvaluateSection(benchmark="corpus", data=write_own(tmp_path / "data"), **settings)


def test_the_held_out_documents_are_the_first_fifth_by_title(tmp_path: Path) -> None:
    documents, _ = load("corpus", write_own(tmp_path / "data"))
    # Glass Harvest comes before Nine Kites, The Late Ferry and The Salt Clock.
    assert held_out(documents) == ["50003"]
    assert held_out(documents * 5) == ["50003"] * 4


def test_the_tuning_split_asks_about_these_documents_alone_and_searches_all(tmp_path: Path) -> None:
    data = str(section(tmp_path).data)
    rows = dataset("corpus", "rag", data=data, retrieval={"mode": "bm25", "top_k": 4}, split="tuning")["test"]
    assert rows["doc_id"][:] == ["50003", "50003"]
    assert {len(passages) for passages in rows["passages"][:]} == {4}
    with pytest.raises(BadInput, match="unknown split 'test'"):
        dataset("corpus", "rag", data=data, retrieval={"mode": "bm25"}, split="test")


def test_best_last_turns_the_chunks_round_from_settings_and_from_a_file(tmp_path: Path) -> None:
    data = str(section(tmp_path).data)
    first = dataset("corpus", "rag", data=data, retrieval={"mode": "bm25"})["test"]["passages"][:]
    last = dataset("corpus", "rag", data=data, retrieval={"mode": "bm25", "order": "best_last"})["test"]["passages"][:]
    assert last == [passages[::-1] for passages in first]
    assert last != first
    # One file serves both.
    assert len(list((tmp_path / "cache").rglob("corpus-*.jsonl"))) == 1
    path = tmp_path / "r.jsonl"
    arguments = ["retrieve", "corpus", "--data", data, "--set", "mode=bm25", "--set", "order=best_last"]
    CliRunner().invoke(cli, [*arguments, "--output", str(path)])
    assert dataset("corpus", "rag", data=data, retrieval=str(path))["test"]["passages"][:] == last


def test_by_recall_the_size_with_the_highest_recall_is_chosen_and_k_and_order_stay(tmp_path: Path) -> None:
    settings = section(tmp_path, retrieval={"mode": "bm25", "top_k": 1, "overlap_tokens": 0, "name_document": False})
    tuned = tune(tmp_path / "run", settings, "none", "recall", Grid((40, 60)))
    assert tuned == read_tuned(tmp_path / "run")
    assert [trial["chunk_tokens"] for trial in tuned["tried"]] == [40, 60]
    assert {trial["accuracy"] for trial in tuned["tried"]} == {None}
    best = max(tuned["tried"], key=lambda trial: trial["recall"])
    assert tuned["chosen"] == {"chunk_tokens": best["chunk_tokens"], "top_k": 1, "order": "best_first"}
    assert (tuned["held_out"], tuned["questions"]) == (["50003"], 2)
    few = settings.model_copy(update={"retrieval": settings.retrieval | {"candidates": 2}})
    chosen = tune(tmp_path / "few", few, "none", "recall", Grid((40,), (4,)))["chosen"]
    assert chosen == {"chunk_tokens": 40, "top_k": 4, "order": "best_first", "candidates": 4}
    # With all chunks of a document there, recall ties, and what is set stays.
    tied = settings.model_copy(update={"retrieval": settings.retrieval | {"top_k": 50, "chunk_tokens": 60}})
    result = tune(tmp_path / "tied", tied, "none", "recall", Grid((40, 60)))
    assert {trial["recall"] for trial in result["tried"]} == {1.0}
    assert result["chosen"]["chunk_tokens"] == 60
    with pytest.raises(BadInput, match="unknown way to tune 'luck'"):
        tune(tmp_path / "run", settings, "none", "luck")


def test_rerankers_and_their_depth_are_tried_with_the_best_chunks_and_ties_go_to_the_cheaper(tmp_path: Path) -> None:
    def prefers_the_mule(prompt: str, count: str) -> str:
        passages = prompt.split("<passage number=")[1:]
        return next((str(number) for number, text in enumerate(passages, 1) if "mule" in text), "1")

    plain = {"mode": "bm25", "top_k": 1, "overlap_tokens": 0, "name_document": False, "chunk_tokens": 24}
    with serve_in_thread(prefers_the_mule) as server:
        settings = section(tmp_path, retrieval=plain | {"reranker": MODEL, "reranker_endpoint": server.url})
        grid = Grid((24,), reranker=("", MODEL), candidates=(1, 4, 6))
        tuned = tune(tmp_path / "run", settings, "none", "recall", grid)
        # Only the held-out documents' two questions are looked up, and reranked.
        assert len(server.bodies) == 2 * 4
    tried = [(trial["reranker"], trial["candidates"]) for trial in tuned["tried"]]
    assert tried == [(MODEL, 128), ("", 128), (MODEL, 1), (MODEL, 4), (MODEL, 6)]
    assert {trial["recall_of"] for trial in tuned["tried"]} == {"passages"}
    # Its order loses one of the two questions' passages; the best of one is what was found.
    assert [trial["recall"] for trial in tuned["tried"]] == [0.5, 1.0, 1.0, 0.5, 0.5]
    chosen = {"chunk_tokens": 24, "top_k": 1, "order": "best_first"}
    assert tuned["chosen"] == chosen | {"reranker": "", "reranker_endpoint": ""}
    # Where all are as good, what is set stays, and nothing is reranked where nothing is set.
    with serve_in_thread(lambda prompt, count: "1") as server:
        settings = section(tmp_path, retrieval=plain | {"reranker": MODEL, "reranker_endpoint": server.url})
        assert tune(tmp_path / "tied", settings, "none", "recall", grid)["chosen"] == chosen
    unset = section(tmp_path, retrieval=plain)
    assert tune(tmp_path / "unset", unset, "none", "recall", Grid((24,)))["chosen"] == chosen


def test_the_command_says_which_chosen_settings_the_run_file_overrules(tmp_path: Path) -> None:
    section(tmp_path)
    run_file = tmp_path / "smt.yaml"
    run_file.write_text(
        "run: run\ncorpus: data\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n"
        "evaluate: {benchmark: corpus, data: data, retrieval: {mode: bm25, chunk_tokens: 60, overlap_tokens: 0}}\n"
    )
    said = CliRunner().invoke(cli, ["tune", str(run_file), "--by", "recall", "--chunk-tokens", "40"]).output
    assert "chosen by recall on 2 questions about 1 documents" in said
    assert "the run file sets chunk_tokens, and that stays: remove it there to use what was chosen" in said


def test_a_base_model_that_is_here_is_tried_as_a_reranker_unless_one_is_set() -> None:
    assert default_grid(RetrievalSettings(), "accuracy", "model").reranker == ("", "model")
    assert default_grid(RetrievalSettings(), "accuracy", "model").candidates == (16, 64)
    assert default_grid(RetrievalSettings(), "accuracy").reranker == ("",)
    assert default_grid(RetrievalSettings(), "recall", "model").reranker == ("",)
    assert default_grid(RetrievalSettings(reranker="other"), "accuracy", "model").reranker == ("", "other")


def test_a_trial_says_what_its_recall_is_of_and_that_a_proxy_is_one() -> None:
    trial = Trial(200, 8, "best_first", "", 128, 0.5, "passages", None)
    assert trial.text == "8 chunks of 200 tokens, best_first: recall of likely passages (a proxy) 50.0%"
    trial = Trial(200, 8, "best_first", "m", 64, 0.5, "pages", 0.25)
    assert (
        trial.text == "8 chunks of 200 tokens, best_first, the best of 64 by m: recall of pages 50.0%, accuracy 25.0%"
    )


def test_nothing_is_tuned_where_fewer_than_two_documents_would_be_left_for_the_report(tmp_path: Path) -> None:
    settings = section(tmp_path, retrieval={"mode": "bm25"}, limit=2)
    with pytest.raises(BadInput, match=r"of the others 1 would be left .*the 2 of evaluate\.limit.*; raise or"):
        tune(tmp_path / "run", settings, "none", "recall")
    own = section(tmp_path).data
    assert own is not None
    for name in ("documents", "questions"):
        lines = (own / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (own / f"{name}.jsonl").write_text("".join(line for line in lines if "50001" in line))
    alone = EvaluateSection(benchmark="corpus", data=own, retrieval={"mode": "bm25"})
    with pytest.raises(BadInput, match=r"holds out 1 document\(s\) \(50001\), and of the others 0 would be left with"):
        tune(tmp_path / "run", alone, "none", "recall")
    assert not (tmp_path / "run").exists()


def test_by_accuracy_a_model_that_reads_the_last_passage_gets_the_best_one_last(tmp_path: Path) -> None:
    letters = {row[0]: "ABCD"[row[2] - 1] for asked in QUESTIONS for row in asked}

    def reads_the_last(prompt: str, count: str) -> str:
        (letter,) = (letter for question, letter in letters.items() if question in prompt)
        last = prompt.split("<document>")[-1].split("</document>")[0]
        return f"{count}: the answer is ({letter if 'Glass Harvest' in last else 'ABCD'['ABCD'.index(letter) - 1]})."

    with serve_in_thread(reads_the_last) as server:
        arguments = f"base_url={server.url}/chat/completions,num_concurrent=4,max_retries=1,tokenizer_backend=None"
        settings = section(
            tmp_path, model="local-chat-completions", model_args=arguments, batch_size="1", retrieval={"mode": "bm25"}
        )
        grid = Grid((60,), (2,), ("best_first", "best_last"))
        tuned = tune(tmp_path / "run", settings, MODEL, grid=grid)
        assert len(server.bodies) == 2 * 2 * 8
        assert tune(tmp_path / "run", settings, MODEL, grid=grid) == tuned
        assert len(server.bodies) == 2 * 2 * 8
    assert [trial["accuracy"] for trial in tuned["tried"]] == [0.0, 1.0]
    assert tuned["chosen"]["order"] == "best_last"
    run_file = tmp_path / "smt.yaml"
    run_file.write_text(
        "run: run\ncorpus: data\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 1K}}\n"
        "evaluate: {benchmark: corpus, data: data, arms: [base_rag], retrieval: {mode: bm25, top_k: 3}}\n"
    )
    result = CliRunner().invoke(cli, ["evaluate", str(run_file), "--dry-run"])
    # What the run file says counts, and that it differs from what was tuned is said.
    assert result.stderr == "evaluate.retrieval.top_k of the run file is 3, and counts; `smt tune` chose 2\n"
    said = result.stdout
    retrieval = json.loads(said.split("--metadata ")[1].split("'")[1])["retrieval"]
    assert retrieval == {"chunk_tokens": 60, "top_k": 3, "order": "best_last", "mode": "bm25"}


def test_the_documents_that_were_tuned_on_leave_the_headline_of_every_arm_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    for arm in ("base", "base_rag"):
        finish_arm(tmp_path, arm, [1.0, 1.0, 0.0, 0.5, 0.5, 0.0])
    (tmp_path / "tune.json").write_text(
        json.dumps({"by": "recall", "chosen": {"top_k": 4}, "held_out": ["d0"], "questions": 2, "tried": []})
    )
    for result in arm_results(tmp_path, ["base", "base_rag"]):
        assert result.accuracy is not None
        assert (result.accuracy.mean, result.accuracy.questions, result.accuracy.documents) == (0.25, 4, 2)
    run_file = RunFile.model_validate(
        {"run": tmp_path, "corpus": tmp_path, "backend": {"kind": "microworld"}, "methods": {"synthetic_qa": {}}}
    )
    assert (
        "on 2 questions about 1 documents (the first fifth by title), which left all numbers below"
        in (run_facts(run_file)["retrieval"])
    )
