"""Write the trained model's README.md: what it was trained on, how, and how it answered."""

import hashlib
import os
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml

from smt_plugin.config import MicroworldBackend, read_run_file
from smt_plugin.errors import BadInput, naming, require
from smt_plugin.evaluation.arms import ARMS, marker_path, model_hash, read_marker, split_arm
from smt_plugin.files import file_hash, read_bytes, read_json, write_text
from smt_plugin.masking import without_secrets
from smt_plugin.mixing.manifest import DROPPED_FILE, MANIFEST_FILE, Manifest, read_manifest
from smt_plugin.training.shipped import read_config
from smt_plugin.training.trainings import Training

# What the card of the trainer says of itself, until somebody edits it.
_TRAINERS_OWN = "This model card has been generated automatically"
_MARK = re.compile(r"<!-- written by `smt card`; sha256 of all above: ([0-9a-f]{64}) -->\n$")
_PACKAGES = ("axolotl", "torch", "transformers", "peft", "deepspeed")


class _Accuracy(TypedDict):
    mean: float
    low: float
    high: float
    questions: int


class _Arm(TypedDict):
    arm: str
    accuracy: _Accuracy | None


class _Report(TypedDict):
    """`report.json`, as far as a card tells it."""

    arms: list[_Arm]
    outdated: list[str]
    answered: NotRequired[dict[str, str]]  # arm -> hash of its `arm.json`


def write_card(training: Training) -> Path:
    """Write README.md into the folder of a trained model (the merged one after LoRA) and return its path.

    It holds the mix's manifest (budget, shares, duplicates, cuts), the training config, the packages' versions and,
    where the report was made of them, the results of the base model's arms and its own. The trainer's own card and an
    earlier one of this function are replaced.

    Raises:
        BadInput: there is no trained model, it was trained on another mix or by another config, README.md was edited,
            or a file that the card is made from is broken.
    """
    if sentence := training.unready():
        raise BadInput(f"{sentence}.")
    model, manifest_path = training.model, training.mix / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BadInput(f"{manifest_path} does not exist, so what {model} was trained on is not known.")
    path = model / "README.md"
    # One that is no text was not written by us.
    if os.path.lexists(path):
        with naming(path):
            is_ours = _may_replace(read_bytes(path, "move it away first").decode(errors="replace"))
        if not is_ours:
            raise BadInput(f"{path} was edited; move it away first.")
    manifest, config = read_manifest(manifest_path), read_config(training.config)
    if not isinstance(config.get("base_model"), str):
        raise BadInput(f"{training.config}: it names no base_model; put back the one that the model was trained with.")
    trained_by = training.trained_by()
    if trained_by and _config_text(trained_by) != _config_text(config):
        raise BadInput(
            f"{training.config} is another config than the one that the model in {model} was trained by; train again, "
            "or put that one back."
        )
    text = _card(training, manifest, config)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f"{text}<!-- written by `smt card`; sha256 of all above: {digest} -->\n")
    return path


def _may_replace(text: str) -> bool:
    if mark := _MARK.search(text):
        return hashlib.sha256(text[: mark.start()].encode()).hexdigest() == mark[1]
    return _TRAINERS_OWN in text


def _card(training: Training, manifest: Manifest, config: dict[str, Any]) -> str:
    """The card's text: what `card.md.jinja` makes of the facts, below the metadata that model hubs read."""
    hub = require("huggingface_hub", "train")
    base = Path(config["base_model"]).name if Path(config["base_model"]).is_absolute() else config["base_model"]
    arms, outdated = _results(training)
    tags = ["synthetic-data", "axolotl", "smt-plugin"]
    card = hub.ModelCard.from_template(
        hub.ModelCardData(base_model=base, library_name="transformers", tags=tags),
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        adapter=config.get("adapter"),
        generator=_generator(training.run),
        manifest=manifest,
        budget=training.budget,
        # The run may have been mixed under another name than today's: through a link, or before it was moved.
        warnings=[re.sub(rf"/.*/(?=mix/{re.escape(DROPPED_FILE)})", "", text) for text in manifest["warnings"]],
        arms=arms,
        outdated=outdated,
        config=_config_text(config),
        versions=_versions(manifest),
    )
    return f"{card}\n\n"


def _generator(run_folder: Path) -> str:
    """The model that wrote the run's records, as `smt generate` noted it."""
    path = run_folder / "run.yaml"
    if not path.is_file():
        return "a generator model"
    backend = read_run_file(path).backend
    return "a script" if isinstance(backend, MicroworldBackend) else f"`{backend.model}`"


def _results(training: Training) -> tuple[list[_Arm], list[str]]:
    """The report's arms of the base model and of this one, but for those that were answered otherwise since.

    Those of them that the report calls not up to date are named beside them.
    """
    report = training.run / "report.json"
    if not os.path.lexists(report):
        return [], []
    found = read_json(report, _Report, "smt report")
    arms = []
    for arm in found["arms"]:
        kind, budget = split_arm(arm["arm"])
        is_trained = ARMS.get(kind, (False, ""))[0]
        folder = training.run / "results" / arm["arm"]
        if arm["accuracy"] is None or not marker_path(folder).is_file() or (is_trained and budget != training.budget):
            continue
        is_of_model = not is_trained or read_marker(folder).get("model") == model_hash(training.model)
        if is_of_model and found.get("answered", {}).get(arm["arm"]) == file_hash(marker_path(folder)):
            arms.append(arm)
    return arms, [arm["arm"] for arm in arms if arm["arm"] in found["outdated"]]


def _config_text(config: dict[str, Any]) -> str:
    """The training config without a machine's folders, keys and passwords: the same of a run that was moved since."""
    run_folder = Path(str(config.get("output_dir"))).parent

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(each) for key, each in value.items()}
        if isinstance(value, list):
            return [shortened(each) for each in value]
        if not isinstance(value, str) or not Path(value).is_absolute():
            return value
        path = Path(value)
        return str(path.relative_to(run_folder) if path.is_relative_to(run_folder) else path.name)

    return yaml.safe_dump(shortened(without_secrets(config)), sort_keys=False, allow_unicode=True, width=110).strip()


def _versions(manifest: Manifest) -> dict[str, str]:
    """Versions of what mixed the data and of what is installed here, where one trains."""
    found = dict(manifest["versions"])
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
