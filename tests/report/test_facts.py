"""The facts of the report: of a real lm_eval run through real servers, and of what other runs leave."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from smt_plugin.config import read_run_file
from smt_plugin.corpus import Document
from smt_plugin.evaluation.arms import ready_arms
from smt_plugin.evaluation.audit_results import write_audit
from smt_plugin.evaluation.evaluate import evaluate
from smt_plugin.question import Question, write_data
from smt_plugin.report.answers import write_answers
from smt_plugin.report.facts import arm_facts
from smt_plugin.report.results import RunResults, read_results
from smt_plugin.training.trainings import Training
from tests.endpoint import MODEL, serve_in_thread
from tests.evaluation.test_audit_results import audit_of, judged
from tests.report.test_answers import index_in, questions_in

DOCUMENTS = [
    Document("clock", "The Salt Clock", "The clock on the pier ran on salt. Mirel wound it each night."),
    Document("kites", "Nine Kites", "Oru flew nine kites over the mill. The red one tore in the wind."),
]
QUESTIONS = [
    Question("fuel", "clock", "What did the clock run on?", ["Sand", "Salt", "Steam", "Springs"], 1),
    Question("torn", "kites", "Which kite tore?", ["The blue", "The red"], 1),
    Question("winder", "clock", "Who wound the clock?", None, "Mirel"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunResults]:
    """Base + RAG, asked through a server, one question judged by another; the trained model is not there."""
    folder = tmp_path_factory.mktemp("facts")
    write_data(folder / "corpus", DOCUMENTS, QUESTIONS)
    given = itertools.cycle(["It is salt. The answer is (B).", "The answer is: Mirel", "Who can say?"])
    judge = serve_in_thread(lambda prompt, count: "VERDICT: " + ("CORRECT" if ">\nMirel" in prompt else "WRONG"))
    with pytest.MonkeyPatch.context() as patch, serve_in_thread(lambda *_: next(given)) as server, judge as judging:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        settings: dict[str, Any] = {
            "run": "run",
            "corpus": "corpus",
            "backend": {"kind": "microworld"},
            "methods": {"synthetic_qa": {"tokens": "1K"}},
            "train": {"base_model": MODEL},
            "evaluate": {
                "benchmark": "corpus",
                "data": "corpus",
                "arms": ["base_rag", "trained_rag"],
                "model": "local-chat-completions",
                "model_args": f"base_url={server.url}/chat/completions,num_concurrent=1,tokenizer_backend=None",
                "batch_size": "1",
                "retrieval": {"mode": "bm25", "top_k": 2, "order": "best_last"},
                "judge": {"endpoint": judging.url, "model": MODEL},
            },
        }
        (folder / "smt.yaml").write_text(yaml.safe_dump(settings))
        run_file = read_run_file(folder / "smt.yaml")
        assert run_file.evaluate
        arms, _ = ready_arms(run_file.run, run_file.evaluate, MODEL, [Training(run_file.run)])
        evaluate(arms, lambda _: None)
        texts = [judged("clock", 1, ["supported"])]
        write_audit(run_file.run, audit_of(texts), texts)
        yield read_results(run_file, run_file.evaluate, [])


def test_an_audit_belongs_to_the_results_with_whether_its_records_are_still_there(results: RunResults) -> None:
    assert results.audit is not None
    assert (results.audit.model, results.audit_outdated) == ("a-judge", True)


def test_the_report_says_what_the_answers_were_made_with(results: RunResults) -> None:
    facts = results.facts
    assert facts["base model"] == f"{MODEL}, asked through lm-eval's local-chat-completions"
    assert facts["trained model"].startswith("not ready: there is no trained model in ")
    settings = facts["retrieval settings"]
    for words in ("mode bm25", "top_k 2", "order best_last", "chunk_tokens 200", "embedding gt_all", "reranker none"):
        assert words in settings
    assert facts["retrieval recall"].startswith("document recall@1 100.0%, document recall@2 100.0%")
    assert facts["sampling"] == "8 answers a question, temperature 0.7, top_p 0.95, at most 1,024 tokens"
    assert facts["judge"].startswith(f"{MODEL} at 127.0.0.1:")
    assert facts["chance level"] == "37.5%, guessing among the options; 1 free-form questions have none"
    assert facts["seeds"] == "mix not known, training not known, lm-eval 0, none sent to the server"
    assert facts["lm-eval"].startswith("0.4.")
    assert facts["lm-eval"].endswith(", tasks of version 3.1")


def test_what_was_read_in_each_answer_comes_from_lm_evals_own_file(results: RunResults) -> None:
    html = write_answers(results).read_text()
    questions = {question["id"]: question for question in questions_in(html)}
    assert questions.keys() == {"fuel", "torn", "winder"}
    answers = [answer for question in questions.values() for answer in question["answers"][0]]
    said = {answer["text"]: set() for answer in answers}
    for answer in questions["fuel"]["answers"][0] + questions["torn"]["answers"][0]:
        said[answer["text"]].add((answer["read"], answer["state"]))
    assert said["It is salt. The answer is (B)."] == {("B", "right")}
    assert said["Who can say?"] == {(None, "nothing")}
    judged = {(answer["text"][:12], answer["read"], answer["state"]) for answer in questions["winder"]["answers"][0]}
    assert ("The answer i", "Mirel", "right") in judged
    assert ("Who can say?", None, "nothing") in judged
    assert [arm["arm"] for arm in index_in(html)["arms"]] == ["base_rag"]
    assert "Without results yet: trained + RAG." in html


def leave(run: Path, arm: str, summary: dict[str, Any] | None = None, **marker: Any) -> None:
    """Write what `smt evaluate` and lm-eval leave of an arm beside its samples."""
    folder = run / "results" / arm
    folder.mkdir(parents=True)
    (folder / "arm.json").write_text(json.dumps(marker))
    if summary is not None:
        (folder / "results_2026.json").write_text(json.dumps(summary))


def test_what_no_file_of_the_run_says_is_said_to_be_unknown(tmp_path: Path) -> None:
    leave(tmp_path, "base_rag")
    leave(tmp_path, "trained", {})
    facts = arm_facts(tmp_path, ["base_rag", "trained"], [Training(tmp_path)], 0.25, 0)
    assert facts == {
        "base model": "not known",
        "trained model": facts["trained model"],
        "retrieval settings": "not known: these answers were given before it was noted",
        "retrieval recall": "not known",
        "sampling": "not known",
        "judge": "none: every question has options, and code reads the answers",
        "chance level": "25.0%, guessing among the options",
        "seeds": "mix not known, training not known, lm-eval not known",
        "lm-eval": "not known, tasks of version not known",
    }
    facts = arm_facts(tmp_path, ["trained"], [Training(tmp_path)], None, 3)
    assert facts["base model"] == "not known: no arm of it is done"
    assert facts["chance level"] == "none: every question is free-form"
    assert facts["judge"] == "not known"
    assert "retrieval settings" not in facts


def test_what_differs_between_arms_is_said_of_each(tmp_path: Path) -> None:
    for arm, temperature, seed in (("base", 0.7, 0), ("base_rag", 0.7, 1), ("trained", 0.0, 1)):
        task = {"generation_kwargs": {"temperature": temperature, "max_gen_toks": 64}, "repeats": 8}
        config = {
            "model": "hf",
            "model_args": {"pretrained": "/somebody/home/models/base-8b"},
            "model_sha": "0123456789abcdef",
            "model_num_parameters": 8_000_000_000,
            "random_seed": seed,
            "torch_seed": seed,
        }
        leave(tmp_path, arm, {"configs": {"t": task}, "config": config, "versions": {"t": 2.0}})
    facts = arm_facts(tmp_path, ["base", "base_rag", "trained"], [Training(tmp_path)], 0.25, 0)
    assert facts["sampling"] == (
        "8 answers a question, temperature 0.7, at most 64 tokens (base, base_rag); "
        "8 answers a question, temperature 0.0, at most 64 tokens (trained)"
    )
    assert facts["base model"] == (
        "base-8b, revision 0123456789ab, 8,000,000,000 parameters, asked through lm-eval's hf"
    )
    assert facts["seeds"] == "mix not known, training not known, lm-eval 0 (base); 1 (base_rag, trained)"


def test_a_trained_model_is_told_by_its_base_and_the_hash_of_its_mix(tmp_path: Path) -> None:
    training = Training(tmp_path, "10M")
    for folder in (training.mix, training.output):
        folder.mkdir(parents=True)
    tokenizer = dict.fromkeys(("turn_end", "eos_token", "pad_token")) | {"name": "t", "sha256": "0"}
    manifest: dict[str, Any] = {name: {} for name in ("sources", "files", "versions", "validation")}
    manifest |= {"tokens": 9, "record_tokens": 9, "tokenizer": {**tokenizer, "has_chat_template": True}}
    manifest |= {"settings": {"seed": 7, "tokens": None, "sequence_len": 512}, "content_hash": "f" * 64, "warnings": []}
    (training.mix / "manifest.json").write_text(json.dumps(manifest))
    training.config.write_text("base_model: /models/base-8b\nseed: 42\n")
    (training.output / "model.safetensors").touch()
    leave(tmp_path, "trained-10M")
    facts = arm_facts(tmp_path, ["trained-10M"], [training], 0.25, 0)
    assert facts["trained model, 10M"] == (
        f"model-10M/ in the run folder, trained from base-8b; content hash of its mix: {'f' * 16}"
    )
    assert facts["seeds"].startswith("mix 7, training 42, ")


def test_the_address_of_a_judge_is_told_without_what_could_be_a_secret(tmp_path: Path) -> None:
    judge = {"endpoint": "https://somebody:secret@judge.example/v1/secret?key=secret", "model": "Judge-14B"}
    leave(tmp_path, "base", {"configs": {"t": {"metadata": {"judge": judge}}}})
    assert arm_facts(tmp_path, ["base"], [Training(tmp_path)], None, 3)["judge"] == (
        "Judge-14B at judge.example, which judges the free-form answers but for equal numbers"
    )
    leave(tmp_path, "trained", {"configs": {"t": {"metadata": {"judge": judge, "read_by_judge": True}}}})
    assert arm_facts(tmp_path, ["trained"], [Training(tmp_path)], 0.25, 0)["judge"] == (
        "Judge-14B at judge.example, which reads the answers of which code reads no option"
    )
