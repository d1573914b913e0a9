"""Tune retrieval on a held-out split: chunks, their number and order, reranker and depth, by the base model's accuracy.

The documents it was tuned on leave the headline of every arm (report.py), or RAG would be measured on what it was
fitted to.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from smt_plugin.benchmarks.find import held_out, load
from smt_plugin.config import MINILM, ORDERS, EvaluateSection, Order, RetrievalSettings, retrieval_settings
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arm_results import read_arm
from smt_plugin.evaluation.arms import ready_arms
from smt_plugin.evaluation.evaluate import evaluate
from smt_plugin.files import content_hash, locked, make_folder, read_json_if_there, write_json
from smt_plugin.question import Question, spread
from smt_plugin.retrieval.retrieve import cached_retrieval, read_proxy_places, read_retrieval, recalls

BY = ("accuracy", "recall")
_Some = Annotated[int, Meta(ge=1)]


class Chosen(TypedDict, total=False):
    """The settings of the retrieval that were chosen."""

    chunk_tokens: _Some
    top_k: _Some
    order: Order
    reranker: str
    candidates: _Some
    reranker_endpoint: str


class Tuned(TypedDict):
    """`tune.json`: by what was chosen, among what, and on which documents."""

    by: str
    chosen: Chosen
    held_out: list[str]
    questions: int
    tried: NotRequired[list[Any]]


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried; an empty one is filled in by `default_grid`, or left as it is set.

    First sizes, numbers and orders, each with each; then, with the best of these, rerankers ("" is none) and how many
    candidates they get, each with each. All at once would multiply the runs.
    """

    chunk_tokens: Sequence[int] = ()
    top_k: Sequence[int] = ()
    order: Sequence[str] = ()
    reranker: Sequence[str] = ()
    candidates: Sequence[int] = ()


