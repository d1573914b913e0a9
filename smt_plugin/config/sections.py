"""The sections of a run file and their keys: the one place that defines and explains each."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from smt_plugin.config.retrieval import MINILM, Endpoint, default_retrieval
from smt_plugin.config.values import (
    NO_THINKING,
    OPTIONS_HELP,
    PathOrName,
    Replay,
    RequestOptions,
    RunPath,
    Section,
    Tokens,
    checked_url,
)


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError("not a name of an environment variable; the key itself must not stand in a run file")
    return name


class MicroworldBackend(Section):
    """The scripted backend of the microworld; see microworld/scripted.py."""

    kind: Literal["microworld"]
    strength: float = Field(default=0.9, ge=0, le=1, description="how good a generator it plays")
    question_coverage: float = Field(
        default=1, gt=0, le=1, description="share of a document's facts that its questions are ever about"
    )
    error_rate: float = Field(
        default=0, ge=0, le=1, description="how often it tells a fact with a wrong value, the same one each time"
    )


class _Client(Section):
    """What the client of OpenAI-compatible endpoints has to know."""

    model: str
    max_concurrency: int = Field(default=256, ge=1, description="requests in flight at most")
    timeout: float = Field(default=1800, gt=0, description="seconds for one request")
    patience: float = Field(default=600, gt=0, description="seconds without any answer before giving up")
    structured_output: bool = Field(default=True, description="send JSON schemas where a method has one")
    options: RequestOptions = Field(default={}, description=f"fields of every request: {OPTIONS_HELP}")


class OpenAIEndpoints(_Client):
    """Any OpenAI-compatible endpoint, vLLM's among them; several of them serve the same model."""

    kind: Literal["openai"] = "openai"
    endpoints: list[Annotated[str, AfterValidator(checked_url)]] = Field(min_length=1)
    api_key_variable: Annotated[str, AfterValidator(_variable)] = "OPENAI_API_KEY"


class VLLMServers(_Client):
    """`vllm serve`, started for the run and stopped after it; see backends/vllm_server.py."""

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


def _with_kind(backend: Any) -> Any:
    return {"kind": "openai", **backend} if isinstance(backend, dict) else backend


BackendSection = Annotated[
    MicroworldBackend | OpenAIEndpoints | VLLMServers, Field(discriminator="kind"), BeforeValidator(_with_kind)
]


class Price(Section):
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


class MixSection(Section):
    """What goes into the training files; see mixing/mix.py."""

    tokenizer: PathOrName | None = Field(
        default=None, description="folder or hub name of the target model's; default: that of train"
    )
    tokens: Tokens | None = Field(
        default=None,
        description="budget of the records (without replay), counted by that tokenizer; default: as much as the "
        "scarcest source allows at exactly these shares",
    )
    budgets: list[Tokens] = Field(
        default=[], description="several budgets in place of `tokens`: nested mixes in `<run>/mix/10M/` and so on"
    )
    # Within these bounds sums and quotients stay finite.
    shares: dict[str, Annotated[float, Field(ge=1e-9, le=1e9)]] = Field(
        default={"synthetic_qa": 1.0, "focal_rewrite": 1.0},
        min_length=1,
        description="method, or name in `sources`, -> weight by tokens; default: questions : documents = 1 : 1",
    )
    sources: dict[str, RunPath] = Field(
        default={},
        description="name -> JSONL file or folder of them from elsewhere, such as another run's "
        "`records/synthetic_qa.jsonl`: lines with `text` or `messages`",
    )
    replay: Replay | None = Field(
        default=None,
        description="general text (`text` or `messages` lines): a JSONL file, a data set's folder or its name on the "
        "hub, which is streamed",
    )
    replay_config: str | None = Field(default=None, description="of a data set; FineWeb's default is sample-10BT")
    replay_split: str = Field(default="train", description="of a data set")
    replay_share: float = Field(default=0.1, ge=0, lt=1, description="the replay's part of all tokens")
    qa_form: Literal["chat", "text"] = Field(
        default="chat", description="answers in the chat template, or questions and answers as plain text"
    )
    near_duplicates: float = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="records that share this part of their shingles (see near_duplicates.py), and all numbers, with an "
        "earlier one are dropped; 1 drops exact duplicates alone. 0.8 is what SlimPajama took",
    )
    validation_rounds: int = Field(
        default=0,
        ge=0,
        description="so many of the last rounds of each document are held out for validation, where there are more; no "
        "document is left out of training",
    )
    sequence_len: int = Field(
        default=2048,
        ge=32,
        description="longest text in tokens; longer documents are cut, longer dialogues dropped",
    )
    provenance: bool = Field(
        default=False,
        description="whether `provenance/` beside the training files says of each row which record and which passage "
        "of its document it comes from",
    )

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, shares: dict[str, float]) -> dict[str, float]:
        if "replay" in shares:
            raise ValueError("`replay` has a key of its own, mix.replay_share; take it out here")
        return shares

    @field_validator("sources")
    @classmethod
    def _check_sources(cls, sources: dict[str, Path], info: ValidationInfo) -> dict[str, Path]:
        for name in sources:
            if name not in info.data.get("shares", sources):
                raise ValueError(f"{name} has no share; add it to mix.shares with a weight")
        return sources

    @model_validator(mode="after")
    def _check(self) -> "MixSection":
        if self.tokens is not None and self.budgets:
            raise ValueError("tokens and budgets are both given; take one of them out")
        return self

    @property
    def budget_key(self) -> str:
        """The key of the run file that sets the budget."""
        return "mix.budgets" if self.budgets else "mix.tokens"


