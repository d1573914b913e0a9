"""What an audit found, as estimates with their intervals: of the records, of the judge itself, and against labels."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from smt_plugin.corpus import estimate_tokens
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.audit import COPIED, INJECTED, Judged
from smt_plugin.evaluation.audit_sample import Drawn, record_hashes
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.faithfulness.injected import KINDS
from smt_plugin.faithfulness.verdicts import NO_CLAIM, PROMPT, SUPPORTED, VERDICTS, WRONG
from smt_plugin.files import Text, locked, read_json_if_there, read_rows, write_json, write_jsonl
from smt_plugin.prompts import Prompts

ANY = "any"


@dataclass(slots=True)
class MethodAudit:
    """How much of a method's records their documents do not bear out.

    The estimates are of all its records: what was drawn counts for the records of its document that were not. Their
    `questions` are the records that were judged whole.

    Attributes:
        records: of the method.
        sampled: were drawn; `left_out` of them have a claim without a verdict, and are in no estimate.
        claims: of the others that state something; `verdicts` counts all of them.
        per_record: the share of records with a claim that is contradicted or not in the document.
        by_alarms: the share of records that would have one if the judge called as many of their claims wrong as of the
            documents' own sentences, and nothing else; None where it judged none of these.
        per_claim: the share of such claims.
        per_token: the share of the tokens that stand in such claims, a record's shared out by their length.
    """

    records: int
    sampled: int
    left_out: int
    claims: int
    verdicts: dict[str, int]
    per_record: Estimate | None = None
    by_alarms: float | None = None
    per_claim: Estimate | None = None
    per_token: Estimate | None = None


@dataclass(slots=True)
class Probe:
    """How many claims the judge calls wrong, of those with one kind of error put in, or of the documents' sentences.

    An error counts where the judge called the claim supported without it. `unread` have no verdict, and are in no
    estimate.
    """

    kind: str
    unread: int
    called_wrong: Estimate


@dataclass(slots=True)
class Against:
    """How the judge's verdicts compare with a person's labels, each taken as "the document bears it out" or not.

    Attributes:
        labels: compared; `unread` more have no verdict.
        agreement: the share on which both say the same, and `kappa` that beyond chance, None where one never differs.
        found: the share of what the person calls wrong that the judge does; `alarms` that of what the person calls
            right.
    """

    labels: int
    unread: int
    agreement: Estimate
    kappa: float | None
    found: Estimate | None
    alarms: Estimate | None


@dataclass(slots=True)
class Audit:
    """`audit.json`: what `smt audit` found, and of which records (file -> SHA-256).

    Attributes:
        borne_out: the share of the documents' own sentences that the judge calls supported, as all of them are; None
            where it judged none, and of an older version.
    """

    model: str
    prompt_hash: str
    per_method: int
    methods: dict[str, MethodAudit]
    judge: list[Probe]
    against: Against | None
    record_files: dict[str, str]
    created: int = field(default_factory=lambda: int(time.time()))
    borne_out: Estimate | None = None

    @property
    def doubt(self) -> str:
        """Why the rates say nothing of the records, as a clause; empty where nothing speaks against the judge."""
        called = {probe.kind: probe.called_wrong for probe in self.judge}
        if ANY not in called:
            return "an error could be put into no claim that it called supported, so nobody knows whether it finds any"
        if COPIED in called and called[ANY].low <= called[COPIED].high:
            return "it is not shown to tell errors from right sentences"
        return ""


class _Label(Struct, forbid_unknown_fields=True):
    """A line of labels: the record, the claim's number in it as in audit.jsonl, and what a person says of it."""

    id: Text
    claim: Annotated[int, Meta(ge=1)]
    label: Literal["supported", "contradicted", "not_in_document", "no_claim"]


Labels = dict[tuple[str, int], str]


