"""Make a Llama of 1.8 million weights that writes like a Markov chain, with tokenizer and chat template.

    python tests/vllm_server/markov_llama.py FOLDER

Its attention and MLP layers add nothing, so the next token depends on the last one alone, however long the
prompt is. It knows nothing, but what it writes has the form of a reply: `## ` headings over sentences, a
statement such as "The answer is (B)." at the end, and, where a server holds it to a JSON schema, strings that
close by themselves.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

CONTEXT_TOKENS = 32768
VOCABULARY = 4096
BEGIN, END, START_HEADER, END_HEADER, END_OF_TEXT, PAD = SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|end_of_text|>",
    "<|pad|>",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Line breaks are one token, so that what follows a blank line is not what follows a heading; so is the
# statement of an answer, which a chain of words would lose its way in.
SPLIT = r" The answer is \([A-D]\)\.| ?\p{L}+| ?\p{N}{1,3}|\n+|\s+(?!\S)|\s+|[^\s\p{L}\p{N}]+"


def make_markov_llama(folder: Path, layers: int = 4) -> Path:
    """Write model and tokenizer to `folder` and return it; whatever `layers`, which add nothing, it writes the same."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    replies = list(_replies())
    tokenizer = _tokenizer(replies)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_theta=500000.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).float()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    _learn_pairs(model, [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies])
    model.save_pretrained(folder)
    return folder


def _replies() -> Iterator[str]:
    """Yield texts such as a generator writes, each between the end of a prompt and the end of a turn.

    Their sentences are those of the Python manual, the only long English text that every Python has. Every
    fourth ends with a quotation mark, which is what closes a string where a server demands JSON.
    """
    sentences = []
    for paragraph in "\n\n".join(topics.values()).split("\n\n"):
        plain = re.sub(r"[^\w\s.,;:()'-]", "", " ".join(paragraph.split()))
        sentences += re.findall(r"(?:^|(?<=\. ))[A-Z][a-z]*(?: [\w,;:()'-]+){5,40}\.(?= |$)", plain)
    closed = [s + '"' if index % 4 == 0 else s for index, s in enumerate(sentences)]
    sections = [
        f"## {' '.join(re.findall(r'[A-Za-z]+', closed[start])[:5])}\n{' '.join(closed[start : start + 2])}"
        for start in range(0, len(closed), 2)
    ]
    for number, start in enumerate(range(0, len(sections), 3)):
        statement = f" The answer is ({'ABCD'[number % 4]})."
        yield "\n\n" + "\n\n".join(sections[start : start + 3]) + statement + END


def _tokenizer(replies: list[str]) -> Any:
    """Train a byte-level BPE on the replies."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((reply.removesuffix(END) for reply in replies), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START_HEADER, END_HEADER, END_OF_TEXT],
        model_max_length=CONTEXT_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def _learn_pairs(model: Any, sequences: list[list[int]], steps: int = 30) -> None:
    """Fit embedding and head to how often each token follows each other one."""
    import torch

    counts = torch.zeros(VOCABULARY, VOCABULARY)
    for sequence in sequences:
        ids = torch.tensor(sequence)
        counts.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
    known = counts.sum(1).nonzero().squeeze(1)
    wanted = counts[known] / counts[known].sum(1, keepdim=True)
    weight = counts[known].sum(1).sqrt()
    weight /= weight.sum()
    optimizer = torch.optim.Adam([model.model.embed_tokens.weight, model.lm_head.weight], lr=0.05)
    for _ in range(steps):
        logits = model.lm_head(model.model.norm(model.model.embed_tokens(known)))
        loss = -(weight * (wanted * logits.log_softmax(-1)).sum(-1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    make_markov_llama(Path(sys.argv[1]))
