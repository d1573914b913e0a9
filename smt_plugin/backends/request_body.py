"""What is sent for a request: the fields that we set, as the user's options and the server's refusals shape them.

None of that is part of a completion's key, so that no change of it makes anybody pay twice.
"""

from base64 import b64encode
from collections.abc import Collection
from typing import Any

from smt_plugin.backends.base import Request, with_options

# Not a field of its own, but left out like one: its text then stands in the user's turn.
SYSTEM = "system"
SCHEMA = "response_format"
# What newer models of OpenAI call the limit.
NEWER_LIMIT = "max_completion_tokens"


def request_body(
    request: Request, model: str, options: dict[str, Any], left_out: Collection[str] = ()
) -> dict[str, Any]:
    """Return the body of a chat completion request, as the OpenAI API has it.

    Args:
        options: set, rename or null fields, see `with_options`; `system: null` puts the system text into the user's
            turn, and `response_format` stands for the schema of requests that have one.
        left_out: fields that the server refuses; `max_tokens` is sent by its newer name then.
    """
    body: dict[str, Any] = {"model": model, "messages": request.messages, **request.sampling}
    if "seed" in body:
        body["seed"] += request.sample
    if request.schema is not None:
        body[SCHEMA] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": request.schema}}
    if options:
        # A form of reply is wanted where one is asked for.
        body = with_options(body, {k: v for k, v in options.items() if k != SCHEMA or v is None or SCHEMA in body})
    body.pop(SYSTEM, None)
    merge = SYSTEM in left_out or SYSTEM in options
    first = request.messages[0] if request.messages else {}
    if first.get("role") == "system" and (merge or not first["content"].strip()):
        body["messages"] = _in_user_turn(request.messages)
    for name in left_out:
        value = body.pop(name, None)
        if name == "max_tokens" and value is not None and NEWER_LIMIT not in left_out:
            body.setdefault(NEWER_LIMIT, value)
    if request.image is not None:
        body["messages"] = _with_image(body["messages"], request.image.png())
    return body


def _with_image(messages: list[dict[str, Any]], png: bytes) -> list[dict[str, Any]]:
    *others, last = messages
    url = f"data:image/png;base64,{b64encode(png).decode()}"
    parts = [{"type": "text", "text": last["content"]}, {"type": "image_url", "image_url": {"url": url}}]
    return [*others, {**last, "content": parts}]


def _in_user_turn(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system, user, *others = messages
    text = f"{system['content']}\n\n{user['content']}".strip()
    return [{**user, "content": text}, *others]


def fields_of(body: dict[str, Any]) -> set[str]:
    """Return what a server may refuse of a body, the system message and the JSON schema among them."""
    fields = body.keys() - {"model", "messages"}
    return fields | {SYSTEM} if body["messages"][0]["role"] == "system" else set(fields)