def read_labels(path: Path, drawn: dict[str, Drawn]) -> Labels:
    """Read a person's labels of claims: JSON lines with `id`, `claim` and `label`.

    Raises:
        BadInput: a line is not so, comes twice, or names a claim that is not in the sample; or there are none.
    """
    claims = {record.id: len(record.claims) for each in drawn.values() for record in each.sample}
    labels: Labels = {}
    line = '{"id": "...", "claim": 1, "label": "supported"}'
    mend = f"give lines such as {line}, with one of {', '.join(VERDICTS)}"
    for row, place in read_rows(path, _Label, mend):
        if row.id not in claims:
            raise BadInput(
                f"{place}: the record {row.id} is not in the audit's sample; label those of audit.jsonl, or draw as "
                "many --records as when it was labelled."
            )
        if row.claim > claims[row.id]:
            raise BadInput(f"{place}: the record {row.id} has {claims[row.id]} claims, and no claim {row.claim}.")
        if (row.id, row.claim) in labels:
            raise BadInput(f"{place}: claim {row.claim} of the record {row.id} is labelled twice; remove one line.")
        labels[row.id, row.claim] = row.label
    if not labels:
        raise BadInput(f"{path} holds no labels; {mend}.")
    return labels


def found_by(
    judged: Sequence[Judged],
    drawn: dict[str, Drawn],
    per_method: int,
    model: str,
    prompts: Prompts,
    record_files: dict[str, str],
    labels: Labels | None = None,
) -> Audit:
    """Work out what verdicts say of all records of each method, and of the judge."""
    of_kind: dict[str, list[Judged]] = defaultdict(list)
    for text in judged:
        of_kind[text.kind].append(text)
    probes = _probes(judged)
    own = [
        (float(each.verdict == SUPPORTED), text.doc_id) for text in of_kind[COPIED] for each in text.verdicts.values()
    ]
    alarms = next((probe.called_wrong.mean for probe in probes if probe.kind == COPIED), None)
    return Audit(
        model,
        prompts.hash(PROMPT),
        per_method,
        {name: _of_method(each.records, of_kind[name], alarms) for name, each in drawn.items()},
        probes,
        _against(labels, judged) if labels else None,
        record_files,
        borne_out=_mean(own) if own else None,
    )


def _of_method(records: int, texts: list[Judged], alarms: float | None) -> MethodAudit:
    whole = [text for text in texts if not text.missing]
    verdicts = Counter(each.verdict for text in whole for each in text.verdicts.values())
    found = MethodAudit(
        records,
        len(texts),
        len(texts) - len(whole),
        verdicts.total() - verdicts[NO_CLAIM],
        dict(verdicts.most_common()),
    )
    drawn = Counter(text.doc_id for text in whole)

    def share(value: Callable[[Judged], float], size: Callable[[Judged], float]) -> Estimate | None:
        # Each stands for as many records of its document, since all documents give about as many.
        weights = [text.record.of_document / drawn[text.doc_id] * size(text) for text in whole if text.record]
        told = [(text, weight) for text, weight in zip(whole, weights, strict=True) if weight]
        if not told:
            return None
        return estimate(
            [value(text) for text, _ in told], [text.doc_id for text, _ in told], weights=[weight for _, weight in told]
        )

    found.per_record = share(lambda text: float(bool(_wrong(text))), lambda text: 1.0)
    if alarms is not None and (by_alarms := share(lambda text: 1 - (1 - alarms) ** _stated(text), lambda text: 1.0)):
        found.by_alarms = by_alarms.mean
    found.per_claim = share(lambda text: len(_wrong(text)) / _stated(text), _stated)
    found.per_token = share(_wrong_share, lambda text: float(text.record.tokens) if text.record else 0.0)
    return found


def _wrong(text: Judged) -> list[int]:
    """The numbers of the claims that the document does not bear out."""
    return [number for number, each in text.verdicts.items() if each.verdict in WRONG]


def _stated(text: Judged) -> float:
    return float(sum(each.verdict != NO_CLAIM for each in text.verdicts.values()))


def _wrong_share(text: Judged) -> float:
    """The part of a text's length that stands in wrong claims."""
    lengths = [estimate_tokens(claim) for claim in text.claims]
    return sum(lengths[number - 1] for number in _wrong(text)) / sum(lengths) if lengths else 0.0


