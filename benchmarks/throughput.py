"""How fast does a shipped config train, packed and unpacked?

    python -m benchmarks.throughput --model llama-3.2-1b           (one GPU of 80 GB, with the `train` extra)
    python -m benchmarks.throughput --model llama-3.1-8b --gpus 4
    python -m benchmarks.throughput --model tiny                   (CPU: shows that the script works, and no speed)

Writes a randomly initialised model of the target's shape and invented texts of the lengths of real records (half of the
tokens in texts of some 110 tokens, as question-answer pairs are, half in texts of some 700), mixes them, and runs the
real `axolotl train` on the shipped config for --steps steps: as shipped, and with axolotl's default, unpacked. Speed
is that after the first --skip steps, by the times at which axolotl logs each step and the tokens that it counts.
MFU = 6 x parameters x real tokens/s / (GPUs x --peak); attention's own FLOP are left out. Prints a Markdown table.
All of it, of the size of the model and more, is written to --folder and deleted at the end.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import orjson
import yaml

from smt_plugin.mixing.mix import mix_run
from smt_plugin.mixing.settings import MixSettings
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.h100 import PEAK_FLOPS
from smt_plugin.training.shipped import read_config
from tests.tiny_llama import LLAMA_LIKE, QWEN_LIKE, make_tokenizer


def _shape(layers: int, hidden: int, inner: int, heads: int, head: int, words: int, tied: bool) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": head,
        "vocab_size": words,
        "tie_word_embeddings": tied,
    }


# From the models' own config.json files.
SHAPES = {
    "llama-3.2-1b": _shape(16, 2048, 8192, 32, 64, 128_256, True),
    "llama-3.1-8b": _shape(32, 4096, 14_336, 32, 128, 128_256, False),
    "qwen3-1.7b": _shape(28, 2048, 6144, 16, 128, 151_936, True),
    "qwen3-4b": _shape(36, 2560, 9728, 32, 128, 151_936, True),
    "qwen3-8b": _shape(36, 4096, 12_288, 32, 128, 151_936, False),
    "qwen3-14b": _shape(40, 5120, 17_408, 40, 128, 151_936, False),
}
TINY = _shape(2, 64, 128, 8, 8, 512, True)
PAIR, REWRITE = 110, 700  # tokens
ROWS = 16  # a step, all GPUs together
UNPACKED = {"sample_packing": False, "pad_to_sequence_len": None}
_COUNTS = re.compile(r"'tokens/trainable': '?(\d+).*'tokens/total': '?(\d+)")
OVERLAY = Path(__file__).parents[1] / "tests" / "cpu_overlay.yaml"


@dataclass(frozen=True)
class Speed:
    """What a training did in the steps that count: real tokens, positions, and the wall time."""

    steps: int
    tokens: int
    positions: int
    seconds: float


def make_model(folder: Path, name: str) -> int:
    """Write a random model of this shape in bf16, with a tokenizer of bytes, and return the number of its weights."""
    import torch
    import transformers

    is_qwen = name.startswith("qwen")
    make_tokenizer(folder, QWEN_LIKE if is_qwen else LLAMA_LIKE)
    config, model = (
        (transformers.Qwen3Config, transformers.Qwen3ForCausalLM)
        if is_qwen
        else (transformers.LlamaConfig, transformers.LlamaForCausalLM)
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    made = model(config(**SHAPES.get(name, TINY), max_position_embeddings=4096))
    torch.set_default_dtype(torch.float32)
    made.save_pretrained(folder)
    return sum(weights.numel() for weights in made.parameters())


def invent(path: Path, length: int, tokens: int, seed: int) -> None:
    """Write texts of random letters, each a token, of a half to one and a half of `length`."""
    rng = random.Random(seed)
    letters = "abcdefghij klmnopq rstuvwxyz"
    with path.open("wb") as file:
        while tokens > 0:
            size = rng.randint(length // 2, length * 3 // 2)
            file.write(orjson.dumps({"text": "".join(rng.choices(letters, k=size)).strip() + "."}) + b"\n")
            tokens -= size


def logged(command: list[str]) -> Iterator[tuple[float, int, int]]:
    """Run a training and yield, as each step is logged: the time, trained tokens and positions so far."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said = [*said[-40:], line]
        counts = _COUNTS.search(line)
        if counts:
            yield time.perf_counter(), int(counts[1]), int(counts[2])
    if process.wait() != 0:
        sys.exit("axolotl train failed:\n" + "".join(said))


