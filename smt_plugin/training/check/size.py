"""How long the training is that an axolotl config describes, what it costs, and the settings that do not fit that."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from smt_plugin.training.check.known import Fact, Finding, Known, Note, Problem
from smt_plugin.training.h100 import PEAK_FLOPS, UTILIZATION, h100_hours

# Fewer optimizer steps than this teach next to nothing, whatever the learning rate; our choice.
MIN_STEPS = 10


@dataclass(frozen=True, slots=True)
class _Size:
    """How long a training is.

    Attributes:
        tokens: of an epoch, as are the texts and the rows, each a text or, packed, of sequence_len tokens.
        together: GPUs that share a row.
        batch: rows of a step.
        all_steps: those that num_epochs asks for.
        steps: those that are taken.
        warmup: those of them in which the learning rate rises.
    """

    tokens: int
    texts: int
    rows: int
    epochs: float
    together: int
    batch: int
    all_steps: float
    steps: int
    warmup: int


def held_out(known: Known) -> Iterator[Finding]:
    """Texts that are taken from the training to evaluate on."""
    if (counted := _counted(known)) and known.config.val_set_size:
        yield Note(
            f"val_set_size: {known.config.val_set_size} holds {_share_held_out(known, counted[1]):.1%} of the texts "
            "out, and nothing that they alone say is learned; mix.validation_rounds leaves no document out."
        )


def shared_rows(known: Known) -> Iterator[Finding]:
    """GPUs that cannot be divided into groups that share a row."""
    together = _together(known)
    if _counted(known) and known.num_gpus % together:
        yield Problem(
            f"tensor_parallel_size x context_parallel_size: {together} GPUs share a row, of which {known.num_gpus} "
            "GPUs are no multiple; lower them, or give --gpus."
        )


def steps(known: Known) -> Iterator[Finding]:
    """Too many steps, too few, or a warm-up that does not fit them."""
    if (size := _size(known)) is None:
        return
    config = known.config
    if config.max_steps and config.max_steps > math.ceil(size.all_steps):
        yield Problem(
            f"max_steps: {config.max_steps} steps go {config.max_steps / size.all_steps * size.epochs:.1f} times over "
            f"the data, not {size.epochs:g} times as num_epochs says; take one of the two out."
        )
    if size.steps < MIN_STEPS:
        yield Problem(
            f"micro_batch_size x gradient_accumulation_steps x GPUs: {size.batch} rows a step leave {size.steps} "
            f"optimizer steps, too few to learn from (under {MIN_STEPS}); lower them, or mix more tokens."
        )
    if config.warmup_ratio and config.warmup_steps is None and size.warmup == 0:
        yield Problem(
            f"warmup_ratio: {config.warmup_ratio:g} of {size.steps} steps is no warm-up at all; set warmup_steps, or "
            "train more steps."
        )
    if size.warmup >= size.steps:
        yield Problem(f"warmup_steps: {size.warmup} of {size.steps} steps are all of them; set fewer.")


def length(known: Known) -> Iterator[Finding]:
    """The training's tokens and steps."""
    if (size := _size(known)) is None:
        return
    config, groups = known.config, known.num_gpus // size.together
    yield Fact(f"tokens: {size.tokens:,} in {size.texts:,} texts, {size.epochs:g} times over")
    rows = f"{size.tokens:,} tokens / {config.sequence_len} a row" if config.sample_packing else f"{size.texts:,} rows"
    gpus = f"{groups} groups of {size.together} GPUs" if size.together > 1 else f"{groups} GPUs"
    yield Fact(
        f"steps:  about {size.steps:,}: {rows} / ({int(config.micro_batch_size or 1)} x "
        f"{int(config.gradient_accumulation_steps or 1)} x {gpus} = {size.batch} rows a step) x {size.epochs:g} "
        f"epochs; {size.warmup} of warm-up"
    )


