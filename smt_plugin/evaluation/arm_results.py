"""What an arm's lm_eval run left behind, read back."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta, Struct

from smt_plugin.backends.base import MOST_UNUSABLE
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import Arm, TokenCounts, marker_path, read_marker
from smt_plugin.evaluation.context_window import context_of, tokenizer_of
from smt_plugin.files import Text, read_json, read_rows

_Share = Annotated[float, Meta(ge=0, le=1)]


class Reading(TypedDict):
    """What was read in an answer."""

    read: str | None
    state: str


class Doc(Struct):
    """A question as its task saw it; `options` is empty where it is free-form."""

    question_id: Text
    question: str
    doc_id: Text
    identity: str = ""
    options: list[str] | None = None
    answer: int | str | None = None
    gold: str | None = None
    readings: list[Reading] | None = None  # results of an earlier version do not say what was read


class Sample(Struct):
    """What lm-eval leaves of a question of our tasks: of each answer its text, if it is one, and the metrics' means."""

    doc: Doc
    resps: Annotated[list[list[Any]], Meta(min_length=1)]
    acc: _Share = 0.0
    unparsed: _Share = 0.0
    no_option: _Share = 0.0
    by_judge: _Share = 0.0

    @property
    def answers(self) -> list[str]:
        """The texts of the answers; empty for those without."""
        return [str(text or "") for text in self.resps[0]]

    @property
    def likeliest(self) -> int | None:
        """The option that the model holds likeliest, by its number; None where answers were sampled."""
        if len(self.resps) != len(self.doc.options or ()):
            return None
        # Of each option the log-likelihood, as text, and whether it is what the model would have written.
        try:
            likelihoods = [float(response[0][0]) for response in self.resps]
        except (IndexError, TypeError, ValueError):
            return None
        return likelihoods.index(max(likelihoods))


class _AnySample(Struct):
    """What lm-eval leaves of a question of any task, its own among them."""

    resps: Annotated[list[list[Any]], Meta(min_length=1)]
    arguments: dict[str, dict[str, Any]] = {}
    doc: dict[str, Any] = {}


class LmEvalTask(TypedDict, total=False):
    """Of a task, what a reader of the report is told."""

    output_type: str
    generation_kwargs: dict[str, Any]
    repeats: int
    metadata: dict[str, Any] | None


class LmEvalConfig(TypedDict, total=False):
    """Of a run of lm-eval, what a reader of the report is told."""

    model: str
    model_args: dict[str, Any] | str | None
    model_sha: str | None
    model_num_parameters: int | None
    random_seed: int | None
    numpy_seed: int | None
    torch_seed: int | None


class LmEvalSummary(TypedDict, total=False):
    """What lm-eval writes beside its samples, as far as it is read."""

    configs: dict[str, LmEvalTask]
    versions: dict[str, Any]
    config: LmEvalConfig
    lm_eval_version: str | None
    total_evaluation_time_seconds: float | str | None


def samples_files(folder: Path) -> list[Path]:
    """Return the files of samples that lm-eval wrote below a folder, one a task, the newest last."""
    return _in_order(folder.rglob("samples_*.jsonl"))


def run_again(folder: Path) -> str:
    """What to do about broken results in a folder, as the end of a sentence."""
    return f"remove {folder} and run `smt evaluate` again"


def samples_file(folder: Path) -> Path:
    """Return the newest file of samples below an arm's folder.

    Raises:
        BadInput: there is none.
    """
    files = samples_files(folder)
    if not files:
        raise BadInput(f"{folder} holds no samples_*.jsonl of lm-eval; {run_again(folder)}.")
    return files[-1]


def _in_order(files: Iterable[Path]) -> list[Path]:
    """Files of lm-eval by the time that their names end with, `..._2026-11-27T15-32-47.885543.jsonl`."""
    return sorted(files, key=lambda file: (file.name.rpartition("_")[2], file))


def _samples(folder: Path) -> Iterator[_AnySample]:
    """The samples of all tasks below a folder, one a question."""
    files = samples_files(folder)
    if not files:
        raise RuntimeError(f"lm_eval wrote no samples below {folder}")
    return (sample for path in files for sample, _ in read_rows(path, _AnySample, run_again(folder)))


