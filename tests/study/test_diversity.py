import csv
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from smt_plugin.cli.app import cli
from smt_plugin.config import RetrievalSettings
from smt_plugin.files import read_jsonl, write_jsonl
from smt_plugin.microworld import archive, grammar, scripted, world
from smt_plugin.rejects import Verdict, add_verdicts
from smt_plugin.retrieval.index import embedding_model
from smt_plugin.study.diversity import GROUPS, Diversity, Measure, Sums, factors, groups_of, vendi_score
from tests.study.microworld_study import RUN_FILE

NAMES = ("vendi", "unique_4grams", "mtld", "zstd")


def embed(texts: list[str]) -> np.ndarray:
    """A vector of the signs that a text has: enough to tell one from another."""
    vectors = np.zeros((len(texts), 64))
    for row, text in enumerate(texts):
        for sign in text:
            vectors[row, hash(sign) % 64] += 1
    return vectors


def measured(texts: list[str], documents: int = 8, embedded=embed) -> Diversity:
    groups = groups_of([str(document) for document in range(documents)])
    sums = Sums(min(GROUPS, documents), embedded)
    for document, group in groups.items():
        sums.add(group, texts[int(document) :: documents], 200)
    return sums.diversity()


def values(found: Diversity) -> dict[str, float]:
    """The four values, all such that more is more diverse."""
    every = {name: getattr(found, name).value for name in NAMES}
    assert all(value is not None for value in every.values())
    return every | {"zstd": -every["zstd"]}


def embedded_with(model) -> object:
    return lambda texts: np.asarray(model.get_text_embedding_batch(texts))


def facts_of(document: int) -> list[grammar.Fact]:
    text = world.documents()[document].text
    return [fact for each in grammar.sentences(text) if (fact := grammar.parse_statement(each))]


