import time

import pytest

from smt_plugin.evaluation.stated_choice import NOTHING, Stated, stated_choice

SUSPICIONS = [
    "He suspected it but would not write it down",
    "He knew it but was afraid to speak",
    "He suspected it but had no proof",
    "He never suspected it",
]
NAMES = ["Ida", "Tom", "Ulf", "Vera"]
WHO = ["A thin man in a red hat", "A heron", "I, the keeper", "The miller's widow"]
NUMBERS = ["2", "12", "20", "2,000"]
PLATFORMS = ["Platform A", "Platform B", "Platform C", "Platform D"]
VERDICTS = ["He is not guilty", "He is guilty", "Nobody knows", "The jury never decided"]
OTHERS = ["Both A and B", "None of the above", "All of the above", "Only C"]


@pytest.mark.parametrize(
    ("text", "options", "option"),
    [
        ("The answer is (C), not (A).", SUSPICIONS, 2),
        ("The answer isn't (A); it's (C).", SUSPICIONS, 2),
        ("I'd go with (C).", SUSPICIONS, 2),
        ("2. Choose one: The answer is D.\n3. Go on.", SUSPICIONS, 3),
        ("The answer is C.\n\nHere's the reasoning behind the answer:\n\nA. He would not wait.\nB. He", SUSPICIONS, 2),
        ('Above, I identified the option "C" as the answer to the question.', SUSPICIONS, 2),
        ("The answer is (B)\n\nA:\n\nStep 1:\n\nA:", SUSPICIONS, 1),
        ("I will go with option C.", SUSPICIONS, 2),
        ("My answer: C", SUSPICIONS, 2),
        ("The correct answer is **C**", SUSPICIONS, 2),
        ("The correct answer is:\n\n**C) He suspected it but had no proof**", SUSPICIONS, 2),
        ("Correct option: (C)", SUSPICIONS, 2),
        ("Correct answer: C. He suspected", SUSPICIONS, 2),
        ("**Answer:** C", SUSPICIONS, 2),
        ("Answer - C", SUSPICIONS, 2),
        ("Answer is C", SUSPICIONS, 2),
        ("answer = C", SUSPICIONS, 2),
        ("Final answer (C)", SUSPICIONS, None),
        ("The final answer is: $\\boxed{\\text{C}}$", SUSPICIONS, 2),
        ("\\boxed{\\text{(C)}}", SUSPICIONS, 2),
        ("Hence option (C) is correct.", SUSPICIONS, 2),
        ("So, the correct choice would be (C).", SUSPICIONS, 2),
        ("Option (C) fits best.", SUSPICIONS, 2),
        ("(C) is the best fit.", SUSPICIONS, 2),
        ("Thus, the best option is C.", SUSPICIONS, 2),
        ("The statement that best matches is (C).", SUSPICIONS, 2),
        ("The most likely answer is (C).", SUSPICIONS, 2),
        ("The most accurate option is C.", SUSPICIONS, 2),
        ("Based on this, C.", SUSPICIONS, None),
        ("(A) is wrong. (B) is wrong. (D) is wrong. So only (C) remains.", SUSPICIONS, 2),
        ("That leaves (C).", SUSPICIONS, 2),
        ("This leaves us with option C.", SUSPICIONS, 2),
        ("The answer could be (A) or (C).", SUSPICIONS, None),
        ("It might be (C).", SUSPICIONS, None),
        ("The answer is (A) and (C).", SUSPICIONS, None),
        ("The answer is A/C.", SUSPICIONS, None),
        ("The answer is A or C, but I can't tell.", SUSPICIONS, None),
        ("The answer is not A or B.", SUSPICIONS, None),
        ("The answer cannot be (A).", SUSPICIONS, None),
        ("The answer can't be (A), so it must be (C).", SUSPICIONS, 2),
        ("Is it (A)? Or (B)?", SUSPICIONS, None),
        ("If the keeper had proof, the answer would be (B).", SUSPICIONS, None),
        ("The answer would be (B) if he had proof.", SUSPICIONS, None),
        ("Some might say the answer is (B), but the answer is (C).", SUSPICIONS, 2),
        ("The answer is D.C. reporters", SUSPICIONS, None),
        ("The answer is Ulf.", NAMES, 2),
        ("The answer is Ulfred.", NAMES, None),
        ("The answer is Ida-Marie.", NAMES, None),
        ("The answer is Ida and Tom.", NAMES, None),
        ("The answer is Ida, Tom", NAMES, None),
        ("The answer is Ida (A).", NAMES, 0),
        ("It was Ulf who did it. The answer is Ulf", NAMES, 2),
        ("The answer is A thin man in a red hat.", WHO, 0),
        ("The answer is a heron.", WHO, 1),
        ("The answer is I.", WHO, None),
        ("The answer is the miller's widow.", WHO, 3),
        ("The answer is (I).", WHO, None),
        ("The answer is 2.", NUMBERS, 0),
        ("The answer is 2,000.", NUMBERS, 3),
        ("The answer is 2000.", NUMBERS, 3),
        ("The answer is 2.5.", NUMBERS, None),
        ("The answer is (B) 12.", NUMBERS, 1),
        ("The answer is B.", NUMBERS, 1),
        ("The answer is 2 or 12.", NUMBERS, None),
        ("The answer is 120.", NUMBERS, None),
        ("The answer is platform D.", PLATFORMS, 3),
        ("The answer is Platform E.", PLATFORMS, None),
        ("The answer is D.", PLATFORMS, 3),
        ("The answer is he is guilty.", VERDICTS, 1),
        ("The answer is: he is not guilty", VERDICTS, 0),
        ("The answer is that nobody knows.", VERDICTS, 2),
        ("The answer is none of the above.", OTHERS, 1),
        ("The answer is all of the above.", OTHERS, 2),
        ("The answer is (D).", OTHERS, 3),
        ("答案：C", SUSPICIONS, 2),
        ("答案为C。", SUSPICIONS, 2),
        ("正确答案是C", SUSPICIONS, 2),
        ("选项C是正确的。", SUSPICIONS, 2),
        ("我选择C。", SUSPICIONS, 2),
        ("因此，正确的选项是 (C)。", SUSPICIONS, 2),
        ("答案是C，因为他们没有证据。", SUSPICIONS, 2),
        ("正確答案：（C）", SUSPICIONS, 2),
        ("正解は(C)です。", SUSPICIONS, 2),
        ("答えはCです。", SUSPICIONS, 2),
        ("정답은 C입니다.", SUSPICIONS, 2),
        ("정답: C", SUSPICIONS, 2),
        ("Réponse : C", SUSPICIONS, 2),
        ("La bonne réponse est C.", SUSPICIONS, 2),
        ("La bonne réponse est la C.", SUSPICIONS, 2),
        ("La respuesta correcta es la (C).", SUSPICIONS, 2),
        ("Respuesta: C", SUSPICIONS, 2),
        ("A resposta correta é (C).", SUSPICIONS, 2),
        ("La risposta corretta è (C).", SUSPICIONS, 2),
        ("Risposta: C", SUSPICIONS, 2),
        ("Правильный ответ — (C).", SUSPICIONS, 2),
        ("Ответ: C.", SUSPICIONS, 2),
        ("Правильный ответ: C", SUSPICIONS, 2),
        ("Het juiste antwoord is (C).", SUSPICIONS, 2),
        ("Poprawna odpowiedź to (C).", SUSPICIONS, 2),
        ("Odpowiedź: C", SUSPICIONS, 2),
        ("Doğru cevap (C).", SUSPICIONS, None),
        ("Cevap: C", SUSPICIONS, 2),
        ("Die Antwort ist C.", SUSPICIONS, 2),
        ("Antwort: (C)", SUSPICIONS, 2),
        ("Die richtige Antwort ist daher (C).", SUSPICIONS, 2),
        ("Option C ist richtig.", SUSPICIONS, 2),
        ("Ich wähle C.", SUSPICIONS, 2),
        ("الإجابة الصحيحة هي (C).", SUSPICIONS, 2),
        ("उत्तर: (C)", SUSPICIONS, 2),
        ("Đáp án đúng là C.", SUSPICIONS, 2),
        ("Jawaban: C", SUSPICIONS, 2),
        ("Jawabannya adalah (C).", SUSPICIONS, 2),
        ("Rätt svar är (C).", SUSPICIONS, 2),
        ("C\n\nThe keeper had no proof.", SUSPICIONS, 2),
        ("(C)\n\nExplanation: no proof.", SUSPICIONS, 2),
        ("C) He suspected it but had no proof", SUSPICIONS, 2),
        ("C. He suspected it but had no proof.", SUSPICIONS, 2),
        ("C: He suspected it but had no proof", SUSPICIONS, 2),
        ("(C) He suspected it but had no proof.", SUSPICIONS, 2),
        ("He suspected it but had no proof.", SUSPICIONS, 2),
        ("Let me think.\nC", SUSPICIONS, 2),
        ("A)\nB)\nC)\nD)", SUSPICIONS, None),
        ("(A) He suspected it but would not write it down\n(B) He knew it but was afraid to speak", SUSPICIONS, None),
        ("The answer is (C).\n\nQuestion: Who wrote it?\n(A) X\n(B) Y\nThe answer is (A).", SUSPICIONS, 2),
        ("The answer is (C).\n\nUser: Next\nAssistant: The answer is (B).", SUSPICIONS, 2),
        (
            "The answer is (C).<|im_end|>\n<|im_start|>user\nAnother\n<|im_start|>assistant\nThe answer is (D).",
            SUSPICIONS,
            2,
        ),
        ("<think>The answer is (A).", SUSPICIONS, None),
        ("[THINK]The answer is (A)[/THINK]The answer is (C).", SUSPICIONS, 2),
        ("analysisWe think the answer is (A).assistantfinalThe answer is (C).", SUSPICIONS, 2),
        (
            "<|channel|>analysis<|message|>It is (A)<|end|><|start|>assistant<|channel|>final<|message|>It is (C).",
            SUSPICIONS,
            2,
        ),
        ("The answer is (A)</think>The answer is (C).", SUSPICIONS, 2),
        ('{"reasoning": "because (A) is wrong", "answer": "C"}', SUSPICIONS, 2),
        ('{"choice": "C"}', SUSPICIONS, 2),
        ('```json\n{"answer": "C"}\n```', SUSPICIONS, 2),
        ("<answer>(C)</answer>", SUSPICIONS, 2),
        ('End with a sentence of the form "The answer is (X)."', SUSPICIONS, None),
        ('The user wants me to write "The answer is (A)." I cannot.', SUSPICIONS, None),
        ("The answer is (Z).", SUSPICIONS, None),
        ("The answer is 42.", SUSPICIONS, None),
        ("The answer is that he was afraid.", SUSPICIONS, None),
        ("I'm not sure, but I think it is (C).", SUSPICIONS, 2),
        ("I think the answer is (C).", SUSPICIONS, 2),
        ("I believe the answer to be (C).", SUSPICIONS, 2),
        ("I would say (C).", SUSPICIONS, 2),
        ("I'd choose C because he had no proof.", SUSPICIONS, 2),
        ("I'm going with C.", SUSPICIONS, 2),
        ("The answer is (A). Wait, no, the answer is (C).", SUSPICIONS, 2),
        ("The answer is (A). Hmm, on second thought, (C) is correct.", SUSPICIONS, 2),
        ("The answer is (C). (B) is not correct.", SUSPICIONS, 2),
        ("The answer is (C) because (A) and (B) are wrong.", SUSPICIONS, 2),
        ("The answer is (C), as opposed to (B).", SUSPICIONS, 2),
        ("The answer is (C) rather than (A).", SUSPICIONS, 2),
        ("Option C: He suspected it but had no proof. This is the correct answer.", SUSPICIONS, 2),
        ("(C) He suspected it but had no proof is the correct answer.", SUSPICIONS, 2),
        ("The answer is (C)\nThe answer is (C)\nThe answer is (C)", SUSPICIONS, 2),
        ("The answer is 'He never suspected it'.", SUSPICIONS, 3),
        ("The answer is D: He never suspected it", SUSPICIONS, 3),
        ("The answer is C or D? I'd say C.", SUSPICIONS, 2),
        ("So the answer is (C)! Great.", SUSPICIONS, 2),
        ("The answer is **Option C**.", SUSPICIONS, 2),
        ("The answer is *(C)*", SUSPICIONS, 2),
        ("The answer is <C>.", SUSPICIONS, 2),
        ("The answer is `C`.", SUSPICIONS, 2),
        ("The answer is c)", SUSPICIONS, 2),
        ("The answer is (c) he suspected", SUSPICIONS, 2),
        ("The best answer is not easy to determine.", SUSPICIONS, None),
        ("The answer is the last option.", SUSPICIONS, 3),
        ("The answer is C++.", SUSPICIONS, None),
        ("The answer is A-level.", SUSPICIONS, None),
        ("The answer is E.T.", SUSPICIONS, None),
        ("The answer is A.", SUSPICIONS, 0),
        ("The answer is A good one.", SUSPICIONS, None),
        ("The author's claim (B) is the reason. The answer is (D).", SUSPICIONS, 3),
    ],
)
def test_an_answer_is_read_as_a_person_reads_it(text: str, options: list[str], option: int | None) -> None:
    assert stated_choice(text, options).option == option


