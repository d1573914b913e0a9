from pathlib import Path

import jinja2
import pytest
from jinja2.meta import find_undeclared_variables

from smt_plugin.assets import asset_dir
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.prompts import Prompts

GOLDEN = Path(__file__).parent / "golden"
# Every shipped prompt -> what it names beside the system text: found, so that a new one needs nothing but its golden.
VARIABLES = {
    path.relative_to(asset_dir("prompts")).with_suffix("").as_posix(): find_undeclared_variables(
        jinja2.Environment().parse(path.read_text())
    )
    for path in sorted(asset_dir("prompts").rglob("*/*.jinja"))
}
# What the variables hold here; one that is not listed holds its own name.
VALUES: dict[str, object] = {
    "num_pairs": 8,
    "num_questions": 8,
    "max_entities": 30,
    "strategy": "Draw a timeline\nPut {{ every }} event in order.",
    "query": "Who {% if %}?",
    "first": "the keeper",
    "second": "the lamp",
    "third": "the log",
    "passages": ["The keeper {{ lit }} it.", "It rained."],
    "question": "Who lit the lamp?",
    "gold": "The {{ keeper }}",
    "answer": "A keeper {% if %}",
    "claims": ["The keeper {{ lit }} it.", "Question: Who? Answer: A keeper."],
    "numbers": "1-2",
    "options": ["The keeper", "Nobody {{ lit }} it"],
    "said": ["number: 1953", "name: {{ Kepler }}"],
    "reply": "Who but the {{ keeper }}?",
}


def values(name: str, document: Document) -> dict[str, object]:
    known = VALUES | {"identity": document.identity, "document": document.text}
    if name == "rerank/order":
        known["query"] = "Who lit the lamp?"
    return {variable: known.get(variable, variable) for variable in VARIABLES[name]}


def rendered(name: str, document: Document) -> list[dict[str, str]]:
    return Prompts().messages(name, **values(name, document))


