"""What a server's own numbers and texts contradict: prompts that it cuts, and samples that are no samples."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import replace

from smt_plugin.backends.base import Backend, BackendDown, Deferred, Refused, Reply, Request
from smt_plugin.generation.completions import Completion

# Tokens of a character that a tokenizer with a large vocabulary makes of English, before a call has told better.
_USUAL = 0.25
# Calls that tell it, and documents whose prompts are cut before a run stops.
_FIRST_CALLS, _MOST_CUT = 20, 3
# No server's context is smaller; what counts less does not count prompts, or only what was not in its cache.
_LEAST_CONTEXT = 256
# A prompt half as long that counts so nearly the same was cut, too.
_SAME = 0.95
# Shorter texts may well come twice.
_LEAST_REPEATED = 100
# Equal texts of the last comparisons of a prompt, and their share, with which samples are none.
_MOST_EQUAL, _EQUAL_SHARE, _COMPARED = 3, 0.5, 20
# Tokens of a prompt beside its document, with room to spare.
_INSTRUCTIONS = 1000
# Prompts and documents that are remembered: more than are in flight.
_MOST_REMEMBERED = 10_000


def fitting(max_document_tokens: int, context: int | None, longest_reply: int) -> int:
    """Return how many tokens a document may have that fits into a server's context beside instructions and a reply."""
    if context is None:
        return max_document_tokens
    # Not all servers keep room for the longest reply.
    return min(max_document_tokens, max(context - longest_reply - _INSTRUCTIONS, context // 4))


class Cut(RuntimeError):
    """The server cuts prompts; the message says how it can be told, and the mend."""


class Repeated(RuntimeError):
    """The server gives the same text for every sample of a prompt; the message names the prompt and the mend."""


class CutPrompts:
    """Tells whether a server reads less of its prompts than it is sent, by its own count of their tokens.

    A call is suspected if it counts less than half the tokens that its characters make in the first calls. Then a
    prompt half as long is sent: if that counts as much, both were cut.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._usual = _USUAL
        self._calls = 0
        # Document and part -> whether its prompts are cut; and those of which a whole prompt was counted.
        self._asked: OrderedDict[str, asyncio.Task[bool]] = OrderedDict()
        self._whole: OrderedDict[str, None] = OrderedDict()
        # Document -> tokens that the server counted.
        self._cut: dict[str, int] = {}

    @property
    def limit(self) -> int | None:
        """What every cut prompt counts, in tokens; None where that varies."""
        counts = set(self._cut.values())
        return counts.pop() if len(counts) == 1 else None

    def suspects(self, request: Request, reply: Reply) -> bool:
        """Whether a call counts so few tokens that its prompt may have been cut.

        Of a document of which a whole prompt was counted, others may be in the server's cache in part and not counted.
        """
        read = reply.prompt_tokens
        if read < _LEAST_CONTEXT:
            return False
        per_character = read / _characters(request)
        self._calls += 1
        if self._calls <= _FIRST_CALLS:
            self._usual = max(self._usual, per_character)
        if per_character < self._usual / 2:
            return request.affinity not in self._whole
        self._whole[request.affinity] = None
        if len(self._whole) > _MOST_REMEMBERED:
            self._whole.popitem(last=False)
        return False

    async def reason(self, request: Request, reply: Reply) -> str:
        """Return what is wrong with a suspected call, or nothing if its text has so few tokens indeed."""
        expected = _characters(request) * self._usual
        if request.affinity not in self._asked:
            self._asked[request.affinity] = asyncio.create_task(self._is_cut(request, reply.prompt_tokens))
            if len(self._asked) > _MOST_REMEMBERED:
                self._asked.popitem(last=False)
        if not await asyncio.shield(self._asked[request.affinity]):
            self._usual = min(self._usual, reply.prompt_tokens / _characters(request))
            self._calls = _FIRST_CALLS
            return ""
        self._cut[request.affinity.partition("\0")[0]] = reply.prompt_tokens
        return f"the server read {reply.prompt_tokens:,} tokens of a prompt of about {expected:,.0f}"

    async def _is_cut(self, request: Request, read: int) -> bool:
        *others, last = request.messages
        half = {**last, "content": last["content"][: len(last["content"]) // 2]}
        shorter = replace(
            request, messages=[*others, half], sampling={**request.sampling, "max_tokens": 16}, schema=None
        )
        try:
            reply = await self._backend.complete(shorter)
        except (Refused, Deferred, BackendDown):
            return False
        return reply.prompt_tokens > read * _SAME

    def check(self, reason: str) -> None:
        """Raise Cut if prompts about several documents were cut; `reason` is of the last one."""
        if len(self._cut) >= _MOST_CUT:
            raise Cut(
                f"{reason}, and no more of others: it cuts what does not fit into its context, without a word. Nothing "
                "of this goes into the records. Raise the server's context (Ollama: OLLAMA_CONTEXT_LENGTH or num_ctx; "
                "llama.cpp: --ctx-size; LM Studio: the context length; others: the largest prompt), or lower "
                "max_document_tokens"
            )

    async def close(self) -> None:
        """Wait for what was asked."""
        await asyncio.gather(*self._asked.values(), return_exceptions=True)


def _characters(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)


class Repeats:
    """Tells whether a server gives the same text again for other samples of the same prompt.

    Attributes:
        keys: prompt -> the completions of this call that repeat another one's text.
    """

    def __init__(self) -> None:
        # Hash of a prompt as it was sent -> hashes of the texts that came.
        self._texts: OrderedDict[int, set[int]] = OrderedDict()
        self._compared: dict[str, deque[bool]] = {}
        self._stopped: dict[str, str] = {}
        self.keys: dict[str, list[str]] = {}

    def note(self, request: Request, completion: Completion, is_new: bool) -> bool:
        """Compare a text with those of the other samples; only what is new tells something of the server now.

        Returns:
            Whether it is known by now that the server repeats itself, and this text is such a repetition.
        """
        text = completion.reply.text
        if len(text) < _LEAST_REPEATED:
            return False
        prompt = hash(tuple(message["content"] for message in request.messages))
        texts = self._texts.setdefault(prompt, set())
        self._texts.move_to_end(prompt)
        if len(self._texts) > _MOST_REMEMBERED:
            self._texts.popitem(last=False)
        is_equal, is_first = hash(text) in texts, not texts
        texts.add(hash(text))
        if not is_new or is_first:
            return False
        compared = self._compared.setdefault(request.prompt, deque(maxlen=_COMPARED))
        compared.append(is_equal)
        if is_equal:
            self.keys.setdefault(request.prompt, []).append(completion.key)
        equal = sum(compared)
        if equal >= _MOST_EQUAL and equal >= _EQUAL_SHARE * len(compared):
            self._stopped[request.prompt] = (
                f"{request.prompt}: the server gave the same text again for {equal} of {len(compared)} other samples "
                "of a prompt; it has a fixed seed, a cache of replies before it, temperature 0, or never samples: turn "
                "that off (see docs/servers.md), and run the same command again"
            )
        return is_equal and request.prompt in self._stopped

    def check(self, prompt: str) -> None:
        """Raise Repeated if the samples of a prompt are none."""
        if prompt in self._stopped:
            raise Repeated(self._stopped[prompt])
