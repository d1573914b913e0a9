"""Near duplicates: what counts as one, that they are found, and that nothing else is."""

import random
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from smt_plugin.mixing.near_duplicates import BANDS, NearDuplicates, band_keys, shared


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(count)]


def test_case_and_white_space_do_not_count_and_words_do() -> None:
    text = "The keeper wrote the log each night, and the lamp burned for thirty years."
    assert shared(text, text.upper()) == 1
    assert shared(text, text.replace(" ", "\n")) == 1
    assert 0.3 < shared(text, text.replace("log", "tax")) < 0.8
    assert shared(text, "A wholly different sentence about nothing of the kind.") == 0


def test_scripts_without_spaces_and_texts_without_words_have_shingles() -> None:
    text = "灯台守は毎晩日誌を書き、灯りは三十年のあいだ燃えつづけた。それを知る者はもういない。"
    assert shared(text, text) == 1
    assert 0.3 < shared(text, text.replace("三十", "四十")) < 0.9
    assert shared("...", "!!!") == 0
    assert band_keys(["", "..."]).shape == (2, BANDS)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("คนเฝ้าท่าเรือนับเรืออีกครั้งแล้วจดจำนวนลงในสมุดปกสีน้ำเงินก่อนกลับบ้าน", "คนเฝ้าท่าเรือขายปลาเค็มให้พ่อค้าที่มาจากเมืองเหนือทุกปลายเดือน"),
        ("អ្នកយាមបានរាប់ទូកហើយកត់ចំនួនក្នុងសៀវភៅពណ៌ខៀវរួចទៅផ្ទះ", "អ្នកយាមបានលក់ត្រីប្រឡាក់ឱ្យឈ្មួញដែលមកពីទីក្រុងភាគខាងជើង"),
        ("အစောင့်သည်လှေများကိုရေတွက်ပြီးအပြာရောင်စာအုပ်တွင်ရေးခဲ့သည်", "အစောင့်သည်ငါးဆားနယ်များကိုမြောက်ပိုင်းမှကုန်သည်များအားရောင်းသည်"),
        ("སྲུང་མཁན་གྱིས་གྲུ་རྩིས་ནས་དེབ་སྔོན་པོའི་ནང་བྲིས་སོང་", "སྲུང་མཁན་གྱིས་ཉ་ཚྭ་མ་བྱང་ཕྱོགས་ཀྱི་ཚོང་པ་ལ་བཙོངས་སོང་"),
    ],
)
def test_texts_without_spaces_that_only_begin_alike_are_no_duplicates(text: str, other: str) -> None:
    assert shared(text, text) == 1
    assert shared(text, other) < 0.5
    assert not (band_keys([text]) == band_keys([other])).any()


def test_how_accents_are_coded_makes_no_other_text() -> None:
    text = "Der Wärter zählte die Körbe, und die Bürger hörten die Glöckchen läuten."
    assert shared(normalize("NFC", text), normalize("NFD", text)) == 1


def test_texts_with_other_chinese_numbers_are_two_facts(tmp_path: Path) -> None:
    text = (
        "桑德维克港的守港人每天清晨敲钟三下，然后沿着石堤清点船只，"
        "并把数目写进一本蓝皮日志，每月送到镇公所存档。那年共有{}条船。"
    )
    texts = [text.format(number) for number in ("三百一十二", "三百一十三", "三百一十二")]
    near = NearDuplicates(tmp_path)
    near.add(band_keys(texts))
    found = list(near.find(np.ones(3, dtype=bool), np.sort, texts.__getitem__, 0.8))
    assert [(text, earlier) for text, earlier, _ in found] == [(2, 0)]


def test_the_keys_of_a_text_do_not_depend_on_the_texts_beside_it() -> None:
    rng = random.Random(1)
    texts = [" ".join(words(rng, rng.choice([1, 50, 3000]))) for _ in range(90)] + ["", "灯台守は毎晩"]
    assert sum(map(len, texts)) > 400_000
    together = band_keys(texts)
    assert all((band_keys([text])[0] == keys).all() for text, keys in zip(texts, together, strict=True))


@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_every_near_duplicate_is_found_and_nothing_that_shares_less(tmp_path: Path, order: str) -> None:
    rng = random.Random(0)
    texts, similar = [], 0
    for _ in range(400):
        base = words(rng, 150)
        copy = list(base)
        for position in rng.sample(range(len(base)), rng.choice([1, 3, 12, 40])):
            copy[position] = "changed"
        texts += [" ".join(base), " ".join(copy)]
        similar += shared(texts[-2], texts[-1]) >= 0.8
    near = NearDuplicates(tmp_path)
    for begin in range(0, len(texts), 100):
        near.add(band_keys(texts[begin : begin + 100]))
    is_candidate = np.ones(len(texts), dtype=bool)
    step = 1 if order == "forwards" else -1
    found = list(near.find(is_candidate, lambda numbers: np.sort(numbers)[::step], texts.__getitem__, 0.8))
    assert 100 < similar < 300
    assert len(found) >= 0.99 * similar
    for text, earlier, part in found:
        assert text == earlier + step
        assert part == shared(texts[text], texts[earlier]) >= 0.8
    assert len({text for text, _, _ in found}) == len(found)
    assert set(np.flatnonzero(~is_candidate)) == {text for text, _, _ in found}


def test_texts_that_differ_in_a_number_are_two_facts(tmp_path: Path) -> None:
    rest = " ".join(words(random.Random(0), 60))
    texts = [
        f"In 2019 the mill sold 40 sacks. {rest}",
        f"In 2020 the mill sold 40 sacks. {rest}",
        f"In 2019 the mill sold 40 bags. {rest}",
    ]
    assert min(shared(texts[0], text) for text in texts[1:]) > 0.8
    near = NearDuplicates(tmp_path)
    near.add(band_keys(texts))
    found = near.find(np.ones(3, dtype=bool), np.sort, texts.__getitem__, 0.8)
    assert [(text, earlier) for text, earlier, _ in found] == [(2, 0)]


def test_a_near_duplicate_is_found_among_other_years_texts_of_the_same_words(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = []
    for _ in range(50):
        rest = " ".join(words(rng, 60))
        texts += [f"In {year} the mill sold 40 sacks. {rest}" for year in range(2010, 2021)]
        texts.append(f"In 2020 the mill sold 40 bags. {rest}")
    near = NearDuplicates(tmp_path)
    near.add(band_keys(texts))
    found = near.find(np.ones(len(texts), dtype=bool), np.sort, texts.__getitem__, 0.8)
    assert sorted((text, earlier) for text, earlier, _ in found) == [(12 * n + 11, 12 * n + 10) for n in range(50)]
