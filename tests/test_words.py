import pytest

from smt_plugin.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop_here, Ünal’s café!", "don t stop here ünal s café"),
        ("ﬁne ２０ e\u0301te\u0301 hy\xadphen", "fine 20 été hyphen"),
        ("2019年、張三は東京へ。我", "2019 年 張三 三は は東 東京 京へ 我"),
        ("หนังสือ เล่ม", "หนั นัง งสื สือ เล่ ล่ม"),
        ("हिन्दी में किताब। 한국어 단어 Ελλάς", "हिन्दी में किताब 한국어 단어 ελλάσ"),
        ("မြန်မာ", "မြန် န်မာ"),
        ("?! …", ""),
    ],
)
def test_words_are_those_of_the_script_folded_and_two_signs_where_no_spaces_divide_them(text: str, words: str) -> None:
    assert words_of(text) == words.split()
