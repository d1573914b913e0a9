"""Have the judge's model read the replies of which code reads no option."""

import re
from collections.abc import Sequence

from smt_plugin.backends.thoughts import without_thoughts
from smt_plugin.config import JudgeSection
from smt_plugin.evaluation.judge import ask_judge
from smt_plugin.evaluation.stated_choice import NOTHING, Stated
from smt_plugin.prompts import Prompts

_CHOICE = re.compile(r"CHOICE\W+(NONE|OTHER|[A-Z])\b")
_NONE, _OTHER = -1, -2
_LONGEST_REPLY = 4000  # characters of a reply's end that are read


def read_by_judge(
    replies: Sequence[str], question: str, options: Sequence[str], settings: JudgeSection
) -> dict[str, Stated]:
    """Return what each reply states, by the judge's reading; each different reply is asked about once, ever.

    A reply without text, or with nothing but thoughts, states nothing and is not asked about; one that the judge could
    not read states nothing either.

    Raises:
        BadInput, RuntimeError: as `judge.judge`.
    """
    said = {reply: (without_thoughts(reply) or "").strip()[-_LONGEST_REPLY:] for reply in replies}
    prompts = Prompts()
    # The system text is for writing about a document, which the judge does not do.
    messages = {
        reply: prompts.messages("judge/choice", question=question, options=list(options), reply=text)[1:]
        for reply, text in said.items()
        if text
    }
    read = ask_judge(messages, settings, lambda text: choice_of(text, len(options)), "choice")
    chosen = {_NONE: NOTHING, _OTHER: Stated(None, other=True)} | {n: Stated(n) for n in range(len(options))}
    return {reply: chosen[read[reply]] if reply in read else NOTHING for reply in said}


def choice_of(reply: str, count: int) -> int | None:
    """Return the option (0-based, of `count`) that a judge's reply names last, -1 for none, -2 for another answer.

    None where it names nothing of that; what it thought before is not read.
    """
    for word in reversed(_CHOICE.findall(without_thoughts(reply) or "")):
        number = {"NONE": _NONE, "OTHER": _OTHER}.get(word)
        number = ord(word) - ord("A") if number is None else number
        if number < count:
            return number
    return None
