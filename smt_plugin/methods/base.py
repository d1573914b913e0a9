"""What a method is: document and round in, records out, through `complete` and nothing else."""

import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

from smt_plugin.backends.base import Image, Reply
from smt_plugin.backends.loose_json import count_unprintable, printable, read_json
from smt_plugin.backends.thoughts import without_thoughts
from smt_plugin.corpus import Document
from smt_plugin.records import Record
from smt_plugin.sentences import SENTENCE_END

# What a text is taken for before one was seen, in tokens; our guess: a million completions for the 700M tokens of Han
# et al. 2026.
TEXT_TOKENS = 700


_THINKS = (
    "the model thinks: nothing but thoughts came; turn them off by backend.options, "
    "`chat_template_kwargs: {enable_thinking: false}` or `reasoning_effort: none`, or raise max_tokens (see the docs)"
)
# What is lost of replies that are used.
_REPLACED = "character that is a control or half a character, a space in its place"
_CUT_TEXT = "text cut off by max_tokens, kept up to its last whole sentence"
_LOOP = (
    "text that said the same over and over until max_tokens or repetition_detection ended it, kept up to where that "
    "begins; a larger model or a lower max_tokens makes fewer of them"
)
_CUT_ITEM = "item (a pair, a question) cut off by max_tokens or repetition_detection, left out; the whole ones are kept"


class Unparsable(Exception):
    """A reply without the form that was asked for; the message is the reason that is stored and counted."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing to ask of a backend about a document.

    Attributes:
        prompt: `<method>/<step>`.
        variables: what the prompt names beside `identity` and `document`.
        sampling: `temperature`, `top_p`, `max_tokens` (tokens).
        sample: index that tells repeated asks of the same prompt apart.
        parse: turns a reply into a value, or raises Unparsable.
        schema: JSON schema of the reply, for servers that can hold the model to it.
        example: a reply that `parse` takes, and `example_tokens` how long such a reply is likely to be (tokens):
            `smt plan` reckons with them until it has seen replies.
        has_system: whether the system text, which is for writing about the document, goes before the prompt.
        image: goes with the prompt.
    """

    document: Document
    prompt: str
    variables: dict[str, Any]
    sampling: dict[str, Any]
    sample: int
    parse: Callable[[Reply], Any]
    schema: dict[str, Any] | None = None
    example: str = "A text."
    example_tokens: int = TEXT_TOKENS
    has_system: bool = True
    image: Image | None = None

    def read(self, reply: Reply) -> Any:
        """Return the value of a reply, without the thoughts that some models write before it; raises Unparsable."""
        if reply.finish_reason == "content_filter":
            raise Unparsable("cut off by the server's content filter")
        text = without_thoughts(printable(reply.text))
        if text is None:
            raise Unparsable(_THINKS)
        # A document may have such lines of its own.
        if self.parse is parse_text and any(mark not in self.document.text for mark in _ECHO.findall(text)):
            raise Unparsable("repeats the prompt's own marks, such as <document>")
        reason = "length" if self._was_cut(reply, text) else "stop"
        return self.parse(replace(reply, text=text, finish_reason=_LOOPED if _was_loop(reply) else reason))

    def _was_cut(self, reply: Reply, text: str) -> bool:
        # Some servers say "stop" whatever stopped the model.
        full = reply.completion_tokens >= self.sampling.get("max_tokens", math.inf)
        return was_cut(reply) or (full and not _ends_a_sentence(text))

    def losses(self, reply: Reply) -> dict[str, int]:
        """Return what -> how many for what a reply that was used has lost on the way."""
        in_json = self.schema is not None
        lost = {_REPLACED: count_unprintable(reply.text, in_json)}
        # All others cannot have been cut.
        if self._was_cut(reply, reply.text) or (in_json and not reply.text.rstrip().endswith(("}", "]", "```"))):
            text = (without_thoughts(printable(reply.text)) or "").strip()
            if in_json:
                lost[_CUT_ITEM] = int(not _is_whole(text))
            else:
                looped = _was_loop(reply)
                is_shorter = looped or _before_loop(text, _FEWEST_REPEATS) != text
                lost |= {_CUT_TEXT: int(not (looped or _ends_a_sentence(text))), _LOOP: int(is_shorter)}
        return {what: number for what, number in lost.items() if number}

    def text_tokens(self, reply: Reply) -> int:
        """Return the tokens of a usable reply's text, by which budgets count: without those of thoughts."""
        tokens = max(reply.completion_tokens - reply.thought_tokens, 1)
        text = without_thoughts(reply.text) or reply.text
        # Thoughts in the text have their share by length.
        return max(tokens * len(text) // len(reply.text), 1) if len(text) < len(reply.text) else tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed reply and where it came from; `tokens` are those of its text."""

    value: Any
    key: str
    tokens: int
    prompt: str
    prompt_hash: str
    model: str
    sampling: dict[str, Any]


Complete = Callable[[Ask], Awaitable[Answer | None]]
"""Ask once, however often it is called; None when no usable answer came (the reason is in the store)."""


class Method(Protocol):
    """A technique that turns a document into records. Its options are the fields of its dataclass.

    A method that draws from another has that method's options in a field, and names it in
    `uses: ClassVar[dict[str, type]]`: field -> class. Unless its own section of the run file sets the field, the
    options are those of the other method's section.
    """

    name: ClassVar[str]

    async def round(self, document: Document, r: int, complete: Complete) -> list[Record]:
        """Return the records of round `r` (from 0), in a fixed order.

        What it asks depends only on the document's content, its options, `r` and earlier answers.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Sampling options of a method; the defaults are those of Han et al. 2026 (arXiv 2603.23562) for documents."""

    name: ClassVar[str]
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    temperature: float = field(default=0.7, metadata={"help": "sampling temperature, 0 to 2"})
    top_p: float = field(default=0.95, metadata={"help": "nucleus sampling, 0 to 1"})
    max_tokens: int = field(default=4096, metadata={"help": "longest reply, in tokens"})
    seed: int | None = field(default=None, metadata={"help": "sent to the server, plus the sample's number, if set"})

    def __post_init__(self) -> None:
        """Check the options, counts of subclasses included; raises ValueError."""
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}, but must be from 0 to 2")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but must be above 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 2**53:
            raise ValueError(f"seed is {self.seed}, but must be from 0 to 2**53 - 1")
        for option in fields(self):
            value = getattr(self, option.name)
            if option.type is int and value < 1:
                raise ValueError(f"{option.name} is {value}, but must be at least 1")

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters as the OpenAI API names them."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}
        return sampling if self.seed is None else {**sampling, "seed": self.seed}

    def text_ask(self, document: Document, step: str, r: int, **variables: Any) -> Ask:
        """Ask for the free text of `prompts/<name>/<step>.jinja`, for sample `r`."""
        return Ask(document, f"{self.name}/{step}", variables, self.sampling, sample=r, parse=parse_text)


