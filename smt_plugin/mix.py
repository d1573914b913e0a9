"""Sample records and replay text to token budgets: `<run>/records/*.jsonl` -> `<run>/mix/`.

Every length is counted as axolotl will train it: question-answer records in the target model's chat
template, documents with the tokens that its tokenizer adds and an end-of-text token.

A mix takes one pass over the records, which measures them all and writes the training rows, and what to know of each,
to scratch files; in memory is then what is being sorted, some 40 bytes a record. Each mix is a choice among these rows,
copied in shuffled order.
"""

import gc
import hashlib
import os
import shutil
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson

from smt_plugin import __version__
from smt_plugin.errors import BadInput, first_line, require
from smt_plugin.jsonl import read_json, write_json, write_jsonl
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
_PART_STEP = 0x9E3779B97F4A7C15
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
        near_duplicates: records that share this part of their shingles (see duplicates.py), and all numbers, with an
            earlier one are dropped, 0.5 to 1; 1 drops exact duplicates alone. 0.8 is what SlimPajama took.
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
        # What is no number is not above 0 either; sums and quotients of such as these stay finite.
        if not self.shares or not all(1e-9 <= weight <= 1e9 for weight in self.shares.values()):
            raise BadInput(f"mix.shares {self.shares}: name at least one method, each with a weight of 1e-9 to 1e9.")
        if "replay" in self.shares:
            raise BadInput("mix.shares: `replay` has a key of its own, mix.replay_share; take it out here.")
        if self.tokens is not None and self.budgets:
            raise BadInput("mix.tokens and mix.budgets are both given; take one of them out.")
        if any(tokens < 1 for tokens in (self.tokens, *self.budgets) if tokens is not None):
            raise BadInput(f"{self.budget_key}: give a number of tokens above 0, or leave it out.")
        for name in self.sources:
            if name not in self.shares:
                raise BadInput(f"mix.sources.{name}: it has no share; add it to mix.shares with a weight.")
        if not 0 <= self.replay_share < 1:
            raise BadInput(f"mix.replay_share {self.replay_share}: give a part of all tokens, 0 to below 1.")
        if not 0.5 <= self.near_duplicates <= 1:
            raise BadInput(f"mix.near_duplicates {self.near_duplicates}: give a shared part, 0.5 to 1.")
        if self.sequence_len < 16:
            raise BadInput(f"mix.sequence_len {self.sequence_len}: give at least 16 tokens.")

    @property
    def budget_key(self) -> str:
        """The key of the run file that sets the budget."""
        return "mix.budgets" if self.budgets else "mix.tokens"


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
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise BadInput(
            f"the folder {folder} cannot be written ({error.strerror}); move away a file in its place, or mend its "
            "permissions."
        ) from None
    was_collecting = gc.isenabled()
    # Rows come and go by the million and hold no cycles; looking for some would take a tenth of a mix's own time.
    gc.disable()
    try:
        with ExitStack() as files:
            return _mix(run_folder, settings, drop or {}, folder, scratch, files)
    finally:
        if was_collecting:
            gc.enable()
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # unless there is a mix in it
            folder.rmdir()


