import asyncio
import logging
import resource
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from smt_plugin.backends import endpoint as backends
from smt_plugin.backends.base import BackendDown, CacheUse, Refused, Reply, Request
from smt_plugin.backends.endpoint import OpenAIBackend, reply_of
from smt_plugin.errors import BadInput
from tests.endpoint import MODEL, Endpoint, serve, status

REQUEST = Request([{"role": "user", "content": "Hello"}], {"temperature": 0.5, "max_tokens": 9}, 4, None, "d1")


async def ask(backend: OpenAIBackend, *requests: Request) -> list[Reply]:
    try:
        await backend.start()
        return await asyncio.gather(*(backend.complete(request) for request in requests))
    finally:
        await backend.close()


def test_a_request_carries_model_messages_and_sampling_and_the_reply_the_servers_counts() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.answer = lambda prompt, sample: "four four"
            (reply,) = await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)
            assert reply == Reply("four four", "stop", 1, 0, 2)
            assert endpoint.bodies == [
                {"model": MODEL, "messages": REQUEST.messages, "temperature": 0.5, "max_tokens": 9}
            ]

    asyncio.run(run())


def test_a_schema_is_sent_unless_turned_off_and_a_seed_only_if_set() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            request = Request(REQUEST.messages, {"seed": 100}, 4, {"type": "object"}, "d1")
            await ask(OpenAIBackend([endpoint.url], MODEL), request)
            await ask(OpenAIBackend([endpoint.url], MODEL, structured_output=False), request)
            on, off = endpoint.bodies
            assert on["response_format"]["json_schema"]["schema"] == {"type": "object"}
            assert on["seed"] == 104
            assert "response_format" not in off

    asyncio.run(run())


async def _garbage(request: web.Request) -> web.Response:
    return web.Response(text="<html>gateway</html>")


async def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(
    "fault",
    [
        lambda request: status(429, {"Retry-After": "0.05"}),
        lambda request: status(503, {"Retry-After": "0.05"}),
        _garbage,
        _cut,
    ],
    ids=["rate limit", "overloaded", "garbage", "cut connection"],
)
def test_a_passing_fault_is_tried_again_until_the_answer_comes(fault: Any) -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.faults = {0: fault}
            (reply,) = await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)
            assert reply.text
            assert len(endpoint.bodies) == 2

    asyncio.run(run())


def test_a_request_the_server_will_never_answer_is_refused_with_its_words() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.faults = {n: lambda request: status(400) for n in range(100)}
            with pytest.raises(Refused, match=r"status 400: .*fault 400"):
                await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)

    asyncio.run(run())


