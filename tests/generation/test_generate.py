import asyncio
import errno
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.generation.completions import CompletionStore
from smt_plugin.generation.generate import CACHE_SHARE, generate_run, methods_of
from smt_plugin.generation.show import show_records
from smt_plugin.generation.summary import Summary
from smt_plugin.prompts import Prompts
from smt_plugin.records import generated_folders, record_files
from tests.endpoint import MODEL, Endpoint, serve, status


def run_file(run: Path, corpus: Path, tokens: dict[str, int], seed: int | None = None, **keys: Any) -> RunFile:
    """A run file for methods with budgets."""
    methods = {name: {"tokens": budget, "seed": seed} for name, budget in tokens.items()}
    return RunFile.model_validate(
        {"run": run, "corpus": corpus, "backend": {"kind": "microworld"}, "methods": methods, **keys}
    )


def run_generate(
    run: Path,
    corpus: Path,
    tokens: dict[str, int],
    prepare: Callable[[Endpoint], None] = lambda endpoint: None,
    server: Endpoint | None = None,
    seed: int | None = None,
    keys: dict[str, Any] | None = None,
    most_seconds: float | None = None,
    **options: Any,
) -> tuple[Summary, Endpoint]:
    """Generate against a local server; `prepare` may give the server faults first, `keys` go into the run file."""
    file = run_file(run, corpus, tokens, seed, **(keys or {}))

    async def main() -> tuple[Summary, Endpoint]:
        async with serve(server or Endpoint()) as endpoint:
            prepare(endpoint)
            backend = OpenAIBackend([endpoint.url], MODEL, max_concurrency=8, patience=5)
            return await generate_run(file, backend, **options), endpoint

    return asyncio.run(asyncio.wait_for(main(), most_seconds))


def records(run: Path, method: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in record_files(run, method) for line in file.read_text().splitlines()]


ALL = {"synthetic_qa": 3000, "active_reading": 3000, "focal_rewrite": 3000}


def test_every_method_meets_its_budget_over_the_documents_in_proportion_to_their_length(
    tmp_path: Path, corpus: Path
) -> None:
    budgets = dict.fromkeys(ALL, 20_000)
    summary, _ = run_generate(tmp_path / "run", corpus, budgets)
    assert summary.unmet == []
    for method in budgets:
        rows = records(tmp_path / "run", method)
        tokens = {doc_id: sum(row["tokens"] for row in rows if row["doc_id"] == doc_id) for doc_id in ("d1", "d4")}
        assert sum(row["tokens"] for row in rows) == pytest.approx(20_000, rel=0.01)
        assert tokens["d4"] == pytest.approx(4 * tokens["d1"], rel=0.1)


def test_running_again_asks_nothing_and_writes_the_same_records(tmp_path: Path, corpus: Path) -> None:
    run_generate(tmp_path / "run", corpus, ALL)
    before = {method: sorted(map(str, records(tmp_path / "run", method))) for method in ALL}
    summary, endpoint = run_generate(tmp_path / "run", corpus, ALL)
    assert endpoint.bodies == []
    assert summary.asked == 0
    assert before == {method: sorted(map(str, records(tmp_path / "run", method))) for method in ALL}


def test_every_record_is_compared_with_its_document_and_the_worst_are_listed_first(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        json.dumps({"doc_id": "d", "title": "Holm", "text": "Holm has 214 steps and a lamp. " * 9}) + "\n"
    )

    def prepare(endpoint: Endpoint) -> None:
        said = iter(["Holm has 215 steps. ", "Holm has 214 steps. ", "Anna Kepler counted 216 steps. "] * 20)
        endpoint.answer = lambda prompt, sample: next(said) + f"So it is told, {'again and ' * int(sample[-1:] or 0)}."

    summary, _ = run_generate(tmp_path / "run", corpus, {"wrap": 200}, prepare)
    count = summary.methods["wrap"]
    rows = records(tmp_path / "run", "wrap")
    listed = [json.loads(line) for line in (tmp_path / "run/faithfulness/wrap.jsonl").read_text().splitlines()]
    wrong = {row["id"] for row in rows if "214" not in row["text"]}
    assert {row["id"] for row in listed} == wrong
    assert 0 < len(wrong) < len(rows) == count.checked == count.records
    assert (count.unfaithful, count.findings["number"]) == (len(wrong), len(wrong))
    first = {row["id"]: row["text"] for row in rows}[listed[0]["id"]]
    assert [finding["said"] for finding in listed[0]["findings"]] == ["Anna Kepler", "216"]
    assert first.startswith("Anna Kepler")
    said = f"wrap: {len(wrong)} of {len(rows)} records"
    assert any(line.startswith(said) and f"a number in {len(wrong)}" in line for line in summary.text.splitlines())
    assert "faithfulness/<method>.jsonl, the worst first" in summary.text
    show = show_records(run_file(tmp_path / "run", corpus, {"wrap": 200}), "wrap", len(rows))
    assert sum("--- not in its document: " in text for text in show) == len(wrong)


