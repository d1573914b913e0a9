"""Make the tiny base model: a Llama of about a million parameters that can read what is in its context.

    python -m smt_plugin.microworld.pretrain --out smt_plugin/microworld/base_model [--device cuda]

trains from scratch on the endless stream of stream.py. The first third of the steps has one article a chat: without
that it does not learn to read. A model that was made so, by the same settings, is kept.
"""

import argparse
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from smt_plugin.files import read_json_if_there, write_json
from smt_plugin.microworld import tokenizer, world
from smt_plugin.microworld.stream import Messages, stream

STEPS = 4500
BATCH_TOKENS = 3072
LEARNING_RATE = 2e-3
MUON_RATE = 3e-3
# (until this share of the steps, articles in a chat, facts in an article)
CURRICULUM = ((0.2, 1, 3), (0.35, 1, 99), (1.0, 3, 99))
HIDDEN_SIZE = 128
HEAD_SIZE = 32
LAYERS = 4


class Pretraining(TypedDict):
    """What a model was made with, and how long that took."""

    settings: dict[str, int]
    seconds: float


def encode(item: str | Messages, encoder: Any, all_tokens: bool) -> tuple[list[int], list[bool]]:
    """Return token ids and which of them are learnt: a plain text's, the assistant's, or all if so asked."""
    ids: list[int] = []
    learnt: list[bool] = []
    if isinstance(item, str):
        ids = encoder(item + tokenizer.EOS)["input_ids"]
        return ids, [True] * len(ids)
    for message in item:
        part = encoder(f"<|{message['role']}|>{message['content']}{tokenizer.END}")["input_ids"]
        ids += part
        assistant = message["role"] == "assistant"
        learnt += [False] + [assistant or all_tokens] * (len(part) - 1)
    return ids, learnt


def _batches(seed: int, encoder: Any, most_articles: int, most_facts: int) -> Iterator[tuple[Any, Any]]:
    """Yield (ids, labels), padded on the right, of about BATCH_TOKENS tokens and similar lengths."""
    import torch

    rng = random.Random(f"pretrain-{seed}")
    source = stream(rng, most_articles, most_facts)
    while True:
        drawn = [encode(next(source), encoder, rng.random() < 0.1) for _ in range(128)]
        drawn.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in drawn:
            if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            padded = torch.zeros((len(group), width), dtype=torch.long)
            labels = torch.full((len(group), width), -100)
            for i, (ids, learnt) in enumerate(group):
                padded[i, : len(ids)] = torch.tensor(ids)
                labels[i, : len(ids)] = torch.where(torch.tensor(learnt), torch.tensor(ids), -100)
            yield padded, labels