def cost(known: Known) -> Iterator[Finding]:
    """FLOP, hours on H100s, and memory."""
    if (size := _size(known)) is None:
        return
    config, num_gpus = known.config, known.num_gpus
    count, origin = _parameters(config.base_model)
    if count is None:
        yield Note(f"base_model {config.base_model}: {origin}, so FLOP, hours and memory are not known.")
        return
    times_over = size.steps * size.batch / max(1, size.rows)
    trained = (times_over if config.max_steps else min(times_over, size.epochs)) * size.tokens
    # Forward 2, backward 4 a weight; frozen weights need no gradient of their own.
    each = 4 if config.adapter else 6
    flop = each * count * trained
    yield Fact(f"FLOP:   {each} x {count:.3g} parameters ({origin}) x {trained:.3g} tokens = {flop:.2g}")
    yield Fact(
        f"hours:  {flop:.2g} FLOP / ({num_gpus} GPUs x {UTILIZATION} x {PEAK_FLOPS:.3g} FLOP/s x 3600 s) = "
        f"{h100_hours(flop, num_gpus):.3g}, at {UTILIZATION:.0%} of an H100"
    )
    yield Fact(f"memory: {_memory(known, count)}")


def _counted(known: Known) -> tuple[int, int] | None:
    """Tokens and number of all texts; None while keys are refused or texts could not be counted."""
    texts = [known.texts.get(data.where) for data in known.files]
    tokens = [each.tokens for each in texts if each and each.tokens is not None]
    if known.refused or not known.accepted.get("base_model") or not texts or len(tokens) < len(texts):
        return None
    return sum(tokens), sum(each.rows for each in texts if each)


def _share_held_out(known: Known, texts: int) -> float:
    size = float(known.config.val_set_size or 0)
    return size if size < 1 else min(size / max(texts, 1), 1.0)


def _together(known: Known) -> int:
    return int(known.config.tensor_parallel_size or 1) * int(known.config.context_parallel_size or 1)


def _size(known: Known) -> _Size | None:
    """The training's size; None where that cannot be known."""
    config, counted, together = known.config, _counted(known), _together(known)
    if counted is None or known.num_gpus % together:
        return None
    trained = 1 - _share_held_out(known, counted[1])
    tokens, texts = (round(count * trained) for count in counted)
    rows = math.ceil(tokens / config.sequence_len) if config.sample_packing else texts
    epochs = float(config.num_epochs or 1)
    groups = known.num_gpus // together
    batch = int(config.micro_batch_size or 1) * int(config.gradient_accumulation_steps or 1) * groups
    # As axolotl counts: packed, what does not fill a step is left out of each epoch.
    all_steps = max(1, rows // batch) * epochs if config.sample_packing else rows * epochs / batch
    steps = int(config.max_steps or 0) if (config.max_steps or 0) > 0 else math.ceil(all_steps)
    ratio = config.warmup_ratio or 0
    warmup = int(config.warmup_steps if config.warmup_steps is not None else ratio * steps)
    return _Size(tokens, texts, rows, epochs, together, batch, all_steps, steps, warmup)


def _memory(known: Known, count: float) -> str:
    config, num_gpus = known.config, known.num_gpus
    if config.adapter:
        each = 0.5 if config.load_in_4bit else 1 if config.load_in_8bit else 2
        size = f"{each:g} bytes x {count:.3g} frozen parameters = {each * count / 1e9:.3g} GB a GPU"
        return f"{size}, the adapter and activations"
    in_bf16_alone = (config.bf16 or config.bfloat16) and not known.deepspeed
    each = 8 if in_bf16_alone else 16
    total = f"{each} bytes x {count:.3g} (weights, gradients, two moments) = {each * count / 1e9:.3g} GB"
    zero = known.deepspeed.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    is_shared = stage == 3 or config.fsdp_version
    shared = f" over {num_gpus} GPUs, {each * count / 1e9 / num_gpus:.3g} GB each" if is_shared else " a GPU"
    return f"{total}{shared}, and activations"


def _parameters(model: str) -> tuple[float | None, str]:
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
