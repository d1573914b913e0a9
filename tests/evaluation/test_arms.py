"""lm-eval against a real server: what it sends, and what counts as an answer."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.assets import asset_dir
from smt_plugin.config import EvaluateSection, JudgeSection
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arm_results import count_tokens, read_arm, read_tokens
from smt_plugin.evaluation.arms import Arm, code_behind_tasks, outdated, ready_arms
from smt_plugin.evaluation.evaluate import as_run_here, evaluate
from smt_plugin.files import locked, write_json
from smt_plugin.report.results import RunResults, arm_results
from smt_plugin.report.sections import doubts
from tests.endpoint import MODEL, Endpoint, in_thread, serve_in_thread, status
from tests.processes import wait_for
from tests.quality_data import write_own
from tests.tiny_llama import MICROWORLD_LIKE, make_model, make_tokenizer


def base_arm(tmp_path: Path, **settings: Any) -> Arm:
    """The base arm on the first two questions of QuALITY-like data."""
    section = EvaluateSection(
        benchmark="quality", data=write_own(tmp_path / "data"), arms=["base"], limit=2, **settings
    )
    ((arm,), _) = ready_arms(tmp_path / "run", section, MODEL, [])
    return arm


def served(tmp_path: Path, url: str) -> Arm:
    arguments = f"base_url={url}/chat/completions,num_concurrent=4,max_retries=1,tokenizer_backend=None"
    return base_arm(tmp_path, model="local-chat-completions", model_args=arguments, batch_size="1")


def test_a_servers_samples_differ_since_no_fixed_seed_is_sent(tmp_path: Path) -> None:
    letters = itertools.cycle("ABCD")
    with serve_in_thread(lambda prompt, count: f"The answer is ({next(letters)}).") as server:
        arm = served(tmp_path, server.url)
        evaluate([arm], lambda text: None)
        assert len(server.bodies) == 2 * 8
        assert not any("seed" in body for body in server.bodies)
        assert {body["temperature"] for body in server.bodies} == {0.7}
        # Thinking is off there as it is for local models and for the judge.
        assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in server.bodies)
    assert len(read_arm(arm.folder) or []) == 2
    (path,) = arm.folder.rglob("samples_*.jsonl")
    for line in path.read_text().splitlines():
        assert len(set(json.loads(line)["resps"][0])) > 1


def test_one_reply_that_is_a_list_of_parts_and_one_without_content_lose_no_arm(tmp_path: Path) -> None:
    replies: Any = itertools.chain(
        [[{"type": "text", "text": "The answer "}, {"type": "text", "text": "is (A)."}], None],
        (f"I say {number}: the answer is (B)." for number in itertools.count()),
    )
    said: list[str] = []
    server = Endpoint()
    server.usages = [None]
    server.answer = lambda prompt, count: next(replies) or ""
    with in_thread(server):
        arm = served(tmp_path, server.url)
        evaluate([arm], said.append)
        assert len(server.bodies) == 2 * 8
        evaluate([arm], said.append)
        assert len(server.bodies) == 2 * 8
    rows = read_arm(arm.folder) or []
    assert sum(row["unparsed"] * row["n"] for row in rows) == 1
    assert any("1 answers came back empty and count as unparsed" in text for text in said)


@dataclass(frozen=True)
class Scripted(Arm):
    """An arm that runs `code` in place of lm_eval."""

    code: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.code, *super().command[4:]]


def scripted(folder: Path, code: str, model: str = "hf") -> Scripted:
    settings = EvaluateSection(benchmark="quality", model=model)
    return Scripted("base", "x", settings, "quality_smt_rag", asset_dir("lm_eval_tasks"), None, folder, 0, code=code)


def answering(
    folder: Path, answers: list[list[str]], model: str = "local-chat-completions", states: tuple[str, ...] = ()
) -> Scripted:
    """An arm whose command writes the samples that lm-eval would write for these answers.

    Args:
        states: what was made of those to each question.
    """
    doc = {"doc_id": "d", "question": "?", "readings": [{"read": "a", "state": state} for state in states]}
    rows = [
        {"doc": {"question_id": f"q{n}"} | doc, "resps": [texts], "acc": 0.5, "unparsed": 0.0}
        | {"arguments": {"gen_args_0": {"arg_0": "Who?"}}}
        for n, texts in enumerate(answers)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / "samples_x_2026.jsonl"
    made = "p.parent.mkdir(parents=True, exist_ok=True)"
    code = f"import pathlib; p = pathlib.Path({str(path)!r}); {made}; p.write_text({lines!r})"
    return scripted(folder, code, model)


def test_a_servers_empty_answers_and_samples_that_are_all_the_same_are_errors_and_no_results(tmp_path: Path) -> None:
    for name, answers, says in (
        ("empty", [["a", "", "b"], ["a", None, ""]], "3 of 6 answers came back empty"),
        ("same", [["a", "a"], ["b", "b"]], "all samples of each question are the same"),
    ):
        arm = answering(tmp_path / name, answers)
        with pytest.raises(RuntimeError, match=says):
            evaluate([arm], lambda text: None)
        assert read_arm(arm.folder) is None
        local = answering(tmp_path / f"local {name}", answers, "hf")
        evaluate([local], lambda text: None)
        assert len(read_arm(local.folder) or []) == 2


def test_a_few_empty_answers_are_told_and_do_not_lose_an_arm(tmp_path: Path) -> None:
    arm = answering(tmp_path / "arm", [["a", "b", "c"], ["a", "", "b"]])
    said: list[str] = []
    evaluate([arm], said.append)
    assert said[-1] == "arm base: 1 answers came back empty and count as unparsed"
    assert json.loads((arm.folder / "arm.json").read_text())["empty"] == 1
    assert len(read_arm(arm.folder) or []) == 2


@pytest.mark.parametrize("model", ["local-chat-completions", "hf"])
def test_a_judge_that_gives_no_verdict_on_many_answers_is_an_error_and_on_few_is_not(
    tmp_path: Path, model: str
) -> None:
    states = ("right", "wrong", "nothing", "right", "no_verdict")
    few = answering(tmp_path / "few", [list("abcde")], model, states)
    evaluate([few], lambda text: None)
    assert len(read_arm(few.folder) or []) == 1
    many = answering(tmp_path / "many", [list("abcde")], model, (*states[1:], "no_verdict"))
    with pytest.raises(RuntimeError, match=r"arm base: the judge gave no verdict on 2 of 5 answers; use a model that"):
        evaluate([many], lambda text: None)
    assert read_arm(many.folder) is None


def test_an_arm_goes_on_where_a_server_answers_one_request_with_an_error(tmp_path: Path) -> None:
    with serve_in_thread(lambda prompt, count: f"{count}. The answer is (A).") as server:
        server.faults[3] = lambda request: status(500)
        arm = served(tmp_path, server.url)
        evaluate([arm], lambda text: None)
    assert [(row["n"], row["unparsed"]) for row in read_arm(arm.folder) or []] == [(8, 0.0)] * 2


def test_tokens_of_prompts_and_answers_are_counted_by_the_models_own_tokenizer(tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "model", MICROWORLD_LIKE)
    arm = replace(answering(tmp_path / "arm", [["an", "answer"], ["or", "two"]], "hf"), model=str(folder))
    evaluate([arm], lambda text: None)
    # One token a byte.
    assert read_tokens(arm.folder) == {
        "questions": 2,
        "samples": 4,
        "prompts": 8,
        "answers": 13,
        "cut": 0,
        "cut_documents": 0,
    }
    server = answering(tmp_path / "server", [["an", "answer"]])
    evaluate([server], lambda text: None)
    assert read_tokens(server.folder) is None
    evaluate([arm], lambda text: pytest.fail(text) if "skipped" not in text else None)


def test_thinking_is_off_in_every_local_arm_unless_the_user_turns_it_on(tmp_path: Path) -> None:
    assert f"pretrained={MODEL},enable_thinking=False" in base_arm(tmp_path).command
    said = base_arm(tmp_path, model="vllm", model_args="dtype=bfloat16").command
    assert f"pretrained={MODEL},enable_thinking=False,dtype=bfloat16" in said


def test_the_judge_goes_into_the_command_without_its_key(tmp_path: Path) -> None:
    said = base_arm(tmp_path, judge={"endpoint": "http://127.0.0.1:8001/v1"}).command
    metadata = json.loads(said[said.index("--metadata") + 1])
    assert metadata["judge"] == {
        "endpoint": "http://127.0.0.1:8001/v1",
        "model": "Qwen/Qwen3-14B",
        "options": {"chat_template_kwargs": {"enable_thinking": False}},
    }


def test_free_form_questions_without_a_judge_are_refused_before_lm_eval_starts(tmp_path: Path) -> None:
    data = write_own(tmp_path / "data")
    path = data / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[5] |= {"options": None, "answer": "Sixpence"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = EvaluateSection(benchmark="corpus", data=data, arms=["base"])
    with pytest.raises(BadInput, match=r"question '50003_W1_1' has no options, so .*; set evaluate\.judge"):
        ready_arms(tmp_path / "run", settings, MODEL, [])
    judged = settings.model_copy(update={"judge": JudgeSection(kind="vllm")})
    assert len(ready_arms(tmp_path / "run", judged, MODEL, [])[0]) == 1
    compared = judged.model_copy(update={"arms": ["base", "base_ll"]})
    with pytest.raises(BadInput, match=r"'50003_W1_1' has no options, and the arm base_ll compares .*; take the arms"):
        ready_arms(tmp_path / "run", compared, MODEL, [])


def test_arms_by_likelihood_are_asked_by_the_tasks_that_compare_options_where_there_are_any(tmp_path: Path) -> None:
    section = EvaluateSection(
        benchmark="quality",
        data=write_own(tmp_path / "data"),
        arms=["base_ll", "base_rag_ll", "base_full_ll", "base"],
        retrieval={"top_k": 2},
        cut_documents=True,
    )
    arms, _ = ready_arms(tmp_path / "run", section, MODEL, [])
    assert [arm.tasks for arm in arms] == ["quality_smt_ll", "quality_smt_rag_ll", "quality_smt_full_ll", "quality_smt"]
    assert [arm.reads("rag") for arm in arms] == [False, True, False, False]
    assert [arm.reads("full") for arm in arms] == [False, False, True, False]
    assert ["retrieval" in arm.metadata for arm in arms] == [False, True, False, False]
    assert ["cut_documents" in arm.metadata for arm in arms] == [False, False, True, False]
    other = section.model_copy(update={"benchmark": "microworld", "data": None, "retrieval": {}})
    with pytest.raises(BadInput, match=r"evaluate\.arms: microworld has no task for the arm base_ll; take it out"):
        ready_arms(tmp_path / "run", other, MODEL, [])


def test_lm_eval_ends_where_smt_is_killed_and_the_arm_is_run_again(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    slow = (
        "import os, pathlib, subprocess, time; engine = subprocess.Popen(['sleep', '600']); "
        f"pathlib.Path({str(told)!r}).write_text(f'{{os.getpid()}} {{engine.pid}}'); time.sleep(600)"
    )
    code = (
        "import pathlib; from tests.evaluation.test_arms import evaluate, scripted; "
        f"evaluate([scripted(pathlib.Path({str(tmp_path / 'arm')!r}), {slow!r})], print)"
    )
    smt = subprocess.Popen([sys.executable, "-c", code])
    assert wait_for(lambda: told.is_file() and told.read_text(), 60)
    smt.send_signal(signal.SIGKILL)
    smt.wait()
    for pid in told.read_text().split():
        command_line = Path("/proc") / pid / "cmdline"
        # Without a command line it has ended, and waits for whoever inherited it.
        assert wait_for(lambda path=command_line: not path.exists() or not path.read_bytes(), 20)
    assert read_arm(tmp_path / "arm") is None
    arm = answering(tmp_path / "arm", [["a", "b"]], "hf")
    evaluate([arm], lambda text: None)
    assert len(read_arm(arm.folder) or []) == 1


def test_an_arm_is_outdated_when_the_environment_names_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = answering(tmp_path / "arm", [["a", "b"]], "hf")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "QuALITY.v1.0.1.dev").write_text(name)
    monkeypatch.setenv("SMT_QUALITY_DIR", str(tmp_path / "one"))
    evaluate([arm], lambda text: None)
    assert outdated([arm]) == []
    monkeypatch.setenv("SMT_QUALITY_DIR", str(tmp_path / "other"))
    assert outdated([arm]) == ["base"]


def test_prompts_that_the_models_context_cuts_are_counted(tmp_path: Path) -> None:
    model = make_model(make_tokenizer(tmp_path / "model", MICROWORLD_LIKE))
    context = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    rows = [
        {"arguments": {"gen_args_0": {"arg_0": "a " * words, "arg_1": {"max_gen_toks": 64}}}, "resps": [["b"]]}
        for words in (10, context, 2 * context)
    ]
    (tmp_path / "samples_x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arm = replace(scripted(tmp_path, ""), model=str(model))
    counts = count_tokens(arm)
    assert counts is not None
    assert (counts["questions"], counts["cut"]) == (3, 2)
    longer = arm.settings.model_copy(update={"model_args": f"max_length={100 * context}"})
    assert (count_tokens(replace(arm, settings=longer)) or {})["cut"] == 0


def test_an_arm_of_another_model_or_setting_is_outdated_and_a_models_card_or_log_changes_nothing(
    tmp_path: Path,
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    arm = answering(tmp_path / "arm", [["a", "b"]], "hf")
    assert outdated([arm]) == []
    arm = replace(arm, model=str(model))
    evaluate([arm], lambda text: None)
    (model / "README.md").write_text("What it was trained on.")
    (model / "debug.log").write_text("x")
    assert outdated([arm]) == []
    os.utime(model / "config.json", (1, 1))
    assert outdated([arm]) == []
    (model / "config.json").write_text("[]")
    os.utime(model / "config.json", (1, 1))
    assert outdated([arm]) == ["base"]
    evaluate([arm], lambda text: None)
    assert outdated([arm]) == []
    assert outdated([replace(arm, limit=3)]) == ["base"]


def test_every_module_of_ours_that_a_real_task_load_imports_is_among_those_whose_change_outdates_an_arm(
    tmp_path: Path,
) -> None:
    code = f"""