def _mix(
    run_folder: Path, settings: MixSettings, drop: Mapping[str, str], folder: Path, scratch: Path, files: ExitStack
) -> list[tuple[Path, dict[str, Any]]]:
    from smt_plugin.duplicates import NearDuplicates

    ruler = Ruler(settings.tokenizer, settings.sequence_len)
    near = NearDuplicates(scratch) if settings.near_duplicates < 1 else None
    sources: list[_Source] = []
    for name in settings.shares:
        path = settings.sources.get(name) or run_folder / "records" / f"{name}.jsonl"
        source = _Source(name, str(path), files.enter_context(_Scratch(scratch / f"source{len(sources)}")), settings)
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
        if not scarcest.available:
            raise BadInput(
                f"mix.shares.{limited_by}: it has no text to train on that fits into {settings.sequence_len} tokens; "
                "raise mix.sequence_len, or leave the source out."
            )
        budgets = [scarcest.available / settings.shares[scarcest.name] * weights]
    else:
        budgets = [float(tokens) for tokens in sorted(set(settings.budgets)) or [settings.tokens or 0]]
    choices = [
        [source.take(budget * settings.shares[source.name] / weights) for source in sources] for budget in budgets
    ]
    if not any(source.available for source in sources):
        raise BadInput(f"{run_folder / 'records'}: no record fits into {settings.sequence_len} tokens.")
    if not any(choice.tokens for choice in choices[0]):
        raise BadInput(f"{settings.budget_key}: {budgets[0]:,.0f} tokens hold not one text; give a larger budget.")

    if settings.replay is not None and settings.replay_share > 0:
        store = files.enter_context(_Scratch(scratch / "replay"))
        replay = _Source("replay", str(settings.replay), store, settings, is_replay=True)
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


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a mix.

    Raises:
        BadInput: it is broken.
    """
    keys = ("settings", "tokens", "record_tokens", "sources", "files", "tokenizer", "content_hash", "versions")
    return read_json(path, "smt mix", *keys, "warnings")


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
        state = "holds no .jsonl file" if path.is_dir() else "does not exist"
        raise BadInput(f"{path} {state}; give a JSONL file or a folder of them.")
    empty = True
    for file in files:
        place = f"{file}, line "
        with file.open("rb", _BUFFER) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.isspace():
                    empty = False
                    yield f"{place}{number}", line
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
            f"mix.replay {name}: the data set cannot be streamed ({first_line(error)}); without a network, download it "
            "first and give its folder, or give a JSONL file of general text."
        ) from None


@dataclass(slots=True)
class _Row:
    """One line of a source on its way to the scratch file."""

    id: str
    form: int
    row: dict[str, Any]
    rendered: str
    contents: str


@dataclass(slots=True)
class _Measured:
    """What a worker thread found out about a batch.

    Attributes:
        blob: for each record its id, then its training rows, a line each.
        begins: where each record begins in the blob.
        pieces: how many training rows each record has; 0 if it is too long.
        piece_begins, piece_sizes, piece_tokens: of each training row, its place in the blob and its tokens.
        too_long: record of the batch -> its tokens.
        keys: of the records, for near duplicates.
    """

    blob: bytes
    begins: list[int]
    pieces: list[int]
    piece_begins: list[int]
    piece_sizes: list[int]
    piece_tokens: list[int]
    too_long: dict[int, int]
    keys: "NDArray[np.uint64] | None"


@dataclass
class _Choice:
    """What is taken of a source: the first pieces in its order."""

    source: "_Source"
    asked: float
    tokens: int
    pieces: "NDArray[np.uint32]"
    is_dry: bool


class _Scratch:
    """Training rows, and columns of numbers about them, in files: numbers take memory only while they are used."""

    # `order` shuffles; `pieces` are a record's training rows. The last three have an entry for each of these.
    _TYPES = MappingProxyType(
        {"content": "Q", "order": "Q", "document": "Q", "part": "I", "round": "I", "index": "I", "form": "B"}
        | {"begin": "Q", "pieces": "H", "piece_begin": "Q", "piece_size": "I", "piece_tokens": "I"}
    )

    def __init__(self, path: Path) -> None:
        self._paths = {name: path.with_name(f"{path.name}-{name}") for name in self._TYPES}
        for file in self._paths.values():
            file.touch()
        self._rows = path.open("w+b", _BUFFER)
        # What waits to be written.
        self.columns = {name: array(code) for name, code in self._TYPES.items()}
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._rows.close()

    def write(self, blob: bytes) -> None:
        """Append to the rows, and write the columns down."""
        self._rows.write(blob)
        self.size += len(blob)
        for name, column in self.columns.items():
            with self._paths[name].open("ab", 0) as file:
                file.write(column)
            del column[:]

    def flush(self) -> None:
        """After this the rows can be read."""
        self._rows.flush()

    def column(self, name: str) -> "NDArray[Any]":
        """All numbers of a column, as a view of the file."""
        import numpy as np

        path, kind = self._paths[name], np.dtype(self._TYPES[name])
        return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)

    def read(self, begin: int, size: int) -> bytes:
        """So many bytes of the rows."""
        return os.pread(self._rows.fileno(), size, begin)


class _Source:
    """One source of a mix: its measured training rows, and what to know of each, in scratch files."""

    def __init__(
        self, name: str, origin: str, scratch: _Scratch, settings: MixSettings, is_replay: bool = False
    ) -> None:
        self.name, self.is_replay, self._origin, self._scratch = name, is_replay, origin, scratch
        self._seed, self._as_text = settings.seed, settings.qa_form == "text" and not is_replay
        self.training_files = _REPLAY_FILES if is_replay else _FILES
        # Record -> why it was dropped; and those that were dropped before they were measured.
        self._drops: dict[int, str] = {}
        self._unread: list[dict[str, str]] = []
        self.counts = {"duplicates": 0, "near_duplicates": 0, "too_long": 0, "left_out": 0, "empty": 0}
        self.lines = 0
        self.available = 0
        self._len = 0

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
        self._scratch.flush()
        self._begins = self.column("begin")

    def _rows(
        self, lines: Iterable[tuple[str, bytes | dict[str, Any]]], ruler: Ruler, drop: Mapping[str, str]
    ) -> Iterator[_Row]:
        seen = set()
        columns = self._scratch.columns
        contents_, orders, documents, forms = (columns[name] for name in ("content", "order", "document", "form"))
        places = [(name, columns[name]) for name in ("part", "round", "index")]
        # Records of a document mostly stand close together.
        hash_of_document = lru_cache(4096)(_hash)
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
            form, training, rendered, contents = self._training_row(row, ruler)
            content = _hash(contents)
            if self.is_replay:
                # A stream is read until there is enough of it, so what it repeats must not count.
                if content in seen:
                    self._drop_unread(identity, "duplicates", "duplicate of an earlier replay text")
                    continue
                seen.add(content)
            try:
                for name, column in places:
                    column.append(row.get(name) or 0)
            except (TypeError, OverflowError):
                message = f"{where}: `part`, `round` and `index` must be whole numbers from 0 on."
                raise BadInput(message) from None
            contents_.append(content)
            # The file's place must not set the order, or the same run in another folder would be another training.
            orders.append(_hash(f"{self._seed}:{content if identity is where else identity}"))
            documents.append(hash_of_document(str(row.get("doc_id") or identity)))
            forms.append(form)
            yield _Row(identity, form, training, rendered, contents)

    def _drop_unread(self, identity: str, count: str, reason: str) -> None:
        self.counts[count] += 1
        self._unread.append({"source": self.name, "id": identity, "reason": reason})

    def _training_row(self, row: dict[str, Any], ruler: Ruler) -> tuple[int, dict[str, Any], str, str]:
        """Form, row of the training file, text as it will be encoded, and what the row says."""
        if row.get("text"):
            text = ruler.defused(row["text"])
            return _TEXT, {"text": text}, text, text
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
        contents = "\n".join([turn["content"] for turn in turns])
        # All at once, since most have nothing to break up.
        everything = "\n".join([contents, *[turn["role"] for turn in turns]])
        if ruler.defused(everything) != everything:
            turns = [{key: ruler.defused(text) for key, text in turn.items()} for turn in turns]
            contents = "\n".join([turn["content"] for turn in turns])
        if self._as_text:
            text = plain_qa(turns)
            return _PLAIN_QA, {"text": text}, text, contents
        return _CHAT, {"messages": turns}, ruler.render(turns), contents

    def _keep(self, measured: _Measured, limit: int) -> int:
        """Write a batch to the scratch files. Returns its tokens."""
        base, columns = self._scratch.size, self._scratch.columns
        columns["begin"].extend([base + begin for begin in measured.begins])
        columns["pieces"].extend(measured.pieces)
        columns["piece_begin"].extend([base + begin for begin in measured.piece_begins])
        columns["piece_size"].extend(measured.piece_sizes)
        columns["piece_tokens"].extend(measured.piece_tokens)
        self._scratch.write(measured.blob)
        for number, tokens in measured.too_long.items():
            reason = f"longer than sequence_len: {tokens} tokens, at most {limit} fit"
            self.drop(self._len + number, "too_long", reason)
        self._len += len(measured.begins)
        return sum(measured.piece_tokens)

    def __len__(self) -> int:
        return self._len

    def column(self, name: str) -> "NDArray[Any]":
        """Numbers about all records, or all pieces, as a view of a file."""
        return self._scratch.column(name)

    def drop(self, record: int, count: str, reason: str) -> None:
        """Take a record out."""
        if record not in self._drops:
            self.counts[count] += 1
            self._drops[record] = reason

    def _lines(self, record: int) -> list[bytes]:
        begin = int(self._begins[record])
        end = int(self._begins[record + 1]) if record + 1 < self._len else self._scratch.size
        return self._scratch.read(begin, end - begin).splitlines()

    def row(self, begin: int, size: int) -> bytes:
        """A training row, as a line."""
        return self._scratch.read(begin, size)

    def id(self, record: int) -> str:
        """The record's id, or its file and line."""
        identity: str = orjson.loads(self._lines(record)[0])
        return identity

    def contents(self, record: int) -> str:
        """What a record says, without roles and templates."""
        rows = [orjson.loads(row) for row in self._lines(record)[1:]]
        return " ".join(row.get("text") or "\n".join(turn["content"] for turn in row["messages"]) for row in rows)

    def put_in_order(self, validation_rounds: int) -> None:
        """Set the order in which the pieces are taken, and hold the last rounds out; what was dropped is left out."""
        import numpy as np

        keep = np.ones(len(self), dtype=bool)
        keep[list(self._drops)] = False
        records = np.flatnonzero(keep).astype(np.uint32)
        self._kept, held = len(records), records[:0]
        if not self.is_replay:
            records, held, progress = self._by_progress(records, validation_rounds)
            records = records[np.lexsort((records, self.column("order")[records], progress))]
        # Replay is taken in the order of its stream.
        self._held = len(held)
        self._pieces, self._held_pieces = self._pieces_of(records), self._pieces_of(held)
        self.available = int(self.column("piece_tokens")[self._pieces].sum())

    def _by_progress(
        self, records: "NDArray[np.uint32]", validation_rounds: int
    ) -> "tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float64]]":
        """Records to train on, those that are held out, and how far through its part of the document each of the
        first stands, 0 to below 1.
        """
        import numpy as np

        # A part of a document, as one number.
        part = self.column("document")[records]
        part += self.column("part")[records] * np.uint64(_PART_STEP)
        place = self.column("round")[records].astype(np.uint64) << np.uint64(32)
        place |= self.column("index")[records]
        by_place = np.lexsort((self.column("order")[records], place, part))
        records, part, round_ = records[by_place], part[by_place], place[by_place] >> np.uint64(32)
        del by_place, place
        is_first = np.ones(len(records), dtype=bool)
        is_first[1:] = part[1:] != part[:-1]
        del part
        begins = np.flatnonzero(is_first).astype(np.uint32)
        sizes = np.diff(begins, append=np.uint32(len(records)))
        rank = np.arange(len(records), dtype=np.uint32)
        rank -= np.repeat(begins, sizes)
        progress = rank / np.repeat(sizes, sizes)
        if not validation_rounds:
            return records, records[:0], progress
        is_first[1:] |= round_[1:] != round_[:-1]
        rounds_before = np.cumsum(is_first)
        rounds_before -= np.repeat(rounds_before[begins], sizes)
        ends = np.append(begins[1:], len(records)).astype(np.int64) - 1
        num_rounds = np.repeat(rounds_before[ends] + 1, sizes) if len(records) else rounds_before
        held = (num_rounds > validation_rounds) & (rounds_before >= num_rounds - validation_rounds)
        return records[~held], np.sort(records[held]), progress[~held]

    def _pieces_of(self, records: "NDArray[np.uint32]") -> "NDArray[np.uint32]":
        """The numbers of all pieces of these records, in this order."""
        import numpy as np

        counts = self.column("pieces")
        ends = np.cumsum(counts, dtype=np.uint32)[records]
        counts = counts[records]
        shift = ends - np.cumsum(counts, dtype=np.uint32)
        pieces = np.arange(counts.sum(dtype=np.int64), dtype=np.uint32)
        pieces += np.repeat(shift, counts)
        return pieces

    def _record_of_pieces(self) -> "NDArray[np.uint32]":
        import numpy as np

        return np.repeat(np.arange(len(self), dtype=np.uint32), self.column("pieces"))

    def take(self, budget: float) -> _Choice:
        """Choose the pieces whose sum comes nearest to `budget` tokens."""
        import numpy as np

        sums = np.cumsum(self.column("piece_tokens")[self._pieces], dtype=np.int64)
        count = int(np.searchsorted(sums, budget, side="right"))
        below = float(sums[count - 1]) if count else 0.0
        if count < len(sums) and sums[count] - budget < budget - below:
            count += 1
        tokens = int(sums[count - 1]) if count else 0
        is_dry = count == len(sums) and budget - tokens > _TOLERANCE * budget
        return _Choice(self, budget, tokens, self._pieces[:count], is_dry)

    def held_out(self) -> _Choice:
        """Choose the pieces that are held out for validation."""
        tokens = int(self.column("piece_tokens")[self._held_pieces].sum())
        return _Choice(self, tokens, tokens, self._held_pieces, False)

    def dropped_rows(self) -> Iterator[dict[str, Any]]:
        """What was dropped, and why."""
        yield from self._unread
        for record, reason in sorted(self._drops.items()):
            yield {"source": self.name, "id": self.id(record), "reason": reason}

    def of_form(self, pieces: "NDArray[np.uint32]", form: int) -> "tuple[NDArray[np.uint32], NDArray[np.uint64]]":
        """Those of the pieces that have a form, with their shuffled order."""
        records = self._record_of_pieces()[pieces]
        chosen = self.column("form")[records] == form
        return pieces[chosen], self.column("order")[records[chosen]]

    def report(self, choice: _Choice, of_tokens: int) -> dict[str, Any]:
        """Counts for the manifest; `of_tokens` is what the share is a part of."""
        import numpy as np

        is_used = np.zeros(len(self), dtype=bool)
        is_used[self._record_of_pieces()[choice.pieces]] = True
        return {
            "file": self._origin,
            "lines": self.lines,
            **self.counts,
            "held_out": self._held,
            "records_available": self._kept - self._held,
            "tokens_available": self.available,
            "records": int(is_used.sum()),
            "documents": len(np.unique(self.column("document")[is_used])) if not self.is_replay else None,
            "rows": len(choice.pieces),
            "records_cut": int((self.column("pieces")[is_used] > 1).sum()),
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
        raise BadInput(
            f"{where}: not valid JSON ({error}); give an unpacked JSONL file: `text` or `messages` in each line."
        ) from None
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected an object with either `text` or `messages`.")
    return row


def _check(row: dict[str, Any], where: str) -> None:
    text, messages = row.get("text"), row.get("messages")
    if bool(text) == bool(messages):
        raise BadInput(f"{where}: expected an object with either `text` or `messages`.")
    if messages:
        if not isinstance(messages, list) or not all(map(_is_turn, messages)) or messages[-1]["role"] != "assistant":
            raise BadInput(f"{where}: `messages` must be turns with role and content, the assistant's last.")
    elif not isinstance(text, str):
        raise BadInput(f"{where}: `text` must be a string.")


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


def _measure(rows: list[_Row], ruler: Ruler, with_keys: bool) -> _Measured:
    """Tokens of a batch. Runs in a thread beside the reading one: the tokenizer and numpy let go of the interpreter."""
    chats = iter(ruler.chats([row.rendered for row in rows if row.form == _CHAT]))
    texts = iter(ruler.texts([row.rendered for row in rows if row.form != _CHAT]))
    measured = _Measured(b"", [], [], [], [], [], {}, None)
    lines: list[bytes] = []
    begin = 0
    for number, row in enumerate(rows):
        length = next(chats if row.form == _CHAT else texts)
        pieces, tokens = [row.row], [length]
        if length > ruler.sequence_len and row.form == _TEXT:
            parts = ruler.cut(row.row["text"])
            pieces, tokens = [{"text": part} for part in parts], ruler.texts(parts)
        elif length > ruler.sequence_len:
            measured.too_long[number] = length
            pieces, tokens = [], []
        line = orjson.dumps(row.id, option=orjson.OPT_APPEND_NEWLINE)
        lines.append(line)
        measured.begins.append(begin)
        measured.pieces.append(len(pieces))
        measured.piece_tokens += tokens
        begin += len(line)
        for piece in pieces:
            line = orjson.dumps(piece, option=orjson.OPT_APPEND_NEWLINE)
            lines.append(line)
            measured.piece_begins.append(begin)
            measured.piece_sizes.append(len(line))
            begin += len(line)
    measured.blob = b"".join(lines)
    if with_keys:
        from smt_plugin.duplicates import band_keys

        measured.keys = band_keys([row.contents for row in rows])
    return measured


def _drop_duplicates(sources: list[_Source], near: "NearDuplicates | None", threshold: float) -> None:
    """Take out exact and near duplicates among all records; of two, the one of the earlier source and round stays."""
    import numpy as np

    from smt_plugin.duplicates import repeats

    begins = np.concatenate([[0], np.cumsum([len(source) for source in sources])])

    def place(number: int) -> tuple[_Source, int]:
        source = int(np.searchsorted(begins, number, side="right")) - 1
        return sources[source], number - int(begins[source])

    def in_order(numbers: "NDArray[np.int64]") -> "NDArray[np.int64]":
        numbers = np.sort(numbers)
        ordered = []
        for source, begin, end in zip(sources, begins, begins[1:], strict=False):
            part = numbers[np.searchsorted(numbers, begin) : np.searchsorted(numbers, end)]
            columns = (source.column("order"), source.column("round"))
            ordered.append(part[np.lexsort([column[part - begin] for column in columns])])
        return np.concatenate(ordered)

    is_unique = np.ones(begins[-1], dtype=bool)
    later, first = repeats(np.concatenate([source.column("content") for source in sources]), is_unique, in_order)
    is_unique[later] = False
    for number, original in zip(later.tolist(), first.tolist(), strict=True):
        source, record = place(number)
        owner_of_it, original_record = place(original)
        source.drop(record, "duplicates", f"duplicate of {owner_of_it.id(original_record)}")
    if near is None:
        return

    def contents(number: int) -> str:
        source, record = place(number)
        return source.contents(record)

    for number, original, part in near.find(is_unique, in_order, contents, threshold):
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
    warnings = [sentence for choice in chosen for sentence in _shortfalls(choice, settings.budget_key)]
    if settings.replay is None and settings.replay_share > 0:
        warnings.append("no replay text was given (mix.replay), so the mix has none: general ability may fall.")
    if settings.validation_rounds and not shared["validation"]:
        warnings.append(
            f"mix.validation_rounds {settings.validation_rounds}: no document has more rounds, so nothing is held out."
        )
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
    write_json(folder / MANIFEST_FILE, manifest)
    return manifest


def _shortfalls(choice: _Choice, budget_key: str) -> list[str]:
    """One sentence if the source ran dry or missed its share by more than half a percent, else nothing."""
    name, off = choice.source.name, choice.tokens - choice.asked
    if choice.is_dry:
        mend = "give more replay text" if choice.source.is_replay else f"generate more, or lower {budget_key}"
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
            (choice.source, *choice.source.of_form(choice.pieces, form))
            for choice in chosen
            if choice.source.training_files.get(form) == name
        ]
        rows = sum(len(pieces) for _, pieces, _ in drawn)
        if rows:
            files[path.name] = {
                "rows": rows,
                "tokens": sum(int(source.column("piece_tokens")[pieces].sum()) for source, pieces, _ in drawn),
                "form": "messages" if form == _CHAT else "text",
                "sha256": _write_rows(path, drawn),
            }
    return files


