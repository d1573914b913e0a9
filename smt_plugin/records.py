"""Records: training texts with their provenance, one JSONL line each under `<run>/records/`."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One training text. Exactly one of `text` (a document) and `messages` (a question and its answer) is set.

    Attributes:
        part: which part of a long document, from 0.
        round, index: place in the part's order of records; smaller budgets are prefixes of larger ones.
        question: the question a focal rewrite was conditioned on.
        tokens: the generator's output tokens, as its server counted them.
        completions: keys of the completions this record was made from, its own first.
    """

    method: str
    doc_id: str
    part: int
    round: int
    index: int
    tokens: int
    prompt: str
    prompt_hash: str
    model: str
    sampling: dict[str, Any]
    completions: list[str]
    text: str | None = None
    messages: list[dict[str, str]] | None = None
    question: str | None = None

    @property
    def id(self) -> str:
        """32 hexadecimal digits, the same whenever the same completions give the same place."""
        place = (self.method, self.doc_id, self.part, self.round, self.index, self.completions[0])
        return hashlib.sha256("\0".join(map(str, place)).encode()).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """Return the JSONL form, with its `id` first."""
        return {"id": self.id, **asdict(self)}