def test_a_restart_asks_about_a_new_document_before_it_has_read_the_old_ones_again(tmp_path: Path) -> None:
    rows = [{"doc_id": f"d{n}", "title": f"Story {n}", "text": f"Story {n:02}. " * 20} for n in range(40)]
    corpus = tmp_path / "corpus.jsonl"
    budgets = {"synthetic_qa": 20_000, "wrap": 20_000}
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    run_generate(tmp_path / "run", corpus, budgets)
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done: list[Summary] = []
    done_at_first_request: list[int] = []

    def prepare(endpoint: Endpoint) -> None:
        def answer(prompt: str, sample: str) -> str:
            done_at_first_request.append(len(done))
            return usual(prompt, sample)

        usual, endpoint.answer = endpoint.answer, answer

    run_generate(tmp_path / "run", corpus, budgets, prepare, on_progress=done.append)
    assert done_at_first_request[0] == 0
    assert len(done) >= 40


def test_the_memory_of_a_replay_does_not_grow_with_the_documents(tmp_path: Path) -> None:
    rows = [{"doc_id": f"d{n}", "title": f"Story {n}", "text": f"Story {n:02}. " * 100} for n in range(40)]

    def peak(name: str, count: int) -> int:
        """Most bytes in use while `count` documents, 20 texts of 40 KB for each, are read from the store again."""
        corpus = tmp_path / f"{name}.jsonl"
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
        budget = {"wrap": 20 * 10_000 * count}

        def prepare(endpoint: Endpoint) -> None:
            endpoint.answer = lambda prompt, sample: f"Long text {sample:>4}, no two of which are one. " * 976

        run_generate(tmp_path / name, corpus, budget, prepare)
        tracemalloc.start()
        summary, _ = run_generate(tmp_path / name, corpus, budget)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (summary.asked, summary.reused) == (0, 20 * count)
        return most

    # A hash or two of each of the 700 further completions may stay, no text of 40 KB.
    assert peak("many", 40) - peak("few", 5) < 700 * 1000


def test_raising_the_budget_keeps_every_record_and_asks_only_for_more(tmp_path: Path, corpus: Path) -> None:
    small, _ = run_generate(tmp_path / "run", corpus, ALL)
    before = {method: {row["id"] for row in records(tmp_path / "run", method)} for method in ALL}
    large, _ = run_generate(tmp_path / "run", corpus, {method: 2 * tokens for method, tokens in ALL.items()})
    for method in ALL:
        assert before[method] < {row["id"] for row in records(tmp_path / "run", method)}
    assert 0 < large.asked < 2 * small.asked


def test_more_documents_in_another_order_and_one_more_method_reuse_everything(tmp_path: Path, corpus: Path) -> None:
    small = {"synthetic_qa": 3000, "active_reading": 3000}
    first, _ = run_generate(tmp_path / "run", corpus, small)
    path = corpus / "documents.jsonl"
    new = json.dumps({"doc_id": "d0", "title": "New", "text": "Something new is told. " * 20})
    path.write_text("\n".join([new, *reversed(path.read_text().splitlines())]) + "\n")
    second, endpoint = run_generate(tmp_path / "run", corpus, {**small, "wrap": 500})
    assert endpoint.bodies
    for body in endpoint.bodies:
        prompt = body["messages"][-1]["content"]
        assert "Something new" in prompt or "easier" in prompt
    assert second.reused > 0.8 * first.asked * 4 / 5


def test_records_name_their_document_prompt_model_sampling_and_completions(tmp_path: Path, corpus: Path) -> None:
    run_generate(tmp_path / "run", corpus, ALL)
    row = records(tmp_path / "run", "focal_rewrite")[0]
    assert row["prompt"] == "focal_rewrite/apply"
    assert row["prompt_hash"] == Prompts().hash("focal_rewrite/apply")
    assert row["model"] == MODEL
    assert row["sampling"] == {"temperature": 0.7, "top_p": 0.95, "max_tokens": 4096}
    store = CompletionStore(tmp_path / "run")
    own, strategies, pairs = (store.get(key) for key in row["completions"])
    assert own is not None
    assert strategies is not None
    assert pairs is not None
    assert own.reply.text.strip() == row["text"]
    assert own.variables["query"] == row["question"]
    assert row["question"] in pairs.reply.text
    assert (strategies.prompt, pairs.prompt) == ("active_reading/strategies", "synthetic_qa/pairs")
    asyncio.run(store.close())


