import itertools
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.judge import Answer, agreement, check_judge, judge, judge_settings, verdict_of
from smt_plugin.evaluation.same_number import same_number
from smt_plugin.evaluation.scoring import free_answer, process_results
from tests.endpoint import MODEL, status
from tests.endpoint import serve_in_thread as judge_server
from tests.official_data import write_financebench
from tests.processes import processes, wait_for

YES = "Both say the same.\nVERDICT: CORRECT"
NO = "They differ.\nVERDICT: WRONG"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def knows_pears(prompt: str, count: str) -> str:
    return YES if "<given_answer>\npears" in prompt.lower() else NO


def answers(*given: str) -> list[Answer]:
    return [Answer('"The Late Ferry"', "What did Yun bring?", "Pears", answer) for answer in given]


@pytest.mark.parametrize(
    ("question", "gold", "given", "same"),
    [
        ("in USD millions?", "$1577.00", "$1,577", True),
        ("in USD millions?", "$1577.00", "1577 million dollars.", True),
        ("in USD millions?", "$1577.00", "**$1.577 billion**", True),
        ("in USD millions?", "$1577.00", "$1,577 billion", False),
        ("in USD millions?", "$1577.00", "$1,565", False),
        ("in USD billions.", "$8.70", "US$8.738 billion", False),
        ("Answer?", "$8.70", "$8.70 billion", False),
        ("Answer?", "$8.70 billion", "8,700 million", True),
        ("Answer?", "$8.70", "€8.70", False),
        ("Answer?", "65.4%", "approximately 65.4 percent", True),
        ("Answer?", "65.4%", "0.654", None),
        ("Answer?", "-0.02", "−0.02", True),
        ("Answer?", "-0.02", "0.02", False),
        ("Answer?", "24.26", "24.3", False),
        ("Answer?", "2.50", "2.5x", True),
        ("Answer?", "1952", "1953", False),
        ("Answer?", "200", "201", False),
        ("Answer?", "9", "9", True),
        ("Answer?", "9", "nine", None),
        ("Answer?", "24.26", "(24.26)", False),
        ("Answer?", "Yes, 24.26", "24.26", None),
        ("in USD millions?", "$1577.00", "1573", False),
        ("in USD millions?", "$1577.00", "$1,577,000,000", True),
        ("in USD millions?", "$1577.00", "$1.58 billion", None),
        ("in USD millions?", "$1577.00", "between 1,500 and 1,600", False),
        ("in USD millions?", "$1577.00", "1,577 shares", None),
        ("How far?", "5 m", "5 million", None),
        ("Answer?", "$0.05", "5 cents", None),
        ("in USD millions?", "$1577.00", "\\boxed{1{,}577}", True),
        ("with stores in thousands of towns, what?", "$5", "$5 thousand", False),
        ("Answer?", "-3.7%", "(3.7%)", True),
        ("Answer?", "-3.7%", "3.7%", False),
        ("Answer?", "25bps", "25 basis points", True),
        ("Answer?", "$1.2 trillion", "1,200 billion dollars", True),
        ("Answer?", "0.25", "1/4", True),
        ("Answer?", "24.26", "1:24.26", False),
        ("What is the margin, in percent?", "12.5%", "12.5", True),
        ("How many days?", "93.86", "93.86 days", True),
        ("Answer?", "0", "-0", True),
    ],
)
def test_numbers_are_compared_by_code_and_what_it_cannot_tell_is_left_to_the_judge(
    question: str, gold: str, given: str, same: bool | None
) -> None:
    assert same_number(gold, given, question) is same


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (YES, True),
        (NO, False),
        ("**VERDICT: CORRECT**", True),
        ("verdict: incorrect", False),
        ("VERDICT: CORRECT? No.\nVERDICT: WRONG", False),
        ("<think>VERDICT: WRONG</think>\nVERDICT: CORRECT", True),
        ("It is correct.", None),
        ("VERDICT: CORRECTED", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_one_that_stands_in_the_reply(reply: str, verdict: bool | None) -> None:
    assert verdict_of(reply) is verdict


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is: Pears.", "Pears."),
        ("The answer is **pears**", "pears"),
        ("The answer is: apples. No, wait. The answer is:\nPears, says the captain.", "Pears, says the captain."),
        ("The answer is: Pears. I hope that this answer is", "Pears. I hope that this answer is"),
        ("Pears.", "Pears."),
        ("The answer is: ", None),
    ],
)
def test_a_free_answer_is_what_follows_the_first_statement_of_the_last_paragraph_with_one(
    text: str, answer: str | None
) -> None:
    assert free_answer(text) == answer


