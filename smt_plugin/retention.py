"""What a model forgot: lm-eval's own tasks before and after training, compared question by question."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smt_plugin.config import EvaluateSection
from smt_plugin.errors import BadInput, require
from smt_plugin.evaluate import ArmCommand, model_command, samples_files
from smt_plugin.intervals import Estimate, estimate
from smt_plugin.jsonl import read_jsonl

MODELS = ("base", "trained")
# Of the metrics that a task reports, the one that is compared: the first of these that it has, else its first.
_METRICS = ("acc_norm", "acc", "exact_match", "prompt_level_strict_acc")
# A reader of answers that forgives their form is wanted here: what is known counts.
_FILTER = "flexible-extract"


@dataclass(frozen=True, slots=True)
class Change:
    """A task before and after training, on the same questions; `difference` has the interval of after less before."""

    task: str
    metric: str
    before: Estimate
    after: Estimate
    difference: Estimate


def retention_commands(
    run: Path, section: EvaluateSection, base_model: str, trained_model: Path, seed: int = 0
) -> list[ArmCommand]:
    """Return one lm_eval command for the base model and one for the trained one.

    Raises:
        BadInput: lm-eval or the trained model is missing.
    """
    require("lm_eval", "eval")
    if not (trained_model / "config.json").is_file():
        raise BadInput(f"there is no trained model in {trained_model}; run `axolotl train` first.")
    commands = []
    for name in MODELS:
        folder = run / "retention" / name
        command = model_command(section, str(trained_model) if name == "trained" else base_model)
        command += ["--tasks", ",".join(section.retention.tasks), "--apply_chat_template"]
        if section.retention.include_path is not None:
            command += ["--include_path", str(section.retention.include_path)]
        command += ["--batch_size", section.batch_size, "--seed", str(seed)]
        if section.retention.limit is not None:
            command += ["--limit", str(section.retention.limit)]
        command += ["--log_samples", "--output_path", str(folder)]
        commands.append(ArmCommand(f"retention of the {name} model", command, folder))
    return commands


def retention_results(run: Path) -> list[Change]:
    """Read what both models scored; empty where `smt retention` has not run through.

    Raises:
        BadInput: the models answered different questions.
    """
    folders = [run / "retention" / name for name in MODELS]
    if not all((folder / "arm.json").is_file() for folder in folders):
        return []
    before, after = ({_task_of(file): file for file in samples_files(folder)} for folder in folders)
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
        changes.append(
            Change(
                task,
                metric,
                *(
                    estimate(values, ids)
                    for values in (
                        [old[key] for key in ids],
                        [new[key] for key in ids],
                        [new[key] - old[key] for key in ids],
                    )
                ),
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
