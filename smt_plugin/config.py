"""The run file: one YAML that the user owns, checked key by key."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from smt_plugin.errors import BadInput, why_no_file

_MOST_VALUES = 100_000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def parse_tokens(value: Any) -> int:
    """Return a number of tokens given as an integer or as text such as `200K`, `50M`, `1.5B`."""
    text = str(value)[:40] if isinstance(value, int | float | str) else type(value).__name__
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([KMB]?)\s*", text, re.ASCII | re.IGNORECASE)
    tokens = round(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if tokens < 1 or isinstance(value, bool):
        raise ValueError(f"{text!r} is not a number of tokens; write e.g. 200000, 200K or 50M")
    return tokens


Tokens = Annotated[int, BeforeValidator(parse_tokens)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def checked_url(url: str) -> str:
    """Return a base URL that is one; what is wrong with it is said without repeating it, as it may hold a password.

    Raises:
        ValueError: it is none, or holds more than scheme, host, port and path.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.hostname.encode("idna"):
            raise ValueError
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("not a URL; write e.g. http://127.0.0.1:8000/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must hold no user and password; give a key in the environment")
    if parts.query or parts.fragment or not port_known or re.search(r"\s", url):
        raise ValueError("a URL must end with its path, e.g. http://127.0.0.1:8000/v1")
    return url


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError("not a name of an environment variable; the key itself must not stand in a run file")
    return name


class MicroworldBackend(_Section):
    """The scripted backend of the microworld; `strength` (0 to 1) is how good a generator it plays."""

    kind: Literal["microworld"]
    strength: float = Field(default=0.9, ge=0, le=1)


class _Client(_Section):
    """What the client of OpenAI-compatible endpoints has to know."""

    model: str
    max_concurrency: int = Field(default=256, ge=1, description="requests in flight at most")
    timeout: float = Field(default=1800, gt=0, description="seconds for one request")
    patience: float = Field(default=600, gt=0, description="seconds without any answer before giving up")
    structured_output: bool = Field(default=True, description="send JSON schemas where a method has one")


class OpenAIEndpoints(_Client):
    """Any OpenAI-compatible endpoint, vLLM's among them; several of them serve the same model."""

    kind: Literal["openai"] = "openai"
    endpoints: list[Annotated[str, AfterValidator(checked_url)]] = Field(min_length=1)
    api_key_variable: Annotated[str, AfterValidator(_variable)] = "OPENAI_API_KEY"


class VLLMServers(_Client):
    """`vllm serve`, started for the run and stopped after it; see vllm_server.py."""

    kind: Literal["vllm"]
    command: list[str] = Field(default=["vllm", "serve"], min_length=1, description="up to the model's name")
    replicas: int = Field(default=1, ge=1, description="servers, each with its own GPUs")
    arguments: dict[str, Any] = Field(default={}, description="options of vllm serve, without dashes")
    startup_timeout: float = Field(default=1800, gt=0, description="seconds")
    ray: str | None = Field(default=None, description="cluster that places the servers: auto, local or an address")
    resources: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None, min_length=1, description="what one server needs from Ray; default: a GPU a rank"
    )

    @model_validator(mode="after")
    def _check(self) -> "VLLMServers":
        if self.resources is not None and self.ray is None:
            raise ValueError("resources are reserved by Ray; set `ray` (auto, local or an address) or remove them")
        return self


class Price(_Section):
    """What a completion costs: by tokens at somebody's endpoint, or by the hour for GPUs of one's own."""

    input: float = Field(default=0, ge=0, description="per million prompt tokens that no cache holds")
    cached: float | None = Field(default=None, ge=0, description="per million cached ones; default: as `input`")
    output: float = Field(default=0, ge=0, description="per million tokens written")
    gpus: int = Field(default=0, ge=0, description="GPUs behind the endpoints, all together")
    gpu_hour: float = Field(default=0, ge=0, description="of one GPU")
    currency: str = "USD"

    def of(self, prompt_tokens: float, cached_tokens: float, completion_tokens: float, seconds: float) -> float:
        """Return the money for so many tokens, the cached ones among the prompt's, in so many seconds."""
        cached = self.input if self.cached is None else self.cached
        tokens = (prompt_tokens - cached_tokens) * self.input + cached_tokens * cached + completion_tokens * self.output
        return tokens / 1e6 + seconds / 3600 * self.gpus * self.gpu_hour


