"""Write `answers.html`: every question with the answers of all arms side by side, for people who look.

One file that loads nothing. Its head holds an index (documents, and of each question how each arm did), its end the
texts, in blocks of a few questions, packed: the page opens the few that it shows. So a page of 200,000 answers can be
written with little memory, and opened.
"""

import base64
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import msgspec
import orjson
from jinja2 import Environment, FileSystemLoader

from smt_plugin.evaluation.arm_results import Reading, Sample, samples_file
from smt_plugin.evaluation.tune import tuned_on
from smt_plugin.files import write_text
from smt_plugin.progress import Progress
from smt_plugin.report.results import REFERENCE, ArmResult, RunResults, beside

QUESTIONS_A_BLOCK = 16
# Characters of an answer that are shown, the last three quarters of them from its end, where it states something.
MOST_CHARACTERS, LEAST_CHARACTERS = 4000, 400
_CHARACTERS_OF_ALL = 80_000_000  # our choice: packed some 30 MB, which browsers open in a second
_LONGEST_READ = 200  # characters of a free-form answer as it was read, which stands in its text, too


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice of questions, offered with their number.

    Attributes:
        wanted: arm -> right, wrong or unread, all of which must hold.
    """

    name: str
    wanted: dict[str, str]


@dataclass(slots=True)
class DocumentRow:
    """One document of the table.

    Attributes:
        place: among the documents of the index.
        questions: how many are about it.
        unread: answers to these of which nothing could be read, of all arms.
        sums, counts: by arm, over the questions that it was asked.
    """

    place: int
    doc_id: str
    identity: str
    questions: int = 0
    unread: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def accuracy(self, arm: str) -> float | None:
        """Mean over the document's questions of the mean over the samples, 0 to 1; None without any."""
        return self.sums[arm] / self.counts[arm] if self.counts[arm] else None


def states(acc: float, unread: int) -> list[str]:
    """How an arm did at a question: right where more than half of its answers are, else wrong; unread, if any is."""
    return ["right" if acc > 0.5 else "wrong", *(["unread"] if unread else [])]


def matches(wanted: dict[str, str], found: dict[str, list[str]]) -> bool:
    """Whether a question is of a filter's choice, by what `states` says of each arm that answered it."""
    return all(state in found.get(arm, ()) for arm, state in wanted.items())


def filters(arms: Sequence[ArmResult]) -> list[Filter]:
    """Return the choices that people ask for first: where does training win over base + RAG, where does it lose?"""
    names = {arm.arm: arm.name for arm in arms}
    found = []
    for arm in arms:
        reference = beside(arm.arm, REFERENCE)
        if arm.is_trained and reference in names:
            rag = names[reference]
            found += [
                Filter(f"{rag} right, {arm.name} wrong", {reference: "right", arm.arm: "wrong"}),
                Filter(f"{arm.name} right, {rag} wrong", {reference: "wrong", arm.arm: "right"}),
            ]
    alike = [Filter(f"all arms {state}", dict.fromkeys(names, state)) for state in ("wrong", "right")]
    return [*found, *alike]


def shortened(text: str, longest: int) -> dict[str, Any]:
    """Return a text as `text`, and, where it is longer than that, the number of characters `left_out` and the `end`."""
    if len(text) <= longest:
        return {"text": text}
    begin = longest // 4
    return {"text": text[:begin], "left_out": len(text) - longest, "end": text[begin - longest :]}


