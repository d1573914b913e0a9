"""The link to lm-eval: what our task files call, and how plain `lm_eval --tasks quality_smt` finds them."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from smt_plugin.assets import asset_dir
from smt_plugin.benchmarks.find import held_out, load
from smt_plugin.benchmarks.official import Data
from smt_plugin.control_tokens import defuse
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.scoring import process_results
from smt_plugin.files import write_text
from smt_plugin.question import Question, spread

if TYPE_CHECKING:
    import datasets

__all__ = ["dataset", "install", "process_results", "uninstall"]

_COLUMNS = "question_id doc_id identity question options answer gold judge passages meta".split()


def dataset(
    benchmark: str,
    context: str,
    data: str | None = None,
    retrieval: str | dict[str, Any] | None = None,
    judge: dict[str, Any] | None = None,
    split: str | None = None,
    free_form: bool = True,
    read_by_judge: bool = False,
    **_: Any,
) -> "dict[str, datasets.Dataset]":
    """lm-eval's `custom_dataset` hook: the questions of a task, each with the passages that go before it.

    Args:
        benchmark: its name; set in the task file.
        context: `none` (closed-book), `rag` (retrieved chunks) or `full` (the source documents); set there.
        data: folder with the benchmark's files, from `--metadata '{"data": "..."}'`.
        retrieval: for `rag`, from `--metadata`: a retrieval file, or settings that replace the benchmark's own, with
            which, as without them, a file is built once and kept.
        judge: endpoint or kind, model and so on of the model that judges free-form answers, from `--metadata`.
        read_by_judge: from `--metadata`: whether that model also reads the answers of which code reads no option.
        split: from `--metadata`: `tuning` asks only about the documents that retrieval is tuned on, see tune.py.
        free_form: whether the task can ask questions without options; set under `metadata` of a shared task file.

    Raises:
        BadInput: no data, data that cannot be read, a retrieval file that does not fit it, or free-form
            questions without a judge that answers.
    """
    from datasets import Dataset, Features, Sequence, Value

    documents, questions = load(benchmark, Path(data) if data else None)
    by_id = {document.id: document for document in documents}
    if not free_form and (without := [q.question_id for q in questions if q.options is None]):
        raise BadInput(f"question {without[0]!r} has no options, but this task compares options; use one without _ll.")
    needs_judge = read_by_judge or any(question.options is None for question in questions)
    judged = _checked_judge(judge) if needs_judge else ""
    passages = _passages(benchmark, context, (documents, questions), retrieval)
    if split not in (None, "tuning"):
        raise BadInput(f"unknown split {split!r} in --metadata; `tuning` is the only one.")
    asked_about = set(held_out(documents)) if split else set(by_id)
    rows = [
        _row(
            question,
            by_id[question.doc_id].identity,
            passages(question),
            judged if read_by_judge or question.options is None else "",
        )
        for question in spread(questions)  # lm_eval's --limit takes the first ones
        if question.doc_id in asked_about
    ]
    text, texts = Value("string"), Sequence(Value("string"))
    columns = dict.fromkeys(_COLUMNS, text) | {"answer": Value("int64"), "options": texts, "passages": texts}
    return {"test": Dataset.from_list(rows, features=Features(columns))}


def _passages(
    benchmark: str, context: str, data: Data, retrieval: str | dict[str, Any] | None
) -> Callable[[Question], list[str]]:
    """The function that gives the passages of a question; each begins with the identity of its document."""
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
        return lambda question: [chunk.text for chunk in chunks[question.question_id][::step]]
    if context == "full":
        full = {document.id: f"{document.identity}\n{document.text}" for document in documents}
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


def _row(question: Question, identity: str, passages: list[str], judge: str) -> dict[str, Any]:
    free = question.options is None
    # No text may end the user's turn, as none may in training.
    return {
        "question_id": question.question_id,
        "doc_id": question.doc_id,
        "identity": defuse(identity),
        "question": defuse(question.question),
        "options": [defuse(option) for option in question.options or []],
        "answer": -1 if free else question.answer,
        "gold": question.answer if question.options is None else question.options[int(question.answer)],
        "judge": judge,
        "passages": [defuse(passage) for passage in passages],
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
        for path, text in wanted.items():
            write_text(path, text)
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
    """The pointers in their folder, and what a kill left of one."""
    return sorted(path for path in folder.glob("*") if path.suffix in (".yaml", ".partial"))


def _pointer_folder() -> Path:
    """The folder of our pointers in the installed lm-eval, whether it is there or not, with nothing else in it."""
    spec = find_spec("lm_eval")  # importing lm_eval itself takes seconds
    if spec is None or spec.origin is None:
        raise BadInput("lm_eval is not installed; install it with: pip install 'smt-plugin[eval]'")
    folder = Path(spec.origin).parent / "tasks" / "smt_plugin"
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