def test_the_model_judges_what_code_cannot_and_is_asked_once_for_ever() -> None:
    with judge_server(knows_pears) as server:
        settings = judge_settings({"endpoint": server.url, "model": MODEL})
        given = answers("Pears", "Plums", "pears, in a crate", "Pears")
        assert judge(given, settings) == [True, False, True, True]
        assert len(server.bodies) == 3
        assert judge(given, settings) == [True, False, True, True]
        assert judge([Answer("x", "How many?", "9.0", "9.0")], settings) == [True]
        assert len(server.bodies) == 3
        body = server.bodies[0]
        assert body["temperature"] == 0
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert [message["role"] for message in body["messages"]] == ["user"]
        assert judge(given[:1], judge_settings({"endpoint": server.url, "model": MODEL, "options": {}})) == [True]
        assert len(server.bodies) == 4
        assert "chat_template_kwargs" not in server.bodies[-1]


def test_an_answer_on_which_the_judge_says_nonsense_three_times_has_no_verdict_and_too_many_are_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("smt_plugin.evaluation.judge._counts", Counter())
    with judge_server(lambda prompt, count: "Who can say?" if int(count) < 3 else YES) as server:
        assert judge(answers("plums"), judge_settings({"endpoint": server.url, "model": MODEL})) == [True]
    with judge_server(lambda prompt, count: NO if "kites" in prompt else "Who can say?") as server:
        settings = judge_settings({"endpoint": server.url, "model": MODEL})
        assert judge(answers("pears", "kites"), settings) == [None, False]
        assert "gave no verdict in 3 attempts for 1 of 3 answers; it said: 'Who can say" in caplog.text
        # What was paid for is kept all the same.
        asked = len(server.bodies)
        assert judge(answers("kites"), settings) == [False]
        assert len(server.bodies) == asked
        assert judge(answers("pears"), settings) == [None]
        assert len(server.bodies) == asked + 3
        with pytest.raises(
            RuntimeError, match=r"gave no verdict in 3 attempts for 5 of 8 answers.*prompt judge/verdict"
        ):
            judge(answers("figs", "dates", "limes"), settings)


def test_a_judge_that_is_not_there_refuses_or_lacks_the_model_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"judge: endpoint http://127\.0\.0\.1:9/v1 cannot be reached"):
        check_judge(judge_settings({"endpoint": "http://127.0.0.1:9/v1", "model": MODEL}))
    with judge_server(knows_pears, api_key="secret") as server:
        with pytest.raises(BadInput, match="refused the API key"):
            check_judge(judge_settings({"endpoint": server.url, "model": MODEL}))
        monkeypatch.setenv("SMT_JUDGE_API_KEY", "secret")
        check_judge(judge_settings({"endpoint": server.url, "model": MODEL}))
        server.faults[0] = lambda request: status(404)
        with pytest.raises(BadInput, match="does not serve the model 'Qwen/Qwen3-14B'"):
            check_judge(judge_settings({"endpoint": server.url}))
        server.faults |= {n: lambda request: status(400) for n in range(1, 100)}
        with pytest.raises(BadInput, match="refused a request"):
            judge(answers("plums"), judge_settings({"endpoint": server.url, "model": MODEL}))
    with pytest.raises(BadInput, match="judge: expected"):
        judge_settings(None)
    with pytest.raises(BadInput, match=r"^judge: give `endpoint: http://\.\.\.`, or `kind: vllm`"):
        judge_settings({})
    with pytest.raises(BadInput, match=r"^judge\.modle: unknown key"):
        judge_settings({"endpoint": server.url, "modle": "y"})


def test_a_request_to_the_judge_is_given_up_after_the_timeout() -> None:
    def is_slow(prompt: str, count: str) -> str:
        time.sleep(1)
        return YES

    with judge_server(is_slow) as server:
        pace = {"endpoint": server.url, "model": MODEL, "patience": 0.5}
        with pytest.raises(RuntimeError, match="no answer in time"):
            judge(answers("figs"), judge_settings(pace | {"timeout": 0.2}))
        assert judge(answers("dates"), judge_settings(pace | {"timeout": 20, "patience": 20})) == [True]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", 8000),
        ("endpoint", "127.0.0.1:8000"),
        ("model", None),
        ("options", "no"),
        ("concurrency", "many"),
        ("concurrency", 0),
        ("timeout", 0),
        ("patience", -1),
        ("kind", "local"),
        ("command", "vllm serve"),
        ("arguments", []),
    ],
)
def test_a_setting_of_the_judge_of_the_wrong_kind_is_named_before_anything_is_asked(key: str, value: Any) -> None:
    with pytest.raises(BadInput, match=rf"^judge\.{key}: .*\.$") as error:
        judge_settings({"endpoint": "http://127.0.0.1:9/v1", key: value})
    assert "\n" not in str(error.value)


