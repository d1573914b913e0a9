"""Records: training texts with their provenance, one JSONL line each under `<run>/records/`.

A run made in shards keeps them under `<run>/shards/<i>-of-<n>/records/`. Errors that name a command to run say RUN.YAML
for the run file, as the help does; the command line puts its path there.
"""

import hashlib
import re
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from smt_plugin.errors import BadInput

Key = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]  # of a completion
# `smt questions` and `smt transcribe` come before, and keep what they paid for in the run's folder whatever follows.
_OF_RECORDS = "prompt NOT LIKE 'questions/%' AND prompt NOT LIKE 'transcribe/%'"
_SHARD = re.compile(r"(\d+)-of-(\d+)")


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
    completions: Annotated[list[Key], Meta(min_length=1)]
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
        return {"id": self.id, **{name: getattr(self, name) for name in self.__slots__}}


def shard_folder(run: Path, shard: tuple[int, int] | None) -> Path:
    """Return the folder in which a call of `smt generate` works: the run's, or the one of shard (i, n).

    Raises:
        BadInput: the run was made without shards and this call has one, or the reverse, or the number of shards
            differs; the run's completions would be paid for again.
    """
    others = {count for _, count in _shards(run)}
    if shard is None:
        if others:
            raise BadInput(
                f"{run} was made in shards; go on with `--shard 1/{others.pop()}` and so on, which `smt generate` "
                "alone takes; `smt plan --probe` and `smt batch` work without shards, in a run folder of their own."
            )
        return run
    if _is_begun(run):
        raise BadInput(f"{run} was made without shards; go on without `--shard`, or take another run folder.")
    if others - {shard[1]}:
        raise BadInput(f"{run} was made in {others.pop()} shards; keep to that number, or take another run folder.")
    return run / "shards" / f"{shard[0]}-of-{shard[1]}"


def generated_folders(run: Path, all_shards: bool = True) -> list[Path]:
    """Return where the records of a run lie: in its own folder, or in those of its shards.

    Args:
        all_shards: whether to refuse a run that lacks a shard; otherwise the shards that exist are returned.

    Raises:
        BadInput: a shard is missing.
    """
    shards = _shards(run)
    if not shards:
        return [run]
    _, count = next(iter(shards))
    names = [(number, count) for number in range(1, count + 1)]
    for name in names:
        if all_shards and name not in shards:
            raise BadInput(
                f"{run} lacks shard {name[0]} of {count}; run `smt generate RUN.YAML --shard {name[0]}/{count}` first."
            )
    return [shards[name] for name in names if name in shards]


def _shards(run: Path) -> dict[tuple[int, int], Path]:
    """The folders of a run's shards that were begun, by number and how many there are."""
    named = ((_SHARD.fullmatch(path.name), path) for path in (run / "shards").glob("*-of-*"))
    return {(int(name[1]), int(name[2])): path for name, path in named if name and _is_begun(path)}


def _is_begun(folder: Path) -> bool:
    """Whether a call of `smt generate` left something in a folder: records, or completions that were paid for."""
    if any((folder / "records").glob("*.jsonl")):
        return True
    store = folder / "completions.sqlite"
    if not store.is_file():
        return False
    try:
        with closing(sqlite3.connect(store, timeout=0)) as connection:
            found = connection.execute(f"SELECT 1 FROM completions WHERE {_OF_RECORDS} LIMIT 1").fetchone()
            return found is not None
    except sqlite3.Error as error:
        # Another process may be working in it; a start that was killed may have left it without its table.
        return "no such table" not in str(error)


def check_made(run: Path, method: str, methods: Collection[str], fix: str) -> None:
    """Refuse a method that has no records in a run and is not among the run file's `methods`.

    Args:
        fix: what to do about it, the end of the sentence.

    Raises:
        BadInput: the method has no records and is not in the run file.
    """
    if method in methods or any((f / "records" / f"{method}.jsonl").is_file() for f in generated_folders(run, False)):
        return
    raise BadInput(f"{method} has no records in {run} and is none of the run file's `methods`; {fix}.")


def record_files(run: Path, method: str) -> list[Path]:
    """Return the files that hold a method's records.

    Raises:
        BadInput: a file is missing.
    """
    files = [folder / "records" / f"{method}.jsonl" for folder in generated_folders(run)]
    for file in files:
        if not file.is_file():
            shard = _SHARD.fullmatch(file.parents[1].name)
            option = f" --shard {shard[1]}/{shard[2]}" if shard else ""
            raise BadInput(f"{file} does not exist; run `smt generate RUN.YAML --method {method}{option}` first.")
    return files
