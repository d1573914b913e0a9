"""What a mix holds: budgets, shares, nesting, nothing twice, nothing cut in the dark."""

import codecs
import gc
import gzip
import json
import os
import random
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from smt_plugin.config import MixSection
from smt_plugin.errors import BadInput
from smt_plugin.files import lock_file, read_jsonl
from smt_plugin.mixing import mix as mix_module
from smt_plugin.mixing.manifest import budget_name
from smt_plugin.mixing.mix import mix_budgets, mix_run
from smt_plugin.mixing.ruler import Ruler
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.axolotl_schema import unknown_keys
from tests.test_corpus import SENTENCES
from tests.tiny_llama import LLAMA_LIKE, MICROWORLD_LIKE, QWEN_LIKE, Style, make_model, make_tokenizer

WORDS = "amber birch cedar dune ember fjord grove heath inlet".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), LLAMA_LIKE))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rng = random.Random(0)
    (tmp_path / "records").mkdir()
    write(tmp_path / "records/synthetic_qa.jsonl", [question(rng, number) for number in range(1200)])
    write(tmp_path / "records/focal_rewrite.jsonl", [rewrite(rng, number) for number in range(900)])
    write(tmp_path / "replay.jsonl", [{"text": prose(rng, 60)} for _ in range(300)])
    return tmp_path


def prose(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) + rng.choice(["", "", "", "."]) for _ in range(words))


