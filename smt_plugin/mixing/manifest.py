"""The files of a mix, and the manifest that says what they hold."""

from pathlib import Path
from typing import Any

from smt_plugin.files import read_json

CHAT_FILE, TEXT_FILE, PLAIN_QA_FILE = "qa.jsonl", "rewrites.jsonl", "qa_text.jsonl"
REPLAY_TEXT_FILE, REPLAY_CHAT_FILE = "replay.jsonl", "replay_qa.jsonl"
TRAINING_FILES = (CHAT_FILE, TEXT_FILE, PLAIN_QA_FILE, REPLAY_TEXT_FILE, REPLAY_CHAT_FILE)
DROPPED_FILE, MANIFEST_FILE = "dropped.jsonl", "manifest.json"
VALIDATION = "validation_"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a mix.

    Raises:
        BadInput: it is broken.
    """
    keys = ("settings", "tokens", "record_tokens", "sources", "files", "tokenizer", "content_hash", "versions")
    return read_json(path, "smt mix", *keys, "validation", "warnings")


def budget_name(tokens: int) -> str:
    """A budget as one writes it: `10M`, `1.5M`, `300K`, `999`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= size and tokens * 10 % size == 0:
            return f"{tokens / size:.1f}".removesuffix(".0") + unit
    return str(tokens)
