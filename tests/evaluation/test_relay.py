"""The relay between the real lm_eval and a local server that fails."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import orjson
import pytest
from aiohttp import web

from smt_plugin.backends.base import BackendDown
from smt_plugin.config import EvaluateSection
from smt_plugin.errors import BadInput
from smt_plugin.evaluation import relay
from smt_plugin.evaluation.arm_results import read_arm
from smt_plugin.evaluation.arms import Arm, ready_arms
from smt_plugin.evaluation.evaluate import evaluate
from tests.endpoint import MODEL, Endpoint, in_thread, status
from tests.processes import wait_for
from tests.quality_data import write_own

QUESTIONS, SAMPLES = 4, 8


def served(tmp_path: Path, url: str, base_model: str = MODEL, more: str = "") -> Arm:
    section = EvaluateSection(
        benchmark="quality",
        data=write_own(tmp_path / "data"),
        arms=["base"],
        limit=QUESTIONS,
        model="local-chat-completions",
        model_args=f"base_url={url}/chat/completions,num_concurrent=4,max_retries=1,tokenizer_backend=None{more}",
        batch_size="1",
    )
    ((arm,), _) = ready_arms(tmp_path / "run", section, base_model, [])
    return arm


def test_the_server_is_asked_for_the_model_that_model_args_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with in_thread(Failing()) as server, caplog.at_level(logging.WARNING):
        with relay.relayed(served(tmp_path, server.url, "a/base-model", f",model={MODEL}"), {}):
            pass
        assert "lists the models" not in caplog.text
        with relay.relayed(served(tmp_path, server.url, "a/base-model"), {}):
            pass
        assert f"lists the models {MODEL} and not 'a/base-model'" in caplog.text


class Failing(Endpoint):
    """Answers a different letter each time, but requests whose number is in `never` with status 400."""

    def __init__(self, never: range = range(0)) -> None:
        super().__init__()
        self.never = never
        self.came = 0
        self.answer = lambda prompt, count: f"Case {len(self.bodies)}: the answer is ({'ABCD'[len(self.bodies) % 4]})."

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.came += 1
        if self.came - 1 in self.never:
            return await status(400)
        return await super().chat(request)


def test_requests_that_always_fail_count_as_unparsed_and_lose_no_arm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    with in_thread(Failing(range(12, 14))) as server, caplog.at_level(logging.WARNING):
        arm = served(tmp_path, server.url)
        evaluate([arm], said.append)
        rows = read_arm(arm.folder) or []
        lost = sum(row["unparsed"] * row["n"] for row in rows)
        assert 1 <= lost <= 2
        assert any("answers came back empty and count as unparsed" in text for text in said)
        assert "requests were given up: status 400: " in caplog.text
        came = server.came
        evaluate([arm], said.append)
        assert server.came == came
    assert not list((tmp_path / "run" / "results").glob(".*"))


def test_only_the_command_that_it_is_for_is_answered_at_our_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    environment = {"OPENAI_API_KEY": "very-secret"}
    with (
        in_thread(Endpoint(api_key="very-secret")) as server,
        relay.relayed(served(tmp_path, server.url), environment) as arm,
    ):
        address = str(arm.model_arguments["base_url"])
        body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]})
        assert environment["OPENAI_API_KEY"] != "very-secret"
        for key, expected in (("", 401), ("very-secret", 401), (environment["OPENAI_API_KEY"], 200)):
            try:
                with urlopen(Request(address, body, {"Authorization": f"Bearer {key}"})) as response:
                    status_now = response.status
            except HTTPError as error:
                status_now = error.code
            assert status_now == expected
        assert len(server.bodies) == 1


@pytest.mark.slow
def test_what_was_answered_before_smt_was_killed_is_not_asked_again(tmp_path: Path) -> None:
    server = Failing()
    server.seconds = 0.3
    with in_thread(server):
        arm = served(tmp_path, server.url)
        code = (
            "import sys; from pathlib import Path; from tests.evaluation.test_relay import served, evaluate; "
            "evaluate([served(Path(sys.argv[1]), sys.argv[2])], print)"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.url], start_new_session=True)
        wait_for(lambda: len(server.bodies) >= 12, seconds=120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = len(server.bodies)
        server.seconds = 0.0
        evaluate([arm], lambda text: None)
        # At most what was in flight is asked twice.
        assert QUESTIONS * SAMPLES <= len(server.bodies) <= QUESTIONS * SAMPLES + 4
        assert before < QUESTIONS * SAMPLES
    assert len(read_arm(arm.folder) or []) == QUESTIONS


def test_a_server_that_is_not_there_or_goes_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"endpoint http://127\.0\.0\.1:9/v1 cannot be reached"):
        evaluate([served(tmp_path, "http://127.0.0.1:9/v1")], lambda text: None)
    monkeypatch.setattr(relay, "_PATIENCE", 1.0)
    server = Failing()
    server.faults = {number: lambda request: status(503) for number in range(8, 1000)}
    with in_thread(server), pytest.raises(BackendDown, match="no endpoint has answered for 1 s"):
        evaluate([served(tmp_path, server.url)], lambda text: None)
    assert read_arm(tmp_path / "run" / "results" / "base") is None
