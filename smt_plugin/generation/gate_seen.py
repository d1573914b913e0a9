"""What a run's records tell of its gate: to how many replies it objects, and how much it rejects."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from smt_plugin.config import RunFile
from smt_plugin.faithfulness.findings import findings_path
from smt_plugin.files import Text, read_rows
from smt_plugin.records import Key, generated_folders
from smt_plugin.rejects import GATE, REJECT, read_verdicts

_MEND = "run `smt generate RUN.YAML`, which makes the records anew"


class _Row(msgspec.Struct, gc=False):
    """Of a record what tells of the gate."""

    id: Text
    prompt: str
    model: str
    tokens: int
    completions: list[Key]


class _Kind(msgspec.Struct, gc=False):
    """Of a finding."""

    kind: str


class _Found(msgspec.Struct, gc=False):
    """Of a line that names a record and what is found in it."""

    id: Text
    findings: list[_Kind]


@dataclass(slots=True)
class GateSeen:
    """Replies of which records were made.

    Attributes:
        replies, objected: prompt -> its replies, and those of them that the gate objects to.
        passed: method -> the part of its records' tokens that the gate has not rejected.
    """

    replies: Counter[str] = field(default_factory=Counter)
    objected: Counter[str] = field(default_factory=Counter)
    passed: dict[str, float] = field(default_factory=dict)


def gate_seen(run_file: RunFile, model: str, asked_again: Collection[bytes]) -> GateSeen:
    """Count, in the records that a model made so far, the replies that the gate of the run file asks again.

    These are the replies that were asked again before, those with a finding of its kinds, and those with a record that
    it rejected. The records are read once; in memory are the ids of those with findings.

    Args:
        asked_again: keys of the completions that came for a reply asked again.

    Raises:
        BadInput: a line of the records, of the findings or of `rejects.jsonl` is broken.
    """
    seen = GateSeen()
    rejected = {name for name, verdict in read_verdicts(run_file.run, GATE).items() if verdict.verdict == REJECT}
    for method in run_file.methods:
        total = lost = 0
        for folder in generated_folders(run_file.run, all_shards=False):
            found = findings_path(folder, method)
            rows = read_rows(found, _Found, _MEND) if found.is_file() else ()
            wrong = rejected.union(
                row.id for row, _ in rows if any(finding.kind in run_file.gate for finding in row.findings)
            )
            records = folder / "records" / f"{method}.jsonl"
            last, was_objected = "", False
            for record, _ in read_rows(records, _Row, _MEND) if records.is_file() else ():
                if record.model != model or not record.completions:
                    continue
                total += record.tokens
                lost += record.tokens * (record.id in rejected)
                key = record.completions[0]
                # The records of a reply follow each other.
                if key != last:
                    seen.replies[record.prompt] += 1
                    last, was_objected = key, False
                if not was_objected and (record.id in wrong or bytes.fromhex(key) in asked_again):
                    seen.objected[record.prompt] += 1
                    was_objected = True
        if total:
            seen.passed[method] = 1 - lost / total
    return seen