import sys
from smt_plugin.evaluation.lm_eval_link import dataset, process_results
row = dataset("corpus", "rag", data={str(write_own(tmp_path / "data"))!r}, retrieval={{"mode": "bm25"}})["test"][0]
process_results(row, [["The answer is (A)."]])
dataset("microworld", "none")
judge = '{{"endpoint": "http://127.0.0.1:9/v1"}}'
process_results(row | {{"options": [], "gold": "9", "judge": judge}}, [["The answer is 9."]])
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "smt_plugin"), sep="\\n")
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    imported = {Path(line) for line in done.stdout.splitlines() if line.endswith(".py")}
    hashed = set(code_behind_tasks())
    assert imported <= hashed
    names = {file.stem for file in imported}
    assert {"lm_eval_link", "scoring", "judge", "same_number", "retrieve", "world", "endpoint"} <= names
    # What only others use is not: a change of it costs nobody an evaluation.
    assert not {"generate", "mix", "report", "arms", "app"} & {file.stem for file in hashed}


def test_without_a_gpu_no_batch_size_is_searched_for_and_the_results_are_known_again_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def batch_size(arm: Arm) -> str:
        words = as_run_here(arm).command
        return words[words.index("--batch_size") + 1]

    arm = base_arm(tmp_path)
    assert arm.settings.batch_size == "auto"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert batch_size(arm) == "8"
    # The stamp is that of the run file: a machine with a GPU knows these results again, and the other way round.
    assert as_run_here(arm).stamp() != arm.stamp()
    assert batch_size(base_arm(tmp_path, model="vllm")) == "auto"
    assert batch_size(base_arm(tmp_path, batch_size="4")) == "4"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert batch_size(arm) == "auto"


