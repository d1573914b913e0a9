import time
from pathlib import Path

import pytest

from smt_plugin.config import (
    EvaluateSection,
    OpenAIEndpoints,
    example_run_file,
    load_yaml,
    parse_tokens,
    parse_yaml,
    read_run_file,
    write_resolved,
)
from smt_plugin.errors import BadInput

GOOD = """\
run: run
corpus: documents
backend: {endpoints: ["http://127.0.0.1:8000/v1"], model: m}
methods:
  synthetic_qa: {tokens: 1.5M}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "smt.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "tokens"), [("200", 200), (200, 200), ("50k", 50_000), ("1.5M", 1_500_000), ("2B", 2 * 10**9)]
)
def test_tokens_are_read_with_their_unit(text: str | int, tokens: int) -> None:
    assert parse_tokens(text) == tokens


def test_what_lies_in_the_home_folder_is_found_by_its_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "model").mkdir(parents=True)
    keys = "mix: {tokenizer: ~/model, replay: ~/model}\ntrain: {config: ~/model, base_model: ~/gone}\n"
    run_file = read_run_file(write(tmp_path, GOOD + keys))
    model = str(tmp_path / "home" / "model")
    assert (run_file.mix.tokenizer, run_file.mix.replay, run_file.train.config) == (model, model, model)
    assert run_file.train.base_model == "~/gone"


@pytest.mark.parametrize("seed", [-1, 10**30])
def test_a_seed_is_a_number_that_random_generators_take(tmp_path: Path, seed: int) -> None:
    with pytest.raises(BadInput, match=r"seed: (Input should be|the number 10* is beyond 64 bits)"):
        read_run_file(write(tmp_path, GOOD + f"seed: {seed}\n"))


def test_keys_that_are_merged_in_count_but_for_those_that_stand_there(tmp_path: Path) -> None:
    text = GOOD.replace("{tokens: 1.5M}", "&shared {tokens: 1.5M}") + "  focal_rewrite: {<<: *shared, tokens: 2M}\n"
    run_file = read_run_file(write(tmp_path, text))
    assert [parse_tokens(method["tokens"]) for method in run_file.methods.values()] == [1_500_000, 2_000_000]
    with pytest.raises(BadInput, match="the key 'tokens' is given twice"):
        read_run_file(write(tmp_path, GOOD.replace("{tokens: 1.5M}", "{tokens: 1.5M, tokens: 2M}")))


def test_paths_are_relative_to_the_run_file_and_an_endpoint_is_the_default_kind_of_backend(tmp_path: Path) -> None:
    run_file = read_run_file(write(tmp_path, GOOD))
    assert run_file.run == tmp_path / "run"
    assert run_file.corpus == tmp_path / "documents"
    assert isinstance(run_file.backend, OpenAIEndpoints)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "modle: x\n", "modle: unknown key"),
        (GOOD + "mix: {share: 1}\n", r"mix\.share: unknown key"),
        (GOOD.replace("model: m", "modle: m"), r"backend\.(model: this key is missing|modle: unknown key)"),
        (GOOD.replace("corpus: documents\n", ""), "corpus: this key is missing"),
        (GOOD + "mix: {tokens: lots}\n", r"mix\.tokens: 'lots' is not a number of tokens"),
        (GOOD + "mix: {tokens: 1, budgets: [2]}\n", "mix: tokens and budgets are both given"),
        (GOOD + "mix: {sources: {x: x.jsonl}}\n", "mix.sources: x has no share; add it to mix.shares with a weight"),
        (GOOD + "mix: {shares: {replay: 1}}\n", "mix.shares: `replay` has a key of its own, mix.replay_share"),
        (GOOD + "mix: {shares: {}}\n", "mix.shares: Dictionary should have at least 1 item"),
        *(
            (
                GOOD + f"mix: {{shares: {{synthetic_qa: 1, focal_rewrite: {weight}}}}}\n",
                "mix.shares.focal_rewrite: Input",
            )
            for weight in ("0", "-1", ".nan", ".inf", "1.0e+300", "1.0e-300")
        ),
        (GOOD + "mix: {sequence_len: 16}\n", "mix.sequence_len: Input should be greater than or equal to 32"),
        (GOOD + "corpus: other\n", "the key 'corpus' is given twice"),
        (GOOD + "x: [\n", r"smt\.yaml: not valid YAML \("),
        ("- a\n", r"smt\.yaml: expected `key: value` lines\."),
    ],
)
def test_a_wrong_run_file_is_named_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_run_file(write(tmp_path, text))


@pytest.mark.parametrize(
    ("retrieval", "says"),
    [
        ("{modus: bm25}", "evaluate.retrieval.modus: unknown key"),
        ("{mode: sparse}", "evaluate.retrieval.mode: Input should be 'dense', 'bm25' or 'hybrid'"),
        ("{top_k: '5'}", "evaluate.retrieval.top_k: Input should be a valid integer"),
        ("{preset: gpt}", "evaluate.retrieval: unknown preset 'gpt'; choose one of minilm, qwen3."),
        ("{top_k: 200}", r"evaluate.retrieval: candidates \(128\) must be at least top_k \(200\)\."),
        ("{vector_store: 'http://me:secret-word@host'}", "evaluate.retrieval.vector_store: a URL must hold no user"),
        ("[bm25]", "evaluate.retrieval: Input should be a valid dictionary"),
    ],
)
def test_wrong_settings_of_retrieval_are_named_when_the_run_file_is_read(
    tmp_path: Path, retrieval: str, says: str
) -> None:
    with pytest.raises(BadInput, match=rf"run file .*smt\.yaml: {says}") as caught:
        read_run_file(write(tmp_path, GOOD + f"evaluate: {{benchmark: corpus, retrieval: {retrieval}}}\n"))
    assert "secret-word" not in str(caught.value)


def test_settings_of_retrieval_stay_as_they_were_written_and_are_checked_on_top_of_the_benchmarks_own(
    tmp_path: Path,
) -> None:
    # With the 8 chunks of other benchmarks, 5 candidates would be too few.
    text = GOOD + "evaluate: {benchmark: microworld, retrieval: {preset: qwen3, candidates: 5, mode: bm25}}\n"
    run_file = read_run_file(write(tmp_path, text))
    assert run_file.evaluate is not None
    assert list(run_file.evaluate.retrieval.items()) == [("preset", "qwen3"), ("candidates", 5), ("mode", "bm25")]
    write_resolved(run_file, tmp_path / "run.yaml")
    assert read_run_file(tmp_path / "run.yaml") == run_file


def test_forty_thousand_keys_are_looked_through_in_a_moment(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"k{number}: 1\n" for number in range(40_000)))
    # Of this process alone: a machine that others use may stand still meanwhile.
    started = time.process_time()
    assert len(load_yaml(path)) == 40_000
    assert time.process_time() - started < 60
    with pytest.raises(BadInput, match=r"not valid YAML \(.*found unhashable key"):
        load_yaml(write(tmp_path, "? [a]\n: 1\n? [a]\n: 2\n"))


def test_the_resolved_run_file_holds_no_secret(tmp_path: Path) -> None:
    text = GOOD.replace("model: m}", "model: m, options: {user_token: SECRET1, note: 'https://me:SECRET2@host/'}}")
    text += "evaluate: {benchmark: corpus, model: local-completions, model_args: 'n=1,api_key=SECRET3,m=2'}\n"
    write_resolved(read_run_file(write(tmp_path, text)), tmp_path / "run.yaml")
    assert "SECRET" not in (tmp_path / "run.yaml").read_text()
    again = read_run_file(tmp_path / "run.yaml")
    assert again.evaluate is not None
    assert again.evaluate.model_args == "n=1,api_key=(a secret),m=2"


MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], y{n}: 1}}\n" for n in range(1, 30)
)
# Their hashes are all 0.
LIKE_HASHES = "".join(f"{number * (2**61 - 1)}: 1\n" for number in range(40_000))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MERGES, "it holds more than 100,000 values"),
        (LIKE_HASHES, "more than 1,000 keys that are no text"),
        ("- a\n" * 2_000_000, "more than 4,000,000 characters"),
    ],
)
def test_yaml_that_takes_for_ever_is_refused_in_files_and_on_the_command_line(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(BadInput, match=rf"smt\.yaml: not valid YAML \(.*{says}"):
        load_yaml(write(tmp_path, text))
    with pytest.raises(ValueError, match=says):
        parse_yaml(text)


def test_the_example_and_the_resolved_run_file_read_back(tmp_path: Path) -> None:
    example = read_run_file(write(tmp_path, example_run_file(tmp_path / "documents", tmp_path)))
    assert isinstance(example.evaluate, EvaluateSection)
    write_resolved(example, tmp_path / "run.yaml")
    assert read_run_file(tmp_path / "run.yaml") == example


@pytest.mark.parametrize(
    "judge",
    ["{endpoint: 'http://127.0.0.1:8001/v1'}", "{kind: vllm, arguments: {seed: 1}}", "{kind: microworld}"],
)
def test_the_resolved_run_file_reads_back_with_any_kind_of_judge_and_its_command_is_the_same(
    tmp_path: Path, judge: str
) -> None:
    run_file = read_run_file(write(tmp_path, GOOD + f"evaluate: {{benchmark: corpus, judge: {judge}}}\n"))
    write_resolved(run_file, tmp_path / "run.yaml")
    again = read_run_file(tmp_path / "run.yaml")
    assert again == run_file
    values = [each.evaluate.judge.values for each in (run_file, again) if each.evaluate and each.evaluate.judge]
    assert len(values) == 2
    assert values[0] == values[1]


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'lol'}]\n" for n in range(12))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + BOMB, "more than 100,000 values"),
        (GOOD + "mix: &m {tokens: [*m]}\n", "more than 100,000 values"),
        (GOOD + "mix:\n\tshares: 1\n", r"smt\.yaml: not valid YAML \(.*found character"),
        (GOOD + "seed: 2026-13-45\n", r"smt\.yaml: not valid YAML \(month must be in"),
        (GOOD + "mix: " + "[" * 5000, r"smt\.yaml: not valid YAML \("),
        (GOOD + "mix: !!python/object:os.system {}\n", r"smt\.yaml: not valid YAML \("),
        (GOOD + "mix: {tokens: 0}\n", "'0' is not a number of tokens"),
        (GOOD + "mix: {tokens: -1}\n", "'-1' is not a number of tokens"),
        (GOOD + "mix: {tokens: 1.0e+99}\n", "'1e\\+99' is not a number of tokens"),
        (GOOD + f"mix: {{tokens: {'9' * 400}}}\n", r"mix\.tokens: the number 9* is beyond 64 bits"),
        (GOOD + f"mix: {{tokens: '{'9' * 400}B'}}\n", "is not a number of tokens"),
        (GOOD + "mix: {tokens: true}\n", "'True' is not a number of tokens"),
        (GOOD + "mix: {tokens: [1]}\n", "'list' is not a number of tokens"),
        (GOOD.replace("1.5M", "&b [1, *b]"), "more than 100,000 values"),
        (GOOD + 'prompts: "own\\0"\n', "a text holds a NUL character"),
        (GOOD + "mix: {shares: {synthetic_qa: .nan}}\n", r"mix\.shares\.synthetic_qa: Input should be a finite number"),
        (GOOD + "mix: {near_duplicates: .nan}\n", r"mix\.near_duplicates: Input should be a finite number"),
        (GOOD + "mix: {replay_share: nan}\n", r"mix\.replay_share: Input should be a finite number"),
        (GOOD + "price: {input: .inf}\n", r"price\.input: Input should be a finite number"),
        (GOOD.replace("model: m", "model: m, timeout: .inf"), r"backend\.timeout: Input should be a finite number"),
    ],
)
def test_a_hostile_run_file_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        read_run_file(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:8000/v1", "not a URL"),
        ("ftp://127.0.0.1/v1", "not a URL"),
        ("http://", "not a URL"),
        ("http://[::1/v1", "not a URL"),
        ("http://a..b/v1", "not a URL"),
        ("http://host:99999/v1", "not a URL"),
        ("http://user:secret-word@host/v1", "must hold no user and password"),
        ("http://host/v1?api-key=secret-word", "must end with its path"),
    ],
)
def test_an_endpoint_must_be_a_plain_url_and_a_password_in_it_is_not_repeated(
    tmp_path: Path, url: str, says: str
) -> None:
    text = GOOD.replace("http://127.0.0.1:8000/v1", url)
    with pytest.raises(BadInput, match=rf"backend\.endpoints\.0: .*{says}") as caught:
        read_run_file(write(tmp_path, text))
    assert "secret-word" not in str(caught.value)


def test_urls_of_all_kinds_are_taken(tmp_path: Path) -> None:
    for url in ("https://bücher.example/v1", "http://[::1]:8000/v1/", "http://localhost", "HTTP://Host:1/a/b"):
        read_run_file(write(tmp_path, GOOD.replace("http://127.0.0.1:8000/v1", url)))


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = GOOD.replace("model: m", "model: m, api_key_variable: sk-secret-word")
    with pytest.raises(BadInput, match=r"backend\.api_key_variable: not a name of an environment variable") as caught:
        read_run_file(write(tmp_path, text))
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("name", ["my: docs", "#1", "[x]", "true", "{a}", "*b", "ü", "a'b", "1", "a b", "~x"])
def test_the_example_names_a_corpus_of_any_name(tmp_path: Path, name: str) -> None:
    assert read_run_file(write(tmp_path, example_run_file(tmp_path / name, tmp_path))).corpus == tmp_path / name


@pytest.mark.parametrize("folder", [".", "notes", "link/notes"])
def test_a_run_folder_whose_files_would_become_documents_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    text = GOOD.replace("corpus: documents", f"corpus: {folder}").replace("run: run", "run: notes/run")
    with pytest.raises(BadInput, match="run: the folder lies in the corpus"):
        read_run_file(write(tmp_path, text))
    (tmp_path / folder / "documents.jsonl").touch()
    assert read_run_file(tmp_path / "smt.yaml").run == tmp_path / "notes" / "run"
