from pathlib import Path

import pytest
import yaml

from smt_plugin.corpus import Document
from smt_plugin.faithfulness.check import NO_CAPITALS, OTHER_LANGUAGE, Finding, Source

LIGHT = Document(
    "light",
    "The Lighthouse",
    "Edda Sorrel kept the light on Holm from 5 March 1952 until 1984. Revenue was $1,577 million. The lamp, 42.7 "
    'metres high, is the work of the World Lamp Office. "We never let the flame go out," she wrote. In '
    "Orsby 214 people live.",
    meta={"author": "A. Sample", "year": 1999},
)
OWN = yaml.safe_load((Path(__file__).parents[2] / "benchmarks" / "faithfulness.yaml").read_text(encoding="utf-8"))


def found(*turns: str, document: Document = LIGHT) -> list[tuple[str, str]]:
    return [(finding.kind, finding.said) for finding in Source(document).check(turns).findings]


@pytest.mark.parametrize(
    "text",
    [
        "Edda Sorrel came in March 1952; for 32 years, from 1952 until 1984, she kept the light in the 20th century.",
        "Revenue reached 1.577 billion dollars, or about 1.6 billion. The lamp is some 43 metres high.",
        "She wrote that “we never let the flame ... out”. The WLO made the lamp. A. Sample told it in 1999.",
        "## Key Points of the Story\n**Main Character:** Edda\n1. Sorrel's lamp\n- Orsby: 214 people",
        "However, nobody knew. Why? Because Edda said \"No\" (Nobody asked). I think so.",
    ],
)  # fmt: skip
def test_what_the_document_says_in_another_way_is_no_finding(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("Edda came in 1953.", ("number", "1953")),
        ("Revenue was $15.77 million.", ("number", "15.77 million")),
        ("Two hundred and fifteen people live there.", ("number", "Two hundred and fifteen")),
        ("She came on 6 March 1952.", ("date", "6 March 1952")),
        ("She came in April 1952.", ("date", "April 1952")),
        ("She came on a Monday.", ("date", "Monday")),
        ("“We always let the flame go out.”", ("quotation", "We always let the flame go out.")),
        ("Then Edda moved to Hexley.", ("name", "Hexley")),
        ("John Kepler helped her.", ("name", "John Kepler")),
        ("Kepler's boat sank.", ("name", "Kepler")),
        ("She loved Captain van der Berg.", ("name", "Captain van der Berg")),
    ],
)
def test_what_the_document_lacks_is_found_where_it_stands(text: str, finding: tuple[str, str]) -> None:
    assert found(text) == [finding]
    (each,) = Source(LIGHT).check(["Who?", text]).findings
    assert each == Finding(*finding, 1, text.index(finding[1]))


def test_a_table_in_millions_holds_the_numbers_of_its_cells_in_millions() -> None:
    table = Document("t", "T", "Amounts in millions\n| Revenue | 2,345 |\n| Costs | 1,820.5 |")
    assert found("Revenue was $2.345 billion, costs 1,820.5 million.", document=table) == []
    assert found("Revenue was $2.445 billion.", document=table) == [("number", "2.445 billion")]


def test_german_nouns_are_no_names_but_names_are() -> None:
    mill = Document(
        "m", "Die Mühle", "Die Mühle von Altenried wurde 1734 erbaut. Katharina Voss ließ das Wehr erneuern."
    )
    clean = (
        "Mit großer Sorgfalt wurde die Anlage nach der Zerstörung gepflegt, und das Ergebnis ist ein Glück für Gäste."
    )
    assert found(clean, document=mill) == []
    assert found("Sie zog nach Bremen. Dort war es Elisabeth Krämer, die ihr half.", document=mill) == [
        ("name", "Bremen"),
        ("name", "Elisabeth Krämer"),
    ]


def test_what_cannot_be_compared_is_said() -> None:
    tea = Document("z", "茶厂", "茶厂由林文海于1936年创办。他说：“茶叶不会说谎，水也不会。”")
    checked = Source(tea).check(["茶厂由王大明于1937年创办。他说：“茶叶也会说谎。”"])
    assert [(each.kind, each.said) for each in checked.findings] == [
        ("number", "1937"),
        ("quotation", "茶叶也会说谎。"),
    ]
    assert checked.unchecked == [NO_CAPITALS]
    german = Source(LIGHT).check(
        ["Im Jahr 1953 kam die Wärterin nach Holm, und sie schrieb: „Wir ließen das Licht nie aus.“"]
    )
    assert [each.kind for each in german.findings] == ["number"]
    assert german.unchecked == [OTHER_LANGUAGE]


CHOSEN_ON = [entry for entry in OWN if entry["set"] == "chosen on"]


@pytest.mark.parametrize("entry", CHOSEN_ON, ids=[entry["title"] for entry in CHOSEN_ON])
def test_true_records_in_many_languages_have_no_finding(entry: dict) -> None:
    document = Document(entry["title"], entry["title"], entry["text"])
    for record in entry["records"]:
        assert found(*([record] if isinstance(record, str) else record), document=document) == []
