"""Servers whose own numbers and texts say that something is wrong: cut prompts, samples that are none."""

import json
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from smt_plugin.config import RunFile
from smt_plugin.corpus import read_documents
from smt_plugin.generation.contradictions import Cut
from smt_plugin.generation.show import show_records
from smt_plugin.generation.waiting import first_in_rank
from tests.endpoint import MODEL, Endpoint, answer
from tests.generation.test_generate import records, run_generate

CONTEXT = 2048
SAID = "The log of ship {} says on day {} that it rained. "


class Counting(Endpoint):
    """A server that counts its tokens as `usage` says: (prompt, characters of it in its cache) -> usage."""

    def __init__(self, usage: Callable[[str, int], dict[str, Any]]) -> None:
        super().__init__()
        self.usage = usage

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        prompt = body["messages"][-1]["content"]
        begun = takewhile(lambda end: any(other[:end] == prompt[:end] for other in self.asked), range(99, 10**6, 99))
        cached = max(begun, default=0)
        self.asked[prompt] += 1
        text = self.answer(prompt, str(self.asked[prompt]))
        choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
        usage = {"completion_tokens": len(text) // 4, **self.usage(prompt, cached)}
        return web.json_response({"choices": [choice], "usage": usage})


def cutting(prompt: str, cached: int) -> dict[str, Any]:
    return {"prompt_tokens": min(CONTEXT, len(prompt) // 4)}


def write_corpus(
    folder: Path, sizes: list[int], text: str = "The log of ship {} says on day {} that it rained. "
) -> Path:
    rows = []
    for number, size in enumerate(sizes):
        told = "".join(text.format(number, day) for day in range(size // len(text) + 1))
        rows.append({"doc_id": f"d{number}", "title": f"Log {number}", "text": told[:size]})
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


BUDGETS = {"synthetic_qa": 2000, "focal_rewrite": 2000}


@pytest.mark.parametrize("sizes", [[40_000, 42_000, 44_000], [1500, 1600, 1700, 40_000, 42_000, 44_000]])
def test_a_server_that_cuts_prompts_stops_the_run_with_both_numbers_and_leaves_no_records(
    tmp_path: Path, sizes: list[int]
) -> None:
    corpus = write_corpus(tmp_path, sizes)
    with pytest.raises(Cut, match=r"read 2,048 tokens of a prompt of about 1\d,\d\d\d.*num_ctx"):
        run_generate(tmp_path / "run", corpus, BUDGETS, server=Counting(cutting))
    assert not list((tmp_path / "run" / "records").glob("*"))


def test_once_the_context_is_larger_what_was_made_from_cut_prompts_is_asked_again_and_nothing_else(
    tmp_path: Path,
) -> None:
    # The fourth and fifth lose less than half, which is seen only when the others are known to be cut.
    corpus = write_corpus(tmp_path, [1500, 1600, 1700, 10_000, 9_500])
    first = Counting(cutting)
    run_generate(tmp_path / "run", corpus, BUDGETS, server=first)
    whole = {prompt for prompt in first.asked if len(prompt) // 4 <= CONTEXT}
    assert 0 < len(whole) < len(first.asked)
    corpus = write_corpus(tmp_path, [1500, 1600, 1700, 10_000, 9_500, 40_000, 42_000, 44_000])
    with pytest.raises(Cut):
        run_generate(tmp_path / "run", corpus, BUDGETS, server=Counting(cutting))
    mended = Counting(lambda prompt, cached: {"prompt_tokens": len(prompt) // 4})
    summary, _ = run_generate(tmp_path / "run", corpus, BUDGETS, server=mended)
    assert summary.unmet == []
    assert not whole & set(mended.asked)
    assert {prompt for prompt in first.asked if "Propose" in prompt} - whole <= set(mended.asked)


@pytest.mark.parametrize(
    "usage",
    [
        # Only what is not in the cache is counted, with the rest beside it or without a word.
        lambda prompt, cached: {
            "prompt_tokens": (len(prompt) - cached) // 4 + 1,
            "prompt_tokens_details": {"cached_tokens": cached // 4},
        },
        lambda prompt, cached: {"prompt_tokens": (len(prompt) - cached) // 4 + 1},
        lambda prompt, cached: {"prompt_tokens": 7},
        lambda prompt, cached: {},
        # A long instruction of the server's own.
        lambda prompt, cached: {"prompt_tokens": 2000 + len(prompt) // 4},
    ],
    ids=["cached beside it", "cached untold", "nonsense", "none", "instruction"],
)
def test_a_server_that_counts_in_another_way_is_no_server_that_cuts(tmp_path: Path, usage: Any) -> None:
    corpus = write_corpus(tmp_path, [1000, 1000, 1000, 30_000, 31_000, 32_000])
    summary, _ = run_generate(tmp_path / "run", corpus, BUDGETS, server=Counting(usage))
    assert summary.unmet == []


def test_texts_of_which_a_token_holds_much_are_no_cut_ones(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [30_000, 31_000, 32_000, 33_000], text="." * 90 + "{}{}")
    few = Counting(lambda prompt, cached: {"prompt_tokens": len(prompt) // 4 - len(prompt[:-4000]) // 5})
    summary, _ = run_generate(tmp_path / "run", corpus, BUDGETS, server=few)
    assert summary.unmet == []


def test_a_server_that_repeats_itself_stops_the_methods_and_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [2000, 2000])
    budgets = {"synthetic_qa": 9000, "wrap": 9000}
    cached = Endpoint()
    cached.answer = lambda prompt, sample: answer(prompt, "1")
    summary, _ = run_generate(tmp_path / "run", corpus, budgets, server=cached)
    assert len(summary.unmet) == 2
    assert all("fixed seed, a cache" in sentence for sentence in summary.unmet)
    assert summary.asked < 30
    for method in budgets:
        texts = [row["text"] or str(row["messages"]) for row in records(tmp_path / "run", method)]
        assert 0 < len(texts) == len(set(texts))
    summary, mended = run_generate(tmp_path / "run", corpus, budgets)
    assert summary.unmet == []
    assert mended.bodies
    for method in budgets:
        assert sum(row["tokens"] for row in records(tmp_path / "run", method)) == pytest.approx(9000, rel=0.02)
    summary, again = run_generate(tmp_path / "run", corpus, budgets)
    assert again.bodies == []


def test_a_budget_counts_a_text_that_comes_twice_once(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [2000, 2000])
    server = Endpoint()
    # One sample in four says what the one before it said.
    server.answer = lambda prompt, sample: answer(prompt, str(int(sample) - (int(sample) % 4 == 0)))
    summary, _ = run_generate(tmp_path / "run", corpus, {"wrap": 6000}, server=server)
    rows = records(tmp_path / "run", "wrap")
    assert len({row["text"] for row in rows}) == len(rows)
    assert summary.methods["wrap"].repeated > 0
    assert sum(row["tokens"] for row in rows) == summary.methods["wrap"].tokens


def test_short_replies_that_come_again_stop_nothing(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [2000, 2000])
    server = Endpoint()

    def same_strategies(prompt: str, sample: str) -> str:
        return "## List\nList all.\n\n## Retell\nRetell it." if "Propose" in prompt else answer(prompt, sample)

    server.answer = same_strategies
    summary, _ = run_generate(tmp_path / "run", corpus, {"active_reading": 6000}, server=server)
    assert summary.unmet == []


@pytest.mark.parametrize("form", ["counted", "beside, uncounted", "in the text", "counted, left out"])
def test_budgets_count_the_text_and_the_bill_counts_the_thoughts_too(tmp_path: Path, form: str) -> None:
    corpus = write_corpus(tmp_path, [2000, 2000])

    class Thinking(Endpoint):
        async def chat(self, request: web.Request) -> web.StreamResponse:
            self.bodies.append(await request.json())
            text = answer(self.bodies[-1]["messages"][-1]["content"], str(len(self.bodies)))
            # Nine times as long as the text.
            message, thoughts, tokens = {"content": text}, "?" * 9 * len(text), len(text) // 4
            usage: dict[str, Any] = {"prompt_tokens": 500, "completion_tokens": 10 * tokens}
            if form == "in the text":
                message["content"] = f"<think>{thoughts}</think>{text}"
            elif form == "beside, uncounted":
                message["reasoning_content"] = thoughts
            else:
                usage["completion_tokens_details"] = {"reasoning_tokens": 9 * tokens}
                usage["completion_tokens"] = tokens if form == "counted, left out" else 10 * tokens
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({"choices": [choice], "usage": usage})

    price = {"price": {"input": 0, "output": 1_000_000}}
    summary, server = run_generate(tmp_path / "run", corpus, {"wrap": 2000}, server=Thinking(), keys=price)
    rows = records(tmp_path / "run", "wrap")
    assert sum(row["tokens"] for row in rows) == pytest.approx(2000, rel=0.05)
    assert sum(len(row["text"]) // 4 for row in rows) == pytest.approx(2000, rel=0.1)
    paid = sum(len(answer("", str(n))) // 4 * 10 for n in range(len(server.bodies)))
    assert summary.completion_tokens == summary.money == pytest.approx(paid, rel=0.02)
    assert summary.thought_tokens == pytest.approx(0.9 * paid, rel=0.02)
    again, _ = run_generate(tmp_path / "run", corpus, {"wrap": 2000})
    assert (again.asked, again.methods["wrap"].tokens) == (0, summary.methods["wrap"].tokens)


def test_of_many_tiny_documents_some_wait_and_a_larger_budget_reaches_the_same_and_more(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [80] * 400)
    reached: list[set[str]] = []
    for budget in (100, 3000, 3300, 9000):
        budgets = {"synthetic_qa": budget, "active_reading": budget}
        summary, _ = run_generate(tmp_path / "run", corpus, budgets)
        assert summary.completion_tokens < 5 * 2 * budget
        for method, count in summary.methods.items():
            rows = records(tmp_path / "run", method)
            assert count.tokens == sum(row["tokens"] for row in rows) == pytest.approx(budget, rel=0.25, abs=120)
            assert count.waiting == 400 - len({row["doc_id"] for row in rows}) > 0
            assert summary.unmet == []
        reached.append({row["id"] for method in budgets for row in records(tmp_path / "run", method)})
    assert reached[0] < reached[1] < reached[2] < reached[3]
    again, server = run_generate(tmp_path / "run", corpus, budgets)
    assert server.bodies == []
    assert again.methods == summary.methods
    assert "documents wait for a larger budget" in summary.text


@pytest.mark.parametrize("others", [20, 2])
def test_where_later_rounds_are_smaller_than_the_first_ones_told_documents_that_wait_are_asked_about(
    tmp_path: Path, others: int
) -> None:
    corpus = write_corpus(tmp_path, [80] * 300)
    first = [part.text.strip() for part in first_in_rank(read_documents(corpus))]
    server = Endpoint()
    server.answer = lambda prompt, sample: " ".join(
        f"Sentence {n} of {sample}." for n in range(100 if any(text in prompt for text in first) else others)
    )
    summary, _ = run_generate(tmp_path / "run", corpus, {"wrap": 20_000}, server=server)
    count, rows = summary.methods["wrap"], records(tmp_path / "run", "wrap")
    assert count.waiting == 300 - len({row["doc_id"] for row in rows})
    assert len(rows) == len({row["id"] for row in rows})
    assert 0 < count.waiting < 250
    assert count.tokens == pytest.approx(20_000, rel=0.12)
    again, server = run_generate(tmp_path / "run", corpus, {"wrap": 20_000})
    assert server.bodies == []
    assert again.methods == summary.methods


@pytest.mark.parametrize(
    "entry",
    [
        {"id": MODEL, "max_model_len": 8192},
        {"id": MODEL, "context_length": 8192},
        {"id": MODEL, "meta": {"n_ctx": 8192, "n_ctx_train": 131_072}},
        {"id": MODEL, "max_context_length": 131_072, "loaded_context_length": 8192},
    ],
)
def test_documents_are_split_to_fit_into_the_context_that_a_server_names(
    tmp_path: Path, entry: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write_corpus(tmp_path, [1500, 40_000])

    class Naming(Endpoint):
        async def models(self, request: web.Request) -> web.Response:
            return web.json_response({"data": [{"id": "another", "max_model_len": 1}, entry]})

    for n in range(2):
        _, server = run_generate(tmp_path / "run", corpus, {"wrap": 4000}, server=Naming())
        assert all(len(body["messages"][-1]["content"]) // 4 + 4096 <= 8192 for body in server.bodies)
        assert len(server.bodies) > 0 if n == 0 else not server.bodies
    assert {row["part"] for row in records(tmp_path / "run", "wrap")} == {0, 1, 2, 3}
    assert "the server's context is 8,192 tokens, so documents of more than 3,096 are split" in caplog.text
    file = RunFile.model_validate(
        {"run": tmp_path / "run", "corpus": corpus, "backend": {"kind": "microworld"}, "methods": {"wrap": {}}}
    )
    assert all("changed since" not in text for text in show_records(file, "wrap", count=9))