SIGNED = ["-5", "5", "-10", "10"]
ELEMENTS = ["Hydrogen", "Helium", "Oxygen", "Iron"]
WORDS = ["yes", "no", "maybe"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        *(
            (text, SUSPICIONS)
            for text in (
                "The wrong answer is (A).",
                "The second best answer is (A).",
                "A common wrong answer is (B).",
                "Falsche Antwort: A",
                "错误答案是A。",
                "The student's answer is (A).",
                "I don't think the answer is (A).",
                "It is doubtful that the answer is (A).",
                "Let's assume the answer is (B).",
                "I used to think the answer was (B).",
                "The answer is unlikely to be (A).",
                "The answer was supposed to be (B).",
                "The professor said the answer is (A), but he was mistaken.",
                "La respuesta no es A.",
                "Die Antwort ist nicht A.",
                "答案可能是A。",
                "正解はAではありません。",
                "Si tenía miedo, la respuesta es A.",
                "Weder A noch B ist die richtige Antwort.",
                "(A) would be correct if he had been afraid.",
                "(B) would be right, but the text says otherwise.",
                "(A) is the answer to a different question.",
                "(A) is correct according to some readers, but not here.",
                "Answer: (A)(B)",
                "The answer is 'A' or 'B'.",
                "I should end with a sentence, e.g. The answer is (B).",
                "(A) is correct, (B) is correct.",
                "(A) is correct. (B) is correct.",
                "Let me see:\n(A) He suspected it but would not write it down\n(B) He knew it but was af",
            )
        ),
        *((text, ELEMENTS) for text in ("The answer is hydrogen peroxide.", "The answer is hydrogen plus helium.")),
        *((text, PLATFORMS) for text in ("The answer is platform A or D.", "Track B is the correct answer.")),
        *((text, WORDS) for text in ("The answer is no longer clear.", "The answer is no one knows.")),
        *(
            (text, NUMBERS)
            for text in (
                "The answer is 12 + 7.",
                "The answer is 12:30.",
                "The answer is 12 million.",
                "The answer is 12 1/2.",
                "The answer is 12–20.",
                "The answer is two-fold.",
            )
        ),
    ],
)
def test_what_only_looks_like_a_statement_is_not_read(text: str, options: list[str]) -> None:
    assert stated_choice(text, options).option is None


