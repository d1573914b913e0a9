"""Tokenizers of single bytes and random models of some thousand parameters, made on the spot."""

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Style:
    """The special tokens and chat template of one family of models."""

    template: str
    begin: str | None
    end_of_text: str
    pad: str
    specials: tuple[str, ...]

    def replace(self, old: str, new: str) -> "Style":
        """The same style with another template."""
        return replace(self, template=self.template.replace(old, new))


# What Llama 3.1 Instruct's own template writes for plain chats (a system turn only first): begin token from the
# template and from the tokenizer, a system header with two dates first, end of turn = end of text.
LLAMA_LIKE = Style(
    template=(
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% endif %}<|eot_id|>"
        "{% for message in messages if message['role'] != 'system' %}"
        "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    begin="<|begin_of_text|>",
    end_of_text="<|eot_id|>",
    pad="<|finetune_right_pad_id|>",
    specials=("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
)

# What Qwen3's own template writes for plain chats: no begin token, empty thoughts before the last answer, a
# newline after each end of turn; the generation prompt ends in empty thoughts only with thinking off.
QWEN_LIKE = Style(
    template=(
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if message['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
        "{% endif %}"
    ),
    begin=None,
    end_of_text="<|im_end|>",
    pad="<|endoftext|>",
    specials=("<|im_start|>", "<|im_end|>"),
)

# What Gemma 4's own template writes for plain chats in its smaller models: begin token from the template and from the
# tokenizer, a role of its own for the assistant, a turn end that is not the end of text.
GEMMA_LIKE = Style(
    template=(
        "{{ bos_token }}{% for message in messages %}"
        "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
        "{{ message['content'] | trim }}<turn|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
    ),
    begin="<bos>",
    end_of_text="<eos>",
    pad="<pad>",
    specials=("<bos>", "<|turn>", "<turn|>", "<eos>"),
)

# A turn end that is not the end of text, as the microworld has it.
MICROWORLD_LIKE = Style(
    template=(
        "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    begin=None,
    end_of_text="<|eos|>",
    pad="<|pad|>",
    specials=("<|user|>", "<|assistant|>", "<|end|>", "<|eos|>"),
)


def make_tokenizer(folder: Path, style: Style) -> Path:
    """Write a byte-level tokenizer into `folder` and return it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([*style.specials, style.pad])
    if style.begin:
        begin = (style.begin, rust.token_to_id(style.begin))
        rust.post_processor = processors.TemplateProcessing(single=f"{style.begin} $A", special_tokens=[begin])
    PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token=style.begin,
        eos_token=style.end_of_text,
        pad_token=style.pad,
        chat_template=style.template,
    ).save_pretrained(folder)
    return folder


def make_model(folder: Path, architecture: str = "llama") -> Path:
    """Write a random model with room for 320 tokens into `folder` and return it.

    Args:
        architecture: `llama`, `qwen3`, or the text part of `qwen3_5` or `gemma4`.
    """
    import torch
    from transformers import (
        Gemma4ForCausalLM,
        Gemma4TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3_5ForCausalLM,
        Qwen3_5TextConfig,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    # Both kinds of layers of each.
    linear = {
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
        **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
        "layer_types": ["linear_attention", "full_attention"],
    }
    layers = {
        **{"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "global_head_dim": 16},
        "layer_types": ["sliding_attention", "full_attention"],
    }
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**sizes)),
        "qwen3_5": lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**sizes, **linear)),
        "gemma4": lambda: Gemma4ForCausalLM(Gemma4TextConfig(**sizes, **layers)),
    }[architecture]()
    model.save_pretrained(folder)
    return folder
