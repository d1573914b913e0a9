"""Run the arms of an evaluation with lm-eval, one `lm_eval` command each, skipping what is done."""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from smt_plugin.backends.server_process import ServerProcess
from smt_plugin.benchmarks.find import load
from smt_plugin.config import retrieval_settings
from smt_plugin.errors import BadInput, require
from smt_plugin.evaluation.arm_results import check_answers, count_tokens
from smt_plugin.evaluation.arms import Arm, is_likelihood, marker_path
from smt_plugin.evaluation.context_window import fit, task_file, window_of
from smt_plugin.evaluation.judge import API_KEY_VARIABLE, serve
from smt_plugin.evaluation.lm_eval_link import question_rows
from smt_plugin.evaluation.relay import forget, relayed
from smt_plugin.files import locked, make_folder, read_json, write_json
from smt_plugin.retrieval.retrieve import cached_retrieval, manifest_path

_CPU_BATCH = "8"  # the samples of one question
_SECONDS_TO_END = 10.0  # for vLLM inside lm_eval to let go of the GPU


def evaluate(arms: Iterable[Arm], say: Callable[[str], None]) -> None:
    """Run each arm whose result is not there yet; lm-eval's own output goes to the terminal.

    A result counts as there when its `arm.json`, written last, holds this very command and these very models. Several
    calls at once may run different arms of a run.

    Raises:
        BadInput: documents that are to be read whole are too long for a model, and may not be cut, or another process
            runs one of the arms.
        RuntimeError: lm-eval failed.
    """
    arms = list(arms)
    # Those that are done stay as they are, so others may look at them meanwhile.
    missing = [arm for arm in arms if not arm.is_done()]
    for arm in missing:
        _check_documents(arm, say)
    with ExitStack() as locks:
        for arm in missing:
            make_folder(arm.folder.parent)
            locks.enter_context(locked(arm.folder.with_name(f"{arm.folder.name}.lock")))
        _evaluate(arms, say)


def _evaluate(arms: list[Arm], say: Callable[[str], None]) -> None:
    for arm in arms:
        if arm.is_done():
            say(f"arm {arm.name}: done before, skipped")
            continue
        say(f"arm {arm.name}: {as_run_here(arm).text}")
        stamp = arm.stamp()
        if arm.folder.exists():
            shutil.rmtree(arm.folder)
        # lm-eval writes as everybody may read; nobody gets that far.
        make_folder(arm.folder)
        environment = {"TOKENIZERS_PARALLELISM": "true", **os.environ}
        with relayed(_asking_one_judge(as_run_here(arm), environment), environment) as run:
            status = _run(run.command, environment)
        if status != 0:
            raise RuntimeError(f"arm {arm.name}: lm_eval ended with status {status}; its own message stands above")
        if empty := check_answers(arm):
            say(f"arm {arm.name}: {empty} answers came back empty and count as unparsed")
        facts = {"tokens": count_tokens(arm), "empty": empty, "retrieval": _retrieval(arm)}
        write_json(marker_path(arm.folder), {**stamp, **facts})
        forget(arm)


def _retrieval(arm: Arm) -> dict[str, Any] | None:
    """The settings and the recall of the chunks that a RAG arm was given, as their file's manifest says."""
    # What is tried while tuning is not reported.
    if not arm.reads("rag") or "split" in arm.metadata:
        return None
    benchmark = arm.settings.benchmark
    settings = retrieval_settings(benchmark, arm.metadata.get("retrieval"))
    # The answers are there: what cannot be told about them any more does not lose them.
    with suppress(BadInput):
        path = cached_retrieval(benchmark, *load(benchmark, arm.settings.data), settings)
        # One file serves both orders.
        return read_json(manifest_path(path), dict[str, Any], "smt retrieve") | {"settings": settings.model_dump()}
    return None


def as_run_here(arm: Arm) -> Arm:
    """Return the arm with a batch size that this machine can bear.

    To find the largest, lm-eval runs 64 prompts of the model's whole context, and takes fewer where memory runs out. On
    a GPU that does no harm; without one it takes the machine's memory, and is killed for it.
    """
    settings = arm.settings
    if settings.model != "hf" or not settings.batch_size.startswith("auto"):
        return arm
    if require("torch", "eval").accelerator.is_available():
        return arm
    return replace(arm, settings=settings.model_copy(update={"batch_size": _CPU_BATCH}))


def _check_documents(arm: Arm, say: Callable[[str], None]) -> None:
    """Refuse documents that are too long for the model before any arm is paid for.

    The prompts of other arms are shorter; their tasks check them, too.
    """
    if not arm.reads("full"):
        return
    settings = arm.settings
    told = {"apply_chat_template": True, "gen_kwargs": {} if arm.is_local else settings.options}
    if window := window_of(arm.model_arguments, told):
        say(f"arm {arm.name}: seeing whether its prompts fit into the model's context")
        rows = question_rows(settings.benchmark, "full", settings.data, split=arm.metadata.get("split"))
        task = task_file(settings.benchmark, "full", sampled=not is_likelihood(arm.name))
        fit(rows[: arm.limit], task, window, settings.cut_documents)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command that ends with this process, even where this one is killed, and return its exit status."""
    # An lm_eval left behind would hold the GPU, and write its results among those of the next call.
    process = ServerProcess(command, environment, None)
    try:
        return process.wait()
    finally:
        process.stop(_SECONDS_TO_END)


def _asking_one_judge(arm: Arm, environment: dict[str, str]) -> Arm:
    """Return the arm with a local judge of this process, which all arms share, instead of one that it starts itself.

    Args:
        environment: of its command; gets the judge's key.
    """
    judge = arm.settings.judge
    if not arm.metadata or judge is None or judge.kind != "vllm":
        return arm
    _, questions = load(arm.settings.benchmark, arm.settings.data)
    if not arm.settings.read_by_judge and not any(question.options is None for question in questions):
        return arm
    shared, environment[API_KEY_VARIABLE] = serve(judge)
    return replace(arm, metadata=arm.metadata | {"judge": shared.values})
