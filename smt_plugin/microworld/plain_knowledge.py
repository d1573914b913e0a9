"""A small general set: questions that every schoolchild can answer, as a task of lm-eval, for `smt retention`.

What lm-eval's own tasks ask must be fetched from the hub; these stand in `plain_knowledge.txt`, the right option first.
"""

import random
from pathlib import Path
from typing import Any

import yaml

from smt_plugin.files import write_jsonl, write_text

TASK = "plain_knowledge"


def rows() -> list[dict[str, Any]]:
    """Return the questions, each with four options in an order drawn once and the index of the right one."""
    rng = random.Random(TASK)
    found = []
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        question, right, *wrong = line.split("|")
        options = [right, *wrong]
        rng.shuffle(options)
        found.append({"question": question, "options": options, "answer": options.index(right)})
    return found


def write(folder: Path) -> None:
    """Write the task and its questions into `folder`, for `evaluate.retention.include_path` of a run file."""
    questions = folder.resolve() / f"{TASK}.jsonl"
    write_jsonl(questions, rows())
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(questions)},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{ question }}\nAnswer:",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    write_text(folder / f"{TASK}.yaml", yaml.safe_dump(task, sort_keys=False))