def test_focal_rewriting_uses_the_questions_and_strategies_that_the_other_methods_paid_for(
    tmp_path: Path, corpus: Path
) -> None:
    run_generate(tmp_path / "run", corpus, {"synthetic_qa": 6000, "active_reading": 6000})
    _, endpoint = run_generate(
        tmp_path / "run", corpus, {"synthetic_qa": 6000, "active_reading": 6000, "focal_rewrite": 1500}
    )
    assert endpoint.bodies
    assert all("focus on this question" in prompt for prompt in endpoint.asked)


def test_changing_one_prompt_asks_again_only_what_it_touches(tmp_path: Path, corpus: Path) -> None:
    run, methods = tmp_path / "run", {"synthetic_qa": 3000, "active_reading": 3000}
    run_generate(run, corpus, methods)
    own = tmp_path / "prompts"
    (own / "active_reading").mkdir(parents=True)
    (own / "active_reading" / "apply.jinja").write_text("{{ identity }} {{ document }} {{ strategy }} Again.")

    async def main() -> Endpoint:
        async with serve(Endpoint()) as endpoint:
            file = RunFile.model_validate(
                {
                    "run": run,
                    "corpus": corpus,
                    "backend": {"kind": "microworld"},
                    "methods": {name: {"tokens": tokens} for name, tokens in methods.items()},
                    "prompts": own,
                }
            )
            await generate_run(file, OpenAIBackend([endpoint.url], MODEL))
            return endpoint

    assert all(prompt.endswith("Again.") for prompt in asyncio.run(main()).asked)


def test_a_reply_that_does_not_parse_is_kept_with_its_reason_and_asked_for_again(tmp_path: Path, corpus: Path) -> None:
    def prepare(endpoint: Endpoint) -> None:
        usual = endpoint.answer
        endpoint.answer = lambda prompt, sample: (
            "I would rather not." if "question-answer pairs" in prompt and sample == "1" else usual(prompt, sample)
        )

    summary, _ = run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400}, prepare)
    assert summary.rejected == summary.failures["not JSON"] == 4
    assert summary.unmet == []
    store = CompletionStore(tmp_path / "run")
    assert sorted({(completion.status, completion.reason) for completion in store.all()}) == [
        ("done", ""),
        ("rejected", "not JSON"),
    ]
    asyncio.run(store.close())


def test_what_two_methods_share_is_counted_once_and_refused_once_more_when_told(tmp_path: Path, corpus: Path) -> None:
    def refuse(endpoint: Endpoint) -> None:
        usual = endpoint.chat

        async def chat(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            if "Propose study strategies" not in body["messages"][-1]["content"]:
                return await usual(request)
            endpoint.bodies.append(body)
            return await status(400)

        endpoint.chat = chat  # type: ignore[method-assign]

    methods = {"active_reading": 400, "focal_rewrite": 400}
    for options in ({}, {"retry_refused": True}):
        server = Endpoint()
        refuse(server)
        summary, endpoint = run_generate(tmp_path / "run", corpus, methods, server=server, **options)
        strategies = [body for body in endpoint.bodies if "Propose" in body["messages"][-1]["content"]]
        # Another request shows that temperature and the rest are taken; before it came, some were tried in vain.
        first = [body for body in strategies if {"temperature", "top_p", "max_tokens"} <= body.keys()]
        assert sum(summary.failures.values()) == 12
        assert 12 <= len(first) <= len(strategies) <= 12 + 3 * 5


def test_a_refused_request_is_a_tombstone_that_is_asked_again_only_when_told(tmp_path: Path, corpus: Path) -> None:
    def refuse(endpoint: Endpoint) -> None:
        endpoint.faults = {n: lambda request: status(400) for n in range(1000)}

    summary, endpoint = run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400}, refuse)
    assert summary.refused == 12  # three empty rounds for each of four documents
    # Thrice without each of its five fields and without all of them, since the server may dislike one.
    assert len(endpoint.bodies) == 12 + 3 * 6
    assert "4 of 4 documents yielded too little" in summary.unmet[0]
    again, endpoint = run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400})
    assert endpoint.bodies == []
    assert again.unmet
    healed, _ = run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400}, retry_refused=True)
    assert healed.unmet == []


