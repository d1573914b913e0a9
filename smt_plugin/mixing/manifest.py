"""The files of a mix, and the manifest that says what they hold."""

from pathlib import Path
from typing import Annotated, Literal, NotRequired, TypedDict

from msgspec import Meta

from smt_plugin.files import read_json

CHAT_FILE, TEXT_FILE, PLAIN_QA_FILE = "qa.jsonl", "rewrites.jsonl", "qa_text.jsonl"
REPLAY_TEXT_FILE, REPLAY_CHAT_FILE = "replay.jsonl", "replay_qa.jsonl"
TRAINING_FILES = (CHAT_FILE, TEXT_FILE, PLAIN_QA_FILE, REPLAY_TEXT_FILE, REPLAY_CHAT_FILE)
DROPPED_FILE, MANIFEST_FILE = "dropped.jsonl", "manifest.json"
VALIDATION = "validation_"


_Count = Annotated[int, Meta(ge=0)]


class MixedSource(TypedDict):
    """What of a source is in a mix, as far as it is read again."""

    tokens: _Count
    share: float
    records: _Count
    documents: _Count | None
    records_cut: _Count
    duplicates: _Count
    near_duplicates: _Count
    ran_dry: bool


class MixedFile(TypedDict):
    """One training file of a mix."""

    rows: _Count
    tokens: _Count
    form: Literal["messages", "text"]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class MixSettings(TypedDict):
    """What a mix was asked for, as far as it is read again."""

    sequence_len: Annotated[int, Meta(ge=1)]
    tokens: _Count | None
    seed: int
    shares: NotRequired[dict[str, float]]
    sources: NotRequired[dict[str, str]]
    budgets: NotRequired[list[int]]


class MixRejects(TypedDict):
    """What was rejected when a mix was made: how many records, and the `rejects_hash` of their ids."""

    records: _Count
    sha256: str


class MixTokenizer(TypedDict):
    """The tokenizer that measured a mix."""

    name: str
    sha256: str
    has_chat_template: bool
    turn_end: str | None
    eos_token: str | None
    pad_token: str | None


class Manifest(TypedDict):
    """`manifest.json` of a mix, as far as it is read again."""

    settings: MixSettings
    tokens: _Count
    record_tokens: _Count
    sources: dict[str, MixedSource]
    files: dict[str, MixedFile]
    validation: dict[str, MixedFile]
    tokenizer: MixTokenizer
    content_hash: str
    versions: dict[str, str]
    warnings: list[str]
    rejects: NotRequired[MixRejects]  # not in those of older versions


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a mix.

    Raises:
        BadInput: it is broken.
    """
    return read_json(path, Manifest, "smt mix")


def budget_name(tokens: int) -> str:
    """A budget as one writes it: `10M`, `1.5M`, `300K`, `999`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= size and tokens * 10 % size == 0:
            return f"{tokens / size:.1f}".removesuffix(".0") + unit
    return str(tokens)
