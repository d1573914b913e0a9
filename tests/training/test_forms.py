"""`smt check` beside what lm-eval asks: the form in which answers are trained and that in which they are asked."""

import re
from pathlib import Path

import pytest

from smt_plugin.config import MixSection
from smt_plugin.mixing.mix import mix_run
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.check import Checked, check_config
from tests.tiny_llama import GEMMA_LIKE, LLAMA_LIKE, MICROWORLD_LIKE, QWEN_LIKE, Style, make_model, make_tokenizer
from tests.training_records import write_records


def checked(folder: Path, style: Style) -> Checked:
    """A mix for a model with such a template, and what is found of its config."""
    base = make_model(make_tokenizer(folder / "base", style))
    run = write_records(folder, count=60)
    mix_run(run, MixSection(tokenizer=str(base), replay=str(folder / "replay.jsonl"), sequence_len=256))
    end_of_turn = {"<|eos|>": "<|end|>", "<eos>": "<turn|>"}.get(style.end_of_text, style.end_of_text)
    overrides = {"eot_tokens": [end_of_turn], "warmup_ratio": 0.1}
    return check_config(write_axolotl_config(run, "microworld/full", base_model=str(base), overrides=overrides), 1)


@pytest.mark.parametrize(
    "style",
    [LLAMA_LIKE, QWEN_LIKE, GEMMA_LIKE, MICROWORLD_LIKE],
    ids=["llama", "qwen", "gemma", "microworld"],
)
def test_templates_that_ask_as_they_train_have_no_problem(tmp_path: Path, style: Style) -> None:
    found = checked(tmp_path, style)
    assert (found.problems, found.notes) == ([], [])


PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (
            "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
            r"after nothing.*after '<think>.*opens th",
        ),
        (
            "",
            r"are trained after '<\|assistant\|>', but .* after nothing.*no generation prompt",
        ),
        ("{% if add_generation_prompt %}<|user|>{% endif %}", "make the generation prompt what stands before answers"),
    ],
)
def test_an_answer_that_is_asked_for_in_another_form_than_trained_is_named(
    tmp_path: Path, prompt: str, says: str
) -> None:
    (problem,) = checked(tmp_path, MICROWORLD_LIKE.replace(PROMPT, prompt)).problems
    assert "qa.jsonl" in problem
    assert re.search(says, problem)


def test_empty_thoughts_that_only_the_prompt_has_are_named(tmp_path: Path) -> None:
    # As the larger Gemma 4 models have them.
    larger = GEMMA_LIKE.replace("<|turn>model\n{% endif %}", "<|turn>model\n<|channel>thought\n<channel|>{% endif %}")
    (problem,) = checked(tmp_path, larger).problems
    assert re.search(r"are trained after nothing, but .* after '<\|channel>thought\\n<channel\|>'", problem)


def test_a_template_that_writes_the_days_date_is_noted(tmp_path: Path) -> None:
    dated = LLAMA_LIKE.replace("26 Jul 2024", "{{ strftime_now('%d %b %Y') }}")
    found = checked(tmp_path, dated)
    assert found.problems == []
    (note,) = found.notes
    assert "writes the day's date" in note