def test_a_server_that_takes_no_json_schema_is_asked_without(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(Endpoint):
        async def chat(self, request: web.Request) -> web.StreamResponse:
            if "response_format" in await request.json():
                return await status(400)
            return await super().chat(request)

    async def run() -> None:
        async with serve(Plain()) as endpoint:
            request = replace(REQUEST, schema={"type": "object"})
            backend = OpenAIBackend([endpoint.url], MODEL)
            await ask(backend, request)
            assert len(endpoint.bodies) == 1
            endpoint.faults = {1: lambda request: status(400)}
            with pytest.raises(Refused, match="fault 400"):
                await ask(backend, request)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert "takes no JSON schema" in caplog.text


def test_no_more_requests_are_in_flight_than_the_concurrency_and_no_fewer() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.seconds = 0.02
            await ask(OpenAIBackend([endpoint.url], MODEL, max_concurrency=5), *[REQUEST] * 40)
            assert endpoint.most_under_way == 5

    asyncio.run(run())


def test_the_limit_grows_while_the_server_keeps_up_and_is_halved_when_it_is_overloaded() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.seconds = 0.005
            backend = OpenAIBackend([endpoint.url], MODEL, max_concurrency=64)
            await backend.start()
            assert backend.concurrency == 16
            await asyncio.gather(*(backend.complete(REQUEST) for _ in range(400)))
            assert backend.concurrency == 64
            assert 16 < endpoint.most_under_way <= 64
            # Many requests that fail together halve it once.
            first = len(endpoint.bodies)
            endpoint.faults = {first + n: lambda request: status(429, {"Retry-After": "1"}) for n in range(40)}
            await asyncio.gather(*(backend.complete(REQUEST) for _ in range(40)))
            assert 32 <= backend.concurrency <= 34
            await backend.close()

    asyncio.run(run())


def test_a_request_that_is_given_up_leaves_its_place_to_others() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.seconds = 0.05
            backend = OpenAIBackend([endpoint.url], MODEL, max_concurrency=1)
            await backend.start()
            tasks = [asyncio.create_task(backend.complete(REQUEST)) for _ in range(6)]
            await asyncio.sleep(0.01)
            for task in tasks[:4]:
                task.cancel()
            await asyncio.wait_for(asyncio.gather(*tasks[4:]), 5)
            await backend.close()

    asyncio.run(run())


def test_a_documents_requests_stay_on_one_endpoint_and_spill_when_it_stays_full() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as one, serve(Endpoint()) as two:
            one.seconds = two.seconds = 0.02
            backend = OpenAIBackend([one.url, two.url], MODEL, max_concurrency=8)
            await backend.start()
            await asyncio.gather(*(backend.complete(REQUEST) for _ in range(12)))
            assert sorted([len(one.bodies), len(two.bodies)]) == [0, 12]
            one.seconds = two.seconds = 1.5
            await asyncio.gather(*(backend.complete(REQUEST) for _ in range(8)))
            assert sorted([len(one.bodies), len(two.bodies)]) == [4, 16]
            await backend.close()

    asyncio.run(run())


def test_documents_are_spread_over_the_endpoints_and_each_stays_where_it_is_cached() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as one, serve(Endpoint()) as two:
            one.seconds = two.seconds = 0.02
            backend = OpenAIBackend([one.url, two.url], MODEL, max_concurrency=32)
            await backend.start()
            requests = [
                Request([{"role": "user", "content": f"d{n % 8}"}], {}, n, None, f"d{n % 8}") for n in range(80)
            ]
            await asyncio.gather(*(backend.complete(request) for request in requests))
            first, second = set(one.asked), set(two.asked)
            assert not first & second
            assert len(first) == len(second) == 4
            await backend.close()

    asyncio.run(run())


class Cached(Endpoint):
    """Like a real server it answers so many at once, the others wait, and a document that is not cached takes longer.

    Its cache holds the documents asked for last, three of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slots = asyncio.Semaphore(4)
        self.cache: list[str] = []
        self.missed: Counter[str] = Counter()
        self.held_up = asyncio.Event()
        self.held_up.set()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        document = (await request.json())["messages"][-1]["content"]
        async with self.slots:
            await self.held_up.wait()
            self.missed[document] += document not in self.cache
            await asyncio.sleep(0.02 if document in self.cache else 0.2)
            self.cache = [*(each for each in self.cache if each != document), document][-3:]
        return await super().chat(request)


def about(document: str) -> Request:
    return Request([{"role": "user", "content": document}], {}, 0, None, document)


def test_what_a_saturated_endpoint_cannot_take_goes_to_the_others_and_comes_back_and_theirs_stay_where_they_are() -> (
    None
):
    async def run() -> None:
        async with serve(Cached()) as slow, serve(Cached()) as one, serve(Cached()) as two:
            servers = [slow, one, two]
            backend = OpenAIBackend([each.url for each in servers], MODEL, max_concurrency=24)
            await backend.start()
            everything = [about(f"d{n}") for n in range(6)]
            await asyncio.gather(*map(backend.complete, everything * 4))
            own = [set(each.asked) for each in servers]
            assert list(map(len, own)) == [2, 2, 2]

            slow.held_up.clear()
            waiting = [asyncio.create_task(backend.complete(about(each))) for each in own[0] for _ in range(30)]
            others = [about(each) for each in own[1] | own[2]]
            # All are answered by the others but those that it holds.
            async with asyncio.timeout(60):
                while sum(task.done() for task in waiting) < len(waiting) - 8:
                    await asyncio.gather(*map(backend.complete, others * 2))
            assert slow.asked.total() == 8
            # None of the others' went astray, and once the wave is over their caches hold their own again.
            assert set(one.asked) == own[0] | own[1]
            assert set(two.asked) == own[0] | own[2]
            missed = one.missed.total() + two.missed.total()
            for _ in range(10):
                await asyncio.gather(*map(backend.complete, others * 2))
            assert one.missed.total() + two.missed.total() == missed

            slow.held_up.set()
            await asyncio.gather(*waiting)
            before = [Counter(each.asked) for each in servers]
            for _ in range(10):
                await asyncio.gather(*map(backend.complete, everything * 4))
            assert [set(each.asked - was) for each, was in zip(servers, before, strict=True)] == own
            await backend.close()

    asyncio.run(run())


def test_endpoints_that_are_all_saturated_keep_to_their_own_documents() -> None:
    async def run() -> None:
        async with serve(Cached()) as one, serve(Cached()) as two:
            backend = OpenAIBackend([one.url, two.url], MODEL, max_concurrency=8)
            await backend.start()
            everything = [about(f"d{n}") for n in range(4)]
            # Nearly every one of them waits for far more than a second.
            await asyncio.gather(*map(backend.complete, everything * 200))
            # One may be done a little before the other, and then helps.
            astray = sum(min(one.asked[f"d{n}"], two.asked[f"d{n}"]) for n in range(4))
            assert astray <= 40
            assert one.missed.total() + two.missed.total() <= 4 * 4 + astray  # at first several miss at once
            await backend.close()

    asyncio.run(run())


class Ranks(Endpoint):
    """A vLLM server of two data-parallel ranks; `by_rank` has the prompts that each was asked, None for no rank."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = METRICS + METRICS.replace('engine="0"', 'engine="1"')
        self.ranks = 2
        self.by_rank: dict[str | None, list[str]] = {}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        rank = request.headers.get("X-data-parallel-rank")
        if rank is not None and int(rank) >= self.ranks:
            message = f"data_parallel_rank {rank} is out of range [0, {self.ranks})."
            return web.json_response({"error": {"message": message}}, status=400)
        self.by_rank.setdefault(rank, []).append((await request.json())["messages"][-1]["content"])
        return await super().chat(request)


def test_a_document_keeps_to_one_data_parallel_rank_of_a_server() -> None:
    async def run() -> None:
        async with serve(Ranks()) as two, serve(Endpoint()) as single:
            two.seconds = single.seconds = 0.02
            backend = OpenAIBackend([two.url, single.url], MODEL, max_concurrency=48)
            await backend.start()
            await asyncio.gather(*(backend.complete(about(f"d{n % 9}")) for n in range(90)))
            assert list(two.by_rank) == ["0", "1"]
            first, second, third = map(set, (*two.by_rank.values(), single.asked))
            assert len(first | second | third) == len(first) + len(second) + len(third) == 9
            assert len(first) == len(second) == len(third) == 3
            # Their metrics are of all ranks, and are not counted once for each.
            assert await backend.cache_use() == CacheUse(capacity=3200, queried=0, hit=0)
            await backend.close()

    asyncio.run(run())


def test_a_server_that_has_fewer_ranks_than_before_chooses_itself_and_no_prompt_is_to_blame() -> None:
    async def run() -> None:
        async with serve(Ranks()) as server:
            backend = OpenAIBackend([server.url], MODEL)
            await backend.start()
            server.ranks = 1
            replies = await asyncio.gather(*(backend.complete(about(f"d{n}")) for n in range(6)))
            assert len(replies) == 6
            assert set(server.by_rank) == {"0", None}
            await backend.close()

    asyncio.run(run())


@pytest.mark.parametrize("engines", [0, 1, 5000])
def test_no_rank_is_named_where_the_metrics_tell_of_none_of_one_or_of_more_than_requests(engines: int) -> None:
    line = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"ENGINE} 1.0\n'
    several = (line.replace("ENGINE", f',engine="{n}"') for n in range(engines))

    async def run() -> None:
        async with serve(Ranks()) as server:
            server.metrics = METRICS.partition("\n")[2] + ("".join(several) or line.replace("ENGINE", ""))
            backend = OpenAIBackend([server.url], MODEL, max_concurrency=4)
            await backend.start()
            await backend.complete(about("d"))
            assert list(server.by_rank) == [None]
            await backend.close()

    asyncio.run(run())


def test_all_ranks_of_a_server_rest_while_it_is_gone_and_are_asked_at_its_new_address() -> None:
    async def run() -> None:
        async with serve(Ranks()) as before, serve(Ranks()) as after:
            backend = OpenAIBackend([before.url], MODEL)
            await backend.start()
            backend.rest(0)
            waiting = [asyncio.create_task(backend.complete(about(f"d{n}"))) for n in range(6)]
            await asyncio.sleep(0.2)
            backend.revive(0, after.url)
            await asyncio.gather(*waiting)
            assert before.by_rank == {}
            assert sorted(map(str, after.by_rank)) == ["0", "1"]
            await backend.close()

    asyncio.run(run())


def test_a_server_that_refuses_the_key_is_left_with_all_of_its_ranks() -> None:
    async def run() -> None:
        async with serve(Ranks()) as server:
            backend = OpenAIBackend([server.url], MODEL)
            await backend.start()
            server.faults = {n: lambda request: status(401) for n in range(100)}
            with pytest.raises(BadInput, match="answered status 401 to a completion"):
                await asyncio.gather(*(backend.complete(about(f"d{n}")) for n in range(6)))
            await backend.close()

    asyncio.run(run())


def test_when_one_of_two_endpoints_is_dead_the_other_answers_everything(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with serve(Endpoint()) as alive:
            backend = OpenAIBackend(["http://127.0.0.1:9/v1", alive.url], MODEL, max_concurrency=4)
            with caplog.at_level(logging.WARNING):
                replies = await ask(backend, *(Request(REQUEST.messages, {}, 0, None, f"d{n}") for n in range(20)))
            assert len(replies) == 20

    asyncio.run(run())
    assert "127.0.0.1:9/v1 cannot be reached" in caplog.text


METRICS = """\
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="100"} 1.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 600.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 7.0
"""


def test_the_use_of_the_prefix_cache_is_what_the_servers_count_since_the_start() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as one, serve(Endpoint()) as two:
            one.metrics = METRICS
            backend = OpenAIBackend([one.url, two.url], MODEL)
            await backend.start()
            one.metrics = METRICS.replace("1000.0", "1.5e+03").replace("600.0", "1000.0")
            assert await backend.cache_use() == CacheUse(capacity=1600, queried=500, hit=400)
            # The server was started anew meanwhile, and counts from nothing.
            one.metrics = METRICS.replace("1000.0", "50.0").replace("600.0", "20.0")
            assert await backend.cache_use() == CacheUse(capacity=1600, queried=550, hit=420)
            await backend.close()

    asyncio.run(run())


def test_a_server_without_metrics_says_nothing_of_its_cache() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            backend = OpenAIBackend([endpoint.url], MODEL)
            await backend.start()
            assert await backend.cache_use() is None
            await backend.close()

    asyncio.run(run())


def test_an_endpoint_that_refuses_the_key_leaves_the_work_to_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with serve(Endpoint(api_key="other")) as closed, serve(Endpoint(api_key="key")) as alive:
            closed.faults = {n: lambda request: status(401) for n in range(100)}
            backend = OpenAIBackend([closed.url, alive.url], MODEL, api_key="key", max_concurrency=4)
            replies = await ask(backend, *(Request(REQUEST.messages, {}, 0, None, f"d{n}") for n in range(20)))
            assert len(replies) == 20
            assert len(closed.bodies) <= 2

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert "answered status 401 to a completion" in caplog.text
    assert "Going on with the others" in caplog.text


def test_an_endpoint_that_falls_silent_gives_its_requests_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_SILENT_SECONDS", 0.3)
    monkeypatch.setattr(backends, "_WATCH_SECONDS", 0.1)
    monkeypatch.setattr(backends, "_PROBE_SECONDS", 0.3)

    class Silent(Endpoint):
        def __init__(self) -> None:
            super().__init__()
            self.gone = False

        async def models(self, request: web.Request) -> web.Response:
            await asyncio.sleep(60 if self.gone else 0)
            return await super().models(request)

        async def chat(self, request: web.Request) -> web.StreamResponse:
            self.gone = True
            await asyncio.sleep(60)
            return web.Response()

    async def run() -> None:
        async with serve(Silent()) as silent, serve(Endpoint()) as alive:
            alive.seconds = 0.05
            backend = OpenAIBackend([silent.url, alive.url], MODEL, max_concurrency=8)
            requests = [Request(REQUEST.messages, {}, 0, None, f"d{n}") for n in range(8)]
            replies = await asyncio.wait_for(ask(backend, *requests), timeout=30)
            assert len(replies) == 8
            assert silent.gone

    asyncio.run(run())


def test_a_wrong_key_is_named_before_anything_is_asked_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with serve(Endpoint(api_key="secret-key")) as endpoint:
            with pytest.raises(BadInput, match="refused the API key") as caught:
                await ask(OpenAIBackend([endpoint.url], MODEL, api_key="wrong-key"), REQUEST)
            assert endpoint.bodies == []
            assert "wrong-key" not in str(caught.value) + caplog.text

    asyncio.run(run())


def test_a_model_that_is_not_listed_is_tried_and_named_only_if_the_server_does_not_know_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            with caplog.at_level(logging.WARNING):
                (reply,) = await ask(OpenAIBackend([endpoint.url], "alias"), REQUEST)
            assert reply.text
            assert "lists the models test-model and not 'alias', which is tried all the same" in caplog.text
        async with serve(Endpoint()) as endpoint:
            endpoint.faults = {0: lambda request: status(404)}
            with pytest.raises(BadInput, match=r"does not serve the model 'other' but test-model \(status 404: .*name"):
                await ask(OpenAIBackend([endpoint.url], "other"), REQUEST)
            assert len(endpoint.bodies) == 1

    asyncio.run(run())


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match=r"endpoint http://127\.0\.0\.1:9/v1 cannot be reached"):
        asyncio.run(ask(OpenAIBackend(["http://127.0.0.1:9/v1"], MODEL), REQUEST))


def test_an_endpoint_that_stays_away_is_given_up_after_the_patience(tmp_path: Path) -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.faults = {n: lambda request: status(500, {"Retry-After": "0.1"}) for n in range(100)}
            with pytest.raises(BackendDown, match="the last said: status 500"):
                await ask(OpenAIBackend([endpoint.url], MODEL, patience=0.5), REQUEST)

    asyncio.run(run())


def test_requests_of_a_server_that_is_gone_wait_for_the_one_that_replaces_it() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as silent, serve(Endpoint()) as new:
            silent.seconds = 2.0
            backend = OpenAIBackend([silent.url], MODEL, max_concurrency=2, patience=0.2)
            await backend.start()
            asked = [asyncio.create_task(backend.complete(REQUEST)) for _ in range(4)]
            while silent.under_way < 2:
                await asyncio.sleep(0.01)
            # Both waits are longer than the patience: a server that is started anew is no server that does not answer.
            await asyncio.sleep(0.3)
            backend.rest(0)
            await asyncio.sleep(0.3)
            new.faults = {0: lambda request: status(503, {"Retry-After": "0.05"})}
            backend.revive(0, new.url)
            replies = await asyncio.gather(*asked)
            assert all(reply.text for reply in replies)
            assert (len(silent.bodies), len(new.bodies)) == (2, 5)
            await backend.close()

    asyncio.run(run())


def test_when_the_last_server_is_given_up_every_request_says_so() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            backend = OpenAIBackend([endpoint.url], MODEL)
            await backend.start()
            backend.rest(0)
            waiting = [asyncio.create_task(backend.complete(REQUEST)) for _ in range(40)]
            await asyncio.sleep(0.05)
            backend.give_up("the server ended three times")
            for task in waiting:
                with pytest.raises(BackendDown, match="ended three times"):
                    await task
            with pytest.raises(BackendDown, match="ended three times"):
                await backend.complete(REQUEST)
            assert endpoint.bodies == []
            await backend.close()

    asyncio.run(run())


def test_an_endpoint_that_answers_nothing_but_errors_leaves_everything_to_the_other() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as bad, serve(Endpoint()) as good:
            bad.faults = {n: lambda request: status(500) for n in range(1000)}
            backend = OpenAIBackend([bad.url, good.url], MODEL, max_concurrency=32)
            requests = [Request(REQUEST.messages, {}, 0, None, f"d{n}") for n in range(100)]
            assert len(await asyncio.wait_for(ask(backend, *requests), 20)) == 100
            assert len(good.bodies) == 100
            assert len(bad.bodies) < 60

    asyncio.run(run())


def test_a_request_that_keeps_failing_while_others_are_answered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_LONGEST_PAUSE", 0.05)

    class Poisoned(Endpoint):
        async def chat(self, request: web.Request) -> web.StreamResponse:
            if "poison" in (await request.text()):
                self.poison += 1
                return await status(500)
            return await super().chat(request)

        poison = 0

    async def run() -> None:
        async with serve(Poisoned()) as endpoint:
            backend = OpenAIBackend([endpoint.url], MODEL, patience=60)
            await backend.start()
            poison = asyncio.create_task(
                backend.complete(Request([{"role": "user", "content": "poison"}], {}, 0, None, "d"))
            )
            while not poison.done():
                await backend.complete(REQUEST)
            with pytest.raises(Refused, match=r"failed 10 times while others were answered: status 500: .*fault 500"):
                await poison
            assert endpoint.poison == 10
            await backend.close()

    asyncio.run(run())


def test_patience_counts_from_when_there_was_something_to_answer() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            backend = OpenAIBackend([endpoint.url], MODEL, patience=1)
            await backend.start()
            await asyncio.sleep(1.2)
            endpoint.faults = {0: lambda request: status(500)}
            assert (await backend.complete(REQUEST)).text
            await backend.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "86400"}, 300.0),
        ({"Retry-After": "Sat, 07 Nov 2015 10:00:20 GMT", "Date": "Sat, 07 Nov 2015 10:00:00 GMT"}, 20.0),
        ({"Retry-After": "Sat, 07 Nov 2015 10:00:20 GMT"}, None),
        ({"Retry-After": "Sat, 07 Nov 2015 09:00:00 GMT", "Date": "Sat, 07 Nov 2015 10:00:00 GMT"}, None),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_own_clock(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert backends._seconds(headers.get("Retry-After"), headers.get("Date")) == seconds


GOOD = {
    "choices": [{"message": {"content": "12345678"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"usage": None}, Reply("12345678", "stop", 0, 0, 2)),
        ({"usage": {"prompt_tokens": -5, "completion_tokens": -1}}, Reply("12345678", "stop", 0, 0, 2)),
        ({"usage": {"prompt_tokens": "x", "completion_tokens": 0}}, Reply("12345678", "stop", 0, 0, 2)),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 1e300}}, Reply("12345678", "stop", 3, 0, 2)),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}},
            Reply("12345678", "stop", 9, 0, 5),
        ),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 12}}},
            Reply("12345678", "stop", 21, 12, 5),
        ),
        (
            {"choices": [{"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}]},
            Reply("<think>hm", "length", 3, 0, 2),
        ),
        ({"choices": [{"message": {"content": "a"}, "finish_reason": None}]}, Reply("a", "stop", 3, 0, 2)),
        (
            {"choices": [{"message": {"tool_calls": []}, "finish_reason": "tool_calls"}]},
            Reply("", "tool_calls", 3, 0, 2),
        ),
    ],
)
def test_a_reply_may_lack_counts_text_or_the_reason_why_it_ended(changes: dict[str, Any], expected: Reply) -> None:
    assert reply_of({**GOOD, **changes}) == expected


def test_what_is_no_reply_is_asked_for_again() -> None:
    bodies: list[Any] = [
        {"error": {"message": "overloaded", "code": 429}},
        {},
        {"choices": []},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": ["a"]}}]},
        {"choices": [{"message": {"content": "half an ans"}, "finish_reason": "abort"}]},
        [],
        None,
        "text",
        5,
    ]

    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            for number, body in enumerate(bodies):
                endpoint.faults[number] = partial(odd, body)
            replies = await ask(OpenAIBackend([endpoint.url], MODEL), *[REQUEST] * len(bodies))
            assert all(reply.text.startswith("A text") for reply in replies)
            assert len(endpoint.bodies) == 2 * len(bodies)

    async def odd(body: Any, request: web.Request) -> web.Response:
        return web.json_response(body)

    asyncio.run(run())


def test_a_reply_with_half_a_surrogate_pair_is_read_and_not_paid_for_again() -> None:
    body = {"choices": [{"message": {"content": "A lamp \ud83d, é."}, "finish_reason": "stop"}]}

    async def odd(request: web.Request) -> web.Response:
        return web.json_response(body)

    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.faults[0] = odd
            (reply,) = await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)
            assert reply.text == "A lamp \ufffd, é."
            assert len(endpoint.bodies) == 1

    asyncio.run(run())


