"""Take secrets out of what is said or kept: API keys however they are coded, passwords, tokens, webhook addresses."""

import os
import re
from base64 import b64encode
from functools import lru_cache
from html.entities import html5
from typing import Any

MASK = "(the API key)"
_HIDDEN = "(a secret)"
# A shorter key is an ordinary word, such as `EMPTY` or `none`, that answers and other texts may hold.
_SHORTEST = 8
_NAMES_OF_VARIABLES = re.compile(r"(_KEY|_TOKEN|_SECRET|_PASSWORD)$")

# What is secret by its name, in a config or before `=` or `:`. Not so the tokens of a tokenizer, or numbers of them.
_NAME = (
    r"(?:[\w.-]*(?:api_?-?key|access_?-?key|private_?-?key|secret|passw(?:or)?d|passphrase|credentials?|webhook\w*|"
    r"authorization|cookies?|signature)|"
    r"(?:[\w.-]*[_.-])?(?:auth|access|hub|hf|huggingface|bearer|refresh|session|id|bot|user|wandb|github|gitlab|"
    r"slack|telegram)_?-?token|token|pwd)"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_IN_ADDRESS = r"[^\s\"'<>)]"
_PATTERNS = [
    # `//name:password@`
    (r"(?<=://)[^/@\s\"'<>]{1,300}@", ""),
    # Whoever knows a webhook's address may post to it.
    (rf"(https?://(?:[\w-]{{1,60}}\.){{0,5}}(?:web)?hooks?\.[\w.-]{{1,100}}/){_IN_ADDRESS}+", rf"\1{_HIDDEN}"),
    (rf"(https?://{_IN_ADDRESS}{{1,300}}?/(?:[\w-]*hooks?\w*/|bot(?=\d+:)|with/key/)){_IN_ADDRESS}+", rf"\1{_HIDDEN}"),
    # `?token=...`, `#access_token=...`
    (
        r"([?&;#][\w.\[\]-]{0,40}(?:key|token|secret|passw(?:or)?d|pwd|sig|signature|auth|credential|code)"
        r"[\w.\]-]{0,40}=)[^\s&#;\"'<>)]+",
        rf"\1{_HIDDEN}",
    ),
    # `api_key=...`; `"password": "..."`, but not a key of a run file before what is wrong with it; `--api-key ...`
    (rf"(?<![\w.-])({_NAME}=[\"']?)[^\s,;&\"'()]+", rf"\1{_HIDDEN}"),
    (rf"(?<![\w.-])({_NAME}[\"']?\s*:\s*[\"'])[^\s\"']+", rf"\1{_HIDDEN}"),
    (rf"(?<![\w.-])((?:{_NAME}:|--{_NAME})\s+)(?=\S{{0,200}}\d)[^\s,;&\"'()-][^\s,;&\"'()]{{5,}}", rf"\1{_HIDDEN}"),
    (r"\b((?:Bearer|Basic)\s+)(?=\S{0,200}\d)[\w.~+/=-]{8,}", rf"\1{_HIDDEN}"),
    # Keys that are known by their form: OpenAI's and the like, Hugging Face, GitHub, GitLab, Slack, AWS, Google, JWT.
    (
        r"\b(?:[sprk]k-(?=\S{0,200}\d)[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[a-z]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|"
        r"glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)",
        _HIDDEN,
    ),
]
_SECRETS = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in _PATTERNS]


def without_key(text: str, key: str | None) -> str:
    """Return a server's words without the API key, which some repeat: as it is, or coded.

    Known are the escapes of JSON, of URLs and of HTML, one in another, of all characters or of some; base64, as in
    `Basic`; and hexadecimal digits.
    """
    if not key:
        return text
    text = text.replace(key, MASK)
    escaped, coded = _forms(key)
    # Escapes are looked for where there are some: most texts have none.
    if any(sign in text for sign in ("\\", "%", "&", "+")):
        text = escaped.sub(MASK, text)
    for form in coded:
        text = text.replace(form, MASK)
    return text


@lru_cache(maxsize=16)
def _forms(key: str) -> tuple[re.Pattern[str], list[str]]:
    """The pattern of a key whose characters may each be escaped, and its base64 and hexadecimal forms."""
    escaped = re.compile("".join(map(_escapes, key)))
    if len(key) < _SHORTEST:
        return escaped, []
    coded = [key.encode().hex(), key.encode().hex().upper()]
    # What stands before it, as the user's name in `Basic`, moves it by up to two bytes; those at the ends are shared.
    for before, begin in ((0, 0), (1, 2), (2, 3)):
        form = b64encode(b"\0" * before + key.encode()).decode()[begin : (before + len(key)) * 8 // 6]
        coded += [form, form.translate(str.maketrans("+/", "-_"))]
    return escaped, list(dict.fromkeys(coded))


def _escapes(char: str) -> str:
    """The pattern of a character as it is or escaped, in JSON, in a URL or in HTML, once or in another escape."""
    code = "".join(f"[{digit}{digit.upper()}]" for digit in f"{ord(char):02x}")
    named = "".join(f"|{name[:-1]}" for name, sign in html5.items() if sign == char and name.endswith(";"))
    space = r"|\+" if char == " " else ""
    return (
        rf"(?:\\{{0,7}}(?:{re.escape(char)}|u00{code}|x{code})|%(?:25){{0,2}}{code}{space}"
        rf"|&(?:amp;){{0,2}}(?:#0{{0,4}}{ord(char)}|#[xX]0{{0,4}}{code}{named});)"
    )


def without_secrets(value: Any) -> Any:
    """Return a text, or the texts in a JSON value, without what looks like a secret; keys named so are left out.

    Left out of a text are also the values of this process's environment variables that hold keys.
    """
    if isinstance(value, dict):
        return {key: without_secrets(each) for key, each in value.items() if not _SECRET_NAME.fullmatch(str(key))}
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    if not isinstance(value, str):
        return value
    for name, key in os.environ.items():
        if _NAMES_OF_VARIABLES.search(name) and len(key) >= _SHORTEST:
            value = without_key(value, key)
    for pattern, instead in _SECRETS:
        value = pattern.sub(instead, value)
    return value


def answer_without_key(text: str, key: str | None) -> str:
    """Return a model's answer without the API key; a key that is a short word may be meant as that word."""
    return without_key(text, key) if key and len(key) >= _SHORTEST else text