def _probes(judged: Sequence[Judged]) -> list[Probe]:
    told: dict[str, list[tuple[float, str]]] = defaultdict(list)
    unread: Counter[str] = Counter()

    def note(text: Judged, number: int, *kinds: str) -> None:
        for kind in kinds:
            if number in text.verdicts:
                told[kind].append((float(text.verdicts[number].verdict in WRONG), text.doc_id))
            else:
                unread[kind] += 1

    as_it_was = {_name(text): text.verdicts for text in judged if text.kind not in (INJECTED, COPIED)}
    for text in judged:
        if text.changed:
            number, kind = text.changed
            before = as_it_was[_name(text)].get(number)
            if before is not None and before.verdict == SUPPORTED:
                note(text, number, kind, ANY)
        elif text.kind == COPIED:
            for number in range(1, len(text.claims) + 1):
                note(text, number, COPIED)
    return [Probe(name, unread[name], _mean(told[name])) for name in (*KINDS, ANY, COPIED) if told[name]]


def _name(text: Judged) -> tuple[str, str]:
    return (text.record.method, text.record.id) if text.record else ("", text.claims[0])


def _mean(pairs: list[tuple[float, str]]) -> Estimate:
    """The mean of values, each with its document's id."""
    values, doc_ids = zip(*pairs, strict=True)
    return estimate(values, doc_ids)


def _against(labels: Labels, judged: Sequence[Judged]) -> Against:
    pairs: list[tuple[bool, bool, str]] = []
    for text in judged:
        for number, verdict in text.verdicts.items() if not text.changed else ():
            if text.record and (label := labels.get((text.record.id, number))):
                pairs.append((label in WRONG, verdict.verdict in WRONG, text.doc_id))
    if not pairs:
        raise RuntimeError("the judge gave no verdict on any of the labelled claims; use another model")
    total = len(pairs)
    agreed = [(float(mine == its), doc_id) for mine, its, doc_id in pairs]
    wrong, called = sum(mine for mine, _, _ in pairs), sum(its for _, its, _ in pairs)
    chance = (wrong * called + (total - wrong) * (total - called)) / total**2
    found, alarms = ([(float(its), doc_id) for mine, its, doc_id in pairs if mine is side] for side in (True, False))
    return Against(
        total,
        len(labels) - total,
        _mean(agreed),
        None if chance == 1 else (sum(same for same, _ in agreed) / total - chance) / (1 - chance),
        _mean(found) if found else None,
        _mean(alarms) if alarms else None,
    )


def write_audit(run: Path, audit: Audit, judged: Sequence[Judged]) -> None:
    """Write `<run>/audit.jsonl`, a line a text and the worst records first, and then `<run>/audit.json`."""
    with locked(run / "audit.lock"):
        # What belongs together is valid only with audit.json, which comes last.
        (run / "audit.json").unlink(missing_ok=True)
        write_jsonl(run / "audit.jsonl", _rows(judged))
        write_json(run / "audit.json", asdict(audit))


def _rows(judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    # In an order of their own, since replies come in any.
    def worst(text: Judged) -> tuple[Any, ...]:
        return text.kind == COPIED, bool(text.changed), -_wrong_share(text), text.doc_id, text.part, _name(text)

    for text in sorted(judged, key=worst):
        claims = []
        for number, claim in enumerate(text.claims, start=1):
            verdict, why = text.verdicts.get(number, (None, ""))
            claims.append({"claim": number, "text": claim, "verdict": verdict, "why": why})
        method, record = _name(text) if text.record else (None, None)
        changed = {"record": record, "claim": text.changed[0], "kind": text.changed[1]} if text.changed else None
        # Who labels what was changed must not be taken to speak of the record.
        named = {"id": None if changed else record, "method": method, "doc_id": text.doc_id, "part": text.part}
        yield {**named, "changed": changed, "claims": claims}


def read_audit(run: Path) -> Audit | None:
    """What `smt audit` wrote, or None where it never ran through.

    Raises:
        BadInput: it is broken.
    """
    return read_json_if_there(run / "audit.json", Audit, "smt audit")


def is_outdated(run: Path, audit: Audit) -> bool:
    """Whether the records of an audit have changed since, or are gone."""
    try:
        return record_hashes(run, audit.methods) != audit.record_files
    except BadInput:
        return True
