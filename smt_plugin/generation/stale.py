"""Which records of a run were made from what is no longer so: another document, model, prompt or option."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from smt_plugin.config import RunFile
from smt_plugin.corpus import comparable, document_hash, read_documents, split_document
from smt_plugin.errors import BadInput
from smt_plugin.files import content_hash, reading
from smt_plugin.generation.gate import gate_of
from smt_plugin.generation.generate import backend_of, methods_of, part_tokens_of, prompts_of
from smt_plugin.generation.summary import MethodCount, read_generated
from smt_plugin.methods import method_class, options_of
from smt_plugin.records import record_files

_GONE, _CHANGED = "its document is not in the corpus any more", "its document has changed, or its parts"


class _Made(msgspec.Struct, gc=False):
    """What a record says of how it was made; one from elsewhere, or of an older version, lacks some of it."""

    id: Any = None
    doc_id: Any = None
    part: int | None = 0
    model: Any = None
    document_hash: Any = None


_DECODER = msgspec.json.Decoder(_Made)


@dataclass(slots=True)
class Stale:
    """What no longer fits: `drop` has the records' ids, or files and lines, each with the reason.

    Attributes:
        problems: a sentence for each method that has such records, with counts.
        hopeless: methods of which nothing would be left, or whose records are being put in place.
        notes: sentences about what could not be told.
    """

    drop: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    hopeless: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def stale_records(run_file: RunFile, names: Collection[str]) -> Stale:
    """Compare the records of methods with the run file, its prompts and its corpus as they are now.

    Raises:
        BadInput: a method has no records, or what they are compared with cannot be read.
    """
    stale = Stale()
    is_there = run_file.corpus.exists()
    if not is_there:
        stale.notes.append(
            f"the corpus {run_file.corpus} is not here, so it is not known whether documents have changed since their "
            "records were made"
        )
    # Without a client, whose API key need not be here.
    model = getattr(run_file.backend, "model", None) or backend_of(run_file).model
    corpora: dict[int, _Parts] = {}
    untold: Counter[str] = Counter()
    for name in names:
        total = 0
        reasons: Counter[str] = Counter()
        documents: dict[str, dict[str, None]] = {}
        for path in record_files(run_file.run, name):
            folder = path.parents[1]
            made = read_generated(folder).methods.get(name) or MethodCount(0)
            if not made.is_whole:
                stale.hopeless.append(
                    f"{path}: `smt generate` was stopped while it put records in place; run `smt generate RUN.YAML` "
                    "again, which pays for nothing twice."
                )
                continue
            reason_of_all = _changed_settings(run_file, name, made, stale)
            tokens = part_tokens_of(run_file, folder)
            if is_there and tokens not in corpora:
                corpora[tokens] = _Parts(run_file, tokens)
            for identity, record in _records(path):
                total += 1
                untold[name] += made.options is None or record.document_hash is None
                reason = reason_of_all
                if not reason and isinstance(record.model, str) and record.model != model:
                    reason = f"made by the model {record.model!r}, and the run file has {model!r}"
                if not reason and is_there and isinstance(record.doc_id, str):
                    reason = corpora[tokens].change(record)
                if reason:
                    stale.drop[identity] = reason
                    reasons[reason] += 1
                    documents.setdefault(reason, {})[str(record.doc_id)] = None
        if reasons:
            whys = (_count_of(reason, count, documents[reason]) for reason, count in reasons.items())
            begin = f"{name}: {reasons.total():,} of {total:,} records no longer fit ({'; '.join(whys)})"
            if reasons.total() == total:
                fix = "set back what was changed, or run `smt generate RUN.YAML`, which makes them anew."
                stale.hopeless.append(f"{begin}; {fix}")
            else:
                fix = "make them anew with `smt generate RUN.YAML`, or leave them out: `smt mix RUN.YAML --drop-stale`."
                stale.problems.append(f"{begin}; {fix}")
    if untold.total():
        stale.notes.append(
            f"{untold.total():,} records ({', '.join(+untold)}) do not say from which text or with which options they "
            "were made, as those of older versions; `smt generate` writes that, and pays for nothing twice"
        )
    return stale


def _count_of(reason: str, count: int, documents: dict[str, None]) -> str:
    if reason not in (_GONE, _CHANGED):
        return f"{count:,} {reason}"
    first = next(iter(documents))
    return f"{count:,} because {reason}: {first!r}" + (
        f" and {len(documents) - 1:,} more" if len(documents) > 1 else ""
    )


def _changed_settings(run_file: RunFile, name: str, made: MethodCount, stale: Stale) -> str:
    """Say which option or prompt of a method is another one now; empty where none is, or it cannot be told."""
    before = made.options
    if before is None or name not in run_file.methods:
        return ""
    known = {}
    for each, options in run_file.methods.items():
        try:
            method_class(each)
            known[each] = options
        except BadInput as error:
            if each == name:
                stale.notes.append(f"{name}: it is not known whether its options or prompts have changed: {error}")
                return ""
    here = run_file.model_copy(update={"methods": known})
    # Options that came with a later version were not chosen otherwise.
    for option, value in options_of(methods_of(here)[name][0]).items():
        if before.get(option, value) != value:
            return f"made with {option} {before[option]}, which is {value} now"
    gate = gate_of(run_file)
    if set(made.gate) != set(gate):
        gates = (", ".join(each) if each else "none" for each in (made.gate, gate))
        return "made with the gate {}, which is {} now".format(*gates)
    prompts = prompts_of(here)
    for prompt, digest in made.prompts.items():
        try:
            is_same = prompts.hash(prompt) == digest
        except BadInput:  # there is none of this name
            is_same = False
        if not is_same:
            return f"made by another prompt {prompt}.jinja, system text or language than there is now"
    return ""


def _records(path: Path) -> Iterator[tuple[str, _Made]]:
    """Each record with its id, or its file and line; what is none is left to the mix, which names it."""
    with reading(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                record = _DECODER.decode(line)
            except (ValueError, RecursionError):
                continue
            yield f"{path}, line {number}" if record.id is None else str(record.id), record


class _Parts:
    """The documents of a corpus, or parts of long ones, by hashes in sorted arrays: 16 bytes each."""

    def __init__(self, run_file: RunFile, part_tokens: int) -> None:
        import numpy as np

        pairs = np.fromiter(
            (
                (_place(part.id, part.part), int(document_hash(part), 16))
                for document in read_documents(run_file.corpus)
                for part in split_document(document, part_tokens)
            ),
            np.dtype((np.uint64, 2)),
        )
        self._places, self._hashes = pairs[np.argsort(pairs[:, 0])].T
        # Records of a part stand close together.
        self._hash_of = lru_cache(4096)(self._find)

    def _find(self, doc_id: str, part: int) -> str | None:
        place = _place(doc_id, part)
        index = int(self._places.searchsorted(self._places.dtype.type(place)))
        found = index < len(self._places) and int(self._places[index]) == place
        return f"{int(self._hashes[index]):016x}" if found else None

    def change(self, record: _Made) -> str:
        """Say how the document of a record has changed; empty where it has not, or the record does not tell."""
        if self._hash_of(record.doc_id, 0) is None:
            return _GONE
        if record.document_hash in (None, self._hash_of(record.doc_id, record.part or 0)):
            return ""
        return _CHANGED


def _place(doc_id: str, part: int) -> int:
    return int(content_hash([comparable(doc_id), part])[:16], 16)