def test_free_form_samples_are_scored_by_the_judge_and_those_without_an_answer_are_wrong() -> None:
    with judge_server(knows_pears) as server:
        doc = {
            "options": [],
            "answer": -1,
            "gold": "Pears",
            "identity": '"The Late Ferry"',
            "question": "What did Yun bring?",
            "judge": json.dumps({"endpoint": server.url, "model": MODEL}),
        }
        samples = ["The answer is: pears."] * 4 + ["The answer is: plums."] * 2 + ["Who knows?"] * 2
        assert process_results(doc, [samples]) == {"acc": 0.5, "unparsed": 0.25, "no_option": 0.0, "by_judge": 0.0}
        read = ["pears."] * 4 + ["plums."] * 2 + [None] * 2
        state = ["right"] * 4 + ["wrong"] * 2 + ["nothing"] * 2
        assert doc["readings"] == [{"read": r, "state": s} for r, s in zip(read, state, strict=True)]
        assert process_results(doc, [["Who knows?"]]) == {
            "acc": 0.0,
            "unparsed": 1.0,
            "no_option": 0.0,
            "by_judge": 0.0,
        }
    with pytest.raises((BadInput, RuntimeError), match="cannot be reached"):
        process_results(doc, [["The answer is: figs."]])


def test_agreement_with_labels_is_measured_by_one_command(tmp_path: Path) -> None:
    rows = [
        {"question": "What did Yun bring?", "gold": "Pears", "answer": answer, "correct": correct}
        for answer, correct in (("pears", True), ("pears in a crate", False), ("plums", False), ("Birnen", True))
    ]
    rows.append({"question": "How many kites?", "gold": "9", "answer": "9", "correct": True})
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with judge_server(knows_pears) as server:
        found = agreement(path, judge_settings({"endpoint": server.url, "model": MODEL}))
        assert (found.both_correct, found.both_wrong, found.judge_alone, found.label_alone, found.by_code) == (
            2,
            1,
            1,
            1,
            1,
        )
        said = (
            CliRunner()
            .invoke(cli, ["judge", "--against", str(path), "--endpoint", server.url, "--model", MODEL])
            .output
        )
    # Observed 3 of 5, by chance (3 * 3 + 2 * 2) / 25.
    assert "agree on 60.0% (Cohen's kappa 0.167)" in said
    path.write_text('{"question": "x", "gold": "y", "answer": "z", "correct": "yes"}\n')
    with pytest.raises(BadInput, match=r"labels\.jsonl, line 1: expected `bool`, got `str` - at `\$\.correct`"):
        agreement(path, judge_settings({"endpoint": "http://127.0.0.1:9/v1"}))


def local_judge(tmp_path: Path, *more: str) -> dict[str, Any]:
    """A judge whose server is started for it; the folder on its command line tells its processes."""
    arguments = {"label": str(tmp_path), **dict.fromkeys(more, True)}
    return {
        "kind": "vllm",
        "model": MODEL,
        "command": [sys.executable, "-m", "tests.fake_vllm"],
        "arguments": arguments,
    }


