"""Sample records and replay text to token budgets: `<run>/records/*.jsonl` -> `<run>/mix/`.

Every length is counted as axolotl will train it: question-answer records in the target model's chat
template, documents with the tokens that its tokenizer adds and an end-of-text token.

A mix takes one pass over the records, which measures them all and writes the training rows to a scratch file;
what stays in memory is some 60 bytes a record. Each mix is then a choice among these rows, copied in shuffled order.
"""

import hashlib
import os
import shutil
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import orjson

from smt_plugin import __version__
from smt_plugin.errors import BadInput, require
from smt_plugin.jsonl import write_jsonl
from smt_plugin.records import record_files
from smt_plugin.ruler import Ruler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smt_plugin.duplicates import NearDuplicates

CHAT_FILE, TEXT_FILE, PLAIN_QA_FILE = "qa.jsonl", "rewrites.jsonl", "qa_text.jsonl"
REPLAY_TEXT_FILE, REPLAY_CHAT_FILE = "replay.jsonl", "replay_qa.jsonl"
VALIDATION = "validation_"
DROPPED_FILE, MANIFEST_FILE = "dropped.jsonl", "manifest.json"
FINEWEB = "HuggingFaceFW/fineweb"

_CHAT, _TEXT, _PLAIN_QA = range(3)
_FILES = {_CHAT: CHAT_FILE, _TEXT: TEXT_FILE, _PLAIN_QA: PLAIN_QA_FILE}
_REPLAY_FILES = {_TEXT: REPLAY_TEXT_FILE, _CHAT: REPLAY_CHAT_FILE}
_BATCH = 1024
_BATCHES_AHEAD = 4
# Each read and write lets go of the interpreter, and gets it back only after the other threads' turns: so, few of them.
_BUFFER = 2**20
_TOLERANCE = 0.005
# Texts of a stream that are shuffled among themselves.
_STREAM_BUFFER = 10_000


@dataclass(frozen=True)
class MixSettings:
    """What goes into a mix.

    Attributes:
        tokenizer: folder or hub name of the target model's tokenizer.
        tokens: budget of the records (without replay) in tokens of that tokenizer; None takes as
            much as the scarcest source allows at exactly these shares.
        budgets: several such budgets in place of `tokens`, for nested mixes in `<run>/mix/10M/` and so on.
        shares: method, or name in `sources`, -> weight by tokens; the default is questions : documents = 1 : 1.
        sources: name -> JSONL file or folder of them from elsewhere, such as another run's
            `records/synthetic_qa.jsonl`: lines with `text` or `messages`.
        replay: general text (`{"text"}` or `{"messages"}` lines): a JSONL file, a data set's folder or its name on the
            hub, which is streamed; None for no replay.
        replay_config, replay_split: of a data set; FineWeb's default is `sample-10BT`.
        replay_share: the replay's part of all tokens, 0 to below 1.
        qa_form: `chat` trains the answers in the chat template, `text` trains questions and answers as plain text.
        near_duplicates: records that share this part of their shingles (see duplicates.py) with an earlier one are
            dropped, 0.5 to 1; 1 drops exact duplicates alone. 0.8 is what SlimPajama took.
        validation_rounds: so many of the last rounds of each document are held out for validation, where
            there are more; no document is left out of training.
        sequence_len: longest text in tokens; longer documents are cut, longer dialogues dropped.
        seed: another seed selects and orders otherwise.
    """

    tokenizer: str
    tokens: int | None = None
    budgets: tuple[int, ...] = ()
    shares: dict[str, float] = field(default_factory=lambda: {"synthetic_qa": 1.0, "focal_rewrite": 1.0})
    sources: dict[str, Path] = field(default_factory=dict)
    replay: Path | str | None = None
    replay_config: str | None = None
    replay_split: str = "train"
    replay_share: float = 0.1
    qa_form: Literal["chat", "text"] = "chat"
    near_duplicates: float = 0.8
    validation_rounds: int = 0
    sequence_len: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shares or any(weight <= 0 for weight in self.shares.values()):
            raise BadInput(f"mix.shares {self.shares}: name at least one method, each with a weight above 0.")
        if "replay" in self.shares:
            raise BadInput("mix.shares: `replay` has a key of its own, mix.replay_share; take it out here.")
        if self.tokens is not None and self.budgets:
            raise BadInput("mix.tokens and mix.budgets are both given; take one of them out.")
        if any(tokens < 1 for tokens in (self.tokens, *self.budgets) if tokens is not None):
            raise BadInput(f"mix.tokens {self.tokens}: give a number of tokens above 0, or leave it out.")
        for name in self.sources:
            if name not in self.shares:
                raise BadInput(f"mix.sources.{name}: it has no share; add it to mix.shares with a weight.")
        if not 0 <= self.replay_share < 1:
            raise BadInput(f"mix.replay_share {self.replay_share}: give a part of all tokens, 0 to below 1.")
        if not 0.5 <= self.near_duplicates <= 1:
            raise BadInput(f"mix.near_duplicates {self.near_duplicates}: give a shared part, 0.5 to 1.")
        if self.sequence_len < 16:
            raise BadInput(f"mix.sequence_len {self.sequence_len}: give at least 16 tokens.")


