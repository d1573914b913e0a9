"""Take a model's thoughts off its reply, in whatever form a server leaves them in the text."""

import re

# (opening, closing) marks of thoughts, as the models' own chat templates write them: DeepSeek, Qwen, GLM and many more;
# Magistral; Seed; Kimi; Cohere; Apertus; OpenThinker; MedGemma; Gemma 4. The reply follows their end.
_MARKS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "thoughts", "reasoning", "reflection")),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<unused94>", "<unused95>"),
    ("<|channel>thought", "<channel|>"),
)
# gpt-oss writes channels; a server that drops special tokens leaves their bare names.
_CHANNEL = re.compile(r"<\|channel\|>final.*?<\|message\|>|(?<=assistant)final(?=\W|[A-Z])", re.DOTALL)
_OPENED_CHANNEL = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>(?!final)|\s*analysis(?=[A-Z])")
# What stands around a reply once the thoughts are off.
_SHELL = re.compile(
    r"<\|(?:begin_of_solution|end_of_solution|START_RESPONSE|END_RESPONSE|return|end)\|>|^\s*</?(?:response|output)>|"
    r"</(?:response|output)>\s*$"
)


def without_thoughts(text: str) -> str | None:
    """Return the reply without its thoughts; None if it holds nothing but thoughts that were cut off."""
    opened = _OPENED_CHANNEL.match(text)
    # All marks begin with one of these; most replies have none, and there are millions of them.
    if not opened and "<" not in text and "[" not in text and "◁" not in text:
        return text
    if opened:
        final = list(_CHANNEL.finditer(text, opened.end()))
        if not final:
            return None
        text = text[final[-1].end() :]
    for opening, closing in _MARKS:
        before, end, rest = text.partition(closing)
        # A chat template may have opened them in the prompt, so that a reply only closes them; marks in the midst of a
        # text are its own.
        while end and (opening not in before or before.lstrip().startswith(opening)):
            text = rest
            before, end, rest = text.partition(closing)
        if text.lstrip().startswith(opening):
            return None
    return _SHELL.sub("", text)
