import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from aiohttp import web
from click.testing import CliRunner

from smt_plugin.cli.app import SECTIONS, cli
from smt_plugin.config import read_run_file
from smt_plugin.errors import BadInput
from tests.endpoint import MODEL, Endpoint, in_thread, serve

GOOD = {
    "run": "run",
    "corpus": "corpus",
    "backend": {"endpoints": ["http://127.0.0.1:9/v1"], "model": "m"},
    "methods": {"synthetic_qa": {"tokens": "1K"}},
}


def smt(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smt_plugin", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def write_run_file(folder: Path, **changes: object) -> None:
    # JSON is YAML.
    (folder / "smt.yaml").write_text(json.dumps({**GOOD, **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corpus": "nowhere"}, "nowhere does not exist"),
        ({"methods": {"haiku": {"tokens": 9}}}, "unknown method 'haiku'"),
        ({"methods": {"synthetic_qa": {}}}, "methods.synthetic_qa: no budget"),
        ({"modle": "x"}, "modle: unknown key"),
        ({}, "endpoint http://127.0.0.1:9/v1 cannot be reached"),
    ],
    ids=["missing corpus", "unknown method", "no budget", "unknown key", "unreachable endpoint"],
)
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, corpus: Path, changes: dict[str, object], says: str
) -> None:
    write_run_file(tmp_path, **changes)
    result = smt("generate", "smt.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_all_files_that_cannot_be_read_are_listed_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "export.txt").write_text("The harbour was dug in 1871.", encoding="utf-16")
    (tmp_path / "corpus" / "scan.txt").write_bytes(b"The\0harbour.")
    (tmp_path / "corpus" / "good.txt").write_text("The harbour.")
    write_run_file(tmp_path)
    for arguments in (["generate", "smt.yaml"], ["init", "corpus", "--output", "new.yaml"]):
        result = smt(*arguments, cwd=tmp_path)
        assert result.returncode == 2
        first, second = result.stderr.splitlines()
        assert first.endswith("export.txt is UTF-16 text, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8.")
        assert "scan.txt holds NUL characters" in second
    assert not (tmp_path / "run" / "completions.sqlite").exists()


def test_an_empty_document_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "empty.txt").write_text("")
    write_run_file(tmp_path)
    result = smt("generate", "smt.yaml", cwd=tmp_path)
    assert (result.returncode, "empty.txt is empty" in result.stderr) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named_with_its_install_command(tmp_path: Path) -> None:
    write_run_file(tmp_path, evaluate={"benchmark": "quality"})
    # A package of that name which cannot be found, as on a machine without the extra.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['lm_eval'] = None\n")
    root = Path(__file__).parents[2]
    result = smt("evaluate", "smt.yaml", cwd=tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{root}")
    assert result.returncode == 2
    assert "lm_eval is not installed; install it with: pip install 'smt-plugin[eval]'" in result.stderr


def test_generate_runs_from_the_command_line_and_the_key_reaches_no_file(tmp_path: Path, corpus: Path) -> None:
    async def run() -> subprocess.CompletedProcess[str]:
        async with serve(Endpoint(api_key="very-secret")) as endpoint:
            write_run_file(tmp_path, backend={"endpoints": [endpoint.url], "model": MODEL})
            return await asyncio.to_thread(smt, "generate", "smt.yaml", cwd=tmp_path, OPENAI_API_KEY="very-secret")

    result = asyncio.run(run())
    assert result.returncode == 0, result.stderr
    assert "synthetic_qa: " in result.stdout
    assert (tmp_path / "run" / "run.yaml").is_file()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert all(b"very-secret" not in path.read_bytes() for path in files)
    assert "very-secret" not in result.stdout + result.stderr


def test_init_writes_a_run_file_that_names_the_corpus_and_never_overwrites_one(tmp_path: Path, corpus: Path) -> None:
    result = smt("init", "corpus", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "corpus: corpus" in (tmp_path / "smt.yaml").read_text()
    assert smt("init", "corpus", cwd=tmp_path).returncode == 2
    result = smt("init", "corpus", "--output", "no/folder.yaml", cwd=tmp_path)
    assert (result.returncode, "no/folder.yaml cannot be written" in result.stderr) == (2, True)


def test_init_says_which_questions_are_there_and_refuses_bad_ones_before_it_writes(
    tmp_path: Path, corpus: Path
) -> None:
    output, questions = tmp_path / "smt.yaml", corpus / "questions.jsonl"
    row = {"question_id": "q1", "doc_id": "d1", "question": "Where?", "options": ["here", "there"], "answer": 5}
    questions.write_text(json.dumps(row) + "\n")
    result = CliRunner().invoke(cli, ["init", str(corpus), "--output", str(output)])
    assert isinstance(result.exception, BadInput)
    assert not output.exists()
    questions.write_text(json.dumps(row | {"answer": 1}) + "\n")
    result = CliRunner().invoke(cli, ["init", str(corpus), "--output", str(output)])
    assert f"1 questions to evaluate with, in {questions}" in result.output
    assert "smt questions" not in result.output


def test_init_in_the_corpus_itself_puts_the_run_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("Zwölf Bücher. " * 100)
    result = smt("init", ".", cwd=tmp_path / "notes")
    assert result.returncode == 0, result.stderr
    assert "1 documents, 1,400 characters (about 400 tokens)" in result.stdout
    settings = read_run_file(tmp_path / "notes" / "smt.yaml")
    assert (settings.corpus, settings.run.resolve()) == (tmp_path / "notes", tmp_path / "notes-run")


def test_a_suggested_command_names_the_run_file(tmp_path: Path, corpus: Path) -> None:
    write_run_file(tmp_path)
    (tmp_path / "smt.yaml").rename(tmp_path / "my run.yaml")
    result = smt("show", "my run.yaml", "--method", "synthetic_qa", cwd=tmp_path)
    assert (result.returncode, "run `smt generate 'my run.yaml'` first" in result.stderr) == (
        2,
        True,
    )


def test_a_share_of_a_method_that_the_run_file_lacks_is_named(tmp_path: Path, corpus: Path) -> None:
    write_run_file(tmp_path)
    result = smt("mix", "smt.yaml", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "focal_rewrite has no records in" in result.stderr
    assert "add it there or to `mix.sources`, or give `mix.shares` without it" in result.stderr


def test_what_is_to_be_typed_next_is_quoted_and_a_folder_is_called_one(tmp_path: Path, corpus: Path) -> None:
    result = smt("init", "corpus", "--output", "my run.yaml", cwd=tmp_path)
    assert result.stdout.endswith("  smt plan 'my run.yaml' && smt generate 'my run.yaml'\n")
    assert "smt questions 'my run.yaml'   (before all else" in result.stdout
    for arguments in (["plan", "corpus"], ["judge", "--endpoint", "http://127.0.0.1:9/v1", "--against", "corpus"]):
        result = smt(*arguments, cwd=tmp_path)
        assert (result.returncode, "corpus is a folder; " in result.stderr) == (2, True)


def test_questions_that_are_there_are_said_alone_and_not_under_a_bar(tmp_path: Path, corpus: Path) -> None:
    write_run_file(tmp_path)
    (corpus / "questions.jsonl").touch()
    result = smt("questions", "smt.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "set `corpus` to a copy of the documents in another folder" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("group", [[], ["batch"], ["tasks"]], ids=["smt", "batch", "tasks"])
def test_the_short_help_of_every_command_is_whole_on_one_line_of_80_columns(group: list[str]) -> None:
    result = CliRunner().invoke(cli, [*group, "--help"], terminal_width=80)
    shown = cli.commands[group[0]] if group else cli
    assert isinstance(shown, click.Group)
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    for name in shown.commands:
        assert lines[name].endswith("."), name
        assert not lines[name].endswith("..."), name


def test_every_command_stands_in_one_section_in_the_order_of_the_flow() -> None:
    assert [command.name for commands in SECTIONS.values() for command in commands] == list(cli.commands)
    output = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    places = [output.index(f"\n{title}:\n") for title in SECTIONS]
    assert places == sorted(places)


def test_the_help_of_a_command_keeps_its_text_options_and_example() -> None:
    output = CliRunner().invoke(cli, ["questions", "--help"], terminal_width=80).output
    for said in ("The backend makes it before anything is generated", "--per-document", "smt questions smt.yaml"):
        assert said in output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom smt_plugin.cli.app import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'aiohttp', 'pydantic', 'lm_eval', 'rich', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert output.strip().endswith("[]")
    assert "Examples:" in output


EVIL = "\x1b]52;c;eA==\x07\x1b[2J\u202e"


def test_no_name_of_a_file_or_key_and_no_word_of_a_server_commands_the_terminal(tmp_path: Path, corpus: Path) -> None:
    write_run_file(tmp_path, **{f"key{EVIL}": 1})
    results = [smt("generate", "smt.yaml", cwd=tmp_path), smt("generate", f"no{EVIL}.yaml", cwd=tmp_path)]
    (corpus / "documents.jsonl").unlink()
    (corpus / f"bad{EVIL}.txt").write_text("")
    (corpus / f"good{EVIL}.txt").write_text("Some words.")
    (corpus / f"other.x{EVIL}").write_text("")
    results += [smt("init", "corpus", "--output", "new.yaml", cwd=tmp_path), smt(f"no{EVIL}", cwd=tmp_path)]
    (corpus / f"bad{EVIL}.txt").unlink()
    results.append(smt("init", "corpus", "--output", f"new{EVIL}.yaml", cwd=tmp_path))

    async def fails(request: web.Request) -> web.Response:
        return web.Response(text=f"no{EVIL}", status=401)

    with in_thread(Endpoint()) as server:
        server.faults = dict.fromkeys(range(9), fails)
        write_run_file(tmp_path, backend={"endpoints": [server.url], "model": MODEL})
        results.append(smt("generate", "smt.yaml", cwd=tmp_path))
    assert [result.returncode for result in results] == [2, 2, 2, 2, 0, 2]
    for result in results:
        assert "\\x1b]52" in result.stdout + result.stderr
        assert (result.stdout + result.stderr).replace("\n", "").isprintable()


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_what_is_paid_for_can_be_read_by_nobody_else(tmp_path: Path, corpus: Path, umask: int) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with in_thread(Endpoint()) as server:
        write_run_file(folder, corpus=str(corpus), backend={"endpoints": [server.url], "model": MODEL})
        before = os.umask(umask)
        try:
            result = smt("generate", "smt.yaml", cwd=folder)
        finally:
            os.umask(before)
    assert result.returncode == 0, result.stderr
    made = [folder / "run", *(folder / "run").rglob("*")]
    assert {"completions.sqlite", "synthetic_qa.jsonl", "run.yaml", "generate.json"} <= {path.name for path in made}
    assert not [path for path in made if path.stat().st_mode & 0o077]


@pytest.mark.parametrize(
    "shard",
    [
        "0/4",
        "5/4",
        "1/0",
        " 1/2",
        "1/2/3",
        "-1/2",
        "1e3/2",
        "１/２",
        "²/3",
        "1/",
        "",
        f"1/{'9' * 5000}",
        f"{10**30}/{10**31}",
    ],
)
def test_an_odd_shard_is_refused_in_a_short_sentence(tmp_path: Path, corpus: Path, shard: str) -> None:
    write_run_file(tmp_path)
    result = CliRunner().invoke(cli, ["generate", str(tmp_path / "smt.yaml"), "--shard", shard])
    assert (result.exit_code, "is no shard; write e.g. 1/4" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "x" * 5000], "File name too long; give another path."),
        (["init", "corpus", "--output", "x" * 5000], "(File name too long); give another place."),
        (["init", "loop", "--output", "new.yaml"], "corpus loop"),
        (["generate", "smt.yaml", "--method", "x" * 5000], "but synthetic_qa."),
        (["generate", "smt.yaml", "--shard", "9" * 5000], "is no shard; write e.g. 1/4 for the first of four."),
        (["plan", "smt.yaml", "--probe", "9" * 5000], "is not a valid integer range."),
        (["x" * 5000], "."),
    ],
)
def test_what_is_too_long_to_be_read_is_told_in_a_short_sentence(
    tmp_path: Path, corpus: Path, arguments: list[str], says: str
) -> None:
    write_run_file(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    result = smt(*arguments, cwd=tmp_path)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 2
    assert last.lower().startswith("error: ")
    assert says in last
    assert len(last) < 400


def test_a_key_whose_path_cannot_be_is_named(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for changes, says in (
        ({"run": "x" * 5000}, "run: "),
        ({"corpus": "loop"}, "corpus: "),
        ({"prompts": "smt.yaml/x"}, "prompts: "),
        ({"mix": {"tokenizer": "x" * 5000}}, "mix.tokenizer: "),
        ({"train": {"base_model": "loop"}}, "train.base_model: "),
        ({"seed": 10**400}, "seed: the number 9"),
        ({"corpus": "\ud800"}, "corpus: a text holds"),
    ):
        write_run_file(tmp_path, **changes)
        result = smt("plan", "smt.yaml", cwd=tmp_path)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert f"smt.yaml: {says}".replace("9", "1") in result.stderr
