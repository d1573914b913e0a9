"""Benchmarks as documents and questions: from their official files, or from documents.jsonl + questions.jsonl."""

import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

from smt_plugin.benchmarks import financebench, longhealth, quality
from smt_plugin.benchmarks.download import blob_id, download
from smt_plugin.corpus import Document, read_documents
from smt_plugin.errors import BadInput
from smt_plugin.files import cache_dir, read_json
from smt_plugin.question import (
    Question,
    checked_questions,
    documents_hash,
    frozen_manifest,
    questions_file,
    read_questions,
)

OFFICIAL = {
    "quality": quality.OFFICIAL,
    "longhealth": longhealth.OFFICIAL,
    "financebench": financebench.OFFICIAL,
}
BENCHMARKS = ("quality", "longhealth", "financebench", "corpus", "microworld")


def load(benchmark: str, folder: Path | None = None) -> tuple[list[Document], list[Question]]:
    """Return all documents and questions of a benchmark; where its files are looked for, `find_folder` says.

    The microworld needs no files: without any it is made on the spot.

    Raises:
        BadInput: unknown benchmark, no files, or a file that is not what it should be.
    """
    folder = find_folder(benchmark, folder)
    documents, questions = _read(benchmark, folder)
    official = OFFICIAL.get(benchmark)
    if official and folder and not _is_ours(folder) and (problem := official.count_problem(documents, questions)):
        print(f"smt: {benchmark}'s files in {folder} are not whole: {problem}; fetch them anew", file=sys.stderr)
    return documents, questions


def find_folder(benchmark: str, folder: Path | None = None) -> Path | None:
    """Return the folder of a benchmark's files; None for a microworld that needs none.

    They are looked for in `folder`, else in the folder that the environment variable `SMT_<BENCHMARK>_DIR` names, else
    in `<cache>/smt-plugin/<benchmark>`, into which the official files are downloaded if they are not there; source and
    licence are then said on standard error.

    `corpus` is your own: a folder or file that `read_documents` takes, with `questions.jsonl` in or beside it.

    Raises:
        BadInput: unknown benchmark, no files, and no download of them.
    """
    if benchmark not in BENCHMARKS:
        raise BadInput(f"unknown benchmark {benchmark!r}; choose one of: {', '.join(BENCHMARKS)}.")
    variable = f"SMT_{benchmark.upper()}_DIR"
    if folder is not None or os.environ.get(variable):
        return folder or Path(os.environ[variable])
    cached = cache_dir() / benchmark
    official = OFFICIAL.get(benchmark)
    if official is None:
        if cached.is_dir() or benchmark == "microworld":
            return cached if cached.is_dir() else None
        raise BadInput(_where_to_put(benchmark, cached))
    if _is_ours(cached) or official.is_whole_in(cached):
        return cached
    _refuse_zip(cached, official.files)
    print(
        f"smt: fetching {benchmark} from {official.source} into {cached}; licence: {official.licence}",
        file=sys.stderr,
    )
    try:
        download(official.address, official.downloads, cached)
    except BadInput as error:
        raise BadInput(f"{error}; {_where_to_put(benchmark, cached)}") from None
    documents, questions = official.read(official.folder_in(cached) or cached)
    if problem := official.count_problem(documents, questions):
        for path in official.downloads:
            (cached / path).unlink(missing_ok=True)
        raise BadInput(
            f"what {official.address} gave was thrown away, since {problem}; " + _where_to_put(benchmark, cached)
        )
    unknown = [path for path, blob in official.downloads.items() if blob is None]
    if unknown:
        print(f"smt: no checksum of {', '.join(unknown)} is known to us; its counts are right", file=sys.stderr)
    return cached


def _where_to_put(benchmark: str, cached: Path) -> str:
    return (
        f"no {benchmark} data: put {_wanted(benchmark)} into {cached}, or name their folder: evaluate.data of a run "
        f'file, --data of `smt benchmark` and `smt retrieve`, --metadata \'{{"data": "/path/to/folder"}}\' of '
        f"lm_eval, or the environment variable SMT_{benchmark.upper()}_DIR."
    )


def _read(benchmark: str, folder: Path | None) -> tuple[list[Document], list[Question]]:
    if folder is None:
        from smt_plugin.microworld import world

        documents = world.documents()
        return documents, checked_questions(((row, "microworld") for row in world.questions()), documents)
    if benchmark == "corpus":
        return _own_corpus(folder)
    if _is_ours(folder):
        documents = list(read_documents(folder / "documents.jsonl"))
        return documents, read_questions(folder / "questions.jsonl", documents)
    official = OFFICIAL.get(benchmark)
    if official and (place := official.folder_in(folder)):
        documents, questions = official.read(place)
        if not questions:
            raise BadInput(f"{place} holds no questions; fetch {' and '.join(official.files)} anew.")
        return documents, questions
    if official:
        _refuse_zip(folder, official.files)
    raise BadInput(f"{folder} does not hold the {benchmark} data; put {_wanted(benchmark)} there.")


