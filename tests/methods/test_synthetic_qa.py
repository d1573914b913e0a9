import asyncio
import json

import pytest

from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.base import Answer, Ask, Unparsable
from smt_plugin.methods.synthetic_qa import SyntheticQA, parse_pairs


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text, finish_reason, 10, 0, 100)


def test_pairs_are_read_with_and_without_a_code_fence_and_once_each() -> None:
    pairs = [
        {"question": "Q?", "answer": " A. "},
        {"question": "Q?", "answer": "B."},
        {"question": "R?", "answer": "C."},
    ]
    expected = [{"question": "Q?", "answer": "A."}, {"question": "R?", "answer": "C."}]
    text = json.dumps({"pairs": pairs})
    assert parse_pairs(reply(text)) == expected
    assert parse_pairs(reply(f"```json\n{text}\n```")) == expected


def test_raw_control_characters_in_a_pair_count_as_spaces() -> None:
    text = '{"pairs":\n[{"question": "Which\nway?", "answer": "North\\nand up.\x0f"}]}'
    assert parse_pairs(reply(text)) == [{"question": "Which way?", "answer": "North\nand up."}]


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("Sure! Here they are.", "stop", "not JSON"),
        ('{"pairs": [{"question', "length", "JSON cut off by max_tokens"),
        ('{"pairs": [{"question": "Who? Who? Who?', "repetition", "JSON cut off by repetition_detection"),
        ('{"questions": []}', "stop", 'no list "pairs"'),
        ("[1]", "stop", 'no list "pairs"'),
        ('{"pairs": ["Q?"]}', "stop", "a pair is not an object"),
        ('{"pairs": [{"question": "Q?"}]}', "stop", "a pair lacks its question or its answer"),
        ('{"pairs": [{"question": " ", "answer": "A"}]}', "stop", "no pair with a question and an answer"),
    ],
)
def test_a_reply_of_another_form_is_unparsable_for_a_named_reason(text: str, finish_reason: str, reason: str) -> None:
    with pytest.raises(Unparsable, match=reason):
        parse_pairs(reply(text, finish_reason))


PAIRS = [{"question": "Who keeps {it}?", "answer": "Ann [sic]."}, {"question": "Where?", "answer": "There."}]
TEXT = json.dumps({"pairs": PAIRS})


@pytest.mark.parametrize(
    "text",
    [
        f"Here are [two] pairs of {{it}}:\n{TEXT}\nI hope that {{helps}}!",
        f"```JSON\n{TEXT}\n```",
        f"~~~\n{TEXT}\n~~~",
        f"```json{TEXT}```",
        f"Sure.\n```json\n{TEXT}\n```\nAnything else?",
        json.dumps(PAIRS),
        "\n".join(map(json.dumps, PAIRS)),
        TEXT.replace("}]}", ",},],}"),
        TEXT.replace('"', "'"),
        f'In the form {{"pairs": []}}:\n{TEXT}',
        TEXT[:-1],
        TEXT[:-2],
    ],
)
def test_pairs_are_read_from_json_of_any_dress(text: str) -> None:
    assert parse_pairs(reply(text)) == PAIRS


def test_small_errors_inside_a_pair_cost_nothing() -> None:
    assert parse_pairs(reply(TEXT.replace("Ann", 'the "old" keeper')))[0]["answer"] == 'the "old" keeper [sic].'
    assert parse_pairs(reply(TEXT.replace("Ann", r"it\'s 5\% \ud83d")))[0]["answer"] == r"it's 5\%   [sic]."
    assert parse_pairs(reply(TEXT.replace("[{", '["x", {"question": "Q?"}, {'))) == PAIRS


@pytest.mark.parametrize("finish_reason", ["length", "stop"])
def test_a_pair_that_was_cut_off_anywhere_is_dropped_and_those_before_it_are_kept(finish_reason: str) -> None:
    first = TEXT.index("}, {") + 1
    for end in range(first, len(TEXT) - 2):
        assert parse_pairs(reply(TEXT[:end], finish_reason)) == PAIRS[:1]
    for end in range(first):
        with pytest.raises(Unparsable):
            parse_pairs(reply(TEXT[:end], finish_reason))


@pytest.mark.parametrize(
    "answer",
    [
        r"$v = \frac{s}{t} \times \beta$",
        r"$\nu = 2$ and $\rho \ne \tau$, so $\forall x \to \bar{x}$",
        r"\( \theta \neq \nabla f \) in \text{m}",
        r"$\begin{matrix} a & b \\ c & d \end{matrix}$ \right. \rm \bf \triangle \notin \underline{x}",
    ],
)
def test_latex_comes_out_as_it_was_written_with_single_and_with_doubled_backslashes(answer: str) -> None:
    single = '{"pairs": [{"question": "Q?", "answer": "%s"}]}' % answer  # noqa: UP031
    assert parse_pairs(reply(single)) == [{"question": "Q?", "answer": answer}]
    doubled = json.dumps({"pairs": [{"question": "Q?", "answer": answer}]})
    assert parse_pairs(reply(doubled)) == [{"question": "Q?", "answer": answer}]


@pytest.mark.parametrize(
    "answer",
    [
        "First.\nThen\tnext.\n\nnot so\nneither",
        "Bene.\ne poi\nu Zagrebu",
        "It costs $5.\ne tu? $6.",
        'He said "no" to C:\\new, é 😀 / \\\\frac.',
        "table\nexternal\nnumber\nto\nbeta\n\ttext",
    ],
)
def test_what_strict_json_says_is_taken_at_its_word(answer: str) -> None:
    for ascii_only in (True, False):
        text = json.dumps({"pairs": [{"question": "Q?", "answer": answer}]}, ensure_ascii=ascii_only)
        assert parse_pairs(reply(text)) == [{"question": "Q?", "answer": answer}]


def test_a_model_that_nests_without_end_is_unparsable() -> None:
    for text in ("[" * 20_000, '{"a":' * 5_000):
        with pytest.raises(Unparsable, match="not JSON"):
            parse_pairs(reply(text))


def test_a_round_gives_a_record_a_pair_whose_tokens_add_up_to_the_call(document: Document) -> None:
    asked: list[Ask] = []

    async def complete(ask: Ask) -> Answer:
        asked.append(ask)
        pairs = [{"question": "Q?", "answer": "A."}, {"question": "Longer question?", "answer": "Much longer answer."}]
        return Answer(pairs, "ab" * 16, 101, ask.prompt, "hash", "model", ask.sampling)

    records = asyncio.run(SyntheticQA().round(document, 3, complete))
    assert sum(record.tokens for record in records) == 101
    assert records[0].tokens < records[1].tokens
    assert [(record.round, record.index) for record in records] == [(3, 0), (3, 1)]
    assert records[0].messages == [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]
    assert (asked[0].sample, asked[0].sampling["temperature"]) == (3, 1.0)


@pytest.mark.parametrize(
    "answer",
    [
        "name\tto\tfrom",
        "Two things:\n\to the lamp\n\to the bell",
        "word\tan apple",
        r"f: A \to B",
        r"$x\to 0$ and $e^{-t/\tau}$",
        r"\lim_{x\to 0} \frac{1}{x}",
    ],
)
def test_a_tab_before_a_word_stays_a_tab_and_an_arrow_an_arrow(answer: str) -> None:
    # Tabs as JSON escapes them, LaTeX with the single backslash of models.
    written = answer.replace("\t", "\\t").replace("\n", "\\n")
    (pair,) = parse_pairs(Reply(f'{{"pairs": [{{"question": "Q?", "answer": "{written}"}}]}}', "stop", 0, 0, 0))
    assert pair["answer"] == answer
