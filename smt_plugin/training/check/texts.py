"""A data file of an axolotl config: its rows, what of them is trained, and how many tokens they are."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from smt_plugin.files import reading
from smt_plugin.training.axolotl_schema import gist

# Rows that are encoded as axolotl does it, and rows that are counted at a time.
_LOOKED_AT, _BATCH = 8, 512


@dataclass(frozen=True, slots=True)
class DataFile:
    """One local JSONL file of the config, and what is known of it."""

    where: str  # in the config, such as `datasets[0]`
    path: Path
    entry: dict[str, Any]
    rows: int = 0
    tokens: int | None = None  # None if they were not counted
    problems: tuple[str, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether its rows are conversations, not plain texts."""
        return str(self.entry.get("type")) == "chat_template"

    @property
    def key(self) -> str:
        """The key of a row under which axolotl finds the text."""
        return str(self.entry.get("field_messages", "messages") if self.is_chat else self.entry.get("field", "text"))


def look_into(data: DataFile, config: Any, tokenizer: Any, mixed: Mapping[str, Any], counts: bool) -> DataFile:
    """A file with what is wrong with its first rows as axolotl encodes them, and with its rows and tokens.

    Without a tokenizer nothing can be said against them, nor can they be counted.

    Args:
        mixed: what the mix's manifest says of the file: sha256, rows and tokens, None if they must be counted.
        counts: whether rows and tokens are wanted.
    """
    from transformers import PreTrainedTokenizerBase

    with reading(data.path) as content:
        if mixed and hashlib.file_digest(content, "sha256").hexdigest() != mixed["sha256"]:
            problem = f"{data.where}: {data.path} was changed after `smt mix`; run `smt mix` again."
            return replace(data, problems=(problem,))
    problems: list[str] = []
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        contents = [content for _, content in islice(_rows(data, problems), _LOOKED_AT)]
        mistrained = _mistrained(data, config, tokenizer, contents) if contents else None
        if mistrained:
            problems.append(f"{data.where}: {mistrained}.")
        if mistrained or not contents:
            return replace(data, problems=tuple(problems))
    if counts and mixed.get("tokens") is not None:
        data = replace(data, rows=mixed["rows"], tokens=mixed["tokens"])
    elif counts and tokenizer is not None:
        data = _counted(data, config, tokenizer)
    return replace(data, problems=(*problems, *data.problems))


def first_row(data: DataFile) -> Any:
    """The content of a file's first row."""
    return next(_rows(data, []))[1]


