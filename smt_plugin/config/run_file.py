"""Reading a run file: YAML, checked key by key, with its paths made absolute; and writing one."""

import os
import re
from collections.abc import Hashable
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from smt_plugin.config.sections import RunFile
from smt_plugin.config.values import first_problem
from smt_plugin.errors import BadInput
from smt_plugin.files import not_utf8, read_bytes, reading, write_text
from smt_plugin.masking import without_secrets

# What any file of ours holds at most, with room to spare.
_MOST_VALUES = 100_000
_MOST_NUMBERS = 1_000
_MOST_CHARACTERS = 4_000_000
_HALF = re.compile("[\ud800-\udfff]")
EXAMPLE = """\
# A run of smt: what is read, asked, mixed, trained and evaluated. Paths are relative to this file.
run: {run}                          # folder for everything that is made
corpus: {corpus}

backend:                          # any OpenAI-compatible endpoint; several URLs serve the same model
  endpoints: [http://127.0.0.1:8000/v1]
  model: Qwen/Qwen3-30B-A3B-Instruct-2507
  max_concurrency: 256            # requests in flight at most; the API key comes from OPENAI_API_KEY

methods:                          # budgets in tokens that the backend writes
  synthetic_qa: {{tokens: 1M}}
  focal_rewrite: {{tokens: 1M}}     # or active_reading

# price: {{input: 0.1, cached: 0.02, output: 0.4}}   # per million tokens, for `smt plan` and the live progress
# price: {{gpus: 8, gpu_hour: 2.5}}                  # or what GPUs of your own cost

mix:
  shares: {{synthetic_qa: 1, focal_rewrite: 1}}   # by tokens of the target's tokenizer
  # budgets: [10M, 30M]           # several nested mixes; without: one, as large as the shares allow
  replay: HuggingFaceFW/fineweb   # general text, streamed, so that the model forgets less; or a JSONL file
  replay_share: 0.1
  sequence_len: 2048

train:
  config: llama-3.1-8b/full       # a shipped axolotl config, or the path of your own

evaluate:
  benchmark: corpus               # your own questions; or quality, longhealth, financebench
  data: {corpus}                  # with questions.jsonl in it; for a benchmark, the folder of its files
  # judge: {{endpoint: http://127.0.0.1:8001/v1, model: Qwen/Qwen3-14B}}   # for questions without options
  # judge: {{kind: vllm}}           # or `vllm serve Qwen/Qwen3-14B`, started for the evaluation
  arms: [base, base_rag, base_full, trained, trained_rag]
"""


def example_run_file(corpus: Path, folder: Path) -> str:
    """Return the text of a commented run file, to be written into `folder`, for a corpus.

    Its paths are relative to `folder`. The run folder lies there, or beside the corpus where `folder` is part of it.
    """
    run = folder / "run"
    if lies_in_corpus(run, corpus):
        run = corpus.absolute().parent / f"{Path(os.path.realpath(corpus)).name}-run"
    return EXAMPLE.format(corpus=_relative(corpus, folder), run=_relative(run, folder))


def _relative(path: Path, folder: Path) -> str:
    """A path relative to a folder, quoted where YAML would take it for something else."""
    quoted = yaml.safe_dump(os.path.relpath(path, folder), allow_unicode=True, width=10_000)
    return quoted.removesuffix("\n").removesuffix("\n...")


def lies_in_corpus(run: Path, corpus: Path) -> bool:
    """Whether what is made in a run folder would be read as documents: a README.md of a model, for example."""
    # Path.resolve knows no word for a link to itself.
    inside = Path(os.path.realpath(run)).is_relative_to(os.path.realpath(corpus))
    return inside and corpus.is_dir() and not (corpus / "documents.jsonl").is_file()


