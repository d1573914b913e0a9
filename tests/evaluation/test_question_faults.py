from typing import Any

import pytest

from smt_plugin.evaluation import question_faults as faults
from smt_plugin.evaluation.question_faults import Asked, Draft, Fault, fault_of, read_draft


def choice(question: str, right: str, *wrong: str) -> dict[str, Any]:
    return {"question": question, "right": right, "wrong": list(wrong)}


def draft(row: Any, doc_id: str = "d") -> Draft:
    found = read_draft(row, doc_id, 0, "answer" in row)
    assert isinstance(found, Draft), found
    return found


def fault(row: Any, free_form: bool = False) -> Fault | None:
    found = read_draft(row, "d", 0, free_form)
    return found if isinstance(found, Fault) else fault_of(found)


WHO = ("Who lit the lamp on the night of the storm?", "Marta Quill", "Jonas Reed", "Ida Holm", "Piet Aker")
BAD = [
    (faults.MALFORMED, "Who lit the lamp?"),
    (faults.EMPTY, choice(" ", *WHO[1:])),
    (faults.EMPTY, choice(*WHO[:3], "...", WHO[4])),
    (faults.EMPTY, {"question": "Who lit the lamp?", "wrong": ["Jonas Reed", "Ida Holm", "Piet Aker"]}),
    (faults.OPTION_COUNT, choice(*WHO[:4])),
    (faults.OPTION_COUNT, choice(*WHO, "Nils Berg")),
    (faults.OPTION_COUNT, {"question": "Who lit the lamp?", "right": "Marta Quill", "wrong": "Jonas Reed"}),
    (faults.EQUAL_OPTIONS, choice(*WHO[:3], "MARTA  QUILL.", WHO[4])),
    (faults.EQUAL_OPTIONS, choice("Whom did the keeper call?", "a doctor", "the priest", "the doctor", "a pilot")),
    (faults.EQUAL_OPTIONS, choice("How many crates were landed?", "2,000", "1,500", "2000", "900")),
    (faults.EQUAL_OPTIONS, choice("What did the pier cost?", "$3 million", "$3,000,000", "$2 million", "$5 million")),
    (faults.EQUAL_OPTIONS, choice("守灯人在哪里过冬?", "北塔", "南塔", "北塔。", "渡口")),
    (faults.EQUAL_OPTIONS, choice("How old was Ann?", "twenty", "20", "thirty", "forty")),
    (faults.EQUAL_OPTIONS, choice("When did Ann leave?", "5 May 1920", "May 5, 1920", "6 May 1920", "7 May 1920")),
    (faults.NESTED_OPTIONS, choice("Who left the farm?", "Ann", "Bob", "Cy", "Both Ann and Bob")),
    (faults.NESTED_OPTIONS, choice("Who came to the pier?", "Marta and Jonas", "Marta", "Ida and Piet", "Ida")),
    (
        faults.NESTED_OPTIONS,
        choice(
            "Why was the pier closed?",
            "because the planks were rotten",
            "because the planks were rotten and stolen",
            "because the council had no money left",
            "because nobody came there any more",
        ),
    ),
    (faults.NESTED_OPTIONS, choice("Wer kam zum Steg?", "Marta und Jonas", "Jonas", "Ida und Piet", "Ida")),
    (faults.ABOUT_OPTIONS, choice(*WHO[:4], "All of the above")),
    (faults.ABOUT_OPTIONS, choice(*WHO[:4], "None of these")),
    (faults.ABOUT_OPTIONS, choice(*WHO[:4], "Both A and C")),
    (faults.ABOUT_OPTIONS, choice("Wer zündete die Lampe an?", *WHO[1:4], "Keine der genannten Antworten")),
    (faults.ABOUT_OPTIONS, choice("Qui alluma la lampe ?", *WHO[1:4], "Aucune de ces réponses")),
    (faults.ABOUT_OPTIONS, choice("¿Quién encendió la lámpara?", *WHO[1:4], "Todas las anteriores")),
    (faults.ABOUT_OPTIONS, choice("谁在暴风雨之夜点了灯?", "玛尔塔", "约纳斯", "伊达", "以上都不是")),
    (faults.POINTS_AT_TEXT, choice("According to the passage on page 3, who lit the lamp?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Who is named in the second paragraph?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("What does the author of this text think of lamps?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Which of the keepers mentioned above lit the lamp?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("What does the document say about the storm?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Who lit the lamp in this article?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Whose name stands in Table 2?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Wer zündete laut dem Text die Lampe an?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Wer wird im obigen Abschnitt genannt?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Selon le passage, qui alluma la lampe ?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Según el texto, ¿quién encendió la lámpara?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Secondo il testo, chi accese la lampada?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("De acordo com o texto, quem acendeu a lâmpada?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Wie stak volgens de tekst de lamp aan?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Kto według tekstu zapalił lampę?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("Согласно тексту, кто зажёг лампу?", *WHO[1:])),
    (faults.POINTS_AT_TEXT, choice("根据文章,谁在暴风雨之夜点了灯?", "玛尔塔", "约纳斯", "伊达", "皮特")),
    (
        faults.POINTS_AT_TEXT,
        choice("この文章によると、誰が灯をともしましたか。", "マルタ", "ヨナス", "イーダ", "ピート"),
    ),
    (faults.VAGUE, choice("What did he do then?", *WHO[1:])),
    (faults.GIVEN_AWAY, choice("What did Marta do with Marta Quill's brass lamp?", "brass lamp", *WHO[2:])),
    (faults.GIVEN_AWAY, choice("Why did the keeper sell the green boat?", "The boat was green", *WHO[2:])),
    (faults.GIVEN_AWAY, choice("Warum hieß das rote Boot Boot?", "das rote Boot", *WHO[2:])),
    (faults.GIVEN_AWAY, choice("Which animal was Ann's dog?", "a dog", "a cat", "a hare", "a fox")),
    (faults.GIVEN_AWAY, choice("守灯人把铜灯交给了谁?", "守灯人", "船长", "渔夫", "市长")),
    (
        faults.LENGTH,
        choice(
            "Why did Marta leave the island?",
            "Because her brother had written that the farm would be sold before the spring",
            "She was ill",
            "The lamp broke",
            "She was bored",
        ),
    ),
    (
        faults.LENGTH,
        choice("玛尔塔为什么离开小岛?", "因为她的哥哥写信说农场在春天之前就要卖掉了", "她病了", "灯坏了", "她厌倦了"),
    ),
    (
        faults.LENGTH,
        choice(
            "What did Marta find?",
            "Nothing",
            "A letter from her brother",
            "The keys of the tower",
            "Her mother's old map",
        ),
    ),
    (faults.FORM, choice("Where did Marta go?", "To the farm.", "To the pier", "To the tower", "To the town")),
    (faults.FORM, choice("When did Marta leave?", "In May 1871", "In the spring", "After the storm", "Before the war")),
]
BAD_FREE = [
    (faults.EMPTY, {"question": "Who lit the lamp?", "answer": None}),
    (faults.YES_NO, {"question": "Did Marta light the lamp?", "answer": "Yes."}),
    (faults.YES_NO, {"question": "Zündete Marta die Lampe an?", "answer": "Nein"}),
    (faults.YES_NO, {"question": "玛尔塔点灯了吗?", "answer": "是的"}),
    (faults.LONG_ANSWER, {"question": "Why did Marta leave?", "answer": "Because " + "her brother wrote again " * 5}),
    (faults.LONG_ANSWER, {"question": "玛尔塔为什么离开?", "answer": "因为她的哥哥写信说农场要卖掉了" * 5}),
    (faults.GIVEN_AWAY, {"question": "What colour was Marta's green boat?", "answer": "Green"}),
    (faults.POINTS_AT_TEXT, {"question": "Who lit the lamp, based on the text?", "answer": "Marta Quill"}),
]
GOOD = [
    choice(*WHO),
    choice(
        "Where does the secret passage under the tower lead?", "to the pier", "to the farm", "to the mill", "to the inn"
    ),
    choice("Which article of clothing did Ida leave at the inn?", "her coat", "her hat", "her shawl", "her boots"),
    choice(
        "What did the mayor do with the document that Jonas had signed?",
        "He burned it",
        "He hid it",
        "He sold it",
        "He lost it",
    ),
    choice("Who slept in the room above the shop?", "the apprentice", "the widow", "the pilot", "the baker"),
    choice("Which text message made Ida turn back?", "her sister's", "her son's", "the doctor's", "the bank's"),
    choice(
        "What does Section 12 of the Harbour Act forbid?", "night fishing", "open fires", "loud music", "tall masts"
    ),
    choice("In the chapter house of the abbey, what hung on the wall?", "a map", "a bell", "a sword", "a clock"),
    choice(
        "Who came first to the island, the Reeds or the Holms?",
        "the Reeds",
        "the Holms",
        "both together",
        "neither family",
    ),
    choice("Whom did Bob's letter accuse?", "Bob's brother Carl", "Bob", "the mayor", "the bailiff"),
    choice("Where was the meeting moved to?", "London Bridge", "London", "Paris", "Dover"),
    choice("How many of the forty sheep came home?", "between 10 and 20", "10", "all but 3", "35"),
    choice("By how much did the catch fall?", "-5 %", "5 %", "15 %", "-25 %"),
    choice("In which language did Nils write the program?", "C", "C++", "C#", "D"),
    choice(
        "What weighed more than 100 kilograms?",
        "the bell of 1807",
        "the anchor of 1910",
        "the stove of 1899",
        "the safe of 1920",
    ),
    choice("How many of the sisters returned?", "none of them", "one of them", "two of them", "all of them"),
    choice(
        "Warum verließ Anna im Herbst das Haus?",
        "weil das Dach brannte",
        "weil Ida sie rief",
        "weil sie krank war",
        "weil es kalt war",
    ),
    choice(
        "Was verbietet Artikel 5 der Hafenordnung?",
        "das Fischen bei Nacht",
        "offenes Feuer",
        "laute Musik",
        "hohe Masten",
    ),
    choice(
        "Pourquoi Marta vendit-elle la barque ?",
        "pour payer le médecin",
        "pour acheter la ferme",
        "par colère",
        "par ennui",
    ),
    choice("¿Qué encontró Ida detrás del molino?", "una llave", "un mapa", "una carta", "un anillo"),
    choice("Почему Марта продала лодку?", "чтобы заплатить врачу", "чтобы купить ферму", "от скуки", "со злости"),
    choice("她在中文中最喜欢的字是什么?", "灯", "海", "山", "雪"),
    choice("玛尔塔为什么卖掉了小船?", "为了付医药费", "为了买农场", "因为生气", "因为无聊"),
    choice("マルタはなぜ舟を売りましたか。", "医者に払うため", "農場を買うため", "怒ったため", "退屈したため"),
    choice("Who taught Marta to read the charts?", "Marta's aunt", "the old pilot", "Jonas's father", "a monk"),
    choice(
        "Which of the two brothers stayed behind?",
        "the elder, Piet",
        "the younger, Nils",
        "both of the two brothers",
        "neither",
    ),
]
GOOD_FREE = [
    {"question": "Who lit the lamp on the night of the storm?", "answer": "Marta Quill"},
    {"question": "In which year did the pier burn down?", "answer": "1871"},
    {"question": "How many crates did the Northern Star land, in thousands?", "answer": "2.5"},
    {"question": "Wer verkaufte das Boot?", "answer": "Idas Bruder"},
    {"question": "谁点了灯?", "answer": "玛尔塔"},
    {"question": "Why was the pier closed?", "answer": "its planks were rotten"},
]


POINTING = """
What is the main idea of the passage? | Which statement is supported by the text?
In the passage, why does Ann leave? | What is mentioned in paragraph 3? | What does this excerpt suggest about Ann?
The passage is mostly about which person?
Per the document, who is Ann? | Based on the above, who is Ann? | From the passage, we can infer that Ann is what?
Who is the narrator of the text? | What does the report's Figure 3 show? | What year is given in line 14?
What can be concluded from the document about Ann? | Was steht auf Seite 3 des Dokuments?
Was geht aus dem Text über Anna hervor? | Was ist das Hauptthema des Artikels? | Dem Text zufolge: wer ist Anna?
Que dit l'auteur de ce texte ? | D'après le document, qui est Anne ? | Qui parle dans le passage à propos d'Anne ?
¿Qué se menciona en el pasaje sobre Ana? | ¿Cuál es el tema principal del texto? | Chi parla nel brano?
本文的作者认为什么最重要? | 文章第三段主要讲了什么?
根据第3页的内容,安娜去了哪里? | 本文の筆者は何を述べていますか。
Что говорится в тексте об Анне? | Gdzie w tekście mowa o Annie? | Wie komt er in de tekst voor?
What does the text reveal about the mill? | Using the passage, identify the culprit.
What is the author's purpose in the second section? | As the text makes clear, who left first?
Was zeigt Abbildung 2? | Quel est le thème principal de l'article ? | O que o texto diz sobre o moinho?
Wat zegt de tekst over de molen?
"""
NOT_POINTING = """
What does the document that Ann forged claim? | Who copied the text of the treaty by night?
Which passage through the reef did the pilot choose? | Who wrote the article that ruined Holm?
What happened in the section of the wall near the mill? | Who is the author of the letter found in the safe?
At which table did the general sit? | What stood on the page that Ann tore out?
What is kept in Section 7 of the archive?
How did the text of Bob's speech change? | Which figure did the sculptor carve last? | What was given below deck?
What does the lawyer conclude from the document? | Was fand Anna in dem Text, den Bob versteckt hatte?
Welche Passage durch das Eis wählte der Kapitän? | Quel passage secret Anne découvrit-elle ?
¿Qué artículo robó Ana de la tienda? | 谁在会议上反对这份文件?
安娜在日文中写了什么? | Who signed the articles of faith?
What did the text on the tombstone say? | Who tore the article out of the newspaper?
What did the spy hide between the pages of the Bible? | Which document proved that Eve was the heir?
Who guarded the passage to the crypt? | In which paragraph of the contract was the trick hidden?
What did the author Eve Reed burn in 1901? | How did Holm's article on whales begin? | What lay above the altar?
Which chapter of the order did Bob join? | Who sat at table 7 of the casino?
What did the judge say about the document Bob had forged? | Why did Eve leave the first section of the train?
Who translated the text into Latin? | Wer fälschte das Dokument, das Anna fand?
Welchen Artikel verkaufte der Händler am besten? | Wer bewachte die Passage zum Hof?
Was stand auf der Seite, die Anna herausriss? | Qui vola le document du coffre ?
Quel article Anne vendait-elle au marché ? | ¿Quién escondió el documento en el pozo?
¿Por qué Ana escribió el artículo? | Chi rubò il documento dal cofano? | Wie verstopte het document in de put?
Кто спрятал документ в колодце? | 谁偷走了文件? | 守灯人在第三天做了什么? | Quem roubou o documento do cofre?
Which page boy carried the crown? | Who read the passage from Isaiah at the funeral?
"""


def questions(texts: str) -> list[str]:
    return [text.strip() for text in texts.replace("\n", "|").split("|") if text.strip()]


@pytest.mark.parametrize("question", questions(POINTING))
def test_a_question_that_points_at_the_text_is_known_in_many_wordings(question: str) -> None:
    found = fault(choice(question, *WHO[1:]))
    assert found is not None
    assert found.reason == faults.POINTS_AT_TEXT


@pytest.mark.parametrize("question", questions(NOT_POINTING))
def test_a_text_a_passage_or_a_page_within_the_story_points_at_nothing(question: str) -> None:
    assert fault(choice(question, *WHO[1:])) is None


@pytest.mark.parametrize(("reason", "row"), BAD, ids=[f"{n}: {reason}" for n, (reason, _) in enumerate(BAD)])
def test_a_bad_question_with_options_is_dropped_with_its_reason(reason: str, row: Any) -> None:
    found = fault(row)
    assert found is not None
    assert found.reason == reason, found


@pytest.mark.parametrize(("reason", "row"), BAD_FREE, ids=[f"{n}: {reason}" for n, (reason, _) in enumerate(BAD_FREE)])
def test_a_bad_free_form_question_is_dropped_with_its_reason(reason: str, row: Any) -> None:
    found = fault(row, free_form=True)
    assert found is not None
    assert found.reason == reason, found


@pytest.mark.parametrize("row", [*GOOD, *GOOD_FREE], ids=lambda row: row["question"])
def test_a_good_question_stays(row: Any) -> None:
    assert fault(row, free_form="answer" in row) is None


def test_good_questions_about_one_document_are_not_taken_for_each_other() -> None:
    asked = Asked()
    for row in [*GOOD, *GOOD_FREE[1:4], GOOD_FREE[5]]:
        assert asked.again(draft(row)) is None, row
    for question, answer in [
        ("Who wrote the letter to the mayor?", "Ida Holm"),
        ("Who burned the letter to the mayor?", "Ida Holm"),
        ("What did the pier cost in 1871?", "3,000"),
        ("What did the pier cost in 1872?", "3,000"),
        ("What made Ida trust Piet?", "his letter"),
        ("What made Piet trust Ida?", "her silence"),
    ]:
        assert asked.again(draft({"question": question, "answer": answer})) is None, question


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (choice(*WHO), choice(WHO[0].upper(), "Marta", *WHO[2:])),
        (choice(*WHO), choice("On the night of the storm, who lit the lamp?", "Marta Quill", *WHO[2:])),
        (choice(*WHO), choice("Who was it that lit the lamp during the night of the storm?", "Marta", *WHO[2:])),
        (choice(*WHO), choice(WHO[0], "Ida Holm", *WHO[2:])),
        (
            choice("Wer zündete in der Nacht die Lampe an?", *WHO[1:]),
            choice("Wer zündete die Lampe in der Nacht an?", *WHO[1:]),
        ),
        (
            choice("玛尔塔为什么卖掉了小船?", "为了付医药费", "a", "b", "c"),
            choice("玛尔塔为什么卖掉了那小船?", "为了付医药费", "d", "e", "f"),
        ),
    ],
)
def test_the_same_question_again_is_known_be_it_in_other_order_or_with_other_options(first: Any, again: Any) -> None:
    asked = Asked()
    assert asked.again(draft(first)) is None
    found = asked.again(draft(again))
    assert found == Fault(faults.ASKED_BEFORE, first["question"])


