"""Run the arms of an evaluation with lm-eval, one `lm_eval` command each, skipping what is done."""

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.assets import PACKAGE, asset_dir
from smt_plugin.backends.server_process import ServerProcess
from smt_plugin.benchmarks.find import load
from smt_plugin.config import EvaluateSection
from smt_plugin.errors import BadInput, require
from smt_plugin.evaluation.arm_results import samples_files
from smt_plugin.evaluation.judge import API_KEY_VARIABLE, serve
from smt_plugin.files import read_json, read_jsonl, write_json
from smt_plugin.retrieval.retrieve import default_settings
from smt_plugin.training.trainings import Training

# What an arm is: whether the trained model answers, and the ending of the task's name.
ARMS = {
    "base": (False, ""),
    "base_rag": (False, "_rag"),
    "base_full": (False, "_full"),
    "trained": (True, ""),
    "trained_rag": (True, "_rag"),
    "trained_full": (True, "_full"),
}


# The code whose change changes what our tasks ask or how they score.
_BEHIND_TASKS = (
    *("corpus", "control_tokens", "prompts", "question"),
    *sorted(f"benchmarks/{path.stem}" for path in (PACKAGE / "benchmarks").glob("*.py")),
    *("retrieval/retrieve", "retrieval/chroma", "retrieval/rerank"),
    *("evaluation/lm_eval_link", "evaluation/scoring", "evaluation/judge", "evaluation/same_number"),
)


# Models that lm-eval runs itself; with the others it asks a server.
_LOCAL_MODELS = ("hf", "vllm")


_SECONDS_TO_END = 10.0  # for vLLM inside lm_eval to let go of the GPU


@dataclass(frozen=True, slots=True)
class ArmCommand:
    """One arm's `lm_eval` command, and the folder its results go to."""

    arm: str
    command: list[str]
    folder: Path

    @property
    def text(self) -> str:
        """The command as one would type it."""
        return shlex.join(["lm_eval", *self.command[3:]])


def arms_of(
    names: Sequence[str], trainings: Sequence[Training], place: str = "evaluate.arms"
) -> dict[str, Training | None]:
    """Return the arms that the names stand for, each with the training whose model answers, None for the base model.

    Where a run trains several budgets, `trained` stands for one arm each: `trained-10M`, `trained-30M`.

    Args:
        place: where the names were given, for the error.

    Raises:
        BadInput: an unknown arm or budget.
    """
    arms: dict[str, Training | None] = {}
    for name in names:
        kind, budget = split_arm(name)
        if name in ARMS and not ARMS[name][0]:
            arms[name] = None
            continue
        own = [training for training in trainings if budget in ("", training.budget)]
        if kind not in ARMS or not ARMS[kind][0] or not own:
            budgets = ", ".join(training.budget for training in trainings if training.budget)
            more = f", a trained one of one budget as in trained-{trainings[0].budget} ({budgets})" if budgets else ""
            raise BadInput(f"{place}: unknown arm {name!r}; use some of {', '.join(ARMS)}{more}.")
        arms |= {"-".join(filter(None, (kind, training.budget))): training for training in own}
    return arms


def split_arm(arm: str) -> tuple[str, str]:
    """Return the kind of an arm, a key of ARMS, and the budget of its training, empty where the run has only one."""
    kind, _, budget = arm.partition("-")
    return kind, budget


def arm_commands(
    run: Path,
    settings: EvaluateSection,
    base_model: str,
    trainings: Sequence[Training],
    seed: int = 0,
    split: str | None = None,
    check: bool = True,
) -> tuple[list[ArmCommand], list[str]]:
    """Return the commands of the arms that the settings name, and a sentence for each whose model is not there yet.

    Args:
        split: `tuning` asks only about the documents that retrieval is tuned on.
        check: find out first that lm-eval is there, that questions and settings can be read, and that there is a judge
            where one is needed.

    Raises:
        BadInput: an unknown arm or benchmark, not one arm whose model is there, a model whose path lm-eval cannot be
            told, questions that cannot be read, or free-form ones without a judge.
    """
    if check:
        require("lm_eval", "eval")
        _, questions = load(settings.benchmark, settings.data)
        free = next((question.question_id for question in questions if question.options is None), None)
        if free is not None and settings.judge is None:
            raise BadInput(
                f"question {free!r} has no options, so a model must judge its answers; set evaluate.judge to "
                "{endpoint: http://..., model: ...}, or to {kind: vllm} to start one here."
            )
        default_settings(settings.benchmark).changed(settings.retrieval)
    commands, missing = [], []
    for arm, training in arms_of(settings.arms, trainings).items():
        if training is not None and (sentence := training.unready()):
            missing.append(f"arm {arm}: {sentence}")
            continue
        ending = ARMS[split_arm(arm)[0]][1]
        folder = run / "results" / arm
        command = model_command(settings, base_model if training is None else str(training.model))
        command += ["--tasks", f"{settings.benchmark}_smt{ending}", "--include_path", str(asset_dir("lm_eval_tasks"))]
        command += ["--apply_chat_template", "--batch_size", settings.batch_size, "--seed", str(seed)]
        metadata: dict[str, Any] = {}
        if settings.data is not None:
            metadata["data"] = str(settings.data)
        if settings.retrieval and ending == "_rag":
            metadata["retrieval"] = settings.retrieval
        if split is not None:
            metadata["split"] = split
        if settings.judge is not None:
            metadata["judge"] = settings.judge.values
        if metadata:
            command += ["--metadata", json.dumps(metadata)]
        if settings.limit is not None:
            command += ["--limit", str(settings.limit)]
        command += ["--log_samples", "--output_path", str(folder)]
        commands.append(ArmCommand(arm, command, folder))
    if not commands:
        raise BadInput(f"{missing[0]}.")
    return commands, missing


