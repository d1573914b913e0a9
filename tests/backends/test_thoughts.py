import pytest

from smt_plugin.backends.thoughts import without_thoughts


@pytest.mark.parametrize(
    "text",
    [
        "<think>Perhaps Pears.</think>Plums",
        "Perhaps Pears.</think>Plums",
        "<think>\nPears?\n</think>\n\n<think>No.</think>Plums",
        "<thinking>Pears?</thinking>Plums",
        "<thought>Pears?</thought>Plums",
        "<reasoning>Pears?</reasoning>Plums",
        "[THINK]Pears?[/THINK]Plums",
        "<seed:think>Pears?</seed:think>Plums",
        "◁think▷Pears?◁/think▷Plums",
        "<|START_THINKING|>Pears?<|END_THINKING|><|START_RESPONSE|>Plums<|END_RESPONSE|>",
        "<|begin_of_thought|>Pears?<|end_of_thought|><|begin_of_solution|>Plums<|end_of_solution|>",
        "<|channel|>analysis<|message|>Pears?<|end|><|start|>assistant<|channel|>final<|message|>Plums<|return|>",
        "analysisWe think of pears.assistantfinalPlums",
        "<unused94>thought\nPears?<unused95>Plums",
        "<|channel>thought\nPears?<channel|>Plums",
        "Plums",
    ],
)
def test_thoughts_are_taken_off_in_every_familys_form(text: str) -> None:
    assert (without_thoughts(text) or "").strip() == "Plums"


@pytest.mark.parametrize(
    "text", ["<think>Pears, or", "[THINK]Pears", "<|channel|>analysis<|message|>Pears", "<think>a</think><think>b"]
)
def test_a_reply_of_nothing_but_thoughts_that_were_cut_off_is_none(text: str) -> None:
    assert without_thoughts(text) is None


def test_a_reply_keeps_words_that_only_look_like_marks() -> None:
    for text in (
        "I think <b>so</b>",
        "analysis of the harbour",
        "a final word",
        "An analysis: final.",
        "He wrote <think>Hm.</think> in the log.",
    ):
        assert without_thoughts(text) == text
