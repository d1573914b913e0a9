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
