"""Have the backend answer an evaluation question, with its document and without, and compare with the right answer."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from smt_plugin.backends.base import Reply, together
from smt_plugin.corpus import Document
from smt_plugin.evaluation.judge import Answer as GivenAnswer
from smt_plugin.evaluation.judge import verdict_of
from smt_plugin.evaluation.question_faults import Draft, Fault, same_words
from smt_plugin.evaluation.scoring import free_answer
from smt_plugin.evaluation.stated_choice import stated_choice
from smt_plugin.methods.base import Answer, Ask, Unparsable

# Our choices.
SAMPLES = 3
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 1024}
_JUDGING = {"temperature": 0.0, "max_tokens": 1024}
ANSWER, RECALL, VERDICT = "questions/answer", "questions/recall", "judge/verdict"

OTHERWISE = "most answers with the document are not the right option's"
KNOWN = "every answer without the document is right"

AskFor = Callable[[Ask], Awaitable[Answer | None]]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the samples of one question state (None: nothing that can be read) and how many of them are right."""

    stated: list[str | None]
    right: int


async def answers_to(draft: Draft, document: Document, ask: AskFor, prompt: str) -> Answers:
    """Have a question answered SAMPLES times.

    The options stand in an order that is a stable hash of the question, turned by one place in each sample: whoever
    always says "A" states the right one at most once.

    Args:
        document: that the question is about, or the part of it.
        prompt: ANSWER, which shows the document, or RECALL, which does not.
    """
    options = list(draft.options)
    random.Random(f"{draft.doc_id}\0{draft.question}").shuffle(options)

    async def one(sample: int) -> tuple[str | None, bool]:
        order = options[sample:] + options[:sample]
        variables: dict[str, Any] = {"question": draft.question, "options": order}
        # Without the document, the system text would ask for what is not there.
        has_system = prompt == ANSWER
        said = await ask(Ask(document, prompt, variables, SAMPLING, sample, _whole_text, has_system=has_system))
        if said is None:
            return None, False
        if order:
            place = stated_choice(said.value, order).option
            return (None, False) if place is None else (order[place], order[place] == draft.right)
        stated = free_answer(said.value)
        return stated, stated is not None and await _is_right(stated, draft, document, ask)

    found = await together(one(sample) for sample in range(SAMPLES))
    return Answers([stated for stated, _ in found], sum(right for _, right in found))


def disagreement(answers: Answers) -> Fault | None:
    """Whether the document, as the backend reads it, does not bear the right answer out: by no more than half."""
    if 2 * answers.right > len(answers.stated):
        return None
    return Fault(OTHERWISE, f"{answers.right} of {len(answers.stated)} right")


async def _is_right(stated: str, draft: Draft, document: Document, ask: AskFor) -> bool:
    """Compare a free-form answer: the same words or numbers by code, all else by the judge's prompt."""
    if same_words(stated, draft.right):
        return True
    given = GivenAnswer(document.identity, draft.question, draft.right, stated)
    if (verdict := given.verdict_by_code) is not None:
        return verdict
    variables = {"question": draft.question, "gold": draft.right, "answer": stated}
    said = await ask(Ask(document, VERDICT, variables, _JUDGING, 0, _verdict, has_system=False))
    return said is not None and bool(said.value)


def _whole_text(reply: Reply) -> str:
    # An answer in which nothing can be read is an answer, too, and not asked for again.
    return reply.text


def _verdict(reply: Reply) -> bool:
    verdict = verdict_of(reply.text)
    if verdict is None:
        raise Unparsable("no verdict")
    return verdict