def test_bad_documents_are_found_before_anything_is_asked_or_written(tmp_path: Path, corpus: Path) -> None:
    with (corpus / "documents.jsonl").open("a") as file:
        file.write('{"doc_id": "d9", "title": "Empty", "text": ""}\n')
    with pytest.raises(BadInput, match=r"documents\.jsonl, line 5: expected `str` that is not blank - at `\$\.text`"):
        run_generate(tmp_path / "run", corpus, ALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("synthetic_qa/pairs", "{{ document.nothing }}"),
        ("active_reading/apply", "{% for x in range(9999) %}{% for y in range(9999) %}{% endfor %}{% endfor %}"),
        ("focal_rewrite/apply", "{% include 'nothing.jinja' %}"),
        ("system", "{{ 1 / 0 }}"),
    ],
)
def test_a_prompt_that_cannot_be_rendered_is_found_before_the_first_is_paid_for(
    tmp_path: Path, corpus: Path, name: str, text: str
) -> None:
    path = tmp_path / "prompts" / f"{name}.jinja"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    endpoint = Endpoint()
    with pytest.raises(BadInput, match=f"^prompt {name}"):
        run_generate(tmp_path / "run", corpus, ALL, server=endpoint, keys={"prompts": tmp_path / "prompts"})
    assert endpoint.bodies == []
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_at_the_first_answer_ends_the_run_though_others_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(store: CompletionStore, completion: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(store.path))

    rows = [{"doc_id": f"d{n}", "title": f"Story {n}", "text": f"Story {n} tells of {n}. " * 9} for n in range(40)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(CompletionStore, "put", full)
    with pytest.raises(OSError, match="No space"):
        run_generate(tmp_path / "run", tmp_path / "documents.jsonl", {"synthetic_qa": 3000}, most_seconds=20)


def test_the_summary_keeps_the_methods_that_a_call_left_alone(tmp_path: Path, corpus: Path) -> None:
    def counts() -> dict[str, int]:
        content = json.loads((tmp_path / "run" / "generate.json").read_bytes())
        return {name: count["records"] for name, count in content["methods"].items()}

    run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400, "wrap": 400})
    before = counts()
    run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400, "wrap": 1200}, only=["wrap"])
    assert counts()["synthetic_qa"] == before["synthetic_qa"] > 0
    assert counts()["wrap"] > before["wrap"]


def test_two_shards_give_the_records_of_one_process(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("ant", "bee", "cow", "dog"):
        (corpus / f"{name}.txt").write_text(f"A story of a {name}. " * 20)
    run_generate(tmp_path / "whole", corpus, ALL, seed=1)
    first, _ = run_generate(tmp_path / "sharded", corpus, ALL, seed=1, shard=(1, 2))
    with pytest.raises(BadInput, match=r"lacks shard 2 of 2; run `smt generate RUN\.YAML --shard 2/2` first"):
        records(tmp_path / "sharded", "synthetic_qa")
    second, _ = run_generate(tmp_path / "sharded", corpus, ALL, seed=1, shard=(2, 2))
    assert first.num_documents + second.num_documents == 4
    for method, budget in ALL.items():
        counts = [first.methods[method], second.methods[method]]
        assert sum(count.budget for count in counts) == budget
        assert all(count.tokens == pytest.approx(count.budget, rel=0.1) for count in counts)
    assert first.num_documents > 0
    assert second.num_documents > 0
    for method in ALL:
        one, two = records(tmp_path / "whole", method), records(tmp_path / "sharded", method)
        assert sorted(map(str, one)) == sorted(map(str, two))


def test_a_document_that_waits_for_anothers_answer_lets_others_in(tmp_path: Path) -> None:
    # Two files of one name and text are one prompt.
    for name in ("a/README.md", "b/README.md", "c.txt", "d.txt", "e.txt"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text("The same." if name.endswith("md") else f"Story {name}.")
    asked_meanwhile = []

    def prepare(endpoint: Endpoint) -> None:
        async def slow(request: Any) -> Any:
            for _ in range(500):
                if len(endpoint.bodies) >= 4:
                    break
                await asyncio.sleep(0.01)
            asked_meanwhile.append(len(endpoint.bodies))
            return await status(503)

        endpoint.faults[0] = slow

    run_generate(tmp_path / "run", tmp_path / "corpus", {"synthetic_qa": 100}, prepare)
    assert asked_meanwhile == [4]


@pytest.mark.parametrize("fault", [404, 401])
@pytest.mark.parametrize(("failed", "then"), [(None, (1, 2)), ((1, 4), None), ((1, 4), (1, 2))])
def test_a_start_that_fails_before_anything_is_paid_binds_a_run_to_no_shards(
    tmp_path: Path, corpus: Path, fault: int, failed: tuple[int, int] | None, then: tuple[int, int] | None
) -> None:
    def broken(endpoint: Endpoint) -> None:
        endpoint.faults = {number: lambda request: status(fault) for number in range(50)}

    with pytest.raises(BadInput, match=f"answered status {fault} to a completion"):
        run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400}, broken, shard=failed)
    summary, _ = run_generate(tmp_path / "run", corpus, {"synthetic_qa": 400}, shard=then)
    assert summary.asked


