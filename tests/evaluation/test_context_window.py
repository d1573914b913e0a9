"""Prompts measured by a model's own tokenizer, which has one token a byte here, and documents cut to fit."""

import re
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.errors import BadInput
from smt_plugin.evaluation.context_window import Window, context_of, fit, task_file, task_settings, window_of
from smt_plugin.evaluation.lm_eval_link import dataset, question_rows
from smt_plugin.microworld.world import QUESTION_PROMPT
from tests.quality_data import write_own
from tests.tiny_llama import LLAMA_LIKE, QWEN_LIKE, Style, make_model, make_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(make_tokenizer(tmp_path_factory.mktemp("model"), LLAMA_LIKE))


def window(model: Path, told: dict[str, Any] | None = None, **arguments: Any) -> Window:
    found = window_of({"pretrained": str(model), **arguments}, told or {})
    assert found is not None
    return found


def rows(tmp_path: Path, context: str = "full", sentences: int = 60) -> list[dict[str, Any]]:
    return question_rows("quality", context, write_own(tmp_path / "data", sentences))


def test_the_context_is_what_lm_eval_takes_it_for(model: Path) -> None:
    assert window(model).tokens == 4096
    assert window(model, max_length=100).tokens == window(model, max_model_len=100).tokens == 100
    server = {"base_url": "http://127.0.0.1:9/v1", "pretrained": str(model)}
    assert window_of(server, {}) is None
    assert window_of(server | {"tokenizer": str(model)}, {}) is None
    assert window(model, **server, tokenizer=str(model), max_length=2000).tokens == 2000
    assert window_of({"pretrained": "no/such-model"}, {}) is None
    assert window_of({}, {}) is None
    assert context_of({"pretrained": "no/such-model"}, None) is None


def test_a_prompt_is_measured_in_the_chat_template_with_a_begin_token_once(model: Path) -> None:
    # One special token each for begin, header, header's end (three times) and end of turn (twice).
    turns = "system\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nuser\n\nassistant\n\n"
    assert window(model).lengths(["Hello"]) == [len(turns) + 9 + 5]
    assert window(model, {"apply_chat_template": True}).lengths(["Hello"]) == [len(turns) + 9 + 5]
    # Without --apply_chat_template the prompt stands alone, behind the begin token.
    assert window(model, {"limit": 2}).lengths(["Hello"]) == [6]
    told = {"apply_chat_template": True, "system_instruction": "Be brief."}
    assert window(model, told).lengths(["Hello"]) == [len(turns) + 9 + 5 + 9]


def test_thinking_that_is_off_counts_with_what_the_template_writes_for_it(tmp_path: Path) -> None:
    model = make_model(make_tokenizer(tmp_path, QWEN_LIKE))
    (on,), (off,) = (window(model, enable_thinking=thinks).lengths(["a"]) for thinks in (True, False))
    assert off - on == len("<think>\n\n</think>\n\n")


def test_the_microworlds_prompt_is_found_where_its_task_file_points() -> None:
    assert task_settings(task_file("microworld", "full"))["doc_to_text"] == QUESTION_PROMPT
    assert task_settings(task_file("microworld", "rag"))["generation_kwargs"]["max_gen_toks"] == 64
    assert task_settings(task_file("quality", "full", sampled=False))["output_type"] == "multiple_choice"


def test_prompts_that_do_not_fit_are_counted_and_the_longest_is_named(tmp_path: Path, model: Path) -> None:
    asked = rows(tmp_path)
    narrow = window(model, max_length=2000)
    with pytest.raises(BadInput) as caught:
        fit(asked, task_file("quality", "full"), narrow, cut=False)
    longest = max(re.findall(r"question '(\w+)', has ([\d,]+)", str(caught.value)), key=lambda found: found[1])
    lengths = narrow.lengths([prompt(row) for row in asked])
    assert int(longest[1].replace(",", "")) == max(lengths)
    assert longest[0] == asked[lengths.index(max(lengths))]["question_id"]
    assert "8 of 8 prompts do not fit into the model's context of 2,000 tokens beside an answer of 1,024" in str(
        caught.value
    )
    for ending, says in (("rag", "let retrieval give fewer or smaller chunks"), ("none", r"has one\), or leave the")):
        with pytest.raises(BadInput, match=says):
            fit(rows(tmp_path), task_file("quality", ending), narrow, cut=ending == "rag")
    # An answer of another length, and a context that is just long enough.
    exact = window(
        model, {"apply_chat_template": True, "gen_kwargs": {"max_gen_toks": 100}}, max_length=max(lengths) + 100
    )
    fit(asked, task_file("quality", "full"), exact, cut=False)
    assert {row["cut"] for row in asked} == {0}
    shorter = window(
        model, {"apply_chat_template": True, "gen_kwargs": {"max_gen_toks": 101}}, max_length=max(lengths) + 100
    )
    with pytest.raises(BadInput, match="1 of 8 prompts do not fit"):
        fit(asked, task_file("quality", "full"), shorter, cut=False)