def _rows(data: DataFile, problems: list[str]) -> Iterator[tuple[int, Any]]:
    """Each row's line number and content, up to the first row that is wrong, which is added to `problems`."""
    with reading(data.path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                content, problem = _content(data, line)
                if problem:
                    problems.append(f"{data.path}, line {number}: {problem}")
                    return
                yield number, content


def _content(data: DataFile, line: bytes) -> tuple[Any, str | None]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return None, f"not valid JSON ({error}); fix or remove it."
    content = row.get(data.key) if isinstance(row, dict) else None
    if not content or not isinstance(content, list if data.is_chat else str):
        reads = f"which {data.where} (type {data.entry.get('type')}) reads"
        return None, f"no `{data.key}` to train on, {reads}; fix the row, or the entry's type and field."
    if data.is_chat and not data.entry.get("message_property_mappings"):
        for turn in content:
            if not isinstance(turn, dict) or not turn.get("role") or not {"content", "tool_calls"} & turn.keys():
                return None, "a turn has no `role`, or no `content`; fix the row."
    return content, None


def _mistrained(data: DataFile, config: Any, tokenizer: Any, contents: list[Any]) -> str | None:
    """Encode rows with axolotl's own code and look at what is trained: answers, their ends, begin tokens."""
    from axolotl.prompt_strategies import load
    from axolotl.utils.dict import DictDefault

    try:
        strategy = load(data.entry.get("type"), tokenizer, config, DictDefault(data.entry))
        for content in contents:
            row = strategy.tokenize_prompt({data.key: content if data.is_chat else [content]})
            tokens, labels = row["input_ids"], row["labels"]
            if not data.is_chat:
                tokens, labels = tokens[0], labels[0]
            problem = _problem_of_row(data, tokenizer, tokens, labels)
            if problem is None and data.is_chat:
                problem = _problem_of_mask(data, tokenizer, content, tokens, labels)
            if problem:
                return problem
        return _template_problem(data, config, tokenizer, contents) if data.is_chat else None
    # Templates and prompt strategies raise whatever the data makes them run into.
    except Exception as error:
        return f"axolotl cannot encode {data.path}: {gist(error)}; fix the entry, the data or eot_tokens"


def _problem_of_row(data: DataFile, tokenizer: Any, tokens: list[int], labels: list[int]) -> str | None:
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and tokens[:2] == [begin, begin]:
        return f"{data.path}: texts begin with two {tokenizer.bos_token}; take it out of the data"
    if all(label == -100 for label in labels):
        return f"{data.path}: nothing of its first row is trained; set roles_to_train to the role of its answers"
    if not data.is_chat:
        return None if labels[-1] == end else f"{data.path}: texts do not end with a trained {tokenizer.eos_token}"
    # The turn's end is the first special token behind the last trained word.
    last = max(place for place, label in enumerate(labels) if label != -100)
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    if labels[last] in special:
        return None
    closing = next((token for token in tokens[last + 1 :] if token in special), None)
    name = "the end of turns" if closing is None else tokenizer.convert_ids_to_tokens(closing)
    return f"{name}, which ends the answers of {data.path}, is not trained; add it to eot_tokens, or no answer ends"


def _problem_of_mask(data: DataFile, tokenizer: Any, turns: Any, tokens: list[int], labels: list[int]) -> str | None:
    """Turns beside the assistant's that are trained, as with axolotl's `train_on_inputs`."""
    if data.entry.get("message_property_mappings") or not all(isinstance(turn.get("content"), str) for turn in turns):
        return None
    trained = tokenizer.decode([token for token, label in zip(tokens, labels, strict=True) if label != -100])
    # Decoding may change white space.
    rest = " ".join(trained.split())
    said = [(turn["role"], " ".join(turn["content"].split())) for turn in turns]
    for role, text in said:
        if role == "assistant":
            rest = rest.replace(text, " ", 1)
    for role, text in said:
        # What is shorter may also stand in a tag, such as <think>.
        if role != "assistant" and len(text) > 8 and text in rest:
            return (
                f"{data.path}: the {role}'s turns are trained, too; set roles_to_train: [assistant] in the entry and "
                "train_on_inputs: false"
            )
    return None


def template_of(data: DataFile, config: Any, tokenizer: Any) -> Any:
    """The chat template with which axolotl writes a file's conversations."""
    from axolotl.utils.chat_templates import get_chat_template_from_config
    from axolotl.utils.dict import DictDefault

    return get_chat_template_from_config(cfg=config, ds_cfg=DictDefault(data.entry), tokenizer=tokenizer)


def _template_problem(data: DataFile, config: Any, tokenizer: Any, contents: list[Any]) -> str | None:
    """A chat template of the config that writes the data otherwise than the tokenizer's own."""
    from transformers import AutoTokenizer

    chosen = template_of(data, config, tokenizer)
    own = AutoTokenizer.from_pretrained(config.tokenizer_config).chat_template
    if own is None or chosen == own:
        return None
    write = partial(tokenizer.apply_chat_template, tokenize=False)
    for content in contents:
        if write(content, chat_template=chosen) != write(content, chat_template=own):
            name = getattr(config.chat_template, "value", config.chat_template)
            return (
                f"chat_template {name} writes {data.path} otherwise than the template of "
                f"{config.tokenizer_config}, which the model knows; use tokenizer_default"
            )
    return None


def _counted(data: DataFile, config: Any, tokenizer: Any) -> DataFile:
    """Count the rows and tokens of a file, up to the first batch that has a problem, and those that are too long."""
    template = template_of(data, config, tokenizer) if data.is_chat else None
    problems: list[str] = []
    count, tokens, long, first_long = 0, 0, 0, ""
    rows = _rows(data, problems)
    while not problems and (batch := list(islice(rows, _BATCH))):
        texts = []
        for number, content in batch:
            try:
                text = content
                if data.is_chat:
                    text = tokenizer.apply_chat_template(content, chat_template=template, tokenize=False)
                texts.append(text)
            # Templates raise whatever the data makes them run into.
            except Exception as error:
                problems.append(f"{data.path}, line {number}: it does not fit the chat template: {gist(error)}.")
        if len(texts) < len(batch):
            break
        encoded = tokenizer(texts, add_special_tokens=not data.is_chat)["input_ids"]
        for (number, _), ids in zip(batch, encoded, strict=True):
            length = len(ids) + (not data.is_chat and ids[-1:] != [tokenizer.eos_token_id])
            tokens += length
            if length > config.sequence_len:
                long += 1
                first_long = first_long or f"the first in line {number}, of {length:,}"
        count += len(batch)
    counted = None if problems else tokens
    if long:
        does = config.excess_length_strategy or ("drop" if data.is_chat else "cut")
        problems.append(
            f"{data.where}: {long:,} of {count:,} texts of {data.path} are longer than sequence_len "
            f"{config.sequence_len} ({first_long} tokens), and axolotl would {does} them silently; "
            "let `smt mix` cut them."
        )
    return replace(data, rows=count, tokens=counted, problems=tuple(problems))