def _write_rows(path: Path, drawn: "list[tuple[_Source, NDArray[np.uint32], NDArray[np.uint64]]]") -> str:
    """Copy rows from the scratch files in shuffled order; returns the file's SHA-256."""
    import numpy as np

    owner = np.repeat(np.arange(len(drawn), dtype=np.uint16), [len(pieces) for _, pieces, _ in drawn])
    sort = np.lexsort(
        (np.concatenate([part for _, part, _ in drawn]), owner, np.concatenate([part for _, _, part in drawn]))
    )
    begins, sizes = (
        np.concatenate([source.column(name)[part] for source, part, _ in drawn])
        for name in ("piece_begin", "piece_size")
    )
    digest = hashlib.sha256()
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file, ThreadPoolExecutor(1) as thread:

        def write(block: bytes) -> None:
            digest.update(block)
            file.write(block)

        writing: list[Future[None]] = []
        for begin in range(0, len(sort), _BATCH):
            batch = sort[begin : begin + _BATCH]
            places = zip(owner[batch].tolist(), begins[batch].tolist(), sizes[batch].tolist(), strict=True)
            block = b"".join([drawn[number][0].row(place, size) for number, place, size in places])
            while writing:
                writing.pop().result()
            writing.append(thread.submit(write, block))
        while writing:
            writing.pop().result()
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