def test_documents_that_are_too_long_are_refused_before_any_arm_is_run_or_cut_where_that_is_allowed(
    tmp_path: Path,
) -> None:
    model = make_model(make_tokenizer(tmp_path / "model", MICROWORLD_LIKE))
    said: list[str] = []

    def arms(**settings: Any) -> list[Arm]:
        section = EvaluateSection(
            benchmark="quality",
            data=write_own(tmp_path / "data", sentences=60),
            arms=["base", "base_full"],
            model_args="max_length=2600",
            batch_size="8",
            limit=1,
            **settings,
        )
        return ready_arms(tmp_path / "run", section, str(model), [])[0]

    with pytest.raises(BadInput, match=r"quality_smt_full: 1 of 1 prompts .*`evaluate\.cut_documents: true` in a run"):
        evaluate(arms(), said.append)
    assert said == ["arm base_full: seeing whether its prompts fit into the model's context"]
    assert not (tmp_path / "run").exists()
    closed, full = arms(cut_documents=True)
    assert "cut_documents" not in closed.text
    assert full.metadata["cut_documents"] is True
    evaluate([full], said.append)
    assert (read_tokens(full.folder) or {}).items() >= {"cut": 0, "cut_documents": 1}.items()
    (result,) = (one for one in arm_results(tmp_path / "run", ["base_full"]))
    (sentence,) = (text for text in doubts(RunResults(tmp_path / "run", [result])) if "cut" in text)
    assert sentence.startswith(f"{result.name}: in 1 of 1 prompts the ends of documents were cut off")


