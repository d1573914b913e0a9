"""The link to lm-eval: what our task files call, and how plain `lm_eval --tasks quality_smt` finds them."""

import math
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from smt_plugin.assets import asset_dir
from smt_plugin.benchmarks.find import held_out, load
from smt_plugin.benchmarks.official import Data
from smt_plugin.control_tokens import defuse
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.context_window import fit, task_file, window_of
from smt_plugin.evaluation.metadata import check_keys, command_line, data_folder
from smt_plugin.evaluation.scoring import process_results
from smt_plugin.files import write_text
from smt_plugin.question import Question, spread

if TYPE_CHECKING:
    import datasets

__all__ = ["dataset", "install", "process_results", "uninstall"]

# Bytes of a pointer; of a group's the longest has 200. What a kill leaves of one is known by its name.
_LONGEST_POINTER = 10_000
_PARTIAL = re.compile(r"\w+_smt\w*\.yaml\.[0-9a-f]+\.partial")
_GROUP_LINE = re.compile(r"#.*|group: \w+_smt\w*|task:|  - \w+_smt\w*|metadata:|  version: [\d.]+|")
_COLUMNS = "question_id doc_id identity question options answer gold judge passages cut meta".split()


def dataset(
    benchmark: str,
    context: str,
    data: str | dict[str, str] | None = None,
    retrieval: str | dict[str, Any] | None = None,
    judge: dict[str, Any] | None = None,
    split: str | None = None,
    cut_documents: bool = False,
    free_form: bool = True,
    read_by_judge: bool = False,
    **arguments: Any,
) -> "dict[str, datasets.Dataset]":
    """lm-eval's `custom_dataset` hook: the questions of a task, each with the passages that go before it.

    They come in an order in which the first N are spread over the documents, since lm_eval's --limit takes these.

    Args:
        benchmark: its name; set in the task file.
        context: `none` (closed-book), `rag` (retrieved chunks) or `full` (the source documents); set there.
        data: folder with the benchmark's files, from `--metadata '{"data": "..."}'`, or one for each benchmark.
        retrieval: for `rag`, from `--metadata`: a retrieval file, or settings that replace the benchmark's own, with
            which, as without them, a file is built once and kept.
        judge: endpoint or kind, model and so on of the model that judges free-form answers, from `--metadata`.
        read_by_judge: from `--metadata`: whether that model also reads the answers of which code reads no option.
        split: from `--metadata`: `tuning` asks only about the documents that retrieval is tuned on, see tune.py.
        cut_documents: from `--metadata`: whether documents that are too long for the model are cut; else they are an
            error, where length and tokenizer of the model's context are known.
        free_form: whether the task can ask questions without options; set under `metadata` of a shared task file.
        arguments: what else lm-eval passes: the model's arguments and the task's version.

    Raises:
        BadInput: no data, data that cannot be read, a retrieval file that does not fit it, free-form questions without
            a judge that answers, prompts that are too long for the model, or a key of `--metadata` that is none.
    """
    from datasets import Dataset, Features, Sequence, Value

    told = command_line()
    ours = [
        name for name in signature(dataset).parameters if name not in ("benchmark", "context", "free_form", "arguments")
    ]
    check_keys(ours, arguments, told)
    rows = question_rows(benchmark, context, data_folder(benchmark, data), retrieval, split, free_form)
    if window := window_of(arguments, told):
        limit = told.get("limit") or len(rows)
        asked = rows[: math.ceil(limit if limit >= 1 else limit * len(rows))]
        fit(asked, task_file(benchmark, context, free_form), window, cut_documents)
    to_judge = [row for row in rows if read_by_judge or not row["options"]]
    judged = _checked_judge(judge) if to_judge else ""
    for row in to_judge:
        row["judge"] = judged
    text, texts, number = Value("string"), Sequence(Value("string")), Value("int64")
    columns = dict.fromkeys(_COLUMNS, text) | {"answer": number, "options": texts, "passages": texts, "cut": number}
    return {"test": Dataset.from_list(rows, features=Features(columns))}


def question_rows(
    benchmark: str,
    context: str,
    data: Path | None,
    retrieval: str | dict[str, Any] | None = None,
    split: str | None = None,
    free_form: bool = True,
) -> list[dict[str, Any]]:
    """The rows of `dataset`, without a judge, and with the passages whole."""
    documents, questions = load(benchmark, data)
    by_id = {document.id: document for document in documents}
    if not free_form and (without := [q.question_id for q in questions if q.options is None]):
        raise BadInput(f"question {without[0]!r} has no options, but this task compares options; use one without _ll.")
    if split not in (None, "tuning"):
        raise BadInput(f"unknown split {split!r} in --metadata; `tuning` is the only one.")
    asked_about = set(held_out(documents)) if split else set(by_id)
    # Only for these are chunks retrieved.
    asked = [question for question in questions if question.doc_id in asked_about]
    passages = _passages(benchmark, context, (documents, asked), retrieval)
    return [
        _row(question, by_id[question.doc_id].identity, passages(question))
        for question in spread(questions)
        if question.doc_id in asked_about
    ]


def _passages(
    benchmark: str, context: str, data: Data, retrieval: str | dict[str, Any] | None
) -> Callable[[Question], list[str]]:
    """The function that gives the passages of a question; each begins with the identity of its document.

    No text may end the user's turn, as none may in training.
    """
    documents, questions = data
    if context == "rag":
        from smt_plugin.config import ORDERS, retrieval_settings
        from smt_plugin.retrieval.retrieve import cached_retrieval, order_of, read_retrieval

        if isinstance(retrieval, str):
            path = Path(retrieval)
            order = order_of(path)
        else:
            settings = retrieval_settings(benchmark, retrieval)
            path, order = cached_retrieval(benchmark, documents, questions, settings), settings.order
        chunks = read_retrieval(path, questions)
        step = 1 if order == ORDERS[0] else -1
        return lambda question: [defuse(chunk.text) for chunk in chunks[question.question_id][::step]]
    if context == "full":
        full = {document.id: defuse(f"{document.identity}\n{document.text}") for document in documents}
        return lambda question: [full[doc_id] for doc_id in question.evidence]
    if context != "none":
        raise BadInput(f"unknown context {context!r} in a task file; choose one of: none, rag, full.")
    return lambda question: []


