"""The gate: a reply that says what its document does not is asked again with the finding, then rejected.

What it objects to are findings of the check by code, of the kinds that are asked for, and what a judge calls wrong.

It works on any method, since a round may be played again with other answers: what was asked is known, and nothing is
asked twice. A round of the same answers ends the same each time, so a run is resumed through the gate, too.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from smt_plugin.backends.base import together
from smt_plugin.config import JudgeSection, RunFile
from smt_plugin.corpus import Document
from smt_plugin.faithfulness.check import KINDS, Finding, Source, turns_of
from smt_plugin.faithfulness.claims import claims_of
from smt_plugin.faithfulness.verdicts import JUDGE, WRONG, check_unread, judge_claims, judge_of
from smt_plugin.files import content_hash, reading
from smt_plugin.generation.asker import AGAIN, Asker
from smt_plugin.methods.base import Answer, Ask, Complete, Method
from smt_plugin.records import Record
from smt_plugin.rejects import GATE, OPEN, Verdict, read_verdicts

Objections = dict[str, list[Finding]]
"""Key of a completion -> what is wrong with its records."""
_UNREAD = "times that the judge said nothing on some claim of a record, which passed"


def gate_of(run_file: RunFile) -> list[str]:
    """Return what a run's gate is made of: kinds of findings, and the judge by its model."""
    return [f"{JUDGE} {judge_of(run_file).model}" if kind == JUDGE else kind for kind in run_file.gate]


@dataclass(slots=True)
class ClaimJudge:
    """Asks a judge about the claims of records.

    Attributes:
        judged, unread: records that it was asked about, and those of them on some claim of which it said nothing.
    """

    settings: JudgeSection
    asker: Asker
    judged: int = 0
    unread: int = 0

    async def findings(self, record: Record, part: Document) -> list[Finding]:
        """Return what of a record the judge calls wrong, and why; claims without a verdict pass.

        Raises:
            RuntimeError: over a fifth of the records so far lack verdicts.
        """
        claims = claims_of(record.text, record.messages)
        verdicts = await judge_claims(claims, part, self.settings, self.asker.ask)
        self.judged += 1
        if len(verdicts) < len(claims):
            self.unread += 1
            self.asker.summary.losses[_UNREAD] = self.unread
        self.check()
        return [
            Finding(JUDGE, f"{claims[number - 1]} ({found.verdict.replace('_', ' ')}: {found.why})", 0, 0)
            for number, found in sorted(verdicts.items())
            if found.verdict in WRONG
        ]

    def check(self, is_all: bool = False) -> None:
        """Raise RuntimeError where too many records lack verdicts; of the first few the share says nothing yet."""
        check_unread(self.unread, self.judged, self.settings.model, self.asker.summary.failures, is_all)


@dataclass(frozen=True, slots=True)
class Gate:
    """What does not pass: some kinds of findings, and what a judge calls wrong, where there is one."""

    kinds: Collection[str]
    judge: ClaimJudge | None = None

    async def findings(self, record: Record, part: Document, source: Source) -> list[Finding]:
        """Return what is wrong with a record; the judge is asked only where the check by code objects to nothing."""
        found = source.check(turns_of(record.text, record.messages)).findings
        found = [finding for finding in found if finding.kind in self.kinds]
        return found or (await self.judge.findings(record, part) if self.judge else [])


@dataclass(slots=True)
class Round:
    """A method's round behind the gate.

    Attributes:
        rejected: id of a record -> the kinds of its findings.
        is_stored: whether no answer had to be waited for.
        asked, repaired: kind -> replies that were asked again for it, and those of them that were replaced.
    """

    records: list[Record]
    rejected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    is_stored: bool = False

    @property
    def passed(self) -> list[Record]:
        """The records that are not rejected."""
        return [record for record in self.records if record.id not in self.rejected]