def question(rng: random.Random, number: int) -> dict[str, Any]:
    turns = [("user", prose(rng, rng.randint(4, 12))), ("assistant", prose(rng, rng.randint(4, 12)))]
    messages = [{"role": role, "content": content} for role, content in turns]
    place = {"id": f"q{number}", "doc_id": f"doc{number % 10}", "round": number // 100, "index": number % 10}
    return {**place, "text": None, "messages": messages}


def rewrite(rng: random.Random, number: int) -> dict[str, Any]:
    place = {"id": f"r{number}", "doc_id": f"doc{number % 10}", "round": number // 90, "index": number % 9}
    return {**place, "text": prose(rng, rng.randint(30, 60)), "messages": None}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lines(run: Path, name: str) -> list[str]:
    return [json.dumps(row) for _, row in read_jsonl(run / "mix" / name)]


def settings(run: Path, tokenizer: str, **changes: Any) -> MixSection:
    values = {"tokens": 60_000, "replay": run / "replay.jsonl", "sequence_len": 512} | changes
    replay = values.pop("replay")
    return MixSection(tokenizer=tokenizer, replay=None if replay is None else str(replay), **values)


@pytest.mark.parametrize("shares", [{"synthetic_qa": 1, "focal_rewrite": 1}, {"focal_rewrite": 3, "synthetic_qa": 1}])
@pytest.mark.parametrize("tokens", [20_000, 60_000])
def test_every_share_is_reached_within_half_a_percent_or_the_warning_says_by_how_much_not(
    run: Path, tokenizer: str, shares: dict[str, float], tokens: int
) -> None:
    manifest = mix_run(run, settings(run, tokenizer, shares=shares, tokens=tokens))
    for name, weight in shares.items():
        asked = tokens * weight / sum(shares.values())
        off = manifest["sources"][name]["tokens"] - asked
        longest_record = 400
        assert abs(off) <= longest_record / 2
        said = [warning for warning in manifest["warnings"] if warning.startswith(f"{name} has ")]
        assert bool(said) == (abs(off) > 0.005 * asked)
        assert all(f"{off / asked:+.1%}" in warning for warning in said)
    assert manifest["sources"]["replay"]["tokens"] / manifest["tokens"] == pytest.approx(0.1, abs=0.005)


def test_without_a_budget_the_scarcest_source_sets_the_size_and_none_runs_dry(run: Path, tokenizer: str) -> None:
    manifest = mix_run(run, settings(run, tokenizer, tokens=None))
    sources = manifest["sources"]
    assert manifest["limited_by"] == "synthetic_qa"
    assert sources["synthetic_qa"]["records"] == 1200
    assert sources["focal_rewrite"]["tokens"] == pytest.approx(sources["synthetic_qa"]["tokens"], rel=0.005)
    assert manifest["warnings"] == []


def test_a_smaller_mix_is_a_subset_of_a_larger_one(run: Path, tokenizer: str) -> None:
    chosen = []
    for tokens in (10_000, 30_000, 90_000):
        mix_run(run, settings(run, tokenizer, tokens=tokens))
        chosen.append({name: set(lines(run, name)) for name in ("qa.jsonl", "rewrites.jsonl", "replay.jsonl")})
    for small, large in pairwise(chosen):
        assert all(small[name] < large[name] for name in small)


def test_the_first_rounds_are_used_first_and_every_document_is_in(run: Path, tokenizer: str) -> None:
    manifest = mix_run(run, settings(run, tokenizer, tokens=80_000))
    assert manifest["sources"]["synthetic_qa"]["documents"] == 10
    rows = [row for _, row in read_jsonl(run / "records/synthetic_qa.jsonl")]
    used = set(lines(run, "qa.jsonl"))
    rounds = [row["round"] for row in rows if json.dumps({"messages": row["messages"]}) in used]
    last = max(rounds)
    assert last >= 1
    assert all(rounds.count(number) == 100 for number in range(last))


def test_the_same_settings_give_the_same_files_and_another_seed_others(run: Path, tokenizer: str) -> None:
    first = mix_run(run, settings(run, tokenizer))
    again = mix_run(run, settings(run, tokenizer))
    other = mix_run(run, settings(run, tokenizer), seed=1)
    assert first == again
    assert first["content_hash"] != other["content_hash"]


def test_the_same_run_in_another_folder_gives_the_same_files(run: Path, tokenizer: str) -> None:
    moved = run / "elsewhere"
    shutil.copytree(run / "records", moved / "records")
    shutil.copy(run / "replay.jsonl", moved)
    hashes = [mix_run(folder, settings(folder, tokenizer))["content_hash"] for folder in (run, moved)]
    assert hashes[0] == hashes[1]


def test_nothing_is_repeated_and_duplicates_are_counted(run: Path, tokenizer: str) -> None:
    path = run / "records/focal_rewrite.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    write(path, rows + [{**row, "id": row["id"] + "-again", "round": 99} for row in rows[:40]])
    manifest = mix_run(run, settings(run, tokenizer, tokens=None, shares={"focal_rewrite": 1}))
    texts = lines(run, "rewrites.jsonl")
    assert len(texts) == len(set(texts)) == 900
    assert manifest["sources"]["focal_rewrite"]["duplicates"] == 40


def test_a_source_that_runs_dry_is_named_with_its_shortfall_and_the_others_are_not_scaled(
    run: Path, tokenizer: str
) -> None:
    everything = mix_run(run, settings(run, tokenizer, tokens=None, shares={"synthetic_qa": 1}))
    available = everything["sources"]["synthetic_qa"]["tokens"]
    manifest = mix_run(run, settings(run, tokenizer, tokens=2 * available + 20_000))
    assert manifest["sources"]["synthetic_qa"]["tokens"] == available
    assert manifest["sources"]["synthetic_qa"]["ran_dry"]
    assert manifest["sources"]["focal_rewrite"]["tokens"] == pytest.approx(available + 10_000, rel=0.005)
    short = 10_000 / (available + 10_000)
    assert (
        f"synthetic_qa ran dry: {available:,} of {available + 10_000:,} tokens, {short:.1%} short"
        in (manifest["warnings"][0])
    )


def test_long_texts_are_cut_at_sentence_ends_and_long_dialogues_put_aside(run: Path, tokenizer: str) -> None:
    sentences = [f"Sentence {number} tells of the {WORDS[number % 9]} in the valley." for number in range(100)]
    long_text = {**rewrite(random.Random(1), 1), "id": "long", "text": " ".join(sentences), "round": 0}
    long_question = {**question(random.Random(1), 1), "id": "longer"}
    long_question["messages"][1]["content"] = "so " * 300
    write(run / "records/focal_rewrite.jsonl", [long_text])
    write(run / "records/synthetic_qa.jsonl", [long_question, question(random.Random(2), 2)])
    manifest = mix_run(run, settings(run, tokenizer, tokens=100_000, replay=None))
    pieces = [row["text"] for _, row in read_jsonl(run / "mix/rewrites.jsonl")]
    assert " ".join(sorted(pieces, key=long_text["text"].index)) == long_text["text"]
    assert all(piece.endswith("valley.") for piece in pieces)
    # A byte is a token here; one begins and one ends each piece.
    assert all(len(piece) + 2 <= 512 for piece in pieces)
    assert min(map(len, pieces)) > 0.75 * max(map(len, pieces))
    assert manifest["sources"]["focal_rewrite"]["records_cut"] == 1
    dropped = [row for _, row in read_jsonl(run / "mix/dropped.jsonl")]
    assert [row["id"] for row in dropped] == ["longer"]
    assert "longer than sequence_len" in dropped[0]["reason"]
    assert manifest["sources"]["synthetic_qa"]["too_long"] == 1


def test_a_text_without_a_sentence_end_is_cut_too(run: Path, tokenizer: str) -> None:
    row = {**rewrite(random.Random(1), 1), "text": "x" * 1500}
    write(run / "records/focal_rewrite.jsonl", [row])
    mix_run(run, settings(run, tokenizer, tokens=None, replay=None, shares={"focal_rewrite": 1}))
    pieces = [row["text"] for _, row in read_jsonl(run / "mix/rewrites.jsonl")]
    assert "".join(pieces) == row["text"]
    assert max(map(len, pieces)) <= 510


def test_replay_of_both_forms_goes_into_two_files(run: Path, tokenizer: str) -> None:
    rng = random.Random(3)
    dialogues = [{"messages": question(rng, number)["messages"]} for number in range(200)]
    write(run / "replay.jsonl", [{"text": prose(rng, 12)} for _ in range(200)] + dialogues)
    manifest = mix_run(run, settings(run, tokenizer))
    assert manifest["files"]["replay.jsonl"]["rows"] > 0
    assert manifest["files"]["replay_qa.jsonl"]["rows"] > 0
    mix_run(run, settings(run, tokenizer, replay=None))
    assert not (run / "mix/replay_qa.jsonl").exists()


def test_empty_replay_texts_are_passed_over_and_duplicates_of_it_are_no_replay(run: Path, tokenizer: str) -> None:
    texts = [row for _, row in read_jsonl(run / "replay.jsonl")]
    write(run / "replay.jsonl", [{"text": ""}] * 200 + texts + texts)
    manifest = mix_run(run, settings(run, tokenizer, tokens=None, replay_share=0.9))
    replay = manifest["sources"]["replay"]
    assert (replay["empty"], replay["duplicates"], replay["records"]) == (200, 300, 300)
    assert replay["ran_dry"]
    assert len(lines(run, "replay.jsonl")) == len(set(lines(run, "replay.jsonl"))) == 300


def test_an_edited_chat_template_changes_the_content_hash(run: Path, tokenizer: str, tmp_path: Path) -> None:
    other = str(make_tokenizer(tmp_path / "other", LLAMA_LIKE.replace("26 Jul", "27 Jul")))
    assert mix_run(run, settings(run, tokenizer))["content_hash"] != mix_run(run, settings(run, other))["content_hash"]


def test_bad_input_is_named_in_one_sentence(run: Path, tokenizer: str) -> None:
    with pytest.raises(BadInput, match=r"wrap\.jsonl does not exist; run `smt generate RUN\.YAML --method wrap`"):
        mix_run(run, settings(run, tokenizer, shares={"wrap": 1}))
    assert not (run / "mix").exists()
    with pytest.raises(BadInput, match=r"nowhere\.jsonl does not exist; give an existing JSONL file"):
        mix_run(run, settings(run, tokenizer, replay=run / "nowhere.jsonl"))
    (run / "blank.jsonl").write_text(" \n\n")
    with pytest.raises(BadInput, match=r"blank\.jsonl holds nothing but white space; give some text"):
        mix_run(run, settings(run, tokenizer, replay=run / "blank.jsonl"))
    with pytest.raises(BadInput, match=r"tokenizer .*no-model: cannot be loaded"):
        mix_run(run, settings(run, str(run / "no-model")))
    with pytest.raises(BadInput, match=r"mix\.shares\.synthetic_qa: .* fits into 64 tokens; raise mix\.sequence_len"):
        mix_run(run, settings(run, tokenizer, tokens=None, sequence_len=64))
    with pytest.raises(BadInput, match=r"mix\.tokens: 1 tokens hold not one text; give a larger budget"):
        mix_run(run, settings(run, tokenizer, tokens=1))
    with pytest.raises(BadInput, match=r"mix\.budgets: 1 tokens hold not one text; give a larger budget"):
        mix_run(run, settings(run, tokenizer, tokens=None, budgets=(1, 2)))
    with pytest.raises(BadInput, match=r"mix\.tokenizer: this key is missing; give the target model's folder or hub"):
        mix_run(run, MixSection())
    write(run / "bad.jsonl", [{"content": "a"}])
    with pytest.raises(BadInput, match=r"bad\.jsonl, line 1: expected an object with either `text` or `messages`"):
        mix_run(run, settings(run, tokenizer, replay=run / "bad.jsonl"))
    for bad, what in (
        ({"messages": [{"role": 1, "content": "a"}]}, r"expected `str`, got `int` - at `\$\.messages\[0\]\.role`"),
        ({"messages": [{"role": "user"}]}, r"object missing required field `content` - at `\$\.messages\[0\]`"),
        ({"messages": "a"}, r"expected `array.*`, got `str` - at `\$\.messages`"),
        ({"text": 5}, r"expected `str.*`, got `int` - at `\$\.text`"),
        (["a"], "expected `object`, got `array`"),
    ):
        write(run / "bad.jsonl", [bad])
        with pytest.raises(BadInput, match=rf"bad\.jsonl, line 1: {what}; give an object with either `text` or"):
            mix_run(run, settings(run, tokenizer, replay=run / "bad.jsonl"))
    for bad, what in (
        ({"text": "a", "round": -1}, r"expected `int` >= 0 - at `\$\.round`"),
        ({"text": "a", "part": "1"}, r"expected `int.*`, got `str` - at `\$\.part`"),
    ):
        write(run / "bad.jsonl", [bad])
        with pytest.raises(BadInput, match=rf"bad\.jsonl, line 1: {what}; give an object with either `text` or"):
            mix_run(run, settings(run, tokenizer, shares={"x": 1}, sources={"x": run / "bad.jsonl"}))
    write(run / "bad.jsonl", [{"messages": [{"role": "user", "content": "a"}]}])
    with pytest.raises(BadInput, match=r"bad\.jsonl, line 1: the last of `messages` must be the assistant's"):
        mix_run(run, settings(run, tokenizer, replay=run / "bad.jsonl"))
    write(run / "records/synthetic_qa.jsonl", [{"id": "a", "doc_id": "d", "round": 0, "text": "a", "messages": []}, {}])
    with pytest.raises(BadInput, match=r"synthetic_qa\.jsonl, line 2: expected an object with either"):
        mix_run(run, settings(run, tokenizer))


@pytest.mark.parametrize("name", ["general.txt", "general.jsonl.gz", "general.parquet", "deep.jsonl"])
def test_a_file_that_is_no_jsonl_is_told_what_is_wanted(run: Path, tokenizer: str, name: str) -> None:
    from datasets import Dataset

    text = '{"id": ' + "[" * 100_000 if name.startswith("deep") else "Just some text.\n"
    if name.endswith(".parquet"):
        Dataset.from_dict({"text": [text] * 9}).to_parquet(str(run / name))
    else:
        (run / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    for changes in ({"replay": run / name}, {"shares": {"x": 1}, "sources": {"x": run / name}}):
        with pytest.raises(BadInput, match=rf"{name}, line \d+: not valid JSON .*; give an unpacked JSONL file"):
            mix_run(run, settings(run, tokenizer, **changes))


def test_a_byte_order_mark_is_no_part_of_the_text(run: Path, tokenizer: str) -> None:
    path = run / "records/focal_rewrite.jsonl"
    mix_run(run, settings(run, tokenizer))
    before = lines(run, "rewrites.jsonl")
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    mix_run(run, settings(run, tokenizer))
    assert lines(run, "rewrites.jsonl") == before


@pytest.mark.parametrize("value", [None, "true"])
def test_a_mix_leaves_the_process_as_it_was(
    run: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
    mix_run(run, settings(run, tokenizer))
    assert os.environ.get("TOKENIZERS_PARALLELISM") == value
    assert gc.isenabled()


@pytest.mark.parametrize("place", ["", "mix"])
def test_a_file_in_the_place_of_a_folder_is_named_and_stays(tmp_path: Path, tokenizer: str, place: str) -> None:
    file = tmp_path / "run" / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(
        BadInput, match=r".*run/mix cannot be made \((Not a directory|something else has its name)\); mend that"
    ):
        mix_run(tmp_path / "run", settings(tmp_path, tokenizer))
    assert file.read_text() == "mine"


def test_a_source_that_runs_dry_names_the_key_that_set_its_budget(run: Path, tokenizer: str) -> None:
    for changes, key in (({"tokens": 10**7}, "mix.tokens"), ({"tokens": None, "budgets": (10**7,)}, "mix.budgets")):
        ((_, manifest),) = mix_budgets(run, settings(run, tokenizer, **changes))
        assert manifest["warnings"][0].endswith(f"generate more, or lower {key}.")


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
)
NO_DIALOGUES = "take another tokenizer, or do without dialogues: `mix.qa_form: text`, and replay"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{{ raise_exception('System role not supported') }}",
            r"refuses a dialogue of .* \(System role not supported\)",
        ),
        ("{% for message in messages %}", r"refuses a dialogue of user, assistant \(Unexpected end of template"),
        ("{{ messages[0]['content'] + 1 }}", r"refuses a dialogue of user, assistant \(.*str"),
        ("{% for message in messages %}<|user|>{% endfor %}", "leaves out what the user says"),
        ("<|user|>{{ messages[0]['content'] }}", "leaves out what the assistant says"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_named_and_only_needed_for_dialogues(
    run: Path, template: str, says: str
) -> None:
    name = str(make_tokenizer(run / "base", replace(MICROWORLD_LIKE, template=template)))
    with pytest.raises(BadInput, match=rf"tokenizer {re.escape(name)}: its chat template {says}.*; {NO_DIALOGUES}"):
        mix_run(run, settings(run, name))
    assert mix_run(run, settings(run, name, qa_form="text"))["tokenizer"]["turn_end"] is None
    write(run / "replay.jsonl", [{"messages": question(random.Random(1), 1)["messages"]}])
    with pytest.raises(BadInput, match=rf"{says}.*; {NO_DIALOGUES} that has `text`"):
        mix_run(run, settings(run, name, qa_form="text"))


@pytest.mark.parametrize("template", [ALTERNATING, f"{NO_SYSTEM}{ALTERNATING}"])
def test_a_replay_dialogue_that_the_chat_template_refuses_is_passed_over_and_counted(run: Path, template: str) -> None:
    name = str(make_tokenizer(run / "base", replace(MICROWORLD_LIKE, template=template)))
    rows = [{"messages": question(random.Random(n), n)["messages"]} for n in range(300)]
    user, assistant = rows[7]["messages"]
    rows[7] = {"messages": [user, {"role": "user", "content": "And then?"}, assistant]}
    rows[20] = {"messages": [user, assistant, {"role": "tool", "content": "4"}, assistant]}
    rows[30] = {"messages": [{"role": "system", "content": "Be kind."}, user, assistant]}
    write(run / "replay.jsonl", rows)
    manifest = mix_run(run, settings(run, name, tokens=20_000, replay_share=0.5))
    dropped = [row for _, row in read_jsonl(run / "mix" / "dropped.jsonl") if row["source"] == "replay"]
    refused = {int(row["id"].split("line ")[1]) - 1 for row in dropped if "chat template refuses" in row["reason"]}
    assert refused == {7, 20, 30}
    assert manifest["sources"]["replay"]["unusable"] == 3
    assert manifest["files"]["replay_qa.jsonl"]["rows"] > 50


def test_a_base_model_without_a_chat_template_trains_on_plain_text(run: Path) -> None:
    name = str(make_tokenizer(run / "base", replace(LLAMA_LIKE, template="")))
    rows = [{"messages": question(random.Random(n), n)["messages"]} for n in range(300)]
    write(run / "replay.jsonl", rows)
    manifest = mix_run(run, settings(run, name, tokens=20_000, replay_share=0.2))
    assert sorted(manifest["files"]) == ["qa_text.jsonl", "replay.jsonl", "rewrites.jsonl"]
    texts = [row["text"] for _, row in read_jsonl(run / "mix" / "qa_text.jsonl")]
    assert all(re.fullmatch(r"Question: .*\nAnswer: .*", text) for text in texts)
    assert any("has no chat template" in warning for warning in manifest["warnings"])
    config = yaml.safe_load(write_axolotl_config(run, "llama-3.1-8b/full", base_model=name).read_text())
    assert {entry["type"] for entry in config["datasets"]} == {"completion"}
    assert "chat_template" not in config


@pytest.mark.parametrize(("file", "content"), [("tokenizer_config.json", "[]"), ("tokenizer.json", "{}")])
def test_a_broken_tokenizer_is_named(run: Path, file: str, content: str) -> None:
    folder = make_tokenizer(run / "base", MICROWORLD_LIKE)
    (folder / file).write_text(content)
    with pytest.raises(
        BadInput, match=rf"tokenizer {re.escape(str(folder))}: cannot be loaded \(.+\); give the target model's folder"
    ):
        mix_run(run, settings(run, str(folder)))


def test_several_budgets_give_nested_mixes_each_with_its_own_config(run: Path, tokenizer: str) -> None:
    mixes = mix_budgets(run, settings(run, tokenizer, tokens=None, budgets=(90_000, 10_000, 30_000)))
    assert [folder for folder, _ in mixes] == [run / "mix" / name for name in ("10K", "30K", "90K")]
    for (small, _), (large, _) in pairwise(mixes):
        for name in ("qa.jsonl", "rewrites.jsonl", "replay.jsonl"):
            assert set(small.joinpath(name).read_text().splitlines()) < set(
                large.joinpath(name).read_text().splitlines()
            )
    alone = mix_run(run, settings(run, tokenizer, tokens=30_000))
    assert alone["content_hash"] == mixes[1][1]["content_hash"]
    outputs = set()
    for folder, manifest in mixes:
        path = write_axolotl_config(run, "microworld/full", tokenizer, {"eot_tokens": ["<|eot_id|>"]}, folder)
        values = yaml.safe_load(path.read_text())
        assert path.parent == folder
        assert [entry["path"] for entry in values["datasets"]] == [str(folder / name) for name in manifest["files"]]
        outputs.add((values["output_dir"], values["dataset_prepared_path"]))
    assert {Path(output).name for output, _ in outputs} == {"model-10K", "model-30K", "model-90K"}
    assert len({prepared for _, prepared in outputs}) == 3


def test_a_budget_is_named_as_one_writes_it() -> None:
    budgets = (10**9, 2 * 10**9, 700_000_000, 1_500_000, 300_000, 1234, 1_234_567, 7)
    assert [budget_name(tokens) for tokens in budgets] == ["1B", "2B", "700M", "1.5M", "300K", "1234", "1234567", "7"]


def test_a_document_and_each_of_its_parts_keep_their_share_of_the_tokens_at_every_budget(
    run: Path, tokenizer: str
) -> None:
    rng = random.Random(5)
    rows = []
    sizes = {("long", 0): 400, ("long", 1): 200, ("short", 0): 40}
    for (document, part), count in sizes.items():
        for number in range(count):
            row = {**question(rng, number), "id": f"{document}{part}-{number}", "doc_id": document}
            rows.append({**row, "part": part, "round": number // 8, "index": number % 8})
    rng.shuffle(rows)
    write(run / "records/synthetic_qa.jsonl", rows)
    only = settings(run, tokenizer, tokens=None, replay=None, shares={"synthetic_qa": 1})
    everything = mix_run(run, only)["record_tokens"]
    place = {json.dumps({"messages": row["messages"]}): (row["doc_id"], row["part"], row["round"]) for row in rows}
    for fraction in (0.1, 0.5):
        mix_run(run, only.model_copy(update={"tokens": round(fraction * everything)}))
        used = [place[line] for line in lines(run, "qa.jsonl")]
        for (document, part), count in sizes.items():
            rounds = [r for d, p, r in used if (d, p) == (document, part)]
            assert len(rounds) == pytest.approx(fraction * count, abs=max(2, 0.05 * count))
            assert max(rounds) <= len(rounds) // 8 + 1


def test_records_of_another_run_are_a_source_with_a_share_like_any_other(run: Path, tokenizer: str) -> None:
    rng = random.Random(11)
    (run / "other/records").mkdir(parents=True)
    write(run / "other/records/synthetic_qa.jsonl", [question(rng, number) for number in range(1200)])
    plain = [{"messages": question(rng, number)["messages"]} for number in range(1200)]
    write(run / "plain.jsonl", plain)
    shares = {"focal_rewrite": 2, "other_qa": 1, "plain_qa": 1}
    sources = {"other_qa": run / "other/records/synthetic_qa.jsonl", "plain_qa": run / "plain.jsonl"}
    manifest = mix_run(run, settings(run, tokenizer, shares=shares, sources=sources))
    tokens = {name: source["tokens"] for name, source in manifest["sources"].items()}
    assert tokens["focal_rewrite"] == pytest.approx(30_000, abs=200)
    assert tokens["other_qa"] == pytest.approx(15_000, abs=100)
    assert tokens["plain_qa"] == pytest.approx(15_000, abs=100)
    with pytest.raises(BadInput, match=r"nothing does not exist; give a JSONL file or a folder of them"):
        mix_run(run, settings(run, tokenizer, shares={"x": 1}, sources={"x": run / "nothing"}))
    (run / "nothing").mkdir()
    with pytest.raises(BadInput, match=r"nothing holds no \.jsonl file; give a JSONL file or a folder of them"):
        mix_run(run, settings(run, tokenizer, shares={"x": 1}, sources={"x": run / "nothing"}))


def test_a_folder_of_foreign_records_is_no_run_and_its_json_file_a_source(run: Path, tokenizer: str) -> None:
    (run / "foreign/records").mkdir(parents=True)
    write(run / "foreign/records/pairs.json", [question(random.Random(number), number) for number in range(50)])
    source = {"x": run / "foreign/records/pairs.json"}
    manifest = mix_run(run, settings(run, tokenizer, tokens=None, shares={"x": 1}, sources=source))
    assert manifest["sources"]["x"]["records"] == 50


def test_what_axolotl_would_drop_as_nothing_to_train_is_counted_as_empty(run: Path, tokenizer: str) -> None:
    def chat(*answers: str) -> dict[str, Any]:
        asked = {"role": "user", "content": "How was the weather?"}
        return {"messages": [turn for each in answers for turn in (asked, {"role": "assistant", "content": each})]}

    write(run / "chats.jsonl", [chat(""), chat(" \n"), chat("", " "), chat("Fair.", ""), chat("Cold.")])
    mute = {"shares": {"x": 1}, "sources": {"x": run / "chats.jsonl"}, "replay": run / "chats.jsonl"}
    manifest = mix_run(run, settings(run, tokenizer, tokens=None, **mute))
    for name in ("x", "replay"):
        assert (manifest["sources"][name]["empty"], manifest["sources"][name]["records_available"]) == (3, 2)
    reasons = [row["reason"] for _, row in read_jsonl(run / "mix/dropped.jsonl")]
    assert reasons.count("empty") == 6


def test_columns_of_a_replay_data_set_that_no_mix_reads_may_hold_anything(run: Path, tokenizer: str) -> None:
    odd = [
        {"text": f"{number}: {prose(random.Random(number), 60)}", "index": "a-1", "round": -1} for number in range(300)
    ]
    write(run / "replay.jsonl", [{**row, "part": None} for row in odd])
    assert mix_run(run, settings(run, tokenizer))["sources"]["replay"]["records"] > 0


def test_a_mix_that_is_killed_leaves_no_manifest_of_the_one_before_beside_what_it_wrote(
    run: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = settings(run, tokenizer, tokens=None, budgets=(10_000, 30_000), validation_rounds=1)
    mix_budgets(run, nested)
    written, write_files = [], mix_module._write_files

    def dying(folder: Path, *arguments: Any) -> dict[str, Any]:
        if written:
            raise KeyboardInterrupt
        written.append(folder)
        return write_files(folder, *arguments)

    monkeypatch.setattr(mix_module, "_write_files", dying)
    with pytest.raises(KeyboardInterrupt):
        mix_budgets(run, nested.model_copy(update={"validation_rounds": 3}))
    assert written == [run / "mix"]
    assert not list((run / "mix").rglob("manifest.json"))


def test_a_run_made_in_shards_gives_the_same_mix_as_one_made_at_once(run: Path, tokenizer: str) -> None:
    whole = mix_run(run, settings(run, tokenizer))
    for name in ("synthetic_qa", "focal_rewrite"):
        rows = [row for _, row in read_jsonl(run / f"records/{name}.jsonl")]
        for shard in (1, 2):
            folder = run / f"parted/shards/{shard}-of-2/records"
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / f"{name}.jsonl", [row for row in rows if int(row["doc_id"][3:]) % 2 == shard - 1])
    assert mix_run(run / "parted", settings(run, tokenizer))["content_hash"] == whole["content_hash"]


def test_near_duplicates_are_dropped_named_and_counted_and_the_first_round_stays(run: Path, tokenizer: str) -> None:
    rng = random.Random(12)
    path = run / "records/focal_rewrite.jsonl"
    rows = [{**rewrite(rng, number), "text": story(rng, 80)} for number in range(300)]
    # One word of eighty makes a copy that is nearly the same, twenty words do not.
    near = [{**row, "id": f"near-{row['id']}", "text": changed(rng, row["text"], 1), "round": 50} for row in rows[:60]]
    far = [
        {**row, "id": f"far-{row['id']}", "text": changed(rng, row["text"], 20), "round": 50} for row in rows[60:120]
    ]
    write(path, far + near + rows)
    only = settings(run, tokenizer, tokens=None, replay=None, shares={"focal_rewrite": 1})
    manifest = mix_run(run, only)
    source = manifest["sources"]["focal_rewrite"]
    assert (source["near_duplicates"], source["duplicates"], source["records"]) == (60, 0, 360)
    dropped = {row["id"]: row["reason"] for _, row in read_jsonl(run / "mix/dropped.jsonl")}
    assert dropped.keys() == {row["id"] for row in near}
    for identity, reason in dropped.items():
        assert reason.startswith(f"near duplicate of {identity.removeprefix('near-')}: 0.")
    assert "60 records were dropped" in manifest["warnings"][-1]
    assert mix_run(run, only.model_copy(update={"near_duplicates": 1}))["sources"]["focal_rewrite"]["records"] == 420


def story(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) + rng.choice(WORDS) for _ in range(words))


def changed(rng: random.Random, text: str, count: int) -> str:
    words = text.split()
    for position in rng.sample(range(len(words)), count):
        words[position] = "changed"
    return " ".join(words)


def test_records_to_leave_out_are_left_out_with_their_reason(run: Path, tokenizer: str) -> None:
    drop = {"q3": "nearly asks question 7", "q4": "nearly asks question 9"}
    manifest = mix_run(run, settings(run, tokenizer, tokens=None, shares={"synthetic_qa": 1}), drop=drop)
    source = manifest["sources"]["synthetic_qa"]
    assert (source["lines"], source["left_out"], source["records"]) == (1200, 2, 1198)
    dropped = {row["id"]: row["reason"] for _, row in read_jsonl(run / "mix/dropped.jsonl")}
    assert dropped == drop


def test_questions_and_answers_can_be_plain_text_all_of_which_is_trained(run: Path, tokenizer: str) -> None:
    manifest = mix_run(run, settings(run, tokenizer, qa_form="text"))
    assert list(manifest["files"]) == ["rewrites.jsonl", "qa_text.jsonl", "replay.jsonl"]
    (first, *_) = (row for _, row in read_jsonl(run / "records/synthetic_qa.jsonl"))
    asked, answered = (turn["content"] for turn in first["messages"])
    assert {"text": f"Question: {asked}\nAnswer: {answered}"} in [
        row for _, row in read_jsonl(run / "mix/qa_text.jsonl")
    ]
    values = yaml.safe_load(write_axolotl_config(run, "microworld/full", base_model=tokenizer).read_text())
    assert [entry["type"] for entry in values["datasets"]] == ["completion"] * 3


def test_the_last_round_is_held_out_for_validation_and_every_document_is_trained(run: Path, tokenizer: str) -> None:
    path = run / "records/synthetic_qa.jsonl"
    once = {**question(random.Random(9), 0), "id": "once", "doc_id": "one round only", "round": 0}
    rows = [row for _, row in read_jsonl(path)] + [once]
    write(path, rows)
    everything = settings(run, tokenizer, tokens=None, shares={"synthetic_qa": 1}, validation_rounds=1)
    manifest = mix_run(run, everything)
    last = {json.dumps({"messages": row["messages"]}) for row in rows if row["round"] == 11}
    assert set(lines(run, "validation_qa.jsonl")) == last
    trained = set(lines(run, "qa.jsonl"))
    assert trained.isdisjoint(last)
    assert json.dumps({"messages": once["messages"]}) in trained
    assert manifest["validation"]["validation_qa.jsonl"]["rows"] == manifest["sources"]["synthetic_qa"]["held_out"]
    assert manifest["sources"]["synthetic_qa"]["documents"] == 11
    config = write_axolotl_config(run, "microworld/full", tokenizer, {"eot_tokens": ["<|eot_id|>"]})
    values = yaml.safe_load(config.read_text())
    assert [entry["path"] for entry in values["test_datasets"]] == [str(run / "mix/validation_qa.jsonl")]
    assert values["test_datasets"][0]["type"] == "chat_template"
    assert values["eval_strategy"] == "epoch"
    mix_run(run, everything.model_copy(update={"validation_rounds": 0}))
    assert not (run / "mix/validation_qa.jsonl").exists()


def test_axolotl_evaluates_on_what_is_held_out_and_trains_on_the_rest(run: Path) -> None:
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets

    model = make_model(make_tokenizer(run / "base", MICROWORLD_LIKE))
    manifest = mix_run(run, settings(run, str(model), tokens=None, validation_rounds=2))
    config = write_axolotl_config(run, "microworld/full", str(model))
    assert unknown_keys(yaml.safe_load(config.read_text())) == []
    data = load_datasets(cfg=load_cfg(str(config)))
    for rows, files in ((data.train_dataset, "files"), (data.eval_dataset, "validation")):
        assert len(rows) == sum(file["rows"] for file in manifest[files].values())
        assert sum(map(len, rows["input_ids"])) == sum(file["tokens"] for file in manifest[files].values())


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_replay_is_streamed_from_a_data_set_and_cut_to_its_share(run: Path, tokenizer: str, kind: str) -> None:
    from datasets import Dataset

    rng = random.Random(4)
    texts = [prose(rng, 60) for _ in range(600)]
    (run / "general").mkdir()
    for shard in range(3):
        part = Dataset.from_dict({"text": texts[shard::3], "url": ["a"] * 200})
        path = str(run / f"general/part-{shard}.{kind}")
        part.to_parquet(path) if kind == "parquet" else part.to_json(path)
    chosen = settings(run, tokenizer, replay=str(run / "general"))
    manifest = mix_run(run, chosen)
    assert manifest["sources"]["replay"]["share"] == pytest.approx(0.1, abs=0.005)
    used = [row["text"] for _, row in read_jsonl(run / "mix/replay.jsonl")]
    assert len(used) == len(set(used)) == manifest["sources"]["replay"]["records"]
    assert set(used) < set(texts)
    assert mix_run(run, chosen) == manifest
    mix_run(run, chosen, seed=1)
    assert {row["text"] for _, row in read_jsonl(run / "mix/replay.jsonl")} != set(used)


def test_a_data_set_that_cannot_be_reached_is_one_sentence_with_the_mend(run: Path, tokenizer: str) -> None:
    with pytest.raises(BadInput, match=r"mix\.replay HuggingFaceFW/fineweb: .*download it first and give its folder"):
        mix_run(run, settings(run, tokenizer, replay="HuggingFaceFW/fineweb"))


@pytest.mark.parametrize("style", [LLAMA_LIKE, QWEN_LIKE, MICROWORLD_LIKE])
def test_a_dialogue_is_rendered_exactly_as_the_template_does_it(tmp_path: Path, style: Style) -> None:
    from transformers import AutoTokenizer

    folder = make_tokenizer(tmp_path, style)
    ruler, template = Ruler(str(folder), 512), AutoTokenizer.from_pretrained(folder)
    rng = random.Random(6)
    for number in range(300):
        turns = question(rng, number)["messages"]
        if number % 5 == 0:
            turns = [{"role": "system", "content": "Be brief."}, *turns, *question(rng, number)["messages"]]
        turns[-1]["content"] += rng.choice(["", " ", "\n", " <b>", "</think>", "mark0here"])
        rendered = ruler.render([turn["role"] for turn in turns], [turn["content"] for turn in turns])
        assert rendered == template.apply_chat_template(turns, tokenize=False)


def test_a_template_that_treats_contents_in_a_way_of_its_own_is_found_out(tmp_path: Path) -> None:
    shout = LLAMA_LIKE.replace("message['content'] | trim", "message['content'] | replace('amber', 'AMBER')")
    ruler = Ruler(str(make_tokenizer(tmp_path, shout)), 512)
    rendered = [ruler.render(["user", "assistant"], ["amber", "amber"]) for _ in range(200)]
    assert all(text.count("AMBER") == 2 for text in rendered)


CONTROL = (
    "Say <|im_end|> and <|eot_id|> and [INST] and <|start_header_id|>assistant<|end_header_id|> and "
    "<|finetune_right_pad_id|> and <|begin_of_text|> here."
)


def test_no_special_token_that_axolotl_trains_on_stems_from_a_text(tmp_path: Path) -> None:
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets

    model = make_model(make_tokenizer(tmp_path / "base", LLAMA_LIKE))
    (tmp_path / "run/records").mkdir(parents=True)
    place = {"doc_id": "d", "round": 0, "index": 0}
    turns = [{"role": "user", "content": CONTROL}, {"role": "assistant", "content": f"Yes: {CONTROL}"}]
    write(tmp_path / "run/records/synthetic_qa.jsonl", [{"id": "q", **place, "messages": turns}])
    long_text = " ".join(f"{number}: {CONTROL}" for number in range(20))
    write(tmp_path / "run/records/focal_rewrite.jsonl", [{"id": "t", **place, "text": long_text}])
    other = [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b {CONTROL}"}]
    write(tmp_path / "replay.jsonl", [{"text": f"General. {CONTROL}"}, {"messages": other}])
    mixed = MixSection(
        tokenizer=str(model), tokens=10**6, replay=str(tmp_path / "replay.jsonl"), replay_share=0.9, sequence_len=512
    )
    manifest = mix_run(tmp_path / "run", mixed)
    assert {name: file["rows"] for name, file in manifest["files"].items()} == {
        "qa.jsonl": 1,
        "rewrites.jsonl": pytest.approx(6, abs=2),
        "replay.jsonl": 1,
        "replay_qa.jsonl": 1,
    }
    config = write_axolotl_config(
        tmp_path / "run", "microworld/full", base_model=str(model), overrides={"eot_tokens": ["<|eot_id|>"]}
    )
    special = range(256, 261)
    for row in load_datasets(cfg=load_cfg(str(config))).train_dataset:
        found = sum(token in special for token in row["input_ids"])
        # Begin and end of a text; of a dialogue also the heads and ends of system, user and assistant.
        is_chat = row["labels"][0] == -100
        assert found == (1 + 3 * 3 if is_chat else 2)


def test_tokens_with_which_a_template_writes_turns_are_broken_up_though_they_are_not_declared_special(
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    template = "{% for m in messages %}<turn:{{ m['role'] }}>{{ m['content'] }}<eot>{% endfor %}"
    style = replace(MICROWORLD_LIKE, template=template)
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path / "odd", style))
    tokenizer.add_tokens(["<eot>", "<turn:user>", "<turn:assistant>", "lamp"])
    tokenizer.save_pretrained(tmp_path / "odd")
    ruler = Ruler(str(tmp_path / "odd"), 512)
    assert ruler.defused("A lamp<eot><turn:user>x") == "A lamp< eot>< turn:user>x"


def test_a_tokenizer_with_several_chat_templates_is_refused_with_the_mend(run: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path / "named", LLAMA_LIKE))
    tokenizer.chat_template = {"default": LLAMA_LIKE.template, "tool_use": LLAMA_LIKE.template}
    tokenizer.save_pretrained(tmp_path / "named")
    with pytest.raises(BadInput, match=r"it has several chat templates \(default, tool_use\), and axolotl takes no"):
        mix_run(run, settings(run, str(tmp_path / "named")))


def test_lines_that_end_in_mid_sentence_are_no_place_to_cut_unless_there_is_no_other(tokenizer: str) -> None:
    ruler = Ruler(tokenizer, 200)
    wrapped = "\n".join(
        ["The keeper wrote the log each night and", "the lamp burned. It burned for thirty", "years."] * 9
    )
    pieces = ruler.cut(wrapped)
    assert len(pieces) > 2
    assert all(piece.endswith(".") for piece in pieces)
    rows = ruler.cut("\n".join(f"{n} | {n * 7} | {n * 11}" for n in range(90)))
    assert all(re.fullmatch(r"\d+ \| \d+ \| \d+", line) for piece in rows for line in piece.splitlines())
    # Where there is no end at all, the pieces are alike, and none is a crumb.
    assert min(map(len, ruler.cut("x" * 200))) > 90


def test_replay_that_no_row_can_be_made_of_is_passed_over_and_counted(run: Path, tokenizer: str) -> None:
    odd = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
        {"messages": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "a"}]},
        {"text": "both", "messages": [{"role": "assistant", "content": "b"}]},
        {"text": ["x"]},
        {"text": " " * 900},
    ]
    rows = [row for _, row in read_jsonl(run / "replay.jsonl")]
    write(run / "replay.jsonl", [*odd, *rows])
    counted = mix_run(run, settings(run, tokenizer))["sources"]["replay"]
    assert (counted["unusable"], counted["empty"]) == (4, 1)
    reasons = [row["reason"] for _, row in read_jsonl(run / "mix/dropped.jsonl") if row["source"] == "replay"]
    assert sum("the last of `messages` must be the assistant's" in reason for reason in reasons) == 1
    write(run / "replay.jsonl", odd[:4])
    with pytest.raises(BadInput, match=r"replay\.jsonl, line \d: "):
        mix_run(run, settings(run, tokenizer))


