"""A check of the form in which conversations are trained beside the one in which evaluation will ask."""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from smt_plugin.mixing.manifest import REPLAY_CHAT_FILE
from smt_plugin.training.check.known import Finding, Known, Note, Problem
from smt_plugin.training.check.texts import first_row, template_of

_SHOWN = 40


def asked_as_trained(known: Known) -> Iterator[Finding]:
    """The first conversation of each file, up to its first answer, beside what `smt evaluate` sends for its question.

    That is the question alone in the model's chat template, with the generation prompt and thinking off.
    """
    for data in known.files:
        # Replay keeps its own forms.
        if known.tokenizer is None or data.problems or not data.is_chat or data.path.name == REPLAY_CHAT_FILE:
            continue
        turns = first_row(data)
        roles = [turn.get("role") for turn in turns]
        if roles[-2:] != ["user", "assistant"] or not all(isinstance(turn.get("content"), str) for turn in turns):
            continue
        template = template_of(data, known.config, known.tokenizer)

        def write(turns: list[dict[str, str]], template: Any = template, **options: Any) -> str:
            text: str = known.tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **options)
            return text

        asks: dict[str, Any] = {"add_generation_prompt": True, "enable_thinking": False}
        try:
            # The answer's own words must not look like the template's.
            trained = write([*turns[:-1], {**turns[-1], "content": "ANSWER"}]).partition("ANSWER")[0]
            asked = write([turns[-2]], **asks)
            dated = asked != write([turns[-2]], strftime_now=lambda form: "on that day", **asks)
        # A template is a program, which may fail in any way; the texts' own check names it.
        except Exception:
            continue
        if roles[0] == "system" and trained != asked:
            yield Problem(
                f"{data.where}: {data.path} is trained with a system text ({_shown(turns[0]['content'])}), but `smt "
                "evaluate` asks without one; leave it out of the data."
            )
        elif trained != asked:
            same = len([*takewhile(lambda pair: pair[0] == pair[1], zip(trained, asked, strict=False))])
            yield Problem(
                f"{data.where}: answers of {data.path} are trained after {_shown(trained[same:])}, but `smt evaluate` "
                f"asks for them after {_shown(asked[same:])}: {_meaning(trained[same:], asked[same:])}."
            )
        if dated:
            yield Note(
                f"{data.where}: the chat template writes the day's date, so training and evaluation differ where they "
                "are not of one day; give the tokenizer a template with a fixed date."
            )


def _meaning(trained: str, asked: str) -> str:
    opened = next((mark for mark in ("<think>", "[THINK]", "<reasoning>", "<thinking>") if mark in asked), None)
    if opened and opened not in trained:
        return (
            f"the template opens thoughts ({opened}) for every answer, which training knows nothing of; take the "
            "model's form without thoughts, or a template that opens none"
        )
    if not asked:
        return "the template has no generation prompt; add one (`add_generation_prompt`)"
    return "the model would not know the place for its answer; make the generation prompt what stands before answers"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...") if text else "nothing"