def test_a_local_judge_is_started_once_for_all_tasks_and_goes_with_its_process(tmp_path: Path) -> None:
    folder = write_financebench(tmp_path / "f")
    code = (
        "from tests.evaluation.test_lm_eval_tasks import *\n"
        f"judge, folder = {local_judge(tmp_path)!r}, Path({str(folder)!r})\n"
        "tasks = ['financebench_smt', 'financebench_smt_full']\n"
        "right = evaluate(tasks, lambda doc, n: f\"The answer is: {doc['gold']}\", folder, judge)\n"
        "wrong = evaluate(tasks[:1], lambda doc, n: f'The answer is: {n} of it.', folder, judge)\n"
        "print([found['results'][task]['acc,all'] for found in (right, wrong) for task in found['results']])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[1.0, 1.0, 0.0]"
    assert done.stderr.count("starting ") == 1
    log = (tmp_path / "cache" / "smt-plugin" / "judge" / "vllm-0.log").read_text()
    assert log.count("Application startup complete") == 1
    assert log.count("answered") > 8
    assert wait_for(lambda: not processes(tmp_path), 30)


def test_a_run_files_local_judge_is_measured_by_one_command(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("The ferry was late.")
    (tmp_path / "labels.jsonl").write_text(
        json.dumps({"question": "What did Yun bring?", "gold": "Pears", "answer": "Pears", "correct": True}) + "\n"
    )
    settings = {
        "run": "run",
        "corpus": "documents",
        "backend": {"kind": "microworld"},
        "methods": {"synthetic_qa": {"tokens": 1000}},
        "evaluate": {"benchmark": "corpus", "judge": local_judge(tmp_path)},
    }
    run_file = tmp_path / "smt.yaml"
    run_file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "smt_plugin", "judge", str(run_file), "--against", str(tmp_path / "labels.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "agree on 100.0%" in done.stdout
    assert wait_for(lambda: not processes(tmp_path), 30)
    settings["evaluate"]["judge"] = local_judge(tmp_path, "break")
    run_file.write_text(json.dumps(settings))
    # The verdict above is kept: another answer needs the server.
    labels = tmp_path / "labels.jsonl"
    labels.write_text(labels.read_text().replace('"answer": "Pears"', '"answer": "Plums"'))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CUDA out of memory, or so" in done.stderr.splitlines()[-1]
    assert not processes(tmp_path)
    found = CliRunner().invoke(cli, ["judge", "--against", str(labels)])
    assert "give a run file with evaluate.judge in it, or --endpoint" in str(found.exception)


def test_the_arms_of_an_evaluation_ask_one_local_judge(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("The ferry was late.")
    numbers = itertools.count()
    with judge_server(lambda prompt, count: f"The answer is: {next(numbers)} of it.") as server:
        settings = {
            "run": "run",
            "corpus": "documents",
            "backend": {"kind": "microworld"},
            "methods": {"synthetic_qa": {"tokens": 1000}},
            "train": {"config": "microworld/full", "base_model": MODEL},
            "evaluate": {
                "benchmark": "financebench",
                "data": str(write_financebench(tmp_path / "f")),
                "arms": ["base", "base_full"],
                "judge": local_judge(tmp_path),
                "model": "local-chat-completions",
                "model_args": f"base_url={server.url}/chat/completions,num_concurrent=4,tokenizer_backend=None",
                "batch_size": "1",
            },
        }
        (tmp_path / "smt.yaml").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "smt_plugin", "evaluate", "smt.yaml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(re.findall(r"starting .*tests\.fake_vllm", done.stderr)) == 1
    log = (tmp_path / "cache" / "smt-plugin" / "judge" / "vllm-0.log").read_text()
    assert log.count("answered") > 16
    for arm in ("base", "base_full"):
        marker = json.loads((tmp_path / "run" / "results" / arm / "arm.json").read_text())
        # What one would type starts a judge of its own; the address of this one holds for this evaluation alone.
        assert '"kind": "vllm"' in marker["command"]
        assert "/v1" not in marker["command"].partition("--metadata")[2]
    assert wait_for(lambda: not processes(tmp_path), 30)


def test_verdicts_are_kept_while_others_are_still_awaited(tmp_path: Path) -> None:
    asked = threading.Event()
    go_on = threading.Event()

    def slow(prompt: str, count: str) -> str:
        if "plums" in prompt.lower():
            asked.set()
            assert go_on.wait(60)
        return knows_pears(prompt, count)

    with judge_server(slow) as server, ThreadPoolExecutor(1) as thread:
        settings = judge_settings({"endpoint": server.url, "model": MODEL, "concurrency": 1})
        verdicts = thread.submit(judge, answers("some pears", "pears", "plums"), settings)
        assert asked.wait(60)
        kept = sqlite3.connect(tmp_path / "cache" / "smt-plugin" / "verdicts.sqlite")
        found = wait_for(lambda: kept.execute("SELECT count(*) FROM verdicts").fetchone() == (2,), 20)
        go_on.set()
        assert verdicts.result() == [False, True, False]
    assert found


def test_a_local_judge_that_cannot_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    local = judge_settings({"kind": "vllm", "command": ["no-such-vllm", "serve"]})
    assert local.model == "Qwen/Qwen3-14B"
    with pytest.raises(BadInput, match=r"^judge: command: no-such-vllm is not found; install vLLM"):
        check_judge(local)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(BadInput, match="each of several processes would start a server"):
        check_judge(local)
    for wrong in ({"kind": "vllm", "endpoint": "http://a"}, {"endpoint": "http://a", "command": ["x"]}):
        with pytest.raises(BadInput, match=r"^judge: (give `endpoint|command, arguments and startup_timeout are for)"):
            judge_settings(wrong)


def test_options_may_null_and_rename_fields_and_a_verdict_stays_paid_for() -> None:
    with judge_server(knows_pears) as server:
        settings = {"endpoint": server.url, "model": MODEL, "options": {"reasoning_effort": "low"}}
        first = judge(answers("pears", "plums"), judge_settings(settings))
        asked = len(server.bodies)
        settings["options"] |= {"max_tokens": None, "max_completion_tokens": "$max_tokens", "temperature": None}
        assert judge(answers("pears", "plums"), judge_settings(settings)) == first
        assert len(server.bodies) == asked
        judge(answers("quinces"), judge_settings(settings))
        assert set(server.bodies[-1]) == {"model", "messages", "max_completion_tokens", "reasoning_effort"}
        with pytest.raises(BadInput, match=r"^judge\.options: messages is the client's own field; remove it"):
            judge_settings(settings | {"options": {"messages": []}})
