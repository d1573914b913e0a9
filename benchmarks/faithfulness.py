"""How many injected errors does the free check of records find, and how many true records does it name?

    python benchmarks/faithfulness.py [--missed] [--alarms]
    python benchmarks/faithfulness.py --questions FOLDER   (a benchmark's questions with their right answers as records)
    python benchmarks/faithfulness.py --speed 2000

Records that say nothing but what their documents say:

- of the microworld, by the scripted generator at strength 1, which makes no mistakes;
- `benchmarks/faithfulness.yaml`: invented documents in 17 languages with true records about each. The rules were
  made with some of them in sight; they are counted apart from the others;
- `benchmarks/leaks/`: rewrites and answers about six invented documents, written for another purpose.

Into each, one error at a time is put by code that shares nothing with the check: another number in the place of one,
another date, another name, another word in a quoted passage, that the document lacks. A record counts as found if the
check names something of the kind that was put in, where it was put in.
"""

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from smt_plugin.backends.base import Request
from smt_plugin.corpus import Document, read_documents
from smt_plugin.faithfulness.check import DATE, NAME, NUMBER, QUOTATION, Source
from smt_plugin.faithfulness.injected import number_places, other_number
from smt_plugin.files import read_jsonl
from smt_plugin.microworld.scripted import ScriptedBackend
from smt_plugin.microworld.words import PERSON_NAMES, STYLES
from smt_plugin.microworld.world import documents as microworld_documents
from smt_plugin.prompts import Prompts
from smt_plugin.question import read_questions

HERE = Path(__file__).parent
ERRORS = 4  # of a kind that are put into one record, each alone
KINDS = (NUMBER, DATE, NAME, QUOTATION)


@dataclass(frozen=True)
class Sample:
    """A true record (its turns) about a document; `names` stand in it, `others` may take their places."""

    set: str
    document: Document
    turns: tuple[str, ...]
    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass
class Count:
    clean: int = 0
    alarms: Counter[str] = field(default_factory=Counter)
    put: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)


def own_samples() -> Iterator[Sample]:
    for entry in yaml.safe_load((HERE / "faithfulness.yaml").read_text(encoding="utf-8")):
        document = Document(entry["title"], entry["title"], entry["text"])
        for record in entry["records"]:
            turns = (record,) if isinstance(record, str) else tuple(record)
            yield Sample(f"own texts, {entry['set']}", document, turns, tuple(entry["names"]), tuple(entry["others"]))


def leak_samples() -> Iterator[Sample]:
    found = {document.id: document for document in read_documents(HERE / "leaks")}
    for _, row in read_jsonl(HERE / "leaks" / "records.jsonl"):
        if row["leaks"] is None and row["doc_id"] in found and row["form"] == "clean":
            turns = (row["text"],) if row.get("text") else tuple(turn["content"] for turn in row["messages"])
            yield Sample("benchmarks/leaks", found[row["doc_id"]], turns)


def question_samples(folder: Path) -> Iterator[Sample]:
    found = {document.id: document for document in read_documents(folder)}
    for question in read_questions(folder / "questions.jsonl", found.values()):
        answer = question.options[question.answer] if question.options else question.answer  # type: ignore[index]
        yield Sample(folder.name, found[question.doc_id], (question.question, str(answer)))


