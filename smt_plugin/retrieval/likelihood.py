"""Order the found chunks by how likely a language model holds the question, given each of them."""

from collections.abc import Callable, Sequence
from typing import Any

from smt_plugin.control_tokens import defuse
from smt_plugin.errors import BadInput, require
from smt_plugin.prompts import Prompts

_BATCH = 8
Rerank = Callable[[Sequence[tuple[str, Sequence[str]]]], list[list[float]]]
"""(query, texts) of some questions -> a score a text, the higher the better."""
_MARK = "\N{WHITE SQUARE}"


def cannot_load(name: str, error: Exception) -> BadInput:
    """The error for a reranker that is not there, or is no model."""
    return BadInput(
        f"the reranker {name!r} cannot be loaded ({error}); give the folder or name of a cross-encoder of "
        "sentence-transformers or of a language model."
    )


def question_likelihood(name: str) -> Rerank:
    """A causal language model, by folder or hub name, as a reranker that nobody trained.

    It reads a text, is told to ask what that text answers, and the score is the mean log-likelihood, in nats a token,
    of the query as its reply (Sachan et al. 2022, "Improving Passage Retrieval with Zero-Shot Question Generation"). A
    text that does not fit the model's context beside the query loses its end.

    Raises:
        BadInput: it cannot be loaded; when called: a query does not fit its context.
    """
    require("transformers", "rag")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_load(name, error) from None
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    before, after = (_tokens(tokenizer, part) for part in _prompt(tokenizer))
    context = model.config.max_position_embeddings

    def scores(asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [of_texts(query, texts) for query, texts in asked]

    def of_texts(query: str, texts: Sequence[str]) -> list[float]:
        wanted = _tokens(tokenizer, defuse(query))
        room = context - len(before) - len(after) - len(wanted)
        if room < 1:
            raise BadInput(
                f"the reranker {name} reads {context} tokens, which a question of {len(wanted)} fills alone; take "
                "another reranker."
            )
        prompts = [[*before, *_tokens(tokenizer, defuse(text))[:room], *after, *wanted] for text in texts]
        found = [0.0] * len(prompts)
        # Prompts of like length together, or short ones are padded to the longest of their batch.
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for index, score in zip(batch, of_batch([prompts[index] for index in batch], wanted), strict=True):
                found[index] = score
        return found

    def of_batch(prompts: list[list[int]], wanted: list[int]) -> list[float]:
        longest = max(map(len, prompts))
        # Padded in front, so that the query stands at the end of every row.
        padding = [longest - len(prompt) for prompt in prompts]
        ids = torch.tensor([[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
        ids, mask = ids.to(model.device), mask.to(model.device)
        with torch.inference_mode():
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=len(wanted) + 1,
                use_cache=False,
            ).logits[:, :-1]
        chosen = logits.float().log_softmax(-1).gather(-1, ids[:, -len(wanted) :, None])
        means: list[float] = chosen.mean((1, 2)).tolist()
        return means

    return scores


def _prompt(tokenizer: Any) -> tuple[str, str]:
    """What the model reads before and after the passage, in its chat template if it has one."""
    # The system text is for writing about a document, which a reranker does not do.
    messages = Prompts().messages("rerank/question", passage=_MARK)[1:]
    if tokenizer.chat_template:
        # Thinking modes are off where the chat template knows them, as in every arm.
        prompt = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    else:
        prompt = f"{tokenizer.bos_token or ''}{messages[0]['content']}\n\nQuestion: "
    before, after = prompt.split(_MARK)
    return before, after


def _tokens(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return found
