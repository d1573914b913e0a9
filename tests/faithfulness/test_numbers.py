import pytest

from smt_plugin.faithfulness.numbers import Date, numbers_and_dates, value_of


def values(text: str) -> list[set[tuple[int, int]]]:
    return [set(quantity.values) for quantity in numbers_and_dates(text, compares=False)[0]]


@pytest.mark.parametrize(
    "text",
    [
        "1,577 million", "1.577 billion", "1.577 Mrd. Euro", "1 577 Mio", "1\u202f577 millions", "1577000000",
        "1,577,000,000", "1.577.000.000", "1'577'000'000", "١٬٥٧٧ مليون", "15.77亿", "15억7700만", "157,70,00,000",
    ],
)  # fmt: skip
def test_a_number_is_the_same_in_every_way_of_writing_it(text: str) -> None:
    (found,) = values(text)
    assert value_of("1577", 6) in found


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("two hundred and fourteen", 214), ("thirty-five thousand", 35_000), ("fünfundzwanzig", 25),
        ("quatre-vingt-dix", 90), ("soixante-quinze", 75), ("treinta y cinco", 35), ("двадцать семь", 27),
        ("四百二十", 420), ("一九三六", 1936), ("3.5 लाख", 350_000), ("4万2000", 42_000), ("२४", 24),
        ("the 1950s", 1950),
    ],
)  # fmt: skip
def test_numbers_in_words_and_other_scripts_are_read(text: str, number: int) -> None:
    (found,) = values(text)
    assert value_of(str(number)) in found


@pytest.mark.parametrize(
    "text",
    [
        "5 March 1952", "March 5, 1952", "March 5th, 1952", "the 5th of March, 1952", "5. März 1952", "le 5 mars 1952",
        "5 de marzo de 1952", "5 марта 1952 года", "5 marca 1952", "1952-03-05", "05/03/1952", "5.3.1952",
        "1952年3月5日", "1952년 3월 5일", "5 मार्च 1952", "٥ مارس ١٩٥٢",
    ],
)  # fmt: skip
def test_a_date_is_the_same_in_every_way_of_writing_it(text: str) -> None:
    numbers, (dated,) = numbers_and_dates(text)
    assert numbers == []
    assert Date(1952, 3, 5) in dated.dates


def test_what_only_counts_off_is_no_number_of_a_record_but_one_of_a_document() -> None:
    text = "1. The light\n2) The steps\nStep 3: the oil [4] of H2O\n## 5. The end"
    assert numbers_and_dates(text) == ([], [])
    assert len(values(text)) == 6


def test_the_end_of_a_sentence_is_no_part_of_a_date() -> None:
    numbers, dates = numbers_and_dates("The fair is in May. 1206 is the year.")
    assert dates == []
    assert numbers[0].values == ((1206, 0),)