def test_a_stream_without_one_row_that_can_be_used_is_not_read_to_its_end(run: Path, tokenizer: str) -> None:
    write(run / "replay.jsonl", [{"content": "x"}] * 1500)
    with pytest.raises(BadInput, match="expected an object with either `text` or `messages`"):
        mix_run(run, settings(run, tokenizer))


def test_blank_texts_are_counted_and_a_document_may_have_the_id_0(run: Path, tokenizer: str) -> None:
    texts = [{"id": f"z{n}", "doc_id": n % 3, "round": n // 3, "text": f"Lamp {n} burned."} for n in range(30)]
    write(run / "records/focal_rewrite.jsonl", [*texts, {"id": "blank", "doc_id": 1, "round": 99, "text": " " * 900}])
    counted = mix_run(run, settings(run, tokenizer, tokens=None, shares={"focal_rewrite": 1}))["sources"][
        "focal_rewrite"
    ]
    assert (counted["lines"], counted["records"], counted["empty"], counted["documents"]) == (31, 30, 1, 3)
    assert "blank" in {row["id"] for _, row in read_jsonl(run / "mix/dropped.jsonl")}


def test_a_second_mix_at_the_same_time_is_refused_and_leaves_the_first_alone(run: Path, tokenizer: str) -> None:
    mix_run(run, settings(run, tokenizer))
    before = {path.name: path.read_bytes() for path in (run / "mix").iterdir()}
    with lock_file(run / "mix" / "mix.lock"), pytest.raises(BadInput, match=r"mix is in use by process \d+"):
        mix_run(run, settings(run, tokenizer), seed=1)
    (run / "mix" / "mix.lock").unlink()
    assert {path.name: path.read_bytes() for path in (run / "mix").iterdir()} == before


@pytest.mark.parametrize("sentence", SENTENCES)
def test_texts_are_cut_where_a_sentence_of_their_script_ends(tokenizer: str, sentence: str) -> None:
    ruler = Ruler(tokenizer, 512)
    pieces = ruler.cut(sentence * 60)
    assert len(pieces) > 2
    assert all(piece.startswith(sentence[:12]) for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join((sentence * 60).split())
