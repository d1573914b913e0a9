"""A backend that needs no model: it reads the document out of the prompt it is sent and answers the prompt.

It knows the microworld's grammar and nothing else: the facts come from parsing the text between the
<document> tags, what is asked comes from the prompt's name and variables. The same request gets the same answer.
"""

import hashlib
import json
import random
import re

from smt_plugin.backends.base import Keep, Reply, Request
from smt_plugin.errors import BadInput
from smt_plugin.microworld import grammar
from smt_plugin.microworld.grammar import Fact
from smt_plugin.microworld.words import BY_KEY, STYLES, Style
from smt_plugin.microworld.world import names

_PLAIN = Style("", "", "")
# SPA's prompts, each in the style that comes nearest to it.
_SPA = {
    "spa/key_concepts": "Drill the details",
    "spa/mind_map": "List the facts",
    "spa/implications": "Retell as a portrait",
    "spa/critical_questions": "Hold an interview",
    "spa/case_study": "Recall from memory",
    "spa/discussion": "Say everything twice",
    "spa/teacher": "Give a short lecture",
}


class ScriptedBackend:
    """Answers the prompts of the methods about the microworld's documents.

    Args:
        strength: 0 to 1, how good the pretended generator is. It sets the share of facts a reply covers
            (0.4 to 1), the share of the grammar's wordings it uses (1/4 to all), and how often it states
            something wrong or sends a reply of the wrong form (10 % each at 0, never at 1).
        question_coverage: over 0 to 1, the share of a document's facts that its questions are ever about. Which these
            are is fixed by the facts themselves; all others stand in the documents that it writes, and nowhere else.
        error_rate: 0 to 1, how often it tells a fact wrongly, beside what its strength does: with a value of the same
            kind that is the same each time, as if it had misread that passage.

    As a judge of claims it is right whatever its strength.
    """

    def __init__(self, strength: float = 0.9, question_coverage: float = 1.0, error_rate: float = 0.0) -> None:
        if not 0 <= strength <= 1:
            raise BadInput(f"the scripted backend's strength is {strength}; give a number from 0 to 1.")
        self.strength = strength
        self.question_coverage = question_coverage
        self.error_rate = error_rate
        self.model = f"microworld-scripted-{strength:g}"
        if question_coverage < 1:
            self.model += f"-questions-{question_coverage:g}"
        if error_rate > 0:
            self.model += f"-errors-{error_rate:g}"
        self.concurrency = 8
        self._share = 0.25 + 0.75 * strength

    async def start(self) -> None:
        """Nothing to check."""

    async def complete(self, request: Request, keep: Keep | None = None) -> Reply:
        """Answer one request.

        Raises:
            BadInput: the prompt holds no document of the microworld, or is none that this backend knows.
        """
        rng = random.Random(json.dumps([request.messages, request.sampling, request.sample], sort_keys=True))
        text = self._answer(request, rng)
        if rng.random() < 0.1 * (1 - self.strength):
            text = "I am sorry, I lost the thread."
        prompt_tokens = sum(_words(message["content"]) for message in request.messages)
        reply = Reply(text, "stop", prompt_tokens, 0, _words(text))
        if keep is not None:
            await keep(reply)
        return reply

    has_room = True
    context = None

    async def cache_use(self) -> None:
        """There is no cache."""

    async def close(self) -> None:
        """Nothing to close."""

    def _answer(self, request: Request, rng: random.Random) -> str:
        # In the first of the user's messages, where one is asked again.
        asked = next(message["content"] for message in request.messages if message["role"] == "user")
        document = re.search(r"<document>(.*?)</document>", asked, flags=re.DOTALL)
        told = grammar.sentences(document[1]) if document else []
        facts = [fact for sentence in told if (fact := grammar.parse_statement(sentence))]
        if not facts:
            raise BadInput(
                "the scripted backend only knows the microworld's documents; "
                "set `backend` to a real endpoint for your own corpus."
            )
        if request.prompt == "audit/claims":
            return _verdicts(request.variables["claims"], facts)
        if request.prompt == "synthetic_qa/pairs":
            facts = salient(facts, self.question_coverage)
        facts = self._perceive(facts, rng)
        match request.prompt, request.variables:
            case "synthetic_qa/pairs", {"num_pairs": number}:
                return self._pairs(facts, number, rng)
            case "active_reading/strategies", _:
                return self._strategies(facts[0].name, rng)
            case "active_reading/apply", {"strategy": strategy}:
                return self._rewrite(facts, strategy, None, rng)
            case "focal_rewrite/apply", {"strategy": strategy, "query": question}:
                return self._rewrite(facts, strategy, question, rng)
            case "wrap/rewrite", _:
                return rewrite(facts, _PLAIN, None, rng, self._share)
            case "entigraph/entities", {"max_entities": most}:
                summary = rewrite(facts[: len(facts) // 2 + 1], _PLAIN, None, rng, self._share)
                entities = [facts[0].name, *dict.fromkeys(fact.value for fact in facts)]
                return json.dumps({"summary": summary, "entities": entities[:most]})
            case (("entigraph/pair" | "entigraph/triple"), entities):
                about = [fact for fact in facts if fact.value in entities.values()] or facts[: len(entities)]
                return self._rewrite(about, "Say everything twice", None, rng)
            case prompt, _ if prompt in _SPA:
                return self._rewrite(facts, _SPA[prompt], None, rng)
        raise BadInput("the scripted backend does not know what this prompt asks for; use a real endpoint.")

    def _perceive(self, facts: list[Fact], rng: random.Random) -> list[Fact]:
        """The facts this reply knows of, in random order, some wrong when strength is low."""
        covered = max(1, round(len(facts) * (0.4 + 0.6 * self.strength)))
        seen = []
        for fact in rng.sample(facts, covered):
            others = [value for value in BY_KEY[fact.attribute].values if value != fact.value]
            if others and rng.random() < 0.1 * (1 - self.strength):
                fact = Fact(fact.name, fact.attribute, rng.choice(others))
            # Only where there is a rate, so that nothing else is drawn otherwise without one.
            elif self.error_rate and rng.random() < self.error_rate:
                fact = misread(fact)
            seen.append(fact)
        return seen

    def _pairs(self, facts: list[Fact], number: int, rng: random.Random) -> str:
        """QA pairs over the facts; a quarter of the questions name the subject by a second fact."""
        pairs = []
        for i in range(min(number, 2 * len(facts))):
            fact = facts[i % len(facts)]
            other = rng.choice([f for f in facts if f is not fact] or [fact])
            joined = other is not fact and (i >= len(facts) or rng.random() < 0.25)
            about = grammar.name_with(other) if joined else None
            question = grammar.ask(fact, _wording(rng, self._share), about)
            answer = grammar.explain([other, fact] if joined else [fact], _wording(rng, self._share))
            pairs.append({"question": question, "answer": answer})
        return json.dumps({"pairs": pairs})

    def _strategies(self, name: str, rng: random.Random) -> str:
        number = 2 + round(4 * self.strength)
        chosen = rng.sample(STYLES, number)
        return "\n\n".join(f"## {style.heading}\n{style.advice.format(n=name)}." for style in chosen)

    def _rewrite(self, facts: list[Fact], strategy: str, focus: str | None, rng: random.Random) -> str:
        style = next((style for style in STYLES if style.heading in strategy), None) or rng.choice(STYLES)
        return rewrite(facts, style, focus, rng, self._share)


def salient(facts: list[Fact], share: float) -> list[Fact]:
    """Return the share of a document's facts that questions are about, one at least, in the order given."""
    names = {fact.attribute: hashlib.sha256(f"{fact.name} {fact.attribute}".encode()).digest() for fact in facts}
    chosen = sorted(names, key=lambda name: names[name])[: max(1, round(share * len(names)))]
    return [fact for fact in facts if fact.attribute in chosen]


def misread(fact: Fact) -> Fact:
    """Return a fact with a wrong value of its attribute in place of the right one; always the same."""
    others = sorted({*(BY_KEY[fact.attribute].values or names("place", archive=True))} - {fact.value})
    digest = hashlib.sha256(f"misread {fact.name} {fact.attribute} {fact.value}".encode()).digest()
    return Fact(fact.name, fact.attribute, others[int.from_bytes(digest[:8], "big") % len(others)])


def _verdicts(claims: list[str], facts: list[Fact]) -> str:
    """The judge's reply: whether these facts bear out what each claim states in the grammar."""
    known = {fact.attribute: fact.value for fact in facts}
    rows = []
    for number, claim in enumerate(claims, start=1):
        # What stands before a statement, as "Answer: " or a style's words, is none.
        tails = [sentence.rpartition(": ")[2] for sentence in grammar.sentences(claim)]
        told = [fact for tail in tails if (fact := grammar.parse_statement(tail))]
        wrong = [fact for fact in told if known.get(fact.attribute) != fact.value]
        why = f"{wrong[0].attribute}: {known.get(wrong[0].attribute, 'not told')}" if wrong else "as the document says"
        verdict = "contradicted" if wrong else "supported" if told else "no_claim"
        rows.append({"number": number, "why": why, "verdict": verdict})
    return json.dumps({"verdicts": rows})


def rewrite(facts: list[Fact], style: Style, focus: str | None, rng: random.Random, wordings: float = 1.0) -> str:
    """Rewrite facts about one subject in a style, in the order given.

    Args:
        focus: a question; the fact that answers it is told first and three times, the others once. With no
            such question, or one about somebody else, every fact is told as often as the style says.
        wordings: share of the grammar's wordings that are used.
    """
    asked = grammar.parse_question(focus) if focus else None
    focal = [fact for fact in facts if asked == (fact.name, fact.attribute)]
    told = focal * 3 + [fact for fact in facts if fact not in focal] if focal else facts * style.times
    lines = [
        style.opening.format(n=facts[0].name),
        *(rng.choice(style.marks) + grammar.state(fact, _wording(rng, wordings)) for fact in told),
        style.closing.format(n=facts[0].name),
    ]
    return ("\n" if style.marks == ("- ",) else " ").join(line for line in lines if line)


def _wording(rng: random.Random, share: float) -> int:
    """Draw the number of a wording from the first `share` of the banks; the grammar wraps it."""
    return rng.randrange(max(1, round(8 * share)))


def _words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))
