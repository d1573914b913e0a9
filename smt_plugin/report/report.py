"""Write `report.html` and `report.json`, and set a section's table for a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader

from smt_plugin.evaluation.arms import marker_path
from smt_plugin.files import file_hash, write_json, write_text
from smt_plugin.report.results import RunResults
from smt_plugin.report.sections import Section, doubts
from smt_plugin.report.verdicts import Verdict, verdicts

if TYPE_CHECKING:
    from rich.table import Table


def write_report(results: RunResults, sections: Sequence[Section]) -> Path:
    """Write `report.html` (self-contained) and `report.json` into the run folder and return the former's path.

    `report.json` holds the facts, the outdated arms, the data of the sections: `arms`, `retention`, and by their hashes
    the `arm.json` files that it tells of.
    """
    html = page(
        "smt report",
        "Did training beat retrieval?",
        results.facts,
        sections,
        doubts(results),
        verdicts=verdicts(results),
        answers="answers.html",
    )
    path = results.run / "report.html"
    write_text(path, html)
    data: dict[str, Any] = {"facts": results.facts, "outdated": results.outdated}
    data["answered"] = {
        result.arm: file_hash(marker_path(results.run / "results" / result.arm))
        for result in results.arms
        if result.accuracy is not None
    }
    for section in sections:
        data |= section.data
    write_json(results.run / "report.json", data)
    return path


def page(
    title: str,
    heading: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    doubts: Sequence[str],
    verdicts: Sequence[Verdict] = (),
    answers: str = "",
) -> str:
    """Return a self-contained HTML page of what was compared and of sections.

    Args:
        facts: name -> value of what a reader should know.
        doubts: sentences without their full stop.
        answers: link to the page of answers, if there is one.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("report.html.jinja").render(
        title=title,
        heading=heading,
        facts=facts,
        sections=sections,
        doubts=doubts,
        verdicts=verdicts,
        answers=answers,
    )


def table_of(section: Section, width: int) -> "Table":
    """Return a section's table for a terminal of so many columns, with its note below it.

    Where it is too wide, headings are broken into lines first; names only where that is not enough.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=section.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.caption, table.caption_justify = section.note or None, "left"
    longest = [max(map(len, cells)) for cells in zip(*section.rows, strict=True)]
    fits = sum(longest) + 2 * len(longest) <= width
    for column, cells in zip(section.columns, longest, strict=True):
        table.add_column(column, justify="right", overflow="fold", no_wrap=fits and len(column) <= cells)
    table.columns[0].justify = "left"
    for row in section.rows:
        table.add_row(*row)
    return table