def write_resolved(run_file: RunFile, path: Path) -> None:
    """Write a run file with its defaults filled in, its paths absolute and its secrets left out."""
    values = run_file.model_dump(mode="json")
    if run_file.evaluate is not None and run_file.evaluate.judge is not None:
        # Keys of the other kind of judge would be refused when read back.
        price = values["evaluate"]["judge"]["price"]
        values["evaluate"]["judge"] = run_file.evaluate.judge.values | ({"price": price} if price else {})
    write_text(path, yaml.safe_dump(without_secrets(values), sort_keys=False))


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where plain YAML keeps the last, and more values than any file of ours has.

    Values are counted while they are read, since merges can make billions of a few lines.
    """

    count = 0

    def _count(self, more: int, mark: yaml.Mark) -> None:
        self.count += more
        if self.count > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, f"it holds more than {_MOST_VALUES:,} values", mark)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._count(1, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        written = len(node.value)
        super().flatten_mapping(node)
        self._count(max(0, len(node.value) - written), node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # A merge (`<<`) brings keys of its own, of which those that stand here count.
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        # Numbers can be chosen so that their hashes are equal, and then take time by the square of their count.
        if sum(not isinstance(key, str) for key in keys) > _MOST_NUMBERS:
            said = f"more than {_MOST_NUMBERS:,} keys that are no text"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        seen: set[Any] = set()
        # What cannot be a key is refused below.
        for key in filter(lambda key: isinstance(key, Hashable), keys):
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text that anybody may have written.

    Raises:
        ValueError: it is not YAML, gives a key twice, holds more than any file of ours, be it by aliases that repeat
            each other or by merges, or a value that no file, path or request can hold.
    """
    try:
        if len(text) > _MOST_CHARACTERS:
            raise ValueError(f"it holds more than {_MOST_CHARACTERS:,} characters")
        content = yaml.load(text, Loader=_Loader)
    # PyYAML raises a plain ValueError for a date such as 2026-13-45.
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not valid YAML ({' '.join((str(error) or type(error).__name__).split())})") from None
    _check_values(content)
    return content


def load_yaml(path: Path, kind: str = "", mend: str = "fix or remove it") -> dict[Any, Any]:
    """Read the keys of a YAML file.

    Args:
        kind: what it is, before its name in a sentence.
        mend: what to do where there is none, the end of the sentence.

    Raises:
        BadInput: it cannot be read, holds something else than keys, or is refused by `parse_yaml`.
    """
    try:
        with reading(path, mend) as file, TextIOWrapper(file, encoding="utf-8") as text:
            content = parse_yaml(text.read(_MOST_CHARACTERS + 1))
    except BadInput as error:
        raise BadInput(f"{kind}{error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{kind}{path} {not_utf8(read_bytes(path))}") from None
    except ValueError as error:
        raise BadInput(f"{kind}{path}: {error}.") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected `key: value` lines.")
    return content


def read_run_file(path: Path) -> RunFile:
    """Read and check a run file.

    Raises:
        BadInput: the file is missing, is not YAML, has an unknown, missing or wrong key, which is named, or a run
            folder inside the corpus.
    """
    content = load_yaml(path, "run file ", "`smt init` writes one")
    try:
        run_file = RunFile.model_validate(content, context=path.parent)
    except ValidationError as error:
        raise BadInput(f"run file {path}: {first_problem(error)}") from None
    if lies_in_corpus(run_file.run, run_file.corpus):
        raise BadInput(
            f"run file {path}: run: the folder lies in the corpus, and what is made in it would become documents; give "
            "one outside, and move what is there already to it."
        )
    return run_file


def _check_values(content: Any) -> None:
    """Refuse a value that no file, path or request can hold, by its key, and aliases that repeat each other into
    something huge or endless.

    Raises:
        ValueError: the first of them.
    """
    left = [("", content)]
    for _ in range(_MOST_VALUES):
        if not left:
            return
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}".lstrip("."), each) for name, each in value.items()]
            left += [(key, name) for name in value]
        elif isinstance(value, list):
            left += [(key, each) for each in value]
        elif isinstance(value, str) and ("\0" in value or _HALF.search(value)):
            raise ValueError(f"{key}: a text holds a NUL character, or half a character".removeprefix(": "))
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{key}: the number {value} is beyond 64 bits".removeprefix(": "))
    raise ValueError(f"not valid YAML (it holds more than {_MOST_VALUES:,} values)")