def test_a_redirection_is_named_with_the_address_to_give_instead() -> None:
    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPPermanentRedirect("https://other.example/v1/models")

    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.models = moved  # type: ignore[method-assign]
            async with serve(endpoint):
                with pytest.raises(BadInput, match=r"redirects to https://other\.example/v1; give that address"):
                    await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)
            endpoint.faults = {0: moved}
            del endpoint.models
            async with serve(endpoint):
                with pytest.raises(BadInput, match="redirects to https://other"):
                    await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (400, "very-secret"),
        (401, "very-secret"),
        (404, "very-secret"),
        (500, "very-secret"),
        (200, "very-secret"),
        (400, 'v"e\\ry-secret'),
        (308, "v/e=r%y-secret"),
    ],
)
def test_a_key_that_the_server_repeats_is_shown_to_nobody(
    code: int, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = request.headers["Authorization"]
        headers = {"X-Key": said, "Location": f"http://127.0.0.1/?key={quote(said)}!"}
        return web.json_response({"error": {"message": f"not\nwith {said}!"}}, status=code, headers=headers)

    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.faults = {n: echo for n in range(10)}
            backend = OpenAIBackend([endpoint.url], MODEL, api_key=key, patience=0.1)
            with pytest.raises((Refused, BadInput, BackendDown)) as caught:
                await ask(backend, REQUEST)
            assert "(the API key)!" in str(caught.value)
            assert "y-secret" not in str(caught.value) + caplog.text
            assert "\n" not in str(caught.value)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())


