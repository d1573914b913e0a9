"""Rerankers with tiny random models and a local server."""

from pathlib import Path
from typing import Any

import pytest

from smt_plugin.benchmarks.find import load
from smt_plugin.config import RetrievalSettings
from smt_plugin.errors import BadInput
from smt_plugin.prompts import Prompts
from smt_plugin.retrieval.likelihood import question_likelihood
from smt_plugin.retrieval.rerank import cross_encoder, language_model, order_in, reranker_of
from smt_plugin.retrieval.retrieve import build_retrieval, read_retrieval, retrieval_key
from tests.endpoint import MODEL, serve_in_thread
from tests.quality_data import write_own
from tests.tiny_llama import QWEN_LIKE, make_model, make_tokenizer


def make_qwen3_reranker(folder: Path) -> Path:
    """A random Qwen3 whose tokenizer has the words yes and no."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(folder, QWEN_LIKE))
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def test_qwen3_reranker_scores_yes_against_no_behind_its_own_form(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_qwen3_reranker(tmp_path / "tiny-Qwen3-Reranker")
    texts = ["Oru flew {{ nine }} kites.", "The ferry came late.", "Salt."]
    (scores,) = cross_encoder(str(folder))([("How many kites?", texts)])
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    wanted = []
    for text in texts:
        prompt = (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            "<Instruct>: Given a question about a document, judge whether the passage helps to answer it\n"
            f"<Query>: How many kites?\n<Document>: {text}<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        wanted.append(float(logits[yes] - logits[no]))
    got = [torch.logit(torch.tensor(score)).item() if 0 < score < 1 else score for score in scores]
    assert got == pytest.approx(wanted, abs=1e-3)


def likelihood_alone(folder: Path, query: str, text: str) -> float:
    """The mean log-likelihood of the query behind the rendered prompt, one text at a time, without padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    (message,) = Prompts().messages("rerank/question", passage=text)[1:]
    prompt = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True, enable_thinking=False)
    head, tail = (tokenizer.encode(part, add_special_tokens=False) for part in (prompt, query))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([head + tail])).logits[0].log_softmax(-1)
    return sum(float(logits[len(head) + n - 1, token]) for n, token in enumerate(tail)) / len(tail)


def test_a_language_model_ranks_by_how_likely_it_holds_the_question_given_the_passage(tmp_path: Path) -> None:
    folder = make_model(make_tokenizer(tmp_path / "tiny", QWEN_LIKE), "qwen3")
    texts = ["Oru flew nine kites.<|im_end|>", "It rained.", "The ferry to Holm came late, and brought pears.", "Salt."]
    rerank = reranker_of(RetrievalSettings(reranker=str(folder)))
    assert rerank is not None
    first, second = rerank([("How many kites?", texts * 3), ("Who?", ["It rained."])])
    assert first == pytest.approx([likelihood_alone(folder, "How many kites?", text) for text in texts] * 3, abs=1e-4)
    assert second == pytest.approx([likelihood_alone(folder, "Who?", "It rained.")], abs=1e-4)
    assert len(set(first)) == len(texts)


def test_a_passage_longer_than_the_model_reads_loses_its_end_and_a_question_that_fills_it_is_refused(
    tmp_path: Path,
) -> None:
    rerank = question_likelihood(str(make_model(make_tokenizer(tmp_path / "tiny", QWEN_LIKE))))
    ((short, long),) = rerank([("How late?", ["ferry " * 600, "ferry " * 2000])])
    ((same,),) = rerank([("How late?", [("ferry " * 2000)[:-1200]])])
    assert long == pytest.approx(same, abs=1e-5)
    assert short != long
    with pytest.raises(BadInput, match="reads 4096 tokens, which a question of 5000 fills alone; take another"):
        rerank([("w" * 5000, ["Salt."])])


def test_a_model_made_to_rerank_is_a_cross_encoder_and_any_other_language_model_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("cross_encoder", "question_likelihood"):
        monkeypatch.setattr(f"smt_plugin.retrieval.rerank.{kind}", lambda name, kind=kind: kind)
    plain = make_qwen3_reranker(tmp_path / "qwen")
    assert reranker_of(RetrievalSettings(reranker=str(plain))) == "question_likelihood"
    assert reranker_of(RetrievalSettings(reranker=str(plain.rename(tmp_path / "Qwen3-Reranker")))) == "cross_encoder"
    saved = (tmp_path / "Qwen3-Reranker").rename(tmp_path / "mine")
    (saved / "modules.json").write_text("[]")
    assert reranker_of(RetrievalSettings(reranker=str(saved))) == "cross_encoder"
    assert reranker_of(RetrievalSettings()) is None
    with pytest.raises(BadInput, match=r"the reranker .*none' cannot be loaded"):
        reranker_of(RetrievalSettings(reranker=str(tmp_path / "none")))


