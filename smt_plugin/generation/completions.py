"""The store of completions: what was paid for, kept for ever in `<run>/completions.sqlite`.

SQLite gives what a store has to survive: a commit is whole or absent after a crash or a full disk, the
index is on disk, and a million entries open at once. Rows are added, each at the end of the file, and marked where the
server turns out to have cut prompts or repeated itself.
"""

import asyncio
import os
import random
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson

from smt_plugin.backends.base import Reply, Request
from smt_plugin.errors import BadInput, why_no_file
from smt_plugin.files import Guard, content_hash, lock_file, make_file, make_folder

_SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    key BLOB NOT NULL UNIQUE,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    doc_id TEXT NOT NULL,
    prompt TEXT NOT NULL,
    prompt_hash TEXT NOT NULL,
    model TEXT NOT NULL,
    sample INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    created REAL NOT NULL,
    seconds REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS completions_of_document ON completions (doc_id, completion_tokens);
"""
# The higher levels take half as long again to save another 3 % of such short texts.
_COMPRESSION_LEVEL = 1
# Looks at a store that is being written, 50 ms apart, and a prime above any number of completions.
_MOST_LOOKS = 40
_PRIME = 2_147_483_647
# Bytes of a text with what its prompt named, unpacked; a reply has fewer by far.
_LARGEST_BODY = 2**27


class _Body(msgspec.Struct, array_like=True, gc=False):
    """What a row's `body` holds; stores of older versions have no thoughts."""

    text: str
    sampling: dict[str, Any]
    variables: dict[str, Any]
    thought_tokens: int = 0


_BODY = msgspec.json.Decoder(_Body)
# What reading a row raises that is damaged, or of another kind than we write; msgspec's errors are ValueErrors.
_DAMAGE = (sqlite3.Error, zlib.error, ValueError, TypeError, AttributeError)


def completion_key(request: Request, model: str) -> str:
    """Return the 32 hexadecimal digits that name a completion by what was asked, wherever it stood."""
    asked = [request.messages, model, request.sampling, request.sample]
    return content_hash([asked if request.image is None else [*asked, request.image.key]])[:32]


@dataclass(frozen=True, slots=True)
class Completion:
    """One stored completion.

    Attributes:
        status: `done`, `rejected` (its text does not parse; `reason` says why), `refused` (a tombstone: the backend
            will not answer this request; `reason` holds its words), `cut` (the server did not read the whole prompt)
            or `repeated` (the text of another sample). The last two are asked again.
        variables: what the prompt named beside the document, so that it can be rendered again.
        seconds: from asking to the answer, waiting and retries included.
    """

    key: str
    status: str
    reason: str
    doc_id: str
    prompt: str
    prompt_hash: str
    model: str
    sampling: dict[str, Any]
    sample: int
    attempt: int
    variables: dict[str, Any]
    reply: Reply
    seconds: float


@dataclass(frozen=True, slots=True)
class PromptUse:
    """How often a prompt was answered usably and not; `completion_tokens` are those of the usable answers."""

    done: int = 0
    rejected: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "PromptUse") -> "PromptUse":
        tokens = self.completion_tokens + other.completion_tokens
        return PromptUse(self.done + other.done, self.rejected + other.rejected, tokens)

    def __sub__(self, other: "PromptUse") -> "PromptUse":
        return self + PromptUse(-other.done, -other.rejected, -other.completion_tokens)


