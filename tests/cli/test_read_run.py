"""Every command reads its run file alike, the options of methods included."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli

RUN_FILE = """\
run: run
corpus: corpus
backend: {kind: microworld}
methods: METHODS
train: {config: microworld/full}
evaluate: {benchmark: microworld}
"""
COMMANDS = ["plan", "generate", "mix", "tune", "evaluate", "retention", "leaks", "report", "card", "questions"]


def said(folder: Path, methods: str, *command: str) -> str:
    path = folder / "smt.yaml"
    path.write_text(RUN_FILE.replace("METHODS", methods))
    result = CliRunner().invoke(cli, [command[0], str(path), *command[1:]])
    assert result.exit_code != 0
    return str(result.exception)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_of_a_method_is_named_by_whichever_command_reads_it(tmp_path: Path, command: str) -> None:
    for methods, says in (
        ("{focal_rewrite: {tokens: 1K, temprature: 0.5}}", "methods.focal_rewrite.temprature: unknown key; focal"),
        ("{wrap: {tokens: 1K, top_p: 2}}", "methods.wrap: top_p is 2.0, but must be above 0 and at most 1"),
        ("{wrap: {}}", "methods.wrap: no budget; add e.g. `tokens: 50M`."),
        ("{focal_rewirte: {tokens: 1K}}", "unknown method 'focal_rewirte'"),
    ):
        assert said(tmp_path, methods, command).startswith(f"run file {tmp_path / 'smt.yaml'}: {says}")


def test_a_method_from_outside_is_imported_only_where_it_generates(tmp_path: Path) -> None:
    outside = "{'no_such_package:Method': {tokens: 1K, anything: 1}}"
    assert "cannot be imported" in said(tmp_path, outside, "plan")
    for command in ("mix", "card"):
        assert "cannot be imported" not in said(tmp_path, outside, command)
    wrong_too = "{'no_such_package:Method': {tokens: 1K}, wrap: {tokens: 1K, top_p: 2}}"
    assert "methods.wrap: top_p is 2.0" in said(tmp_path, wrong_too, "mix")


@pytest.mark.parametrize("command", ["generate", "plan", "questions"])
def test_names_that_only_later_stages_use_are_checked_before_anything_is_paid_for(tmp_path: Path, command: str) -> None:
    path = tmp_path / "smt.yaml"
    for old, new, says in (
        (
            "{benchmark: microworld",
            "{benchmark: trivia",
            "evaluate.benchmark: unknown benchmark 'trivia'; choose one of: chronicle, corpus, ",
        ),
        (
            "{benchmark: m",
            "{arms: [base, base_rga], benchmark: m",
            "evaluate.arms: unknown arm 'base_rga'; use some of",
        ),
        ("config: m", "config: mircoworld", "config mircoworld"),
        ("train:", "mix: {shares: {wrap: 1, warp: 1}}\ntrain:", "warp has no records in .* correct its name in `mix"),
        ("train:", "mix: {budgets: [10M]}\ntrain:", ""),
    ):
        path.write_text(RUN_FILE.replace("METHODS", "{wrap: {tokens: 1K}}").replace(old, new))
        result = CliRunner().invoke(cli, [command, str(path)])
        if says:
            assert re.match(f"run file {path}: {says}", str(result.exception))
        else:
            assert "run file" not in str(result.exception)
    text = RUN_FILE.replace("METHODS", "{wrap: {tokens: 1K}}").replace("train:", "mix: {shares: {old: 1}}\ntrain:")
    (tmp_path / "run" / "records").mkdir(parents=True)
    (tmp_path / "run" / "records" / "old.jsonl").touch()
    path.write_text(text)
    assert "run file" not in str(CliRunner().invoke(cli, [command, str(path)]).exception)
