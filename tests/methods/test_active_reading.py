import asyncio

import pytest

from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.active_reading import ActiveReading, parse_strategies
from smt_plugin.methods.base import Answer, Ask, Unparsable, parse_text


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text, finish_reason, 10, 0, 100)


def test_a_strategy_reaches_from_its_heading_to_the_next() -> None:
    text = "Here you go:\n## One\nDo this.\n### detail\nmore\n##Two\nDo that.\n"
    assert parse_strategies(reply(text)) == ["One\nDo this.\n### detail\nmore", "Two\nDo that."]


def test_the_last_strategy_of_a_reply_that_was_cut_off_is_left_out() -> None:
    assert parse_strategies(reply("## One\nDo this.\n## Two\nDo th", "length")) == ["One\nDo this."]


def test_a_reply_without_headings_is_unparsable() -> None:
    with pytest.raises(Unparsable, match='no "## " heading'):
        parse_strategies(reply("1. One\n# Two\n### Three"))


def test_a_text_that_was_cut_off_ends_with_its_last_whole_sentence() -> None:
    assert parse_text(reply('He said "no." She left. And the', "length")) == 'He said "no." She left.'
    assert parse_text(reply("No end", "stop")) == "No end"
    for text, finish_reason in (("No sentence at", "length"), ("  ", "stop")):
        with pytest.raises(Unparsable):
            parse_text(reply(text, finish_reason))


def test_a_round_gives_a_record_a_strategy_in_order_and_leaves_out_what_failed(document: Document) -> None:
    async def complete(ask: Ask) -> Answer | None:
        if ask.prompt == "active_reading/strategies":
            return Answer(["one", "two", "three"], "aa", 5, ask.prompt, "h", "m", ask.sampling)
        # The first strategy answers last.
        await asyncio.sleep(0.02 if ask.variables["strategy"] == "one" else 0)
        if ask.variables["strategy"] == "two":
            return None
        return Answer(f"text of {ask.variables['strategy']}", "bb", 7, ask.prompt, "h", "m", ask.sampling)

    records = asyncio.run(ActiveReading().round(document, 0, complete))
    assert [(record.index, record.text) for record in records] == [(0, "text of one"), (2, "text of three")]
    assert records[0].completions == ["bb", "aa"]