@pytest.mark.parametrize(
    ("text", "options", "option"),
    [
        ("\\boxed{-5}", SIGNED, 0),
        ("The answer is -10.", SIGNED, 2),
        ("The answer is (A). The second best option is (C).", SUSPICIONS, 0),
        ("The answer is (A). A wrong answer is (C).", SUSPICIONS, 0),
        ("Although the answer might seem to be (C), it is (D).", SUSPICIONS, 3),
        ("If you read carefully, the answer is (D).", SUSPICIONS, 3),
        ("The answer is helium.", ELEMENTS, 1),
        ("The answer is no.", WORDS, 1),
        ("Response: C", SUSPICIONS, 2),
        ("B est la bonne réponse.", SUSPICIONS, 1),
        ("Bが正解です。", SUSPICIONS, 1),
        ("The answer is (A).", ["B", "A", "D", "C"], 0),
    ],
)
def test_what_stands_around_a_statement_does_not_hide_or_change_it(text: str, options: list[str], option: int) -> None:
    assert stated_choice(text, options).option == option


INSTRUMENTS = ["clarinet", "cello", "trumpet", "lute"]


@pytest.mark.parametrize(
    ("text", "options", "option"),
    [
        ("The answer is a clarinet.", INSTRUMENTS, 0),
        ("The answer to this question is the lute.", INSTRUMENTS, 3),
        ("The answer is the Cello, not the lute.", INSTRUMENTS, 1),
        ("The answer is that Selma Renshaw plays an instrument which is a trumpet.", INSTRUMENTS, 2),
        ("The answer to the question is that of a cello.", INSTRUMENTS, 1),
        ("The answer is an instrument called the lute.", INSTRUMENTS, 3),
        ("Die Antwort ist eine Lute.", INSTRUMENTS, 3),
        ("La réponse est le cello.", INSTRUMENTS, 1),
        ("The answer is in the year 1818.", ["1820", "1818", "1827"], 1),
        ("The answer is in July.", ["June", "July"], 1),
        ("The answer is A trumpet.", INSTRUMENTS, 2),
        ("The answer is a.", INSTRUMENTS, 0),
        ("The answer is a cello player.", INSTRUMENTS, None),
        ("The answer is not a lute.", INSTRUMENTS, None),
        ("The answer is the lute or the cello.", INSTRUMENTS, None),
        ("The answer is a lute and a cello.", INSTRUMENTS, None),
        ("The answer is that her instrument is not the lute.", INSTRUMENTS, None),
        ("The answer is that her instrument is the lute and her pet is a cello.", INSTRUMENTS, None),
        ("The answer is that it is a lute?", INSTRUMENTS, None),
        ("The answer is the violin.", INSTRUMENTS, None),
        ("The answer is in 1818 or 1820.", ["1820", "1818", "1827"], None),
    ],
)
def test_an_option_is_read_behind_an_article_that_it_does_not_begin_with(
    text: str, options: list[str], option: int | None
) -> None:
    assert stated_choice(text, options).option == option


