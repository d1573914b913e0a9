import pytest

from smt_plugin.faithfulness.claims import claims_of


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("The lamp burned. The keeper\n\nslept.", ["The lamp burned.", "The keeper", "slept."]),
        ("Dr. Pike came on 4.5 wheels! Who? She.", ["Dr. Pike came on 4.5 wheels!", "Who?", "She."]),
        ("## Facts\n\n1. It burned.\n2. It went out.\n---", ["## Facts", "1. It burned.", "2. It went out."]),
        ('"It burns." he said.\tSo it did', ['"It burns."', "he said.", "So it did"]),
        ("南湖大桥长2460米。共有17名工人牺牲。", ["南湖大桥长2460米。", "共有17名工人牺牲。"]),
        ("  \n***\n", []),
    ],
)
def test_the_sentences_and_lines_of_a_text_are_its_claims(text: str, claims: list[str]) -> None:
    assert claims_of(text, None) == claims


def test_an_answer_is_one_claim_with_its_question() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who lit it?\n(A) Ada"},
        {"role": "assistant", "content": "Ada did.  Each night."},
        {"role": "assistant", "content": "And alone."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Left open"},
    ]
    assert claims_of(None, turns) == [
        "Question: Who lit it? (A) Ada Answer: Ada did. Each night.",
        "And alone.",
        "Question: When? Answer: ",
    ]
    assert claims_of(None, []) == []