@pytest.mark.parametrize(("template", "has_one"), [(MICROWORLD_LIKE.template, True), ("", False)])
def test_a_local_model_without_a_chat_template_is_asked_without_one(
    tmp_path: Path, template: str, has_one: bool
) -> None:
    model = make_tokenizer(tmp_path / "model", replace(MICROWORLD_LIKE, template=template))
    arm = replace(base_arm(tmp_path, batch_size="8"), model=str(model))
    assert ("--apply_chat_template" in arm.command) == has_one
    assert "--apply_chat_template" in replace(arm, model="a/model-that-is-not-here").command


@pytest.mark.slow
def test_lm_eval_asks_a_base_model_in_plain_text(tmp_path: Path) -> None:
    model = make_model(make_tokenizer(tmp_path / "model", replace(MICROWORLD_LIKE, template="")))
    arm = replace(base_arm(tmp_path, batch_size="8"), model=str(model), limit=1)
    evaluate([arm], lambda text: None)
    (path,) = arm.folder.rglob("samples_*.jsonl")
    asked = json.loads(path.read_text().splitlines()[0])["arguments"]["gen_args_0"]["arg_0"]
    assert "<|user|>" not in asked


def test_a_run_that_was_copied_elsewhere_keeps_its_arms_and_one_whose_model_was_changed_does_not(
    tmp_path: Path,
) -> None:
    def arm_in(place: Path) -> Arm:
        arm = answering(place / "run/results/base", [["a", "b"]], "hf")
        settings = arm.settings.model_copy(update={"data": place / "data"})
        metadata = {"data": str(place / "data")}
        return replace(arm, code="", model=str(place / "run/model"), settings=settings, metadata=metadata)

    (tmp_path / "one/run/model").mkdir(parents=True)
    weights = tmp_path / "one/run/model/model.safetensors"
    weights.write_bytes(b"1234")
    (tmp_path / "one/run/results/base").mkdir(parents=True)
    write_json(tmp_path / "one/run/results/base/arm.json", arm_in(tmp_path / "one").stamp())
    shutil.copytree(tmp_path / "one", tmp_path / "other", copy_function=shutil.copyfile)
    for place in (tmp_path / "one", tmp_path / "other"):
        os.utime(place / "run/model/model.safetensors", (1000, 1000))
        assert outdated([arm_in(place)]) == []
    weights.write_bytes(b"5678")
    os.utime(weights, (1000, 1000))
    assert outdated([arm_in(tmp_path / "one")]) == ["base"]


def test_two_evaluations_of_one_arm_exclude_each_other_and_those_of_two_arms_do_not(tmp_path: Path) -> None:
    arm = answering(tmp_path / "results/base", [["a", "b"]], "hf")
    evaluate([arm], lambda text: None)
    before = (arm.folder / "arm.json").read_bytes()
    other = answering(tmp_path / "results/base_rag", [["a", "b"]], "hf")
    with locked(tmp_path / "results/base.lock"):
        with pytest.raises(BadInput, match=r"results is in use by process \d+ on .* \(base\.lock\); wait for it"):
            evaluate([other, replace(arm, limit=1)], lambda text: None)
        assert not other.folder.exists()
        evaluate([other], lambda text: None)
    assert (arm.folder / "arm.json").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["base", "base_rag"]
