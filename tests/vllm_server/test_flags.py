"""Every flag of vLLM that is set, printed or documented here is one of the installed vLLM's own."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from smt_plugin.backends import vllm_server
from tests.vllm_server.server import ARGUMENTS, VLLM

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
FLAG = r"(?<![\w-])--?[a-zA-Z][\w-]*"
# How each of vLLM's programs is called -> its own command.
PROGRAMS = {
    r"vllm serve|vllm\.entrypoints\.openai\.api_server": ["serve"],
    r"vllm run-batch": ["run-batch"],
    r'VLLM, "bench", "serve"': ["bench", "serve"],
}


def texts() -> dict[str, str]:
    """Files that may hold a command or an option of vLLM, by their path, with broken lines joined."""
    places = [*ROOT.glob("*.md"), ROOT / "Makefile", *(ROOT / "benchmarks").glob("*.py")]
    for folder in ("docs", "examples", "lm_eval_tasks", "smt_plugin"):
        places += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py", ".sh", ".yaml")]
    return {str(path.relative_to(ROOT)): path.read_text("utf-8").replace("\\\n", " ") for path in places}


def commands(text: str, is_prose: bool, program: str) -> Iterator[str]:
    """Calls of a program: the lines of a text that hold one, of Markdown those in code blocks alone."""
    pieces = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) if is_prose else [text]
    for piece in pieces:
        # A list of arguments in Python goes on in the lines that add to it.
        yield from re.findall(rf"^.*(?:{program}).*(?:\n +command \+= .*)*", piece, re.MULTILINE)


def named_options(text: str) -> Iterator[str]:
    """Options of `vllm serve` that prose and run files name: `arguments: {...}`, flags in lines about vLLM, sizes."""
    for mapping in re.findall(r"\barguments: (\{(?:[^{}]|\{[^{}]*\})*\})", text):
        yield from (f"--{name}" for name in yaml.safe_load(mapping))
    for line in text.splitlines():
        if "vLLM" in line and "llama.cpp" not in line:
            yield from re.findall(FLAG, " ".join(re.findall(r"`(--[^`]*)`", line)))
    yield from (f"--{name}" for name in re.findall(r"`([a-z]+(?:-[a-z]+)*-(?:parser|parallel-size))`", text))


def known_flags(arguments: list[str], environment: dict[str, str]) -> set[str]:
    """All that a program's own help names."""
    told = subprocess.run(
        [VLLM, *arguments, "--help=all"], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return set(re.findall(FLAG, told.stdout))


def test_every_flag_in_a_command_is_known_to_its_program(vllm_environment: dict[str, str]) -> None:
    for program, arguments in PROGRAMS.items():
        ours = {
            (flag, path)
            for path, text in texts().items()
            for command in commands(text, path.endswith(".md"), program)
            for flag in re.findall(FLAG, re.split(program, command, maxsplit=1)[1].partition("#")[0])
        }
        assert ours, program
        known = known_flags(arguments, vllm_environment)
        assert {"--model", "--help"} <= known
        assert sorted((flag, path) for flag, path in ours if flag not in known) == []


def test_every_option_that_is_set_or_named_is_known_to_the_server(vllm_environment: dict[str, str]) -> None:
    ours = {(flag, path) for path, text in texts().items() if path.endswith(".md") for flag in named_options(text)}
    assert {"--tensor-parallel-size", "--reasoning-parser", "--max-model-len"} <= {flag for flag, _ in ours}
    ours |= {(f"--{name}", "the tuned settings") for settings in vllm_server.TUNED.values() for name in settings}
    ours |= {(f"--{name}", "what the backend sets") for name in vllm_server._RESERVED}
    ours |= {(f"--{name}", "the tests' server") for name in ARGUMENTS}
    known = known_flags(["serve"], vllm_environment)
    assert sorted((flag, path) for flag, path in ours if flag not in known) == []
