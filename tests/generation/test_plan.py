import asyncio
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.config import Price, RunFile
from smt_plugin.errors import BadInput
from smt_plugin.generation.generate import generate_run
from smt_plugin.generation.plan import Plan, make_plan, plan_text
from smt_plugin.generation.summary import Summary
from smt_plugin.methods import METHODS as SHIPPED
from tests.endpoint import MODEL, Endpoint, serve

METHODS = ("synthetic_qa", "active_reading", "focal_rewrite")


def run_file(run: Path, corpus: Path, tokens: int, **keys: Any) -> RunFile:
    return RunFile.model_validate(
        {
            "run": run,
            "corpus": corpus,
            "backend": {"kind": "microworld"},
            "methods": {name: {"tokens": tokens} for name in keys.pop("names", METHODS)},
            **keys,
        }
    )


def plan_and_generate(file: RunFile, before: int = 0, **options: Any) -> tuple[Plan, Summary, Endpoint]:
    """Plan a run against a local server, after generating `before` tokens a method, then generate it."""

    async def main() -> tuple[Plan, Summary, Endpoint]:
        async with serve(Endpoint()) as endpoint:
            if before:
                small = file.model_copy(update={"methods": {name: {"tokens": before} for name in file.methods}})
                await generate_run(small, OpenAIBackend([endpoint.url], MODEL))
            plan = await make_plan(file, OpenAIBackend([endpoint.url], MODEL), **options)
            asked = len(endpoint.bodies)
            summary = await generate_run(file, OpenAIBackend([endpoint.url], MODEL))
            assert len(endpoint.bodies) == asked + summary.asked
            return plan, summary, endpoint

    return asyncio.run(main())


def left(plan: Plan) -> float:
    return plan.total("calls") - plan.total("stored")


def test_after_a_small_budget_the_plan_tells_what_a_large_one_will_ask(tmp_path: Path, corpus: Path) -> None:
    plan, summary, _ = plan_and_generate(run_file(tmp_path / "run", corpus, 40_000), before=4000)
    assert plan.measured > 0
    assert left(plan) == pytest.approx(summary.asked, rel=0.15)
    assert plan.total("output_tokens") == pytest.approx(summary.completion_tokens, rel=0.15)
    assert plan.total("new_tokens") + plan.total("cached_tokens") == pytest.approx(summary.prompt_tokens, rel=0.15)


def test_a_server_that_counts_no_tokens_makes_no_plan_of_nothing(tmp_path: Path, corpus: Path) -> None:
    async def planned(counts: bool) -> Plan:
        async with serve(Endpoint()) as endpoint:
            endpoint.usages = [] if counts else [None]
            file = run_file(tmp_path / f"{counts}", corpus, 4000)
            await generate_run(file, OpenAIBackend([endpoint.url], MODEL))
            larger = file.model_copy(update={"methods": {name: {"tokens": 40_000} for name in METHODS}})
            return await make_plan(larger, OpenAIBackend([endpoint.url], MODEL))

    counted, uncounted = (asyncio.run(planned(counts)) for counts in (True, False))
    for name in ("new_tokens", "cached_tokens"):
        assert uncounted.total(name) == pytest.approx(counted.total(name), rel=0.3)


def test_what_is_stored_is_not_planned_again(tmp_path: Path, corpus: Path) -> None:
    plan, summary, _ = plan_and_generate(run_file(tmp_path / "run", corpus, 4000), before=4000)
    assert summary.asked == 0
    assert plan.total("output_tokens") < 0.15 * 3 * 4000


def test_methods_that_share_calls_are_planned_with_those_calls_once(tmp_path: Path, corpus: Path) -> None:
    plan, _, _ = plan_and_generate(run_file(tmp_path / "run", corpus, 40_000))
    applied = plan.prompts["active_reading/apply"].calls
    assert plan.prompts["active_reading/strategies"].calls == applied / 8
    assert plan.prompts["focal_rewrite/apply"].calls == applied