def held_out(documents: Iterable[Document]) -> list[str]:
    """Ids of the documents that retrieval is tuned on: the first fifth by title, as in EntiGraph (arXiv 2409.07431)."""
    ids = [document.id for document in sorted(documents, key=lambda document: (document.title, document.id))]
    return ids[: max(1, len(ids) // 5)]


def _own_corpus(path: Path) -> tuple[list[Document], list[Question]]:
    """What `corpus:` of a run file names, a folder or a file, with `questions.jsonl` in it or beside it."""
    questions = questions_file(path)
    if not questions.is_file():
        raise BadInput(
            f"{questions} does not exist; put {_wanted('corpus')} there, or have it made by `smt questions RUN.YAML`, "
            "in a run that holds no records yet."
        )
    frozen = _check_frozen(questions)
    documents = list(read_documents(path))
    if frozen and frozen["documents_sha256"] != documents_hash(documents):
        print(
            f"smt: the documents in {path} are not those that {questions} was made of; what has changed may be asked "
            "about in vain",
            file=sys.stderr,
        )
    return documents, read_questions(questions, documents)


def _check_frozen(questions: Path) -> dict[str, Any] | None:
    """Return the manifest of frozen questions that are as they were; None of questions without one."""
    manifest = frozen_manifest(questions)
    if not manifest.is_file():
        return None
    frozen = read_json(manifest, "smt questions", "sha256")
    if hashlib.sha256(questions.read_bytes()).hexdigest() != frozen["sha256"]:
        raise BadInput(
            f"{questions} has changed since `smt questions` froze it; put the old one back, or remove {manifest} "
            "to say that it is another evaluation set."
        )
    return frozen


def _refuse_zip(folder: Path, names: Iterable[str]) -> None:
    """Say how to unpack a ZIP file, given itself or lying in the folder, that holds files of these names."""
    for path in [folder] if folder.suffix == ".zip" else sorted(folder.glob("*.zip")):
        try:
            with ZipFile(path) as packed:
                found = {PurePosixPath(name).name for name in packed.namelist()}
        except (OSError, BadZipFile) as error:
            raise BadInput(f"{path} cannot be read as a ZIP file ({error}); fetch it anew or take it away.") from None
        if found & set(names):
            place = path.parent
            raise BadInput(
                f"{path} is packed; unpack it with: unzip -j {path} -d {place}; and name the folder {place}."
            )


def _is_ours(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("documents.jsonl", "questions.jsonl"))


def _wanted(benchmark: str) -> str:
    ours = "documents.jsonl and questions.jsonl"
    if benchmark == "corpus":
        return f"questions.jsonl beside your .txt or .md files, or {ours},"
    if benchmark not in OFFICIAL:
        return ours
    official = OFFICIAL[benchmark]
    return f"{' and '.join(official.files)} (from {official.source.partition(',')[0]}), or {ours},"


@dataclass(frozen=True, slots=True)
class Check:
    """What a benchmark's files hold, and what is off.

    Attributes:
        facts: lines for the reader: counts, source, licence, which checksums were compared.
        problems: what differs from the whole official benchmark, one sentence each.
    """

    documents: list[Document]
    questions: list[Question]
    facts: list[str]
    problems: list[str]


def check(benchmark: str, folder: Path | None = None) -> Check:
    """Read a benchmark's files and compare counts and checksums with those of the official release.

    Raises:
        BadInput: as `load`.
    """
    folder = find_folder(benchmark, folder)
    documents, questions = _read(benchmark, folder)
    facts = [f"{len(questions):,} questions about {len(documents):,} documents in {folder or 'memory'}"]
    problems: list[str] = []
    official = OFFICIAL.get(benchmark)
    place = official.folder_in(folder) if official and folder and not _is_ours(folder) else None
    if official is None or place is None:
        if official is not None:
            facts.append(f"not {benchmark}'s official files: scores compare with no published ones")
        return Check(documents, questions, facts, problems)
    facts += [f"source: {official.source}", f"licence: {official.licence}"]
    if problem := official.count_problem(documents, questions):
        problems.append(f"{benchmark}: {problem}; fetch the files anew.")
    for name, known in official.files.items():
        found = blob_id(place / name)
        if known is None:
            facts.append(f"{name}: checksum not compared, we know none; its git blob id is {found}")
        elif found == known:
            facts.append(f"{name}: checksum right")
        else:
            problems.append(f"{place / name} differs from the official file (git blob id {found}, not {known}).")
    if benchmark == "financebench" and documents and documents[0].meta["pages"] == "evidence only":
        facts.append(
            "no folder pdfs/: the documents are made of the questions' evidence pages alone, which is far easier "
            "than the whole filings; scores compare with no published ones"
        )
    return Check(documents, questions, facts, problems)
