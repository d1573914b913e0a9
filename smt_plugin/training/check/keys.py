"""Checks of an axolotl config's keys and values, and of what the training needs."""

from collections.abc import Iterator
from importlib.metadata import metadata, version
from importlib.util import find_spec

from smt_plugin.errors import BadInput
from smt_plugin.training.axolotl_schema import unknown_keys, unknown_name
from smt_plugin.training.check.known import Finding, Known, Note, Problem


def unknown(known: Known) -> Iterator[Finding]:
    """Keys that axolotl would silently ignore, and plugins that cannot be imported."""
    try:
        for key in unknown_keys(known.values):
            yield Problem(f"{key}: axolotl does not know this key and would ignore it; remove it or fix its name.")
    except BadInput as error:
        yield Problem(str(error))


def refused(known: Known) -> Iterator[Finding]:
    """Values of another type than axolotl wants, numbers that make no sense, optimizers and schedules of no name."""
    for key in known.values:
        yield from map(Problem, known.refused.get(key, ()))
        if problem := unknown_name(key, known.accepted.get(key)):
            yield Problem(problem)


def partial(known: Known) -> Iterator[Finding]:
    """Keys with which axolotl would leave texts out."""
    for key in ("dataset_shard_num", "dataset_shard_idx", "min_sample_len"):
        if known.accepted.get(key):
            yield Problem(f"{key}: with it axolotl leaves a part of the texts out; remove it.")
    if known.accepted.get("skip_prepare_dataset"):
        yield Problem("skip_prepare_dataset: axolotl would find no tokens in the texts; remove it.")


def packages(known: Known) -> Iterator[Finding]:
    """Packages that the training needs and that are not installed here."""
    takes_flash = known.values.get("flash_attention") or known.values.get("attn_implementation") == "flash_attention_2"
    # Later axolotls have no such extra: transformers loads the kernel from the hub where the package is not installed.
    has_extra = "flash-attn" in (metadata("axolotl").get_all("Provides-Extra") or ())
    for package, is_needed in (("deepspeed", known.deepspeed), ("flash_attn", takes_flash)):
        if not is_needed or find_spec(package) is not None:
            continue
        if package == "deepspeed" or has_extra:
            extras = "flash-attn,deepspeed" if has_extra else "deepspeed"
            install = f"where you train: pip install 'axolotl[{extras}]=={version('axolotl')}'"
            yield Note(f"{package} is not installed here, and the training needs it; {install}.")
        else:
            yield Note(
                "flash_attn is not installed here: the training loads kernels-community/flash-attn2 from the hub."
            )


def processor(known: Known) -> Iterator[Finding]:
    """The package with which axolotl loads the processor of a model that reads pictures, for text alone, too."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    try:
        kind = AutoConfig.from_pretrained(known.config.base_model).model_type
    # The hub, the network and every architecture have errors of their own.
    except Exception:
        return
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and find_spec("torchvision") is None:
        yield Note(
            f"torchvision is not installed here, and axolotl needs it for a model that reads pictures ({kind}), also "
            "to train on text; install the release that belongs to your torch where you train."
        )


def incomplete(known: Known) -> Iterator[Finding]:
    """What refused keys keep from being checked."""
    if known.refused or not known.accepted.get("base_model"):
        yield Note("while axolotl refuses keys, not all of texts, lengths, steps and hours can be checked.")
