"""Benchmarks as documents and questions: from their official files, or from documents.jsonl + questions.jsonl."""

import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

import orjson

from smt_plugin.corpus import Document, read_documents
from smt_plugin.download import blob_id, download
from smt_plugin.errors import BadInput
from smt_plugin.jsonl import read_json, read_jsonl, write_jsonl

BENCHMARKS = ("quality", "longhealth", "financebench", "corpus", "microworld")


@dataclass(frozen=True, slots=True)
class Question:
    """One evaluation question about a document.

    `answer` is the 0-based index of the right option, or the answer itself where `options` is None.
    `meta["evidence"]` may list all places that the answer needs: ids of documents, or objects with `page`
    (from 0) and, if it is another document than `doc_id`, that `doc_id`; else it is `doc_id` alone.
    """

    question_id: str
    doc_id: str
    question: str
    options: list[str] | None
    answer: int | str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def evidence(self) -> list[str]:
        """Ids of the documents that hold the answer, each once."""
        places = self.meta.get("evidence") or [self.doc_id]
        ids = [place if isinstance(place, str) else place.get("doc_id", self.doc_id) for place in places]
        return list(dict.fromkeys(ids))

    @property
    def evidence_pages(self) -> list[tuple[str, int]]:
        """Document id and page (from 0) of each page that holds the answer; empty where that is not known."""
        places = [place for place in self.meta.get("evidence") or [] if isinstance(place, dict)]
        return list(dict.fromkeys((place.get("doc_id", self.doc_id), place["page"]) for place in places))


def cache_dir() -> Path:
    """The folder for what can be made again: `$XDG_CACHE_HOME/smt-plugin`, else `~/.cache/smt-plugin`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smt-plugin"


def load(benchmark: str, folder: Path | None = None) -> tuple[list[Document], list[Question]]:
    """Return all documents and questions of a benchmark; where its files are looked for, `find_folder` says.

    The microworld needs no files: without any it is made on the spot.

    Raises:
        BadInput: unknown benchmark, no files, or a file that is not what it should be.
    """
    from smt_plugin.official_files import OFFICIAL

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
    from smt_plugin.official_files import OFFICIAL

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
        return documents, _checked(((row, "microworld") for row in world.questions()), documents)
    if benchmark == "corpus":
        return _own_corpus(folder)
    if _is_ours(folder):
        documents = list(read_documents(folder / "documents.jsonl"))
        return documents, read_questions(folder / "questions.jsonl", documents)
    from smt_plugin.official_files import OFFICIAL

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


def questions_file(corpus: Path) -> Path:
    """The questions about a corpus: in its folder, or beside its file."""
    return (corpus if corpus.is_dir() else corpus.parent) / "questions.jsonl"


def frozen_manifest(questions: Path) -> Path:
    """The file that `smt questions` writes beside its questions, and that says with which hash they are frozen."""
    return questions.with_name("questions.manifest.json")


def documents_hash(documents: Iterable[Document]) -> str:
    """The hash by which `smt questions` remembers the documents that it asked about."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(orjson.dumps([document.id, document.identity, document.text]))
    return digest.hexdigest()


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
    from smt_plugin.official_files import OFFICIAL

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
    from smt_plugin.official_files import OFFICIAL

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


def write_data(folder: Path, documents: Iterable[Document], questions: Iterable[Question]) -> None:
    """Write `documents.jsonl` and `questions.jsonl`, which `corpus:` of a run file and every task read."""
    write_jsonl(folder / "documents.jsonl", (document.to_json() for document in documents))
    write_jsonl(folder / "questions.jsonl", (asdict(question) for question in questions))


def read_questions(path: Path, documents: Iterable[Document]) -> list[Question]:
    """Read `questions.jsonl`: question_id, doc_id, question, options (list or null), answer, meta.

    Raises:
        BadInput: a field missing or of the wrong kind, an answer out of range, an id given twice, a
            document that `documents` lacks, or no questions at all; names file, line and field.
    """
    questions = _checked(((row, f"{path}, line {number}") for number, row in read_jsonl(path)), documents)
    if not questions:
        raise BadInput(f"{path} holds no questions; give one JSON object a line.")
    return questions


def _checked(rows: Iterable[tuple[dict[str, Any], str]], documents: Iterable[Document]) -> list[Question]:
    known = {document.id for document in documents}
    return unique((_question(row, known, where), where) for row, where in rows)


def _question(row: dict[str, Any], known: set[str], where: str) -> Question:
    for name in ("question_id", "doc_id", "question"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise BadInput(f"{where}: the field {name!r} is missing, empty or not a string.")
    options: list[str] | None = None
    answer: Any = row.get("answer")
    meta: Any = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise BadInput(f"{where}: the field 'meta' must be an object.")
    if row.get("options") is None:
        if not isinstance(answer, str) or not answer.strip():
            raise BadInput(f"{where}: a question without options needs a string as 'answer', not {answer!r}.")
    else:
        options = options_of(row["options"], where)
        if not is_index(answer, len(options)):
            raise BadInput(
                f"{where}: 'answer' is {answer!r}, but must be the number of the right option, "
                f"from 0 to {len(options) - 1}."
            )
        right = options[answer].strip()
        if [option.strip() for option in options].count(right) > 1:
            raise BadInput(f"{where}: the right option {right[:80]!r} is given twice; options must differ.")
    _check_evidence(meta.get("evidence"), where)
    question = Question(row["question_id"], row["doc_id"], row["question"], options, answer, meta)
    for doc_id in (question.doc_id, *question.evidence):
        if doc_id not in known:
            raise BadInput(f"{where}: question {question.question_id!r} is about the unknown document {doc_id!r}.")
    return question


def _check_evidence(places: Any, where: str) -> None:
    if places is not None and not (
        isinstance(places, list)
        and all(
            isinstance(place, str)
            or (
                isinstance(place, dict)
                and is_index(place.get("page"), 10**9)
                and isinstance(place.get("doc_id", ""), str)
            )
            for place in places
        )
    ):
        raise BadInput(f"{where}: 'meta.evidence' must be a list of document ids, or of objects with 'page', from 0.")


def options_of(options: Any, where: str) -> list[str]:
    """Return the options if they are 2 to 26 texts; `where` names their place in the error."""
    if (
        not isinstance(options, list)
        or not 2 <= len(options) <= 26
        or not all(isinstance(option, str) and option.strip() for option in options)
    ):
        raise BadInput(f"{where}: 'options' must be null or a list of 2 to 26 texts.")
    return options


def is_index(value: Any, length: int) -> bool:
    """Whether a value is an integer from 0 to below `length`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < length


def unique(questions: Iterable[tuple[Question, str]]) -> list[Question]:
    """Return the questions without their places, which an id given twice is reported with."""
    seen: dict[str, Question] = {}
    for question, where in questions:
        if question.question_id in seen:
            raise BadInput(f"{where}: the question id {question.question_id!r} is given twice; ids must differ.")
        seen[question.question_id] = question
    return list(seen.values())
