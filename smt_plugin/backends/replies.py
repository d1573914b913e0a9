"""Read what a server answered: a chat completion in any of the forms that servers give it."""

import math
from typing import Any

from smt_plugin.backends.base import Reply
from smt_plugin.backends.loose_json import read_body

# The fields in which servers leave thoughts beside the content.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# More tokens than any model reads and writes in one call (the longest contexts have ten million): larger counts are
# none. Characters of a reason to end that are kept.
_MOST_READ, _MOST_WRITTEN, _LONGEST_REASON = 2**24, 2**20, 100
# Tokens that a server may count beside those of the text, such as the one that ends it.
_BESIDE_TEXT = 16


def read_reply(content: bytes) -> Any:
    """Return the chat completion that a response's bytes hold: one JSON value, or a stream of events put together.

    Raises:
        ValueError: neither, or a stream that breaks off.
    """
    if content.lstrip()[:6].startswith((b"data:", b"event:", b":")):
        return _of_events(content)
    return read_body(content)


def _of_events(content: bytes) -> dict[str, Any]:
    """Put the chunks of a stream of events together; some servers stream to those who did not ask for it."""
    texts: dict[str, list[str]] = {name: [] for name in ("content", *_THOUGHTS)}
    finish_reason = usage = None
    whole = False
    for line in content.splitlines():
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        whole |= data == b"[DONE]"
        event = read_body(data) if data.startswith(b"{") else {}
        if event.get("error"):
            return event  # type: ignore[no-any-return]
        usage = _object(event.get("usage")) or usage
        for choice in _choices(event):
            # Those of other choices come between.
            if choice.get("index") in (0, None):
                part = _object(choice.get("delta")) or _object(choice.get("message"))
                texts["content"].append(_text_of(part.get("content")))
                for name in _THOUGHTS:
                    texts[name].append(_string(part.get(name)))
                finish_reason = choice.get("finish_reason") or finish_reason
    if not whole and finish_reason is None:
        raise ValueError("a stream that breaks off")
    message = {name: "".join(found) for name, found in texts.items()}
    return {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}


def reply_of(body: dict[str, Any]) -> Reply:
    """Read an OpenAI chat completion; raises KeyError, IndexError, TypeError or AttributeError if it is none.

    Whatever else is odd in it, a text is taken. Thoughts beside an empty content are its text, in the marks that
    thoughts have. Where a server counts no tokens, or more than the text can have, the text has one for every four
    bytes; what is counted beyond is taken for thoughts that are not shown.
    """
    choice = next((each for each in _choices(body) if isinstance(each.get("message"), dict)), {})
    message = choice["message"]
    text = _text_of(message.get("content"))
    if not text.strip():
        thoughts = next(filter(None, (message.get(name) for name in _THOUGHTS)), "")
        text = f"<think>{thoughts}" if isinstance(thoughts, str) and thoughts.strip() else text
    finish_reason = _string(choice.get("finish_reason"))[:_LONGEST_REASON] or "stop"
    # vLLM says so of requests that it drops; they have to be asked again.
    if finish_reason in ("abort", "error"):
        raise KeyError(finish_reason)
    usage = _object(body.get("usage"))
    prompt_tokens = _count(usage.get("prompt_tokens"), _MOST_READ)
    cached_tokens = _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens"), _MOST_READ)
    # Some servers leave those out of the prompt's.
    if cached_tokens > prompt_tokens > 0:
        prompt_tokens += cached_tokens
    size = len(text.encode())
    counted = _count(usage.get("completion_tokens"), _MOST_WRITTEN)
    completion_tokens = counted or math.ceil(size / 4)
    beside = next((said for name in _THOUGHTS if (said := _string(message.get(name)))), "")
    # Without a count of theirs, thoughts beside a text have their share of the tokens by length.
    has_both = bool(beside and message.get("content"))
    share = completion_tokens * len(beside) // (len(beside) + len(text)) if has_both else 0
    details = _object(usage.get("completion_tokens_details"))
    thought_tokens = _count(details.get("reasoning_tokens"), _MOST_WRITTEN) or share
    # And some servers leave them out of the completion's.
    if thought_tokens > completion_tokens:
        completion_tokens += thought_tokens
    # No tokenizer makes more tokens of a text than it has bytes.
    fits = completion_tokens - thought_tokens <= size + _BESIDE_TEXT
    return Reply(
        text=text,
        finish_reason=finish_reason,
        prompt_tokens=prompt_tokens,
        cached_tokens=min(cached_tokens, prompt_tokens),
        completion_tokens=completion_tokens,
        thought_tokens=thought_tokens if fits else completion_tokens - math.ceil(size / 4),
        is_counted=bool(prompt_tokens and counted and fits),
    )


def _choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    return [each for each in (choices if isinstance(choices, list) else [choices]) if isinstance(each, dict)]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _text_of(content: Any) -> str:
    """Return a content as one text: a string, null, or a list of parts, thoughts among them in their marks."""
    if isinstance(content, list):
        return "".join(map(_text_of_part, content))
    if content is not None and not isinstance(content, str):
        raise TypeError("the content is not a text")
    return content or ""


def _text_of_part(part: dict[str, Any]) -> str:
    """Mistral sends {type: thinking, thinking: [parts]}, others {type: reasoning, text: ...}, before {type: text}."""
    kind = part.get("type", "text")
    text = _text_of(part.get("text") or part.get(kind))
    return f"<think>{text}</think>" if kind in (*_THOUGHTS, "thought") else text


def _count(value: Any, most: int) -> int:
    """Return a server's count of tokens, or 0 where it is none that can be."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 < value <= most else 0
