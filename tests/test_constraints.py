"""The pinned environments and the documented ones resolve from the package registry, on machines other than this."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow  # asks the registry


def resolved(python: str, extras: str, *arguments: str) -> dict[str, str]:
    """Package -> version, as uv resolves this project for Linux on x86-64."""
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--system-certs", "pyproject.toml"]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", *arguments]
    command += [f"--extra={extra}" for extra in extras.split()]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))


@pytest.mark.parametrize(
    ("python", "constraints", "axolotl"),
    [("3.11", "train", "0.19.0"), ("3.12", "train-py312", "0.21.0"), ("3.13", "train-py312", "0.21.0")],
)
def test_the_environment_of_make_test_resolves_with_the_registrys_torch(
    python: str, constraints: str, axolotl: str
) -> None:
    pins = f"--constraint=constraints/{constraints}.txt"
    assert resolved(python, "train eval rag smollm2 vectors ray documents dev", pins)["axolotl"] == axolotl


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_newest_lm_evals_environment_resolves_with_the_registrys_torch(python: str) -> None:
    assert resolved(python, "eval rag", "--constraint=constraints/lm-eval-latest.txt")["lm-eval"] == "0.4.13"


def test_one_environment_for_axolotl_and_vllm_resolves_with_the_documented_override(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    override = tmp_path / "override.txt"
    override.write_text(re.search(r"echo '(pillow\S+)' > override\.txt", text)[1])  # type: ignore[index]
    found = resolved("3.12", "train eval rag vllm", f"--override={override}")
    assert (found["axolotl"], found["vllm"]) == ("0.21.0", "0.33.0")