class TrainSection(Section):
    """The axolotl config to start from, and the model to train."""

    config: PathOrName = Field(default="llama-3.1-8b/full", description="a shipped config's name, or a path")
    base_model: PathOrName | None = Field(default=None, description="default: what the config says")


class JudgeSection(Section):
    """The model that judges free-form answers and records; an endpoint's API key comes from SMT_JUDGE_API_KEY.

    The options turn thinking off where the chat template knows it; a server that refuses them is asked without.
    A server of our own is started when it is first needed and ends with the process, its log is in the cache folder;
    the command `env CUDA_VISIBLE_DEVICES=1 vllm serve` gives it a GPU of its own. The microworld's judge knows that
    world's grammar, and judges records alone.
    """

    kind: Literal["openai", "vllm", "microworld"] = Field(
        default="openai",
        description="an endpoint, a `vllm serve` of our own, or the microworld's, which is always right",
    )
    endpoint: Annotated[str, AfterValidator(checked_url)] | None = Field(
        default=None, description="base URL of any OpenAI-compatible server"
    )
    model: str = Field(default="Qwen/Qwen3-14B", min_length=1)
    options: RequestOptions = Field(
        default=NO_THINKING,
        description=f"fields of every request: {OPTIONS_HELP}",
    )
    concurrency: int = Field(default=16, ge=1, description="requests in flight at most")
    timeout: float = Field(default=600, gt=0, description="seconds for one request")
    patience: float = Field(default=300, gt=0, description="seconds without any answer before giving up")
    command: list[str] = Field(default=["vllm", "serve"], min_length=1, description="up to the model's name")
    arguments: dict[str, Any] = Field(default={}, description="options of vllm serve, without dashes")
    startup_timeout: float = Field(default=1800, gt=0, description="seconds")
    price: Price | None = Field(default=None, description="what it costs, for `smt audit` and the gate")

    @model_validator(mode="before")
    @classmethod
    def _name_microworld(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kind") != "microworld":
            return values
        if values.keys() - {"kind"}:
            raise ValueError("the microworld's judge has nothing to set; leave `kind: microworld` alone")
        return values | {"model": "microworld"}

    @model_validator(mode="after")
    def _check(self) -> "JudgeSection":
        if (self.kind == "openai") != (self.endpoint is not None):
            raise ValueError("give `endpoint: http://...`, or `kind: vllm` to start a server here, and not both")
        if self.kind == "openai" and self.model_fields_set & {"command", "arguments", "startup_timeout"}:
            raise ValueError("command, arguments and startup_timeout are for `kind: vllm`; remove them")
        return self

    @property
    def values(self) -> dict[str, Any]:
        """What lm_eval's --metadata gets as `judge`: the keys of this kind, without the pace where it is not set.

        What it costs changes no answer.
        """
        if self.kind == "microworld":
            return {"kind": self.kind}
        unused = {"endpoint"} if self.kind == "vllm" else {"kind", "command", "arguments", "startup_timeout"}
        return self.model_dump(
            exclude={"price"} | unused | ({"concurrency", "timeout", "patience"} - self.model_fields_set)
        )


class RetentionSection(Section):
    """Which of lm-eval's own tasks to run before and after training; see docs/evaluation.md."""

    tasks: list[str] = Field(
        default=["arc_challenge", "hellaswag", "winogrande", "gsm8k", "ifeval"],
        min_length=1,
        description="names of lm-eval's tasks",
    )
    include_path: RunPath | None = Field(default=None, description="folder of task files that lm-eval does not have")
    limit: int | None = Field(default=500, ge=1, description="questions a task; null for all")


class LeaksSection(Section):
    """How `smt leaks` finds questions that are asked in other words; cosines from which two questions are one."""

    embedding: str = Field(
        default=MINILM,
        description="as of retrieval; a multilingual model also finds questions in other languages",
    )
    embedding_endpoint: Endpoint = Field(default="", description="as of retrieval")
    alike: float = Field(default=0.93, gt=0, le=1, description="cosine from which two questions are the same")
    alike_told: float = Field(default=0.85, gt=0, le=1, description="where the record tells the right answer, too")


class EvaluateSection(Section):
    """Which lm-eval tasks to run on which arms; see evaluation/arms.py."""

    benchmark: str
    data: RunPath | None = Field(default=None, description="folder of the benchmark's files")
    arms: list[str] = Field(default=["base", "base_rag", "base_full", "trained", "trained_rag"], min_length=1)
    model: str = Field(default="hf", description="lm-eval's --model")
    model_args: str = Field(default="", description="added to lm-eval's --model_args")
    options: dict[str, Any] = Field(
        default={"chat_template_kwargs": {"enable_thinking": False}},
        description="added to every request where the model is a server's; {} for servers that refuse unknown options",
    )
    batch_size: str = Field(
        default="auto",
        description="lm-eval's --batch_size; `auto` is 8 where `hf` finds no GPU, see evaluation/evaluate.py",
    )
    limit: int | None = Field(
        default=None, ge=1, description="questions a task, for a quick look, spread over the documents"
    )
    cut_documents: bool = Field(
        default=False,
        description="whether the full-document arms may lose the ends of documents that are too long for the model's "
        "context; else such a document is an error",
    )
    retrieval: dict[str, Any] = Field(
        default={}, description="of the RetrievalSettings those that the RAG arms change, or a `preset` of them"
    )
    judge: JudgeSection | None = Field(default=None, description="for free-form questions")
    read_by_judge: bool = Field(
        default=False,
        description="whether the judge also reads the answers to multiple choice of which code reads no option; the "
        "report tells how many",
    )
    retention: RetentionSection = RetentionSection()
    leaks: LeaksSection = LeaksSection()

    @field_validator("read_by_judge")
    @classmethod
    def _check_reader(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("judge") is None:
            raise ValueError("there is no judge; set evaluate.judge to {endpoint: http://..., model: ...}")
        return value

    @field_validator("retrieval")
    @classmethod
    def _check_retrieval(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Keep the mapping as it was written: what it leaves out may have been tuned, and lm_eval is told no more."""
        default_retrieval(info.data.get("benchmark", "")).changed(values)
        return values


class TranscribeSection(Section):
    """The vision model that reads pages without text; see generation/transcribe.py."""

    backend: Annotated[OpenAIEndpoints | VLLMServers, Field(discriminator="kind"), BeforeValidator(_with_kind)]
    # olmOCR's own size (its model card).
    longest_side: int = Field(default=1288, ge=256, le=8192, description="of a page's image, in pixels")
    max_tokens: int = Field(default=4096, ge=64, description="longest reply to a page, in tokens")
    price: Price | None = Field(default=None, description="as `price` of the run file, for this model")


GateKinds = list[Literal["number", "date", "quotation", "name", "judge"]]


class RunFile(Section):
    """A whole run. Relative paths are relative to the run file's folder."""

    run: RunPath = Field(description="the run folder; made if it is not there")
    corpus: RunPath
    backend: BackendSection
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    max_document_tokens: Tokens = Field(default=16_000, description="longer documents are split into parts")
    prompts: RunPath | None = Field(default=None, description="your own prompts, searched before the shipped ones")
    language: str | None = Field(
        default=None, min_length=1, description="of records and questions; default: the model's choice"
    )
    gate: GateKinds = Field(
        default=[],
        description="kinds of findings for which a reply is asked again, and a record then rejected; `judge` for what "
        "evaluate.judge finds wrong",
    )
    price: Price | None = None
    seed: int = Field(default=0, ge=0, lt=2**32, description="of the mix")
    mix: MixSection = MixSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection | None = None
    transcribe: TranscribeSection | None = None

    @model_validator(mode="after")
    def _check(self) -> "RunFile":
        if "judge" in self.gate and (self.evaluate is None or self.evaluate.judge is None):
            raise ValueError(
                "gate: `judge` is among its kinds and the run file has no evaluate.judge; add one, or take it out"
            )
        return self