class CompletionStore:
    """The completions of one run folder, open for one process at a time.

    Attributes:
        guard: of what must still be there, or no completion is taken: the store's own file, and others that are added.

    Raises:
        BadInput: another process has the store open (its pid and host are named), or the folder cannot
            be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "completions.sqlite"
        try:
            make_folder(folder)
            self._lock = lock_file(folder / "completions.lock")
            make_file(self.path)
            self._connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            # Exclusive locking needs no shared memory, so the write-ahead log works on network folders too.
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
            self.guard = Guard()
            self.guard.watch(self.path)
        except (OSError, sqlite3.OperationalError) as error:
            what = getattr(error, "filename", None) or self.path
            why = getattr(error, "strerror", None) or error
            raise BadInput(
                f"{what} cannot be written ({why}); fix its permissions, or move away what is in its place."
            ) from None
        except sqlite3.DatabaseError as error:
            raise _explained(self.path, error) from None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="completions")
        self._waiting: list[tuple[str | Completion, asyncio.Future[Completion | None]]] = []
        self._working: asyncio.Task[None] | None = None

    def get(self, key: str) -> Completion | None:
        """Return the completion under a key, or None; raises BadInput where the store is damaged."""
        try:
            row = self._connection.execute(_SELECT, (bytes.fromhex(key),)).fetchone()
            return _from_row(row) if row else None
        except _DAMAGE as error:
            raise _explained(self.path, error) from None

    def _completions(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Completion]:
        try:
            yield from map(_from_row, rows)
        except _DAMAGE as error:
            raise _explained(self.path, error) from None

    async def find(self, key: str) -> Completion | None:
        """Return what `get` does, but let other tasks go on while the disk is busy."""
        if self._working is None or self._working.done():
            return self.get(key)
        return await self._hand_over(key)

    async def put(self, completion: Completion) -> None:
        """Store a completion; when this returns, it is on disk.

        Completions that arrive while the disk is busy share the next commit.

        Raises:
            OSError: it cannot be written, say because the disk is full; what was stored before is kept.
            Lost: see `guard`.
        """
        await self._hand_over(completion)

    async def withdraw(self, status: str, reason: str, keys: Collection[str] = (), prompt_tokens: int = 0) -> None:
        """Mark usable completions as `cut` or `repeated`: those under `keys`, or all with a count of prompt tokens."""

        def mark() -> None:
            update = "UPDATE completions SET status = ?, reason = ? WHERE status = 'done' AND "
            if prompt_tokens:
                self._connection.execute(f"{update} prompt_tokens = ?", (status, reason, prompt_tokens))
            self._connection.executemany(f"{update} key = ?", [(status, reason, bytes.fromhex(key)) for key in keys])

        await asyncio.get_running_loop().run_in_executor(self._thread, mark)

    async def _hand_over(self, item: str | Completion) -> Completion | None:
        """Have the store's thread look up a key or store a completion."""
        done: asyncio.Future[Completion | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                found = await loop.run_in_executor(self._thread, self._find_and_commit, [item for item, _ in batch])
            except Exception as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                        # Marks it as read, since whoever waited may be stopped before it gets there.
                        done.exception()
                continue
            for (_, done), completion in zip(batch, found, strict=True):
                if not done.done():
                    done.set_result(completion)

    def _find_and_commit(self, items: list[str | Completion]) -> list[Completion | None]:
        """Return what is under each key, and None for each completion, which is stored."""
        found = [self.get(item) if isinstance(item, str) else None for item in items]
        rows = [_to_row(item) for item in items if isinstance(item, Completion)]
        if not rows:
            return found
        self._connection.execute("BEGIN")
        try:
            self._connection.executemany(_INSERT, rows)
            self._connection.execute("COMMIT")
        except BaseException as error:
            # SQLite itself has rolled back after some errors, a full disk among them.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _explained(self.path, error) from None
            raise
        # Afterwards, since a folder that was moved keeps what came.
        self.guard.check()
        return found

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _explained(self.path, error) from None

    def uses(self, model: str) -> dict[str, PromptUse]:
        """Return prompt -> how often it was answered by a model, and at what length."""
        query = (
            "SELECT prompt, SUM(status = 'done'), SUM(status = 'rejected'), "
            "SUM(CASE WHEN status = 'done' THEN completion_tokens ELSE 0 END) FROM completions "
            "WHERE model = ? GROUP BY prompt"
        )
        return {prompt: PromptUse(*counts) for prompt, *counts in self._rows(query, model)}

    def uses_with(self, variable: str, model: str) -> Iterator[tuple[bytes, str, PromptUse]]:
        """Yield key, prompt and use of each answer of a model to a prompt that had a variable of this name."""
        query = "SELECT key, prompt, status, completion_tokens, body FROM completions WHERE model = ?"
        try:
            for key, prompt, status, tokens, body in self._connection.execute(query, (model,)):
                if status in ("done", "rejected") and variable in _BODY.decode(_unpacked(body)).variables:
                    is_done = status == "done"
                    yield key, prompt, PromptUse(is_done, not is_done, tokens * is_done)
        except _DAMAGE as error:
            raise _explained(self.path, error) from None

    def typical(self, model: str) -> Iterator[Completion]:
        """Yield one usable completion of each prompt: the one of median length among some that a model gave."""
        query = f"SELECT {_COLUMNS} FROM completions WHERE model = ? AND prompt = ? AND status = 'done' LIMIT 99"
        for prompt in self.uses(model):
            rows = self._rows(query, model, prompt)
            found = sorted(self._completions(rows), key=lambda completion: completion.reply.completion_tokens)
            if found:
                yield found[len(found) // 2]

    def tokens_of_documents(self) -> dict[str, int]:
        """Return, for each document id that has completions, how many tokens they have together."""
        return dict(self._rows("SELECT doc_id, SUM(completion_tokens) FROM completions GROUP BY doc_id"))

    def all(self) -> Iterator[Completion]:
        """Yield every completion, in the order in which they were stored."""
        yield from self._completions(self._connection.execute(f"SELECT {_COLUMNS} FROM completions"))

    async def close(self) -> None:
        """Write what is waiting, and let go of the store."""
        if self._working is not None:
            await self._working
        self._thread.shutdown()
        self._connection.close()
        self._lock.close()


_COLUMNS = (
    "key, status, reason, doc_id, prompt, prompt_hash, model, sample, attempt, finish_reason, "
    "prompt_tokens, cached_tokens, completion_tokens, seconds, body"
)
_SELECT = f"SELECT {_COLUMNS} FROM completions WHERE key = ?"
_INSERT = f"INSERT OR REPLACE INTO completions ({_COLUMNS}, created) VALUES ({', '.join('?' * 16)})"


def look_up(folder: Path, keys: Collection[str]) -> dict[str, Completion]:
    """Return the completions of a run folder under some keys, also while another process writes its store.

    Raises:
        BadInput: there is no store, or it is damaged.
    """
    where = f"key IN ({', '.join('?' * len(keys))})"
    return {found.key: found for found in _look(folder, where, *map(bytes.fromhex, keys))}


def look_at_some(folder: Path, method: str, count: int, seed: int) -> list[Completion]:
    """Return up to `count` completions of a method's prompts, chosen by `seed`; works and raises as `look_up`."""
    # Products with a prime as modulus differ, so the order is one of chance.
    factor = random.Random(seed).randrange(1, _PRIME)
    own = "SELECT rowid FROM completions WHERE substr(prompt, 1, ?) = ?"
    where = f"rowid IN ({own} ORDER BY rowid * {factor} % {_PRIME} LIMIT {count})"
    return _look(folder, where, len(method) + 1, f"{method}/")


def _look(folder: Path, where: str, *values: Any) -> list[Completion]:
    """Read a store without SQLite's locks, which its writer holds for as long as it lives."""
    path = folder / "completions.sqlite"
    if os.path.lexists(path) and not path.is_file():
        raise BadInput(f"{path} {why_no_file(path)}; move it away.")
    if not path.is_file():
        raise BadInput(f"nothing is paid for yet in {folder}; run `smt generate RUN.YAML` first.")
    for looks_left in reversed(range(_MOST_LOOKS)):
        try:
            # An empty log SQLite would delete as it closes, though the writer will put what is paid for into it.
            log = path.with_name(f"{path.name}-wal")
            how = "mode=ro&vfs=unix-none" if log.is_file() and log.stat().st_size else "immutable=1"
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)) as connection:
                # Nor does it share its memory.
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                query = f"SELECT {_COLUMNS} FROM completions WHERE {where}"
                return [_from_row(row) for row in connection.execute(query, values)]
        except _DAMAGE as error:
            # What is read while the writer moves pages into the main file may not fit together.
            if not looks_left:
                raise _explained(path, error) from None
            time.sleep(0.05)
    return []


