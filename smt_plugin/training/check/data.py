"""Checks of the data that an axolotl config names, of the tokenizer that encodes it, and of what earlier runs left."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from smt_plugin.errors import BadInput
from smt_plugin.mixing.lines import rejects_of, runs_of, source_paths
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.rejects import rejects_hash, rejects_path
from smt_plugin.training.check.known import Finding, Known, Note, Problem
from smt_plugin.training.trainings import mix_of

# What axolotl logs of its config when it begins, and of each checkpoint.
_LOGGED = re.compile(r'"dataset_prepared_path": "(.*)"|Saving model checkpoint to .*(checkpoint-\d+)')


def listed(known: Known) -> Iterator[Finding]:
    """Data that is not listed as files, or not at all."""
    if known.values.get("pretraining_dataset"):
        yield Note("pretraining_dataset: it was not looked into, nor counted.")
    elif not known.values.get("datasets"):
        yield Problem("datasets: there are none; name at least one file, as `smt mix` does.")


def vocabulary(known: Known) -> Iterator[Finding]:
    """A tokenizer that is not the model's own may have more tokens, but none by another number."""
    from transformers import AutoTokenizer

    config = known.config
    if known.tokenizer is None or config.tokenizer_config == config.base_model:
        return
    try:
        own = AutoTokenizer.from_pretrained(config.base_model).get_vocab()
    # There is none, or it cannot be had here.
    except Exception:
        return
    numbers = known.tokenizer.get_vocab()
    if any(numbers.get(token) != number for token, number in own.items()):
        yield Problem(
            f"tokenizer_config: the tokens of {config.tokenizer_config} are others than those of {config.base_model}, "
            "which would read other words than stand there; mix with the model's own tokenizer."
        )


def prepared(known: Known) -> Iterator[Finding]:
    """Prepared data that axolotl would reuse though the files have changed since: its cache looks at names alone."""
    config = known.config
    if not (config.sequence_len and config.base_model):
        return
    folder = Path(config.dataset_prepared_path or "last_run_prepared")
    candidates = list(folder.iterdir()) if folder.is_dir() else []
    # axolotl cannot name the folder by a config that it refuses.
    with suppress(AttributeError, KeyError, TypeError):
        if known.tokenizer is not None:
            from axolotl.utils.data.shared import generate_dataset_hash_from_config

            name = generate_dataset_hash_from_config(config, config.datasets, known.tokenizer.name_or_path)
            candidates = [folder / name]
    named = mix_of(known.values)
    for path in dict.fromkeys(data.path.parent / MANIFEST_FILE for data in known.files):
        # What is wrong with the manifest itself is said elsewhere.
        with suppress(BadInput, OSError):
            if named and path.is_file() and not read_manifest(path)["content_hash"].startswith(named):
                yield Problem(
                    f"dataset_prepared_path: {folder} is for another mix than the one in {path.parent}; run `smt mix` "
                    "again, which writes the config for it."
                )
                return
    counted = [data.tokens for data in known.files if data.tokens is not None]
    listed = known.values.get("datasets")
    is_all = isinstance(listed, list) and len(counted) == len(listed)
    wanted = sum(data.rows for data in known.files), sum(counted)
    for each in candidates:
        found = _size_of(each)
        if found and not is_all:
            yield Note(f"dataset_prepared_path: axolotl takes {each} as it is, though the files may hold others now.")
        elif found and found != wanted:
            yield Problem(
                f"dataset_prepared_path: {each} holds {found[0]:,} rows of {found[1]:,} tokens, the files "
                f"{wanted[0]:,} of {wanted[1]:,}, and axolotl would train on the old data; delete it."
            )


def rejects(known: Known) -> Iterator[Finding]:
    """Records that were rejected, or taken back, since the mix was made."""
    for path in dict.fromkeys(data.path.parent / MANIFEST_FILE for data in known.files):
        # What is wrong with the manifest itself is said elsewhere.
        with suppress(BadInput, OSError):
            mixed = read_manifest(path)
            settings = mixed["settings"]
            run = path.parents[2 if settings.get("budgets") else 1]
            elsewhere = {name: Path(source) for name, source in settings.get("sources", {}).items()}
            paths = source_paths(run, settings.get("shares", {}), elsewhere)
            # A mix that was taken to another machine may have left the files behind.
            if not any(rejects_path(folder).is_file() for folder, _ in runs_of(run, paths).values()):
                continue
            try:
                now = rejects_hash(rejects_of(run, paths))
            except BadInput as error:
                yield Problem(f"datasets: {error}")
                continue
            if now != mixed.get("rejects", {}).get("sha256", rejects_hash(())):
                yield Problem(
                    f"datasets: rejects.jsonl rejects other records than when the mix in {path.parent} was made; run "
                    "`smt mix` again."
                )


def _size_of(prepared: Path) -> tuple[int, int] | None:
    """Rows and tokens of what axolotl prepared; None where there is nothing."""
    from datasets import load_from_disk

    # Whatever else lies there.
    with suppress(Exception):
        rows = load_from_disk(str(prepared)).data["input_ids"]
        return len(rows), sum(len(chunk.flatten()) for chunk in rows.chunks)
    return None


def folders(known: Known) -> Iterator[Finding]:
    """Folders that a training would write over, or would go on from though they are old or not there."""
    folder = Path(known.config.output_dir or "model-out")
    if known.config.base_model and folder.resolve() == Path(known.config.base_model).resolve():
        yield Problem(f"output_dir: {folder} is the base model's folder, which would be written over; name another.")
    mixes = _mixes_of_checkpoints(folder / "debug.log")
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        goes_on = "--auto-resume-from-checkpoints would go on from it; delete the checkpoints of the earlier mix"
        if checkpoint.name not in mixes:
            yield Note(f"output_dir: nothing tells which mix {checkpoint} is of, and {goes_on}.")
            break
        if mixes[checkpoint.name] != mix_of(known.values):
            yield Problem(f"output_dir: {checkpoint} is of another mix, and {goes_on}.")
            break
    for key in ("resume_from_checkpoint", "lora_model_dir"):
        named = getattr(known.config, key, None)
        if isinstance(named, str) and Path(named).is_absolute() and not Path(named).exists():
            yield Problem(f"{key}: {named} does not exist; fix the path, or remove the key.")


def _mixes_of_checkpoints(log: Path) -> dict[str, str | None]:
    """The mix that each checkpoint's training was on, as axolotl's log in the output folder tells.

    A training that does not resume begins the log anew, and so loses what it told of checkpoints of earlier ones.
    """
    mixes: dict[str, str | None] = {}
    mix = None
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    for prepared, checkpoint in _LOGGED.findall(text):
        if checkpoint:
            mixes[checkpoint] = mix
        else:
            mix = mix_of({"dataset_prepared_path": prepared})
    return mixes
