"""Write the trained model's README.md: what it was trained on, how, and how it answered."""

import hashlib
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from smt_plugin.config import MicroworldBackend, read_run_file
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import ARMS, split_arm
from smt_plugin.files import read_json
from smt_plugin.mixing.manifest import DROPPED_FILE, MANIFEST_FILE, read_manifest
from smt_plugin.training.shipped import read_config
from smt_plugin.training.trainings import Training

# What the card of the trainer says of itself, until somebody edits it.
_TRAINERS_OWN = "This model card has been generated automatically"


_MARK = re.compile(r"<!-- written by `smt card`; sha256 of all above: ([0-9a-f]{64}) -->\n$")


# Of trackers of experiments, mostly, which axolotl's config may name; `//name:password@` in an address.
_SECRET = re.compile(r"(api_key|secret|password|(auth|access|hub)_token)$", re.IGNORECASE)


_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


_PACKAGES = ("axolotl", "torch", "transformers", "peft", "deepspeed")


def write_card(training: Training) -> Path:
    """Write README.md into the folder of a trained model (the merged one after LoRA) and return its path.

    It holds the mix's manifest (budget, shares, duplicates, cuts), the training config, the packages' versions and,
    where they are newer than the model, the results of the base model's arms and its own. The trainer's own card and
    an earlier one of this function are replaced.

    Raises:
        BadInput: there is no trained model, the mix was written anew since, README.md was edited, or a file that
            the card is made from is broken.
    """
    if sentence := training.unready():
        raise BadInput(f"{sentence}.")
    folder = training.model
    trained_at = training.trained_at()
    manifest_path = training.mix / MANIFEST_FILE
    if not manifest_path.is_file():
        raise BadInput(f"{manifest_path} does not exist, so what {folder} was trained on is not known.")
    if training.config.is_file() and training.config.stat().st_mtime > trained_at:
        raise BadInput(
            f"{training.config} is newer than the model in {folder}; train again, or put the older one back."
        )
    path = folder / "README.md"
    if path.is_file() and not _may_replace(path.read_text(encoding="utf-8", errors="replace")):
        raise BadInput(f"{path} was edited; move it away first.")
    manifest, config = read_manifest(manifest_path), read_config(training.config)
    if not isinstance(config.get("base_model"), str):
        raise BadInput(f"{training.config}: it names no base_model; put back the one that the model was trained with.")
    results = _results(training, training.made_at())
    text = _card(training, manifest, config, results, datetime.fromtimestamp(trained_at, UTC))
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(f"{text}<!-- written by `smt card`; sha256 of all above: {digest} -->\n", encoding="utf-8")
    return path


def _may_replace(text: str) -> bool:
    mark = _MARK.search(text)
    if mark is None:
        return _TRAINERS_OWN in text
    return hashlib.sha256(text[: mark.start()].encode()).hexdigest() == mark[1]


