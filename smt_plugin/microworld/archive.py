"""Write the invented archive into a folder.

    python -m smt_plugin.microworld.archive OUT [--seed N]

writes documents.jsonl, questions.jsonl and replay.jsonl. The same seed gives the same files, byte for byte.
"""

import argparse
from pathlib import Path

from smt_plugin.files import write_jsonl
from smt_plugin.microworld.stream import replay
from smt_plugin.microworld.world import DEFAULT_SEED, documents, questions

REPLAY_ROWS = 1000


def write(folder: Path, seed: int = DEFAULT_SEED) -> None:
    """Write documents.jsonl, questions.jsonl and replay.jsonl into `folder`."""
    write_jsonl(folder / "documents.jsonl", (document.to_json() for document in documents(seed)))
    write_jsonl(folder / "questions.jsonl", questions(seed))
    write_jsonl(folder / "replay.jsonl", replay(seed, REPLAY_ROWS))


def main() -> None:
    """Write the archive's files into a folder."""
    parser = argparse.ArgumentParser(description="Write documents.jsonl, questions.jsonl and replay.jsonl.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    arguments = parser.parse_args()
    write(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
