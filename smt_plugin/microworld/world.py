"""The invented archive: its documents, the questions about them, and the text of the evaluation prompt.

The same seed gives the same, byte for byte. The questions are worded as the `test_questions`, which the scripted
backend never uses; the base model knows them from its pretraining on other people and places.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from smt_plugin.corpus import Document
from smt_plugin.microworld.grammar import Fact, ask, in_archive, keys, state
from smt_plugin.microworld.words import BY_KEY, HOME_PHRASES, PERSON_NAMES, TOWN_NAMES

DEFAULT_SEED = 1
PEOPLE = 30
TOWNS = 8
ONE_FACT_QUESTIONS = 230
TWO_FACT_QUESTIONS = 70
OPTIONS = 4
# The user message of an evaluation question. `passages` is empty in the closed-book arms and holds articles or
# retrieved chunks, each beginning with its title, in the others: nothing else differs between the arms.
QUESTION_PROMPT = """\
{% for passage in passages %}{{ passage }}

{% endfor %}{{ question }}
Options: {{ options | join(' ; ') }}"""


@dataclass(frozen=True, slots=True)
class World:
    """People and towns with their facts; `facts` maps a name to its facts in the order of the grammar."""

    facts: dict[str, list[Fact]]
    people: tuple[str, ...]
    towns: tuple[str, ...]

    def value(self, name: str, attribute: str) -> str:
        """Return the value of an attribute of a person or a town."""
        return next(fact.value for fact in self.facts[name] if fact.attribute == attribute)


@cache
def names(kind: str, archive: bool) -> list[str]:
    """Return the names of persons or places that belong to the archive, or those that are for pretraining."""
    return [name for name in (PERSON_NAMES if kind == "person" else TOWN_NAMES) if in_archive(name) == archive]


def build(rng: random.Random, people: int = PEOPLE, towns: int = TOWNS, archive: bool = True) -> World:
    """Draw a world; `archive` chooses between the archive's share of the names and the pretraining share."""
    town_list = tuple(rng.sample(names("place", archive), towns))
    person_list = tuple(rng.sample(names("person", archive), people))
    facts: dict[str, list[Fact]] = {}
    for name in person_list:
        facts[name] = [Fact(name, key, rng.choice(BY_KEY[key].values or town_list)) for key in keys("person")]
    for name in town_list:
        facts[name] = [Fact(name, key, rng.choice(BY_KEY[key].values)) for key in keys("place")]
    return World(facts, person_list, town_list)


def article(facts: list[Fact], rng: random.Random) -> str:
    """Tell every fact once, in a random order and random wordings: 60 to 90 words and marks."""
    order = rng.sample(facts, len(facts))
    return " ".join(state(fact, rng.randrange(100)) for fact in order)


def passage(name: str, text: str) -> str:
    """Return an article as it stands before a question: its title, then the text."""
    return f"{name}\n{text}"


def documents(seed: int = DEFAULT_SEED) -> list[Document]:
    """Return the archive's articles: first the people, then the towns."""
    return articles(_archive(seed), random.Random(f"articles-{seed}"), article, "microworld")


def articles(
    world: World, rng: random.Random, tell: Callable[[list[Fact], random.Random], str], source: str
) -> list[Document]:
    """Return an article about each name of a world, in its order, as `tell` writes one of the facts."""
    return [
        Document(_doc_id(name), name, tell(facts, rng), source, {"identity": name})
        for name, facts in world.facts.items()
    ]


def questions(seed: int = DEFAULT_SEED) -> list[dict[str, Any]]:
    """Return the test questions as rows of questions.jsonl, with four options each.

    `meta` holds `kind` ("one fact", or "two facts": a person's town, then something of that town) and
    `evidence`, the ids of the documents that together answer the question. `doc_id` is the person's (or
    town's) document. The wrong options are values that the same attribute has elsewhere in the archive, or
    might have.
    """
    rng = random.Random(f"questions-{seed}")
    return question_rows(_archive(seed), rng, ONE_FACT_QUESTIONS, TWO_FACT_QUESTIONS)


def question_rows(world: World, rng: random.Random, one_fact: int, two_facts: int) -> list[dict[str, Any]]:
    """Return so many test questions of each kind about a world, as `questions` describes them, in a random order."""
    one = [_question([fact], world, rng) for facts in world.facts.values() for fact in facts]
    homes = [Fact(person, "home", world.value(person, "home")) for person in world.people]
    two = [_question([home, fact], world, rng) for home in homes for fact in world.facts[home.value]]
    rows = rng.sample(one, one_fact) + rng.sample(two, two_facts)
    return rng.sample(rows, len(rows))


def question_prompt(question: str, options: list[str], passages: tuple[str, ...] | list[str] = ()) -> str:
    """Render QUESTION_PROMPT: what the base model is sent as the user's message."""
    blocks = "".join(f"{text}\n\n" for text in passages)
    return f"{blocks}{question}\nOptions: {' ; '.join(options)}"


def _archive(seed: int) -> World:
    return build(random.Random(f"archive-{seed}"))


def _question(facts: list[Fact], world: World, rng: random.Random) -> dict[str, Any]:
    """Ask for the last fact: the only one, or one of the town in which a person lives, without naming the town."""
    fact, wording = facts[-1], rng.randrange(100)
    about = None if fact is facts[0] else rng.choice(HOME_PHRASES).format(n=facts[0].name)
    text = ask(fact, wording, about, in_test=True)
    elsewhere = {other.value for told in world.facts.values() for other in told if other.attribute == fact.attribute}
    wrong = elsewhere - {fact.value}
    if len(wrong) < OPTIONS - 1:
        wrong = set(BY_KEY[fact.attribute].values or world.towns) - {fact.value}
    options = [fact.value, *rng.sample(sorted(wrong), OPTIONS - 1)]
    rng.shuffle(options)
    evidence = [_doc_id(fact.name) for fact in facts]
    return {
        "question_id": "-".join([evidence[0], *(fact.attribute for fact in facts)]),
        "doc_id": evidence[0],
        "question": text[0].upper() + text[1:],
        "options": options,
        "answer": options.index(fact.value),
        "meta": {"kind": "one fact" if len(facts) == 1 else "two facts", "evidence": evidence},
    }


def _doc_id(name: str) -> str:
    return name.lower().replace(" ", "-")
