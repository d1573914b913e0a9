"""Read what a server answered: a chat completion in any of the forms that servers give it."""

import math
from typing import Any

from smt_plugin.backends.base import Reply
from smt_plugin.backends.loose_json import read_body

# The fields in which servers leave thoughts beside the content.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


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
        usage = event.get("usage") or usage
        for choice in (event.get("choices") or [])[:1]:
            part = choice.get("delta") or choice.get("message") or {}
            for name in texts:
                texts[name].append(_text_of(part.get(name)) if name == "content" else part.get(name) or "")
            finish_reason = choice.get("finish_reason") or finish_reason
    if not whole and finish_reason is None:
        raise ValueError("a stream that breaks off")
    message = {name: "".join(found) for name, found in texts.items()}
    return {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}


def reply_of(body: dict[str, Any]) -> Reply:
    """Read an OpenAI chat completion; raises KeyError, IndexError, TypeError or AttributeError if it is none.

    Thoughts beside an empty content are its text, in the marks that thoughts have. Where a server counts no tokens,
    one is assumed for every four bytes.
    """
    choice = body["choices"][0]
    message = choice["message"]
    text = _text_of(message.get("content"))
    if not text.strip():
        thoughts = next(filter(None, (message.get(name) for name in _THOUGHTS)), "")
        text = f"<think>{thoughts}" if isinstance(thoughts, str) and thoughts.strip() else text
    finish_reason = choice.get("finish_reason") or "stop"
    # vLLM says so of requests that it drops; they have to be asked again.
    if finish_reason in ("abort", "error"):
        raise KeyError(finish_reason)
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    prompt_tokens = _count(usage.get("prompt_tokens"), 0)
    cached_tokens = _count(details.get("cached_tokens"), 0)
    # Some servers leave those out of the prompt's.
    if cached_tokens > prompt_tokens > 0:
        prompt_tokens += cached_tokens
    completion_tokens = _count(usage.get("completion_tokens"), math.ceil(len(text.encode()) / 4))
    beside = next((said for name in _THOUGHTS if isinstance(said := message.get(name), str)), "")
    # Without a count of theirs, thoughts beside a text have their share of the tokens by length.
    has_both = bool(beside and message.get("content"))
    share = completion_tokens * len(beside) // (len(beside) + len(text)) if has_both else 0
    thought_tokens = _count((usage.get("completion_tokens_details") or {}).get("reasoning_tokens"), share)
    # And some servers leave them out of the completion's.
    if thought_tokens > completion_tokens:
        completion_tokens += thought_tokens
    return Reply(
        text=text,
        finish_reason=str(finish_reason),
        prompt_tokens=prompt_tokens,
        cached_tokens=min(cached_tokens, prompt_tokens),
        completion_tokens=completion_tokens,
        thought_tokens=thought_tokens,
    )


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


def _count(value: Any, otherwise: int) -> int:
    """Return a server's count of tokens, or `otherwise` where it is not a valid count."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else otherwise