def _checked_judge(settings: dict[str, Any] | None) -> str:
    """The judge's settings as JSON, once it is known to be there: a judge missing at the end costs all answers."""
    if settings is None:
        raise BadInput(
            "free-form questions, and `read_by_judge`, need a judge, and none is set; give one in the run file under "
            "evaluate.judge, or to lm_eval with"
            ' --metadata \'{"judge": {"endpoint": "http://127.0.0.1:8000/v1", "model": "..."}}\', or '
            'with {"judge": {"kind": "vllm"}} to start Qwen3-14B here.'
        )
    from smt_plugin.evaluation.judge import check_judge, judge_settings

    check_judge(judge_settings(settings))
    return orjson.dumps(settings).decode()


def _row(question: Question, identity: str, passages: list[str]) -> dict[str, Any]:
    free = question.options is None
    return {
        "question_id": question.question_id,
        "doc_id": question.doc_id,
        "identity": defuse(identity),
        "question": defuse(question.question),
        "options": [defuse(option) for option in question.options or []],
        "answer": -1 if free else question.answer,
        "gold": question.gold,
        "judge": "",
        "passages": passages,
        "cut": 0,
        "meta": orjson.dumps(question.meta).decode(),
    }


def task_files() -> list[Path]:
    """Our files of tasks and groups, in a stable order; files whose name begins with `_` are parts of others."""
    root = asset_dir("lm_eval_tasks")
    return sorted(path for path in root.glob("*/*.yaml") if not path.name.startswith("_"))


def install() -> list[Path]:
    """Make the bare `lm_eval --tasks quality_smt` work, and return the files written.

    lm-eval knows no way to announce tasks from outside, but it reads every YAML below its own `tasks`
    folder. So one folder of ours goes there, `smt_plugin`, with a two-line file a task that points at
    the task file in this package. Nothing of lm-eval's is touched; `uninstall` removes the folder.
    Pointers of an earlier place of this package are replaced.

    Raises:
        BadInput: lm-eval is not installed, its folder cannot be written, or it holds a folder
            `smt_plugin` with other things in it.
    """
    folder = _pointer_folder()
    wanted = {folder / path.name: _pointer(path) for path in task_files()}
    try:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        for path, text in wanted.items():
            write_text(path, text)
            # As all of the package around it, for whoever may use that.
            path.chmod(0o644)
        for path in set(_ours(folder)) - wanted.keys():
            path.unlink()
    except OSError as error:
        raise BadInput(
            f"cannot write into {folder} ({error.strerror}); leave it and give lm_eval "
            f"--include_path {asset_dir('lm_eval_tasks')} instead."
        ) from None
    return list(wanted)


def uninstall() -> list[Path]:
    """Take out what `install` wrote, and return the files removed (none if nothing was there).

    Raises:
        BadInput: as `install`.
    """
    folder = _pointer_folder()
    files = _ours(folder)
    try:
        for path in files:
            path.unlink()
        if folder.is_dir():
            folder.rmdir()
    except OSError as error:
        raise BadInput(f"cannot remove {folder} ({error.strerror}); remove that folder by hand.") from None
    return [path for path in files if path.suffix == ".yaml"]


def _ours(folder: Path) -> list[Path]:
    """The pointers in their folder, known by what stands in them, and what a kill left of one."""
    return sorted(path for path in folder.glob("*") if path.is_file() and not path.is_symlink() and _is_ours(path))


def _is_ours(path: Path) -> bool:
    if path.suffix == ".partial":
        return bool(_PARTIAL.fullmatch(path.name))
    if path.suffix != ".yaml" or path.stat().st_size > _LONGEST_POINTER:
        return False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pointer = len(lines) == 2 and lines[0].startswith('include: "') and lines[1] == f"task: {path.stem}"
    # A group names tasks of ours alone; those of earlier versions had the same form.
    group = f"group: {path.stem}" in lines and all(_GROUP_LINE.fullmatch(line) for line in lines)
    return path.stem.partition("_smt")[1] != "" and (pointer or group)


def _pointer_folder() -> Path:
    """The folder of our pointers in the installed lm-eval, whether it is there or not, with nothing else in it."""
    spec = find_spec("lm_eval")  # importing lm_eval itself takes seconds
    if spec is None or spec.origin is None:
        raise BadInput("lm_eval is not installed; install it with: pip install 'smt-plugin[eval]'")
    folder = Path(spec.origin).parent / "tasks" / "smt_plugin"
    if folder.is_symlink():
        raise BadInput(f"{folder} is a link, and what it leads to is not ours; remove the link.")
    others = {path.name for path in folder.glob("*")} - {path.name for path in _ours(folder)} - {"__pycache__"}
    if foreign := ", ".join(sorted(others)):
        raise BadInput(f"{folder} holds files that are not ours ({foreign}); move them away.")
    return folder


def _pointer(task_file: Path) -> str:
    text = task_file.read_text(encoding="utf-8")
    if "\ngroup: " in text:  # names tasks alone, no files
        return text
    # JSON strings are YAML strings, whatever signs the path holds.
    return f"include: {orjson.dumps(os.fspath(task_file)).decode()}\ntask: {task_file.stem}\n"