class MixSection(_Section):
    """What goes into the training files; see mix.py."""

    tokenizer: str | None = Field(default=None, description="the target model's; default train.base_model")
    tokens: Tokens | None = Field(default=None, description="synthetic tokens; default: all that the shares allow")
    budgets: list[Tokens] = Field(default=[], description="several of them: nested mixes, each in its own folder")
    shares: dict[str, float] = Field(default={"synthetic_qa": 1.0, "focal_rewrite": 1.0}, min_length=1)
    sources: dict[str, Path] = Field(default={}, description="name in shares -> JSONL file or folder from elsewhere")
    qa_form: Literal["chat", "text"] = Field(default="chat", description="chat template, or plain text")
    near_duplicates: float = Field(default=0.8, ge=0.5, le=1, description="shared part; 1: exact ones alone")
    validation_rounds: int = Field(default=0, ge=0, description="last rounds of each document to hold out")
    replay: str | None = Field(default=None, description="JSONL file, folder or hub name of a data set")
    replay_config: str | None = Field(default=None, description="of the data set; FineWeb: sample-10BT")
    replay_split: str = "train"
    replay_share: float = Field(default=0.1, ge=0, lt=1)
    sequence_len: int = Field(default=2048, ge=32, description="tokens")

    @model_validator(mode="after")
    def _one_budget(self) -> "MixSection":
        if self.tokens is not None and self.budgets:
            raise ValueError("tokens and budgets are both given; take one of them out")
        return self


class TrainSection(_Section):
    """The axolotl config to start from, and the model to train."""

    config: str = Field(default="llama-3.1-8b/full", description="a shipped config's name, or a path")
    base_model: str | None = Field(default=None, description="default: what the config says")


class JudgeSection(_Section):
    """The model that judges free-form answers; see judge.py. An endpoint's API key comes from SMT_JUDGE_API_KEY.

    The options turn thinking off where the chat template knows it; a server that refuses unknown options needs `{}`.
    A server of our own is started when it is first needed and ends with the process, its log is in the cache folder;
    the command `env CUDA_VISIBLE_DEVICES=1 vllm serve` gives it a GPU of its own.
    """

    kind: Literal["openai", "vllm"] = Field(default="openai", description="an endpoint, or a `vllm serve` of our own")
    endpoint: Annotated[str, AfterValidator(checked_url)] | None = Field(
        default=None, description="base URL of any OpenAI-compatible server"
    )
    model: str = Field(default="Qwen/Qwen3-14B", min_length=1)
    options: dict[str, Any] = Field(
        default={"chat_template_kwargs": {"enable_thinking": False}}, description="added to every request"
    )
    concurrency: int = Field(default=16, ge=1, description="requests in flight at most")
    patience: float = Field(default=300, gt=0, description="seconds without any answer before giving up")
    command: list[str] = Field(default=["vllm", "serve"], min_length=1, description="up to the model's name")
    arguments: dict[str, Any] = Field(default={}, description="options of vllm serve, without dashes")
    startup_timeout: float = Field(default=1800, gt=0, description="seconds")

    @model_validator(mode="after")
    def _check(self) -> "JudgeSection":
        if (self.kind == "openai") != (self.endpoint is not None):
            raise ValueError("give `endpoint: http://...`, or `kind: vllm` to start a server here, and not both")
        if self.kind == "openai" and self.model_fields_set & {"command", "arguments", "startup_timeout"}:
            raise ValueError("command, arguments and startup_timeout are for `kind: vllm`; remove them")
        return self

    @property
    def values(self) -> dict[str, Any]:
        """What lm_eval's --metadata gets as `judge`: the keys that this kind has, less the pace where it is not set."""
        unused = {"endpoint"} if self.kind == "vllm" else {"kind", "command", "arguments", "startup_timeout"}
        return self.model_dump(exclude=unused | ({"concurrency", "patience"} - self.model_fields_set))