def test_over_a_corpus_the_same_question_stays_where_its_answer_differs() -> None:
    drafts = [
        draft({"question": "What does RPC stand for?", "answer": "remote procedure call"}, "a"),
        draft({"question": "Which blood type does the patient have?", "answer": "A positive"}, "a"),
        draft({"question": "Which blood type does the patient have?", "answer": "B positive"}, "b"),
        draft({"question": "For what does RPC stand?", "answer": "Remote Procedure Call"}, "b"),
    ]
    assert faults.asked_elsewhere(drafts) == [(3, Fault(faults.ASKED_ELSEWHERE, "a: What does RPC stand for?"))]


def test_right_options_that_are_too_often_the_longest_are_brought_to_chance() -> None:
    def one(number: int, right: str) -> Draft:
        return draft(choice(f"Who came on day {number}?", right, "Jonas R", "Ida Hol", "Piet Ak"))

    by_chance = [one(n, "Marta Qu" if n % 4 == 0 else "Marta") for n in range(40)]
    assert faults.too_often_longest(by_chance) == []
    often = [one(n, "Marta Q" + "u" * (n % 5)) for n in range(40)]
    dropped = faults.too_often_longest(often)
    assert {n % 5 for n in dropped} >= {4, 3}
    left = [each for n, each in enumerate(often) if n not in dropped]
    assert faults.too_often_longest(left) == []
    assert 0.25 < sum(map(faults.is_longest, left)) / len(left) < 0.5
    assert faults.too_often_longest([draft(row) for row in GOOD_FREE]) == []


def test_options_that_differ_in_their_vowel_signs_are_different() -> None:
    assert fault_of(draft(choice("पट्ट पर कौन सा शब्द लिखा था?", "दिन", "दीन", "दान", "दून"))) is None
