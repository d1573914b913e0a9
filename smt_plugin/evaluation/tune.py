"""Tune retrieval on a held-out split: chunk size, number of chunks and their order, by the base model's accuracy.

The documents it was tuned on leave the headline of every arm (report.py), or RAG would be measured on what it was
fitted to.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from smt_plugin.benchmarks.find import held_out, load
from smt_plugin.config import MINILM, ORDERS, EvaluateSection, RetrievalSettings, retrieval_settings
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arm_results import read_arm
from smt_plugin.evaluation.arms import ready_arms
from smt_plugin.evaluation.evaluate import evaluate
from smt_plugin.files import read_json, write_json
from smt_plugin.question import spread
from smt_plugin.retrieval.retrieve import cached_retrieval, page_recalls, read_retrieval, recall

BY = ("accuracy", "recall")


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried, each with each; an empty one is filled in by `default_grid`, or left as it is set."""

    chunk_tokens: Sequence[int] = ()
    top_k: Sequence[int] = ()
    order: Sequence[str] = ()


def default_grid(settings: RetrievalSettings, by: str) -> Grid:
    """Chunk sizes that the embedding model sees whole; half, all and twice the set number; both orders.

    Recall only grows with the number of chunks and knows no order, so by recall these stay as they are set.
    """
    sizes = (100, 200) if settings.embedding == MINILM else (128, 256, 512)
    if by == "recall":
        return Grid(sizes, (settings.top_k,), (settings.order,))
    return Grid(sizes, sorted({max(1, settings.top_k // 2), settings.top_k, settings.top_k * 2}), ORDERS)


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the grid; recall is that of evidence pages where these are known, else of documents, at `top_k`."""

    chunk_tokens: int
    top_k: int
    order: str
    recall: float
    accuracy: float | None

    @property
    def text(self) -> str:
        """The trial as a line."""
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.1%}"
        chunks = f"{self.top_k} chunks of {self.chunk_tokens} tokens, {self.order}"
        return f"{chunks}: recall {self.recall:.1%}{accuracy}"


def tune(
    run: Path,
    section: EvaluateSection,
    base_model: str,
    by: str = "accuracy",
    grid: Grid | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Try every point of the grid on the held-out documents' questions, and write `<run>/tune.json`.

    Accuracy is that of base + RAG, one lm_eval run a point, kept below `<run>/tune/`; a call that was stopped goes on
    with the points that are missing. Ties go to what is set, then to fewer tokens before the question.

    Returns:
        What was written: `by`, `chosen` (settings), `held_out` (document ids), `questions` (asked), `tried`.

    Raises:
        BadInput: settings that cannot work, no question about the held-out documents, or fewer than two documents
            left for the report.
    """
    if by not in BY:
        raise BadInput(f"unknown way to tune {by!r}; choose one of {', '.join(BY)}.")
    documents, questions = load(section.benchmark, section.data)
    ids = held_out(documents)
    in_order = spread(questions)  # as lm_eval is given them
    asked = [question for question in in_order if question.doc_id in set(ids)]
    if not asked:
        raise BadInput(f"no question is about the held-out documents ({', '.join(ids[:3])}); nothing can be tuned.")
    if by == "accuracy":
        asked = asked[: section.limit]
    left = {question.doc_id for question in in_order[: section.limit]} - set(ids)
    if len(left) < 2:
        first = f" among the {section.limit} of evaluate.limit" if section.limit else ""
        fix = "raise or remove evaluate.limit, or " if section.limit else ""
        raise BadInput(
            f"tuning holds out {len(ids)} document(s) ({', '.join(ids[:3])}), and of the others {len(left)} would be "
            f"left with questions{first}, but a report needs two; {fix}add questions about others."
        )
    settings = retrieval_settings(section.benchmark, section.retrieval)
    defaults = default_grid(settings, by)
    grid = grid or Grid()
    points = product(
        grid.chunk_tokens or defaults.chunk_tokens, grid.top_k or defaults.top_k, grid.order or defaults.order
    )
    trials = []
    for chunk_tokens, top_k, order in points:
        point = _point(chunk_tokens, top_k, order, settings)
        if chunk_tokens <= settings.overlap_tokens:
            raise BadInput(f"chunk_tokens {chunk_tokens} must be above overlap_tokens ({settings.overlap_tokens}).")
        path = cached_retrieval(section.benchmark, documents, questions, settings.changed(point))
        chunks = read_retrieval(path, asked)
        found = page_recalls(asked, chunks, top_k).get(f"page_recall@{top_k}", recall(asked, chunks, top_k))
        accuracy = None
        if by == "accuracy":
            trial_section = section.model_copy(update={"arms": ["base_rag"], "retrieval": section.retrieval | point})
            folder = run / "tune" / f"{chunk_tokens}-{top_k}-{order}"
            arms, _ = ready_arms(folder, trial_section, base_model, [], seed, split="tuning")
            evaluate(arms, say)
            rows = read_arm(arms[0].folder) or []
            accuracy = sum(row["acc"] for row in rows) / len(rows)
        trials.append(Trial(chunk_tokens, top_k, order, found, accuracy))
        say(trials[-1].text)
    best = max(
        trials,
        key=lambda trial: (
            trial.accuracy if trial.accuracy is not None else trial.recall,
            (trial.chunk_tokens, trial.top_k, trial.order) == (settings.chunk_tokens, settings.top_k, settings.order),
            -trial.chunk_tokens * trial.top_k,
        ),
    )
    result = {
        "by": by,
        "chosen": _point(best.chunk_tokens, best.top_k, best.order, settings),
        "held_out": ids,
        "questions": len(asked),
        "tried": [asdict(trial) for trial in trials],
    }
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "tune.json", result)
    return result


def _point(chunk_tokens: int, top_k: int, order: str, settings: RetrievalSettings) -> dict[str, Any]:
    """The settings of a point of the grid; more chunks than there are candidates need more candidates."""
    point = {"chunk_tokens": chunk_tokens, "top_k": top_k, "order": order}
    return point | ({"candidates": top_k} if top_k > settings.candidates else {})


def read_tuned(run: Path) -> dict[str, Any] | None:
    """What `tune` wrote for this run, or None."""
    path = run / "tune.json"
    return read_json(path, "smt tune", "by", "questions", "held_out", "chosen") if path.is_file() else None
