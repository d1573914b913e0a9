"""The page of `smt review` in the system's chromium, by the keyboard alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from smt_plugin.rejects import read_verdicts
from tests.chromium import CHROMIUM, Tab, opened
from tests.review_server import ODD, Served, make_large_run, make_run, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium here, so that the page of smt review was not opened in one"
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture
def server(folder: Path) -> Iterator[Served]:
    with served(folder) as found:
        yield found


@pytest.fixture
def tab(server: Served, tmp_path: Path) -> Iterator[Tab]:
    with opened(server.address, tmp_path) as found:
        found.wait("document.body?.dataset.shown")
        yield found
        assert found.complaints == []
        assert {address.startswith((server.address, "data:")) for address in found.asked} == {True}


def shown(tab: Tab) -> str:
    return str(tab.evaluate("document.body.dataset.shown"))


def text(tab: Tab, element: str) -> str:
    return str(tab.evaluate(f"document.getElementById('{element}').textContent"))


def press(tab: Tab, *keys: str) -> None:
    """Press keys, and wait until all of them have had their effect."""
    tab.press(*keys)
    tab.evaluate("queue")


def test_records_are_rejected_kept_and_taken_back_by_key(tab: Tab, server: Served, folder: Path) -> None:
    numbers = [str(number) for number in server.get("records")["numbers"]]
    assert shown(tab) == numbers[0]
    press(tab, "x")
    assert shown(tab) == numbers[1]
    assert f"{len(numbers) - 1:,} open, 1 rejected, 0 kept" == text(tab, "counts")
    press(tab, "s", "ArrowRight", "j", "k", "ArrowLeft", "k", "k")
    assert shown(tab) == numbers[0]
    assert (text(tab, "verdict"), text(tab, "place")) == ("rejected", f"1 of {len(numbers):,}")
    press(tab, "j")
    assert text(tab, "verdict") == "kept"
    said = {verdict.id: verdict.verdict for verdict in read_verdicts(folder / "run").values()}
    first, second = (server.get(f"record?number={number}")["id"] for number in numbers[:2])
    assert said == {first: "reject", second: "keep"}
    press(tab, "j", "j", "u")
    assert (shown(tab), text(tab, "verdict")) == (numbers[1], "")
    press(tab, "u", "u")
    assert (shown(tab), text(tab, "verdict")) == (numbers[0], "")
    assert read_verdicts(folder / "run") == {}


def test_a_reason_is_typed_and_letters_in_a_field_are_no_commands(tab: Tab, server: Served, folder: Path) -> None:
    first = server.get("records")["numbers"][0]
    press(tab, "r", *"xs ju", "Escape")
    assert read_verdicts(folder / "run") == {}
    press(tab, "r", "!", "Enter")
    verdict = read_verdicts(folder / "run")[server.get(f"record?number={first}")["id"]]
    assert (verdict.verdict, verdict.reason) == ("reject", "xs ju!")
    press(tab, "k")
    assert text(tab, "why") == "xs ju!"


def test_the_choice_is_made_by_the_keyboard_and_shows_what_fits(tab: Tab, server: Served) -> None:
    press(tab, "f", "ArrowDown", "Tab", "ArrowDown", "Escape")
    chosen = server.get("records?method=focal_rewrite&finding=any")["numbers"]
    tab.wait(f"document.getElementById('place').textContent === '1 of {len(chosen)}'")
    assert shown(tab) == str(chosen[0])
    press(tab, "f", "Tab", "Tab", "Tab", *"nowhere", "Enter")
    tab.wait("document.getElementById('place').textContent === '0 of 0'")
    assert text(tab, "record") == "No record is so."
    press(tab, "x", "j", "u")
    assert text(tab, "error") == ""


def test_texts_are_shown_as_text_and_passage_and_findings_are_marked(tab: Tab, server: Served) -> None:
    assert ODD in text(tab, "record")
    assert tab.evaluate("document.title") == "smt review"
    assert tab.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert tab.evaluate("document.querySelector('mark.finding').textContent") == "77,777"
    press(tab, "j")
    record = server.get(f"record?number={shown(tab)}")
    assert text(tab, "passage") == record["source"]["passage"]
    top, bottom, place = (
        tab.evaluate(f"document.getElementById('{name}').getBoundingClientRect().{edge}")
        for name, edge in (("source", "top"), ("source", "bottom"), ("passage", "top"))
    )
    assert top - 1 <= place < bottom


def test_a_server_that_has_ended_is_told_and_nothing_is_shown_as_decided(server: Served, tmp_path: Path) -> None:
    # The browser itself complains of what it cannot reach.
    with opened(server.address, tmp_path) as tab:
        tab.wait("document.body?.dataset.shown")
        first = shown(tab)
        server.process.kill()
        server.process.wait()
        press(tab, "x")
        assert text(tab, "error") == "smt review does not answer any more: start it again"
        assert (shown(tab), text(tab, "verdict")) == (first, "")


def test_at_10_000_records_a_key_takes_effect_within_100_ms(tmp_path: Path) -> None:
    with served(make_large_run(tmp_path, 10_000)) as server, opened(server.address, tmp_path) as tab:
        tab.wait("document.body?.dataset.shown")
        tab.evaluate(
            "window.took = []; addEventListener('keydown', () => { window.pressed = performance.now(); }, true);"
            "new MutationObserver(() => took.push(performance.now() - pressed)).observe(document.body, "
            "{attributes: true, attributeFilter: ['data-shown']}); 0"
        )
        for key in "jxjsukjxxx" * 10:
            press(tab, key)
        took = sorted(json.loads(tab.evaluate("JSON.stringify(took)")))
        assert len(took) == 100
        print(f"\na key takes effect after {took[50]:.1f} ms (median), at most {took[-1]:.1f} ms")
        assert took[95] < 100
        assert tab.complaints == []