def microworld_samples(per_document: int) -> Iterator[Sample]:
    backend, prompts = ScriptedBackend(1.0), Prompts()
    found = microworld_documents(7)
    others = tuple(random.Random(1).sample(PERSON_NAMES, 40))

    def ask(name: str, document: Document, sample: int, **variables: object) -> str:
        messages = prompts.messages(name, identity=document.identity, document=document.text, **variables)
        request = Request(messages, {}, sample, None, "", prompt=name, variables=variables)
        return asyncio.run(backend.complete(request)).text

    for document in found:
        names = tuple(sorted(set(re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+", document.text))))
        names = tuple(name for name in names if name in PERSON_NAMES)
        absent = tuple(name for name in others if not set(name.split()) & set(document.text.split()))
        for sample in range(per_document):
            pairs = json.loads(ask("synthetic_qa/pairs", document, sample, num_pairs=2))["pairs"]
            strategy = f"{STYLES[sample % len(STYLES)].heading}: tell it."
            texts = [
                (ask("active_reading/apply", document, sample, strategy=strategy),),
                *((pair["question"], pair["answer"]) for pair in pairs),
            ]
            for turns in texts:
                yield Sample("microworld", document, turns, names, absent)


def with_error(sample: Sample, kind: str, draw: random.Random) -> tuple[tuple[str, ...], int, int, int] | None:
    """The record with one error in it, the turn and the place; None where it has nothing of the kind."""
    places = [
        (turn, match.start(), match.end())
        for turn, text in enumerate(sample.turns)
        for match in _places(sample, kind, text)
    ]
    if not places:
        return None
    turn, start, end = draw.choice(places)
    text = sample.turns[turn]
    new = _other(sample, kind, text[start:end], draw)
    if new is None:
        return None
    turns = list(sample.turns)
    turns[turn] = text[:start] + new + text[end:]
    return tuple(turns), turn, start, start + len(new)


_MONTHS = "January February March April May June July August September October November December".split()
_DATES = re.compile(
    rf"(?<=\d )(?:{'|'.join(_MONTHS)})\b|\b(?:{'|'.join(_MONTHS)})(?= \d)|(?<=\d[年년])\s?\d{{1,2}}(?=[月월])"
    r"|(?:(?<= \d\. )|(?<= \d\d\. ))(?:August|November)\b"
    r"|(?<=\d )(?:février|octobre|июля|октября|julio|aprile|febbraio|februari|juni|maja|dezembro|Şubat|मार्च|अगस्त)\b"
    r"|(?<=\bde )(?:julio|dezembro)\b"
)
_QUOTES = re.compile('[“„«「"]([^“”„«»「」"]{12,})[”“»」"]')


def _places(sample: Sample, kind: str, text: str) -> Iterator[re.Match[str]]:
    if kind == NUMBER:
        yield from number_places(text)
    elif kind == DATE:
        yield from _DATES.finditer(text)
    elif kind == NAME and sample.names:
        yield from re.finditer("|".join(map(re.escape, sample.names)), text)
    elif kind == QUOTATION:
        for match in _QUOTES.finditer(text):
            if match[1].casefold() in sample.document.text.casefold():
                words = list(re.finditer(r"[^\W\d_]+", text[match.start(1) : match.end(1)]))
                longest = max(words, key=lambda word: len(word[0]))
                at = match.start(1)
                yield from re.compile(re.escape(longest[0])).finditer(text, at + longest.start(), at + longest.end())


def _other(sample: Sample, kind: str, old: str, draw: random.Random) -> str | None:
    if kind == NUMBER:
        return other_number(old, sample.document.text, draw)
    if kind == DATE:
        if old.strip().isdigit():
            return str((int(old) + draw.randrange(1, 11)) % 12 + 1)
        groups = [
            _MONTHS,
            "janvier février mars avril mai juin juillet octobre".split(),
            "января марта июня июля сентября октября".split(),
            "enero marzo abril julio".split(),
            "gennaio aprile ottobre".split(),
            "januari februari juni".split(),
            "stycznia maja lipca".split(),
            "janeiro abril dezembro".split(),
            "जनवरी मार्च अगस्त".split(),
            "Ocak Şubat Mart Nisan".split(),
        ]
        group = next(group for group in groups if old in group)
        return draw.choice([month for month in group if month not in sample.document.text and month != old] or [None])  # type: ignore[list-item]
    if kind == NAME:
        if len(sample.others) == len(sample.names):
            return sample.others[sample.names.index(old)]
        return draw.choice(sample.others)
    if re.search("[\u3040-\u9fff\uac00-\ud7af]", old):
        middle = len(old) // 2
        return old[:middle] + draw.choice("船馬雪鳥") + old[middle + 1 :]
    words = re.findall(r"[^\W\d_]+", sample.document.text)
    return draw.choice([word for word in words if word.casefold() != old.casefold() and len(word) > 1])


def measure(samples: Iterator[Sample], missed: bool, alarms: bool) -> dict[str, Count]:
    counts: dict[str, Count] = defaultdict(Count)
    sources: dict[str, Source] = {}
    for number, sample in enumerate(samples):
        count, source = counts[sample.set], sources.setdefault(sample.document.id, Source(sample.document))
        checked = source.check(sample.turns)
        count.clean += 1
        count.alarms.update({"any": bool(checked.findings)} | {each.kind: 1 for each in checked.findings})
        if alarms and checked.findings:
            print("alarm:", sample.document.id, [(each.kind, each.said) for each in checked.findings], sample.turns)
        already = {(each.kind, each.said) for each in checked.findings}
        for kind in KINDS:
            for error in range(ERRORS):
                made = with_error(sample, kind, random.Random(f"{number} {kind} {error}"))
                if made is None:
                    continue
                turns, turn, start, end = made
                found = [
                    each
                    for each in source.check(turns).findings
                    if each.turn == turn
                    and each.start < end
                    and start < each.start + len(each.said)
                    and (each.kind, each.said) not in already
                ]
                count.put[kind] += 1
                count.found[kind] += bool(found)
                if missed and not found:
                    print("missed:", kind, repr(turns[turn][max(0, start - 30) : end + 20]), turns[turn][start:end])
    return counts


def speed(number: int) -> None:
    """Print what a record costs, with a long document and texts of some 700 tokens."""
    (document, *_) = [document for document in read_documents(HERE / "leaks")]
    long = Document("long", document.title, "\n".join(each.text for each in read_documents(HERE / "leaks")) * 4)
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+", long.text) if sentence]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(sentences, k=30)) for _ in range(number)]
    started = time.process_time()
    source = Source(long)
    source.check([texts[0]])
    first = time.process_time() - started
    started = time.process_time()
    for text in texts:
        source.check([text])
    each = (time.process_time() - started) / number
    size = sum(map(len, texts)) / number
    print(f"a document of {len(long.text):,} characters: {first * 1000:.1f} ms, once")
    print(f"a record of {size:,.0f} characters: {each * 1000:.3f} ms, mean of {number:,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missed", action="store_true", help="print the errors that are not found")
    parser.add_argument("--alarms", action="store_true", help="print the true records that are named")
    parser.add_argument("--questions", type=Path, help="a folder with documents.jsonl and questions.jsonl")
    parser.add_argument("--speed", type=int, help="only measure what so many records cost")
    parser.add_argument("--per-document", type=int, default=8, help="rounds about each document of the microworld")
    arguments = parser.parse_args()
    if arguments.speed:
        speed(arguments.speed)
        return
    if arguments.questions:
        samples = [*question_samples(arguments.questions)]
    else:
        samples = [*own_samples(), *leak_samples(), *microworld_samples(arguments.per_document)]
    counts = measure(iter(samples), arguments.missed, arguments.alarms)
    print(f"{'':24}{'true records named':>22}", *(f"{kind + 's found':>22}" for kind in KINDS))
    for name, count in counts.items():
        cells = [f"{count.alarms['any']} of {count.clean} ({count.alarms['any'] / count.clean:.1%})"]
        for kind in KINDS:
            put, found = count.put[kind], count.found[kind]
            cells.append(f"{found} of {put} ({found / put:.1%})" if put else "")
        print(f"{name:24}", *(f"{cell:>21}" for cell in cells))


if __name__ == "__main__":
    main()
