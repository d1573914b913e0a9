import asyncio

import jinja2
import pytest
from jinja2.meta import find_undeclared_variables

from smt_plugin.assets import asset_dir
from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.methods import METHODS, make_method
from smt_plugin.methods.base import Answer, Ask, Unparsable, parse_text
from smt_plugin.methods.synthetic_qa import SyntheticQA


def test_every_folder_of_prompts_is_a_method_or_of_the_evaluation_and_every_method_has_one() -> None:
    assert {path.name for path in asset_dir("prompts").iterdir() if path.is_dir()} == {
        *METHODS,
        "judge",
        "questions",
        "rerank",
        "audit",
        "gate",
        "transcribe",
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_its_own_examples_and_asks_what_its_prompts_name(document: Document, name: str) -> None:
    """Its rounds are played with nothing but its examples until all of its prompts were asked."""
    asks: dict[str, Ask] = {}

    async def complete(ask: Ask) -> Answer:
        asks[ask.prompt] = ask
        value = ask.read(Reply(ask.example, "stop", 0, 0, ask.example_tokens))
        return Answer(value, "key", ask.example_tokens, ask.prompt, "", "", ask.sampling)

    own = {f"{name}/{path.stem}" for path in (asset_dir("prompts") / name).glob("*.jinja")}
    for r in range(20):
        assert asyncio.run(METHODS[name]().round(document, r, complete))
        if own <= asks.keys():
            break
    assert own <= asks.keys()
    for prompt, ask in asks.items():
        tree = jinja2.Environment().parse((asset_dir("prompts") / f"{prompt}.jinja").read_text())
        assert find_undeclared_variables(tree) == {"identity", "document", *ask.variables}


def test_options_reach_the_method_and_a_method_of_ones_own_is_imported() -> None:
    assert make_method("synthetic_qa", {"pairs_per_call": 3, "temperature": 1}) == SyntheticQA(pairs_per_call=3)
    own = make_method("smt_plugin.methods.synthetic_qa:SyntheticQA", {"pairs_per_call": 3})
    assert own == SyntheticQA(pairs_per_call=3)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("haiku", {}, f"unknown method 'haiku'; use one of {', '.join(METHODS)}, or package.module:Class"),
        ("no.such:Thing", {}, "method 'no.such:Thing' cannot be imported"),
        ("../own:Thing", {}, "method '../own:Thing' cannot be imported"),
        ("synthetic_qa", {"pears": 3}, r"methods\.synthetic_qa\.pears: unknown key"),
        (
            "synthetic_qa",
            {"pairs_per_call": "many"},
            r"methods\.synthetic_qa\.pairs_per_call: Input should be a valid integer",
        ),
        ("json:dumps", {}, "method 'json:dumps' is no dataclass with a `round`"),
        ("wrap", {"temperature": float("nan")}, r"methods\.wrap: temperature is nan, but must be from 0 to 2; fix"),
        ("wrap", {"top_p": 0}, r"methods\.wrap: top_p is 0\.0, but must be above 0"),
        ("wrap", {"max_tokens": -3}, r"methods\.wrap: max_tokens is -3, but must be at least 1"),
        ("wrap", {"seed": 2**70}, r"methods\.wrap.*seed"),
        ("synthetic_qa", {"pairs_per_call": 0}, r"methods\.synthetic_qa: pairs_per_call is 0, but must be at least 1"),
        ("focal_rewrite", {"synthetic_qa": {"x": 1}}, r"methods\.focal_rewrite\.synthetic_qa\.x: unknown key"),
    ],
)
def test_a_wrong_method_or_option_is_named(name: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        make_method(name, options)


def read(text: str) -> object:
    ask = Ask(Document("d", "T", "D"), "wrap/rewrite", {}, {}, 0, parse_text)
    return ask.read(Reply(text, "stop", 1, 0, 1))


@pytest.mark.parametrize("opening", ["<think>\n", "\n<think>", ""])
def test_the_thoughts_of_a_model_are_no_part_of_its_reply(opening: str) -> None:
    assert read(f"{opening}Shall I? ## I shall.\n</think>\n\nA text.") == "A text."
    assert read("It wrote <think>Hm.</think> in the log.") == "It wrote <think>Hm.</think> in the log."


def test_a_reply_of_nothing_but_thoughts_is_not_usable() -> None:
    with pytest.raises(Unparsable, match=r"the model thinks: .* `chat_template_kwargs: \{enable_thinking: false\}`"):
        read("<think>Shall I? Shall")
