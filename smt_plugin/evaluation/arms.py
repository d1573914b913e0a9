"""What an arm is: one model that lm-eval asks, the `lm_eval` command for it, and the stamp that tells its results."""

import ast
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import orjson
from msgspec import Meta

from smt_plugin.assets import PACKAGE, asset_dir
from smt_plugin.benchmarks.find import load
from smt_plugin.config import EvaluateSection, retrieval_settings
from smt_plugin.errors import BadInput, require
from smt_plugin.files import as_row, content_hash, file_hash, read_bytes, read_json_if_there
from smt_plugin.question import questions_file
from smt_plugin.training.merged import model_file
from smt_plugin.training.trainings import Training

_Count = Annotated[int, Meta(ge=0)]


class TokenCounts(TypedDict):
    """What `count_tokens` counts; earlier versions cut no documents."""

    questions: _Count
    samples: _Count
    prompts: _Count
    answers: _Count
    cut: NotRequired[_Count]
    cut_documents: NotRequired[_Count]


class Marker(TypedDict, total=False):
    """`arm.json`, which `smt evaluate` writes when an arm is done: its stamp, and facts about its answers."""

    arm: str
    command: str
    model: str
    inputs: str
    tokens: TokenCounts | None
    empty: _Count
    retrieval: dict[str, Any] | None


def read_marker(folder: Path) -> Marker:
    """Return what `smt evaluate` wrote when the arm in a folder was done; empty where it is not.

    Raises:
        BadInput: it is broken.
    """
    return read_json_if_there(marker_path(folder), Marker, "smt evaluate") or {}