async def gated_round(
    part: Document,
    source: Source,
    method: Method,
    r: int,
    complete: Complete,
    reply_of: Callable[[str], Awaitable[str]],
    gate: Gate,
) -> Round:
    """Play a method's round, ask again for each reply with a finding, and take the new one if more of it passes.

    A reply of several records, such as question-answer pairs, is asked for as a whole. What of the better reply still
    has a finding is rejected.

    Args:
        source: the text that the part's records are compared with.
        reply_of: the text of a completion, by its key.
    """
    asks: dict[str, Ask] = {}
    answers: dict[str, Answer | None] = {}
    found_in: dict[str, list[Finding]] = {}

    async def looked_at(records: list[Record]) -> tuple[Objections, Counter[str]]:
        """The findings by completion, and how many of each completion's records pass."""
        new = [record for record in records if record.id not in found_in]
        told = await together(gate.findings(record, part, source) for record in new)
        found_in.update(zip((record.id for record in new), told, strict=True))
        objections: Objections = defaultdict(list)
        passed: Counter[str] = Counter()
        for record in records:
            if findings := found_in[record.id]:
                objections[record.completions[0]] += findings
            else:
                passed[record.completions[0]] += 1
        return dict(objections), passed

    async def once(ask: Ask) -> Answer | None:
        place = content_hash([ask.prompt, ask.variables, ask.sampling, ask.sample, ask.has_system])
        if place not in answers:
            answers[place] = await complete(ask)
        answer = answers[place]
        if answer is not None:
            asks[answer.key] = ask
        return answer

    async def played_with(others: dict[str, Answer]) -> list[Record]:
        async def answered(ask: Ask) -> Answer | None:
            answer = await once(ask)
            return others.get(answer.key, answer) if answer is not None else None

        return await method.round(part, r, answered)

    async def again(key: str, findings: list[Finding]) -> tuple[str, Answer | None]:
        said = list(dict.fromkeys(map(_objection, findings)))
        objection = {AGAIN: {"reply": await reply_of(key), "said": said}}
        return key, await complete(replace(asks[key], variables={**asks[key].variables, **objection}))

    records = await played_with({})
    objections, passed = await looked_at(records)
    if not objections:
        return Round(records)
    # Whatever of another round's a method may have kept is not asked again.
    known = ((key, findings) for key, findings in objections.items() if key in asks)
    replies = {key: answer for key, answer in await asyncio.gather(*(again(*each) for each in known)) if answer}
    _, passed_then = await looked_at(await played_with(replies))
    taken = {key: answer for key, answer in replies.items() if passed_then[answer.key] > passed[key]}
    found = Round(await played_with(taken))
    await looked_at(found.records)
    for record in found.records:
        if findings := found_in[record.id]:
            found.rejected[record.id] = _kinds_of(findings)
    for key in objections.keys() & asks.keys():
        found.asked.update(_kinds_of(objections[key]))
        if key in taken:
            found.repaired.update(_kinds_of(objections[key]))
    return found


def _objection(finding: Finding) -> str:
    return finding.said if finding.kind == JUDGE else f"{finding.kind}: {finding.said}"


def _kinds_of(findings: list[Finding]) -> tuple[str, ...]:
    said = {finding.kind for finding in findings}
    return tuple(kind for kind in (*KINDS, JUDGE) if kind in said)


def _reason(kinds: Collection[str]) -> str:
    if JUDGE in kinds:
        return "the judge calls a claim wrong"
    return f"the document lacks {' and '.join(f'a {kind}' for kind in kinds)}"


class _Id(msgspec.Struct, gc=False):
    """Of a record."""

    id: str


def changed_verdicts(run: Path, method: str, records: Path, rejected: dict[str, tuple[str, ...]]) -> list[Verdict]:
    """Return what the gate has to say anew about a method's records that are about to take the place of a file's.

    Args:
        records: the file, whose records were rejected before and are not any more.
        rejected: id of a record -> the kinds of its findings.
    """
    before = {name: verdict for name, verdict in read_verdicts(run, GATE).items() if verdict.method == method}
    news = [Verdict(name, method, by=GATE, reason=_reason(found)) for name, found in rejected.items()]
    changed = [verdict for verdict in news if before.get(verdict.id) != verdict]
    if before and records.is_file():
        with reading(records) as file:
            ids = (msgspec.json.decode(line, type=_Id).id for line in file)
            gone = [name for name in ids if name in before and name not in rejected]
        changed += [Verdict(name, method, OPEN, GATE) for name in gone]
    return changed
