import asyncio
import json
from pathlib import Path

import pytest

from smt_plugin.backends.base import Request
from smt_plugin.microworld import pretrain, scripted, stream, tokenizer, world

BASE_MODEL = Path(scripted.__file__).parent / "base_model"


@pytest.fixture(scope="module")
def loaded():
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype="float32")
    return model, transformers.AutoTokenizer.from_pretrained(BASE_MODEL)


def everything_said():
    """All texts that the model can be given: documents, questions, prompts, records, replay."""
    for document in world.documents(3):
        yield world.passage(document.title, document.text)
        messages = [{"role": "user", "content": f"<document>{document.text}</document>"}]
        request = Request(messages, {}, 0, None, document.id, "synthetic_qa/pairs", {"num_pairs": 9})
        answer = asyncio.run(scripted.ScriptedBackend(1.0).complete(request))
        for pair in json.loads(answer.text)["pairs"]:
            yield pair["question"] + " " + pair["answer"]
        for style in scripted.STYLES:
            variables = {"strategy": style.heading}
            request = Request(messages, {}, 0, None, document.id, "active_reading/apply", variables)
            yield asyncio.run(scripted.ScriptedBackend(1.0).complete(request)).text
    for row in world.questions(3):
        yield world.question_prompt(row["question"], row["options"])
    for row in stream.replay(3, 300):
        yield row["text"] if "text" in row else " ".join(m["content"] for m in row["messages"])


def test_no_word_of_the_microworld_is_unknown_to_the_tokenizer(loaded):
    _, encoder = loaded
    for text in everything_said():
        assert encoder.unk_token_id not in encoder(text)["input_ids"], text


def test_the_tokenizer_that_ships_is_the_one_the_code_makes(loaded):
    assert loaded[1].get_vocab() == tokenizer.build().get_vocab()


def test_the_chat_template_renders_system_and_user_and_leaves_the_turn_to_the_assistant(loaded):
    messages = [{"role": "system", "content": "Facts"}, {"role": "user", "content": "Where?"}]
    text = loaded[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Facts<|end|><|user|>Where?<|end|><|assistant|>"


def test_the_base_model_reads_an_article_in_its_context_but_does_not_know_it_without(loaded):
    scores = pretrain.evaluate(*loaded, seed=3, limit=60)
    assert scores["full"] > 0.8
    assert scores["closed"] < 0.5


def test_the_question_prompt_is_the_jinja_template_of_the_tasks():
    import jinja2

    for passages in ([], ["A b\ntext one.", "C d\ntext two."]):
        rendered = jinja2.Template(world.QUESTION_PROMPT).render(
            question="Where?", options=["x", "y"], passages=passages
        )
        assert rendered == world.question_prompt("Where?", ["x", "y"], passages)


def test_the_files_of_the_base_model_stay_small():
    assert sum(file.stat().st_size for file in BASE_MODEL.iterdir()) < 3_000_000


def test_a_model_that_was_pretrained_by_the_same_settings_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "small"
    command = ["pretrain", "--out", str(out), "--hidden-size", "32", "--steps", "1"]
    monkeypatch.setattr("sys.argv", command)
    pretrain.main()
    weights = (out / "model.safetensors").read_bytes()
    assert "is kept" not in capsys.readouterr().out
    pretrain.main()
    assert f"{out} is kept: it was pretrained so before, in " in capsys.readouterr().out
    assert (out / "model.safetensors").read_bytes() == weights
    monkeypatch.setattr("sys.argv", [*command, "--seed", "1"])
    pretrain.main()
    assert "is kept" not in capsys.readouterr().out
    assert (out / "model.safetensors").read_bytes() != weights
