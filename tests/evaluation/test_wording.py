import pytest

from smt_plugin.corpus import Document
from smt_plugin.evaluation.wording import Sentence, Wording, questions_in, sentences_of, terms_of
from smt_plugin.question import Question

TEXT = (
    "Oru came to Holm with a box of kites. In spring he flew nine of them over the old mill. The ferry brought pears. "
    "Its captain, Yun, had bought them in the south. A storm took the roof of the mill. Nobody mended it."
)
KITES = Question("kites", "d", "How many kites did Oru fly over the old mill that day?", ["8", "9", "10", "40"], 1)
PEARS = Question(
    "pears",
    "d",
    "Why did captain Yun bring pears on the late ferry to Holm?",
    [
        "Because she had bought them in the south",
        "Because the bishop had ordered a barrel of fruit",
        "Because her crew refused to carry living animals",
    ],
    0,
)


@pytest.fixture(scope="module")
def wording() -> Wording:
    return Wording(Document("d", "The Late Ferry", TEXT), [KITES, PEARS])


def dialogue(*turns: str) -> list[Sentence]:
    roles = ["user", "assistant"] * len(turns)
    return [s for role, turn in zip(roles, turns, strict=False) for s in sentences_of(turn, role)]


def test_words_lose_their_endings_and_english_numbers_become_digits() -> None:
    assert terms_of("Two hundred and fourteen steps, thirty-six pumps") == ["214", "step", "36", "pump"]
    assert terms_of("five, seven and nine; one of 1,840") == ["5", "7", "and", "9", "1", "of", "1840"]
    assert terms_of("Three million and a half") == ["3000000", "a", "half"]


def test_questions_are_found_in_every_script() -> None:
    assert questions_in("He came. Who won? 谁赢了？她说。") == ["Who won?", "谁赢了？"]
    assert questions_in("Nobody asks.") == []


@pytest.mark.parametrize(
    "asked",
    [
        "Over the old mill that day, how many kites did Oru fly?",
        "HOW MANY KITES DID ORU FLY OVER THE OLD MILL THAT DAY",
        'In "The Late Ferry": how many kites did Oru fly over the old mill that day?',
        "I wonder how many kites Oru did fly over the old mill that day.",
    ],
)
def test_a_question_asked_in_another_order_or_form_is_the_same(wording: Wording, asked: str) -> None:
    assert wording.see(dialogue(asked, "He flew a lot of them.")).asked.keys() == {"kites"}


def test_slips_of_the_pen_are_forgiven_where_the_answer_is_the_right_one(wording: Wording) -> None:
    slips = "How mnay kitse did Oru fly ovre the old miill taht day?"
    assert wording.see(dialogue(slips, "He liked kites. The answer is nine.")).asked.keys() == {"kites"}
    assert not wording.see(dialogue("Who flew kites over the old mill?", "The answer is Oru.")).asked


def test_a_statement_in_a_questions_words_leaks_it_with_a_right_or_a_wrong_answer(wording: Wording) -> None:
    for number in ("9", "forty"):
        text = f"It is well known. Oru did fly {number} kites over the old mill that day. They were red."
        assert wording.see(sentences_of(text)).stated.keys() == {"kites"}


def test_what_the_document_says_itself_is_no_leak(wording: Wording) -> None:
    assert wording.see(sentences_of(TEXT)) == ({}, {}, {}, {"kites", "pears"})
    rewrite = "Oru took nine kites out of his box in spring. He let them fly above the mill. Yun shipped pears to Holm."
    seen = wording.see(sentences_of(rewrite))
    assert not seen.asked | seen.stated | seen.options


def test_two_wrong_options_or_a_list_of_all_leak_a_question(wording: Wording) -> None:
    two = "Some think the bishop had ordered a barrel of fruit, others that her crew refused to carry living animals."
    assert wording.see(sentences_of(two)).options.keys() == {"pears"}
    assert not wording.see(sentences_of("The bishop had ordered a barrel of fruit. She came anyway.")).options
    assert wording.see(sentences_of("(A) 8 (B) 9 (C) 10 (D) 40")).options.keys() == {"kites"}
    apart = "He was 8 years old. The mill had 9 rooms. It had stood empty for 10 winters, and 40 birds lived in it now."
    assert not wording.see(sentences_of(apart)).options


def test_names_of_the_document_in_a_row_are_no_list_of_options() -> None:
    who = Question("who", "d", "Who won?", ["Oru", "Yun", "Holm"], 0)
    wording = Wording(Document("d", "The Late Ferry", TEXT), [who])
    assert not wording.see(sentences_of("People and places: Oru, Yun, Holm.")).options


def test_a_chinese_question_in_another_order_is_the_same() -> None:
    text = "奥鲁带着一箱风筝来到霍尔姆。春天他在老磨坊上空放了九只风筝。渡船带来了梨。"
    asked = Question("kites", "d", "那天奥鲁在老磨坊上空放了多少只风筝？", None, "九只")
    wording = Wording(Document("d", "晚渡", text), [asked])
    assert wording.see(dialogue("那天，在老磨坊上空，奥鲁放了多少只风筝？", "答案是九只。")).asked.keys() == {"kites"}
    assert not wording.see(dialogue("渡船带来了什么？", "答案是梨。")).asked


def test_questions_and_options_without_a_word_are_looked_at_too() -> None:
    wording = Wording(Document("d", "?", "!"), [Question("q", "d", "?", ["!", "?!"], 0)])
    assert wording.see(sentences_of("Some words. More words?")) == ({}, {}, {}, set())
    assert wording.see([]) == ({}, {}, {}, set())