def test_the_plan_names_the_prompts_whose_sizes_are_still_guesses(tmp_path: Path, corpus: Path) -> None:
    async def main() -> tuple[Summary, Plan, Plan]:
        async with serve(Endpoint()) as endpoint:
            backend = OpenAIBackend([endpoint.url], MODEL)
            summary = await generate_run(run_file(tmp_path / "run", corpus, 4000, names=["synthetic_qa"]), backend)
            plans = [await make_plan(file, backend) for file in (wrap, both)]
            return summary, plans[0], plans[1]

    wrap = run_file(tmp_path / "run", corpus, 4000, names=["wrap"])
    both = run_file(tmp_path / "run", corpus, 4000, names=["synthetic_qa", "wrap"])
    summary, wrap_plan, both_plan = asyncio.run(main())
    # What is there is of no prompt of the plan.
    assert (wrap_plan.measured, wrap_plan.guessed) == (0, ["wrap/rewrite"])
    assert "Sizes are guesses" in plan_text(wrap_plan, wrap)
    assert (both_plan.measured, both_plan.guessed) == (summary.asked - summary.rejected, ["wrap/rewrite"])
    assert "The sizes of wrap/rewrite are guesses" in plan_text(both_plan, both)


def test_what_is_left_can_be_planned_while_shards_are_left_but_not_probed(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("ant", "bee", "cow", "dog"):
        (corpus / f"{name}.txt").write_text(f"A story of a {name}. " * 20)
    file = run_file(tmp_path / "run", corpus, 4000)

    async def main() -> tuple[Summary, Plan]:
        async with serve(Endpoint()) as endpoint:
            backend = OpenAIBackend([endpoint.url], MODEL)
            summary = await generate_run(file, backend, shard=(1, 2))
            plan = await make_plan(file, backend)
            with pytest.raises(BadInput, match="`smt plan --probe` and `smt batch` work without shards"):
                await make_plan(file, backend, probe_seconds=1)
            return summary, plan

    summary, plan = asyncio.run(main())
    assert 0 < summary.num_documents < 4
    assert plan.total("stored") == pytest.approx(summary.asked, rel=0.15)
    assert left(plan) > 0


def test_planning_without_a_probe_asks_nothing_and_makes_nothing(tmp_path: Path, corpus: Path) -> None:
    backend = OpenAIBackend(["http://127.0.0.1:9/v1"], MODEL)
    file = run_file(tmp_path / "run", corpus, 40_000)
    plan = asyncio.run(make_plan(file, backend))
    assert plan.measured == 0
    assert not (tmp_path / "run").exists()
    assert "Sizes are guesses" in plan_text(plan, file)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_method_can_be_planned_before_it_ever_ran(tmp_path: Path, corpus: Path, name: str) -> None:
    backend = OpenAIBackend(["http://127.0.0.1:9/v1"], MODEL)
    plan = asyncio.run(make_plan(run_file(tmp_path / "run", corpus, 40_000, names=[name]), backend))
    assert plan.total("output_tokens") >= 40_000
    # Of 40,000 tokens of records, no method throws away more than it keeps.
    assert plan.total("output_tokens") < 80_000


def test_a_probe_measures_speed_and_what_it_paid_for_is_reused(tmp_path: Path, corpus: Path) -> None:
    file = run_file(tmp_path / "run", corpus, 200_000)

    async def main() -> tuple[Plan, int, Summary]:
        async with serve(Endpoint()) as endpoint:
            endpoint.seconds = 0.05
            plan = await make_plan(file, OpenAIBackend([endpoint.url], MODEL, max_concurrency=16), probe_seconds=3.0)
            paid = len(endpoint.bodies)
            endpoint.seconds = 0.0
            summary = await generate_run(file, OpenAIBackend([endpoint.url], MODEL))
            assert len(endpoint.bodies) == paid + summary.asked
            return plan, paid, summary

    plan, paid, summary = asyncio.run(main())
    assert paid > 16
    assert summary.reused >= paid
    assert plan.tokens_per_second is not None
    # Sixteen calls at a time of at least 0.05 s and at most some 80 tokens each.
    assert 0 < plan.tokens_per_second < 16 / 0.05 * 80
    assert "output tokens/s in the probe" in plan_text(plan, file)


def test_a_probe_too_short_for_an_answer_says_so(tmp_path: Path, corpus: Path) -> None:
    async def main() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.seconds = 0.5
            await make_plan(
                run_file(tmp_path / "run", corpus, 200_000), OpenAIBackend([endpoint.url], MODEL), probe_seconds=0.2
            )

    with pytest.raises(BadInput, match=r"no reply came in the second half of 0.2 s; give `--probe` more seconds"):
        asyncio.run(main())


def test_hours_and_money_come_from_the_published_speed_and_the_price(tmp_path: Path, corpus: Path) -> None:
    file = run_file(
        tmp_path / "run", corpus, 1_000_000, names=["wrap"], price={"gpus": 2, "gpu_hour": 3.0, "currency": "EUR"}
    )
    plan = asyncio.run(make_plan(file, OpenAIBackend(["http://127.0.0.1:9/v1"], "Qwen/Qwen3-30B-A3B-Instruct-2507")))
    text = plan_text(plan, file)
    output = plan.total("output_tokens")
    assert f"time: {output / 5310 / 3600:,.2f} GPU-hours (published: 5,310 output tokens/s and H100" in text
    assert f"C = 2 M D = {2 * 3e9 * output:.2e} FLOP" in text
    assert f"money: {output / 5310 / 3600 * 3:,.2f} EUR" in text


def test_a_small_model_is_guessed_to_lose_much_and_no_guess_is_longer_than_its_replies_may_be(
    tmp_path: Path, corpus: Path
) -> None:
    file = run_file(tmp_path / "run", corpus, 10_000, names=["wrap"])
    file.methods["wrap"] |= {"max_tokens": 300}
    small, large = (
        asyncio.run(make_plan(file, OpenAIBackend(["http://127.0.0.1:9/v1"], name)))
        for name in ("SmolLM2-135M-Instruct", "Qwen3-8B")
    )
    output = small.total("output_tokens")
    assert output / small.total("calls") == 2.5 * 299
    assert large.total("output_tokens") / large.total("calls") == 299
    assert f"C = 2 M D = {2 * 135e6 * output:.2e} FLOP" in plan_text(small, file)
    assert "2.5 times as much for so small a model" in plan_text(small, file)
    assert "all replies usable" in plan_text(large, file)


def test_money_is_also_told_for_a_server_without_a_cache(tmp_path: Path, corpus: Path) -> None:
    prices = {"input": 1.0, "cached": 0.1, "output": 2.0}
    file = run_file(tmp_path / "run", corpus, 1_000_000, price=prices)
    plan = asyncio.run(make_plan(file, OpenAIBackend(["http://127.0.0.1:9/v1"], MODEL)))
    new, cached, output = (plan.total(name) for name in ("new_tokens", "cached_tokens", "output_tokens"))
    least, most = (new + 0.1 * cached + 2 * output) / 1e6, (new + cached + 2 * output) / 1e6
    assert f"money: {least:,.2f} USD, {most:,.2f} where no prompt comes from a cache" in plan_text(plan, file)
    assert "where no prompt" not in plan_text(plan, file.model_copy(update={"price": Price(input=1.0)}))


def test_a_price_by_tokens_tells_cached_ones_apart() -> None:
    price = Price(input=1.0, cached=0.1, output=2.0)
    assert price.of(3e6, 2e6, 1e6, 999) == pytest.approx(1.0 + 0.2 + 2.0)
    assert Price(input=1.0).of(3e6, 2e6, 0, 0) == pytest.approx(3.0)
    assert Price(gpus=4, gpu_hour=2.0).of(0, 0, 0, 1800) == pytest.approx(4.0)
