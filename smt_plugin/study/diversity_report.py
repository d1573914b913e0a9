"""Records side by side: how unlike each other they are at equal tokens, and how much of their documents they touch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smt_plugin.config import RetrievalSettings
from smt_plugin.corpus import read_documents
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.files import make_folder, write_csv, write_json, write_text
from smt_plugin.progress import Progress
from smt_plugin.report.report import page
from smt_plugin.report.sections import Section, interval_text
from smt_plugin.retrieval.index import embedding_model
from smt_plugin.study.coverage import KINDS, DocumentCoverage, coverage_of
from smt_plugin.study.diversity import GROUPS, Diversity, Floats, Measure, Sums, groups_of
from smt_plugin.study.figures import coverage_figure
from smt_plugin.study.samples import RecordSet

# More of them are embedded for so long that they are to be asked for.
MOST_TOKENS = 10**6
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """A part of the records of a method, its tokens and its documents, and of each kind the share that they touch."""

    records: int
    tokens: int
    documents: int
    coverage: dict[str, Estimate | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of the records of one method: `samples` from the smallest to that whose diversity is told."""

    name: str
    available: int
    diversity: Diversity
    samples: list[Sample]
    documents: list[DocumentCoverage]


def common_tokens(sets: Sequence[RecordSet], asked: int | None) -> int:
    """Return the tokens at which records are compared: those that were asked for, or what all have, at most a million.

    Raises:
        BadInput: there is less than was asked for, or so few tokens are a single record.
    """
    least = min(sets, key=lambda records: records.available)
    if asked is not None and asked > least.available:
        raise BadInput(
            f"--tokens {asked}: {least.name} has {least.available:,} tokens of records; ask for no more, or generate "
            "more."
        )
    tokens = asked or min(least.available, MOST_TOKENS)
    for records in sets:
        if records.count_for(tokens) == 1:
            raise BadInput(
                f"{tokens:,} tokens are one record of {records.name}, which is not unlike anything; generate more of "
                f"{least.name}, or ask for more tokens."
            )
    return tokens


def measure(sets: Sequence[RecordSet], tokens: int, settings: RetrievalSettings) -> list[Measured]:
    """Measure the records of each method at so many tokens, and how much they touch at parts of them.

    Raises:
        BadInput: the embedding model or a corpus cannot be read.
    """
    model = embedding_model(settings)

    def embed(texts: list[str]) -> Floats:
        return np.asarray(model.get_text_embedding_batch(texts), dtype=float)

    found = []
    with Progress("records measured") as progress:
        for records in sets:
            counts = [records.count_for(tokens * fraction) for fraction in FRACTIONS]
            progress.begin(f"records of {records.name} measured", counts[-1])
            diversity = _diversity(records, counts[-1], embed, settings.chunk_tokens, progress)
            progress.begin(f"records of {records.name} compared with their documents", counts[-1])
            documents = list(coverage_of(records, counts, read_documents(records.run_file.corpus), progress.at))
            samples = [_sample(records, count, place, documents) for place, count in enumerate(counts)]
            found.append(Measured(records.name, records.available, diversity, samples, documents))
    return found


def _diversity(records: RecordSet, count: int, embed: Any, most_tokens: int, progress: Progress) -> Diversity:
    places_of = records.places_by_document(count)
    groups = groups_of(list(places_of))
    sums = Sums(min(GROUPS, len(groups)), embed)
    done = 0
    for doc_id, places in places_of.items():
        sums.add(groups[doc_id], records.texts(places), most_tokens)
        done += len(places)
        progress.at(done)
    return sums.diversity()


def _sample(records: RecordSet, count: int, place: int, documents: list[DocumentCoverage]) -> Sample:
    coverage: dict[str, Estimate | None] = {}
    for kind in KINDS:
        values: list[float] = []
        doc_ids: list[str] = []
        for document in documents:
            held, touched = document.held[kind], document.touched[kind][place]
            values += [1.0] * touched + [0.0] * (held - touched)
            doc_ids += [document.doc_id] * held
        coverage[kind] = estimate(values, doc_ids) if values else None
    own = np.unique(records.document[:count])
    return Sample(count, int(records.tokens[:count].sum()), len(own), coverage)


