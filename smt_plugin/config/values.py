"""What all sections of a run file are made of: numbers of tokens, paths, URLs, and how a wrong key is told."""

import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo

from smt_plugin.errors import is_of_path

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def parse_tokens(value: Any) -> int:
    """Return a number of tokens given as an integer or as text such as `200K`, `50M`, `1.5B`."""
    text = str(value)[:40] if isinstance(value, int | float | str) else type(value).__name__
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([KMB]?)\s*", text, re.ASCII | re.IGNORECASE)
    tokens = round(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if tokens < 1 or isinstance(value, bool):
        raise ValueError(f"{text!r} is not a number of tokens; write e.g. 200000, 200K or 50M")
    return tokens


def _absolute(path: Path, info: ValidationInfo) -> Path:
    # In contrast to Path.expanduser, this leaves a `~name` that is no user's as it is.
    return path if info.context is None else _usable((info.context / os.path.expanduser(path)).absolute())


def _usable(path: Path) -> Path:
    """Refuse what can be no path, such as a name that is too long or a link to itself, where its key can be named."""
    try:
        path.stat()
    except OSError as error:
        if is_of_path(error):
            raise ValueError(f"{path}: {error.strerror}; give another path") from None
    return path


def _absolute_if_there(value: str, info: ValidationInfo) -> str:
    path = _absolute(Path(value), info)
    return str(path) if value and path.is_absolute() and path.exists() else value


def _absolute_replay(value: str, info: ValidationInfo) -> str:
    if value.endswith((".jsonl", ".json")):
        return str(_absolute(Path(value), info))
    return _absolute_if_there(value, info)


Tokens = Annotated[int, BeforeValidator(parse_tokens)]
# Relative to the folder of the run file, which is the context of its validation.
RunPath = Annotated[Path, AfterValidator(_absolute)]
# A path where something lies there, else a hub name or a shipped config's.
PathOrName = Annotated[str, AfterValidator(_absolute_if_there)]
Replay = Annotated[str, AfterValidator(_absolute_replay)]

# Turns thinking off where the chat template knows it, as in every arm.
NO_THINKING: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
OPTIONS_HELP = (
    "set one, null one, or rename one by `new: $old`; `system: null` puts the system text into the user's turn"
)


def _request_options(options: dict[str, Any]) -> dict[str, Any]:
    for name in ("messages", "model", "stream", "n"):
        if name in options:
            raise ValueError(f"{name} is the client's own field; remove it")
    if options.get("system") is not None:
        raise ValueError("system may be null alone; for another text set `prompts` to a folder with a system.jinja")
    return options


# Fields of requests to a server as the user wants them, in place of those that we set.
RequestOptions = Annotated[dict[str, Any], AfterValidator(_request_options)]


class Section(BaseModel):
    """Keys that are checked one by one: none but these, and no infinite number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def checked_url(url: str) -> str:
    """Return a base URL that is one; what is wrong with it is said without repeating it, as it may hold a password.

    Raises:
        ValueError: it is none, or holds more than scheme, host, port and path.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.hostname.encode("idna"):
            raise ValueError
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("not a URL; write e.g. http://127.0.0.1:8000/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must hold no user and password; give a key in the environment")
    if parts.query or parts.fragment or not port_known or re.search(r"\s", url):
        raise ValueError("a URL must end with its path, e.g. http://127.0.0.1:8000/v1")
    return url


def first_problem(error: ValidationError, *place: str) -> str:
    """Say what is wrong first of all, and with which key, below the place where the checked settings stand."""
    problem = error.errors()[0]
    parts = [str(part) for part in problem["loc"] if part not in ("openai", "microworld", "vllm")]
    key = ".".join([*place, *parts])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or fix its name."
    if problem["type"] == "missing":
        return f"{key}: this key is missing; add it."
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}."