def _explained(path: Path, error: Exception) -> Exception:
    """Return an error of SQLite as one that says what to do."""
    if isinstance(error, sqlite3.OperationalError):
        return OSError(f"{path} cannot be read or written ({error})")
    return BadInput(
        f"{path} is not a whole completions store ({error}); save what can be read with `sqlite3 FILE .recover`, or "
        "move it away."
    )


def _to_row(completion: Completion) -> tuple[Any, ...]:
    reply = completion.reply
    body = orjson.dumps([reply.text, completion.sampling, completion.variables, reply.thought_tokens])
    return (
        bytes.fromhex(completion.key),
        completion.status,
        completion.reason,
        completion.doc_id,
        completion.prompt,
        completion.prompt_hash,
        completion.model,
        completion.sample,
        completion.attempt,
        reply.finish_reason,
        reply.prompt_tokens,
        reply.cached_tokens,
        reply.completion_tokens,
        completion.seconds,
        zlib.compress(body, _COMPRESSION_LEVEL),
        time.time(),
    )


def _unpacked(body: bytes) -> bytes:
    """Unpack what `_to_row` packed; raises zlib.error where it is something else, as in a store of somebody else's."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(body, _LARGEST_BODY)
    if not unpacker.eof:
        raise zlib.error(f"not whole, or more than {_LARGEST_BODY:,} bytes")
    return content


def _from_row(row: tuple[Any, ...]) -> Completion:
    key, status, reason, doc_id, prompt, prompt_hash, model, sample, attempt, *of_reply, seconds, body = row
    what = (key.hex(), status, reason, doc_id, prompt, prompt_hash, model)
    made = _BODY.decode(_unpacked(body))
    finish_reason, prompt_tokens, cached_tokens, completion_tokens = of_reply
    reply = Reply(made.text, finish_reason, prompt_tokens, cached_tokens, completion_tokens, made.thought_tokens)
    return Completion(*what, made.sampling, sample, attempt, made.variables, reply, seconds)
