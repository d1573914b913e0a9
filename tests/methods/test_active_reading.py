import asyncio

import pytest

from smt_plugin.backends.base import Reply
from smt_plugin.corpus import Document
from smt_plugin.methods.active_reading import ActiveReading, parse_strategies, strategies_ask
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
        parse_strategies(reply("Read it **twice**, then\nwrite 3. of it down."))


def test_a_reply_that_only_repeats_itself_until_it_is_cut_is_unparsable_for_that_reason() -> None:
    looped = "It is a family of masons.\n\n" + "They are masons. " * 40
    with pytest.raises(Unparsable, match="nothing but repetitions"):
        parse_strategies(reply(looped, "length"))
    with pytest.raises(Unparsable, match='no "## " heading'):
        parse_strategies(reply(looped, "stop"))
    assert parse_strategies(reply(f"## One\nDo this.\n## Two\nDo that.\n{looped}", "length")) == ["One\nDo this."]


def test_a_heading_of_a_number_alone_is_no_strategy() -> None:
    text = "## Strategy 1\n\n## Strategy 2\nTell it backwards.\n## 3.\n## Draw a timeline\n"
    assert parse_strategies(reply(text)) == ["Strategy 2\nTell it backwards.", "Draw a timeline"]
    with pytest.raises(Unparsable, match="headings without a strategy"):
        parse_strategies(reply("##\n### Strategy 1\n\n### Strategy 2\n"))


def test_a_strategy_that_comes_again_under_another_number_is_asked_once() -> None:
    text = "### 1. \nThe man who is right\n\n### 2.\nThe mill\n\n### 3.\nThe man who is right\n"
    assert parse_strategies(reply(text)) == ["1. \nThe man who is right", "2.\nThe mill"]
    years = "## 1871: tell the year\nAs a story.\n## 1903: tell the year\nAs a letter.\n"
    assert len(parse_strategies(reply(years))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "# All\n### One\nDo this.\n### Two\nDo that.",
        "### One\nDo this.\n#### detail\n### Two\nDo that.",
        "# One\nDo this.\n# Two\nDo that.",
        "Here:\n1. **One**: Do this.\n   1. detail\n2. **Two**: Do that.",
        "1) One. Do this.\n2) Two. Do that.",
        "**One**\n1. Do this.\n2. Do it.\n\n**Two**:\nDo that.",
        "- **One**: Do this.\n- **Two**: Do that.",
    ],
)
def test_strategies_under_other_headings_numbers_or_bold_lines_are_read(text: str) -> None:
    one, two = parse_strategies(reply(text))
    assert "One" in one.splitlines()[0]
    assert "Do this." in one
    assert "Two" in two.splitlines()[0]
    assert two.endswith("Do that.")
    assert parse_strategies(reply(text, "MAX_TOKENS")) == [one]


def test_headings_of_two_signs_are_the_strategies_whatever_else_there_is() -> None:
    text = "# Plan\n## One\n1. Do this.\n2. Do it.\n**Note**\n**More**\n## Two\n### a\n### b\n"
    assert parse_strategies(reply(text)) == ["One\n1. Do this.\n2. Do it.\n**Note**\n**More**", "Two\n### a\n### b"]


def test_strategies_numbered_in_the_chinese_way_are_told_apart() -> None:
    for marks in (("一、", "二、"), ("１．", "２．"), ("（1）", "（2）"), ("1、", "2、")):
        text = f"{marks[0]}画时间线\n按年份排列。\n{marks[1]}复述\n写成信。"
        assert parse_strategies(reply(text)) == ["画时间线\n按年份排列。", "复述\n写成信。"]


def test_a_text_that_was_cut_off_ends_with_its_last_whole_sentence() -> None:
    assert parse_text(reply('He said "no." She left. And the', "length")) == 'He said "no." She left.'
    assert parse_text(reply("No end", "stop")) == "No end"
    for text, finish_reason in (("No sentence at", "length"), ("  ", "stop")):
        with pytest.raises(Unparsable):
            parse_text(reply(text, finish_reason))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Nach Art. 5 gilt das. Und d", "Nach Art. 5 gilt das."),
        ("灯塔归 Acme Inc. 管。她说：“好。”然后", "灯塔归 Acme Inc. 管。她说：“好。”"),
        ("दीपक जला। वह", "दीपक जला।"),
        ("هل عاد؟ ثم", "هل عاد؟"),
        ("چراغ جلا۔ پھر", "چراغ جلا۔"),
        ("Լույսը վառվեց։ Հետո", "Լույսը վառվեց։"),
        ("መብራቱ በራ። ከዚያ", "መብራቱ በራ።"),
        ("မီးလင်းသည်။ ထို", "မီးလင်းသည်။"),
        ("灯が点いた｡次", "灯が点いた｡"),
        ("ไฟติดแล้ว\nแล้วเขา", "ไฟติดแล้ว"),
        ("ไฟติดแล้ว เขากลับบ้าน แล้ว Sandvik Inc ก็", "ไฟติดแล้ว เขากลับบ้าน"),
        ("ໄຟຕິດແລ້ວ ລາວກັບບ້ານ", "ໄຟຕິດແລ້ວ"),
        ("ភ្លើងឆេះ។ គាត់", "ភ្លើងឆេះ។"),
        ("མེ་འབར་སོང་། ཁོ", "མེ་འབར་སོང་།"),
        ("𑄝𑄋𑅁 𑄟", "𑄝𑄋𑅁"),
    ],
)
def test_a_text_that_was_cut_off_ends_with_the_last_whole_sentence_of_any_script(text: str, whole: str) -> None:
    for word in ("length", "MAX_TOKENS", "max_tokens", "max_output_tokens", "model_length", "token_limit"):
        assert parse_text(reply(text, word)) == whole
    assert parse_text(reply(text)) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("He left. " + "She had asked for a lamp. " * 9 + "She had", "He left. She had asked for a lamp."),
        ("He left.\n" + "### The lamp\n\nIt burns.\n\n" * 9 + "### The", "He left.\n### The lamp\n\nIt burns."),
        ("A ran. B ran. " + "A sat. B sat. B sat. A sat. " * 3 + "A s", "A ran. B ran. A sat. B sat."),
        ("他走了。" + "灯亮了。" * 9 + "灯", "他走了。灯亮了。"),
        # A refrain, in the midst or twice at the end, is none.
        ("Row on. " * 5 + "He rowed. And", "Row on. " * 5 + "He rowed."),
        ("He rowed. " + "Row on. " * 3 + "And", "He rowed. " + "Row on. " * 2 + "Row on."),
    ],
)
def test_a_text_that_was_cut_off_in_a_loop_ends_where_the_loop_begins(text: str, kept: str) -> None:
    assert parse_text(reply(text, "length")) == kept
    assert parse_text(reply(text)) == text.strip()


