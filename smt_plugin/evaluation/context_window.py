"""Whether prompts fit into the model's context, and documents cut at a sentence end so that they do.

lm-eval leaves room for the longest answer, and cuts what is too long at its beginning: at the chat header, or, where
retrieved chunks stand best first, at the best one.
"""

import re
import runpy
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from smt_plugin.assets import asset_dir
from smt_plugin.errors import BadInput
from smt_plugin.mixing.ruler import SENTENCE_ENDS

ENDINGS = {"none": "", "rag": "_rag", "full": "_full"}
MARK = " [...]"
_AT_ONCE = 64  # prompts whose tokens are in memory together
_SPARE = 8  # tokens that may be added at a seam, or to a text as a whole
_ATTEMPTS = 20
_DEFAULT, _ENDLESS = 2048, 10**29  # what lm-eval takes where no file says it, and what tokenizers say in that case


@dataclass(frozen=True, slots=True)
class Window:
    """A model's context.

    Attributes:
        tokenizer: the model's own.
        tokens: the longest prompt with its answer.
        answer: tokens of the longest answer, where they are generated; None: as the task says.
        chat: whether prompts go into the chat template, where the tokenizer has one.
        template: what the chat template is told.
        system: the system's message, if there is one.
    """

    tokenizer: Any
    tokens: int
    answer: int | None = None
    chat: bool = True
    template: dict[str, Any] = field(default_factory=dict)
    system: str = ""

    def rendered(self, prompt: str) -> str:
        """What the model reads, as text."""
        if not self.chat or not self.tokenizer.chat_template:
            return f"{self.system}{prompt}"
        messages = [{"role": "system", "content": self.system}] if self.system else []
        text: str = self.tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            **self.template,
        )
        return text

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, as the model reads it."""
        texts = [self.rendered(prompt) for prompt in prompts]
        begin = self.tokenizer.bos_token
        adds = not (begin and texts and texts[0].startswith(begin))
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=adds, verbose=False)["input_ids"]]


def tokenizer_of(arguments: dict[str, Any]) -> Any | None:
    """Return the tokenizer of the model that lm-eval is given; None where it is not known or cannot be loaded.

    That of a server's model is known only where `model_args` name it as `tokenizer`.

    Args:
        arguments: the model's, `model_args` of lm-eval.
    """
    name = arguments.get("tokenizer") or (None if _is_served(arguments) else arguments.get("pretrained"))
    if not isinstance(name, str):
        return None
    from transformers import AutoTokenizer

    # Each kind of broken or missing file has an error of its own; lm-eval will tell of those that matter.
    try:
        return AutoTokenizer.from_pretrained(name, **_options(arguments))
    except Exception:
        return None


def context_of(arguments: dict[str, Any], tokenizer: Any) -> int | None:
    """Return how many tokens the model's context has; None where `model_args` of a server do not say it."""
    tokens = arguments.get("max_length") or arguments.get("max_model_len")
    if tokens or _is_served(arguments):
        return tokens and int(tokens)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(arguments["pretrained"], **_options(arguments)).get_text_config()
    except Exception:
        return None
    # As lm-eval finds it.
    names = ("n_positions", "max_position_embeddings", "n_ctx")
    found = next((value for value in (getattr(config, name, None) for name in names) if value), None)
    return int(found or (tokenizer.model_max_length if tokenizer.model_max_length < _ENDLESS else _DEFAULT))


def _is_served(arguments: dict[str, Any]) -> bool:
    return "base_url" in arguments


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: arguments[key] for key in ("revision", "trust_remote_code", "subfolder") if key in arguments}


def window_of(arguments: dict[str, Any], told: dict[str, Any]) -> Window | None:
    """Return the context of the model that lm-eval is given; None where its tokenizer or length is not known.

    Args:
        arguments: the model's, `model_args` of lm-eval.
        told: of `metadata.command_line`.
    """
    tokenizer = tokenizer_of(arguments)
    tokens = None if tokenizer is None else context_of(arguments, tokenizer)
    if tokens is None:
        return None
    template = dict(arguments.get("chat_template_args") or {})
    if arguments.get("enable_thinking") is not None:
        template["enable_thinking"] = arguments["enable_thinking"]
    sampling = told.get("gen_kwargs") or {}
    lengths = (sampling.get(key) for key in ("max_gen_toks", "max_new_tokens", "max_tokens"))
    answer = next((int(length) for length in lengths if length), None)
    chat = bool(told.get("apply_chat_template")) if told else True
    return Window(tokenizer, tokens, answer, chat, template, told.get("system_instruction") or "")


class _Function(str):
    """A name that a task file fetches from a module beside it, with `!function`."""


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!function", lambda loader, node: _Function(node.value))


def task_settings(path: Path) -> dict[str, Any]:
    """Return what a task file of ours says, with what it includes."""
    values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    text = values.get("doc_to_text")
    if isinstance(text, _Function):
        module, _, name = text.rpartition(".")
        values["doc_to_text"] = runpy.run_path(str(path.with_name(f"{module}.py")))[name]
    return {**task_settings(path.parent / values["include"]), **values} if "include" in values else values


def task_file(benchmark: str, context: str, sampled: bool = True) -> Path:
    """Return the file of a task of ours."""
    return asset_dir("lm_eval_tasks") / benchmark / f"{benchmark}_smt{ENDINGS[context]}{'' if sampled else '_ll'}.yaml"


