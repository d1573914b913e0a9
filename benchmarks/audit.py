"""Does an audit say how many records are wrong, where that is known?

    python benchmarks/audit.py [--strength 0.5] [--misses 0.1] [--alarms 0.02]
    python benchmarks/audit.py --coverage 2000

The microworld's scripted generator states something wrong at a set rate, and its grammar tells of every claim whether
it is so. `smt audit` runs as it does for anybody, against a server on this machine that stands in for a judge: it reads
document and statements out of the prompt it is sent, and knows the grammar. `--misses` and `--alarms` make it err: that
share of the wrong claims it calls supported, and of the right ones contradicted. What it says of a claim depends on the
claim and its document alone.

So it shows whether sample, weights and intervals are right, and whether the judge's own errors come out as they were
set. It says nothing of how well a model judges.

`--coverage` draws made-up records again and again, documents of very unequal numbers of records and error rates that
differ with these, and counts how many of the 95 % intervals hold the error rate of all records.
"""

import argparse
import asyncio
import json
import random
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path

import yaml
from aiohttp import web
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.corpus import Document, read_documents
from smt_plugin.evaluation.audit_results import read_audit
from smt_plugin.evaluation.audit_sample import quotas
from smt_plugin.evaluation.intervals import Estimate, estimate
from smt_plugin.faithfulness.claims import ANSWER, claims_of
from smt_plugin.faithfulness.verdicts import CONTRADICTED, NO_CLAIM, SUPPORTED, WRONG
from smt_plugin.files import read_jsonl
from smt_plugin.microworld import archive, grammar
from smt_plugin.microworld.grammar import Fact
from smt_plugin.microworld.words import BY_KEY

METHODS = {"synthetic_qa": "40K", "active_reading": "40K", "focal_rewrite": "40K"}
ALIKE = (
    0.8  # from which a statement that the grammar does not know is taken for a changed one of what the document says
)


def verdict_on(claim: str, document: str) -> str:
    """What is so of a claim about a document of the microworld."""
    facts = {fact.attribute: fact.value for fact in _facts(document)}
    verdicts = set()
    for sentence in grammar.sentences(claim.rpartition(ANSWER)[2]):
        # Behind what a style puts before it: "Note this: ".
        said = sentence.rpartition(": ")[2]
        if answer := re.fullmatch(r"The answer is (.+)\.", said):
            verdicts.add(SUPPORTED if answer[1] in facts.values() else CONTRADICTED)
        elif fact := grammar.parse_statement(said):
            verdicts.add(SUPPORTED if facts.get(fact.attribute) == fact.value else CONTRADICTED)
        elif any(_alike(said, wording) for wording in _wordings(document)):
            verdicts.add(CONTRADICTED)
    return CONTRADICTED if CONTRADICTED in verdicts else SUPPORTED if verdicts else NO_CLAIM


def _facts(document: str) -> list[Fact]:
    return [fact for sentence in grammar.sentences(document) if (fact := grammar.parse_statement(sentence))]


def _alike(claim: str, wording: str) -> bool:
    return SequenceMatcher(None, claim, wording, autojunk=False).ratio() > ALIKE


@lru_cache(64)
def _wordings(document: str) -> list[str]:
    """All ways in which the grammar says what a document says."""
    return [
        grammar.state(fact, number)
        for fact in _facts(document)
        for number in range(len(BY_KEY[fact.attribute].statements))
    ]


class Judge:
    """Stands in for a judge's model; errs at set rates."""

    def __init__(self, misses: float, alarms: float) -> None:
        self.misses, self.alarms = misses, alarms

    def verdict(self, claim: str, document: str) -> str:
        true = verdict_on(claim, document)
        if true == NO_CLAIM:
            return true
        drawn = random.Random(f"{document}\0{claim}").random()
        if true in WRONG:
            return SUPPORTED if drawn < self.misses else true
        return CONTRADICTED if drawn < self.alarms else true

    def reply(self, prompt: str) -> str:
        document = prompt.split("<document>")[1].split("</document>")[0].strip().partition("\n\n")[2]
        said = prompt.split("<statements>")[1].split("</statements>")[0]
        claims = re.findall(r"^\[(\d+)\] (.*)$", said, re.MULTILINE)
        asked = re.findall(r"with these numbers: ([\d, -]+)", prompt)[0].split(", ")
        numbers = {n for each in asked for n in range(int(each.split("-")[0]), int(each.split("-")[-1]) + 1)}
        rows = [
            {"number": int(number), "why": "", "verdict": self.verdict(claim, document)}
            for number, claim in claims
            if int(number) in numbers
        ]
        return json.dumps({"verdicts": rows})


@contextmanager
def served(judge: Judge) -> Iterator[str]:
    """Serve a judge on this machine, in a thread of its own; yields its base URL."""

    async def complete(request: web.Request) -> web.Response:
        prompt = (await request.json())["messages"][-1]["content"]
        text = judge.reply(prompt)
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        choices = [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]
        return web.json_response({"choices": choices, "usage": usage})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "grammar"}]})

    started, stop, urls = threading.Event(), asyncio.Event(), list[str]()

    async def run() -> None:
        app = web.Application(client_max_size=10**8)
        app.router.add_get("/v1/models", models)
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        started.set()
        await stop.wait()
        await runner.cleanup()

    with asyncio.Runner() as loop:
        thread = threading.Thread(target=loop.run, args=(run(),))
        thread.start()
        started.wait()
        try:
            yield urls[0]
        finally:
            loop.get_loop().call_soon_threadsafe(stop.set)
            thread.join()


