"""Score a whole QuALITY of recorded answers: how long, and with how much memory?

    python benchmarks/scoring.py --questions 4609

Writes lm-eval's file of samples, 8 invented answers a question, then reads them line by line, scores every answer and
estimates the accuracy with its interval.
"""

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from smt_plugin.evaluation.intervals import estimate
from smt_plugin.evaluation.scoring import process_results
from smt_plugin.files import read_jsonl, write_jsonl

REASONS = "The story says that the wheel turned, so the answer is not clear yet. " * 20


def main() -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=4609)
    count = parser.parse_args().questions
    doc = {"options": ["A red kite", "A kite", "The mill's old wheel", "No one knows"], "answer": 1}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "samples.jsonl"
        write_jsonl(
            path,
            (
                {
                    "doc": {**doc, "doc_id": str(n % 265)},
                    "resps": [[f"{REASONS}{n} The answer is ({'ABCD'[(n * k) % 4]})." for k in range(8)]],
                }
                for n in range(count)
            ),
        )
        estimate([0.0, 1.0, 1.0, 1.0], list("abcd"))  # loads scipy
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        values, doc_ids = [], []
        for _, row in read_jsonl(path):
            values.append(process_results(row["doc"], row["resps"])["acc"])
            doc_ids.append(row["doc"]["doc_id"])
        found = estimate(values, doc_ids)
        seconds = time.monotonic() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            orjson.dumps(
                {
                    "answers": 8 * count,
                    "file_mib": round(path.stat().st_size / 2**20, 1),
                    "seconds": round(seconds, 1),
                    "memory_grown_mib": round(grown, 1),
                    "accuracy": round(found.mean, 3),
                    "interval": [round(found.low, 3), round(found.high, 3)],
                }
            ).decode()
        )


if __name__ == "__main__":
    main()