def test_what_was_paid_for_binds_a_run_to_its_shards_even_without_records(tmp_path: Path, corpus: Path) -> None:
    def breaking(endpoint: Endpoint) -> None:
        endpoint.faults = {number: lambda request: status(401) for number in range(3, 50)}

    for run, shard, other in (("whole", None, (1, 2)), ("sharded", (1, 2), None)):
        with pytest.raises(BadInput, match="answered status 401 to a completion"):
            run_generate(tmp_path / run, corpus, {"synthetic_qa": 9000}, breaking, shard=shard)
        with pytest.raises(BadInput, match=r"was made (without|in) shards; go on"):
            run_generate(tmp_path / run, corpus, {"synthetic_qa": 400}, shard=other)


def test_a_run_keeps_to_its_shards(tmp_path: Path, corpus: Path) -> None:
    run_generate(tmp_path / "whole", corpus, {"synthetic_qa": 400})
    run_generate(tmp_path / "sharded", corpus, {"synthetic_qa": 400}, shard=(1, 2))
    (tmp_path / "sharded" / "shards" / "1-of-2.bak").mkdir()  # a copy that somebody keeps is none
    with pytest.raises(BadInput, match="was made without shards"):
        run_generate(tmp_path / "whole", corpus, {"synthetic_qa": 400}, shard=(1, 2))
    with pytest.raises(BadInput, match="was made in 2 shards"):
        run_generate(tmp_path / "sharded", corpus, {"synthetic_qa": 400}, shard=(1, 3))
    with pytest.raises(BadInput, match=r"go on with `--shard 1/2` .* `smt batch` work without shards"):
        run_generate(tmp_path / "sharded", corpus, {"synthetic_qa": 400})
    with pytest.raises(BadInput, match="lacks shard 2 of 2"):
        generated_folders(tmp_path / "sharded")


def test_a_long_document_is_asked_about_in_parts_and_stays_one_document(tmp_path: Path) -> None:
    pages = [f"Page {n} tells of the number {n}. " * 100 for n in range(1, 6)]
    (tmp_path / "book.txt").write_text("\f".join(pages))
    keys = {"max_document_tokens": 1000}
    summary, endpoint = run_generate(tmp_path / "run", tmp_path / "book.txt", ALL, seed=1, keys=keys)
    assert (summary.num_documents, summary.num_parts) == (1, 5)
    assert max(map(len, endpoint.asked)) < 2 * len(pages[0])
    for method in ALL:
        rows = records(tmp_path / "run", method)
        assert {row["doc_id"] for row in rows} == {"book.txt"}
        assert {row["part"] for row in rows} == {0, 1, 2, 3, 4}
        assert len({row["id"] for row in rows}) == len(rows)
        assert sum(row["tokens"] for row in rows) == pytest.approx(3000, rel=0.1)


class Watching(Endpoint):
    """Notes the most documents that it was asked about at once."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.02
        self.busy: Counter[str] = Counter()
        self.most_documents = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["messages"][-1]["content"]
        name = prompt[: prompt.index("</document>")]
        self.busy[name] += 1
        self.most_documents = max(self.most_documents, len(+self.busy))
        try:
            return await super().chat(request)
        finally:
            self.busy[name] -= 1


def test_no_more_documents_are_in_flight_than_fit_into_the_servers_caches(tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / f"story {n}.txt").write_text(f"Story {n} tells of the number {n}. " * 40)
    tokens = {"active_reading": 1000}
    free, small = Watching(), Watching()
    run_generate(tmp_path / "free", tmp_path, tokens, server=free)
    # Room for three documents of some 320 tokens (the server counts four characters a token).
    blocks = round(3.3 * 320 / CACHE_SHARE / 16)
    small.metrics = f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{blocks}"}} 1.0\n'
    summary, _ = run_generate(tmp_path / "small", tmp_path, tokens, server=small)
    assert free.most_documents > 4
    assert 1 < small.most_documents <= 3
    assert summary.cache is not None
    assert summary.cache.capacity == blocks * 16


def test_the_summary_says_the_cache_hits_as_the_servers_count_them_and_the_money(tmp_path: Path, corpus: Path) -> None:
    server = Endpoint()
    metrics = """vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0
