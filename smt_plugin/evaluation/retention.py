"""What a model forgot: lm-eval's own tasks before and after training, compared question by question."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smt_plugin.config import EvaluateSection
from smt_plugin.errors import BadInput, require
from smt_plugin.evaluation.arm_results import samples_files
from smt_plugin.evaluation.arms import ArmCommand, arms_of, model_command
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.files import read_jsonl
from smt_plugin.training.trainings import Training

# Of the metrics that a task reports, the one that is compared: the first of these that it has, else its first.
_METRICS = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc")


# A reader of answers that forgives their form is wanted here: what is known counts.
_FILTER = "flexible-extract"


@dataclass(frozen=True, slots=True)
class Change:
    """A task before and after a training, on the same questions; `difference` has the interval of after less before.

    `model` is `trained`, or one of several budgets: `trained-10M`.
    """

    task: str
    model: str
    metric: str
    before: Estimate
    after: Estimate
    difference: Estimate


def retention_commands(
    run: Path, section: EvaluateSection, base_model: str, trainings: Sequence[Training], seed: int = 0
) -> tuple[list[ArmCommand], list[str]]:
    """Return an lm_eval command for the base and each trained model, and a sentence for each that is not there yet.

    Raises:
        BadInput: lm-eval is missing, or not one model is trained.
    """
    require("lm_eval", "eval")
    models, missing = {"base": base_model}, []
    for name, training in arms_of(["trained"], trainings).items():
        if training is not None and (sentence := training.unready()):
            missing.append(sentence)
        elif training is not None:
            models[name] = str(training.model)
    if len(models) == 1:
        raise BadInput(f"{missing[0]}.")
    commands = []
    for name, model in models.items():
        folder = run / "retention" / name
        command = model_command(section, model)
        command += ["--tasks", ",".join(section.retention.tasks), "--apply_chat_template"]
        if section.retention.include_path is not None:
            command += ["--include_path", str(section.retention.include_path)]
        command += ["--batch_size", section.batch_size, "--seed", str(seed)]
        if section.retention.limit is not None:
            command += ["--limit", str(section.retention.limit)]
        command += ["--log_samples", "--output_path", str(folder)]
        commands.append(ArmCommand(f"retention of the {name} model", command, folder))
    return commands, missing


def retention_results(run: Path, trainings: Sequence[Training] = ()) -> list[Change]:
    """Read what the base and each trained model scored; empty where `smt retention` has not run through.

    Args:
        trainings: default: the run's only one.

    Raises:
        BadInput: the models answered different questions, or too few for an interval.
    """
    names = [name for name in ("base", *arms_of(["trained"], trainings or [Training(run)])) if _is_done(run, name)]
    if "base" not in names:
        return []
    return [change for name in names[1:] for change in _changes(run, name)]


def _is_done(run: Path, name: str) -> bool:
    return (run / "retention" / name / "arm.json").is_file()


def _changes(run: Path, model: str) -> list[Change]:
    """What one training changed, task by task."""
    before, after = (
        {_task_of(file): file for file in samples_files(run / "retention" / name)} for name in ("base", model)
    )
    changes = []
    for task in sorted(before.keys() | after.keys()):
        if task not in before or task not in after:
            raise BadInput(f"{task} was asked of one model only; remove {run / 'retention'} and run it anew.")
        metric, old = _values(before[task])
        other, new = _values(after[task])
        if old.keys() != new.keys() or metric != other:
            raise BadInput(
                f"the models answered different questions of {task}; remove {run / 'retention'} and run it anew."
            )
        ids = list(old)
        if len(ids) < 2:
            raise BadInput(
                f"{task} was asked {len(ids)} question(s), and an interval needs two; raise or remove "
                "evaluate.retention.limit, and run `smt retention` again."
            )
        changes.append(
            Change(
                task,
                model,
                metric,
                estimate([old[key] for key in ids], ids),
                estimate([new[key] for key in ids], ids),
                estimate([new[key] - old[key] for key in ids], ids, difference=True),
            )
        )
    return changes


def _task_of(file: Path) -> str:
    """samples_<task>_<time>.jsonl, where the task's name may have underscores and the time has none."""
    return file.stem.removeprefix("samples_").rpartition("_")[0]


def _values(file: Path) -> tuple[str, dict[str, float]]:
    """The metric that is compared, and its value for each question."""
    rows: list[dict[str, Any]] = [row for _, row in read_jsonl(file)]
    filters = [row["filter"] for row in rows]
    wanted = _FILTER if _FILTER in filters else filters[0]
    rows = [row for row in rows if row["filter"] == wanted]
    names = rows[0]["metrics"]
    metric = next((name for name in _METRICS if name in names), names[0])
    try:
        return metric, {row["doc_hash"] + str(row["doc_id"]): float(row[metric]) for row in rows}
    except (TypeError, ValueError):
        raise BadInput(f"{file}: the metric {metric} has no number for each question; leave this task out.") from None