def mix_run(run_folder: Path, settings: MixSettings, drop: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Write one mix to `<run>/mix/` and return its manifest; see `mix_budgets`."""
    return mix_budgets(run_folder, settings, drop)[0][1]


def mix_budgets(
    run_folder: Path, settings: MixSettings, drop: Mapping[str, str] | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Write a run's mixes and return the folder and the manifest of each, from the smallest budget on.

    One mix goes to `<run>/mix/`, several to `<run>/mix/<budget>/`; a smaller one is a subset of each larger one.
    The records of each part of a document are taken in order of round and index, every part equally far, so that it
    keeps its share of the tokens at every budget; each share ends at the text that comes nearest to it. A
    source that runs dry is neither repeated nor made up for by the others: `manifest["warnings"]` says by how much it
    fell short. Exact duplicates (by a 64-bit hash) and near duplicates are dropped, of replay text the exact ones;
    `<run>/mix/dropped.jsonl` names whatever was dropped, with the reason. Chat-control tokens in texts are broken up.

    Args:
        drop: ids of records to leave out -> the reason.

    Raises:
        BadInput: records, replay or tokenizer are missing or unusable.
    """
    folder = run_folder / "mix"
    scratch = folder / "scratch.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with ExitStack() as files:
            return _mix(run_folder, settings, drop or {}, folder, scratch, files)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mix(
    run_folder: Path, settings: MixSettings, drop: Mapping[str, str], folder: Path, scratch: Path, files: ExitStack
) -> list[tuple[Path, dict[str, Any]]]:
    from smt_plugin.duplicates import NearDuplicates

    ruler = Ruler(settings.tokenizer, settings.sequence_len)
    near = NearDuplicates(scratch) if settings.near_duplicates < 1 else None
    sources: list[_Source] = []
    for name in settings.shares:
        path = settings.sources.get(name) or run_folder / "records" / f"{name}.jsonl"
        file = files.enter_context((scratch / f"rows{len(sources)}").open("w+b", _BUFFER))
        source = _Source(name, str(path), file, settings)
        source.read(_record_lines(path), ruler, near, drop)
        sources.append(source)
    _drop_duplicates(sources, near, settings.near_duplicates)
    for source in sources:
        source.put_in_order(settings.validation_rounds)

    weights = sum(settings.shares.values())
    limited_by = None
    if settings.tokens is None and not settings.budgets:
        scarcest = min(sources, key=lambda source: source.available / settings.shares[source.name])
        limited_by = scarcest.name
        budgets = [scarcest.available / settings.shares[scarcest.name] * weights]
    else:
        budgets = [float(tokens) for tokens in sorted(set(settings.budgets)) or [settings.tokens or 0]]
    choices = [
        [source.take(budget * settings.shares[source.name] / weights) for source in sources] for budget in budgets
    ]
    if not any(source.available for source in sources):
        raise BadInput(f"{run_folder / 'records'}: no record fits into {settings.sequence_len} tokens.")
    if not any(choice.tokens for choice in choices[0]):
        raise BadInput(f"mix: {budgets[0]:,.0f} tokens hold not one text; give a larger budget.")

    if settings.replay is not None and settings.replay_share > 0:
        file = files.enter_context((scratch / "replay").open("w+b", _BUFFER))
        replay = _Source("replay", str(settings.replay), file, settings, is_replay=True)
        per_token = settings.replay_share / (1 - settings.replay_share)
        asked = [sum(choice.tokens for choice in chosen) * per_token for chosen in choices]
        replay.read(_replay_lines(settings), ruler, None, drop, enough=asked[-1])
        replay.put_in_order(0)
        for chosen, tokens in zip(choices, asked, strict=True):
            chosen.append(replay.take(tokens))
        sources.append(replay)

    dropped = write_jsonl(folder / DROPPED_FILE, (row for source in sources for row in source.dropped_rows()))
    shared = {
        "settings": _plain(settings),
        "limited_by": limited_by,
        "dropped": dropped,
        "validation": {},
        "tokenizer": ruler.report(),
        "versions": {
            "smt_plugin": __version__,
            **{name: version(name) for name in ("transformers", "tokenizers")},
        },
    }
    if not dropped:
        (folder / DROPPED_FILE).unlink()
    for name in _FILES.values():
        (folder / (VALIDATION + name)).unlink(missing_ok=True)
    if settings.validation_rounds:
        held_out = [source.held_out() for source in sources if not source.is_replay]
        shared["validation"] = _write_files(folder, held_out, VALIDATION)
    mixes = []
    for budget, chosen in zip(budgets, choices, strict=True):
        place = folder / budget_name(round(budget)) if settings.budgets else folder
        mixes.append((place, _write_mix(place, chosen, shared, settings, folder / DROPPED_FILE)))
    return mixes


def budget_name(tokens: int) -> str:
    """A budget as one writes it: `10M`, `1.5M`, `300K`, `999`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= size and tokens * 10 % size == 0:
            return f"{tokens / size:.1f}".removesuffix(".0") + unit
    return str(tokens)


def _record_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every line of a source with its file and number; of a run's records, those of all its shards."""
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
    elif path.parent.name == "records":
        files = record_files(path.parent.parent, path.stem)
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise BadInput(f"{path} does not exist; give a JSONL file or a folder of them.")
    empty = True
    for file in files:
        with file.open("rb", _BUFFER) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    empty = False
                    yield f"{file}, line {number}", line
    if empty:
        raise BadInput(f"{path} is empty; generate records first.")


def _replay_lines(settings: MixSettings) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
    """The replay texts in an order that the seed sets: of a file any order, of a data set the stream's, shuffled."""
    path = Path(settings.replay or "")
    if path.is_file():
        return _shuffled_lines(path, settings.seed)
    if path.suffix in (".jsonl", ".json"):
        raise BadInput(f"{path} does not exist; give an existing JSONL file.")
    return _stream(settings)


def _shuffled_lines(path: Path, seed: int) -> Iterator[tuple[str, bytes]]:
    import numpy as np

    offsets = array("Q", [0])
    with path.open("rb") as file:
        for line in file:
            offsets.append(offsets[-1] + len(line))
        if len(offsets) == 1:
            raise BadInput(f"{path} is empty; give some text.")
        for index in np.random.default_rng(seed).permutation(len(offsets) - 1):
            file.seek(offsets[index])
            line = file.readline()
            if line.strip():
                yield f"{path}, line {index + 1}", line


def _stream(settings: MixSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    datasets = require("datasets", "train")
    name = str(settings.replay)
    config = settings.replay_config or ("sample-10BT" if name == FINEWEB else None)
    try:
        rows = datasets.load_dataset(name, config, split=settings.replay_split, streaming=True)
        for number, row in enumerate(rows.shuffle(seed=settings.seed, buffer_size=_STREAM_BUFFER)):
            yield f"{name}, text {number + 1}", row
    # Hub, network and every file format have errors of their own, and all of them mean the same to the user.
    except Exception as error:
        raise BadInput(
            f"mix.replay {name}: the data set cannot be streamed ({str(error).strip().splitlines()[0]}); without a "
            "network, download it first and give its folder, or give a JSONL file of general text."
        ) from None


@dataclass
class _Row:
    """One line of a source on its way to the scratch file."""

    id: str
    form: int
    row: dict[str, Any]
    rendered: str
    contents: str


@dataclass
class _Measured:
    """What the worker threads found out about a batch: each row's pieces and their tokens, and the keys of all."""

    rows: list[_Row]
    pieces: list[list[bytes]]
    tokens: list[list[int]]
    keys: "NDArray[np.uint64] | None"


@dataclass
class _Choice:
    """What is taken of a source: the first `count` pieces in its order."""

    source: "_Source"
    asked: float
    tokens: int
    pieces: "NDArray[np.int64]"
    is_dry: bool


class _Source:
    """One source of a mix: its measured training rows in a scratch file, and what to know of each in memory."""

    def __init__(self, name: str, origin: str, file: IO[bytes], settings: MixSettings, is_replay: bool = False) -> None:
        self.name, self.is_replay, self._origin, self._file = name, is_replay, origin, file
        self._seed, self._as_text = settings.seed, settings.qa_form == "text" and not is_replay
        self.training_files = _REPLAY_FILES if is_replay else _FILES
        self._offset, self._content, self._order, self._document = (array("Q") for _ in range(4))
        self._size, self._part, self._round, self._index = (array("I") for _ in range(4))
        self._form = array("B")
        self._piece_record, self._piece_number, self._piece_tokens = array("I"), array("H"), array("I")
        # Record -> why it was dropped; and those that were dropped before they were measured.
        self._drops: dict[int, str] = {}
        self._unread: list[dict[str, str]] = []
        self.counts = {"duplicates": 0, "near_duplicates": 0, "too_long": 0, "left_out": 0, "empty": 0}
        self.lines = 0
        self.available = 0

    def read(
        self,
        lines: Iterable[tuple[str, bytes | dict[str, Any]]],
        ruler: Ruler,
        near: "NearDuplicates | None",
        drop: Mapping[str, str],
        enough: float | None = None,
    ) -> None:
        """Measure all lines, or as many as hold `enough` tokens, and write their training rows to the scratch file."""
        rows = self._rows(lines, ruler, drop)
        under_way: deque[Future[_Measured]] = deque()
        total = 0
        with ThreadPoolExecutor(2) as threads:
            while True:
                batch = list(islice(rows, _BATCH)) if enough is None or total <= enough else []
                if batch:
                    under_way.append(threads.submit(_measure, batch, ruler, near is not None))
                while under_way and (not batch or len(under_way) >= _BATCHES_AHEAD):
                    measured = under_way.popleft().result()
                    total += self._keep(measured, ruler.sequence_len)
                    if near is not None and measured.keys is not None:
                        near.add(measured.keys)
                if not batch:
                    break
        self._file.flush()

    def _rows(
        self, lines: Iterable[tuple[str, bytes | dict[str, Any]]], ruler: Ruler, drop: Mapping[str, str]
    ) -> Iterator[_Row]:
        seen = set()
        for where, line in lines:
            row = _parsed(line, where)
            self.lines += 1
            if self.is_replay and not row.get("text") and not row.get("messages") and {"text", "messages"} & row.keys():
                self._drop_unread(where, "empty", "empty")
                continue
            _check(row, where)
            identity = where if self.is_replay or row.get("id") is None else str(row["id"])
            if identity in drop:
                self._drop_unread(identity, "left_out", drop[identity])
                continue
            place = [row.get(key) or 0 for key in ("part", "round", "index")]
            if not all(isinstance(number, int) and 0 <= number < 2**32 for number in place):
                raise BadInput(f"{where}: `part`, `round` and `index` must be whole numbers from 0 on.")
            form, training, rendered, contents = self._training_row(row, ruler)
            content = _hash(contents)
            if self.is_replay:
                # A stream is read until there is enough of it, so what it repeats must not count.
                if content in seen:
                    self._drop_unread(identity, "duplicates", "duplicate of an earlier replay text")
                    continue
                seen.add(content)
            self._content.append(content)
            self._order.append(_hash(f"{self._seed}:{identity}"))
            self._document.append(_hash(str(row.get("doc_id") or identity)))
            for column, value in zip((self._part, self._round, self._index), place, strict=True):
                column.append(value)
            self._form.append(form)
            yield _Row(identity, form, training, rendered, contents)

    def _drop_unread(self, identity: str, count: str, reason: str) -> None:
        self.counts[count] += 1
        self._unread.append({"source": self.name, "id": identity, "reason": reason})

    def _training_row(self, row: dict[str, Any], ruler: Ruler) -> tuple[int, dict[str, Any], str, str]:
        """Form, row of the training file, text as it will be encoded, and what the row says."""
        if row.get("text"):
            text = ruler.defused(row["text"])
            return _TEXT, {"text": text}, text, text
        turns = [{key: ruler.defused(turn[key]) for key in ("role", "content")} for turn in row["messages"]]
        contents = "\n".join(turn["content"] for turn in turns)
        if self._as_text:
            text = plain_qa(turns)
            return _PLAIN_QA, {"text": text}, text, contents
        return _CHAT, {"messages": turns}, ruler.render(turns), contents

    def _keep(self, measured: _Measured, limit: int) -> int:
        """Write a batch to the scratch file: for each record its id, then its training rows. Returns the tokens."""
        total = 0
        for row, pieces, tokens in zip(measured.rows, measured.pieces, measured.tokens, strict=True):
            number = len(self._offset)
            blob = b"\n".join([orjson.dumps(row.id), *pieces])
            self._offset.append(self._offset[-1] + self._size[-1] if number else 0)
            self._size.append(len(blob))
            self._file.write(blob)
            if not pieces:
                self.drop(number, "too_long", f"longer than sequence_len: {tokens[0]} tokens, at most {limit} fit")
                continue
            for position, length in enumerate(tokens):
                self._piece_record.append(number)
                self._piece_number.append(position)
                self._piece_tokens.append(length)
                total += length
        return total

    def __len__(self) -> int:
        return len(self._offset)

    def places(self) -> "tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint64]]":
        """Content, round and shuffled order of every record."""
        import numpy as np

        return np.asarray(self._content), np.asarray(self._round), np.asarray(self._order)

    def drop(self, record: int, count: str, reason: str) -> None:
        """Take a record out."""
        if record not in self._drops:
            self.counts[count] += 1
            self._drops[record] = reason

    def _blob(self, record: int) -> list[bytes]:
        return os.pread(self._file.fileno(), self._size[record], self._offset[record]).split(b"\n")

    def row(self, piece: int) -> bytes:
        """The training row of a piece."""
        return self._blob(self._piece_record[piece])[1 + self._piece_number[piece]]

    def id(self, record: int) -> str:
        """The record's id, or its file and line."""
        identity: str = orjson.loads(self._blob(record)[0])
        return identity

    def contents(self, record: int) -> str:
        """What a record says, without roles and templates."""
        rows = [orjson.loads(row) for row in self._blob(record)[1:]]
        return " ".join(row.get("text") or "\n".join(turn["content"] for turn in row["messages"]) for row in rows)

    def put_in_order(self, validation_rounds: int) -> None:
        """Set the order in which the pieces are taken, and hold the last rounds out; what was dropped is left out."""
        import numpy as np

        keep = np.ones(len(self), dtype=bool)
        keep[list(self._drops)] = False
        kept = np.flatnonzero(keep)
        document, part, round_, index, order = (
            np.asarray(column)[kept] for column in (self._document, self._part, self._round, self._index, self._order)
        )
        by_place = np.lexsort((order, index, round_, part, document))
        is_first = np.ones(len(kept), dtype=bool)
        new_round = np.ones(len(kept), dtype=bool)
        same_part = (np.diff(document[by_place]) == 0) & (np.diff(part[by_place]) == 0)
        is_first[1:] = ~same_part
        new_round[1:] = ~same_part | (np.diff(round_[by_place]) != 0)
        begins = np.flatnonzero(is_first)
        sizes = np.diff(np.append(begins, len(kept)))
        rank = np.arange(len(kept)) - np.repeat(begins, sizes)
        rounds_before = np.cumsum(new_round)
        rounds_before -= np.repeat(rounds_before[begins], sizes)
        num_rounds = np.repeat(rounds_before[np.append(begins[1:], len(kept)) - 1] + 1, sizes) if len(kept) else rank
        held = (validation_rounds > 0) & (num_rounds > validation_rounds)
        held &= rounds_before >= num_rounds - validation_rounds
        # How far through its part of the document a record stands, 0 to below 1.
        progress = np.full(len(self), np.inf)
        progress[kept[by_place]] = rank / np.repeat(sizes, sizes)
        progress[kept[by_place][held]] = np.inf
        if self.is_replay:
            # Replay is taken in the order of its stream.
            progress[kept] = kept
        held_records = np.zeros(len(self), dtype=bool)
        held_records[kept[by_place][held]] = True

        record = np.asarray(self._piece_record)
        taken = np.flatnonzero(np.isfinite(progress[record]))
        ranks = record[taken]
        sort = np.lexsort((taken, np.asarray(self._order)[ranks], progress[ranks]))
        self._pieces = taken[sort]
        self._held_pieces = np.flatnonzero(held_records[record])
        self._sums = np.cumsum(np.asarray(self._piece_tokens)[self._pieces], dtype=np.int64)
        self.available = int(self._sums[-1]) if len(self._sums) else 0
        self._kept = int(keep.sum())
        self._held = int(held_records.sum())

    def take(self, budget: float) -> _Choice:
        """Choose the pieces whose sum comes nearest to `budget` tokens."""
        import numpy as np

        count = int(np.searchsorted(self._sums, budget, side="right"))
        below = float(self._sums[count - 1]) if count else 0.0
        if count < len(self._sums) and self._sums[count] - budget < budget - below:
            count += 1
        tokens = int(self._sums[count - 1]) if count else 0
        is_dry = count == len(self._sums) and budget - tokens > _TOLERANCE * budget
        return _Choice(self, budget, tokens, self._pieces[:count], is_dry)

    def held_out(self) -> _Choice:
        """Choose the pieces that are held out for validation."""
        import numpy as np

        tokens = int(np.asarray(self._piece_tokens)[self._held_pieces].sum())
        return _Choice(self, tokens, tokens, self._held_pieces, False)

    def dropped_rows(self) -> Iterator[dict[str, Any]]:
        """What was dropped, and why."""
        yield from self._unread
        for record, reason in sorted(self._drops.items()):
            yield {"source": self.name, "id": self.id(record), "reason": reason}

    def piece_columns(
        self, pieces: "NDArray[np.int64]", form: int
    ) -> "tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint32]]":
        """Those of the pieces that have a form, with their shuffled order and their tokens."""
        import numpy as np

        record = np.asarray(self._piece_record)
        chosen = pieces[np.asarray(self._form)[record[pieces]] == form]
        return chosen, np.asarray(self._order)[record[chosen]], np.asarray(self._piece_tokens)[chosen]

    def report(self, choice: _Choice, of_tokens: int) -> dict[str, Any]:
        """Counts for the manifest; `of_tokens` is what the share is a part of."""
        import numpy as np

        record = np.asarray(self._piece_record)
        used, pieces = np.unique(record[choice.pieces], return_counts=True)
        return {
            "file": self._origin,
            "lines": self.lines,
            **self.counts,
            "held_out": self._held,
            "records_available": self._kept - self._held,
            "tokens_available": self.available,
            "records": len(used),
            "documents": len(np.unique(np.asarray(self._document)[used])) if not self.is_replay else None,
            "rows": len(choice.pieces),
            "records_cut": int((np.bincount(record, minlength=1)[used] > 1).sum()) if len(pieces) else 0,
            "tokens_asked": round(choice.asked),
            "tokens": choice.tokens,
            "share": round(choice.tokens / of_tokens, 6),
            "ran_dry": choice.is_dry,
        }


def plain_qa(messages: list[dict[str, str]]) -> str:
    """A question-answer record as plain text, all of which is trained on; our own form."""
    names = {"user": "Question", "assistant": "Answer"}
    return "\n".join(
        f"{names[turn['role']]}: {turn['content']}" if turn["role"] in names else turn["content"] for turn in messages
    )


def _parsed(line: bytes | dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(line, dict):
        return line
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{where}: not valid JSON ({error}).") from None
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected an object with either `text` or `messages`.")
    return row


def _check(row: dict[str, Any], where: str) -> None:
    if bool(row.get("text")) == bool(row.get("messages")):
        raise BadInput(f"{where}: expected an object with either `text` or `messages`.")
    if row.get("messages"):
        messages = row["messages"]
        if (
            not isinstance(messages, list)
            or not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in messages)
            or not all(isinstance(turn["content"], str) for turn in messages)
            or messages[-1]["role"] != "assistant"
        ):
            raise BadInput(f"{where}: `messages` must be turns with role and content, the assistant's last.")
    elif not isinstance(row["text"], str):
        raise BadInput(f"{where}: `text` must be a string.")


def _measure(rows: list[_Row], ruler: Ruler, with_keys: bool) -> _Measured:
    """Tokens of a batch. Runs in a thread beside the reading one: the tokenizer and numpy let go of the interpreter."""
    chats = iter(ruler.chats([row.rendered for row in rows if row.form == _CHAT]))
    texts = iter(ruler.texts([row.rendered for row in rows if row.form != _CHAT]))
    pieces, tokens = [], []
    for row in rows:
        length = next(chats if row.form == _CHAT else texts)
        if length <= ruler.sequence_len:
            pieces.append([orjson.dumps(row.row)])
            tokens.append([length])
        elif row.form == _TEXT:
            parts = ruler.cut(row.row["text"])
            pieces.append([orjson.dumps({"text": part}) for part in parts])
            tokens.append(ruler.texts(parts))
        else:
            pieces.append([])
            tokens.append([length])
    keys = None
    if with_keys:
        from smt_plugin.duplicates import band_keys

        keys = band_keys([row.contents for row in rows])
    return _Measured(rows, pieces, tokens, keys)


def _drop_duplicates(sources: list[_Source], near: "NearDuplicates | None", threshold: float) -> None:
    """Take out exact and near duplicates among all records; of two, the one of the earlier source and round stays."""
    import numpy as np

    sizes = [len(source) for source in sources]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(len(sources)), sizes)

    def place(number: int) -> tuple[_Source, int]:
        source = int(np.searchsorted(begins, number, side="right")) - 1
        return sources[source], number - int(begins[source])

    content, round_, order = (np.concatenate(columns) for columns in zip(*(s.places() for s in sources), strict=True))
    by_place = np.lexsort((order, round_, owner))
    by_content = by_place[np.argsort(content[by_place], kind="stable")]
    is_first = np.ones(len(content), dtype=bool)
    is_first[1:] = np.diff(content[by_content]) != 0
    first = by_content[np.maximum.accumulate(np.where(is_first, np.arange(len(content)), 0))]
    for number, original in zip(by_content[~is_first], first[~is_first], strict=True):
        source, record = place(int(number))
        owner_of_it, original_record = place(int(original))
        source.drop(record, "duplicates", f"duplicate of {owner_of_it.id(original_record)}")
    if near is None:
        return
    unique = np.zeros(len(content), dtype=bool)
    unique[by_content[is_first]] = True
    for number, original, part in near.find(
        by_place[unique[by_place]], lambda number: place(number)[0].contents(place(number)[1]), threshold
    ):
        source, record = place(number)
        owner_of_it, original_record = place(original)
        reason = f"near duplicate of {owner_of_it.id(original_record)}: {part:.2f} of the shingles shared"
        source.drop(record, "near_duplicates", reason)


def _write_mix(
    folder: Path, chosen: list[_Choice], shared: dict[str, Any], settings: MixSettings, dropped: Path
) -> dict[str, Any]:
    """Write one mix's files and manifest into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Manifest out first, in last: where there is one, the files beside it are whole and its own.
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    files = _write_files(folder, chosen)
    everything = sum(choice.tokens for choice in chosen)
    tokens = sum(choice.tokens for choice in chosen if not choice.source.is_replay)
    sources = {
        choice.source.name: choice.source.report(choice, everything if choice.source.is_replay else tokens)
        for choice in chosen
    }
    warnings = [sentence for choice in chosen for sentence in _shortfalls(choice)]
    if settings.replay is None and settings.replay_share > 0:
        warnings.append("no replay text was given (mix.replay), so the mix has none: general ability may fall.")
    if shared["dropped"]:
        warnings.append(f"{shared['dropped']:,} records were dropped; {dropped} says which and why.")
    manifest = {
        "settings": shared["settings"],
        "tokens": everything,
        "record_tokens": tokens,
        "limited_by": shared["limited_by"],
        "sources": sources,
        "files": files,
        "validation": shared["validation"],
        "dropped": shared["dropped"],
        "tokenizer": shared["tokenizer"],
        "content_hash": hashlib.sha256(
            orjson.dumps(
                [
                    shared["tokenizer"]["sha256"],
                    *((name, entry["sha256"]) for name, entry in sorted({**files, **shared["validation"]}.items())),
                ]
            )
        ).hexdigest(),
        "versions": shared["versions"],
        "warnings": warnings,
    }
    partial = folder / (MANIFEST_FILE + ".partial")
    partial.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    os.replace(partial, folder / MANIFEST_FILE)
    return manifest


def _shortfalls(choice: _Choice) -> list[str]:
    """One sentence if the source ran dry or missed its share by more than half a percent, else nothing."""
    name, off = choice.source.name, choice.tokens - choice.asked
    if choice.is_dry:
        mend = "give more replay text" if choice.source.is_replay else "generate more, or lower mix.tokens"
        return [
            f"{name} ran dry: {choice.tokens:,} of {choice.asked:,.0f} tokens, {-off / choice.asked:.1%} short. "
            f"Nothing was repeated and the other sources were not scaled: {mend}."
        ]
    if abs(off) > _TOLERANCE * choice.asked:
        return [
            f"{name} has {choice.tokens:,} of {choice.asked:,.0f} tokens, {off / choice.asked:+.1%}: its texts are too "
            "long to come nearer to so small a share."
        ]
    return []


def _write_files(folder: Path, chosen: list[_Choice], prefix: str = "") -> dict[str, Any]:
    """Write the training files of what was chosen, shuffled: in order of the records' hashes, whatever their round."""
    files = {}
    named = {file: form for mapping in (_FILES, _REPLAY_FILES) for form, file in mapping.items()}
    for name, form in named.items():
        path = folder / (prefix + name)
        path.unlink(missing_ok=True)
        drawn = [
            (choice.source, *choice.source.piece_columns(choice.pieces, form))
            for choice in chosen
            if choice.source.training_files.get(form) == name
        ]
        rows = sum(len(pieces) for _, pieces, _, _ in drawn)
        if rows:
            files[path.name] = {
                "rows": rows,
                "tokens": sum(int(tokens.sum()) for _, _, _, tokens in drawn),
                "form": "messages" if form == _CHAT else "text",
                "sha256": _write_rows(path, drawn),
            }
    return files


def _write_rows(path: Path, drawn: list[Any]) -> str:
    """Copy rows from the scratch files in shuffled order; returns the file's SHA-256."""
    import numpy as np

    owner = np.repeat(np.arange(len(drawn)), [len(pieces) for _, pieces, _, _ in drawn])
    pieces = np.concatenate([part for _, part, _, _ in drawn])
    keys = np.concatenate([part for _, _, part, _ in drawn])
    digest = hashlib.sha256()
    partial = path.with_name(path.name + ".partial")
    sort = np.lexsort((pieces, owner, keys))
    with partial.open("wb") as file:
        for begin in range(0, len(sort), _BATCH):
            batch = sort[begin : begin + _BATCH]
            rows = [drawn[o][0].row(p) for o, p in zip(owner[batch].tolist(), pieces[batch].tolist(), strict=True)]
            block = b"\n".join([*rows, b""])
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return digest.hexdigest()


def _plain(settings: MixSettings) -> dict[str, Any]:
    """The settings as JSON has them."""
    values = asdict(settings)
    values["replay"] = None if settings.replay is None else str(settings.replay)
    values["sources"] = {name: str(path) for name, path in settings.sources.items()}
    return values


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
