"""Write the side-by-side page of a whole QuALITY of recorded answers: how long, how large, with how much memory?

    python benchmarks/answers_page.py --questions 4609 --arms 6

Writes lm-eval's files of samples, 8 invented answers a question in each arm, and times `answers.html`.
"""

import argparse
import random
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from smt_plugin.files import write_json, write_jsonl
from smt_plugin.report.answers import write_answers
from smt_plugin.report.results import ARM_NAMES, RunResults, arm_results

WORDS = (
    "the story says that wheel turned so answer is not clear yet but miller told her brother how water came down and "
    "nobody had seen light before they crossed bridge after storm which means it cannot be letter he wrote"
).split()


def main() -> None:
    """Print seconds, sizes and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=4609)
    parser.add_argument("--arms", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="a folder for the page, to open it in a browser")
    arguments = parser.parse_args()
    draw = random.Random(0)
    with TemporaryDirectory() as name:
        run = Path(name)
        arms = list(ARM_NAMES)[: arguments.arms]
        for arm in arms:
            write_jsonl(
                run / "results" / arm / "samples_x.jsonl", (_sample(n, draw) for n in range(arguments.questions))
            )
            write_json(run / "results" / arm / "arm.json", {})
        size = sum(path.stat().st_size for path in run.rglob("samples_*.jsonl"))
        results = RunResults(run, arm_results(run, arms))
        started = time.monotonic()
        page = write_answers(results)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if arguments.keep:
            (arguments.keep / page.name).write_bytes(page.read_bytes())
        print(
            orjson.dumps(
                {
                    "answers": 8 * arguments.questions * len(arms),
                    "files_mib": round(size / 2**20, 1),
                    "page_mib": round(page.stat().st_size / 2**20, 1),
                    "seconds": round(seconds, 1),
                    "peak_memory_mib": round(peak),
                }
            ).decode()
        )


def _sample(number: int, draw: random.Random) -> dict[str, object]:
    """A question about one of 265 documents and its eight answers, of some 1,000 characters each."""
    read = [draw.choice("ABCD") for _ in range(8)]
    states = ["right" if letter == "B" else "wrong" for letter in read]
    return {
        "doc": {
            "question_id": f"q{number}",
            "doc_id": str(number % 265),
            "identity": f"Story {number % 265}",
            "question": " ".join(draw.choices(WORDS, k=15)) + "?",
            "options": [" ".join(draw.choices(WORDS, k=6)) for _ in range(4)],
            "answer": 1,
            "gold": "B",
            "readings": [{"read": letter, "state": state} for letter, state in zip(read, states, strict=True)],
        },
        "resps": [[" ".join(draw.choices(WORDS, k=200)) + f". The answer is ({letter})." for letter in read]],
        "acc": states.count("right") / 8,
        "unparsed": 0.0,
        "no_option": 0.0,
    }


if __name__ == "__main__":
    main()
