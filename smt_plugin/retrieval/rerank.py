"""Order the found chunks anew: a cross-encoder, Qwen3-Reranker among them, or a model at an endpoint."""

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from smt_plugin.backends.base import MAX_ATTEMPTS, MOST_UNUSABLE, Refused, first_usable
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.backends.thoughts import without_thoughts
from smt_plugin.config import NO_THINKING, RetrievalSettings
from smt_plugin.errors import BadInput, require
from smt_plugin.prompts import Prompts
from smt_plugin.retrieval.likelihood import Rerank, cannot_load, question_likelihood

log = logging.getLogger(__name__)
API_KEY_VARIABLE = "SMT_RERANKER_API_KEY"
# The form that Qwen3-Reranker was trained on (its model card); sentence-transformers reads yes against no behind it.
_QWEN3_TEMPLATE = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {{ instruction }}\n'
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    '<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>\n'
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ '' }}"
)
_INSTRUCTION = "Given a question about a document, judge whether the passage helps to answer it"


def reranker_of(settings: RetrievalSettings) -> Rerank | None:
    """What `reranker` and `reranker_endpoint` name, or None.

    A causal language model that was not made to rerank, which the files beside its weights or a `rerank` in its name
    would say, ranks by the likelihood of the question; any other model is a cross-encoder.

    Raises:
        BadInput: it cannot be loaded.
    """
    name = settings.reranker
    if not name:
        return None
    if settings.reranker_endpoint:
        return language_model(settings.reranker_endpoint, name, settings.reranker_options)
    require("transformers", "rag")
    from transformers import AutoConfig
    from transformers.utils import cached_file

    try:
        kind = (AutoConfig.from_pretrained(name).architectures or [""])[0]
        made_to_rerank = cached_file(name, "modules.json", _raise_exceptions_for_missing_entries=False) is not None
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from None
    if kind.endswith("ForCausalLM") and not made_to_rerank and "rerank" not in Path(name).name.casefold():
        return question_likelihood(name)
    return cross_encoder(name)


def cross_encoder(name: str) -> Rerank:
    """A cross-encoder of sentence-transformers, by folder or hub name.

    Raises:
        BadInput: it cannot be loaded.
    """
    require("sentence_transformers", "rag")
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer

    processor: dict[str, str] = {}
    try:
        if "qwen3-reranker" in name.casefold() and "query" not in (
            AutoTokenizer.from_pretrained(name).chat_template or ""
        ):
            processor["chat_template"] = _QWEN3_TEMPLATE.replace("{{ instruction }}", _INSTRUCTION)
        model = CrossEncoder(name, trust_remote_code=False, processor_kwargs=processor)
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from None

    def scores(asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        pairs = [(query, text) for query, texts in asked for text in texts]
        found = iter(model.predict(pairs, show_progress_bar=False).tolist()) if pairs else iter(())
        return [[next(found) for _ in texts] for _, texts in asked]

    return scores


def language_model(endpoint: str, name: str, options: dict[str, Any] = NO_THINKING) -> Rerank:
    """A chat model behind an OpenAI-compatible endpoint, which is asked for the order of all texts at once.

    LlamaIndex has such a reranker, too, but it cuts texts at 300 words and takes any reply for an order.

    Args:
        options: set, rename or null fields of every request.

    Raises, when called:
        BadInput: the endpoint cannot be reached or refuses.
        RuntimeError: for more than a fifth of the queries, no reply named any text in some attempts. The texts of
            fewer keep their order, with a warning.
    """

    queries = unread = 0

    def scores(asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        nonlocal queries, unread
        with ThreadPoolExecutor(1) as thread:
            answers = thread.submit(asyncio.run, _ask_all(asked, endpoint, name, options)).result()
        queries += len(asked)
        if replies := [reply for order, reply in answers if not order]:
            unread += len(replies)
            said = (
                f"the reranker {name} named no passage in {MAX_ATTEMPTS} attempts for {unread} of {queries} queries; "
                f"it said: {replies[0][-200:]!r}"
            )
            if unread > queries * MOST_UNUSABLE:
                raise RuntimeError(said)
            log.warning("%s; their passages stay in the order in which they were found.", said)
        return [_scores(order, len(texts)) for (order, _), (_, texts) in zip(answers, asked, strict=True)]

    return scores


async def _ask_all(
    asked: Sequence[tuple[str, Sequence[str]]], endpoint: str, name: str, options: dict[str, Any]
) -> list[tuple[list[int], str]]:
    backend = OpenAIBackend([endpoint], name, os.environ.get(API_KEY_VARIABLE) or None, max_concurrency=64)
    prompts = Prompts()
    try:
        await backend.start()
        return await asyncio.gather(*(_ask(query, texts, options, backend, prompts) for query, texts in asked))
    finally:
        await backend.close()


async def _ask(
    query: str, texts: Sequence[str], options: dict[str, Any], backend: OpenAIBackend, prompts: Prompts
) -> tuple[list[int], str]:
    """The texts that the model named, best first, none where it never named one; and its last reply."""
    # The system text is for writing about a document, which a reranker does not do.
    messages = prompts.messages("rerank/order", query=query, passages=list(texts))[1:]
    try:
        order, reply = await first_usable(
            backend, messages, options, "rerank", read=lambda text: order_in(text, len(texts)) or None
        )
    except Refused as error:
        raise BadInput(f"the reranker {backend.model} refused a request ({error}); use fewer candidates.") from None
    return order or [], reply


def _scores(order: list[int], count: int) -> list[float]:
    """A score for each text: those named first, in their order, then the rest in theirs."""
    places = {index: place for place, index in enumerate(dict.fromkeys([*order, *range(count)]))}
    return [-float(places[index]) for index in range(count)]


def order_in(reply: str, count: int) -> list[int]:
    """The texts (from 0) that the last line of numbers names, each once; what was thought before is not read."""
    for line in reversed((without_thoughts(reply) or "").splitlines()):
        numbers = [int(number) - 1 for number in re.findall(r"\d+", line)]
        if found := list(dict.fromkeys(number for number in numbers if 0 <= number < count)):
            return found
    return []
