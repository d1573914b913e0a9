import pytest

from benchmarks.touched import known
from smt_plugin.corpus import Document
from smt_plugin.microworld import chronicle, world
from smt_plugin.study.coverage import Touched, _names

STORY = Document(
    id="story",
    title="The Lighthouse",
    text=(
        "Old Tom Pascoe kept the lighthouse at Brennan Point for thirty-one years. A storm broke the great lens on "
        "4 March 1893. The council bought another lens from Birmingham for 1,250 pounds. He was old."
    ),
)


def touched(document: Document, *records: str) -> dict[str, list[bool]]:
    found = Touched(document)
    for place, text in enumerate(records):
        found.see(place, text)
    return {kind: (first < len(records)).tolist() for kind, first in found.first.items()}


def test_a_paraphrase_touches_its_sentence_and_no_other() -> None:
    found = touched(STORY, "What happened to the lens?\nA great storm broke the lighthouse's lens in 1893.")
    assert found["sentences"] == [False, True, False]


def test_a_sentence_of_two_words_that_tell_is_none() -> None:
    assert len(touched(STORY)["sentences"]) == 3


def test_chance_does_not_add_up_over_a_long_text() -> None:
    words = [
        "old",
        "broke",
        "council",
        "tom",
        "great",
        "bought",
        "pascoe",
        "lens",
        "another",
        "kept",
        "storm",
        "pounds",
    ]
    words = " ".join(f"Much else is {word} here. Nobody went home that evening." for word in words)
    assert touched(STORY, words)["sentences"] == [False, False, False]


def test_names_are_touched_in_whole_and_months_are_none() -> None:
    assert list(_names(STORY.text)) == ["tom pascoe", "brennan point", "birmingham"]
    found = Touched(STORY)
    found.see(0, "They sailed past Brennan Point.")
    names = dict(zip(_names(STORY.text), found.first["names"] == 0, strict=True))
    assert names["brennan point"]
    assert not names["birmingham"]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("It cost 1250 pounds.", [False, True, False]),
        ("It cost one thousand two hundred and fifty pounds.", [False, True, False]),
        ("He stayed for 31 years.", [True, False, False]),
        ("On March 4th, 1893 it broke.", [False, False, True]),
        ("In March 1893 it broke.", [False, False, False]),
    ],
)
def test_a_number_is_touched_in_whatever_form_and_a_date_where_all_of_it_is_said(record: str, told: list[bool]) -> None:
    assert sorted(touched(STORY, record)["numbers"]) == sorted(told)


def test_scripts_without_capitals_have_no_names_and_their_sentences_are_touched() -> None:
    document = Document(
        id="d", title="t", text="灯塔看守人每天晚上写日志。灯在北岸点了三十年。风暴在1893年毁了旧码头。"
    )
    found = touched(document, "问：谁写日志？\n看守人每天晚上写日志。")
    assert found["sentences"] == [True, False, False]
    assert found["names"] == []
    assert not any(found["numbers"])


@pytest.mark.parametrize("archive", [world, chronicle], ids=["microworld", "chronicle"])
def test_where_the_truth_is_known_few_facts_are_told_wrongly(archive) -> None:
    (stated, touched), (others, wrong) = known(archive.documents()[::4])
    assert stated > 100
    assert others > 50
    assert touched / stated > 0.85
    assert wrong / others < 0.05
