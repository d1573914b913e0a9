"""`smt generate` keeps every document in a prefix cache that is too small for all of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.prefix_cache import Places, cache_sizes, count
from benchmarks.served import Served
from tests.vllm_server.server import ARGUMENTS, running_server

pytestmark = pytest.mark.vllm

DOCUMENTS = 9
BLOCKS = 64


def write_documents(path: Path) -> None:
    """Write documents that differ from their first sentence on, of some 2,000 tokens each."""
    with path.open("w") as file:
        for number in range(DOCUMENTS):
            text = "".join(
                f"In the year {1800 + year} parish {number} had {year * 17 + number * 100} people and {year} mills. "
                for year in range(80)
            )
            file.write(json.dumps({"doc_id": f"parish-{number}", "title": f"Parish {number}", "text": text}) + "\n")


def test_nine_in_ten_document_tokens_come_from_a_cache_too_small_for_the_corpus(
    model_folder: Path, vllm_environment: dict[str, str], tmp_path: Path
) -> None:
    corpus = tmp_path / "documents.jsonl"
    write_documents(corpus)
    options: dict[str, Any] = {"tokens": 1500, "max_tokens": 96}
    methods = {
        "synthetic_qa": {"tokens": 1500, "pairs_per_call": 1, "max_tokens": 2048},
        "active_reading": options,
        "focal_rewrite": options,
    }
    arguments = ARGUMENTS | {"num-gpu-blocks-override": BLOCKS, "max-model-len": 7168}
    with running_server(model_folder, vllm_environment, tmp_path / "server.log", arguments) as server:
        served = Served(tmp_path, model_folder, corpus, DOCUMENTS, server, vllm_environment)
        served.smt_generate("run", methods, concurrency=32)
        block, blocks = cache_sizes(server)
    calls = served.calls("run")
    places = Places(model_folder)
    of_documents = {call.doc_id: places.document(call)[1] for call in calls}
    assert len(of_documents) == DOCUMENTS
    assert sum(of_documents.values()) > 2 * block * blocks, "the cache must be too small for the corpus"
    possible, hits = count(calls, places, block)
    assert possible > 0
    assert hits >= 0.9 * possible
