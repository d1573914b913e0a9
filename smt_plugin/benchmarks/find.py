"""Benchmarks as documents and questions: from their official files, or from documents.jsonl + questions.jsonl."""

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import ModuleType
from zipfile import BadZipFile, ZipFile

from smt_plugin.benchmarks import corpus, names
from smt_plugin.benchmarks.download import blob_id, download
from smt_plugin.benchmarks.official import Data, Official
from smt_plugin.corpus import Document
from smt_plugin.errors import BadInput
from smt_plugin.files import cache_dir, reading
from smt_plugin.question import Question


def load(benchmark: str, folder: Path | None = None) -> Data:
    """Return all documents and questions of a benchmark.

    Its files are looked for in `folder`, else in the folder that the environment variable `SMT_<BENCHMARK>_DIR` names,
    else in `<cache>/smt-plugin/<benchmark>`, into which the official files are downloaded if they are not there; source
    and licence are then said on standard error. The microworld needs no files: without any it is made on the spot.

    Raises:
        BadInput: unknown benchmark, no files and no download of them, or a file that is not what it should be.
    """
    folder = _folder_of(benchmark, folder)
    documents, questions = _read(benchmark, folder)
    official = official_of(benchmark)
    if official and folder and not _is_ours(folder) and (problem := official.count_problem(documents, questions)):
        print(f"smt: {benchmark}'s files in {folder} are not whole: {problem}; fetch them anew", file=sys.stderr)
    return documents, questions


def official_of(benchmark: str) -> Official | None:
    """Return what is known of a benchmark's official files; None where it has none, or is no benchmark of ours."""
    return getattr(_module_of(benchmark), "OFFICIAL", None) if benchmark in names() else None


def _module_of(benchmark: str) -> ModuleType:
    if benchmark not in names():
        raise BadInput(f"unknown benchmark {benchmark!r}; choose one of: {', '.join(names())}.")
    return import_module(f"smt_plugin.benchmarks.{benchmark}")


def _folder_of(benchmark: str, folder: Path | None) -> Path | None:
    """The folder of a benchmark's files; None where there is none and the benchmark is made without."""
    module, official = _module_of(benchmark), official_of(benchmark)
    variable = f"SMT_{benchmark.upper()}_DIR"
    if folder is not None or os.environ.get(variable):
        return folder or Path(os.environ[variable])
    cached = cache_dir() / benchmark
    if official:
        if not _is_ours(cached) and not official.is_whole_in(cached):
            _fetch(benchmark, official, cached)
    elif not cached.is_dir():
        if hasattr(module, "make"):
            return None
        raise BadInput(_where_to_put(benchmark, cached))
    return cached


def _fetch(benchmark: str, official: Official, cached: Path) -> None:
    _refuse_zip(cached, official.files)
    origin = f"{official.source} into {cached}; licence: {official.licence}"
    print(f"smt: fetching {benchmark} from {origin}", file=sys.stderr)
    try:
        download(official.address, official.downloads, cached)
    except BadInput as error:
        raise BadInput(f"{error}; {_where_to_put(benchmark, cached)}") from None
    documents, questions = _module_of(benchmark).read(official.folder_in(cached) or cached)
    if problem := official.count_problem(documents, questions):
        for path in official.downloads:
            (cached / path).unlink(missing_ok=True)
        raise BadInput(
            f"what {official.address} gave was thrown away, since {problem}; " + _where_to_put(benchmark, cached)
        )
    unknown = [path for path, blob in official.downloads.items() if blob is None]
    if unknown:
        print(f"smt: no checksum of {', '.join(unknown)} is known to us; its counts are right", file=sys.stderr)


def _where_to_put(benchmark: str, cached: Path) -> str:
    return (
        f"no {benchmark} data: put {_wanted(benchmark)} into {cached}, or name their folder: evaluate.data of a run "
        f'file, --data of `smt benchmark` and `smt retrieve`, --metadata \'{{"data": "/path/to/folder"}}\' of '
        f"lm_eval, or the environment variable SMT_{benchmark.upper()}_DIR."
    )


def _wanted(benchmark: str) -> str:
    """What to put into a benchmark's folder."""
    if official := official_of(benchmark):
        own = f"{' and '.join(official.files)} (from {official.source.partition(',')[0]})"
    else:
        own = getattr(_module_of(benchmark), "WANTED", "")
    ours = "documents.jsonl and questions.jsonl"
    return f"{own}, or {ours}," if own else ours


def _read(benchmark: str, folder: Path | None) -> Data:
    module, official = _module_of(benchmark), official_of(benchmark)
    data: Data
    if folder is None:
        data = module.make()
    elif _is_ours(folder):
        data = corpus.read(folder)
    elif hasattr(module, "read") and (place := official.folder_in(folder) if official else folder):
        data = module.read(place)
        if official and not data[1]:
            raise BadInput(f"{place} holds no questions; fetch {' and '.join(official.files)} anew.")
    else:
        if official:
            _refuse_zip(folder, official.files)
        others = [name for name in names() if (known := official_of(name)) and known.folder_in(folder)]
        holds = f"holds {others[0]}'s files, not {benchmark}'s" if others else f"does not hold the {benchmark} data"
        raise BadInput(f"{folder} {holds}; put {_wanted(benchmark)} there, or name their own folder.")
    return data


def held_out(documents: Iterable[Document]) -> list[str]:
    """Ids of the documents that retrieval is tuned on: the first fifth by title, as in EntiGraph (arXiv 2409.07431)."""
    ids = [document.id for document in sorted(documents, key=lambda document: (document.title, document.id))]
    return ids[: max(1, len(ids) // 5)]


def _refuse_zip(folder: Path, files: Iterable[str]) -> None:
    """Say how to unpack a ZIP file, given itself or lying in the folder, that holds files of these names."""
    for path in [folder] if folder.suffix == ".zip" else sorted(folder.glob("*.zip")):
        try:
            with reading(path, "fetch it anew or take it away") as file, ZipFile(file) as packed:
                found = {PurePosixPath(name).name for name in packed.namelist()}
        # A ZIP file of a later version, or with names in no known code.
        except (BadZipFile, NotImplementedError, ValueError) as error:
            raise BadInput(f"{path} cannot be read as a ZIP file ({error}); fetch it anew or take it away.") from None
        if found & set(files):
            place = path.parent
            command = shlex.join(["unzip", "-j", str(path), "-d", str(place)])
            raise BadInput(f"{path} is packed; unpack it with: {command}; and name the folder {place}.")


def _is_ours(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("documents.jsonl", "questions.jsonl"))


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
    folder = _folder_of(benchmark, folder)
    documents, questions = _read(benchmark, folder)
    facts = [f"{len(questions):,} questions about {len(documents):,} documents in {folder or 'memory'}"]
    problems: list[str] = []
    official = official_of(benchmark)
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
    if remark := official.remark(documents):
        facts.append(remark)
    return Check(documents, questions, facts, problems)