def test_a_text_of_a_loop_alone_is_rejected_as_one_and_not_as_too_long() -> None:
    looped = Reply("The man who is right:\n" * 9, "length", 1, 0, 9)
    with pytest.raises(Unparsable, match="over and over until max_tokens"):
        parse_text(looped)
    with pytest.raises(Unparsable, match="before a first sentence ended"):
        parse_text(Reply("The man who is right and the", "length", 1, 0, 9))


def test_a_text_in_a_loop_is_counted_as_such_whatever_the_server_calls_its_end() -> None:
    ask = Ask(Document("d", "T", "D"), "wrap/rewrite", {}, {"max_tokens": 100}, 0, parse_text)
    for word in ("length", "stop"):
        cut, loop = ask.losses(reply("He left. " + "It burns. " * 9 + "It", word))
        assert "over and over" in loop
        (cut,) = ask.losses(reply("He left. It burns. It", word))
        assert cut == "text cut off by max_tokens, kept up to its last whole sentence"
        assert not ask.losses(reply("He left. It burns.", word))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        # The server's tokens may repeat where no sentence does, and sooner than a reader of sentences can tell.
        ("He left. It burns. It burns. It", "He left. It burns."),
        ("He left. The lamp was very very very very", "He left."),
        ("He left. It burns.", "He left. It burns."),
    ],
)
def test_a_text_that_the_server_ended_in_a_loop_is_no_whole_one(text: str, kept: str) -> None:
    ask = Ask(Document("d", "T", "D"), "wrap/rewrite", {}, {"max_tokens": 1000}, 0, parse_text)
    assert ask.read(reply(text, "repetition")) == kept
    (loop,) = ask.losses(reply(text, "repetition"))
    assert "over and over" in loop
    with pytest.raises(Unparsable, match="cut off by repetition_detection before a first sentence ended"):
        ask.read(reply("The lamp was very very very", "repetition"))


def test_strategies_that_the_server_ended_in_a_loop_lose_the_last_one() -> None:
    ask = strategies_ask(ActiveReading(), Document("d", "T", "D"), 0)
    text = "## List\nList all.\n\n## Retell\nRetell all all all"
    assert ask.read(reply(text, "repetition")) == ["List\nList all."]


def test_a_text_that_repeats_the_marks_of_the_prompt_is_unparsable(document: Document) -> None:
    text = "<strategy>\nRetell it.\n</strategy>\n\nHe left."
    ask = ActiveReading().text_ask(document, "apply", 0, strategy="Retell it.")
    with pytest.raises(Unparsable, match="the prompt's own marks"):
        ask.read(reply(text))
    # A document may have such lines of its own.
    about_prompts = ActiveReading().text_ask(Document("d", "T", text), "apply", 0, strategy="Retell it.")
    assert about_prompts.read(reply(text)) == text


def test_a_reply_as_long_as_it_may_be_was_cut_off_if_it_ends_in_the_midst_of_a_sentence() -> None:
    ask = Ask(Document("d", "T", "D"), "wrap/rewrite", {}, {"max_tokens": 100}, 0, parse_text)
    assert ask.read(reply("She left. And the")) == "She left."
    assert ask.read(reply('She left. "And he!"')) == 'She left. "And he!"'
    assert ask.read(Reply("She left. And the", "stop", 10, 0, 99)) == "She left. And the"


def test_no_control_character_and_no_lone_surrogate_gets_into_a_text() -> None:
    ask = Ask(Document("d", "T", "D"), "wrap/rewrite", {}, {}, 0, parse_text)
    assert ask.read(reply("One\x00two\ud83d three\x85\r\nfour\tfive 😀.")) == "One two  three \nfour\tfive 😀."


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