def write_answers(results: RunResults) -> Path:
    """Write `answers.html` into the run folder and return its path; documents that retrieval was tuned on are left out.

    Raises:
        BadInput: as `read_arm`.
    """
    arms = [result for result in results.arms if result.accuracy is not None]
    samples = {arm.arm: Samples(samples_file(results.run / "results" / arm.arm)) for arm in arms}
    left_out = tuned_on(results.run)
    ids = [name for name, doc_id in _questions(samples.values()).items() if doc_id not in left_out]
    answers = sum(len(ids) * (arm.n or 1) for arm in arms)
    longest = max(LEAST_CHARACTERS, min(MOST_CHARACTERS, _CHARACTERS_OF_ALL // max(1, answers)))
    page = _Page(arms, samples, ids, longest)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.trim_blocks = environment.lstrip_blocks = True
    path = results.run / "answers.html"
    missing = [result.name for result in results.arms if result.accuracy is None]
    write_text(
        path,
        environment.get_template("answers.html.jinja").generate(page=page, run=results.run.name, missing=missing),
    )
    return path


class Samples:
    """The samples of one file of lm-eval, which `read_arm` has checked, by question.

    They are read one at a time, since all of them could fill the memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        self.documents: dict[str, str] = {}
        place = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    doc = msgspec.json.decode(line, type=Sample).doc
                    self._places[doc.question_id] = place
                    self.documents[doc.question_id] = doc.doc_id
                place += len(line)

    def get(self, question_id: str) -> Sample | None:
        """The sample of a question; None where it was not asked."""
        if question_id not in self._places:
            return None
        with self._path.open("rb") as file:
            file.seek(self._places[question_id])
            return msgspec.json.decode(file.readline(), type=Sample)


def _questions(samples: Iterable[Samples]) -> dict[str, str]:
    """All questions that any arm was asked, in order, with the ids of their documents."""
    found: dict[str, str] = {}
    for each in samples:
        found |= each.documents
    return found


class _Page:
    """What the template shows: first `blocks`, which reads all samples, then what was learned on the way."""

    def __init__(self, arms: list[ArmResult], samples: dict[str, Samples], ids: list[str], longest: int) -> None:
        self.arms, self.longest, self.ids = arms, longest, ids
        self._samples = samples
        self._documents: dict[str, DocumentRow] = {}
        self._index: list[list[Any]] = []
        self._filters = filters(arms)
        self._counts = [0] * len(self._filters)

    def blocks(self) -> Iterator[str]:
        """Yield the texts of every few questions: JSON, packed by gzip, in base64, in which nothing is markup."""
        with Progress("questions written", len(self.ids)) as progress:
            for start in range(0, len(self.ids), QUESTIONS_A_BLOCK):
                block = [self._question(name) for name in self.ids[start : start + QUESTIONS_A_BLOCK]]
                progress.at(start + len(block))
                yield base64.b64encode(gzip.compress(orjson.dumps(block), mtime=0)).decode()

    @property
    def index(self) -> dict[str, Any]:
        """For the script: arms, documents, and of each question its document, states by arm, and unread answers."""
        return {
            "arms": [{"arm": arm.arm, "name": arm.name} for arm in self.arms],
            "documents": [[row.doc_id, row.identity] for row in self._documents.values()],
            "questions": self._index,
            "block": QUESTIONS_A_BLOCK,
        }

    @property
    def filters(self) -> list[tuple[Filter, int]]:
        """The offered filters that choose something, with the number of questions."""
        return [(each, count) for each, count in zip(self._filters, self._counts, strict=True) if count]

    @property
    def documents(self) -> list[DocumentRow]:
        """The rows of the documents' table, by identity."""
        return sorted(self._documents.values(), key=lambda row: row.identity)

    def _question(self, question_id: str) -> dict[str, Any]:
        """The texts of a question, for a block; what the index and the documents' table need of it is kept."""
        found = {arm.arm: sample for arm in self.arms if (sample := self._samples[arm.arm].get(question_id))}
        doc = next(iter(found.values())).doc
        row = DocumentRow(len(self._documents), doc.doc_id, doc.identity or doc.doc_id)
        document = self._documents.setdefault(doc.doc_id, row)
        answers = {arm: _answers(sample, self.longest) for arm, sample in found.items()}
        unread = {arm: round(sample.unparsed * len(answers[arm])) for arm, sample in found.items()}
        state = {arm: states(sample.acc, unread[arm]) for arm, sample in found.items()}
        document.questions += 1
        document.unread += sum(unread.values())
        for arm, sample in found.items():
            document.sums[arm] += sample.acc
            document.counts[arm] += 1
        for number, each in enumerate(self._filters):
            self._counts[number] += matches(each.wanted, state)
        self._index.append([document.place, [state.get(arm.arm, []) for arm in self.arms], sum(unread.values())])
        return {
            "id": question_id,
            "question": doc.question,
            "options": doc.options,
            "answer": doc.answer,
            "gold": doc.gold,
            "answers": [answers.get(arm.arm) for arm in self.arms],
        }


def _answers(sample: Sample, longest: int) -> list[dict[str, Any]]:
    """An arm's answers to a question, each with what was read in it; by likelihood, the likeliest option."""
    if (best := sample.likeliest) is not None:
        state = "right" if best == sample.doc.answer else "wrong"
        return [{"text": (sample.doc.options or [])[best], "state": state, "read": ascii_uppercase[best]}]
    unknown: Reading = {"read": None, "state": "unknown"}
    readings = chain(sample.doc.readings or (), repeat(unknown))
    return [
        shortened(text, longest) | {"state": reading["state"], "read": (reading["read"] or "")[:_LONGEST_READ] or None}
        for text, reading in zip(sample.answers, readings, strict=False)
    ]
