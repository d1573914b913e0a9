"""Both pages in the system's chromium: nothing fails, nothing is cut off, the choices work."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.evaluation.intervals import estimate
from smt_plugin.evaluation.retention import Change
from smt_plugin.report.answers import write_answers
from smt_plugin.report.report import write_report
from smt_plugin.report.results import RunResults, arm_results
from smt_plugin.report.sections import sections_of
from smt_plugin.training.trainings import Training
from tests.chromium import CHROMIUM, Tab, opened
from tests.report.test_answers import NO_OPTION, NOTHING, ODD, RIGHT, WRONG, write_arm

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here, so that the report's pages were not opened in one"),
]
# How far a page's tables reach, and whether anything can be scrolled sideways.
MEASURE = """(() => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const tables = [...document.querySelectorAll("table")];
  const wide = (each) => each.clientWidth && each.scrollWidth > each.clientWidth + 1;
  const scrolled = [...document.querySelectorAll("body, body *")].filter(wide);
  return {
    window: innerWidth,
    page: document.documentElement.scrollWidth,
    tables: tables.map((table) => Math.ceil(table.getBoundingClientRect().right)),
    scrolled: scrolled.map((each) => each.className || each.tagName),
  };
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with opened("about:blank", tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    browser.complaints.clear()
    yield browser
    assert browser.complaints == []


def dom_of(tab: Tab, page: Path, choice: str = "", width: int = 1200) -> str:
    """Open a page anew, and return it as chromium has it once its scripts are through."""
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    for address in ("about:blank", f"file://{page}{choice}"):
        tab.call("Page.navigate", url=address)
    tab.wait("location.protocol === 'file:' && document.readyState === 'complete'")
    if page.name == "answers.html":
        tab.wait("document.body.dataset.drawn")
    return str(tab.evaluate("document.documentElement.outerHTML"))


def shown(dom: str) -> list[str]:
    return re.findall(r'<article data-question="([^"]*)"', dom)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """A report as wide as they get: three budgets, long names, what was forgotten; 48 questions with odd answers."""
    run = tmp_path_factory.mktemp("run")
    kinds = {
        "base_rag": [RIGHT, RIGHT, WRONG, WRONG],
        "base_full": [RIGHT, RIGHT, RIGHT, RIGHT],
        **{f"trained-{budget}": [RIGHT, WRONG, RIGHT, NOTHING] for budget in ("10M", "30M", "100M")},
        **{f"trained_rag-{budget}": [RIGHT, NO_OPTION, WRONG, WRONG] for budget in ("10M", "30M", "100M")},
    }
    odd = [(text, "B", "right") for text in ODD.values()]
    for arm, kind in kinds.items():
        answers = {f"{n // 4}-{n}": [kind[n % 4]] * 8 for n in range(48)}
        answers["11-47"] = [RIGHT] * 8 if arm.startswith("trained-") else answers["11-47"]
        if arm == "base_full":
            answers["0-0"] = odd * 2
        write_arm(run, arm, answers)
    trainings = [Training(run, budget) for budget in ("10M", "30M", "100M")]
    arms = arm_results(run, ["base_rag", "base_full", "trained", "trained_rag"], trainings)
    before, after = [0.0, 1.0] * 40, [0.0, 1.0, 1.0, 1.0] * 20
    ids = [str(n) for n in range(80)]
    difference = estimate([b - a for a, b in zip(before, after, strict=True)], ids, difference=True)
    change = Change(
        "some_long_name_of_a_task_of_lm_eval",
        "trained on 100M",
        "acc_norm",
        estimate(before, ids),
        estimate(after, ids),
        difference,
    )
    facts = {"trained model": "model/ " + "f" * 200}
    results = RunResults(run, arms, facts, changes=[change])
    write_report(results, sections_of(results))
    write_answers(results)
    return results


@pytest.mark.parametrize("page", ["report.html", "answers.html"])
@pytest.mark.parametrize("width", [1200, 500])
def test_no_column_is_hidden(results: RunResults, tab: Tab, page: str, width: int) -> None:
    dom_of(tab, results.run / page, width=width)
    measured: dict[str, Any] = tab.evaluate(MEASURE)
    assert measured["tables"]
    assert measured["window"] == width
    assert measured["page"] <= width
    if width == 1200:
        assert max(measured["tables"]) <= width
        assert measured["scrolled"] == []


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ("#base_rag=right&trained-10M=wrong", range(1, 48, 4)),
        ("#trained-10M=right&base_rag=wrong", [*range(2, 48, 4), 47]),
        ("#trained-30M=unread", range(3, 47, 4)),
        ("#base_rag=right&document=2", (8, 9)),
        ("#text=%E6%AD%A3%E7%A1%AE", (0,)),
        ("#text=who can SAY&document=3&trained-10M=wrong", (15,)),
        ("#text=nobody said this", ()),
    ],
)
def test_a_choice_in_the_address_shows_its_questions(results: RunResults, tab: Tab, choice: str, numbers: Any) -> None:
    dom = dom_of(tab, results.run / "answers.html", choice)
    assert sorted(shown(dom)) == sorted(f"{n // 4}-{n}" for n in numbers)
    assert f">{len(numbers)} of 48 questions" in dom


def test_the_number_that_a_link_promises_is_what_it_shows(results: RunResults, tab: Tab) -> None:
    html = (results.run / "answers.html").read_text()
    links = re.findall(r'<a href="(#base_rag=[^"]*trained-100M=[^"]*)">[^<]*\((\d+)\)</a>', html)
    assert len(links) == 3
    for link, count in links:
        dom = dom_of(tab, results.run / "answers.html", link.replace("&amp;", "&"))
        assert f">{count} of 48 questions<" in dom
        assert f'<a href="{link}" aria-current="true">' in dom


def test_unread_answers_come_first_and_questions_page_by_page(results: RunResults, tab: Tab) -> None:
    page = results.run / "answers.html"
    first = shown(dom_of(tab, page))
    # Those with as many stand as they were asked.
    assert first == [f"{n // 4}-{n}" for n in range(1, 40, 2)]
    asked = shown(dom_of(tab, page, "#order=asked&page=3"))
    assert asked == [f"{n // 4}-{n}" for n in range(40, 48)]


def test_answers_are_shown_as_text_whatever_they_hold(results: RunResults, tab: Tab) -> None:
    dom = dom_of(tab, results.run / "answers.html", "#document=0&base_rag=right&order=asked&open=yes")
    assert "<title>smt answers: " in dom
    body = dom.split("<main>")[1]
    assert "<img" not in body
    assert "&lt;/script&gt;&lt;img src=x" in body
    assert ODD["arabic"] in body
    assert ODD["chinese"] in body
    assert "8&nbsp;of&nbsp;8" in body


def test_the_documents_table_sorts_by_a_column_and_back_and_typing_changes_the_address(
    results: RunResults, tab: Tab
) -> None:
    dom_of(tab, results.run / "answers.html", "#base_rag=wrong")
    # Of Story 11 one question fewer has unread answers.
    most, fewest, address = tab.evaluate("""(() => {
    const last = document.querySelector("#documents th:last-child");
    const firsts = [0, 1].map(() => {
      last.querySelector("button").click();
      return document.querySelector("#documents tbody a").textContent;
    });
    const field = document.querySelector("input[type=search]");
    field.value = "nobody said this";
    field.dispatchEvent(new Event("input", { bubbles: true }));
    return [...firsts, location.hash];
    })()""")
    assert (most, fewest) == ("Story 0", "Story 11")
    assert address == "#base_rag=wrong&text=nobody+said+this"
    tab.wait("document.body.dataset.drawn === '0'")