def _card(
    training: Training, manifest: dict[str, Any], config: dict[str, Any], results: list[str], trained_at: datetime
) -> str:
    base = Path(config["base_model"]).name if Path(config["base_model"]).is_absolute() else config["base_model"]
    head = {"base_model": base, "library_name": "transformers", "tags": ["synthetic-data", "axolotl", "smt-plugin"]}
    how = "a LoRA adapter, merged" if config.get("adapter") else "all weights"
    settings = manifest["settings"]
    budget = training.budget or _cell(settings["tokens"]) or "all there was"
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        f"# {base}, trained on synthetic text about a corpus",
        "",
        f"Trained from `{base}` ({how}) on {trained_at:%Y-%m-%d}, with synthetic question-answer pairs and documents "
        f"that {_generator(training.run)} wrote about a corpus (Synthetic Mixed Training, arXiv 2603.23562). Meant "
        "for questions about that corpus; nothing else was tested but what stands below.",
        "",
        "## Data",
        "",
        f"{manifest['tokens']:,} tokens of `{manifest['tokenizer']['name'].rpartition('/')[2]}`'s tokenizer, "
        f"{manifest['record_tokens']:,} of them synthetic; budget asked: "
        f"{budget}; at most {settings['sequence_len']} tokens a text; seed {settings['seed']}; content hash "
        f"`{manifest['content_hash'][:16]}`.",
        "",
        "| source | tokens | share of the synthetic | records | documents | cut | duplicates left out | ran dry |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, source in manifest["sources"].items():
        cells = [
            f"{source['tokens']:,}",
            f"{source['share']:.1%}{' of all' if name == 'replay' else ''}",
            f"{source['records']:,}",
            _cell(source["documents"]),
            _cell(source["records_cut"]),
            _cell(source["duplicates"] + source["near_duplicates"]),
            "yes" if source["ran_dry"] else "no",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    # The run may have been mixed under another name than today's: through a link, or before it was moved.
    warnings = [re.sub(rf"/.*/(?=mix/{re.escape(DROPPED_FILE)})", "", warning) for warning in manifest["warnings"]]
    lines += ["", *(f"- {warning}" for warning in warnings), "", "## Evaluation", ""]
    lines += results
    lines += ["", "## Training", "", "As the config says; options on axolotl's command line are not in it.", ""]
    lines += ["```yaml", _config_text(training.run, config), "```", "", "## Versions", ""]
    lines += [f"- {name} {number}" for name, number in _versions(manifest).items()]
    return "\n".join(lines) + "\n\n"


def _generator(run_folder: Path) -> str:
    """The model that wrote the run's records, as `smt generate` noted it."""
    path = run_folder / "run.yaml"
    if not path.is_file():
        return "a generator model"
    backend = read_run_file(path).backend
    return "a script" if isinstance(backend, MicroworldBackend) else f"`{backend.model}`"


def _cell(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _results(training: Training, made_at: float) -> list[str]:
    """The report's rows of the base model and of this one, but for those that are older than what they are about.

    Those that the report calls not up to date are named below it.
    """
    report = training.run / "report.json"
    reported_at = report.stat().st_mtime if report.is_file() else 0.0
    found = read_json(report, "smt report", "arms", "outdated") if reported_at else {"arms": [], "outdated": []}
    rows, outdated = [], []
    for arm in found["arms"]:
        kind, budget = split_arm(arm["arm"])
        is_trained, accuracy = ARMS[kind][0], arm["accuracy"]
        marker = training.run / "results" / arm["arm"] / "arm.json"
        if accuracy is None or not marker.is_file() or (is_trained and budget != training.budget):
            continue
        if (made_at if is_trained else 0.0) <= marker.stat().st_mtime <= reported_at:
            interval = f"{accuracy['low']:.1%} to {accuracy['high']:.1%}"
            rows.append(f"| {arm['arm']} | {accuracy['mean']:.1%} | {interval} | {accuracy['questions']:,} |")
            outdated += [arm["arm"]] * (arm["arm"] in found["outdated"])
    if not rows:
        return ["None since the training."]
    lines = [
        "Accuracy, closed-book unless the arm says otherwise, with document-clustered 95 % intervals:",
        "",
        "| arm | accuracy | 95 % interval | questions |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    if outdated:
        lines += ["", f"Settings, model, data or tasks have changed since these were answered: {', '.join(outdated)}."]
    return lines


def _config_text(run_folder: Path, config: dict[str, Any]) -> str:
    """The training config without this machine's folders, keys and passwords."""

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(each) for key, each in value.items() if not _SECRET.search(str(key))}
        if isinstance(value, list):
            return [shortened(each) for each in value]
        if not isinstance(value, str):
            return value
        if not Path(value).is_absolute():
            return _PASSWORD.sub("", value)
        path = Path(value)
        return str(path.relative_to(run_folder) if path.is_relative_to(run_folder) else path.name)

    run_folder = run_folder.resolve()
    return yaml.safe_dump(shortened(config), sort_keys=False, allow_unicode=True, width=110).strip()


def _versions(manifest: dict[str, Any]) -> dict[str, str]:
    """Versions of what mixed the data and of what is installed here, where one trains."""
    found = dict(manifest["versions"])
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
