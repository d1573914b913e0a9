"""What a model forgot: lm-eval's own tasks before and after training, compared question by question."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from smt_plugin.config import EvaluateSection
from smt_plugin.errors import BadInput, require
from smt_plugin.evaluation.arm_results import samples_files
from smt_plugin.evaluation.arms import Arm, arms_of, marker_path, read_marker
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.files import as_row, read_jsonl
from smt_plugin.training.trainings import Training

# Of the metrics that a task reports, the one that is compared: the first of these that it has, else its first.
_METRICS = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc")
# A reader of answers that forgives their form is wanted here: what is known counts.
_FILTER = "flexible-extract"


class _Sample(Struct):
    """Of what lm-eval leaves of a question of its own tasks; each metric is a field of its own."""

    doc_id: int | str
    doc_hash: str
    filter: str
    metrics: Annotated[list[str], Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Change:
    """A task before and after a training, on the same questions; `difference` has the interval of after minus before.

    `model` is `trained`, or one of several budgets: `trained-10M`.
    """

    task: str
    model: str
    metric: str
    before: Estimate
    after: Estimate
    difference: Estimate


def retention_arms(
    run: Path, section: EvaluateSection, base_model: str, trainings: Sequence[Training], seed: int = 0
) -> tuple[list[Arm], list[str]]:
    """Return the base and each trained model as arms, and a sentence for each that is not there yet.

    Raises:
        BadInput: lm-eval is missing, or not one model is trained.
    """
    require("lm_eval", "eval")
    arms, missing = [], []
    for name, training in arms_of(["base", "trained"], trainings).items():
        if training is not None and (sentence := training.unready()):
            missing.append(sentence)
            continue
        arm = Arm(
            f"retention of the {name} model",
            model=base_model if training is None else str(training.model),
            settings=section,
            tasks=",".join(section.retention.tasks),
            task_folder=section.retention.include_path,
            limit=section.retention.limit,
            folder=run / "retention" / name,
            seed=seed,
        )
        arms.append(arm)
    if len(arms) == 1:
        raise BadInput(f"{missing[0]}.")
    return arms, missing


def retention_results(run: Path, trainings: Sequence[Training] = ()) -> list[Change]:
    """Read what the base and each trained model scored; empty where `smt retention` has not run through.

    Args:
        trainings: default: the run's only one.

    Raises:
        BadInput: the models answered different questions, or too few for an interval.
    """
    folder = run / "retention"
    names = arms_of(["base", "trained"], trainings or [Training(run)])
    done = [name for name in names if os.path.lexists(marker_path(folder / name))]
    for name in done:
        read_marker(folder / name)
    return [change for name in done[1:] for change in _changes(folder, name)] if "base" in done else []


def _changes(folder: Path, model: str) -> list[Change]:
    """What one training changed, task by task."""
    # samples_<task>_<time>.jsonl, where the task's name may have underscores and the time has none
    before, after = (
        {file.stem.removeprefix("samples_").rpartition("_")[0]: _values(file) for file in samples_files(folder / name)}
        for name in ("base", model)
    )
    changes = []
    for task in sorted(before.keys() | after.keys()):
        if task not in before or task not in after:
            raise BadInput(f"{task} was asked of one model only; remove {folder} and run it anew.")
        (metric, old), (other, new) = before[task], after[task]
        if old.keys() != new.keys() or metric != other:
            raise BadInput(f"the models answered different questions of {task}; remove {folder} and run it anew.")
        ids = list(old)
        changes.append(
            Change(
                task,
                model,
                metric,
                before=estimate(list(old.values()), ids),
                after=estimate([new[key] for key in ids], ids),
                difference=estimate([new[key] - old[key] for key in ids], ids, difference=True),
            )
        )
    return changes


def _values(file: Path) -> tuple[str, dict[str, float]]:
    """The metric that is compared, and its value for each question."""
    again = f"remove {file.parent} and run `smt retention` again"
    rows = [(as_row(row, _Sample, f"{file}, line {number}", again), row) for number, row in read_jsonl(file, again)]
    if not rows:
        raise BadInput(f"{file} holds no answers; {again}.")
    filters = [sample.filter for sample, _ in rows]
    wanted = _FILTER if _FILTER in filters else filters[0]
    rows = [(sample, row) for sample, row in rows if sample.filter == wanted]
    names = rows[0][0].metrics
    metric = next((name for name in _METRICS if name in names), names[0])
    values = {sample.doc_hash + str(sample.doc_id): row.get(metric) for sample, row in rows}
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    if len(numbers) < len(values):
        raise BadInput(f"{file}: the metric {metric} has no number for each question; leave this task out.")
    return metric, numbers
