"""Leaks: evaluation questions that the synthetic records nearly ask or quote, found by shared runs of words."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.benchmarks import Question
from smt_plugin.errors import BadInput
from smt_plugin.jsonl import read_jsonl
from smt_plugin.records import generated_folders

# Our choices. A question has some 12 words: 3 in a row survive a reworded copy, 8 in a row only a quotation.
QUESTION_RUN = 3
TEXT_RUN = 8
SHARE = 0.7
_WORD = re.compile(r"\w+")


class Overlaps:
    """How much of each evaluation question stands in the texts seen so far: the largest share in any one text.

    A question's share in a text is the part of its runs of `run` words that the text holds. A shorter question is one
    run; with `whole_runs` it is left out instead.
    """

    def __init__(self, questions: Iterable[Question], run: int, whole_runs: bool = False) -> None:
        self.best: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
        lengths = set()
        for question in questions:
            words = words_of(question.question)
            length = min(run, len(words))
            if length == 0 or (whole_runs and length < run):
                continue
            runs = _runs(words, length)
            lengths.add(length)
            self.best[question.question_id] = 0.0
            self._sizes[question.question_id] = len(runs)
            for key in runs:
                self._holders[key].append(question.question_id)
        self._lengths = sorted(lengths)

    def see(self, text: str) -> None:
        """Take a text into account."""
        words = words_of(text)
        shared: Counter[str] = Counter()
        for length in self._lengths:
            for key in _runs(words, length):
                for question_id in self._holders.get(key, ()):
                    shared[question_id] += 1
        for question_id, count in shared.items():
            self.best[question_id] = max(self.best[question_id], count / self._sizes[question_id])


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return _WORD.findall(text.casefold())


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def find_leaks(run: Path, questions: list[Question]) -> dict[str, Any]:
    """Compare all records of a run with the evaluation questions, and write `<run>/leaks.json`.

    Returns:
        What was written: `asked` (question id -> share of its runs of 3 words in the synthetic question nearest to
        it) and `quoted` (runs of 8 words in the nearest record's text), both from 0.7 on; `leaked` (the ids of
        either), `questions` (how many were looked at), `records` (what was read: file -> size and time).

    Raises:
        BadInput: the run has no records.
    """
    files = _record_files(run)
    if not files:
        raise BadInput(f"{run / 'records'} holds no records; run `smt generate` first.")
    asked, quoted = Overlaps(questions, QUESTION_RUN), Overlaps(questions, TEXT_RUN, whole_runs=True)
    for file in files:
        for _, record in read_jsonl(file):
            turns = record.get("messages") or []
            # A focal rewrite names the question it was made for, a question-answer pair asks it.
            for question in (record.get("question"), *(m["content"] for m in turns if m["role"] == "user")):
                if question:
                    asked.see(question)
            quoted.see(record.get("text") or "\n".join(m["content"] for m in turns))
    found = {
        "asked": {key: round(share, 3) for key, share in asked.best.items() if share >= SHARE},
        "quoted": {key: round(share, 3) for key, share in quoted.best.items() if share >= SHARE},
    }
    leaks = {
        "questions": len(questions),
        "leaked": sorted(found["asked"].keys() | found["quoted"].keys()),
        **found,
        "records": _states(run, files),
    }
    (run / "leaks.json").write_bytes(orjson.dumps(leaks, option=orjson.OPT_INDENT_2) + b"\n")
    return leaks


def read_leaks(run: Path) -> dict[str, Any] | None:
    """What `find_leaks` wrote, or None if it never ran or the records have changed since."""
    path = run / "leaks.json"
    if not path.is_file():
        return None
    leaks: dict[str, Any] = orjson.loads(path.read_bytes())
    return leaks if leaks["records"] == _states(run, _record_files(run)) else None


def _record_files(run: Path) -> list[Path]:
    return [file for folder in generated_folders(run) for file in sorted((folder / "records").glob("*.jsonl"))]


def _states(run: Path, files: list[Path]) -> dict[str, list[int]]:
    return {str(file.relative_to(run)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
