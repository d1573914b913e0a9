"""What a reader must know of a run's arms to judge their numbers: models, retrieval, sampling, judge, chance, seeds.

All of it is read from what `smt evaluate`, lm-eval and the trainings left in the run folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smt_plugin.evaluation.arm_results import LmEvalSummary, LmEvalTask, read_summary
from smt_plugin.evaluation.arms import ARMS, LIKELIHOOD, read_marker, split_arm
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.training.shipped import read_config
from smt_plugin.training.trainings import Training

_UNKNOWN = "not known"


def arm_facts(
    run: Path, arms: Sequence[str], trainings: Sequence[Training], chance: float | None, free_form: int
) -> dict[str, str]:
    """Return name -> value of what the answers of a run's arms were made with; what is not known is said.

    Args:
        arms: those that are done.
        chance: the mean over the questions with options of 1 / options; None where none has options.
        free_form: how many questions have no options.
    """
    folders = {arm: run / "results" / arm for arm in arms}
    summaries = {arm: read_summary(folder) for arm, folder in folders.items()}
    tasks: dict[str, LmEvalTask] = {
        arm: next(iter(summary.get("configs", {}).values()), LmEvalTask()) for arm, summary in summaries.items()
    }
    base = {arm: _model(summary) for arm, summary in summaries.items() if not _is_trained(arm)}
    facts = {"base model": _said(base) if base else f"{_UNKNOWN}: no arm of it is done"}
    for training in trainings:
        facts[f"trained model, {training.budget}" if training.budget else "trained model"] = _trained(training)
    retrieved = {arm: read_marker(folder).get("retrieval") or {} for arm, folder in folders.items() if _is_rag(arm)}
    if retrieved:
        facts["retrieval settings"] = _said({arm: _settings(manifest) for arm, manifest in retrieved.items()})
        facts["retrieval recall"] = _said({arm: _recall(manifest) for arm, manifest in retrieved.items()})
    facts["sampling"] = _said({arm: _sampling(task) for arm, task in tasks.items()})
    facts["judge"] = _said({arm: _judge(task, free_form > 0) for arm, task in tasks.items()})
    facts["chance level"] = "none: every question is free-form"
    if chance is not None:
        without = f"; {free_form:,} free-form questions have none" if free_form else ""
        facts["chance level"] = f"{chance:.1%}, guessing among the options{without}"
    seeds = {
        "mix": {training.budget: _mix_seed(training) for training in trainings},
        "training": {training.budget: _training_seed(training) for training in trainings},
        "lm-eval": {arm: _seed(summary, tasks[arm]) for arm, summary in summaries.items()},
    }
    facts["seeds"] = ", ".join(f"{name} {_said(values)}" for name, values in seeds.items())
    facts["lm-eval"] = _said({arm: _version(summary) for arm, summary in summaries.items()})
    return facts


def _is_trained(arm: str) -> bool:
    return ARMS[split_arm(arm)[0]][0]


def _is_rag(arm: str) -> bool:
    return ARMS[split_arm(arm)[0]][1].removesuffix(LIKELIHOOD) == "_rag"


def _said(values: Mapping[str, str]) -> str:
    """One value for all arms, or each with the arms that have it."""
    different = dict.fromkeys(values.values())
    if len(different) == 1:
        return next(iter(different))
    return "; ".join(
        f"{value} ({', '.join(arm for arm, other in values.items() if other == value)})" for value in different
    )


def _model(summary: LmEvalSummary) -> str:
    """The model that lm-eval loaded or asked for, by name; a folder by its own name alone."""
    config = summary.get("config", {})
    arguments: Any = config.get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(entry.split("=", 1) for entry in arguments.split(",") if "=" in entry)
    name = str(arguments.get("pretrained") or arguments.get("model") or "")
    if not name:
        return _UNKNOWN
    parts = [Path(name).name if Path(name).is_absolute() else name]
    if sha := config.get("model_sha"):
        parts.append(f"revision {sha[:12]}")
    if parameters := config.get("model_num_parameters"):
        parts.append(f"{parameters:,} parameters")
    parts.append(f"asked through lm-eval's {config.get('model', 'model')}")
    return ", ".join(parts)


def _trained(training: Training) -> str:
    """Where the model lies, what it was trained from, and on which mix."""
    if sentence := training.unready():
        return f"not ready: {sentence}"
    manifest = training.mix / MANIFEST_FILE
    parts = [f"{training.model.relative_to(training.run)}/ in the run folder"]
    if training.config.is_file():
        base = str(read_config(training.config).get("base_model", _UNKNOWN))
        parts.append(f"trained from {Path(base).name if Path(base).is_absolute() else base}")
    content = read_manifest(manifest)["content_hash"][:16] if manifest.is_file() else _UNKNOWN
    return f"{', '.join(parts)}; content hash of its mix: {content}"


def _mix_seed(training: Training) -> str:
    manifest = training.mix / MANIFEST_FILE
    return str(read_manifest(manifest)["settings"].get("seed", _UNKNOWN)) if manifest.is_file() else _UNKNOWN


def _training_seed(training: Training) -> str:
    config = read_config(training.config) if training.config.is_file() else {}
    return str(config.get("seed", "that of axolotl, as the config has none" if config else _UNKNOWN))


def _settings(manifest: Mapping[str, Any]) -> str:
    settings = manifest.get("settings")
    if not isinstance(settings, dict) or not settings:
        return f"{_UNKNOWN}: these answers were given before it was noted"
    idle = () if settings.get("reranker_endpoint") else ("reranker_options",)
    named = {name: value for name, value in settings.items() if value != "" and name not in idle}
    named.setdefault("reranker", "none")
    return ", ".join(f"{name} {value}" for name, value in named.items())


def _recall(manifest: Mapping[str, Any]) -> str:
    found = {
        name.replace("_", " "): share
        for name, share in manifest.items()
        if "recall@" in name and isinstance(share, int | float)
    }
    return ", ".join(f"{name} {share:.1%}" for name, share in found.items()) or _UNKNOWN


def _sampling(task: LmEvalTask) -> str:
    if task.get("output_type") == "multiple_choice":
        return "none: the likelihood of the options"
    options = task.get("generation_kwargs")
    if not options:
        return _UNKNOWN
    parts = [f"{task.get('repeats', _UNKNOWN)} answers a question"]
    if options.get("do_sample") is False:
        parts.append("greedy")
    parts += [f"{name} {options[name]}" for name in ("temperature", "top_p", "top_k") if name in options]
    if isinstance(most := options.get("max_gen_toks"), int):
        parts.append(f"at most {most:,} tokens")
    return ", ".join(parts)


def _judge(task: LmEvalTask, judges: bool) -> str:
    """The judge's model, the server it was asked at, of whose address only the host, and what it was asked to do."""
    metadata = task.get("metadata") or {}
    does = [
        *(["judges the free-form answers but for equal numbers"] if judges else []),
        *(["reads the answers of which code reads no option"] if metadata.get("read_by_judge") else []),
    ]
    if not does:
        return "none: every question has options, and code reads the answers"
    judge = metadata.get("judge") or {}
    if not judge.get("model"):
        return _UNKNOWN
    place = urlsplit(judge.get("endpoint") or "")
    where = f"at {place.hostname}:{place.port}" if place.port else f"at {place.hostname}" if place.hostname else "here"
    return f"{judge['model']} {where}, which {' and '.join(does)}"


def _seed(summary: LmEvalSummary, task: LmEvalTask) -> str:
    config = summary.get("config", {})
    found = (config.get("random_seed"), config.get("numpy_seed"), config.get("torch_seed"))
    seeds = {seed for seed in found if seed is not None}
    said = "/".join(map(str, sorted(seeds))) or _UNKNOWN
    # Of a server every answer must be drawn anew.
    return f"{said}, none sent to the server" if "seed" in (task.get("generation_kwargs") or {}) else said


def _version(summary: LmEvalSummary) -> str:
    tasks = ", ".join(str(version) for version in summary.get("versions", {}).values()) or _UNKNOWN
    return f"{summary.get('lm_eval_version') or _UNKNOWN}, tasks of version {tasks}"
