"""How long the training is that an axolotl config describes, what it costs, and the settings that do not fit that."""

import math
import re
from collections.abc import Iterator
from typing import Any

from smt_plugin.training.check.known import Fact, Finding, Known, Note, Problem
from smt_plugin.training.h100 import PEAK_FLOPS, UTILIZATION

# Fewer optimizer steps than this teach next to nothing, whatever the learning rate; our choice.
MIN_STEPS = 10


def size(known: Known) -> Iterator[Finding]:
    """Tokens, steps, FLOP, hours and memory, and settings that do not fit them; nothing if not all could be counted."""
    config, num_gpus = known.config, known.num_gpus
    counted = [data.tokens for data in known.files if data.tokens is not None]
    if known.refused or not known.accepted.get("base_model") or not counted or len(counted) < len(known.files):
        return
    texts = sum(data.rows for data in known.files)
    held_out = float(config.val_set_size or 0)  # a part of the texts, or their number
    if held_out >= 1:
        held_out = min(held_out / max(texts, 1), 1.0)
    if held_out:
        yield Note(
            f"val_set_size: {config.val_set_size} holds {held_out:.1%} of the texts out, and nothing that they alone "
            "say is learned; mix.validation_rounds leaves no document out."
        )
    tokens, texts = round(sum(counted) * (1 - held_out)), round(texts * (1 - held_out))
    together = int(config.tensor_parallel_size or 1) * int(config.context_parallel_size or 1)
    if num_gpus % together:
        yield Problem(
            f"tensor_parallel_size x context_parallel_size: {together} GPUs share a row, of which {num_gpus} GPUs are "
            "no multiple; lower them, or give --gpus."
        )
        return
    # Rows are texts or, packed, what is filled with them; a step takes a batch of them.
    rows = math.ceil(tokens / config.sequence_len) if config.sample_packing else texts
    epochs = float(config.num_epochs or 1)
    micro, accumulation = int(config.micro_batch_size or 1), int(config.gradient_accumulation_steps or 1)
    groups = num_gpus // together
    batch = micro * accumulation * groups
    # As axolotl counts: packed, what does not fill a step is left out of each epoch.
    all_steps = max(1, rows // batch) * epochs if config.sample_packing else rows * epochs / batch
    steps = int(config.max_steps or 0) if (config.max_steps or 0) > 0 else math.ceil(all_steps)
    warmup = int(config.warmup_steps if config.warmup_steps is not None else (config.warmup_ratio or 0) * steps)
    if config.max_steps and config.max_steps > math.ceil(all_steps):
        yield Problem(
            f"max_steps: {config.max_steps} steps go {config.max_steps / all_steps * epochs:.1f} times over the data, "
            f"not {epochs:g} times as num_epochs says; take one of the two out."
        )
    if steps < MIN_STEPS:
        yield Problem(
            f"micro_batch_size x gradient_accumulation_steps x GPUs: {batch} rows a step leave {steps} optimizer "
            f"steps, too few to learn from (under {MIN_STEPS}); lower them, or mix more tokens."
        )
    if config.warmup_ratio and config.warmup_steps is None and warmup == 0:
        yield Problem(
            f"warmup_ratio: {config.warmup_ratio:g} of {steps} steps is no warm-up at all; set warmup_steps, or train "
            "more steps."
        )
    if warmup >= steps:
        yield Problem(f"warmup_steps: {warmup} of {steps} steps are all of them; set fewer.")
    yield Fact(f"tokens: {tokens:,} in {texts:,} texts, {epochs:g} times over")
    shown_rows = f"{tokens:,} tokens / {config.sequence_len} a row" if config.sample_packing else f"{texts:,} rows"
    gpus = f"{groups} groups of {together} GPUs" if together > 1 else f"{groups} GPUs"
    yield Fact(
        f"steps:  about {steps:,}: {shown_rows} / ({micro} x {accumulation} x {gpus} = {batch} rows a step) x "
        f"{epochs:g} epochs; {warmup} of warm-up"
    )
    times_over = steps * batch / max(1, rows)
    yield from _cost(known, (times_over if config.max_steps else min(times_over, epochs)) * tokens)


def _cost(known: Known, tokens: float) -> Iterator[Finding]:
    """FLOP, hours on H100s, and memory of a training on so many tokens."""
    config, num_gpus = known.config, known.num_gpus
    count, origin = parameters_of(config.base_model)
    if count is None:
        yield Note(f"base_model {config.base_model}: {origin}, so FLOP, hours and memory are not known.")
        return
    each = 4 if config.adapter else 6
    flop = each * count * tokens
    hours = flop / (num_gpus * UTILIZATION * PEAK_FLOPS * 3600)
    yield Fact(f"FLOP:   {each} x {count:.3g} parameters ({origin}) x {tokens:.3g} tokens = {flop:.2g}")
    yield Fact(
        f"hours:  {flop:.2g} FLOP / ({num_gpus} GPUs x {UTILIZATION} x {PEAK_FLOPS:.3g} FLOP/s x 3600 s) = "
        f"{hours:.3g}, at {UTILIZATION:.0%} of an H100"
    )
    yield Fact(f"memory: {_memory(config, known.deepspeed, count, num_gpus)}")


def _memory(config: Any, deepspeed: dict[str, Any], count: float, num_gpus: int) -> str:
    if config.adapter:
        each = 0.5 if config.load_in_4bit else 1 if config.load_in_8bit else 2
        size = f"{each:g} bytes x {count:.3g} frozen parameters = {each * count / 1e9:.3g} GB a GPU"
        return f"{size}, the adapter and activations"
    in_bf16_alone = (config.bf16 or config.bfloat16) and not deepspeed
    each = 8 if in_bf16_alone else 16
    total = f"{each} bytes x {count:.3g} (weights, gradients, two moments) = {each * count / 1e9:.3g} GB"
    zero = deepspeed.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    is_shared = stage == 3 or config.fsdp_version
    shared = f" over {num_gpus} GPUs, {each * count / 1e9 / num_gpus:.3g} GB each" if is_shared else " a GPU"
    return f"{total}{shared}, and activations"


def parameters_of(model: str) -> tuple[float | None, str]:
    """How many weights a model has, and how that is known; nothing is loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        shape = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            weights = AutoModelForCausalLM.from_config(shape).parameters()
        return float(sum(each.numel() for each in weights)), "counted from its config.json"
    # The hub, the network and every architecture have errors of their own.
    except Exception:
        size = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)[Bb](?![A-Za-z])", model.rpartition("/")[2])
        if size is None:
            return None, "its config.json cannot be loaded here"
        return float(size[1]) * 1e9, "by its name, since its config.json cannot be loaded here"