class RetentionSection(_Section):
    """Which of lm-eval's own tasks to run before and after training; see retention.py and docs/evaluation.md."""

    tasks: list[str] = Field(
        default=["arc_challenge", "hellaswag", "winogrande", "gsm8k", "ifeval"],
        min_length=1,
        description="names of lm-eval's tasks",
    )
    include_path: Path | None = Field(default=None, description="folder of task files that lm-eval does not have")
    limit: int | None = Field(default=500, ge=1, description="questions a task; null for all")


class EvaluateSection(_Section):
    """Which lm-eval tasks to run on which arms; see evaluate.py."""

    benchmark: str
    data: Path | None = Field(default=None, description="folder of the benchmark's files")
    arms: list[str] = Field(default=["base", "base_rag", "base_full", "trained", "trained_rag"], min_length=1)
    model: str = Field(default="hf", description="lm-eval's --model")
    model_args: str = Field(default="", description="added to lm-eval's --model_args")
    options: dict[str, Any] = Field(
        default={"chat_template_kwargs": {"enable_thinking": False}},
        description="added to every request where the model is a server's; {} for servers that refuse unknown options",
    )
    batch_size: str = "auto"
    limit: int | None = Field(default=None, ge=1, description="questions a task, for a quick look")
    retrieval: dict[str, Any] = Field(default={}, description="settings of the RAG arms that replace the defaults")
    judge: JudgeSection | None = Field(default=None, description="for free-form questions")
    retention: RetentionSection = RetentionSection()


class RunFile(_Section):
    """A whole run. Relative paths are relative to the run file's folder."""

    run: Path = Field(description="the run folder; made if it is not there")
    corpus: Path
    backend: Annotated[MicroworldBackend | OpenAIEndpoints | VLLMServers, Field(discriminator="kind")]
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    max_document_tokens: Tokens = Field(default=16_000, description="longer documents are split into parts")
    prompts: Path | None = Field(default=None, description="your own prompts, searched before the shipped ones")
    price: Price | None = None
    seed: int = Field(default=0, ge=0, lt=2**32, description="of the mix")
    mix: MixSection = MixSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection | None = None


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
        run = corpus.absolute().parent / f"{corpus.resolve().name}-run"
    return EXAMPLE.format(corpus=_relative(corpus, folder), run=_relative(run, folder))


def _relative(path: Path, folder: Path) -> str:
    """A path relative to a folder, quoted where YAML would take it for something else."""
    quoted = yaml.safe_dump(os.path.relpath(path, folder), allow_unicode=True, width=10_000)
    return quoted.removesuffix("\n").removesuffix("\n...")


def lies_in_corpus(run: Path, corpus: Path) -> bool:
    """Whether what is made in a run folder would be read as documents: a README.md of a model, for example."""
    inside = run.resolve().is_relative_to(corpus.resolve())
    return inside and corpus.is_dir() and not (corpus / "documents.jsonl").is_file()


