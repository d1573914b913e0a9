"""Make chat-control tokens in a text harmless, so that data cannot end a turn or open another."""

import re
from collections.abc import Iterable

# The families that chat models use: <|im_end|> and the like, also with one bar (Gemma 4) or in brackets (EXAONE), those
# of Llama 2 and Mistral, of older Gemmas, of DeepSeek, thoughts and tool calls as of Qwen3, and sentence marks.
_CONTROL = re.compile(
    r"<(?=[|｜][^\s<>]{1,64}>|[^\s<>|｜]{1,64}[|｜]>)"
    r"|\[(?=\|[^\s\[\]]{1,64}\|\])"
    r"|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|SYSTEM_PROMPT|MODEL_SETTINGS|ARGS|CALL_ID|THINK"
    r"|IMG|IMG_BREAK|IMG_END|gMASK)\])"
    r"|<(?=<SYS>>|</SYS>>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image|sop|eop|think|tool_call"
    r"|tool_response|SPECIAL_\d+|unused\d+|seed:\w+)>)",
    re.IGNORECASE,
)


def defuse(text: str, special: Iterable[str] = ()) -> str:
    """Return the text with a space after the first character of each control token, which breaks it up.

    Args:
        special: more tokens, such as those that a tokenizer declares special.
    """
    text = _CONTROL.sub(lambda match: match[0] + " ", text)
    for token in special:
        broken = f"{token[:1]} {token[1:]}"
        # Repeated, since what is left may hold a token that shared a character with the one before.
        while len(token) > 1 and token in text and token not in broken:
            text = text.replace(token, broken)
    return text
