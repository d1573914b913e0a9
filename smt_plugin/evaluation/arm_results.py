"""What an arm's lm_eval run left behind, read back."""

from pathlib import Path
from typing import Any

import orjson

from smt_plugin.files import read_json


def samples_files(folder: Path) -> list[Path]:
    """Return the files of samples that lm-eval wrote below a folder, one a task, the newest last."""
    files = sorted(folder.rglob("samples_*.jsonl"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise RuntimeError(f"lm_eval wrote no samples below {folder}")
    return files


def read_arm(folder: Path) -> list[dict[str, Any]] | None:
    """Return one row a question of an arm that is done; None where the arm has not been run, or has not been finished.

    A row is question_id, question, doc_id, acc and unparsed (0 to 1), n (samples).
    """
    if not (folder / "arm.json").is_file():
        return None
    rows = []
    with samples_files(folder)[-1].open("rb") as file:
        for line in file:
            sample = orjson.loads(line)
            doc = sample["doc"]
            rows.append(
                {
                    "question_id": doc["question_id"],
                    "question": doc["question"],
                    "doc_id": doc["doc_id"],
                    "acc": float(sample["acc"]),
                    "unparsed": float(sample["unparsed"]),
                    "n": len(sample["resps"][0]),
                }
            )
    return rows


def read_tokens(folder: Path) -> dict[str, int] | None:
    """Return what `_count_tokens` found when the arm was done; None where it is not known."""
    marker = folder / "arm.json"
    tokens: dict[str, int] | None = read_json(marker, "smt evaluate").get("tokens") if marker.is_file() else None
    return tokens


def read_seconds(folder: Path) -> float | None:
    """Return how long lm_eval took for an arm, in seconds; None where it did not say."""
    files = sorted(folder.rglob("results_*.json"), key=lambda file: file.stat().st_mtime)
    seconds = read_json(files[-1], "smt evaluate").get("total_evaluation_time_seconds") if files else None
    return None if seconds is None else float(seconds)