def record_of(method: str, document: Document, r: int, index: int, answer: Answer, **content: Any) -> Record:
    """Make the record of one answer; `content` is `text` or `messages`, and whatever overrides the answer's own."""
    fields: dict[str, Any] = {
        "tokens": answer.tokens,
        "completions": [answer.key],
        "prompt": answer.prompt,
        "prompt_hash": answer.prompt_hash,
        "model": answer.model,
        "sampling": answer.sampling,
    }
    return Record(method=method, doc_id=document.id, part=document.part, round=r, index=index, **(fields | content))


def text_records(
    method: str, document: Document, r: int, answers: Iterable[Answer | None], *sources: Answer, start: int = 0
) -> list[Record]:
    """Make a record of each text that came, numbered from `start` on by its place among `answers`.

    Args:
        sources: the answers that all of them were made from.
    """
    made_from = [source.key for source in sources]
    return [
        record_of(method, document, r, index, answer, text=answer.value, completions=[answer.key, *made_from])
        for index, answer in enumerate(answers, start)
        if answer is not None
    ]


def stable_draw(size: int, *parts: object) -> int:
    """Draw a number from 0 to size - 1 that depends on `parts` alone, on every machine alike."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % size


# How servers call it when a reply ran into its limit of tokens.
_CUT = re.compile(r"length|max_?(\w+_)?tokens|tokens?_limit|incomplete|truncated", re.IGNORECASE)
# How vLLM, from 0.17 on, calls it when its `repetition_detection` ended a reply; it may be in the midst of a sentence.
_LOOPED = "repetition"


def was_cut(reply: Reply) -> bool:
    """Whether a reply ran into `max_tokens`, in any server's words, or was ended since it went round in a loop."""
    return _was_loop(reply) or _CUT.search(reply.finish_reason) is not None