def bomb() -> web.Response:
    """A small answer that unpacks to a billion bytes."""
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join([packer.compress(bytes(2**20)) for _ in range(1024)]) + packer.flush()
    return web.Response(body=packed, headers={"Content-Encoding": "gzip"}, content_type="application/json")


def test_answers_that_unpack_to_anything_are_given_up_and_asked_for_again() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:

            async def huge(request: web.Request) -> web.Response:
                return bomb()

            endpoint.faults = {0: huge}
            endpoint.show_metrics = huge  # type: ignore[assignment, method-assign]
            async with serve(endpoint):
                backend = OpenAIBackend([endpoint.url], MODEL)
                assert len(await ask(backend, REQUEST)) == 1
                assert len(endpoint.bodies) == 2
            endpoint.models = huge  # type: ignore[assignment, method-assign]
            async with serve(endpoint):
                with pytest.raises(BadInput, match=r"cannot be used .*larger than 32 MiB"):
                    await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(run())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_metrics_are_not_fetched_from_where_they_are_redirected_to() -> None:
    came: list[str] = []

    async def run() -> None:
        async with serve(Endpoint()) as other, serve(Endpoint()) as endpoint:

            async def count(request: web.Request) -> web.Response:
                came.append(request.path)
                return web.Response(text=METRICS)

            async def moved(request: web.Request) -> web.Response:
                raise web.HTTPFound(other.url.removesuffix("/v1") + "/metrics")

            other.show_metrics = count  # type: ignore[method-assign]
            endpoint.show_metrics = moved  # type: ignore[method-assign]
            async with serve(other), serve(endpoint):
                backend = OpenAIBackend([endpoint.url], MODEL, api_key="very-secret")
                await backend.start()
                assert await backend.cache_use() is None
                await backend.close()

    asyncio.run(run())
    assert came == []