# The kinds of arms: whether the trained model answers, and the ending of the task's name.
_SAMPLED = {
    "base": (False, ""),
    "base_rag": (False, "_rag"),
    "base_full": (False, "_full"),
    "trained": (True, ""),
    "trained_rag": (True, "_rag"),
    "trained_full": (True, "_full"),
}
# Each also without an answer: by the likelihood of the options.
LIKELIHOOD = "_ll"
ARMS = _SAMPLED | {
    f"{name}{LIKELIHOOD}": (is_trained, f"{ending}{LIKELIHOOD}") for name, (is_trained, ending) in _SAMPLED.items()
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One model that lm-eval asks: tasks of ours, or lm-eval's own before and after training (retention.py).

    Attributes:
        name: as in the report, e.g. `base_rag` or `trained-10M`.
        model: a name or a folder.
        settings: which of lm-eval's models it is, with its arguments and options; the batch size; the judge.
        tasks: names, with commas between them.
        task_folder: of the task files that lm-eval does not have; None where it has them all.
        limit: questions a task; None for all.
        folder: where the results go.
        metadata: what our tasks are told.

    Raises:
        BadInput: a comma in the model's name or path.
    """

    name: str
    model: str
    settings: EvaluateSection
    tasks: str
    task_folder: Path | None
    limit: int | None
    folder: Path
    seed: int
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "," in self.model:
            raise BadInput(
                f"the model {self.model}: lm_eval takes a comma in its name or path for the end of it; move it (of a "
                "trained model, the run folder) to a path without one."
            )

    @property
    def is_local(self) -> bool:
        """Whether lm-eval runs the model itself; else it asks a server."""
        return self.settings.model in ("hf", "vllm")

    @property
    def is_ours(self) -> bool:
        """Whether the tasks are those of this package."""
        return self.task_folder == asset_dir("lm_eval_tasks")

    def reads(self, context: str) -> bool:
        """Whether this is an arm of ours whose task puts that before the question: `rag` or `full`."""
        return self.is_ours and self.tasks.removesuffix(LIKELIHOOD).endswith(f"_{context}")

    @property
    def model_args(self) -> str:
        """lm-eval's `--model_args`, with thinking off."""
        thinking = "enable_thinking=False" if self.is_local else None  # backends differ in their default
        return ",".join(filter(None, [f"pretrained={self.model}", thinking, self.settings.model_args]))

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The same, as lm-eval's models get them; of numbers those that are whole."""
        entries = (entry.split("=", 1) for entry in self.model_args.split(",") if "=" in entry)
        truth = {"true": True, "false": False}
        return {name: int(value) if value.isdecimal() else truth.get(value.lower(), value) for name, value in entries}

    @property
    def has_chat_template(self) -> bool:
        """Whether questions are asked in a chat template: of a local model, if its tokenizer has one."""
        return not self.is_local or _has_chat_template(str(self.model_arguments.get("tokenizer", self.model)))

    @property
    def command(self) -> list[str]:
        """The `lm_eval` command, with thinking off."""
        settings = self.settings
        command = [sys.executable, "-m", "lm_eval", "run", "--model", settings.model, "--model_args", self.model_args]
        if not self.is_local:
            # lm-eval sends servers one fixed seed, with which all samples of a question would be the same.
            command += ["--gen_kwargs", json.dumps({"seed": None, **settings.options})]
        include = [] if self.task_folder is None else ["--include_path", str(self.task_folder)]
        template = ["--apply_chat_template"] if self.has_chat_template else []
        # In this order, since results are known again by the command's text.
        command += ["--tasks", self.tasks, *(include + template if self.is_ours else template + include)]
        command += ["--batch_size", settings.batch_size, "--seed", str(self.seed)]
        if self.metadata:
            command += ["--metadata", json.dumps(self.metadata)]
        if self.limit is not None:
            command += ["--limit", str(self.limit)]
        return [*command, "--log_samples", "--output_path", str(self.folder)]

    @property
    def text(self) -> str:
        """The command as one would type it."""
        return shlex.join(["lm_eval", *self.command[3:]])

    def stamp(self) -> dict[str, str]:
        """What results of this very arm hold in their `arm.json`: `arm`, `command`, and hashes of `model` and `inputs`.

        Places of folders are no part of it, so that a run that was moved or copied is known again.
        """
        command = self.text
        for place in (Path(self.model), self.folder, self.task_folder, _data_of(self)):
            if place and place.is_absolute():
                command = command.replace(str(place), place.name)
        return {"arm": self.name, "command": command, "model": model_hash(self.model), "inputs": _inputs_hash(self)}

    def is_done(self) -> bool:
        """Whether there are results, and of these very settings, models, data and tasks."""
        marker = read_marker(self.folder)
        return bool(marker) and self.stamp().items() <= marker.items()


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
        own = [training for training in trainings if budget in ("", training.budget)]
        if name in ARMS and not ARMS[name][0]:
            arms[name] = None
        elif kind in ARMS and ARMS[kind][0] and own:
            arms |= {"-".join(filter(None, (kind, training.budget))): training for training in own}
        else:
            budgets = ", ".join(training.budget for training in trainings if training.budget)
            more = f", a trained one of one budget as in trained-{trainings[0].budget} ({budgets})" if budgets else ""
            raise BadInput(f"{place}: unknown arm {name!r}; use some of {', '.join(ARMS)}{more}.")
    return arms


def split_arm(arm: str) -> tuple[str, str]:
    """Return the kind of an arm, a key of ARMS, and the budget of its training, empty where the run has only one."""
    kind, _, budget = arm.partition("-")
    return kind, budget


def is_likelihood(arm: str) -> bool:
    """Whether an arm is scored by the likelihood of the options, not by answers."""
    return split_arm(arm)[0].endswith(LIKELIHOOD)


def ready_arms(
    run: Path,
    settings: EvaluateSection,
    base_model: str,
    trainings: Sequence[Training],
    seed: int = 0,
    split: str | None = None,
    check: bool = True,
) -> tuple[list[Arm], list[str]]:
    """Return the arms that the settings name, and a sentence for each whose model is not there yet.

    Args:
        split: `tuning` asks only about the documents that retrieval is tuned on.
        check: find out first that lm-eval is there, that questions and settings can be read, and that there is a judge
            where one is needed.

    Raises:
        BadInput: an unknown arm or benchmark, an arm for which a benchmark has no task, not one arm whose model is
            there, a model whose path lm-eval cannot be told, questions that cannot be read, or free-form ones without a
            judge or for an arm that compares options.
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
        if free is not None and (compared := [arm for arm in settings.arms if is_likelihood(arm)]):
            raise BadInput(
                f"question {free!r} has no options, and the arm {compared[0]} compares the likelihood of options; take "
                f"the arms that end in {LIKELIHOOD} out of evaluate.arms."
            )
        retrieval_settings(settings.benchmark, settings.retrieval)
    arms, missing = [], []
    for name, training in arms_of(settings.arms, trainings).items():
        if training is not None and (sentence := training.unready()):
            missing.append(f"arm {name}: {sentence}")
            continue
        ending = ARMS[split_arm(name)[0]][1]
        tasks = f"{settings.benchmark}_smt{ending}"
        if not (asset_dir("lm_eval_tasks") / settings.benchmark / f"{tasks}.yaml").is_file():
            raise BadInput(f"evaluate.arms: {settings.benchmark} has no task for the arm {name}; take it out.")
        context = ending.removesuffix(LIKELIHOOD)
        metadata = {
            "data": settings.data and str(settings.data),
            "retrieval": settings.retrieval if context == "_rag" else None,
            "split": split,
            "judge": settings.judge and settings.judge.values,
            "read_by_judge": settings.read_by_judge,
            "cut_documents": settings.cut_documents and context == "_full",
        }
        arm = Arm(
            name,
            model=base_model if training is None else str(training.model),
            settings=settings,
            tasks=tasks,
            task_folder=asset_dir("lm_eval_tasks"),
            limit=settings.limit,
            folder=run / "results" / name,
            seed=seed,
            metadata={key: value for key, value in metadata.items() if value},
        )
        arms.append(arm)
    if not arms:
        raise BadInput(f"{missing[0]}.")
    return arms, missing


def outdated(arms: Iterable[Arm]) -> list[str]:
    """Return the arms whose results are there, but of other settings, models, data or tasks: these run again."""
    return [arm.name for arm in arms if marker_path(arm.folder).is_file() and not arm.is_done()]


def marker_path(folder: Path) -> Path:
    """The file that `smt evaluate` writes into an arm's folder when the arm is done."""
    return folder / "arm.json"


def model_hash(model: str | Path) -> str:
    """Hash the files of a model's folder; empty for one by name."""
    folder = Path(model)
    # A model's card, which `smt card` makes of its results, be it half written, and a log change no answer.
    return _files_hash(file for file in _files_in(folder) if file.suffix not in (".md", ".log", ".partial"))


def _inputs_hash(arm: Arm) -> str:
    """Hash what an arm's result depends on besides the model: the benchmark's files, the tasks, their scoring and
    its prompts.
    """
    files = _task_files(arm)
    if (data := _data_of(arm)) and data.is_dir():
        # A benchmark's folder may be a clone with `data` in it.
        files += [*_files_in(data), *_files_in(data / "data")]
    elif data:
        # A corpus may be a file with its questions beside it.
        files += [file for file in (data, questions_file(data)) if file.is_file()]
    return _files_hash(files)


def _data_of(arm: Arm) -> Path | None:
    """The folder or file of the benchmark's data that was named."""
    named = arm.settings.data or os.environ.get(f"SMT_{arm.settings.benchmark.upper()}_DIR")
    return Path(named) if named and arm.is_ours else None


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []


def _files_hash(files: Iterable[Path]) -> str:
    """Hash files by name and content; empty without any."""
    found = [[file.name, file_hash(file)] for file in files]
    return content_hash(found)[:16] if found else ""


def _task_files(arm: Arm) -> list[Path]:
    """The task files that lm-eval is given, and, where they are ours, the code and the prompts behind them."""
    run = arm.folder.parent.parent
    # A folder of one's own tasks may hold the run, too.
    below = [file for file in arm.task_folder.rglob("*") if not file.is_relative_to(run)] if arm.task_folder else []
    tasks = sorted(file for file in below if file.suffix in (".yaml", ".py") and file.is_file())
    if not arm.is_ours:
        return tasks
    prompts = sorted(file for step in ("judge", "rerank") for file in (asset_dir("prompts") / step).glob("*.jinja"))
    return [*tasks, *prompts, *code_behind_tasks()]


@cache
def _has_chat_template(tokenizer: str) -> bool:
    """Whether a folder's tokenizer, or one fetched from the hub, has a chat template; True if it is neither."""
    if (template := model_file(tokenizer, "chat_template.jinja")) is not None:
        return bool(template.read_bytes().strip())
    settings = model_file(tokenizer, "tokenizer_config.json")
    if settings is None:
        return True
    try:
        return bool(as_row(orjson.loads(read_bytes(settings)), dict[str, Any], str(settings)).get("chat_template"))
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{settings}: not valid JSON ({error}); fetch the model anew.") from None


@cache
def code_behind_tasks() -> list[Path]:
    """The files of this package that our tasks import, and those that these import in turn, be it in a function."""
    found = set((PACKAGE / "benchmarks").glob("*.py"))  # imported by the name of the benchmark
    waiting = [*asset_dir("lm_eval_tasks").rglob("*.py"), *found]
    while waiting:
        names: list[str] = []
        for node in ast.walk(ast.parse(waiting.pop().read_bytes())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
        for package, *parts in (name.split(".") for name in names):
            # Python runs the packages above a module, too; the last part may be none, but something in a module.
            places = [PACKAGE.joinpath(*parts[:count]) for count in range(len(parts) + 1)]
            files = {file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")}
            new = {file for file in files if package == PACKAGE.name and file.is_file()} - found
            found |= new
            waiting += new
    return sorted(found)
