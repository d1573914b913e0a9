"""How many leaks of each form does `smt leaks` find, and how many clean records does it name?

    python benchmarks/leaks.py [--embedding NAME [--embedding-endpoint URL] --alike 0.85] [--missed]
    python benchmarks/leaks.py --questions FOLDER      (the questions of a benchmark against each other: none is a leak)
    python benchmarks/leaks.py --speed 20000

`benchmarks/leaks/` holds four invented documents, questions about them, records that leak one of these in some form,
and clean records: other facts of the same people, rewrites of the documents, questions of the same pattern about another
document. The thresholds of `smt_plugin/evaluation/leaks.py` were chosen on one half (two documents with all their
records) and not changed after the other was looked at.
"""

import argparse
import sys
import time
from collections import defaultdict
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smt_plugin.corpus import read_documents
from smt_plugin.evaluation.leaks import find_leaks
from smt_plugin.files import read_jsonl, write_jsonl
from smt_plugin.question import questions_file, read_questions

DATA = Path(__file__).parent / "leaks"


def leaks_of(rows: list[dict[str, Any]], folder: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """What `find_leaks` says of each record that it names, by the record's id."""
    documents = list(read_documents(folder))
    questions = read_questions(questions_file(folder), documents)
    with TemporaryDirectory() as run:
        (Path(run) / "records").mkdir()
        write_jsonl(Path(run) / "records" / "synthetic_qa.jsonl", rows)
        find_leaks(Path(run), documents, questions, **settings)
        return {row["id"]: row for _, row in read_jsonl(Path(run) / "leaks.jsonl")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missed", action="store_true")
    given = parser.parse_args()
    rows = [row for _, row in read_jsonl(DATA / "records.jsonl")]
    found = leaks_of(rows, DATA)
    counts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        leak = found.get(row["id"])
        counts[row["form"]][row["half"]].append(leak is not None and row["leaks"] in (None, leak["question_id"]))
    for form, halves in counts.items():
        print(f"{form:28}", *(f"{half}: {sum(hits):3} of {len(hits):3}" for half, hits in halves.items()))
    if given.missed:
        for row in rows:
            if (row["leaks"] is None) == (row["id"] in found):
                print(row["half"], row["id"], found.get(row["id"], {}).get("reason"), row.get("text") or row["messages"])


if __name__ == "__main__":
    main()