@pytest.mark.parametrize("before", range(3970, 4010, 3))
def test_a_key_that_a_long_message_of_the_server_is_cut_at_is_shown_to_nobody(before: int) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = request.headers["Authorization"].removeprefix("Bearer ")
        return web.Response(text=" " * before + said + "\x1b[2J", status=400)

    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.faults = {n: echo for n in range(10)}
            with pytest.raises(Refused) as caught:
                await ask(OpenAIBackend([endpoint.url], MODEL, api_key="very-secret-key-of-mine"), REQUEST)
            assert "very" not in str(caught.value)
            assert str(caught.value).isprintable()

    asyncio.run(run())


def test_a_key_that_an_answer_repeats_is_not_kept() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:

            async def echo(request: web.Request) -> web.Response:
                said = request.headers["Authorization"]
                message = {"content": f"I was asked with {said}.", "reasoning": f"{quote(said)}"}
                return web.json_response({"choices": [{"message": message, "finish_reason": said}]})

            async def thinks(request: web.Request) -> web.Response:
                said = request.headers["Authorization"]
                return web.json_response({"choices": [{"message": {"content": None, "reasoning": said}}]})

            endpoint.faults = {0: echo, 1: thinks}
            replies: list[Reply] = []

            async def keep(reply: Reply) -> None:
                replies.append(reply)

            backend = OpenAIBackend([endpoint.url], MODEL, api_key="very-secret")
            await backend.start()
            for _ in range(2):
                replies.append(await backend.complete(REQUEST, keep))
            await backend.close()
            assert replies[0].text == "I was asked with Bearer (the API key)."
            assert replies[2].text == "<think>Bearer (the API key)"
            assert "secret" not in str(replies)

    asyncio.run(run())


