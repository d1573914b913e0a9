import base64
import html
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from smt_plugin.masking import answer_without_key, without_key, without_secrets

KEY = 'sk-v"e/r+y=\\s&e<c>ret:2026'


def coded(key: str) -> dict[str, str]:
    """A key in all forms in which servers were seen to repeat one, or may."""
    in_json = json.dumps(key)[1:-1]
    return {
        "as it is": key,
        "JSON": in_json,
        "JSON in JSON": json.dumps(in_json)[1:-1],
        "JSON of PHP": in_json.replace("/", "\\/"),
        "JSON of Go": in_json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003E"),
        "JSON, all of it": "".join(f"\\u{ord(char):04x}" for char in key),
        "URL": quote(key),
        "URL, all of it": "".join(f"%{ord(char):02X}" for char in key),
        "URL in small letters": quote(key, safe="").replace("%2F", "%2f"),
        "URL, twice": quote(quote(key, safe=""), safe=""),
        "form": quote_plus(key),
        "HTML": html.escape(key),
        "HTML in numbers": "".join(f"&#{ord(char)};" for char in key),
        "HTML in hexadecimal": "".join(f"&#x{ord(char):X};" for char in key),
        "HTML by name": key.replace("/", "&sol;").replace(":", "&colon;"),
        "hexadecimal": key.encode().hex(),
    }


@pytest.mark.parametrize("form", coded(KEY))
def test_a_key_is_hidden_in_every_form(form: str) -> None:
    assert without_key(f"not with {coded(KEY)[form]}!", KEY) == "not with (the API key)!"


@pytest.mark.parametrize("user", ["", "u", "me", "anybody"])
@pytest.mark.parametrize("key", [KEY, "abcdefgh", "k?k?k?k?k?~~~"])
def test_a_key_is_hidden_in_base64_whatever_stands_before_it(user: str, key: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        said = encode(f"{user}:{key}".encode()).decode()
        left = without_key(f"Basic {said}!", key)
        assert "(the API key)" in left
        assert len(left) < len("Basic !(the API key)") + len(user) * 4 / 3 + 8


def test_a_text_without_the_key_stays_as_it_is_and_many_escapes_take_no_time() -> None:
    text = "100 % of \\alpha & <b>&amp;</b>\\n" * 10
    assert without_key(text, KEY) == text
    assert without_key(text, None) == text
    many = "\\" * 200_000 + "%25" * 100_000 + "&amp;" * 100_000
    assert without_key(many, KEY) == many


def test_a_key_that_is_a_short_word_stays_in_answers_and_goes_from_messages() -> None:
    assert answer_without_key("The box was EMPTY.", "EMPTY") == "The box was EMPTY."
    assert without_key("bad key EMPTY", "EMPTY") == "bad key (the API key)"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://me:HIDE@host/x", "https://host/x"),
        ("https://host/x?user=me&token=HIDE&n=1", "https://host/x?user=me&token=(a secret)&n=1"),
        ("http://host/#access_token=HIDE", "http://host/#access_token=(a secret)"),
        ("https://host/x?X-Amz-Signature=HIDE", "https://host/x?X-Amz-Signature=(a secret)"),
        ("https://hooks.slack.com/services/T0/B0/HIDE", "https://hooks.slack.com/(a secret)"),
        ("https://discord.com/api/webhooks/12/HIDE", "https://discord.com/api/webhooks/(a secret)"),
        ("https://x.webhook.office.com/webhookb2/HIDE@a/b", "https://x.webhook.office.com/(a secret)"),
        (
            "https://open.feishu.cn/apis/bot/v2/hook/HIDE",
            "https://open.feishu.cn/apis/bot/v2/hook/(a secret)",
        ),
        ("https://chat.example/hooks/HIDE", "https://chat.example/hooks/(a secret)"),
        ("https://api.telegram.org/bot12:HIDE/send", "https://api.telegram.org/bot(a secret)"),
        ("https://maker.ifttt.com/trigger/x/with/key/HIDE", "https://maker.ifttt.com/trigger/x/with/key/(a secret)"),
        ("base_url=http://h/v1,api_key=HIDE,n=1", "base_url=http://h/v1,api_key=(a secret),n=1"),
        ("--hub-token HIDE2026x --n 1", "--hub-token (a secret) --n 1"),
        ('{"password": "HIDE"}', '{"password": "(a secret)"}'),
        ("Authorization: Bearer HIDE2026abc", "Authorization: Bearer (a secret)"),
        ("with sk-HIDE0123456789abcd now", "with (a secret) now"),
        ("hf_HIDEabcdefghijklmnopqr", "(a secret)"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(text: str, left: str) -> None:
    assert without_secrets(text) == left
    assert "HIDE" not in left


@pytest.mark.parametrize(
    "text",
    [
        "backend.api_key: unknown key; remove it or fix its name.",
        "endpoint http://127.0.0.1:8000/v1 refused the API key (status 401); set the right one.",
        "max_tokens=512,eos_token=</s> pad_token: '<pad>' of 1,024 tokens a text",
        "documents/the-secret-garden.txt: the text is empty",
        "https://github.com/nyu-mll/quality, data/v1.0.1 and git@github.com:a/b.git",
        "run `smt evaluate smt.yaml`; a token: the smallest piece",
    ],
)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


def test_of_a_config_keys_that_are_named_secret_are_left_out_at_any_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "hunter2-hunter2")
    config: dict[str, Any] = {
        "wandb_api_key": "HIDE",
        "hub_token": "HIDE",
        "webhook_url": "HIDE",
        "env": [{"AWS_SECRET_ACCESS_KEY": "HIDE", "n": 1}],
        "special_tokens": {"pad_token": "<pad>"},
        "eot_tokens": ["<|im_end|>"],
        "note": "said hunter2-hunter2",
    }
    left = without_secrets(config)
    assert "HIDE" not in str(left)
    assert left == {
        "env": [{"n": 1}],
        "special_tokens": {"pad_token": "<pad>"},
        "eot_tokens": ["<|im_end|>"],
        "note": "said (the API key)",
    }
