"""Score the answers to a question: find the answer that a text states, and compare it with the right one."""

import atexit
import re
import sys
from collections import Counter
from string import ascii_uppercase
from typing import Any

import orjson

from smt_plugin.backends.thoughts import without_thoughts
from smt_plugin.evaluation.stated_choice import stated_choice, until_next_task

# A statement of the answer at the beginning of a sentence, perhaps behind a few words that lead over to it.
_STATEMENT = re.compile(
    r"(?:^|(?<=[.!?;:>])\s|\n)[ \t>*_#\"'“-]*(?:(?:so|thus|hence|therefore|consequently|accordingly|finally|overall"
    r"|in\s+(?:conclusion|summary|short|total)|to\s+(?:conclude|sum\s+up)|(?:based|according)\s[^.,:\n]{0,80}|as\s+a\s+result|also|daher|somit|donc)[\s,:]+)*"
    r"(?:(?:the|my|our|die|la|a|el|het|den)\s+)?(?:(?:final|correct|right|short|complete|full|endgültige|richtige|correcta|correcte)\s+)*"
    r"(?:answer|antwort|réponse|respuesta|resposta|risposta|antwoord|ответ|答案|答え|정답)(?:\s+to\s+[^.:\n]{0,200}?)?[\s,]*"
    r"(?:(?:therefore|thus|then|finally)[\s,]+)?[*_]*(?:\s*(?:[:：]|\bis\b|\bwould\s+be\b|\bist\b|\blautet\b|\best\b|\bes\b|\bé\b|\bè\b|是|为|は)[*_]*\s*[:：]?)[*_]*",
    re.IGNORECASE,
)
# Within a sentence it takes a colon; and what only speaks about the answer states none.
_COLON = re.compile(r"\b(?:the|my)\s+(?:\w+\s+)?answer\s+(?:\w+\s+)?is[*_]*\s*:[*_]*", re.IGNORECASE)
_SPOKEN_OF = re.compile(
    r"\s*(?:now\s+|also\s+|therefore\s+)?(?:correct|right|wrong|helpful|clear|useful|based|given|supported|found|consistent|derived|stated|"
    r"not)\b",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_CORRECTION = re.compile(r"\b(?:wait|actually|no,|rather|correction|sorry|on second thought)\b", re.IGNORECASE)
_LONGEST_ANSWER = 4000  # characters of a free-form answer that are judged
_LONGEST_BARE = 200  # characters of a reply that is nothing but an answer


def free_answer(text: str) -> str | None:
    """Return what a text states as its answer, or None.

    It stands behind the first formal statement ("The answer is: ...") of the last paragraph that has one, up to the
    paragraph's end, or, where nothing stands there, in the next. Without any, a boxed formula or a reply of one line
    counts. Thoughts are not read, nor what follows an invented next task.
    """
    said = without_thoughts(text)
    parts = until_next_task(said) if said else ()
    return next((answer for part in parts if (answer := _free_answer(part))), None)


def _free_answer(said: str) -> str | None:
    paragraphs = [part for part in re.split(r"\n[ \t]*\n", said) if part.strip()]
    for number in range(len(paragraphs) - 1, -1, -1):
        found = [*_STATEMENT.finditer(paragraphs[number]), *_COLON.finditer(paragraphs[number])]
        found = [one for one in found if not _SPOKEN_OF.match(paragraphs[number], one.end())]
        statements = sorted({one.end(): one for one in found}.values(), key=re.Match.end)
        # A statement that the next one corrects states nothing.
        while len(statements) > 1 and _CORRECTION.search(paragraphs[number], statements[0].end(), statements[1].end()):
            del statements[0]
        for statement in statements[:1]:
            behind = [paragraphs[number][statement.end() :], *paragraphs[number + 1 :]]
            answer = next((part for part in behind if any(char.isalnum() for char in part)), "")
            if answer := answer.strip().strip("*_").strip():
                return answer[:_LONGEST_ANSWER]
    if boxed := _BOXED.findall(said):
        return str(boxed[-1])[:_LONGEST_ANSWER]
    bare = said.strip()
    if (
        bare
        and "\n" not in bare
        and len(bare) <= _LONGEST_BARE
        and not re.search(r"\banswer\b|\?$", bare, re.IGNORECASE)
    ):
        return bare.strip("*_` ")
    return None


def _text_of(content: Any) -> str:
    """A reply's content as a text; some servers send it as a list of parts, and none at all as null."""
    if isinstance(content, list):
        return "".join(map(_text_of, content))
    if isinstance(content, dict):
        return _text_of(content.get("text"))
    return content if isinstance(content, str) else ""


def process_results(doc: dict[str, Any], results: list[list[Any]]) -> dict[str, float]:
    """lm-eval's hook for one question: `results` holds one list, with all n sampled answers.

    `doc`, which lm-eval writes into its file of samples, gets `readings`: for each sample `read`, the letter of the
    option or the answer that was read (None: none), `state`: right, wrong, nothing, no_option or no_verdict (of the
    judge), and `by_judge` where the judge's model read the option.

    Returns:
        acc: share of the samples that state the right answer (0 to 1); what cannot be read is wrong.
        unparsed: share of the samples of which no answer could be read, or on which the judge gave no verdict.
        no_option: the part of these that states something, but none of the options; 0 for free-form questions.
        by_judge: share of the samples whose option the judge's model read, since code could not; 0 unless it is asked.

    Raises:
        BadInput, RuntimeError: the judge cannot be asked, or too many of its replies cannot be used; see `judge`.
    """
    samples = [_text_of(sample) for sample in results[0]]
    _count_empty(samples)
    readings = _chosen(doc, samples) if doc["options"] else _judged(doc, samples)
    doc["readings"] = readings
    states = [reading["state"] for reading in readings]
    no_option = states.count("no_option")
    return {
        "acc": states.count("right") / len(states),
        "unparsed": (no_option + states.count("nothing") + states.count("no_verdict")) / len(states),
        "no_option": no_option / len(states),
        "by_judge": sum("by_judge" in reading for reading in readings) / len(states),
    }


def _chosen(doc: dict[str, Any], samples: list[str]) -> list[dict[str, Any]]:
    stated = [stated_choice(sample, doc["options"]) for sample in samples]
    unread = {n for n, one in enumerate(stated) if one.option is None}
    if doc["judge"] and unread:
        from smt_plugin.evaluation.judge import judge_settings
        from smt_plugin.evaluation.unread_choice import read_by_judge

        settings = judge_settings(orjson.loads(doc["judge"]))
        read = read_by_judge([samples[n] for n in sorted(unread)], doc["question"], doc["options"], settings)
        stated = [read[samples[n]] if n in unread else one for n, one in enumerate(stated)]
    # An official file may give an option twice.
    right = {index for index, option in enumerate(doc["options"]) if option == doc["options"][doc["answer"]]}
    readings: list[dict[str, Any]] = []
    for n, one in enumerate(stated):
        if one.option is None:
            readings.append({"read": None, "state": "no_option" if one.other else "nothing"})
        else:
            reading = {"read": ascii_uppercase[one.option], "state": "right" if one.option in right else "wrong"}
            readings.append(reading | ({"by_judge": True} if n in unread else {}))
    return readings


_counts: Counter[str] = Counter()


def _count_empty(samples: list[str]) -> None:
    """Have it said when lm_eval ends how many answers came back empty, which is no wrong answer but none."""
    if not _counts:
        atexit.register(_tell_empty)
    _counts.update(asked=len(samples), empty=sum(not sample.strip() for sample in samples))


def _tell_empty() -> None:
    if _counts["empty"]:
        print(
            f"smt: {_counts['empty']:,} of {_counts['asked']:,} answers came back empty and count as unparsed; raise "
            "max_gen_toks, or turn thinking off",
            file=sys.stderr,
        )


def _judged(doc: dict[str, Any], samples: list[str]) -> list[dict[str, Any]]:
    from smt_plugin.evaluation.judge import Answer, judge, judge_settings

    stated = [free_answer(sample) for sample in samples]
    answers = [Answer(doc["identity"], doc["question"], doc["gold"], answer) for answer in stated if answer is not None]
    verdicts = iter(judge(answers, judge_settings(orjson.loads(doc["judge"]))))
    said = {True: "right", False: "wrong", None: "no_verdict"}
    states = ["nothing" if answer is None else said[next(verdicts)] for answer in stated]
    return [{"read": answer, "state": state} for answer, state in zip(stated, states, strict=True)]