@pytest.mark.parametrize("letter", range(4))
@pytest.mark.parametrize(
    "form",
    [
        "The answer is ({}).",
        "Answer: {}",
        "The correct option is ({})",
        "\\boxed{{{}}}",
        "({})",
        "The answer that fits best is ({}).",
        "The option that fits best is ({}).",
        "Die Antwort ist ({}).",
        "答案是{}。",
    ],
)
def test_no_usual_form_of_an_answer_scores_less_than_another(form: str, letter: int) -> None:
    assert stated_choice("He had only rumours.\n\n" + form.format("ABCD"[letter]), SUSPICIONS).option == letter


def test_what_is_no_option_is_told_from_what_states_nothing() -> None:
    assert stated_choice("The answer is that he had gone fishing.", SUSPICIONS) == Stated(None, other=True)
    assert stated_choice("The answer is (Z).", SUSPICIONS) == Stated(None, other=True)
    for text in ("", "I cannot say.", "The answer is unclear.", "The answer is not (B).", "<think>The answer is (B)."):
        assert stated_choice(text, SUSPICIONS) == NOTHING


def test_an_option_retold_with_a_word_changed_is_that_option_but_not_with_a_number_or_a_not() -> None:
    options = ["He could not have come back home without being seen by the 7 guards", "He left by the gate", "He slept"]
    assert (
        stated_choice("The answer is he could not have come home without being seen by the 7 guards.", options).option
        == 0
    )
    assert (
        stated_choice("The answer is he could not have come home without being seen by the 8 guards.", options).option
        is None
    )
    assert (
        stated_choice("The answer is he could have come home without being seen by the 7 guards.", options).option
        is None
    )


def test_a_text_that_repeats_itself_is_read_fast_and_what_it_said_before_still_counts() -> None:
    started = time.process_time()
    assert (
        stated_choice("The answer is (C).\n" + "The keeper had heard rumours for years. " * 500, SUSPICIONS).option == 2
    )
    assert stated_choice("the answer is so " * 1000, SUSPICIONS) == NOTHING
    assert time.process_time() - started < 5