def train(out: Path, device: str = "cpu", steps: int = STEPS, seed: int = 0, hidden_size: int = HIDDEN_SIZE) -> None:
    """Pretrain and write model, tokenizer and generation config to `out`, in fp16; prints progress.

    Args:
        hidden_size: a multiple of 32; the model has a million parameters at 128.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    encoder = tokenizer.build()
    end, eos = encoder.convert_tokens_to_ids([tokenizer.END, tokenizer.EOS])
    config = LlamaConfig(
        vocab_size=len(encoder),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 11 // 4,
        num_hidden_layers=LAYERS,
        num_attention_heads=hidden_size // HEAD_SIZE,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=encoder.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(device)
    # Muon learns to read in far fewer steps than AdamW alone.
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    outer = [p for p in model.parameters() if p.ndim == 1 or p is model.model.embed_tokens.weight]
    optimizers = [
        torch.optim.Muon(inner, lr=MUON_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda i: min(1, (i + 1) / 100, 1.1 - i / steps)) for o in optimizers
    ]
    phases = [(until * steps, _batches(seed, encoder, *most)) for until, *most in CURRICULUM]
    started = time.time()
    for step in range(steps):
        ids, labels = next(next(batches for until, batches in phases if step < until))
        ids, labels = ids.to(device), labels.to(device)[:, 1:]
        with torch.autocast(device, dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            # Only the learnt positions go through the output layer, which is half of the cost otherwise.
            logits = model.lm_head(hidden[labels != -100])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[labels != -100])
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}  loss {loss.item():.3f}  {time.time() - started:.0f} s", flush=True)
        if (step + 1) % 500 == 0 or step == steps - 1:
            model.generation_config = GenerationConfig(
                eos_token_id=[end, eos], pad_token_id=encoder.pad_token_id, do_sample=False
            )
            print(f"step {step}  {evaluate(model, encoder, seed=1001, limit=60)}", flush=True)
    # Not before: nothing would tell a model that has not learnt to read yet from one that has.
    model.half().save_pretrained(out)
    encoder.save_pretrained(out)


def evaluate(model: Any, encoder: Any, seed: int, limit: int = 300) -> dict[str, float]:
    """Accuracy on an archive's questions: closed-book, with the evidence, and with it among three articles."""
    texts = {document.id: world.passage(document.title, document.text) for document in world.documents(seed)}
    rows = world.questions(seed)[:limit]
    rng = random.Random(seed)
    evidence = [list(row["meta"]["evidence"]) for row in rows]
    among = [shown + rng.sample(sorted(set(texts) - set(shown)), 3 - len(shown)) for shown in evidence]
    contexts = {"closed": [[] for _ in rows], "full": evidence, "among 3": [rng.sample(ids, 3) for ids in among]}
    scores = {}
    for name, shown in contexts.items():
        prompts = [
            world.question_prompt(row["question"], row["options"], [texts[i] for i in ids])
            for row, ids in zip(rows, shown, strict=True)
        ]
        right = [is_right(reply, row) for reply, row in zip(answer(model, encoder, prompts), rows, strict=True)]
        scores[name] = round(sum(right) / len(right), 3)
        for kind in ("one fact", "two facts"):
            of_kind = [r for r, row in zip(right, rows, strict=True) if row["meta"]["kind"] == kind]
            scores[f"{name}, {kind}"] = round(sum(of_kind) / max(1, len(of_kind)), 3)
    return scores


def answer(model: Any, encoder: Any, prompts: list[str], batch: int = 64) -> list[str]:
    """Greedy replies to user messages."""
    import torch

    encoder.padding_side = "left"
    replies = []
    for start in range(0, len(prompts), batch):
        texts = [f"<|user|>{p}<|end|><|assistant|>" for p in prompts[start : start + batch]]
        inputs = encoder(texts, return_tensors="pt", padding=True, return_token_type_ids=False).to(model.device)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        replies += encoder.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


def is_right(reply: str, row: dict[str, Any]) -> bool:
    """Whether the last "the answer is X" of a reply names the right option."""
    said = re.findall(r"the answer is (.+?) ?\.", reply.lower())
    return bool(said) and said[-1] == str(row["options"][row["answer"]]).lower()


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Pretrain the microworld's base model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    sizes = range(HEAD_SIZE, 1025, HEAD_SIZE)
    parser.add_argument("--hidden-size", type=int, default=HIDDEN_SIZE, choices=sizes, metavar="SIZE")
    arguments = parser.parse_args()
    settings = {"steps": arguments.steps, "seed": arguments.seed, "hidden_size": arguments.hidden_size}
    record = arguments.out / "pretraining.json"
    made = read_json_if_there(record, Pretraining, "smt_plugin.microworld.pretrain")
    if made is not None and made["settings"] == settings:
        print(f"{arguments.out} is kept: it was pretrained so before, in {made['seconds']:.0f} s")
        return
    record.unlink(missing_ok=True)
    started = time.monotonic()
    train(arguments.out, arguments.device, **settings)
    write_json(record, {"settings": settings, "seconds": time.monotonic() - started})


if __name__ == "__main__":
    main()
