"""Draw records of a run to be judged: at random, and as evenly over its documents as their records allow."""

import heapq
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.faithfulness.claims import claims_of
from smt_plugin.files import Text, as_row, content_hash, file_hash, read_jsonl, read_rows
from smt_plugin.generation.generate import part_tokens_of
from smt_plugin.records import record_files
from smt_plugin.rejects import rejected, rejects_hash, rejects_path

SEED = 0  # of all draws: the same records are drawn again, so that nothing is paid for twice
_MEND = "run `smt generate RUN.YAML` anew"


class _Named(Struct):
    """Of a record what it takes to draw it."""

    id: Text
    doc_id: Text


class _Row(Struct):
    """Of a record what it takes to judge it; those of older versions have no hash of their document."""

    id: Text
    doc_id: Text
    part: int
    tokens: int
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    document_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """A record that was drawn.

    Attributes:
        tokens: the generator's, as in the record.
        claims: what it says, piece by piece.
        of_document: how many records of the same method there are about its document.
        part_tokens: above how many tokens its document was split.
        document_hash: of the text that it was made from; None where an older version wrote the record.
    """

    method: str
    id: str
    doc_id: str
    part: int
    tokens: int
    claims: tuple[str, ...]
    of_document: int
    part_tokens: int
    document_hash: str | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn of a method's records, of how many about how many documents."""

    records: int
    documents: int
    sample: list[Sampled]


def draw(run_file: RunFile, methods: Collection[str], records: int) -> dict[str, Drawn]:
    """Draw up to `records` records of each method, without those that are rejected.

    Every document gives equally many, or all that it has; where there are more documents than records are drawn, some
    of them give one. What is drawn depends on the ids alone, and a larger sample holds a smaller one. The files are
    read twice; in memory are the sample, and a number for each document.

    Raises:
        BadInput: a method has no records, or a line is none.
    """
    return {method: _draw(run_file, method, records) for method in methods}


def _draw(run_file: RunFile, method: str, records: int) -> Drawn:
    files, out = record_files(run_file.run, method), rejected(run_file.run, [method])
    rows = (row for file in files for row, _ in read_rows(file, _Named, _MEND))
    counts = Counter(row.doc_id for row in rows if row.id not in out)
    if not counts:
        none = "no records that are not rejected" if out else "no records"
        raise BadInput(f"{method} has {none} in {run_file.run}; `smt generate RUN.YAML` says why.")
    wanted = quotas(counts, records)
    # Of each document those whose hash is smallest; the largest of them stands first in its heap.
    heaps: dict[str, list[tuple[int, str, Path, dict[str, Any]]]] = {doc_id: [] for doc_id in wanted}
    for file in files:
        for number, row in read_jsonl(file, _MEND):
            if row["id"] not in out and (heap := heaps.get(row["doc_id"])) is not None:
                item = (-_rank(row["id"]), f"{file}, line {number}", file, row)
                if len(heap) < wanted[row["doc_id"]]:
                    heapq.heappush(heap, item)
                else:
                    heapq.heappushpop(heap, item)
    sample = []
    for doc_id, heap in heaps.items():
        for _, place, file, value in sorted(heap, key=lambda item: item[:2], reverse=True):
            drawn = as_row(value, _Row, place, _MEND)
            sample.append(
                Sampled(
                    method,
                    drawn.id,
                    drawn.doc_id,
                    drawn.part,
                    drawn.tokens,
                    tuple(claims_of(drawn.text, drawn.messages)),
                    counts[doc_id],
                    part_tokens_of(run_file, file.parents[1]),
                    drawn.document_hash,
                )
            )
    return Drawn(counts.total(), len(counts), sample)


def quotas(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Share `total` out as evenly as the sizes allow; what is left over goes to some of the names, drawn by a hash.

    Returns:
        Name -> how many, at most its size, without those that get none.
    """
    level = left = 0
    remaining, previous = total, 0
    ordered = sorted(sizes.values())
    for index, size in enumerate(ordered):
        whole = (len(ordered) - index) * (size - previous)
        if whole > remaining:
            level, left = previous + remaining // (len(ordered) - index), remaining % (len(ordered) - index)
            break
        remaining -= whole
        level = previous = size
    larger = heapq.nsmallest(left, (name for name, size in sizes.items() if size > level), key=_rank)
    found = {name: min(size, level) for name, size in sizes.items()}
    found |= {name: level + 1 for name in larger}
    return {name: number for name, number in found.items() if number}


def _rank(name: str) -> int:
    return int(content_hash([[SEED, name]])[:16], 16)


def record_hashes(run: Path, methods: Collection[str]) -> dict[str, str]:
    """The files that hold the records of methods, by their paths in the run folder, and the SHA-256 of each.

    Where records are rejected, there is an entry for them, too, which changes when others are.

    Raises:
        BadInput: one is missing or broken.
    """
    files = (file for method in methods for file in record_files(run, method))
    found = {str(file.relative_to(run)): file_hash(file) for file in files}
    if out := rejected(run, methods):
        found[rejects_path(run).name] = rejects_hash(out)
    return found