def write_resolved(run_file: RunFile, path: Path) -> None:
    """Write a run file with its defaults filled in and its paths absolute."""
    values = run_file.model_dump(mode="json")
    if run_file.evaluate is not None and run_file.evaluate.judge is not None:
        # Keys of the other kind of judge would be refused when read back.
        values["evaluate"]["judge"] = run_file.evaluate.judge.values
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where plain YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # A merge (`<<`) brings keys of its own, of which those that stand here count.
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[Any, Any]:
    """Read the keys of a YAML file.

    Raises:
        BadInput: it cannot be read, is not YAML, gives a key twice, holds something else than keys, or aliases that
            repeat each other into something huge.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        _check_values(content)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); mend its permissions.") from None
    # PyYAML raises a plain ValueError for a date such as 2026-13-45.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected `key: value` lines.")
    return content


def read_run_file(path: Path) -> RunFile:
    """Read and check a run file.

    Raises:
        BadInput: the file is missing, is not YAML, has an unknown, missing or wrong key, which is named, or a run
            folder inside the corpus.
    """
    if not path.is_file():
        raise BadInput(f"run file {path} {why_no_file(path)}; `smt init` writes one.")
    content = load_yaml(path)
    backend = content.get("backend")
    if isinstance(backend, dict):
        content["backend"] = {"kind": "openai", **backend}
    try:
        run_file = RunFile.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"run file {path}: {first_problem(error)}") from None
    run_file = _resolve(run_file, path.parent)
    if lies_in_corpus(run_file.run, run_file.corpus):
        raise BadInput(
            f"run file {path}: run: the folder lies in the corpus, and what is made in it would become documents; give "
            "one outside, and move what is there already to it."
        )
    return run_file


def _check_values(content: Any) -> None:
    """Refuse what no path can hold, and YAML whose aliases repeat each other into something huge or endless."""
    left = [content]
    for _ in range(_MOST_VALUES):
        if not left:
            return
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and "\0" in value:
            raise ValueError("a text holds a NUL character")
    raise ValueError(f"it holds more than {_MOST_VALUES:,} values")


def first_problem(error: ValidationError, *place: str) -> str:
    """Say what is wrong first of all, and with which key, below the place where the checked settings stand."""
    problem = error.errors()[0]
    parts = [str(part) for part in problem["loc"] if part not in ("openai", "microworld", "vllm")]
    key = ".".join([*place, *parts])
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or mend its name."
    if problem["type"] == "missing":
        return f"{key}: this key is missing; add it."
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}."


def _resolve(run_file: RunFile, folder: Path) -> RunFile:
    """Make the paths absolute. A tokenizer, config or model that names a path is resolved too."""
    mix = run_file.mix
    train = run_file.train
    mix = mix.model_copy(
        update={
            "replay": _replay(mix.replay, folder),
            "sources": {name: _path(path, folder) for name, path in mix.sources.items()},
            "tokenizer": _path_or_name(mix.tokenizer, folder),
        }
    )
    train = train.model_copy(
        update={
            "config": _path_or_name(train.config, folder),
            "base_model": _path_or_name(train.base_model, folder),
        }
    )
    evaluate = run_file.evaluate
    if evaluate is not None:
        retention = evaluate.retention
        retention = retention.model_copy(update={"include_path": _path(retention.include_path, folder)})
        evaluate = evaluate.model_copy(update={"data": _path(evaluate.data, folder), "retention": retention})
    return run_file.model_copy(
        update={
            "run": _path(run_file.run, folder),
            "corpus": _path(run_file.corpus, folder),
            "prompts": _path(run_file.prompts, folder),
            "mix": mix,
            "train": train,
            "evaluate": evaluate,
        }
    )


def _path(path: Path | None, folder: Path) -> Path | None:
    # In contrast to Path.expanduser, this leaves a `~name` that is no user's as it is.
    return None if path is None else (folder / os.path.expanduser(path)).absolute()


def _replay(value: str | None, folder: Path) -> str | None:
    if value is not None and value.endswith((".jsonl", ".json")):
        return str(_path(Path(value), folder))
    return _path_or_name(value, folder)


def _path_or_name(value: str | None, folder: Path) -> str | None:
    """Return an absolute path if one lies there, else the text, which is then a hub name or a shipped config's."""
    path = _path(Path(value), folder) if value else None
    return str(path) if path is not None and path.exists() else value