def fit(rows: Sequence[dict[str, Any]], task: Path, window: Window, cut: bool) -> None:
    """See to it that the prompts of a task's rows fit into the model's context.

    Args:
        rows: of `lm_eval_link.dataset`; what is cut is replaced in them, and its tokens are counted in `cut`.
        task: its file.
        cut: whether documents may be cut; retrieved chunks never are.

    Raises:
        BadInput: prompts do not fit, and may not be cut, or do not fit without documents either; says how many, and
            which is the longest.
    """
    from jinja2 import Environment, StrictUndefined

    settings = task_settings(task)
    is_sampled = settings["output_type"] == "generate_until"
    # As lm-eval renders it.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    prompt_of: Callable[..., str] = environment.from_string(settings["doc_to_text"]).render
    answer = window.answer or settings["generation_kwargs"]["max_gen_toks"] if is_sampled else 0

    def room_of(row: dict[str, Any]) -> int:
        if is_sampled:
            return window.tokens - answer
        # The likelihood of an option takes the option's own tokens, behind a blank.
        options = [f" {option}" for option in row["options"]]
        return window.tokens - max(map(len, window.tokenizer(options, add_special_tokens=False)["input_ids"]))

    long = dict(_too_long(rows, window, lambda row: prompt_of(**row), room_of))
    may_cut = cut and settings["dataset_kwargs"]["context"] == "full"
    if long and not may_cut:
        raise BadInput(_refusal(task.stem, long, rows, window, answer, settings["dataset_kwargs"]["context"]))
    tokens_of: dict[str, array[int]] = {}
    for number, length in long.items():
        _cut(rows[number], length, room_of(rows[number]), window, prompt_of, tokens_of)


def _too_long(
    rows: Sequence[dict[str, Any]],
    window: Window,
    prompt_of: Callable[[dict[str, Any]], str],
    room_of: Callable[[dict[str, Any]], int],
) -> Iterable[tuple[int, int]]:
    """The numbers of the rows whose prompts are too long, with the lengths of these."""
    for begin in range(0, len(rows), _AT_ONCE):
        some = {}
        for number, row in enumerate(rows[begin : begin + _AT_ONCE], start=begin):
            prompt = prompt_of(row)
            # No token is shorter than a byte.
            if len(window.rendered(prompt).encode()) + _SPARE > room_of(row):
                some[number] = prompt
        for number, length in zip(some, window.lengths(list(some.values())) if some else (), strict=True):
            if length > room_of(rows[number]):
                yield number, length


def _refusal(
    task: str, long: dict[int, int], rows: Sequence[dict[str, Any]], window: Window, answer: int, context: str
) -> str:
    longest = max(long, key=lambda number: long[number])
    beside = f" beside an answer of {answer:,}" if answer else ""
    ways = {
        "none": "",
        "rag": ", let retrieval give fewer or smaller chunks",
        "full": ", let the ends of documents be cut off (`evaluate.cut_documents: true` in a run file, "
        "`--metadata '{\"cut_documents\": true}'` of lm_eval)",
    }
    return (
        f"{task}: {len(long):,} of {len(rows):,} prompts do not fit into the model's context of {window.tokens:,} "
        f"tokens{beside}, and lm-eval would cut their beginnings off; the longest, of question "
        f"{rows[longest]['question_id']!r}, has {long[longest]:,}; give a model of a longer context (set max_length in "
        f"model_args if it has one){ways[context]}, or leave the task out."
    )


def _cut(
    row: dict[str, Any],
    length: int,
    room: int,
    window: Window,
    prompt_of: Callable[..., str],
    tokens_of: dict[str, "array[int]"],
) -> None:
    """Cut the longest passages of a row, each alike, until its prompt fits.

    Args:
        tokens_of: where the tokens of each passage end, to be filled in.
    """
    whole = list(row["passages"])
    for passage in whole:
        if passage not in tokens_of:
            offsets = window.tokenizer(passage, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            tokens_of[passage] = array("I", (end for _, end in offsets["offset_mapping"]))
    sizes = [len(tokens_of[passage]) for passage in whole]
    left = sum(sizes)
    for _ in range(_ATTEMPTS):
        left -= max(length - room, 0) + _SPARE
        limit = _limit(sizes, left)
        if limit <= 0:
            break
        ends = [
            len(passage) if size <= limit else _last_end(passage, tokens_of[passage][limit - 1])
            for passage, size in zip(whole, sizes, strict=True)
        ]
        row["passages"] = [
            passage if end == len(passage) else passage[:end].rstrip() + MARK
            for passage, end in zip(whole, ends, strict=True)
        ]
        (length,) = window.lengths([prompt_of(**row)])
        if length <= room:
            row["cut"] = sum(sizes) - sum(
                bisect_right(tokens_of[passage], end) for passage, end in zip(whole, ends, strict=True)
            )
            return
    raise BadInput(
        f"question {row['question_id']!r} leaves no room for its document in the model's context of {window.tokens:,} "
        "tokens; give a model of a longer context."
    )


def _limit(sizes: Iterable[int], left: int) -> int:
    """The size that no passage may exceed so that all have so many tokens at most."""
    smaller_first = sorted(sizes)
    for number, size in enumerate(smaller_first):
        share = left // (len(smaller_first) - number)
        if size > share:
            return share
        left -= size
    return max(smaller_first, default=0)


def _last_end(passage: str, end: int) -> int:
    """Where the last sentence before `end` ends; its first line, which names the document, is none.

    In a text without sentences it is where the last line or word ends.
    """
    first_line = passage.find("\n") + 1
    for pattern in (*SENTENCE_ENDS, re.compile(r"\s+")):
        ends = [match.end() for match in pattern.finditer(passage, first_line, end)]
        if ends:
            return ends[-1]
    return end