def train(run: Path, config: str, model: Path, changes: dict[str, Any], skip: int) -> Speed:
    """Train and measure all steps but the first `skip`."""
    path = write_axolotl_config(run, config, str(model), changes)
    launcher = ["--launcher", "python"] if changes.get("use_cpu") else []
    steps = list(logged([str(Path(sys.executable).parent / "axolotl"), "train", str(path), *launcher]))
    if len(steps) <= skip + 1:
        sys.exit(f"axolotl logged {len(steps)} steps, of which {skip} do not count; give more --steps.")
    (began, tokens, positions), (ended, all_tokens, all_positions) = steps[skip], steps[-1]
    return Speed(len(steps) - 1 - skip, all_tokens - tokens, all_positions - positions, ended - began)


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", *SHAPES], required=True)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--skip", type=int, default=10, help="first steps, which compile and warm up")
    parser.add_argument("--peak", type=float, default=PEAK_FLOPS, help="FLOP/s of a GPU; default: H100, dense bf16")
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()), help="default: the system's for such files")
    chosen = parser.parse_args(arguments)
    # No random letters: axolotl takes a model below a folder `tmpt7x` for an MPT model.
    work = chosen.folder / f"throughput-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        measure(chosen, work)
    finally:
        shutil.rmtree(work)


def measure(chosen: argparse.Namespace, work: Path) -> None:
    """Train both ways in an empty folder and print the table."""
    on_cpu = chosen.model == "tiny"
    config = "llama-3.2-1b/full" if on_cpu else f"{chosen.model}/full"
    shipped = read_config(config)
    length = shipped["sequence_len"]
    run, model = work / "run", work / "model"
    size = make_model(model, chosen.model)
    sources = {"pairs": work / "pairs.jsonl", "rewrites": work / "rewrites.jsonl"}
    for seed, (name, mean) in enumerate((("pairs", PAIR), ("rewrites", REWRITE))):
        invent(sources[name], mean, round(ROWS * length * (chosen.steps + 2) * 0.55), seed)
    shares = dict.fromkeys(sources, 1.0)
    mix_run(run, MixSettings(str(model), shares=shares, sources=sources, replay_share=0, sequence_len=length))
    base: dict[str, Any] = {"max_steps": chosen.steps, "num_epochs": 1, "logging_steps": 1}
    base |= {"saves_per_epoch": None, "save_strategy": "no"}
    if on_cpu:
        base |= yaml.safe_load(OVERLAY.read_text()) | {"use_cpu": True}
    else:
        base["gradient_accumulation_steps"] = max(1, ROWS // (chosen.gpus * shipped["micro_batch_size"]))
    print(f"{size:,} parameters, {chosen.gpus} x {'CPU' if on_cpu else 'GPU'}, {config}\n")
    print("| | steps | seconds | positions/s | real tokens | real tokens/s | MFU |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for what, changes in (("packed, as shipped", {}), ("axolotl's unpacked default", UNPACKED)):
        speed = train(run, config, model, {**base, **changes}, chosen.skip)
        rate = speed.tokens / speed.seconds
        print(
            f"| {what} | {speed.steps} | {speed.seconds:.1f} | {speed.positions / speed.seconds:,.0f} "
            f"| {speed.tokens / speed.positions:.1%} | {rate:,.0f} "
            f"| {6 * size * rate / (chosen.gpus * chosen.peak):.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
