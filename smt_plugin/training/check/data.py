"""Checks of the data that an axolotl config names, of the tokenizer that encodes it, and of what earlier runs left."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from smt_plugin.training.check.known import Finding, Known, Note, Problem


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
    tokenizer = Path(str(config.tokenizer_config))
    read = [*(data.path for data in known.files), *tokenizer.glob("*token*"), *tokenizer.glob("chat_template*")]
    for each in candidates:
        written = [file.stat().st_mtime for file in each.glob("*") if file.is_file()]
        newer = [file for file in read if written and file.is_file() and file.stat().st_mtime > min(written)]
        if newer:
            yield Problem(
                f"dataset_prepared_path: {each} is older than {newer[0]}, and axolotl would train on the old data; "
                "delete it."
            )


def folders(known: Known) -> Iterator[Finding]:
    """Folders that a training would write over, or would go on from though they are old or not there."""
    folder = Path(known.config.output_dir or "model-out")
    if known.config.base_model and folder.resolve() == Path(known.config.base_model).resolve():
        yield Problem(f"output_dir: {folder} is the base model's folder, which would be written over; name another.")
    newest = max((data.path for data in known.files), key=lambda path: path.stat().st_mtime, default=None)
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        if newest is not None and checkpoint.stat().st_mtime < newest.stat().st_mtime:
            yield Problem(
                f"output_dir: {checkpoint} is older than {newest}, and --auto-resume-from-checkpoints would go on from "
                "it; delete the checkpoints of the earlier mix."
            )
            break
    for key in ("resume_from_checkpoint", "lora_model_dir"):
        named = getattr(known.config, key, None)
        if isinstance(named, str) and Path(named).is_absolute() and not Path(named).exists():
            yield Problem(f"{key}: {named} does not exist; fix the path, or remove the key.")
