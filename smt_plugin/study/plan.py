"""What a study will write, train and cost, told before anything is spent."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.generation.generate import backend_of
from smt_plugin.generation.plan import Plan, flop_of, gate_lines, gpu_hours, make_plan, money_of
from smt_plugin.study.cells import Cell, of_each
from smt_plugin.study.run import is_done
from smt_plugin.training.check.size import parameters_of
from smt_plugin.training.h100 import PEAK_FLOPS, UTILIZATION
from smt_plugin.training.shipped import base_model_of, read_config


@dataclass(frozen=True, slots=True)
class CellPlan:
    """What a training takes.

    Attributes:
        tokens: of records and replay, each once.
        flop: None where the model's size is not known.
        has_max_steps: whether it ends by these, which this plan does not reckon with.
    """

    cell: Cell
    is_done: bool
    tokens: float
    epochs: float
    flop: float | None
    has_max_steps: bool


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What a study takes: the cells, and what is left to ask for the runs of records that they share."""

    cells: list[CellPlan]
    generated: list[tuple[RunFile, Plan]]


async def plan_study(cells: Sequence[Cell], train_configs: dict[str, str]) -> StudyPlan:
    """Work out what a study takes; nothing is asked or written.

    Args:
        train_configs: as of `run_cells`.

    Raises:
        BadInput: a corpus, a config or the settings of a backend are not as they should be.
    """
    sizes = {target: _size(cells, target, config) for target, config in train_configs.items()}
    planned = []
    for cell in cells:
        config = read_config(train_configs[cell.target])
        mix = cell.run_file.mix
        tokens = cell.budget / (1 - mix.replay_share if mix.replay else 1)
        epochs = _epochs(cell, config)
        size = sizes[cell.target]
        # 6 N D for N weights (Kaplan et al. 2020, arXiv 2001.08361); frozen ones need no gradients.
        flop = None if size is None else (4 if config.get("adapter") else 6) * size * tokens * epochs
        has_max_steps = bool(_argument(cell, "max_steps") or config.get("max_steps"))
        done = is_done(cell, train_configs[cell.target])
        planned.append(CellPlan(cell, done, tokens, epochs, flop, has_max_steps))
    # Mixes may be made of other runs' records alone.
    runs = [run for run in of_each(cells, lambda cell: cell.generated) if run.methods]
    return StudyPlan(planned, [(run, await make_plan(run, backend_of(run))) for run in runs])


def _epochs(cell: Cell, config: dict[str, Any]) -> float:
    value = _argument(cell, "num_epochs") or config.get("num_epochs") or 1
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadInput(f"num_epochs of {cell.name}: {value!r} is no number; correct it in its config.") from None


def _argument(cell: Cell, key: str) -> str | None:
    """What the arguments of `axolotl train` say of a key of its config, as `--key value` or `--key=value`."""
    words = [word for argument in cell.train_arguments for word in argument.split("=", 1)]
    options = [word.removeprefix("--").replace("-", "_") for word in words]
    return dict(zip(options, words[1:], strict=False)).get(key)  # the last one counts


def _size(cells: Sequence[Cell], target: str, config: str) -> float | None:
    cell = next(cell for cell in cells if cell.target == target)
    # torch and what it imports warn of what only GPUs need.
    logging.disable(logging.CRITICAL)
    try:
        return parameters_of(base_model_of(config, cell.run_file.train.base_model))[0]
    finally:
        logging.disable(logging.NOTSET)


def plan_lines(plan: StudyPlan) -> list[str]:
    """Return the plan as a person reads it, in lines."""
    cells = [each.cell for each in plan.cells]
    left = [each for each in plan.cells if not each.is_done]
    width = max(len(cell.name) for cell in cells)
    lines = [f"{len(cells)} cells, {len(cells) - len(left)} of them done:"]
    for place, each in enumerate(plan.cells, 1):
        flop = "size of the model not known" if each.flop is None else f"{each.flop:.2g} FLOP"
        done = ", done" if each.is_done else ""
        begin = f"{place:>4}/{len(cells)}  {each.cell.name:<{width}}"
        lines.append(f"{begin}  {each.tokens:>14,.0f} tokens x {each.epochs:g} epochs, {flop}{done}")
    lines.append("made once for several cells:")
    uses = Counter(run.run for cell in cells for run in (cell.generated, cell.mixed, cell.base))
    for run, asked in plan.generated:
        calls = asked.total("calls") - asked.total("stored")
        lines.append(
            f"      {_name(run)}  for {uses[run.run]} cells: {calls:,.0f} calls, "
            f"{asked.total('output_tokens'):,.0f} tokens to write by {asked.model}"
        )
        lines += [f"        {line}" for line in gate_lines(asked, run)]
    lines += [f"      {_name(run)}  for {uses[run.run]} cells" for run in of_each(cells, lambda cell: cell.mixed)]
    if cells[0].base_arms:
        arms = ", ".join(cells[0].base_arms)
        lines += [
            f"      {_name(run)}  for {uses[run.run]} cells: {arms}" for run in of_each(cells, lambda cell: cell.base)
        ]
    return [*lines, *_cost_lines(plan, left)]


def _name(run: RunFile) -> str:
    return f"{run.run.parent.name}/{run.run.name}"


def _cost_lines(plan: StudyPlan, left: list[CellPlan]) -> list[str]:
    """What is left to do, in FLOP, hours and money."""
    plans = [asked for _, asked in plan.generated]
    written = sum(asked.total("output_tokens") for asked in plans)
    writing = [flop_of(asked) for asked in plans]
    known = [flop for flop in writing if flop is not None]
    said = f", {sum(known):.2g} FLOP (2 M D)" if len(known) == len(plans) else ""
    measured = [hours for asked in plans if (hours := gpu_hours(asked)[0]) is not None]
    if len(measured) == len(plans):
        said += f", {sum(measured):,.2f} GPU-hours at published speeds"
    lines = [f"left to write: {written:,.0f} tokens{said}"]
    tokens = sum(each.tokens * each.epochs for each in left)
    flops = [each.flop for each in left if each.flop is not None]
    training_hours = sum(flops) / (UTILIZATION * PEAK_FLOPS) / 3600
    unknown = f"; of {len(left) - len(flops)} cells the model's size is not known" if len(flops) < len(left) else ""
    lines.append(
        f"left to train: {len(left)} trainings on {tokens:,.0f} tokens, epochs counted; {sum(flops):.2g} FLOP (6 N D), "
        f"{training_hours:,.2f} H100-hours at {UTILIZATION:.0%} of {PEAK_FLOPS / 1e12:.0f} TFLOP/s{unknown}"
    )
    if any(each.has_max_steps for each in left):
        lines.append("A training that max_steps ends is reckoned by its epochs all the same.")
    price = plan.cells[0].cell.run_file.price
    if price is None:
        lines.append("money: set `price` in the run file to see it.")
    else:
        if price.gpus and len(measured) < len(plans):
            lines.append(
                "money: the GPUs' price is left out where no speed is known; `smt plan --probe 60` measures one."
            )
        least = sum(money_of(asked, price)[0] for asked in plans)
        training = training_hours * price.gpu_hour
        lines.append(
            f"money: {least + training:,.2f} {price.currency}: {least:,.2f} to write with prompts from a cache, "
            f"{training:,.2f} to train" + ("" if price.gpu_hour else ", since `price` has no gpu_hour")
        )
    lines.append("Mixing and evaluation are not in these numbers.")
    return lines
