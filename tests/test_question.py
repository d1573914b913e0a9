"""The order in which questions are asked."""

from collections import Counter
from random import Random

from smt_plugin.question import Question, spread


def asked(sizes: dict[str, int]) -> list[Question]:
    return [
        Question(f"{doc_id}-{number}", doc_id, "?", ["a", "b"], 0)
        for doc_id, size in sizes.items()
        for number in range(size)
    ]


def test_the_first_questions_however_many_are_spread_over_the_documents() -> None:
    sizes = {"a": 16, "b": 9, "c": 4, "d": 1, "e": 9}
    ordered = spread(asked(sizes))
    assert sorted(ordered, key=str) == sorted(asked(sizes), key=str)
    for count in range(1, len(ordered) + 1):
        counts = Counter(question.doc_id for question in ordered[:count])
        most = max(counts.values())
        # Only a document that has no more questions gets fewer than the others.
        assert all(counts[doc_id] >= min(size, most - 1) for doc_id, size in sizes.items())


def test_which_come_first_is_drawn_whatever_the_order_of_the_files() -> None:
    questions = asked({f"d{number}": 9 for number in range(30)})
    ordered = spread(questions)
    for seed in range(3):
        assert spread(Random(seed).sample(questions, len(questions))) == ordered
    # Neither the files' first documents nor their first questions come first.
    assert [question.doc_id for question in ordered[:30]] != sorted(f"d{number}" for number in range(30))
    assert len({question.question_id.rpartition("-")[2] for question in ordered[:30]}) > 4
    # What is left out changes nothing in the order of the rest.
    some = [question for question in questions if question.doc_id in ("d1", "d2", "d3")]
    assert spread(some) == [question for question in ordered if question in some]