def check_answers(arm: Arm) -> int:
    """Return how many answers a server left empty; a few count as unparsed.

    Raises:
        RuntimeError: over a fifth of the answers are empty, or have no verdict of the judge, all samples of each
            question are the same, or there are none.
    """
    empty, asked, all_alike = 0, 0, True
    states: Counter[str] = Counter()
    for sample in _samples(arm.folder):
        readings = sample.doc.get("readings")  # other people's tasks may have anything there
        if arm.is_ours and isinstance(readings, list):
            states.update(reading["state"] for reading in readings)
        # Contents that are lists of parts are no texts.
        texts = [str(text or "") for text in sample.resps[0]]
        asked += len(texts)
        empty += sum(not text for text in texts)
        all_alike = all_alike and len(texts) > 1 and len(set(texts)) == 1
    if states["no_verdict"] > MOST_UNUSABLE * states.total():
        raise RuntimeError(
            f"arm {arm.name}: the judge gave no verdict on {states['no_verdict']} of {states.total()} answers; use a "
            "model that follows the prompt judge/verdict (the verdicts that it gave are kept)"
        )
    if arm.is_local:
        return 0
    if empty > MOST_UNUSABLE * asked:
        raise RuntimeError(
            f"arm {arm.name}: {empty} of {asked} answers came back empty, which is no wrong answer but none; raise "
            "max_gen_toks, turn the server's thinking mode off, or see its log"
        )
    if all_alike:
        raise RuntimeError(
            f"arm {arm.name}: all samples of each question are the same; its server fixes a seed or ignores temperature"
        )
    return empty


def count_tokens(arm: Arm) -> TokenCounts | None:
    """Count `questions` and `samples` of an arm, and by the model's tokenizer the tokens of all `prompts` (each once,
    however many samples) and of all `answers`; the prompts `cut`, since the model's context is too short for them, and
    those with `cut_documents`, which were cut so that they fit.

    None where the model is a server's, and `model_args` name no `tokenizer` for it.
    """
    tokenizer = tokenizer_of(arm.model_arguments)
    if tokenizer is None:
        return None
    context = context_of(arm.model_arguments, tokenizer)
    counts: TokenCounts = {"questions": 0, "samples": 0, "prompts": 0, "answers": 0, "cut": 0, "cut_documents": 0}
    for sample in _samples(arm.folder):
        asked = next(iter(sample.arguments.values()))
        prompt, options = asked["arg_0"], asked.get("arg_1")
        texts = [text for texts in sample.resps for text in texts if isinstance(text, str)]
        # The prompt is in the chat template already.
        lengths = [len(ids) for ids in tokenizer([prompt, *texts], add_special_tokens=False)["input_ids"]]
        counts["questions"] += 1
        counts["samples"] += len(texts)
        counts["prompts"] += lengths[0]
        counts["answers"] += sum(lengths[1:])
        # lm-eval leaves room for the longest answer, and cuts the prompt's beginning off.
        room = options.get("max_gen_toks", 0) if isinstance(options, dict) else 0
        counts["cut"] += context is not None and lengths[0] + room > context
        counts["cut_documents"] += sample.doc.get("cut", 0) > 0
    return counts


def read_arm(folder: Path) -> list[dict[str, Any]] | None:
    """Return one row a question of an arm that is done; None where the arm has not been run, or has not been finished.

    A row is question_id, question, doc_id, acc, unparsed, no_option and by_judge (0 to 1), n (samples), options (how
    many; 0: free-form).
    """
    if not os.path.lexists(marker_path(folder)):
        return None
    read_marker(folder)
    file = samples_file(folder)
    rows = [
        {name: getattr(sample.doc, name) for name in ("question_id", "question", "doc_id")}
        | {metric: getattr(sample, metric) for metric in ("acc", "unparsed", "no_option", "by_judge")}
        | {"n": len(sample.resps[0]), "options": len(sample.doc.options or ())}
        for sample, _ in read_rows(file, Sample, run_again(folder))
    ]
    if not rows:
        raise BadInput(f"{file} holds no answers; {run_again(folder)}.")
    return rows


def read_tokens(folder: Path) -> TokenCounts | None:
    """Return what `count_tokens` found when the arm was done; None where it is not known."""
    return read_marker(folder).get("tokens")


def read_empty(folder: Path) -> int:
    """Return how many of an arm's answers its server left empty."""
    return read_marker(folder).get("empty", 0)


def read_seconds(folder: Path) -> float | None:
    """Return how long lm_eval took for an arm, in seconds; None where it did not say."""
    try:
        return float(read_summary(folder).get("total_evaluation_time_seconds") or "")
    except ValueError:
        return None


def read_summary(folder: Path) -> LmEvalSummary:
    """Return what lm-eval says of an arm beside its samples: settings, versions, seeds; empty where it does not."""
    files = _in_order(folder.rglob("results_*.json"))
    return read_json(files[-1], LmEvalSummary, "smt evaluate") if files else {}
