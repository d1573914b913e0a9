from pathlib import Path

import pytest

from smt_plugin.assets import asset_dir
from smt_plugin.errors import BadInput
from smt_plugin.methods import METHODS
from smt_plugin.training.shipped import config_files, copy_config, shipped


def test_everything_is_listed_with_a_line() -> None:
    listed = shipped()
    assert list(listed["methods"]) == list(METHODS)
    assert listed["configs"]["qwen3-8b/lora"] == "Qwen3 8B, LoRA, on one GPU"
    assert listed["prompts"]["focal_rewrite/apply"] == "from document, identity, query, strategy"
    assert (
        listed["tasks"]["corpus_smt_all"]
        == "Your own questions: the closed-book, RAG and full-document tasks by one name"
    )
    for kind, things in listed.items():
        assert things, kind
        for name, line in things.items():
            assert 5 < len(line) < 170, name
            assert "\n" not in line


def test_a_copy_of_a_config_is_the_config(tmp_path: Path) -> None:
    original = (asset_dir("axolotl_configs") / "qwen3-8b" / "full.yaml").read_bytes()
    assert copy_config("qwen3-8b/full", tmp_path) == tmp_path / "full.yaml"
    assert copy_config("qwen3-8b/full", tmp_path / "my.yaml").read_bytes() == original


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "full.yaml").write_text("mine: true\n")
    with pytest.raises(BadInput, match=r"full\.yaml is there already"):
        copy_config("qwen3-8b/full", tmp_path)
    assert (tmp_path / "full.yaml").read_text() == "mine: true\n"


def test_an_unknown_config_and_a_folder_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config llama: no such config; give one of: .*qwen3-8b/full"):
        copy_config("llama", tmp_path)
    with pytest.raises(BadInput, match=r"nowhere is not a folder"):
        copy_config("qwen3-8b/full", tmp_path / "nowhere" / "my.yaml")
    with pytest.raises(BadInput, match=r"nowhere is not a folder"):
        copy_config("qwen3-8b/full", f"{tmp_path / 'nowhere'}/")
    assert list(tmp_path.iterdir()) == []
    assert "microworld/full" in config_files()
