"""The lines that a mix reads: records of a run or from elsewhere, and replay text of a file or a data set."""

import codecs
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET

from smt_plugin.config import MixSection
from smt_plugin.errors import BadInput, first_line, require
from smt_plugin.files import reading
from smt_plugin.records import record_files
from smt_plugin.rejects import Verdict, rejected

_FINEWEB = "HuggingFaceFW/fineweb"
# Each read and write lets go of the interpreter, and gets it back only after the other threads' turns: so, few of them.
BUFFER = 2**20
# Texts of a stream that are shuffled among themselves.
_STREAM_BUFFER = 10_000


def source_files(path: Path) -> list[Path]:
    """Return the files of a source: one file, all of a folder, or of a run's records those of all its shards.

    Raises:
        BadInput: there is no file.
    """
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
    elif path.parent.name == "records" and path.suffix == ".jsonl":
        files = record_files(path.parent.parent, path.stem)
    else:
        files = [path] if path.is_file() else []
    if not files:
        state = "holds no .jsonl file" if path.is_dir() else "does not exist"
        raise BadInput(f"{path} {state}; give a JSONL file or a folder of them.")
    return files


def source_paths(run: Path, shares: Iterable[str], sources: Mapping[str, Path]) -> dict[str, Path]:
    """Where the records of each name of a mix's shares are: in the run's own folder, or elsewhere."""
    return {name: sources.get(name) or run / "records" / f"{name}.jsonl" for name in shares}


def runs_of(run: Path, paths: Mapping[str, Path]) -> dict[str, tuple[Path, str]]:
    """The run and the method whose verdicts go for each name: those of the run that made the records, if one did."""
    return {
        name: (path.parent.parent, path.stem) if path.parent.name == "records" else (run, name)
        for name, path in paths.items()
    }


def rejects_of(run: Path, paths: Mapping[str, Path]) -> dict[str, Verdict]:
    """The verdicts that reject records of a mix, also those of other runs that it takes records from.

    Args:
        paths: as `source_paths` gives them.

    Raises:
        BadInput: a line of `rejects.jsonl` is broken.
    """
    methods: dict[Path, list[str]] = defaultdict(list)
    for folder, method in runs_of(run, paths).values():
        methods[folder].append(method)
    return {name: verdict for folder, names in methods.items() for name, verdict in rejected(folder, names).items()}


def record_lines(files: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Every line that is not blank, with its file and number."""
    for file in files:
        place = f"{file}, line "
        with reading(file, buffering=BUFFER) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.isspace():
                    yield f"{place}{number}", line


def replay_lines(settings: MixSection, seed: int) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
    """The replay texts in an order that the seed sets: of a file any order, of a data set the stream's, shuffled.

    Raises:
        BadInput: there is no file or nothing in it, or the data set cannot be streamed.
    """
    path = Path(settings.replay or "")
    if path.is_file() or path.suffix in (".jsonl", ".json"):
        return _shuffled_lines(path, seed)
    return _stream(settings, seed)


def _shuffled_lines(path: Path, seed: int) -> Iterator[tuple[str, bytes]]:
    import numpy as np

    offsets = array("Q", [0])
    with reading(path, "give an existing JSONL file") as file:
        for line in file:
            offsets.append(offsets[-1] + len(line))
        if len(offsets) == 1:
            raise BadInput(f"{path} is empty; give some text.")
        for index in np.random.default_rng(seed).permutation(len(offsets) - 1):
            file.seek(offsets[index])
            line = file.readline()
            if line.strip():
                yield f"{path}, line {index + 1}", line


def _stream(settings: MixSection, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    datasets = require("datasets", "train")
    name = str(settings.replay)
    config = settings.replay_config or ("sample-10BT" if name == _FINEWEB else None)
    try:
        rows = datasets.load_dataset(name, config, split=settings.replay_split, streaming=True)
        for number, row in enumerate(rows.shuffle(seed=seed, buffer_size=_STREAM_BUFFER)):
            yield f"{name}, text {number + 1}", row
    # Hub, network and every file format have errors of their own, and all of them mean the same to the user.
    except Exception as error:
        raise BadInput(
            f"mix.replay {name}: the data set cannot be streamed ({first_line(error)}); without a network, download it "
            "first and give its folder, or give a JSONL file of general text."
        ) from None


class Unusable(BadInput):
    """A line that is JSON, but that no training row can be made of."""


_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**32)] | None


class Turn(msgspec.Struct, gc=False):
    """One message of a dialogue."""

    role: str
    content: str


class ReplayLine(msgspec.Struct, gc=False):
    """What a mix reads of a line of replay; other keys are the data set's own."""

    id: Any = None
    doc_id: Any = None
    text: str | msgspec.UnsetType | None = UNSET
    messages: list[Turn] | msgspec.UnsetType | None = UNSET

    def check(self, where: str) -> None:
        """Refuse a line that no training row can be made of.

        Raises:
            Unusable: it has neither text nor messages, or both, or does not end with an answer.
        """
        if bool(self.text) == bool(self.messages):
            raise Unusable(f"{where}: expected an object with either `text` or `messages`.")
        if self.messages and self.messages[-1].role != "assistant":
            raise Unusable(f"{where}: the last of `messages` must be the assistant's.")

    def is_mute(self) -> bool:
        """Whether it is a dialogue in which the assistant says nothing, so that there is nothing to train."""
        turns = self.messages
        # The quick way out for nearly all: there is an answer at the end.
        if not turns or turns[-1].content.strip():
            return False
        return not any(turn.content.strip() for turn in turns if turn.role == "assistant")


class Line(ReplayLine, gc=False):
    """What is read of a record; other keys are skipped. `question` is what a focal rewrite was made for."""

    question: Any = None
    part: _Number = None
    round: _Number = None
    index: _Number = None


DECODER, _REPLAY_DECODER = msgspec.json.Decoder(Line), msgspec.json.Decoder(ReplayLine)


def parsed_line(line: bytes | dict[str, Any], where: str, is_replay: bool = False) -> ReplayLine:
    """Read one line, of which `where` names the file and number; of a record it is a `Line`.

    Raises:
        Unusable: a key is of the wrong type.
        BadInput: it is no JSON.
    """
    try:
        if isinstance(line, dict):
            return msgspec.convert(line, ReplayLine if is_replay else Line)
        return (_REPLAY_DECODER if is_replay else DECODER).decode(line.removeprefix(codecs.BOM_UTF8))
    except msgspec.ValidationError as error:
        what = str(error)
        raise Unusable(
            f"{where}: {what[0].lower()}{what[1:]}; give an object with either `text` or `messages`, turns with role "
            "and content."
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{where}: not valid JSON ({error}); give an unpacked JSONL file: `text` or `messages` in each line."
        ) from None


def identity_of(row: ReplayLine, where: str) -> str:
    """The id of a record, or its file and number where it has none."""
    return where if row.id is None else str(row.id)