vllm:prefix_cache_queries_total{engine="0"} QUERIED
vllm:prefix_cache_hits_total{engine="0"} HIT
"""
    server.metrics = metrics.replace("QUERIED", "100.0").replace("HIT", "90.0")
    usual = server.answer

    def answer(prompt: str, sample: str) -> str:
        server.metrics = metrics.replace("QUERIED", "2100.0").replace("HIT", "1590.0")
        return usual(prompt, sample)

    server.answer = answer
    summary, _ = run_generate(
        tmp_path / "run",
        corpus,
        {"synthetic_qa": 4000},
        server=server,
        keys={"price": {"input": 1000, "cached": 0, "output": 5000}},
    )
    assert "prefix cache: 1,500 of 2,000 prompt tokens hit, as the servers count; 16,000 tokens fit in" in summary.text
    assert "(75.0% from the cache)" in summary.text
    expected = 0.25 * summary.prompt_tokens / 1000 + summary.completion_tokens / 200
    assert summary.money == pytest.approx(expected)
    assert f"{expected:,.2f} USD" in summary.text


def test_focal_rewrite_draws_from_the_questions_that_the_run_file_configures() -> None:
    file = RunFile.model_validate(
        {
            "run": "r",
            "corpus": "c",
            "backend": {"kind": "microworld"},
            "methods": {"synthetic_qa": {"tokens": 9, "pairs_per_call": 3}, "focal_rewrite": {"tokens": "2K"}},
        }
    )
    methods = methods_of(file)
    qa, _ = methods["synthetic_qa"]
    focal, budget = methods["focal_rewrite"]
    assert focal.synthetic_qa == qa  # type: ignore[attr-defined]
    assert budget == 2000
    assert list(methods_of(file, ["focal_rewrite"])) == ["focal_rewrite"]
    with pytest.raises(BadInput, match="has no method 'wrap' but synthetic_qa, focal_rewrite"):
        methods_of(file, ["wrap"])


def test_what_is_lost_of_usable_replies_is_counted_once_old_and_new(tmp_path: Path, corpus: Path) -> None:
    def prepare(endpoint: Endpoint) -> None:
        usual = endpoint.answer

        def answer(prompt: str, sample: str) -> str:
            text = usual(prompt, sample)
            if "question-answer pairs" in prompt:
                return text[:-30] if sample == "1" else text.replace("It is 2.", "It\\u0007 is \\ud83d2.", 1)
            return "Bell\a. " + text

        endpoint.answer = answer

    budgets = {"synthetic_qa": 400, "wrap": 100}
    cut = "item (a pair, a question) cut off by max_tokens or repetition_detection, left out; the whole ones are kept"
    replaced = "character that is a control or half a character, a space in its place"
    summary, _ = run_generate(tmp_path / "run", corpus, budgets, prepare)
    assert summary.losses[cut] == 4  # the first reply of each document
    assert summary.losses[replaced] >= 4 + 2 * 4
    assert f"       4 x {cut}" in summary.text
    assert {len(row["messages"]) for row in records(tmp_path / "run", "synthetic_qa")} == {2}
    assert not any("\a" in str(row) for method in budgets for row in records(tmp_path / "run", method))
    again, endpoint = run_generate(tmp_path / "run", corpus, budgets)
    assert endpoint.bodies == []
    assert again.losses == summary.losses


def test_a_text_that_was_cut_is_kept_up_to_its_last_sentence_and_counted(tmp_path: Path, corpus: Path) -> None:
    def prepare(endpoint: Endpoint) -> None:
        endpoint.answer = lambda prompt, sample: f"Text {sample}. " + "It says many things. " * 900 + "And then it"

    summary, _ = run_generate(tmp_path / "run", corpus, {"wrap": 100}, prepare)
    assert summary.losses["text cut off by max_tokens, kept up to its last whole sentence"] == 4
    assert {row["text"][-7:] for row in records(tmp_path / "run", "wrap")} == {"things."}
