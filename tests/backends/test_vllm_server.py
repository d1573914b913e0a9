import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.backends.base import BackendDown, Request
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.vllm_server import VLLMBackend, gpus_of_replicas, tuned
from smt_plugin.errors import BadInput
from tests.endpoint import MODEL
from tests.processes import processes, wait_for

ROOT = Path(__file__).parents[2]
REQUEST = Request([{"role": "user", "content": "Hello"}], {}, 0, None, "d")


@pytest.fixture(autouse=True)
def _find_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def backend(folder: Path, **options: Any) -> VLLMBackend:
    settings = {"replicas": 1, "arguments": {}, "log_folder": folder, **options}
    return VLLMBackend(MODEL, [sys.executable, "-m", "tests.fake_vllm"], **settings)


def pids(backend: VLLMBackend) -> list[int]:
    replicas: Any = backend._replicas
    return [replica.process.pid for replica in replicas]


def test_two_replicas_are_started_on_their_own_gpus_asked_and_stopped(tmp_path: Path) -> None:
    async def run() -> None:
        arguments = {"tensor_parallel_size": 2, "enforce-eager": True, "label": str(tmp_path)}
        servers = backend(tmp_path, replicas=2, arguments=arguments)
        try:
            await servers.start()
            assert (await servers.complete(REQUEST)).text
            assert len(processes(tmp_path)) == 4
        finally:
            await servers.close()

    asyncio.run(run())
    assert not processes(tmp_path)
    logs = [(tmp_path / f"vllm-{n}.log").read_text() for n in range(2)]
    assert "GPUs 0,1" in logs[0]
    assert "GPUs 2,3" in logs[1]
    assert "'--tensor-parallel-size', '2', '--enforce-eager'" in logs[0]


def test_the_servers_of_a_shard_write_their_log_into_its_folder(tmp_path: Path, corpus: Path) -> None:
    command = [sys.executable, "-m", "tests.fake_vllm"]
    content = {
        "run": "run",
        "corpus": str(corpus),
        "backend": {"kind": "vllm", "model": MODEL, "command": command},
        "methods": {"wrap": {"tokens": 100}},
    }
    (tmp_path / "smt.yaml").write_text(json.dumps(content))
    arguments = [sys.executable, "-m", "smt_plugin", "generate", "smt.yaml", "--shard", "2/2"]
    subprocess.run(arguments, cwd=tmp_path, check=True)
    logs = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.log")]
    assert logs == ["run/shards/2-of-2/vllm-0.log"]


def test_a_server_that_breaks_at_the_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    async def run() -> None:
        servers = backend(tmp_path, arguments={"break": True})
        try:
            await servers.start()
        finally:
            await servers.close()

    with pytest.raises(RuntimeError, match=r"before it was healthy, vLLM ended with status 1.*out of memory"):
        asyncio.run(run())


def test_a_server_that_never_gets_healthy_is_given_up_and_stopped(tmp_path: Path) -> None:
    async def run() -> None:
        servers = backend(tmp_path, arguments={"hang": True, "label": str(tmp_path)}, startup_timeout=1.0)
        try:
            with pytest.raises(RuntimeError, match=r"was not healthy at http://127\.0\.0\.1:\d+ after"):
                await servers.start()
            assert processes(tmp_path)
        finally:
            await servers.close()

    asyncio.run(run())
    assert not processes(tmp_path)


def test_the_servers_end_when_their_owner_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.backends.test_vllm_server import backend\n"
        "async def main():\n"
        "    servers = backend(Path(sys.argv[1]), arguments={'label': sys.argv[1]})\n"
        "    await servers.start()\n"
        "    print('started', flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline()
    assert len(processes(tmp_path)) == 2
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert wait_for(lambda: not processes(tmp_path), 20)


def test_a_server_that_is_killed_is_started_again_and_its_requests_are_answered(tmp_path: Path) -> None:
    async def run() -> None:
        servers = backend(tmp_path, arguments={"seconds": 0.5, "label": str(tmp_path)})
        try:
            await servers.start()
            (before,) = pids(servers)
            asked = [asyncio.create_task(servers.complete(REQUEST)) for _ in range(8)]
            await asyncio.sleep(0.1)
            os.kill(before, signal.SIGKILL)
            replies = await asyncio.gather(*asked)
            assert len({reply.text for reply in replies}) == 1
            assert pids(servers) != [before]
            # The engine of the killed server is gone, or it would hold its GPU.
            assert len(processes(tmp_path)) == 2
        finally:
            await servers.close()

    asyncio.run(run())
    assert (tmp_path / "vllm-0.log").read_text().count("Application startup complete") == 2