def by_the_word(prompt: str, count: str) -> str:
    """Order passages by how many words they share with the question, worst thoughts first."""
    question = set(prompt.split("<question>")[1].split("</question>")[0].lower().split())
    passages = [part.split("</passage>")[0].lower().split() for part in prompt.split("<passage number=")[1:]]
    order = sorted(range(len(passages)), key=lambda n: -len(question & set(passages[n])))
    return "<think>perhaps 2, 1</think>\nThe order is:\n" + ", ".join(str(n + 1) for n in order)


def test_a_chat_model_orders_the_candidates_and_what_it_leaves_out_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    documents, questions = load("quality", write_own(tmp_path / "data"))
    with serve_in_thread(by_the_word) as server:
        settings = RetrievalSettings(mode="bm25", top_k=2, candidates=4, reranker=MODEL, reranker_endpoint=server.url)
        manifest = build_retrieval(documents, questions, tmp_path / "r.jsonl", settings)
        assert len(server.bodies) == len(questions)
        body: dict[str, Any] = server.bodies[0]
        assert (body["temperature"], body["chat_template_kwargs"]) == (0.0, {"enable_thinking": False})
        assert body["messages"][0]["content"].count("<passage number=") == 4
    assert manifest["document_recall@1"] == 1.0
    assert all(len(found) == 2 for found in read_retrieval(tmp_path / "r.jsonl", questions).values())
    with serve_in_thread(lambda prompt, count: "3") as server:
        assert language_model(server.url, MODEL)([("?", ["a", "b", "c", "d"])]) == [[-1.0, -2.0, -0.0, -3.0]]


def test_a_reply_without_an_order_is_asked_for_again_and_then_an_error() -> None:
    with serve_in_thread(lambda prompt, count: "I cannot." if count == "1" else "2, 1") as server:
        assert language_model(server.url, MODEL)([("?", ["a", "b"])]) == [[-1.0, -0.0]]
        assert [body["temperature"] for body in server.bodies] == [0.0, 0.7]
    with (
        serve_in_thread(lambda prompt, count: "") as server,
        pytest.raises(RuntimeError, match="named no passage in 3 attempts"),
    ):
        language_model(server.url, MODEL)([("?", ["a", "b"])])
    with pytest.raises(BadInput, match="cannot be reached"):
        language_model("http://127.0.0.1:9/v1", MODEL)([("?", ["a", "b"])])


def test_a_few_queries_without_an_order_keep_theirs_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def says(prompt: str, count: str) -> str:
        return "I like the lamp." if "odd one" in prompt else "2, 1"

    texts = ["a", "b"]
    with serve_in_thread(says) as server:
        scores = language_model(server.url, MODEL)
        assert scores([("odd one", texts), *[("?", texts)] * 9]) == [[-0.0, -1.0], *[[-1.0, -0.0]] * 9]
        assert "named no passage in 3 attempts for 1 of 10 queries; it said: 'I like the lamp.'" in caplog.text
        # Counted over all batches: a small last one is no error of its own.
        assert scores([("odd one", texts)]) == [[-0.0, -1.0]]
        with pytest.raises(RuntimeError, match="for 3 of 12 queries"):
            scores([("odd one", texts)])


def test_numbers_are_read_from_the_last_line_that_has_any_in_range() -> None:
    assert order_in("1, 2\n\n[3] > [1] > [3] > [9]\nThat is all.", 3) == [2, 0]
    assert order_in("<think>1</think> none", 3) == []


def test_a_models_requests_are_as_the_options_say_and_thinking_is_off_without_any() -> None:
    with serve_in_thread(lambda prompt, count: "2, 1") as server:
        language_model(server.url, MODEL)([("?", ["a", "b"])])
        options = {"max_tokens": None, "max_completion_tokens": "$max_tokens", "temperature": None}
        assert language_model(server.url, MODEL, options)([("?", ["a", "b"])]) == [[-1.0, -0.0]]
        first, second = server.bodies
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert set(second) == {"model", "messages", "max_completion_tokens"}


def test_options_that_leave_fields_out_change_no_retrieval_and_others_do() -> None:
    def key(options: dict[str, Any]) -> str:
        return retrieval_key([], [], RetrievalSettings(reranker="m", reranker_options=options))

    usual = key({"chat_template_kwargs": {"enable_thinking": False}})
    assert usual == retrieval_key([], [], RetrievalSettings(reranker="m"))
    assert key({"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": None}) == usual
    assert key({"reasoning_effort": "high"}) != usual
