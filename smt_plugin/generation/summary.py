"""What a call of `generate_run` did, in numbers and as a person reads it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from smt_plugin.backends.base import CacheUse
from smt_plugin.config import Price
from smt_plugin.faithfulness.check import KINDS, Checked
from smt_plugin.faithfulness.verdicts import JUDGE
from smt_plugin.files import read_json_if_there


@dataclass(slots=True)
class MethodCount:
    """Where one method stands; `tokens` are those of its records, `short` lists documents given up.

    `budget` is that of the documents asked about: in a shard a part of the run's. `parts` are the documents, or parts
    of long ones, that are done; `waiting` those that wait for a larger budget, since a round has about `round_tokens`
    (0: not known; `measured_with` stands for model and options). `repeated` records were dropped, since their text had
    come before; `stopped` says why the method was given up, if it was. The records in place were made with `options`,
    None where an older version wrote them, and by `prompts` (name -> hash); `is_whole` is false until they are there.
    `checked` of the records were compared with their documents (none by an older version): `unfaithful` of them say
    what the document lacks, `findings` counts them by kind, `unchecked` by what could not be compared. `gate` has the
    kinds of findings that did not pass, and the judge (empty without a gate): replies that were asked again for each,
    and of these those that were replaced by a better one, in `asked_again` and `repaired`; `rejected` records, among
    `records` but not in `tokens`, by kind in `rejected_for`.
    """

    budget: int
    tokens: int = 0
    records: int = 0
    parts: int = 0
    short: list[str] = field(default_factory=list)
    waiting: int = 0
    round_tokens: float = 0.0
    measured_with: str = ""
    repeated: int = 0
    stopped: str = ""
    options: dict[str, str] | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    is_whole: bool = True
    checked: int = 0
    unfaithful: int = 0
    findings: dict[str, int] = field(default_factory=dict)
    unchecked: dict[str, int] = field(default_factory=dict)
    gate: list[str] = field(default_factory=list)
    asked_again: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    rejected_for: dict[str, int] = field(default_factory=dict)

    def note_gate(self, asked: Mapping[str, int], repaired: Mapping[str, int]) -> None:
        """Count what the gate had asked again in a round that is taken, by kind, and what came better."""
        self.asked_again = dict(Counter(self.asked_again) + Counter(asked))
        self.repaired = dict(Counter(self.repaired) + Counter(repaired))

    def note_rejected(self, kinds: Iterable[str]) -> None:
        """Count a record that the gate rejects, for findings of these kinds."""
        self.rejected += 1
        self.rejected_for = dict(Counter(self.rejected_for) + Counter(kinds))

    def note(self, checked: Checked) -> None:
        """Count a record that was compared with its document."""
        self.checked += 1
        self.unfaithful += bool(checked.findings)
        for kind in {finding.kind for finding in checked.findings}:
            self.findings[kind] = self.findings.get(kind, 0) + 1
        for reason in checked.unchecked:
            self.unchecked[reason] = self.unchecked.get(reason, 0) + 1


@dataclass(slots=True)
class Generated:
    """What is read again of `generate.json`, the summary of all calls in a folder; `part_tokens` is 0 if not known."""

    methods: dict[str, MethodCount] = field(default_factory=dict)
    part_tokens: Annotated[int, Meta(ge=0)] = 0


@dataclass(slots=True)
class Summary:
    """What a call of `generate_run` did; token counts are the server's, of completions asked for in this call.

    Attributes:
        num_parts: documents, a long one counted once for each of its parts, which have at most `part_tokens`.
        completion_tokens: what is paid for; `thought_tokens` of them went into thoughts, which no budget counts.
        asked: completions paid for now, rejected ones included; `reused` those found in the store.
        deferred: completions that the backend put off; with any, no records are written.
        failures: reason -> how many, for rejected and refused completions, old and new.
        given_up: refused completions, old and new.
        losses: what -> how many, for what completions that are used have lost on the way, old and new.
        cache: the use of the servers' prefix caches by their own count, or None where they do not say.
        money: what the completions asked for in this call cost, or None without prices.
        judge: what the gate's judge was asked, where there is one, and on how many records it said too little.
    """

    methods: dict[str, MethodCount]
    num_documents: int = 0
    num_parts: int = 0
    part_tokens: int = 0
    asked: int = 0
    reused: int = 0
    rejected: int = 0
    refused: int = 0
    deferred: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    given_up: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thought_tokens: int = 0
    seconds: float = 0.0
    cache: CacheUse | None = None
    money: float | None = None
    currency: str = ""
    judge: "Summary | None" = None

    def reckon(self, price: Price | None, seconds: float) -> None:
        """Note how long it took, and what that cost."""
        self.seconds = seconds
        if price is not None:
            cached = self.prompt_tokens * (self.cache_share or 0.0)
            self.money = price.of(self.prompt_tokens, cached, self.completion_tokens, seconds)
            self.currency = price.currency

    @property
    def so_far(self) -> str:
        """What was asked and came, while more is asked."""
        return f"{self.asked:,} completions ({self.reused:,} reused), {self.rejected:,} rejected"

    @property
    def cache_share(self) -> float | None:
        """Part of the prompt tokens that came out of the prefix caches: the servers' count, else the replies'."""
        if self.cache is not None:
            return self.cache.hit / self.cache.queried if self.cache.queried else None
        return self.cached_tokens / self.prompt_tokens if self.cached_tokens else None

    @property
    def unmet(self) -> list[str]:
        """One sentence for each method that missed its budget."""
        stopped = [f"{name}: {count.stopped}" for name, count in self.methods.items() if count.stopped]
        return stopped + [
            f"{name}: {len(count.short)} of {self.num_parts} documents yielded too little "
            f"({count.tokens:,} of {count.budget:,} tokens), e.g. {count.short[0]!r}"
            for name, count in self.methods.items()
            if count.short and not count.stopped
        ]

    @property
    def asked_text(self) -> str:
        """What was asked and came, as a line."""
        cached = f" ({self.cache_share:.1%} from the cache)" if self.cache_share is not None else ""
        thoughts = f" ({self.thought_tokens:,} of them thoughts)" if self.thought_tokens else ""
        cost = f", {self.money:,.2f} {self.currency}" if self.money is not None else ""
        return (
            f"{self.asked:,} completions asked, {self.reused:,} reused; {self.prompt_tokens:,} tokens in{cached}, "
            f"{self.completion_tokens:,} out{thoughts}, {self.seconds:,.1f} s{cost}"
        )

    @property
    def faithfulness_lines(self) -> list[str]:
        """How many records say what their documents do not, by method and kind, and what could not be compared."""
        lines = []
        for name, count in self.methods.items():
            if count.checked:
                share = count.unfaithful / count.checked
                lines.append(
                    f"{name}: {count.unfaithful:,} of {count.checked:,} records ({share:.1%}) say what their "
                    f"documents do not{_by_kind(count.findings)}"
                )
                lines += [
                    f"{name}: not compared in {number:,} records, {reason}"
                    for reason, number in count.unchecked.items()
                ]
        if any(count.unfaithful for count in self.methods.values()):
            rest = "" if any(count.gate for count in self.methods.values()) else "; nothing was dropped"
            lines.append(f"they stand in faithfulness/<method>.jsonl, the worst first{rest}")
        return lines

    @property
    def gate_lines(self) -> list[str]:
        """What the gate of each method that has one asked again, and what it rejected."""
        lines = []
        for name, count in self.methods.items():
            if count.gate:
                said = f"{name}: the gate rejected {count.rejected:,} of {count.records:,} records"
                lines.append(said + _by_kind(count.rejected_for))
                lines += [
                    f"{name}: {what}{_by_kind(counts)}"
                    for what, counts in (
                        ("replies asked again", count.asked_again),
                        ("of these repaired", count.repaired),
                    )
                    if counts
                ]
        return lines

    @property
    def failures_lines(self) -> list[str]:
        """Why replies could not be used, the ten commonest reasons, a line each."""
        if not self.failures:
            return []
        reasons = Counter(self.failures).most_common(10)
        return [
            "replies that could not be used, by reason; the counts above are without them:",
            *(f"{number:>8,} x {reason}" for reason, number in reasons),
        ]

    @property
    def losses_lines(self) -> list[str]:
        """What replies that are used have lost on the way."""
        if not self.losses:
            return []
        lost = [f"{number:>8,} x {what}" for what, number in self.losses.items()]
        return ["lost on the way, of replies that could be used:", *lost]

    @property
    def text(self) -> str:
        """The summary as a person reads it."""
        lines = [
            f"{name:>16}: {count.tokens:,} of {count.budget:,} tokens in {count.records:,} records"
            for name, count in self.methods.items()
        ]
        lines.append(self.asked_text)
        if self.cache is not None and self.cache.queried:
            lines.append(
                f"prefix cache: {self.cache.hit:,} of {self.cache.queried:,} prompt tokens hit, as the servers count; "
                f"{self.cache.capacity:,} tokens fit in"
            )
        lines += [
            f"{name}: {count.waiting:,} of {self.num_parts:,} documents wait for a larger budget: this one is less "
            "than a round for each"
            for name, count in self.methods.items()
            if count.waiting
        ]
        if repeated := sum(count.repeated for count in self.methods.values()):
            lines.append(f"{repeated:,} records were dropped: the same text had come before for the same prompt")
        lines += self.faithfulness_lines
        lines += self.gate_lines
        if self.judge is not None:
            lines += [
                f"the gate's judge: {self.judge.asked_text}",
                *self.judge.failures_lines,
                *self.judge.losses_lines,
            ]
        lines += [*self.failures_lines, *self.losses_lines]
        return "\n".join(lines)


def _by_kind(counts: Mapping[str, int]) -> str:
    """What was found how often, as the end of a sentence."""
    said = {kind: f"a {kind}" for kind in KINDS} | {JUDGE: "by the judge"}
    return ": " * bool(counts) + ", ".join(f"{said[kind]} in {counts[kind]:,}" for kind in said if kind in counts)


def generated_path(folder: Path) -> Path:
    """The file in a folder of records that holds the last call's summary."""
    return folder / "generate.json"


def read_generated(folder: Path) -> Generated:
    """Return the last call's summary in a folder of records; one without methods where there is none yet.

    Raises:
        BadInput: it is broken.
    """
    return read_json_if_there(generated_path(folder), Generated, "smt generate") or Generated()