def sections_of(found: Sequence[Measured], tokens: int) -> list[Section]:
    """Return the report's sections in their order."""
    rows = [_diversity_row(each) for each in found]
    diversity = Section(
        f"Diversity at {tokens:,} tokens, with 95 % intervals over documents",
        ("records of", "records", "documents", "tokens", "Vendi score", "unique 4-grams", "MTLD", "zstd ratio"),
        rows,
        note="More is more diverse, but for the zstd ratio, where less is.",
        explanation=(
            "Vendi score: how many passages that have nothing in common would be as diverse, by the embeddings that "
            "retrieval uses. Unique 4-grams: different ones among all. MTLD: words until few new ones come. zstd "
            "ratio: bytes before compression by bytes behind it. Each sample takes the first records in the order of "
            "a mix, of all documents alike; the intervals are jackknife intervals over groups of documents."
        ),
    )
    figures = [
        Section(
            f"Share of the documents' {kind} that a record touches",
            plot=coverage_figure({each.name: _curve(each, kind) for each in found}, kind),
        )
        for kind in KINDS
        if any(each.samples[-1].coverage[kind] for each in found)
    ]
    covered = Section(
        "Share of the documents that a record touches",
        ("records of", "tokens", *KINDS),
        [
            (each.name, f"{sample.tokens:,}", *(_share(sample.coverage[kind]) for kind in KINDS))
            for each in found
            for sample in each.samples
        ],
        note="All sentences, names and numbers of all documents, with 95 % intervals clustered by document.",
        explanation="What counts as touched is told by code alone; coverage.csv has the counts of each document.",
    )
    return [diversity, *figures, covered]


def _diversity_row(each: Measured) -> tuple[str, ...]:
    sample, values = each.samples[-1], each.diversity
    return (
        each.name,
        f"{sample.records:,}",
        f"{sample.documents:,}",
        f"{sample.tokens:,}",
        _measure(values.vendi, "{:.1f}"),
        _measure(values.unique_4grams, "{:.3f}"),
        _measure(values.mtld, "{:.1f}"),
        _measure(values.zstd, "{:.2f}"),
    )


def _measure(measure: Measure, form: str) -> str:
    if measure.value is None:
        return "too short"
    value = form.format(measure.value)
    if measure.low is None:
        return f"{value} (too few documents)"
    return f"{value} ({form.format(measure.low)} to {form.format(measure.high)})"


def _share(covered: Estimate | None) -> str:
    return "none there" if covered is None else interval_text(covered)


def _curve(each: Measured, kind: str) -> dict[int, Estimate]:
    return {sample.tokens: covered for sample in each.samples if (covered := sample.coverage[kind]) is not None}


def write_report(
    folder: Path, found: Sequence[Measured], sections: Sequence[Section], tokens: int, settings: RetrievalSettings
) -> Path:
    """Write `diversity.html` (self-contained), `diversity.json`, `diversity.csv`, `coverage.csv` and
    `coverage-<kind>.svg` into a folder, and return the first one's path.
    """
    make_folder(folder)
    facts = {
        "tokens of each": f"{tokens:,}",
        "tokens there are": ", ".join(f"{each.name} {each.available:,}" for each in found),
        "embedding model": settings.embedding,
    }
    path = folder / "diversity.html"
    write_text(path, page("smt diversity", "How diverse are the records, and what do they cover?", facts, sections, []))
    for section in sections:
        if section.plot:
            kind = next(kind for kind in KINDS if kind in section.title)
            write_text(folder / f"coverage-{kind}.svg", section.plot)
    write_csv(folder / "diversity.csv", _diversity_rows(found))
    write_csv(folder / "coverage.csv", _coverage_rows(found))
    records = [
        {"name": each.name, "available": each.available, "diversity": each.diversity, "samples": each.samples}
        for each in found
    ]
    write_json(folder / "diversity.json", {"facts": facts, "tokens": tokens, "records": records})
    return path


def _diversity_rows(found: Sequence[Measured]) -> list[Sequence[object]]:
    names = list(asdict(found[0].diversity))
    head = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    rows: list[Sequence[object]] = [("name", "records", "documents", "tokens", *head)]
    for each in found:
        sample = each.samples[-1]
        values = [number for measured in asdict(each.diversity).values() for number in measured.values()]
        rows.append((each.name, sample.records, sample.documents, sample.tokens, *values))
    return rows


def _coverage_rows(found: Sequence[Measured]) -> list[Sequence[object]]:
    head = [name for kind in KINDS for name in (kind, f"{kind}_touched")]
    rows: list[Sequence[object]] = [("name", "tokens", "doc_id", *head)]
    for each in found:
        for place, sample in enumerate(each.samples):
            for document in each.documents:
                counts = [count for kind in KINDS for count in (document.held[kind], document.touched[kind][place])]
                rows.append((each.name, sample.tokens, document.doc_id, *counts))
    return rows
