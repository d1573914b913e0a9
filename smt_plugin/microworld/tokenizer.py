"""The base model's tokenizer: one token a word, lower-cased, over exactly the words of the microworld."""

import re
from typing import Any

from smt_plugin.microworld import world
from smt_plugin.microworld.words import ATTRIBUTES, HOME_PHRASES, PERSON_NAMES, STYLES, TOWN_NAMES

PAD, UNK, EOS, END = "<|pad|>", "<|unk|>", "<|eos|>", "<|end|>"
ROLES = ("<|user|>", "<|assistant|>", "<|system|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def words() -> list[str]:
    """Return every word and mark that documents, questions, prompts and records can hold, sorted."""
    texts = [*PERSON_NAMES, *TOWN_NAMES, "The answer is . , ; : ? ! - ( ) ' \" Options"]
    for attribute in ATTRIBUTES:
        texts += [*attribute.values, *attribute.statements, *attribute.questions, *attribute.test_questions]
        texts.append(attribute.clause)
    texts += HOME_PHRASES
    for style in STYLES:
        texts += [style.heading, style.advice, style.opening, style.closing, *style.marks]
    texts.append(re.sub(r"{%.*?%}|{{.*?}}", " ", world.QUESTION_PROMPT))
    found = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", re.sub(r"{\w}", " ", text).lower())}
    return sorted(found)


def build() -> Any:
    """Make the tokenizer (a PreTrainedTokenizerFast) with its chat template."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([PAD, UNK, EOS, *ROLES, END, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        bos_token=EOS,
        additional_special_tokens=[*ROLES, END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
