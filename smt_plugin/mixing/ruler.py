"""The target model's tokenizer as a measure: how long a text is in training, and where to cut one that is too long."""

import hashlib
import re
from bisect import bisect_left
from typing import Any

import regex

from smt_plugin.control_tokens import defuse
from smt_plugin.errors import BadInput, first_line, require
from smt_plugin.sentences import SCRIPTS_END

# Where a text is best cut: after Latin stops with closing quotes and white space, other scripts' ends, paragraphs; else
# after any line, which may end in mid-sentence.
SENTENCE_ENDS = (
    regex.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*\\s+|" + SCRIPTS_END + "\\s*|\\n\\s*\\n\\s*", regex.VERSION1),
    regex.compile("\\n+"),
)
# How a token begins that is no word.
_SIGN = re.compile(r"[^\w\s]")
# One dialogue in so many is rendered by the template itself, to check the short cut.
_CHECK_EVERY = 64
# So few texts that their codes stay in the processor's cache.
_AT_ONCE = 64


class RefusedDialogue(BadInput):
    """The chat template refuses a dialogue for its roles or contents; it may take others."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class Ruler:
    """Counts tokens as axolotl will train them, and cuts what is longer than `sequence_len` tokens.

    Raises:
        BadInput: the tokenizer cannot be loaded, is not a fast one or has no EOS token.
    """

    def __init__(self, name: str, sequence_len: int) -> None:
        transformers = require("transformers", "train")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        # Each kind of broken file has an error of its own.
        except Exception as error:
            raise BadInput(
                f"tokenizer {name}: cannot be loaded ({first_line(error)}); give the target model's folder or hub name."
            ) from None
        if not tokenizer.is_fast or tokenizer.eos_token is None:
            raise BadInput(f"tokenizer {name}: a fast tokenizer (tokenizer.json) with an EOS token is needed.")
        self.name, self.sequence_len = name, sequence_len
        if isinstance(tokenizer.chat_template, dict):
            raise BadInput(
                f"tokenizer {name}: it has several chat templates ({', '.join(tokenizer.chat_template)}), and axolotl "
                "takes no such one; keep one (tokenizer.chat_template = tokenizer.chat_template['default']), save the "
                "tokenizer to a folder, and give that as mix.tokenizer."
            )
        self._tokenizer = tokenizer
        self._rust = tokenizer.backend_tokenizer
        self._rust.no_truncation()
        self._rust.no_padding()
        self._adds_eos = self._rust.encode("a").ids[-1] == tokenizer.eos_token_id
        self._added = len(self._rust.encode("a").ids) - len(self._rust.encode("a", add_special_tokens=False).ids)
        declared = self._rust.get_added_tokens_decoder().values()
        self._frames: dict[tuple[str, ...], list[str] | None] = {}
        self._rendered = 0
        # Some templates write turns with tokens that are not declared special.
        turns = self._dialogue()
        acting = {token.content for token in declared if token.special}
        acting |= {token.content for token in declared if _SIGN.match(token.content) and token.content in turns}
        # A token inside a longer one is broken up with it, so the longest come first.
        self._special = sorted(filter(str.strip, acting), key=lambda token: (-len(token), token))
        self._special_starts = {token[0] for token in self._special} | {"<", "["}
        template = tokenizer.chat_template or ""
        self.fingerprint = hashlib.sha256(f"{self._rust.to_str()}{template}".encode()).hexdigest()

    @property
    def has_chat_template(self) -> bool:
        """Whether dialogues can be written; the tokenizers of base models mostly have no chat template."""
        return bool(self._tokenizer.chat_template)

    def defused(self, text: str) -> str:
        """The text with every chat-control token, and every token that this tokenizer declares special, broken up."""
        for start in self._special_starts:
            if start in text:
                return defuse(text, self._special)
        return text

    def render(self, roles: list[str], contents: list[str]) -> str:
        """A dialogue in the model's chat template.

        Templates take most of the time of a mix. So what a template puts around the contents of a kind of dialogue is
        found out once; contents that a template might treat in a way of its own (with white space at an end, or with
        marks such as <think>) go through the template itself, and so does one dialogue in 64, as a check.
        """
        kind = tuple(roles)
        if kind not in self._frames:
            self._frames[kind] = self._frame(roles)
        frame = self._frames[kind]
        self._rendered += 1
        if frame is None:
            return self._by_template(roles, contents)
        pieces: list[str] = []
        for before, content in zip(frame, contents, strict=False):
            if not content or "<" in content or content != content.strip():
                return self._by_template(roles, contents)
            pieces += (before, content)
        text = "".join([*pieces, frame[-1]])
        if self._rendered % _CHECK_EVERY == 1:
            rendered = self._by_template(roles, contents)
            if rendered != text:
                self._frames[kind] = None
            return rendered
        return text

    def _frame(self, roles: list[str]) -> list[str] | None:
        """What stands before, between and after the contents of such a dialogue; None if that varies.

        Raises:
            RefusedDialogue: the template refuses it, or leaves out what the user or the assistant says.
        """
        marks = [f"mark{number}here" for number in range(len(roles))]
        rest = self._by_template(roles, marks)
        for role, mark in zip(roles, marks, strict=True):
            if role in ("user", "assistant") and mark not in rest.lower():
                raise self._refused(f"leaves out what the {role} says")
        frame = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                return None
            frame.append(before)
        return [*frame, rest]

    def _by_template(self, roles: list[str], contents: list[str]) -> str:
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False)
        # A template is a program, which may fail in any way.
        except Exception as error:
            raise self._refused(f"refuses a dialogue of {', '.join(roles)} ({first_line(error)})") from None
        return text

    def _refused(self, why: str) -> RefusedDialogue:
        return RefusedDialogue(
            f"tokenizer {self.name}: its chat template {why}; take another tokenizer, or do without dialogues: "
            "`mix.qa_form: text`, and replay that has `text` instead of `messages`.",
            f"the chat template {why}",
        )

    def chats(self, rendered: list[str]) -> list[int]:
        """Tokens of each dialogue, as `render` gave it."""
        return self._lengths(rendered, add_special_tokens=False)

    def texts(self, texts: list[str]) -> list[int]:
        """Tokens of each text, with what the tokenizer adds and one EOS at the end."""
        lengths = self._lengths(texts, add_special_tokens=True)
        if self._adds_eos:
            return lengths
        eos = self._tokenizer.eos_token
        return [length + (not text.endswith(eos)) for text, length in zip(texts, lengths, strict=True)]

    def _lengths(self, texts: list[str], add_special_tokens: bool) -> list[int]:
        return [
            len(code)
            for begin in range(0, len(texts), _AT_ONCE)
            for code in self._rust.encode_batch_fast(
                texts[begin : begin + _AT_ONCE], add_special_tokens=add_special_tokens
            )
        ]

    def cut(self, text: str) -> list[str]:
        """Cut a text that is too long into pieces of like length, at sentence ends where there are any."""
        room = self.sequence_len - self._added - (not self._adds_eos)
        starts = [start for start, _ in self._rust.encode(text, add_special_tokens=False).offsets]
        if len(starts) <= room:
            return [text]
        kinds = [[match.end() for match in pattern.finditer(text)] for pattern in SENTENCE_ENDS]
        # Tokens that begin before each end of a sentence, or of a line.
        counts_of = [[bisect_left(starts, end) for end in ends] for ends in kinds]
        bounds, done = [0], 0
        while len(starts) - done > room:
            parts_left = -(-(len(starts) - done) // room)
            goal = done - (-(len(starts) - done) // parts_left)
            for ends, counts in zip(kinds, counts_of, strict=True):
                # The first end past the goal keeps the pieces alike; else the last one before it.
                index = bisect_left(counts, goal)
                if index == len(counts) or counts[index] > done + room:
                    index -= 1
                if index >= 0 and counts[index] > done:
                    bounds.append(ends[index])
                    done = counts[index]
                    break
            else:
                done = goal
                bounds.append(starts[done])
        pieces = [text[start:end].strip() for start, end in zip(bounds, [*bounds[1:], len(text)], strict=True)]
        # A piece on its own may come out some tokens longer than as a part of the whole.
        return [part for piece in pieces if piece for part in self.cut(piece)]

    def report(self) -> dict[str, Any]:
        """What the training config must agree with."""
        return {
            "name": self.name,
            "sha256": self.fingerprint,
            "eos_token": self._tokenizer.eos_token,
            "pad_token": self._tokenizer.pad_token,
            "turn_end": self._turn_end(),
            "has_chat_template": self.has_chat_template,
        }

    def _dialogue(self) -> str:
        """A question `a` and its `answer` in the chat template; empty without one that can write them."""
        if not self.has_chat_template:
            return ""
        try:
            return self._by_template(["user", "assistant"], ["a", "answer"])
        # A mix with dialogues says so; one without needs no template.
        except BadInput:
            return ""

    def _turn_end(self) -> str | None:
        """The special token with which the chat template closes the assistant's turn; None without a usable one."""
        _, *tails = re.split("answer", self._dialogue(), flags=re.IGNORECASE)
        tail = tails[-1] if tails else ""
        special = self._rust.get_added_tokens_decoder().values()
        found = [(tail.index(token.content), token.content) for token in special if token.content in tail]
        return min(found)[1] if found else None
