from pathlib import Path

import orjson
import pytest

from smt_plugin.config import RetrievalSettings
from smt_plugin.corpus import Document
from smt_plugin.question import Question
from smt_plugin.retrieval.passages import places_of, proxy_passage_recall
from smt_plugin.retrieval.retrieve import build_retrieval, read_proxy_places, read_retrieval

SENTENCES = [f"On day {n} the keeper of Holm wrote of wind and rain in the great blue book." for n in range(40)]
SENTENCES[7] = "A mule named Sixpence drank the lamp oil."
SENTENCES[30] = "The keeper ate alone."
HOLM = Document("holm", "Holm", " ".join(SENTENCES))
PLUM = Document("plum", "Plum", "The plum trees were cut. A mule named Sixpence stood there, too.")
SETTINGS = RetrievalSettings(mode="bm25", chunk_tokens=40, overlap_tokens=0, top_k=4, name_document=False)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_likely_passage_is_its_documents_that_shares_most_with_question_and_answer(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    options = ["Nobody", "The mule Sixpence", "The plum trees"]
    one = Question("one", "holm", "Who ate it?", options, 1)
    both = Question("both", "holm", "Which animal?", None, "The mule Sixpence", {"evidence": ["plum", "holm"]})
    nothing = Question("nothing", "holm", "Why?", None, "Zzz")
    manifest = build_retrieval([HOLM, PLUM], [one, both, nothing], path, SETTINGS)
    rows = {row["question_id"]: row for row in map(orjson.loads, path.read_bytes().splitlines())}
    chunks = read_retrieval(path, [one, both, nothing])
    # Without the answer, retrieval puts another passage first; with it, the proxy knows better.
    (place,) = rows["one"]["proxy_places"]
    assert place is None or place > 1
    assert place is None or "lamp oil" in chunks["one"][place - 1].text
    assert len(rows["both"]["proxy_places"]) == 2
    assert "proxy_places" not in rows["nothing"]
    assert read_proxy_places(path, [one]) == {"one": [place]}
    assert (manifest["proxy_passage_questions"], manifest["questions"]) == (2, 3)
    assert manifest["document_recall@1"] > manifest["proxy_passage_recall@1"]
    places = [rows["one"]["proxy_places"], rows["both"]["proxy_places"]]
    assert manifest["proxy_passage_recall@4"] == proxy_passage_recall(places, 4)


def test_the_place_is_that_of_the_first_of_equally_likely_passages_and_a_missing_one_has_none() -> None:
    likely = {
        "q": {"d": frozenset({("d", "x"), ("d", "y")}), "e": frozenset({("e", "x")})},
        "r": {"d": frozenset({("d", "z")})},
    }
    places = places_of(likely, {"q": [("e", "y"), ("d", "y"), ("d", "x")], "r": [("d", "z")]})
    assert places == {"q": [2, None], "r": [1]}
    assert proxy_passage_recall(places.values(), 1) == 0.5
    assert proxy_passage_recall(places.values(), 2) == 0.75
    assert proxy_passage_recall([], 2) == 0.0