def prompt(row: dict[str, Any]) -> str:
    from jinja2 import Environment

    text = task_settings(task_file("quality", "full"))["doc_to_text"]
    return str(Environment(keep_trailing_newline=True).from_string(text).render(**row))


@pytest.mark.parametrize("style", [LLAMA_LIKE, QWEN_LIKE], ids=["llama", "qwen"])
def test_a_document_is_cut_at_a_sentence_end_so_that_prompt_and_answer_just_fit(tmp_path: Path, style: Style) -> None:
    narrow = window(make_model(make_tokenizer(tmp_path / "model", style)), max_length=2600)
    asked, whole = rows(tmp_path), rows(tmp_path)
    fit(asked, task_file("quality", "full"), narrow, cut=True)
    for row, before, length in zip(asked, whole, narrow.lengths([prompt(row) for row in asked]), strict=True):
        (passage,), (old,) = row["passages"], before["passages"]
        assert passage.endswith(" says little. [...]")
        assert old.startswith(passage.removesuffix(" [...]"))
        assert row["cut"] == len(old) - len(passage.removesuffix(" [...]")) - 1  # the blank behind the sentence
        # A sentence more would be too long.
        assert 2600 - 1024 - 60 < length <= 2600 - 1024
        assert {**row, "passages": 0, "cut": 0} == {**before, "passages": 0, "cut": 0}


def test_of_several_documents_the_longest_are_cut_alike(tmp_path: Path, model: Path) -> None:
    row = rows(tmp_path)[0]
    short, long = '"A"\nOne sentence.', '"B"\n' + "It rained on and on. " * 60
    row["passages"] = [long, short, long.replace("rained", "snowed")]
    fit([row], task_file("quality", "full"), window(model, max_length=3000), cut=True)
    assert row["passages"][1] == short
    first, _, last = row["passages"]
    assert first == last.replace("snowed", "rained")
    assert first.endswith("on. [...]")


def test_a_text_without_sentences_is_cut_between_lines_or_words_and_never_in_the_line_that_names_it(
    tmp_path: Path, model: Path
) -> None:
    row = rows(tmp_path)[0]
    for text, end in (("word " * 500, "word [...]"), ("word\n" * 500, "word [...]"), ("x" * 2500, "x [...]")):
        row["passages"] = [f'"A. B. C." by D. E.\n{text}']
        fit([row], task_file("quality", "full"), window(model, max_length=2600), cut=True)
        assert row["passages"][0].startswith('"A. B. C." by D. E.\n')
        assert row["passages"][0].endswith(end)
        assert len(row["passages"][0]) > 200


def test_where_not_even_the_question_fits_no_document_is_cut(tmp_path: Path, model: Path) -> None:
    with pytest.raises(BadInput, match=r"question '\w+' leaves no room for its document .* of 1,300 tokens"):
        fit(rows(tmp_path), task_file("quality", "full"), window(model, max_length=1300), cut=True)


def test_the_likelihood_of_an_option_takes_its_own_tokens_and_no_more(tmp_path: Path, model: Path) -> None:
    task = task_file("quality", "full", sampled=False)
    row = rows(tmp_path)[0]
    row["passages"], row["options"] = ['"A"\nOne.'], ["no", "o" * 99]
    length = window(model).lengths([_by_likelihood(row)])[0]
    fit([row], task, window(model, max_length=length + 100), cut=False)
    with pytest.raises(BadInput, match=f"of {length + 99:,} tokens, and lm-eval would"):
        fit([row], task, window(model, max_length=length + 99), cut=False)


def _by_likelihood(row: dict[str, Any]) -> str:
    from jinja2 import Environment

    text = task_settings(task_file("quality", "full", sampled=False))["doc_to_text"]
    return str(Environment(keep_trailing_newline=True).from_string(text).render(**row))


def test_the_hook_checks_what_lm_eval_passes_to_it(tmp_path: Path, model: Path) -> None:
    data = {"quality": str(write_own(tmp_path / "data", 60))}
    arguments: dict[str, Any] = {"data": data, "pretrained": str(model), "max_length": 2600, "enable_thinking": False}
    with pytest.raises(BadInput, match="quality_smt_full: 8 of 8 prompts do not fit"):
        dataset("quality", "full", **arguments)
    cut = dataset("quality", "full", **arguments, cut_documents=True)["test"]
    assert all(text.endswith(" [...]") for (text,) in cut["passages"][:])
    assert min(cut["cut"][:]) > 1000
    with pytest.raises(BadInput, match=r"quality_smt_rag: 8 of 8 prompts .*; give .* let retrieval give fewer"):
        dataset("quality", "rag", **arguments, retrieval={"mode": "bm25"}, cut_documents=True)
