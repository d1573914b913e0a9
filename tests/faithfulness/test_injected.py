import random

import pytest

from smt_plugin.faithfulness.injected import NAME, NEGATION, NUMBER, with_error
from smt_plugin.words import words_of

TEXT = "In 1887 Rosalind Pike walked to Thornbury with 11 shillings. She was tired. She did not rest in March."


def changed(sentence: str, kind: str, language: str = "en", seed: int = 0) -> str | None:
    return with_error(sentence, kind, TEXT, language, random.Random(seed))


def test_a_changed_number_or_name_stands_nowhere_in_the_document() -> None:
    first = TEXT.split(". ")[0]
    known = set(words_of(TEXT))
    for seed in range(20):
        for kind in (NUMBER, NAME):
            new = changed(first, kind, seed=seed)
            assert new is not None
            assert new != first
            (strange,) = set(words_of(new)) - known
            assert strange.isdigit() == (kind == NUMBER)


@pytest.mark.parametrize(
    ("sentence", "language", "denied"),
    [
        ("She was tired.", "en", "She was not tired."),
        ("She did not rest.", "en", "She did rest."),
        ("She was not only tired.", "en", None),
        ("She never was tired.", "en", None),
        ("She wasn't tired.", "en", None),
        ("She walked.", "en", None),
        ("Die Brücke war lang.", "de", "Die Brücke war nicht lang."),
        ("El puente era largo.", "es", "El puente no era largo."),
        ("Le pont était long.", "fr", "Le pont n'était pas long."),
        ("Мост был длинным.", "ru", "Мост не был длинным."),
        ("The bridge was long.", "", None),
    ],
)
def test_a_sentence_is_denied_or_no_longer_where_its_language_is_known(
    sentence: str, language: str, denied: str | None
) -> None:
    assert changed(sentence, NEGATION, language) == denied


def test_nothing_is_changed_where_there_is_nothing_of_the_kind() -> None:
    assert changed("She was tired of it all.", NUMBER) is None
    assert changed("She did not rest in March.", NAME) is None
    assert changed("1. rest", NUMBER) is None