def _was_loop(reply: Reply) -> bool:
    return _LOOPED in reply.finish_reason.lower()


def _what_cut(reply: Reply) -> str:
    return "repetition_detection" if _was_loop(reply) else "max_tokens"


# Characters at the end of a text in which the end of its last sentence is looked for: its sign and quotes behind it.
_LONGEST_END = 100
_LINE = re.compile(r"\n+")
# Sentences at the end of a cut text, all of which came before, that make it a loop: a refrain may come twice.
_FEWEST_REPEATS = 3
# Lines in which the shipped prompts put what they name.
_ECHO = re.compile(r"^</?(?:document|strategy|question)>$", re.MULTILINE)


def _ends_a_sentence(text: str) -> bool:
    tail = text[-_LONGEST_END:].rstrip()
    return any(match.end() == len(tail) for match in SENTENCE_END.finditer(tail))


def parse_text(reply: Reply) -> str:
    """Return a free text; one that was cut off is cut after its last whole sentence, or before a loop.

    Raises:
        Unparsable: it is empty, or was cut or began to loop before its first sentence ended.
    """
    text = reply.text.strip()
    if was_cut(reply):
        # Where the server saw a loop, one sentence that comes again is the loop's.
        before = _before_loop(text, 1 if _was_loop(reply) else _FEWEST_REPEATS)
        ends = list(SENTENCE_END.finditer(before))
        if not ends and before != text:
            raise Unparsable(f"says the same over and over until {_what_cut(reply)}")
        if not ends:
            raise Unparsable(f"cut off by {_what_cut(reply)} before a first sentence ended")
        text = before[: ends[-1].end()]
    if not text:
        raise Unparsable("empty reply")
    return text


def repeats_itself(reply: Reply) -> bool:
    """Whether a reply was cut while it only said over and over what had come before."""
    fewest = 1 if _was_loop(reply) else _FEWEST_REPEATS
    return was_cut(reply) and _before_loop(reply.text, fewest) != reply.text


def _before_loop(text: str, fewest: int) -> str:
    """Return a cut text up to where nothing but sentences and lines that have come before follows, if so many do."""
    ends = {match.end() for match in SENTENCE_END.finditer(text)} | {match.end() for match in _LINE.finditer(text)}
    seen: set[str] = set()
    repeats = loop = at = 0
    for end in sorted(ends):
        sentence = text[at:end].strip()
        if sentence in seen:
            repeats += 1
        elif sentence:
            seen.add(sentence)
            repeats, loop = 0, end
        at = end
    return text[:loop] if repeats >= fewest else text


def parse_json(reply: Reply, keep_whole: bool = False) -> Any:
    """Return the value of a reply in JSON, as `read_json` does; raises Unparsable.

    Args:
        keep_whole: of a reply that breaks off, return the list items that are whole.
    """
    try:
        return read_json(reply.text, keep_whole)
    except ValueError:
        raise Unparsable(f"JSON cut off by {_what_cut(reply)}" if was_cut(reply) else "not JSON") from None


def _is_whole(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def parse_items(reply: Reply, name: str, field: str) -> list[Any]:
    """Return the whole items of `{name: [...]}`, or of objects without that shell, which have a `field`.

    Raises:
        Unparsable: there are none.
    """
    value = parse_json(reply, keep_whole=True)
    if isinstance(value, dict):
        value = value.get(name, [value] if field in value else None)
    elif isinstance(value, list) and not any(isinstance(item, dict) for item in value):
        value = None
    if not isinstance(value, list):
        raise Unparsable(f'no list "{name}"')
    return value


def json_object(**properties: Any) -> dict[str, Any]:
    """JSON schema of an object with exactly these properties, each given by its own schema."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def json_list(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    """JSON schema of a list of `least` to `most` items."""
    return {"type": "array", "minItems": least, "maxItems": most, "items": items}


def json_text(most: int) -> dict[str, Any]:
    """JSON schema of a text of 1 to `most` characters: the bound stops a model that rambles."""
    return {"type": "string", "minLength": 1, "maxLength": most}