def model_command(settings: EvaluateSection, model: str) -> list[str]:
    """The beginning of an lm_eval command: which model answers, and with thinking off.

    Raises:
        BadInput: a comma in the model's name or path.
    """
    if "," in model:
        raise BadInput(
            f"the model {model}: lm_eval takes a comma in its name or path for the end of it; move it (of a "
            "trained model, the run folder) to a path without one."
        )
    thinking = "enable_thinking=False" if settings.model in _LOCAL_MODELS else None  # backends differ in their default
    model_args = ",".join(filter(None, [f"pretrained={model}", thinking, settings.model_args]))
    command = [sys.executable, "-m", "lm_eval", "run", "--model", settings.model, "--model_args", model_args]
    if settings.model not in _LOCAL_MODELS:
        # lm-eval sends servers one fixed seed, with which all samples of a question would be the same.
        command += ["--gen_kwargs", json.dumps({"seed": None, **settings.options})]
    return command


def evaluate(commands: list[ArmCommand], say: Callable[[str], None]) -> None:
    """Run each command whose result is not there yet; lm-eval's own output goes to the terminal.

    A result counts as there when its `arm.json`, written last, holds this very command and these very models.

    Raises:
        RuntimeError: lm-eval failed.
    """
    for arm in commands:
        stamp = _stamp(arm)
        marker = arm.folder / "arm.json"
        if marker.is_file() and _is_of(stamp, marker):
            say(f"arm {arm.arm}: done before, skipped")
            continue
        say(f"arm {arm.arm}: {arm.text}")
        if arm.folder.exists():
            shutil.rmtree(arm.folder)
        environment = {"TOKENIZERS_PARALLELISM": "true", **os.environ}
        status = _run(_asking_one_judge(arm.command, environment), environment)
        if status != 0:
            raise RuntimeError(f"arm {arm.arm}: lm_eval ended with status {status}; its own message stands above")
        _check_answers(arm)
        write_json(marker, {**stamp, "tokens": _count_tokens(arm)})


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a command that ends with this process, even where this one is killed, and return its exit status."""
    # An lm_eval left behind would hold the GPU, and write its results among those of the next call.
    process = ServerProcess(command, environment, None)
    try:
        return process.wait()
    finally:
        process.stop(_SECONDS_TO_END)


def _asking_one_judge(command: list[str], environment: dict[str, str]) -> list[str]:
    """Return a command that asks a local judge of this process, which all arms share, instead of starting its own.

    Args:
        environment: of the command; gets the judge's key.
    """
    metadata = json.loads(_option(command, "--metadata") or "{}")
    if metadata.get("judge", {}).get("kind") != "vllm":
        return command
    data = metadata.get("data")
    _, questions = load(_benchmark(command), Path(data) if data else None)
    if not any(question.options is None for question in questions):
        return command
    metadata["judge"], environment[API_KEY_VARIABLE] = serve(metadata["judge"])
    place = command.index("--metadata") + 1
    return [*command[:place], json.dumps(metadata), *command[place + 1 :]]


def outdated(commands: list[ArmCommand]) -> list[str]:
    """Return the arms whose results are there, but of other settings, models, data or tasks: these run again."""
    done = [(arm, arm.folder / "arm.json") for arm in commands]
    return [arm.arm for arm, marker in done if marker.is_file() and not _is_of(_stamp(arm), marker)]


def _stamp(arm: ArmCommand) -> dict[str, str]:
    return {"arm": arm.arm, "command": arm.text, "inputs": _inputs_hash(arm)}


def _is_of(stamp: dict[str, str], marker: Path) -> bool:
    return bool(stamp.items() <= read_json(marker, "smt evaluate").items())


def _check_answers(arm: ArmCommand) -> None:
    """Refuse what a server did not answer, which lm-eval would score as wrong, and samples that are all the same."""
    files = samples_files(arm.folder)
    if _option(arm.command, "--model") in _LOCAL_MODELS:
        return
    empty, all_alike = 0, True
    for path in files:
        for _, sample in read_jsonl(path):
            texts = sample["resps"][0]
            empty += sum(not text for text in texts)
            all_alike = all_alike and len(texts) > 1 and len(set(texts)) == 1
    if empty:
        raise RuntimeError(
            f"arm {arm.arm}: {empty} answers came back empty, which is no wrong answer but none; raise max_gen_toks, "
            "turn the server's thinking mode off, or see its log"
        )
    if all_alike:
        raise RuntimeError(
            f"arm {arm.arm}: all samples of each question are the same; its server fixes a seed or ignores temperature"
        )


def _count_tokens(arm: ArmCommand) -> dict[str, int] | None:
    """Count `questions` and `samples` of an arm, and by the model's tokenizer the tokens of all `prompts` (each once,
    however many samples) and of all `answers`; and the prompts `cut`, since the model's context is too short for them.

    None where the model is a server's, and --model_args names no `tokenizer` for it.
    """
    arguments = dict(entry.split("=", 1) for entry in _option(arm.command, "--model_args").split(",") if "=" in entry)
    local = _option(arm.command, "--model") in _LOCAL_MODELS
    name = arguments.get("tokenizer") or (arguments["pretrained"] if local else None)
    if name is None:
        return None
    try:
        transformers = require("transformers", "eval")
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError):
        return None
    context = arguments.get("max_length") or arguments.get("max_model_len")
    if context is None and local:
        with suppress(OSError, ValueError, KeyError):
            text_config = transformers.AutoConfig.from_pretrained(name).get_text_config()
            context = getattr(text_config, "max_position_embeddings", None)
    counts = {"questions": 0, "samples": 0, "prompts": 0, "answers": 0, "cut": 0}
    for path in samples_files(arm.folder):
        for _, sample in read_jsonl(path):
            asked = next(iter(sample["arguments"].values()))
            prompt, options = asked["arg_0"], asked.get("arg_1")
            texts = [text for texts in sample["resps"] for text in texts if isinstance(text, str)]
            # The prompt is in the chat template already.
            lengths = [len(ids) for ids in tokenizer([prompt, *texts], add_special_tokens=False)["input_ids"]]
            counts["questions"] += 1
            counts["samples"] += len(texts)
            counts["prompts"] += lengths[0]
            counts["answers"] += sum(lengths[1:])
            # lm-eval leaves room for the longest answer, and cuts the prompt's beginning off.
            room = options.get("max_gen_toks", 0) if isinstance(options, dict) else 0
            counts["cut"] += context is not None and lengths[0] + room > int(context)
    return counts


def _inputs_hash(arm: ArmCommand) -> str:
    """Hash what an arm's result depends on: the model's and the benchmark's files by name, size and time, the
    tasks, their scoring and its prompts by content.
    """
    command = arm.command
    model = Path(_option(command, "--model_args").split(",")[0].removeprefix("pretrained="))
    folders = [model]
    metadata = json.loads(_option(command, "--metadata") or "{}")
    if named := metadata.get("data") or os.environ.get(f"SMT_{_benchmark(command).upper()}_DIR"):
        data = Path(named)
        # A corpus may be a file with its questions beside it, and a benchmark's folder a clone with `data` in it.
        folders += [data if data.is_dir() else data.parent, data / "data"]
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            # A model's card, which `smt card` makes of its results, and a log change no answer.
            if file.is_file() and not (folder == model and file.suffix in (".md", ".log")):
                state = file.stat()
                digest.update(orjson.dumps([str(file), state.st_size, state.st_mtime_ns]))
    for file in _task_files(arm):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _task_files(arm: ArmCommand) -> list[Path]:
    """The task files that a command names, and, where they are ours, the code and the prompts behind them."""
    named = _option(arm.command, "--include_path")
    run = arm.folder.parent.parent
    # A folder of one's own tasks may hold the run, too.
    below = [file for file in Path(named).rglob("*") if not file.is_relative_to(run)] if named else []
    tasks = [file for file in below if file.suffix in (".yaml", ".py") and file.is_file()]
    if named != str(asset_dir("lm_eval_tasks")):
        return sorted(tasks)
    prompts = [asset_dir("prompts") / name for name in ("judge/verdict.jinja", "rerank/order.jinja")]
    return [*sorted(tasks), *prompts, *(PACKAGE / f"{name}.py" for name in _BEHIND_TASKS)]


def _benchmark(command: list[str]) -> str:
    return _option(command, "--tasks").split("_smt")[0]


def _option(command: list[str], name: str) -> str:
    """The value of a command's option; empty where it is not given."""
    return command[command.index(name) + 1] if name in command else ""