@pytest.mark.parametrize("name", VARIABLES)
def test_a_prompt_renders_as_in_its_golden_file(name: str, document: Document, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / (name.replace("/", "-") + ".txt")
    text = "".join(f"[{message['role']}]\n{message['content']}\n" for message in rendered(name, document))
    if request.config.getoption("--write-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_a_language_ends_the_system_text_and_changes_nothing_else(
    document: Document, request: pytest.FixtureRequest
) -> None:
    name = "focal_rewrite/apply"
    system, user = Prompts(language="German").messages(name, **values(name, document))
    plain = rendered(name, document)
    assert user == plain[1]
    assert system["content"].startswith(plain[0]["content"] + "\n\n")
    path = GOLDEN / "language.txt"
    if request.config.getoption("--write-golden"):
        path.write_text(system["content"] + "\n")
    assert system["content"] + "\n" == path.read_text()
    hashes = {Prompts(language=language).hash(name) for language in (None, "German", "Thai")}
    assert len(hashes) == 3


def test_all_prompts_of_a_document_begin_with_the_same_text_up_to_its_end(document: Document) -> None:
    about_a_document = [name for name, variables in VARIABLES.items() if "document" in variables]
    without = {
        "gate/again",
        "judge/verdict",
        "judge/choice",
        "questions/recall",
        "rerank/order",
        "rerank/question",
        "transcribe/page",
    }
    assert VARIABLES.keys() - about_a_document == without
    heads = {str(rendered(name, document)).split("</document>")[0] for name in about_a_document}
    assert len(heads) == 1
    assert "burned for 30 years." in heads.pop()


def test_text_of_a_document_a_strategy_or_a_question_never_acts_as_a_template(document: Document) -> None:
    content = rendered("focal_rewrite/apply", document)[1]["content"]
    assert "{{ 7 * 7 }}" in content
    assert "{% raw %}" in content
    assert "{{ every }}" in content
    assert "Who {% if %}?" in content


def test_control_tokens_are_broken_up_also_in_a_list_of_texts(document: Document) -> None:
    text = Prompts().messages("rerank/order", query="q", passages=["a", "b<|im_end|>"])[1]["content"]
    assert "< |im_end|>" in text
    assert "<|im_end|>" not in text


def test_a_missing_variable_and_an_unknown_prompt_are_named() -> None:
    with pytest.raises(BadInput, match=r"active_reading/apply.jinja: 'strategy' is undefined"):
        Prompts().messages("active_reading/apply", identity="i", document="d")
    with pytest.raises(BadInput, match=r"there is no prompt haiku/write.jinja"):
        Prompts().messages("haiku/write")


def test_own_prompts_come_before_the_shipped_ones_and_change_the_hash(tmp_path: Path, document: Document) -> None:
    (tmp_path / "active_reading").mkdir()
    (tmp_path / "active_reading" / "strategies.jinja").write_text("{{ document }} In one word?")
    own = Prompts(tmp_path)
    assert own.messages("active_reading/strategies", identity="i", document="d")[1]["content"] == "d In one word?"
    assert own.hash("active_reading/strategies") != Prompts().hash("active_reading/strategies")
    assert own.hash("active_reading/apply") == Prompts().hash("active_reading/apply")
    with pytest.raises(BadInput, match="nowhere does not exist"):
        Prompts(tmp_path / "nowhere")


def test_a_prompt_file_renders_with_plain_jinja(document: Document) -> None:
    source = (asset_dir("prompts") / "focal_rewrite" / "apply.jinja").read_text()
    plain = jinja2.Template(source).render(values("focal_rewrite/apply", document))
    assert plain.strip() == rendered("focal_rewrite/apply", document)[1]["content"]


def test_a_template_of_the_user_cannot_reach_python(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "step.jinja").write_text("{{ ''.__class__.__mro__ }}")
    with pytest.raises(BadInput, match=r"evil/step\.jinja, line 1: access to attribute '__class__'.* is unsafe; fix"):
        Prompts(tmp_path).messages("evil/step")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ identity }}\n{% if %}", r"apply\.jinja, line 2: Expected an expression"),
        ("{{ identity }}\n{{ document", r"apply\.jinja, line 2: unexpected end of template"),
        ("{{ document }}\n\n{{ strategi }}", r"line 3: there is no variable 'strategi', but .*strategy; fix it"),
        ("\xff", r"apply\.jinja cannot be read"),
        ("{{ document }}\n{{ query | upprcase }}", r"apply\.jinja, line 2: there is no filter 'upprcase'; fix it"),
        ("{% if query is evn %}{% endif %}", r"apply\.jinja, line 1: there is no test 'evn'; fix it"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", r"apply\.jinja: it cannot be compiled \(maximum recursion"),
        ("{{ query | center(99999999) }}", r"line 1: the number 99999999 is beyond 1,000,000"),
        ("\0", r"apply\.jinja holds NUL characters"),
    ],
)
def test_an_error_in_ones_own_prompt_is_named_with_file_and_line_before_it_is_used(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "focal_rewrite").mkdir()
    (tmp_path / "focal_rewrite" / "apply.jinja").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=says) as caught:
        Prompts(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n{% for i in range(10**9) %}x{% endfor %}", "line 2: Range too big"),
        ("{{ 1 / 0 }}", "line 1: division by zero"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "line 1: Range too big"),
        ("{{ document * 999999 * 999999 }}", "line 1: a product is longer than"),
        ("{{ 99 ** 99 ** 9 }}", "line 1: a power is too high"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "maximum recursion depth exceeded"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{# nothing #}", "nothing comes of it; write what to ask"),
        ("\n\n{{ document.__class__.__mro__[1].__subclasses__() }}", "line 3: access to attribute '__class__'"),
        ("{% include 'other.jinja' %}", r"prompt mine/step\.jinja: there is no prompt other\.jinja, which it names"),
    ],
)
def test_a_prompt_that_cannot_be_rendered_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "step.jinja").write_text(text)
    prompts = Prompts(tmp_path)
    with pytest.raises(BadInput, match=says):
        prompts.messages("mine/step", identity="x", document="y")
