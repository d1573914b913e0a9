"""Write the invented archive into a folder.

    python -m smt_plugin.microworld.archive OUT [--seed N]

writes documents.jsonl, questions.jsonl and replay.jsonl. The same seed gives the same files, byte for byte.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smt_plugin.corpus import Document
from smt_plugin.files import write_jsonl
from smt_plugin.microworld.stream import replay
from smt_plugin.microworld.world import DEFAULT_SEED, documents, questions

REPLAY_ROWS = 1000


def write(folder: Path, seed: int = DEFAULT_SEED) -> None:
    """Write documents.jsonl, questions.jsonl and replay.jsonl into `folder`."""
    write_files(folder, documents(seed), questions(seed), seed, REPLAY_ROWS)


def write_files(
    folder: Path, documents: list[Document], questions: list[dict[str, Any]], seed: int, replay_rows: int
) -> None:
    """Write an archive's documents.jsonl, questions.jsonl, and replay.jsonl of so many rows, into `folder`."""
    write_jsonl(folder / "documents.jsonl", (document.to_json() for document in documents))
    write_jsonl(folder / "questions.jsonl", questions)
    write_jsonl(folder / "replay.jsonl", replay(seed, replay_rows))


def main(write: Callable[[Path, int], None], default_seed: int) -> None:
    """Write an archive's files into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Write documents.jsonl, questions.jsonl and replay.jsonl.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=default_seed)
    arguments = parser.parse_args()
    write(arguments.out, arguments.seed)


if __name__ == "__main__":
    main(write, DEFAULT_SEED)
