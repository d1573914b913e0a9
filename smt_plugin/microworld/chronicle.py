"""Another invented archive, for a model that knows English: the microworld's facts, told in articles of plain prose.

    python -m smt_plugin.microworld.chronicle OUT [--seed N]

writes documents.jsonl, questions.jsonl and replay.jsonl. The same seed gives the same files, byte for byte. The facts
stand in sentences of the microworld's grammar, so that its scripted backend can read them.
"""

import random
from pathlib import Path
from typing import Any

import yaml

from smt_plugin.corpus import Document
from smt_plugin.microworld.archive import main, write_files
from smt_plugin.microworld.grammar import Fact, state
from smt_plugin.microworld.words import BY_KEY
from smt_plugin.microworld.world import World, articles, build, question_rows

DEFAULT_SEED = 1
PEOPLE = 15
TOWNS = 5
ONE_FACT_QUESTIONS = 90
TWO_FACT_QUESTIONS = 30
REPLAY_ROWS = 300
_SENTENCES_BEFORE_BREAK = 3  # facts a paragraph
_PROSE: dict[str, dict[str, list[str]]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def documents(seed: int = DEFAULT_SEED) -> list[Document]:
    """Return the articles, of 100 to 300 words each: first the people, then the towns."""
    return articles(_world(seed), random.Random(f"chronicle-articles-{seed}"), article, "chronicle")


def questions(seed: int = DEFAULT_SEED) -> list[dict[str, Any]]:
    """Return the test questions as rows of questions.jsonl; see `world.question_rows`."""
    rng = random.Random(f"chronicle-questions-{seed}")
    return question_rows(_world(seed), rng, ONE_FACT_QUESTIONS, TWO_FACT_QUESTIONS)


def article(facts: list[Fact], rng: random.Random) -> str:
    """Tell every fact once, in a random order and random wordings, with prose around it, three facts a paragraph."""
    prose = _PROSE[BY_KEY[facts[0].attribute].kind]
    told = [
        rng.choice(prose[fact.attribute]).format(s=state(fact, rng.randrange(100)))
        for fact in rng.sample(facts, len(facts))
    ]
    step = _SENTENCES_BEFORE_BREAK
    paragraphs = [" ".join(told[start : start + step]) for start in range(0, len(told), step)]
    opening = rng.choice(prose["openings"]).format(n=facts[0].name)
    return "\n\n".join([opening, *paragraphs, rng.choice(prose["closings"])])


def write(folder: Path, seed: int = DEFAULT_SEED) -> None:
    """Write documents.jsonl, questions.jsonl and replay.jsonl into `folder`."""
    write_files(folder, documents(seed), questions(seed), seed, REPLAY_ROWS)


def _world(seed: int) -> World:
    return build(random.Random(f"chronicle-{seed}"), PEOPLE, TOWNS)


if __name__ == "__main__":
    main(write, DEFAULT_SEED)