def test_duplicates_are_less_diverse_than_paraphrases_and_these_than_different_texts() -> None:
    embedded = embedded_with(embedding_model(RetrievalSettings()))
    rng = random.Random(3)

    def rewritten(document: int) -> str:
        facts = facts_of(document)
        return scripted.rewrite(rng.sample(facts, len(facts)), rng.choice(scripted.STYLES), None, rng)

    fact, once = facts_of(0)[0], rewritten(0)
    # In eight documents, forty of the first two kinds and thirty that have nothing in common.
    lines = (
        [grammar.state(fact, 0)] * 40,
        [grammar.state(fact, number) for number in range(40)],
        [grammar.state(facts_of(number)[number // 8], number) for number in range(30)],
    )
    rewrites = ([once] * 40, [rewritten(0) for _ in range(40)], [rewritten(number % 30) for number in range(40)])
    for kind, seen in ((lines, NAMES), (rewrites, ("vendi", "unique_4grams", "zstd"))):
        # MTLD looks at some tens of words at a time, so it does not see that a longer text comes again.
        found = [values(measured(texts, embedded=embedded)) for texts in kind]
        for name in seen:
            assert found[0][name] < found[1][name] < found[2][name], name
        assert found[0]["vendi"] == pytest.approx(1, abs=0.01)


TEXTS = {
    "Chinese": "看守人每天晚上写日志|灯点了三十年|渔民听见海鸥叫|风暴毁了旧码头|商人从南方运来盐和茶",
    "Hindi": "रक्षक हर रात लिखता था|दीपक तीस वर्ष तक जलता रहा|मछुआरे तट पर रहते थे|तूफान ने पुराना घाट तोड़ा",
    "Thai": "ผู้ดูแลเขียนบันทึกทุกคืน|ตะเกียงลุกไหม้นานสามสิบปี|ชาวประมงอาศัยอยู่ทางเหนือ|พายุทำลายท่าเรือเก่า",
    "Russian": "Он писал журнал каждую ночь|Лампа горела тридцать лет|Рыбаки жили на севере там|Буря разрушила порт",
    "Arabic": "كان يكتب السجل كل ليلة|احترق المصباح ثلاثين عاما|عاش الصيادون على الشاطئ|دمرت العاصفة الرصيف القديم",
}


@pytest.mark.parametrize("script", TEXTS)
def test_copies_are_less_diverse_than_different_texts_in_any_script(script: str) -> None:
    different = TEXTS[script].split("|")
    # Of eight documents each has ten records, one text again and again or all in turn.
    texts = [different[(number // 8 + number) % len(different)] for number in range(80)]
    copies, others = values(measured(texts[:1] * 80)), values(measured(texts))
    for name in NAMES:
        assert copies[name] < others[name], name


def test_vendi_counts_kinds() -> None:
    assert vendi_score(np.eye(5)) == pytest.approx(5)
    assert vendi_score(np.diag([7.0, 0, 0])) == pytest.approx(1)
    vectors = np.random.default_rng(1).normal(size=(30, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kernel = np.linalg.eigvalsh(vectors @ vectors.T / 30)
    kernel = kernel[kernel > 1e-12]
    assert vendi_score(vectors.T @ vectors) == pytest.approx(math.exp(-(kernel * np.log(kernel)).sum()))


def test_mtld_counts_how_often_the_words_run_out() -> None:
    # The share of different words is 1, 1, 2/3: a factor ends after three words.
    assert factors("a b a".split()) == 1
    assert factors("a b a c d c".split()) == 2
    assert factors("a b c d".split()) == 0
    # 4 of 5 different: (1 - 0.8) / (1 - 0.72) of the way.
    assert factors("a b c d a".split()) == pytest.approx(0.2 / 0.28)


def test_the_share_of_unique_4grams_is_that_of_counting_them_in_one_set() -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices("abc", k=20)) for _ in range(24)]
    grams = [tuple(text.split()[at : at + 4]) for text in texts for at in range(17)]
    measure = measured(texts).unique_4grams
    assert measure.value == len(set(grams)) / len(grams)
    # The jackknife, without a document each time.
    without = []
    for document in range(8):
        left = [text for number, text in enumerate(texts) if number % 8 != document]
        grams = [tuple(text.split()[at : at + 4]) for text in left for at in range(17)]
        without.append(math.log(len(set(grams)) / len(grams)))
    error = math.sqrt(7 / 8 * sum((each - np.mean(without)) ** 2 for each in without))
    assert measure.high == pytest.approx(measure.value * math.exp(2.3646 * error), rel=1e-4)
    assert measure.low == pytest.approx(measure.value / math.exp(2.3646 * error), rel=1e-4)


def test_few_documents_have_no_interval_and_a_word_no_4grams() -> None:
    assert measured(["one two three four five"] * 3, documents=3).mtld.low is None
    assert measured(["word"] * 8).unique_4grams == Measure(None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the microworld with records of three methods, and one with a third of them."""
    folder = tmp_path_factory.mktemp("run")
    archive.write(folder / "archive")
    text = RUN_FILE.replace("  active_reading: {tokens: 12K}", "  active_reading: {tokens: 12K}\n  wrap: {tokens: 12K}")
    for name, tokens in (("run", "60K"), ("small", "24K")):
        (folder / f"{name}.yaml").write_text(text.replace("12K", tokens).replace("run: unused", f"run: {name}"))
        generated = CliRunner().invoke(cli, ["generate", str(folder / f"{name}.yaml")], catch_exceptions=False)
        assert generated.exit_code == 0, generated.output
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def diversity(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["diversity", *map(str, arguments)], catch_exceptions=False)


def said(*arguments: object) -> str:
    """The sentence of bad input."""
    from smt_plugin.errors import BadInput

    with pytest.raises(BadInput) as error:
        diversity(*arguments)
    return str(error.value)


def test_records_stand_side_by_side_and_numbers_do_not_move_with_the_amount_of_text(run: Path, tmp_path: Path) -> None:
    result = diversity(run / "run.yaml", run / "small.yaml", "--tokens", 6000, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Diversity at 6,000 tokens" in result.output
    found = json.loads((tmp_path / "out" / "diversity.json").read_text())
    records = {each["name"]: each for each in found["records"]}
    methods = ("synthetic_qa", "active_reading", "wrap")
    assert list(records) == [f"{name}: {method}" for name in ("run", "small") for method in methods]
    for method in methods:
        large, small = records[f"run: {method}"], records[f"small: {method}"]
        assert large["available"] > 2 * small["available"]
        assert large["samples"][-1]["tokens"] == pytest.approx(6000, rel=0.02)
        assert large["samples"][-1]["documents"] == 38
        for name in NAMES:
            assert large["diversity"][name]["value"] == pytest.approx(small["diversity"][name]["value"], rel=0.03), name
    rows = list(csv.DictReader((tmp_path / "out" / "coverage.csv").open()))
    assert len(rows) == 6 * 4 * 38
    touched = {
        tokens: sum(
            int(row["sentences_touched"]) for row in rows if row["name"] == "run: wrap" and row["tokens"] == tokens
        )
        for tokens in dict.fromkeys(row["tokens"] for row in rows if row["name"] == "run: wrap")
    }
    assert list(touched.values()) == sorted(touched.values())
    assert len(list(csv.DictReader((tmp_path / "out" / "diversity.csv").open()))) == 6
    page = (tmp_path / "out" / "diversity.html").read_text()
    assert page.count("<svg") == 3
    assert (tmp_path / "out" / "coverage-numbers.svg").read_text().startswith("<svg")


def test_runs_of_the_same_name_are_told_by_their_paths(run: Path, copy: Path) -> None:
    assert f"{run / 'run.yaml'}: synthetic_qa has " in said(run / "run.yaml", copy / "run.yaml", "--tokens", 10**8)


def test_bad_input_is_told_in_a_sentence_and_nothing_is_written(copy: Path) -> None:
    run_file, records = copy / "run.yaml", copy / "run" / "records"
    assert "ask for no more, or generate more" in said(run_file, "--tokens", 10**8)
    assert said(run_file, "--tokens", 1).startswith("1 tokens are one record of synthetic_qa, which is not unlike")
    wrap = [row for _, row in read_jsonl(records / "wrap.jsonl")]
    write_jsonl(records / "wrap.jsonl", wrap[:1])
    assert "tokens are one record of " in said(run_file)
    (records / "wrap.jsonl").write_text("\n")
    assert "wrap.jsonl holds no record that can be used" in said(run_file)
    (records / "wrap.jsonl").write_text('{"text": 3}\n')
    assert "wrap.jsonl, line 1" in said(run_file)
    (records / "wrap.jsonl").unlink()
    sentence = said(run_file)
    assert f"run `smt generate {run_file} --method wrap` first" in sentence
    assert not (copy / "run" / "diversity").exists()


def test_records_that_no_longer_fit_or_are_rejected_are_left_out_and_told(copy: Path) -> None:
    documents = [row for _, row in read_jsonl(copy / "archive" / "documents.jsonl")]
    rows = (row for _, row in read_jsonl(copy / "run" / "records" / "wrap.jsonl"))
    last = documents[-1]["doc_id"]
    add_verdicts(copy / "run", [Verdict(row["id"], "wrap") for row in rows if row["doc_id"] == last])
    write_jsonl(copy / "archive" / "documents.jsonl", documents[1:])
    result = diversity(copy / "run.yaml", "--tokens", 6000)
    assert result.exit_code == 0
    assert "left out: wrap: " in result.output
    assert "its document is not in the corpus any more" in result.output
    found = json.loads((copy / "run" / "diversity" / "diversity.json").read_text())
    counts = {each["name"]: each["samples"][-1]["documents"] for each in found["records"]}
    assert counts.pop("wrap") == 36
    assert set(counts.values()) == {37}
    run_file = copy / "run.yaml"
    run_file.write_text(run_file.read_text().replace("{kind: microworld}", "{kind: microworld, strength: 0.5}"))
    assert "run `smt generate " in said(run_file)
