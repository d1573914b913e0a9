"""Count the faults that `smt questions` would find, by their words alone, in questions that people wrote.

    python benchmarks/question_faults.py quality FOLDER

FOLDER holds the benchmark's files. Prints each question with a fault, then a table of reasons.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from smt_plugin.benchmarks.find import load
from smt_plugin.evaluation.question_faults import (
    Asked,
    Draft,
    Fault,
    asked_elsewhere,
    fault_of,
    is_longest,
    read_draft,
    too_often_longest,
)
from smt_plugin.question import Question


def checked(question: Question, asked: Asked) -> Draft | Fault:
    row: dict[str, Any] = {"question": question.question}
    if question.options is None:
        row["answer"] = question.answer
    else:
        wrong = [text for place, text in enumerate(question.options) if place != question.answer]
        row |= {"right": question.options[int(question.answer)], "wrong": wrong}
    draft = read_draft(row, question.doc_id, 0, question.options is None)
    return draft if isinstance(draft, Fault) else fault_of(draft) or asked.again(draft) or draft


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the faults of a benchmark's own questions.")
    parser.add_argument("benchmark")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    _, questions = load(arguments.benchmark, arguments.folder)
    asked: defaultdict[str, Asked] = defaultdict(Asked)
    reasons: Counter[str] = Counter()
    drafts = []
    for question in questions:
        found = checked(question, asked[question.doc_id])
        if isinstance(found, Draft):
            drafts.append(found)
            continue
        reasons[found.reason] += 1
        print(f"{found.reason} ({found.detail}): {question.question}")
    elsewhere = asked_elsewhere(drafts)
    print(f"\n{len(questions)} questions, {len(drafts) - len(elsewhere)} without a fault")
    for reason, count in [*reasons.most_common(), *Counter(fault.reason for _, fault in elsewhere).items()]:
        print(f"{count:>6} {reason}")
    if longest := sum(map(is_longest, drafts)):
        print(
            f"right option the longest in {longest} of {len(drafts)}; {len(too_often_longest(drafts))} would be dropped"
        )


if __name__ == "__main__":
    main()