def default_grid(settings: RetrievalSettings, by: str, base_model: str | None = None) -> Grid:
    """Chunk sizes that the embedding model sees whole; half, all and twice the set number; both orders; no reranker,
    and the one that is set, or else the base model; two and eight candidates for each chunk of the set number.

    Recall only grows with the number of chunks and knows no order, so by recall these stay as they are set. It asks no
    base model either.

    Args:
        base_model: None where it cannot be loaded here, but only asked at a server.
    """
    sizes = (100, 200) if settings.embedding == MINILM else (128, 256, 512)
    rerankers = tuple(dict.fromkeys(["", settings.reranker]))
    depths = (settings.top_k * 2, settings.top_k * 8)
    if by == "recall":
        return Grid(sizes, (settings.top_k,), (settings.order,), rerankers, depths)
    top_k = sorted({max(1, settings.top_k // 2), settings.top_k, settings.top_k * 2})
    if base_model and not settings.reranker:
        rerankers = (*rerankers, base_model)
    return Grid(sizes, top_k, ORDERS, rerankers, depths)


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the grid, and what it reached.

    Attributes:
        recall: at `top_k`, of what `recall_of` says: `pages` that are known to hold the answer, likely `passages` (a
            proxy) where none are, or `documents` where not even these are.
    """

    chunk_tokens: int
    top_k: int
    order: str
    reranker: str
    candidates: int
    recall: float
    recall_of: str
    accuracy: float | None

    @property
    def point(self) -> dict[str, Any]:
        """The settings of this point."""
        return {name: getattr(self, name) for name in ("chunk_tokens", "top_k", "order", "reranker", "candidates")}

    @property
    def text(self) -> str:
        """The trial as a line."""
        found = "recall of likely passages (a proxy)" if self.recall_of == "passages" else f"recall of {self.recall_of}"
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.1%}"
        reranked = f", the best of {self.candidates} by {self.reranker}" if self.reranker else ""
        chunks = f"{self.top_k} chunks of {self.chunk_tokens} tokens, {self.order}{reranked}"
        return f"{chunks}: {found} {self.recall:.1%}{accuracy}"


def tune(
    run: Path,
    section: EvaluateSection,
    base_model: str,
    by: str = "accuracy",
    grid: Grid | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Try the points of the grid on the held-out documents' questions, and write `<run>/tune.json`.

    Accuracy is that of base + RAG, one lm_eval run a point, kept below `<run>/tune/`; a call that was stopped goes on
    with the points that are missing. Ties go to what is set, then to no reranker or fewer candidates, then to fewer
    tokens before the question.

    Returns:
        What was written: `by`, `chosen` (settings), `held_out` (document ids), `questions` (asked), `tried`.

    Raises:
        BadInput: settings that cannot work, no question about the held-out documents, fewer than two documents
            left for the report, or another process that tunes this run.
    """
    if by not in BY:
        raise BadInput(f"unknown way to tune {by!r}; choose one of {', '.join(BY)}.")
    documents, questions = load(section.benchmark, section.data)
    ids = held_out(documents)
    in_order = spread(questions)  # as lm_eval is given them
    about = [question for question in questions if question.doc_id in set(ids)]
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
    defaults = default_grid(settings, by, base_model if section.model in ("hf", "vllm") else None)
    grid = grid or Grid()
    sizes = grid.chunk_tokens or defaults.chunk_tokens
    if min(sizes) <= settings.overlap_tokens:
        raise BadInput(f"chunk_tokens {min(sizes)} must be above overlap_tokens ({settings.overlap_tokens}).")
    trials: dict[str, Trial] = {}

    def try_one(tried: RetrievalSettings, point: dict[str, Any]) -> Trial:
        path = cached_retrieval(section.benchmark, documents, about, tried)
        found, found_of = _recall(asked, path, tried.top_k)
        accuracy = None
        if by == "accuracy":
            trial_section = section.model_copy(update={"arms": ["base_rag"], "retrieval": section.retrieval | point})
            name = f"{tried.chunk_tokens}-{tried.top_k}-{tried.order}"
            more = f"-{content_hash([tried.model_dump()])[:8]}" if tried.reranker else ""
            arms, _ = ready_arms(run / "tune" / f"{name}{more}", trial_section, base_model, [], seed, split="tuning")
            evaluate(arms, say)
            rows = read_arm(arms[0].folder) or []
            accuracy = sum(row["acc"] for row in rows) / len(rows)
        return Trial(
            *(tried.chunk_tokens, tried.top_k, tried.order, tried.reranker, tried.candidates),
            *(found, found_of, accuracy),
        )

    def try_points(points: Iterable[dict[str, Any]]) -> Trial:
        """Try those that were not tried yet; return the best of all so far."""
        for point in points:
            tried = settings.changed(point)
            if (name := tried.model_dump_json()) not in trials:
                trials[name] = try_one(tried, point)
                say(trials[name].text)
        return max(trials.values(), key=lambda trial: _rank(trial, settings))

    make_folder(run)
    with locked(run / "tune.lock"):
        base = product(sizes, grid.top_k or defaults.top_k, grid.order or defaults.order)
        best = try_points(_point(settings, *each) for each in base)
        reranked = product(grid.reranker or defaults.reranker, grid.candidates or defaults.candidates)
        best = try_points(
            _point(settings, best.chunk_tokens, best.top_k, best.order, reranker, candidates)
            for reranker, candidates in reranked
            if not reranker or candidates >= best.top_k
        )
        result = {
            "by": by,
            "chosen": _point(settings, **best.point),
            "held_out": ids,
            "questions": len(asked),
            "tried": [asdict(trial) for trial in trials.values()],
        }
        write_json(run / "tune.json", result)
    return result


def _point(
    settings: RetrievalSettings,
    chunk_tokens: int,
    top_k: int,
    order: str,
    reranker: str | None = None,
    candidates: int | None = None,
) -> dict[str, Any]:
    """What a point of the grid changes in the settings, sizes, numbers and order always among it.

    Without a reranker there is no depth to choose; more chunks than there are candidates need more candidates.
    """
    wanted: dict[str, Any] = {"reranker": settings.reranker if reranker is None else reranker}
    deep = settings.candidates if candidates is None or not wanted["reranker"] else candidates
    wanted |= {"candidates": max(deep, top_k)}
    if not wanted["reranker"]:
        wanted |= {"reranker_endpoint": ""}
    changed = {name: value for name, value in wanted.items() if value != getattr(settings, name)}
    return {"chunk_tokens": chunk_tokens, "top_k": top_k, "order": order} | changed


def _rank(trial: Trial, settings: RetrievalSettings) -> tuple[float, bool, int, int]:
    """The higher, the better: accuracy or recall, then being what is set, then costing less."""
    reached = trial.recall if trial.accuracy is None else trial.accuracy
    is_set = all(getattr(settings, name) == value for name, value in trial.point.items())
    return reached, is_set, -trial.candidates * bool(trial.reranker), -trial.chunk_tokens * trial.top_k


def _recall(questions: Sequence[Question], path: Path, top_k: int) -> tuple[float, str]:
    """The recall of the best evidence there is, and of what it is."""
    chunks, places = read_retrieval(path, questions), read_proxy_places(path, questions)
    found = recalls(questions, chunks, places, top_k)
    for kind, name in (("page", "pages"), ("proxy_passage", "passages")):
        if (key := f"{kind}_recall@{top_k}") in found:
            return found[key], name
    return found[f"document_recall@{top_k}"], "documents"


def read_tuned(run: Path) -> Tuned | None:
    """What `tune` wrote for this run, or None; raises BadInput where it is broken."""
    return read_json_if_there(run / "tune.json", Tuned, "smt tune")


def overruled(chosen: Mapping[str, Any], own: dict[str, Any]) -> list[str]:
    """Return the names of the chosen settings that a run file's own `evaluate.retrieval` sets otherwise."""
    return [name for name, value in chosen.items() if own.get(name, value) != value]


def tuned_on(run: Path) -> set[str]:
    """Return the ids of the documents that retrieval was tuned on, which the report leaves out."""
    return set(tuned["held_out"] if (tuned := read_tuned(run)) else ())