@pytest.mark.parametrize("key", ["secret\nX-Other: 1", "sécret"])
def test_a_key_that_no_request_can_carry_is_named_and_not_repeated(key: str) -> None:
    with pytest.raises(BadInput, match="the API key holds a line break or a letter beyond ASCII") as caught:
        OpenAIBackend(["http://127.0.0.1:9/v1"], MODEL, api_key=key)
    assert "cret" not in str(caught.value)


def test_an_address_that_answers_with_a_page_is_named_before_anything_is_asked() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.models = _garbage  # type: ignore[assignment, method-assign]
            async with serve(endpoint):
                with pytest.raises(BadInput, match="is no OpenAI-compatible server"):
                    await ask(OpenAIBackend([endpoint.url], MODEL), REQUEST)
            assert endpoint.bodies == []

    asyncio.run(run())


def test_metrics_that_are_no_numbers_leave_what_was_known() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            endpoint.metrics = METRICS
            backend = OpenAIBackend([endpoint.url], MODEL)
            await backend.start()
            endpoint.metrics = METRICS.replace("1000.0", "NaN").replace("600.0", "+Inf")
            assert await backend.cache_use() == CacheUse(capacity=1600, queried=0, hit=0)
            await backend.close()

    asyncio.run(run())


def test_an_address_without_its_last_part_is_named_with_the_mend() -> None:
    async def run() -> None:
        async with serve(Endpoint()) as endpoint:
            with pytest.raises(BadInput, match=r"status 404 to a completion: .*; the address must end before /chat/"):
                await ask(OpenAIBackend([endpoint.url.removesuffix("/v1")], MODEL), REQUEST)

    asyncio.run(run())
