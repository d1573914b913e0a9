"""Score the answers to a question: find the answer that a text states, and compare it with the right one."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import orjson

_STATEMENT = re.compile(r"\banswer\s+is\b", re.IGNORECASE)
# What may stand between "answer is" and the answer: signs, LaTeX commands, and these words.
_LEAD = re.compile(
    r"^(?:[\s:*_\"'“‘`$\-–—]|\\\w+\{|\\[(\[]|(?:therefore|thus|clearly|probably|most likely|option|choice|letter)\b)*",
    re.IGNORECASE,
)
_BRACKETED_LETTER = re.compile(r"^[(\[]\W*([A-Za-z])\W*?[)\]]|^([A-Z])[)\]}]")
# A bare "A" may be an article, as in "A tall man": it needs a sign, the end or a reason behind it.
_BARE_LETTER = re.compile(r"^([A-Z])(?=$|(?!-\w)[^\w\s'’]|\s*\n|\s+(?:because|since|as)\b)")
_WINDOW = 1000
_LONGEST_ANSWER = 4000  # characters of a free-form answer that are judged


def stated_answer(text: str, options: Sequence[str]) -> int | None:
    """Return the 0-based index of the option that `text` ends up with, or None if it states none.

    The last readable "answer is ..." counts. Behind it, either an option's letter, "(B)" or "B", or an
    option's text is read; case and punctuation of the text matter only where options differ in nothing else.
    """
    wanted = [_plain(option) for option in options]
    window = max(_WINDOW, *(2 * len(option) for option in options))
    for statement in reversed(list(_STATEMENT.finditer(text))):
        rest = text[statement.end() : statement.end() + window]
        core = _LEAD.sub("", rest)
        for found in (
            _letter(_BRACKETED_LETTER, core, len(options)),
            _option_text(rest, wanted, options),
            _option_text(core, wanted, options),
            _letter(_BARE_LETTER, core, len(options)),
        ):
            if found is not None:
                return found
    return None


def free_answer(text: str) -> str | None:
    """Return what stands behind the last "answer is" that has anything behind it, or None."""
    for statement in reversed(list(_STATEMENT.finditer(text))):
        answer = text[statement.end() :].lstrip(" \t\r\n:*_").strip()
        if any(char.isalnum() for char in answer):
            return answer[:_LONGEST_ANSWER]
    return None


def _letter(pattern: re.Pattern[str], rest: str, count: int) -> int | None:
    match = pattern.match(rest)
    if not match:
        return None
    index = ord(next(group for group in match.groups() if group).upper()) - ord("A")
    return index if index < count else None


def _option_text(rest: str, wanted: list[str], options: Sequence[str]) -> int | None:
    said = _plain(rest) + " "
    fitting = [index for index, option in enumerate(wanted) if option and said.startswith(option + " ")]
    longest = max((len(wanted[index]) for index in fitting), default=0)
    fitting = [index for index in fitting if len(wanted[index]) == longest]
    if len(fitting) > 1:  # "-5 %" and "5 %", or "C", "C++" and "C#": the signs tell
        start = " ".join(rest.strip(" \t\r\n:*_`\"'“‘").casefold().split())
        spelt = [index for index in fitting if start.startswith(" ".join(options[index].casefold().split()))]
        return max(spelt, key=lambda index: len(options[index]), default=None)
    return fitting[0] if fitting else None


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(char if char.isalnum() else " " for char in text).split())


def process_results(doc: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    """lm-eval's hook for one question: `results` holds one list, with all n sampled answers.

    Returns:
        acc: share of the samples that state the right answer (0 to 1); what cannot be read is wrong.
        unparsed: share of the samples that state no answer.

    Raises:
        BadInput, RuntimeError: a free-form answer could not be judged; see `judge`.
    """
    (samples,) = results
    if not doc["options"]:
        return _judged(doc, samples)
    stated = [stated_answer(sample, doc["options"]) for sample in samples]
    # An official file may give an option twice.
    right = {index for index, option in enumerate(doc["options"]) if option == doc["options"][doc["answer"]]}
    return {
        "acc": sum(index in right for index in stated) / len(stated),
        "unparsed": sum(index is None for index in stated) / len(stated),
    }


def _judged(doc: dict[str, Any], samples: list[str]) -> dict[str, float]:
    from smt_plugin.evaluation.judge import Answer, judge, judge_settings

    stated = [free_answer(sample) for sample in samples]
    answers = [Answer(doc["identity"], doc["question"], doc["gold"], answer) for answer in stated if answer is not None]
    verdicts = judge(answers, judge_settings(orjson.loads(doc["judge"])))
    return {"acc": sum(verdicts) / len(samples), "unparsed": stated.count(None) / len(samples)}