def test_a_server_that_keeps_ending_is_given_up_and_the_last_one_ends_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask_for_ever(servers: VLLMBackend) -> None:
        while True:
            await servers.complete(REQUEST)

    async def run() -> None:
        servers = backend(tmp_path, replicas=2, arguments={"label": str(tmp_path), "once": str(tmp_path)})
        try:
            await servers.start()
            first, second = pids(servers)
            os.kill(first, signal.SIGKILL)
            while "Going on with the other 1" not in caplog.text:
                await asyncio.sleep(0.1)
                assert (await servers.complete(REQUEST)).text
            os.kill(second, signal.SIGKILL)
            with pytest.raises(BackendDown, match=r"ended 3 times in a row without staying healthy.*started before"):
                await ask_for_ever(servers)
        finally:
            await servers.close()

    asyncio.run(run())
    assert not processes(tmp_path)


def test_no_key_is_on_a_command_line_or_in_a_log_and_without_it_a_server_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> str:
        servers = backend(tmp_path, arguments={"label": str(tmp_path)})
        try:
            await servers.start()
            (pid,) = pids(servers)
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            (key,) = [entry.split(b"=")[1] for entry in environment if entry.startswith(b"VLLM_API_KEY=")]
            assert key not in Path(f"/proc/{pid}/cmdline").read_bytes()
            stranger = OpenAIBackend([servers._endpoints[0].url], MODEL)
            with pytest.raises(BadInput, match=r"refused the API key \(status 401\)"):
                await stranger.start()
            await stranger.close()
        finally:
            await servers.close()
        return key.decode()

    key = asyncio.run(run())
    assert len(key) == 32
    assert key not in caplog.text + (tmp_path / "vllm-0.log").read_text()


@pytest.mark.parametrize("name", ["host", "port", "api-key", "api_key"])
def test_arguments_that_the_backend_sets_itself_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=rf"backend\.arguments: remove {name.replace('_', '-')}: "):
        backend(tmp_path, arguments={name: "x"})


def test_arguments_are_written_as_vllm_reads_them(tmp_path: Path) -> None:
    arguments = {
        "enforce_eager": True,
        "enable-prefix-caching": False,
        "default-chat-template-kwargs": {"enable_thinking": False},
        "served-model-name": ["one", "two"],
        "dtype": "float32",
    }
    assert backend(tmp_path, arguments=arguments)._command_line[-9:] == [
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--default-chat-template-kwargs",
        '{"enable_thinking": false}',
        "--served-model-name",
        "one",
        "two",
        "--dtype",
        "float32",
    ]


@pytest.mark.parametrize("kind", ["tensor", "data"])
@pytest.mark.parametrize("size", ["two", 0, -1, 1.5, None])
def test_a_parallel_size_that_is_no_number_is_named(tmp_path: Path, size: object, kind: str) -> None:
    with pytest.raises(BadInput, match=rf"backend\.arguments\.{kind}-parallel-size: .* is no number of GPUs"):
        backend(tmp_path, arguments={f"{kind}-parallel-size": size})


def test_a_server_has_a_gpu_for_each_of_its_ranks(tmp_path: Path) -> None:
    sizes = {"tensor-parallel-size": 2, "pipeline_parallel_size": 3, "data-parallel-size": 4}
    assert backend(tmp_path, arguments=sizes)._gpus_each == 24


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"backend\.command: no-such-vllm is not found"):
        asyncio.run(VLLMBackend(MODEL, ["no-such-vllm"], 1, {}, tmp_path).start())


def test_gpus_are_shared_out_and_too_few_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert gpus_of_replicas(2, 2) == ["4,5", "6,7"]
    assert gpus_of_replicas(1, 8) == [None]
    with pytest.raises(BadInput, match="need 6, but CUDA_VISIBLE_DEVICES names 4"):
        gpus_of_replicas(3, 2)


def test_known_generators_get_their_measured_settings_and_others_none() -> None:
    assert tuned("Qwen/Qwen3-30B-A3B-Instruct-2507")["max-num-seqs"] == 512
    assert tuned("someone/model") == {}
