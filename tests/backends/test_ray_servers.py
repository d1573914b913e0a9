"""`smt generate` whose servers a real Ray cluster places; they are stand-ins, which need no GPU."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from smt_plugin.backends.ray_servers import _result
from tests.endpoint import MODEL
from tests.processes import processes, wait_for

ROOT = Path(__file__).parents[2]
TOKENS = {"synthetic_qa": 6_000, "active_reading": 6_000, "focal_rewrite": 6_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node with four places for servers and four GPUs, as far as Ray knows; tests add nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        options = {"num_cpus": 4, "num_gpus": 4, "resources": {"place": 4}, "object_store_memory": 100 << 20}
        cluster = Cluster(initialize_head=True, head_node_args=options)
        ray.init(cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def start(folder: Path, **backend: Any) -> "subprocess.Popen[str]":
    """Start `smt generate` on six stories; what is the same in all runs here gives the same records."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for n in range(6):
        (corpus / f"story {n}.txt").write_text(f"Story {n} tells of {n}. " * (20 + 10 * n))
    settings = {"kind": "vllm", "model": MODEL, "command": [sys.executable, "-m", "tests.fake_vllm"], **backend}
    settings["arguments"] = {"label": str(folder), "seconds": 0.2, **backend.get("arguments", {})}
    run_file = {
        "run": "run",
        "corpus": "corpus",
        "backend": settings,
        "methods": {name: {"tokens": tokens, "seed": 1} for name, tokens in TOKENS.items()},
    }
    (folder / "smt.yaml").write_text(json.dumps(run_file))
    return subprocess.Popen(
        [sys.executable, "-m", "smt_plugin", "generate", "smt.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_on(cluster: Cluster, folder: Path, **backend: Any) -> "subprocess.Popen[str]":
    return start(folder, **{"ray": cluster.address, "resources": {"place": 1}, **backend})


def records(process: "subprocess.Popen[str]", folder: Path) -> set[str]:
    """Wait for a run that ends well, and return its records."""
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-4000:]
    rows = [
        json.loads(line)
        for path in sorted((folder / "run" / "records").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(rows) == len({row["id"] for row in rows})
    return {json.dumps(row, sort_keys=True) for row in rows}


def log(folder: Path, number: int) -> str:
    path = folder / "run" / f"vllm-{number}.log"
    return path.read_text() if path.exists() else ""


def servers_of(folder: Path) -> list[int]:
    """Return the processes of the run's servers, without their engines."""
    return [pid for pid in processes(folder) if b"tests.fake_vllm" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def parent_of(pid: int) -> int:
    return int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The records that one server and one process give."""
    folder = tmp_path_factory.mktemp("one")
    found = records(start(folder), folder)
    assert len(found) > 100
    return found


def test_two_replicas_placed_by_ray_give_the_records_of_one_server_and_the_key_stays_secret(
    cluster: Cluster, expected: set[str], tmp_path: Path
) -> None:
    process = start(tmp_path, ray=cluster.address, replicas=2, arguments={"tensor-parallel-size": 2})
    assert wait_for(lambda: "answered" in log(tmp_path, 0) and "answered" in log(tmp_path, 1), 120)
    # Ray hands out the GPUs: one for each rank.
    gpus = [re.findall(r"GPUs (\d),(\d)", log(tmp_path, number)) for number in range(2)]
    assert sorted(gpu for ((first, second),) in gpus for gpu in (first, second)) == ["0", "1", "2", "3"]
    environment = Path(f"/proc/{servers_of(tmp_path)[0]}/environ").read_bytes().split(b"\0")
    (key,) = [entry.split(b"=")[1] for entry in environment if entry.startswith(b"VLLM_API_KEY=")]
    assert records(process, tmp_path) == expected
    assert not processes(tmp_path)
    assert len(key) == 32
    written = [*(tmp_path / "run").rglob("*"), *Path(cluster.head_node.get_session_dir_path()).rglob("*")]
    for path in written:
        assert not path.is_file() or key not in path.read_bytes(), path


@pytest.mark.parametrize("victim", ["server", pytest.param("actor", marks=pytest.mark.slow)])
def test_replicas_killed_midway_are_replaced_and_change_nothing(
    cluster: Cluster, expected: set[str], tmp_path: Path, victim: str
) -> None:
    process = start_on(cluster, tmp_path, replicas=2)
    assert wait_for(lambda: "answered" in log(tmp_path, 0) and "answered" in log(tmp_path, 1), 120)
    # Both, since the run might be over before one of them is missed.
    for server in servers_of(tmp_path):
        os.kill(server if victim == "server" else parent_of(server), signal.SIGKILL)
    assert records(process, tmp_path) == expected
    assert [log(tmp_path, number).count("Application startup complete") for number in range(2)] == [2, 2]
    assert not processes(tmp_path)


@pytest.mark.slow
def test_a_replica_whose_node_is_gone_is_placed_on_another(
    cluster: Cluster, expected: set[str], tmp_path: Path
) -> None:
    # Both are there before the run starts, which might be over before a node has joined.
    nodes = [cluster.add_node(resources={"elsewhere": 1}, object_store_memory=100 << 20) for _ in range(2)]
    process = start_on(cluster, tmp_path, resources={"elsewhere": 1}, arguments={"seconds": 0.5})
    try:
        assert wait_for(lambda: log(tmp_path, 0).count("answered") > 5, 120)
        (first,) = servers_of(tmp_path)
        # It is not on the driver's node, so it has to be reached over the network.
        assert b"127.0.0.1" not in Path(f"/proc/{first}/cmdline").read_bytes()
        raylet = int(_environment(first)["RAY_RAYLET_PID"])
        (its,) = [node for node in nodes if node.all_processes["raylet"][0].process.pid == raylet]
        nodes.remove(its)
        cluster.remove_node(its, allow_graceful=False)
        assert wait_for(lambda: first not in processes(tmp_path), 60)
        assert records(process, tmp_path) == expected
        assert log(tmp_path, 0).count("Application startup complete") == 2
    finally:
        process.kill()
        process.communicate()
        for node in nodes:
            cluster.remove_node(node)


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM))],
)
def test_a_driver_that_is_killed_or_interrupted_leaves_no_server_behind(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    process = start_on(cluster, tmp_path, replicas=2)
    assert wait_for(lambda: "answered" in log(tmp_path, 0) and "answered" in log(tmp_path, 1), 120)
    assert len(processes(tmp_path)) == 4
    process.send_signal(number)
    process.communicate(timeout=60)
    # Ray's own handling of SIGTERM would end it with 15, and with the servers left to the guards.
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert wait_for(lambda: not processes(tmp_path), 60)
    assert wait_for(lambda: ray.available_resources().get("place") == 4, 60)


def test_a_cluster_that_is_too_small_is_named_at_once(cluster: Cluster, tmp_path: Path) -> None:
    process = start_on(cluster, tmp_path, replicas=3, resources={"place": 2, "GPU": 8})
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert (
        "3 replicas need 2 place, 8 GPU each, on one node, but the cluster of 1 node(s) with 4 place, 4 GPU" in errors
    )
    assert len(errors.strip().splitlines()) == 1


def test_a_cluster_that_is_busy_is_waited_for_only_so_long(cluster: Cluster, tmp_path: Path) -> None:
    holder = ray.remote(resources={"place": 3})(_Holder).remote()
    try:
        ray.get(holder.hold.remote())
        process = start_on(cluster, tmp_path, replicas=2, startup_timeout=8)
        _, errors = process.communicate(timeout=120)
    finally:
        ray.kill(holder)
    assert process.returncode == 1
    assert "in 8 s Ray found no node with 1 place free for vLLM" in errors
    assert not processes(tmp_path)


class _Holder:
    def hold(self) -> None:
        return None


def test_a_server_that_breaks_on_its_node_is_named_with_its_log(cluster: Cluster, tmp_path: Path) -> None:
    process = start_on(cluster, tmp_path, arguments={"break": True})
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(r"vLLM ended with status 1 on node [\d.]+; its log .*vllm-0.log ends with.*out of memory", errors)
    process = start_on(cluster, tmp_path / "2", command=["no-such-vllm"])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(r"backend\.command: no-such-vllm is not found on node [\d.]+", errors)


def test_an_address_without_a_cluster_is_named_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, ray="127.0.0.1:1", resources={"CPU": 1})
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no Ray cluster at '127.0.0.1:1'" in errors


@pytest.mark.slow
def test_a_cluster_of_ones_own_is_started_and_gone_afterwards(expected: set[str], tmp_path: Path) -> None:
    process = start(tmp_path, ray="local", resources={"CPU": 1}, replicas=2)
    assert wait_for(lambda: servers_of(tmp_path), 120)
    raylet = int(_environment(servers_of(tmp_path)[0])["RAY_RAYLET_PID"])
    assert records(process, tmp_path) == expected
    assert not processes(tmp_path)
    assert wait_for(lambda: not Path(f"/proc/{raylet}").exists(), 30)


def test_a_call_that_is_cancelled_when_its_result_arrives_is_cancelled() -> None:
    class Reference:
        arrived: "Future[int]" = Future()

        def future(self) -> "Future[int]":
            return self.arrived

    async def cancel() -> None:
        call = asyncio.create_task(_result(Reference(), 60))
        await asyncio.sleep(0)
        Reference.arrived.set_result(1)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancel())


def _environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)
