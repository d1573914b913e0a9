"""An endless stream of pretraining texts about people and places whose names the archive never uses.

Plain articles and rewrites; chats about one to three articles with multiple-choice and open questions, in all
wordings, over one and two facts; and multiple-choice questions about people of whom nothing was told, whose answers
can only be guessed.
"""

import random
from collections.abc import Iterator
from typing import Any

from smt_plugin.microworld import grammar, scripted, world
from smt_plugin.microworld.grammar import Fact
from smt_plugin.microworld.words import BY_KEY, HOME_PHRASES, STYLES

TURNS = 4
Messages = list[dict[str, str]]


def stream(rng: random.Random, most_articles: int = 3, most_facts: int = 99) -> Iterator[str | Messages]:
    """Yield pretraining texts for ever: a plain text, or the messages of a chat.

    Chats show up to `most_articles` articles, none of which tells more than `most_facts` facts.
    """
    while True:
        draw = rng.random()
        if draw < 0.1:
            yield _plain(rng)
        elif draw < 0.3:
            yield _chat(rng, 0, most_facts)
        else:
            yield _chat(rng, rng.randint(1, most_articles), most_facts)


def replay(seed: int, rows: int) -> list[dict[str, Any]]:
    """Return pretraining data as rows of replay.jsonl: {"text": ...} or {"messages": [...]}."""
    source = stream(random.Random(f"replay-{seed}"))
    drawn = [next(source) for _ in range(rows)]
    return [{"text": item} if isinstance(item, str) else {"messages": item} for item in drawn]


def _plain(rng: random.Random) -> str:
    """An article or a rewrite of one."""
    small = world.build(rng, people=1, towns=2, archive=False)
    facts = small.facts[rng.choice([small.people[0], small.towns[0]])]
    if rng.random() < 0.4:
        return world.article(facts, rng)
    return scripted.rewrite(rng.sample(facts, len(facts)), rng.choice(STYLES), None, rng)


def _chat(rng: random.Random, articles: int, most_facts: int) -> Messages:
    """Up to TURNS questions about a few articles, which stand in the first message; none if `articles` is 0."""
    small = world.build(rng, people=4, towns=2, archive=False)
    if most_facts < 7:
        small.facts.update({name: rng.sample(facts, most_facts) for name, facts in small.facts.items()})
    person, town = small.people[0], small.towns[0]
    two_facts = articles >= 2 and rng.random() < 0.3
    if two_facts:
        town = small.value(person, "home")
    # Mostly people, as in the archive: the hard part is to keep them apart.
    shown = [person, town] if two_facts else [rng.choice([person, person, town])] if articles else []
    shown += rng.sample([name for name in small.facts if name not in shown], articles - len(shown))
    rng.shuffle(shown)
    passages = [world.passage(name, world.article(small.facts[name], rng)) for name in shown]
    # Now and then the evidence is missing, as retrieval may miss it: then there is only guessing.
    asked_of = shown if shown and rng.random() < 0.9 else [rng.choice(sorted(small.facts))]
    pool = [fact for name in asked_of for fact in small.facts[name]]
    turns: Messages = []
    for turn, fact in enumerate(rng.sample(pool, min(TURNS, len(pool)))):
        chain, about = [fact], None
        if two_facts and rng.random() < 0.5:
            chain = [Fact(person, "home", town), rng.choice(small.facts[town])]
            about = rng.choice(HOME_PHRASES).format(n=person)
        elif rng.random() < 0.15:
            other = rng.choice([f for f in small.facts[fact.name] if f is not fact])
            chain, about = [other, fact], grammar.name_with(other)
        in_test = len({fact.name for fact in chain}) == 2 or rng.random() < 0.6
        question = grammar.ask(chain[-1], rng.randrange(100), about, in_test)
        question = question[0].upper() + question[1:]
        text = question
        if articles == 0 or in_test or rng.random() < 0.5:
            text = world.question_prompt(question, _options(chain[-1], small, rng))
        if turn == 0:
            text = "".join(f"{p}\n\n" for p in passages) + text
        turns.append({"role": "user", "content": text})
        turns.append({"role": "assistant", "content": _explain(chain, passages, rng)})
    return turns


def _options(fact: Fact, small: world.World, rng: random.Random) -> list[str]:
    """The right value and three others, partly from the same small world, whose articles may be in sight."""
    near = sorted({f.value for facts in small.facts.values() for f in facts if f.attribute == fact.attribute})
    far = list(BY_KEY[fact.attribute].values or world.names("place", archive=False))
    near, far = ([value for value in values if value != fact.value] for values in (near, far))
    wrong = rng.sample(near, min(len(near), rng.randint(0, 2)))
    wrong += rng.sample([value for value in far if value not in wrong], world.OPTIONS - 1 - len(wrong))
    options = [fact.value, *wrong]
    rng.shuffle(options)
    return options


def _explain(chain: list[Fact], passages: list[str], rng: random.Random) -> str:
    """The sentences of the articles that hold the facts, word for word, then the answer."""
    told = {
        found: sentence
        for passage in passages
        for sentence in grammar.sentences(passage)
        if (found := grammar.parse_statement(sentence))
    }
    quoted = [told.get(fact) or grammar.state(fact, rng.randrange(100)) for fact in chain]
    return " ".join([*quoted, f"The answer is {chain[-1].value}."])