def truth(run: Path, method: str, documents: dict[str, Document]) -> tuple[float, float, float, int]:
    """Error rates of all records of a method, per record, claim and token, and how many records there are."""
    records = wrong_records = claims = wrong_claims = 0
    tokens = wrong_tokens = 0.0
    for _, row in read_jsonl(run / "records" / f"{method}.jsonl"):
        said = claims_of(row["text"], row["messages"])
        verdicts = [verdict_on(claim, documents[row["doc_id"]].text) for claim in said]
        lengths = [len(claim.encode()) for claim in said]
        wrong = [verdict in WRONG for verdict in verdicts]
        records += 1
        wrong_records += any(wrong)
        claims += sum(verdict != NO_CLAIM for verdict in verdicts)
        wrong_claims += sum(wrong)
        tokens += row["tokens"]
        wrong_tokens += row["tokens"] * sum(map(lambda a, b: a * b, lengths, wrong)) / sum(lengths)
    return wrong_records / records, wrong_claims / claims, wrong_tokens / tokens, records


def text_of(found: Estimate | None) -> str:
    return f"{found.mean:.1%} ({found.low * 100:.1f} to {found.high * 100:.1f})" if found else "none"


def trial(folder: Path, strength: float, misses: float, alarms: float) -> None:
    """Generate, audit, and print what was found beside what is so."""
    archive.write(folder / "archive")
    with served(Judge(misses, alarms)) as url:
        run_file = {
            "run": "run",
            "corpus": "archive",
            "backend": {"kind": "microworld", "strength": strength},
            "methods": {name: {"tokens": tokens} for name, tokens in METHODS.items()},
            "evaluate": {"benchmark": "microworld", "judge": {"endpoint": url, "model": "grammar"}},
        }
        path = folder / "smt.yaml"
        path.write_text(yaml.safe_dump(run_file))
        for command in ("generate", "audit"):
            result = CliRunner().invoke(cli, [command, str(path)])
            if result.exit_code:
                raise SystemExit(f"smt {command}: {result.output} {result.exception}")
    print(result.output)
    documents = {document.id: document for document in read_documents(folder / "archive")}
    found = read_audit(folder / "run")
    assert found is not None
    print(f"strength {strength:g}, {misses:.0%} of wrong claims missed, {alarms:.0%} of right ones called wrong")
    for method, each in found.methods.items():
        *rates, records = truth(folder / "run", method, documents)
        print(f"{method}: {each.sampled} of {records:,} records")
        for kind, rate in zip(("per_record", "per_claim", "per_token"), rates, strict=True):
            print(f"    {kind:<12} true {rate:.1%}, found {text_of(getattr(each, kind))}")
        print(f"    {'by alarms':<12} {each.by_alarms:.1%} of records")
    for probe in found.judge:
        print(f"    {probe.kind:<12} {text_of(probe.called_wrong)} of {probe.called_wrong.questions} called wrong")


def coverage(draws: int, records: int = 300) -> None:
    """Print how many intervals hold the truth of made-up records, with and without weights."""
    print(f"{draws:,} samples of {records} records each; share of 95 % intervals that hold the rate of all records")
    print("documents  true rate  weighted  unweighted")
    for documents in (15, 40, 200, 1000):
        for mean in (0.03, 0.2):
            held: Counter[str] = Counter()
            truths = 0.0
            rng = random.Random(f"{documents} {mean}")
            for _ in range(draws):
                sizes = {f"d{n}": max(1, round(rng.lognormvariate(3, 1))) for n in range(documents)}
                largest = max(sizes.values())
                # Documents with more records, those that are longer, have more errors here.
                rates = {
                    name: rng.betavariate(4 * mean, 4 * (1 - mean)) * (0.3 + 0.7 * size / largest)
                    for name, size in sizes.items()
                }
                truth = sum(sizes[name] * rates[name] for name in sizes) / sum(sizes.values())
                truths += truth
                values, doc_ids, weights = [], [], []
                for name, number in quotas(sizes, records).items():
                    for _ in range(number):
                        values.append(float(rng.random() < rates[name]))
                        doc_ids.append(name)
                        weights.append(sizes[name] / number)
                for kind, given in (("weighted", weights), ("unweighted", None)):
                    each = estimate(values, doc_ids, weights=given)
                    held[kind] += each.low <= truth <= each.high
            weighted, unweighted = (f"{held[kind] / draws:.1%}" for kind in ("weighted", "unweighted"))
            print(f"{documents:>9}  {truths / draws:>9.1%}  {weighted:>8}  {unweighted:>10}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=float, default=0.5, help="of the generator: 1 never errs")
    parser.add_argument("--misses", type=float, default=0.1, help="share of wrong claims that the judge lets pass")
    parser.add_argument("--alarms", type=float, default=0.02, help="share of right claims that it calls wrong")
    parser.add_argument("--coverage", type=int, help="only count how many intervals hold the truth, of so many")
    arguments = parser.parse_args()
    if arguments.coverage:
        coverage(arguments.coverage)
        return
    with tempfile.TemporaryDirectory() as folder:
        trial(Path(folder), arguments.strength, arguments.misses, arguments.alarms)


if __name__ == "__main__":
    main()
