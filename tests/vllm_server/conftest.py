"""A real vLLM server (its CPU build) with a tiny Llama made on the spot, one for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm_server import server as vllm
from tests.vllm_server.markov_llama import make_markov_llama


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny Llama."""
    return make_markov_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def vllm_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables under which `vllm serve` of the CPU build runs on a machine of two cores."""
    return vllm.vllm_environment(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(scope="session")
def server(
    model_folder: Path, vllm_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[vllm.Server]:
    """A server that the tests share."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with vllm.running_server(model_folder, vllm_environment, log) as running:
        yield running
