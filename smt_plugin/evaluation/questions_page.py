"""Show a sample of the questions that `smt questions` kept and dropped on one page, for people."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from smt_plugin.files import write_text
from smt_plugin.question import Question

# How many are shown: of those kept, and of those dropped for each reason.
SHOWN, SHOWN_OF_A_REASON = 40, 5


def write_page(
    path: Path,
    questions: Sequence[Question],
    dropped: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any],
    titles: Mapping[str, str],
) -> None:
    """Write questions.html, which loads nothing from elsewhere: the same sample for the same questions.

    Args:
        dropped: lines of questions.dropped.jsonl.
        manifest: what `make_questions` returns.
        titles: of the documents, by id.
    """
    stable = random.Random(manifest["sha256"])
    shown = stable.sample(range(len(questions)), min(SHOWN, len(questions)))
    of_reason: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in dropped:
        of_reason[row["reason"]].append(row)
    reasons = {
        reason: stable.sample(of_reason[reason], min(SHOWN_OF_A_REASON, len(of_reason[reason])))
        for reason in manifest["dropped"]
    }
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    html = environment.get_template("questions.html.jinja").render(
        questions=[questions[place] for place in sorted(shown)],
        reasons=reasons,
        manifest=manifest,
        titles=titles,
        sentences=sentences(manifest),
    )
    # A model may write half of a character, which no file takes.
    write_text(path, html.encode(errors="replace").decode())


def sentences(manifest: Mapping[str, Any]) -> list[str]:
    """Say in a few sentences what was kept, what was dropped, what was known before, and what gives answers away."""
    number = sum(manifest["dropped"].values())
    reasons = "; ".join(f"{count:,} x {reason}" for reason, count in manifest["dropped"].items())
    said = [
        f"{manifest['questions']:,} questions about {manifest['documents']:,} documents kept, {number:,} dropped"
        + (f": {reasons}" if reasons else "")
    ]
    known, longest = manifest["known"], manifest["longest"]
    if known["low"] is None:
        interval = "the interval needs the `eval` extra"
    elif known["refusal"]:
        interval = f"no interval: {known['refusal']}"
    else:
        interval = f"95 % interval {known['low']:.1%} to {known['high']:.1%}"
    chance = f"; chance {longest['chance']:.0%}" if longest else ""
    said.append(
        f"known already: {known['rate']:.1%} of the answers without the document are right ({interval}; "
        f"{known['questions']:,} questions, {known['documents']:,} documents, {known['samples']} answers each"
        f"{chance}); "
        f"{known['always']:,} questions are always answered rightly"
        + (" and were dropped" if manifest["unknown_only"] else "")
    )
    if longest:
        said.append(
            f"the right option is the longest in {longest['share']:.1%} of {manifest['questions']:,} questions "
            f"(chance at most {longest['chance']:.0%})"
        )
    return said
