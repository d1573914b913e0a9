"""Make chat-control tokens in a text harmless, so that data cannot end a turn or open another."""

import re
from collections.abc import Iterable

# The families that chat models use. Whatever has bars in angle brackets, <|im_end|> of Qwen, Kimi, Phi, Llama 3 and 4,
# Granite, Command R, gpt-oss, Jamba and most others, <｜User｜> of DeepSeek and Hunyuan, <|turn> of Gemma 4; [|user|]
# of EXAONE and BlueLM; <<SYS>> of Llama 2; [INST] and what followed it of Mistral; [gMASK] and <sop> of GLM; marks of
# sentences, turns, thoughts, tool calls and of the middle that is to be filled in.
_ANY_CASE = (
    r"<(?=/?[|｜][^\s<>]{1,64}>|[^\s<>|｜]{1,64}[|｜]>)"
    r"|\[(?=\|[^\s\[\]]{1,64}\|\])"
    r"|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|SYSTEM_PROMPT|MODEL_SETTINGS|ARGS|CALL_ID|THINK"
    r"|IMG|IMG_BREAK|IMG_END|gMASK|sMASK|UNUSED_TOKEN_\d+|unused\d+|@BOS@)\])"
    r"|<(?=<SYS>>|</SYS>>)"
    r"|<(?=/?(?:s|bos|eos|eod|eot|pad|unk|mask|sep|cls|(?:bos|eos|pad|mask|eop)_token|sop|eop|eoh|eoa|mask:\d+"
    r"|(?:start|end|beginning)_of_(?:turn|image|audio|speech|video|sentence|text)|(?:image|audio)_soft_token"
    r"|(?:start|end)_function_(?:call|response|declaration)|think|tool_calls?|tool_responses?|arg_key|arg_value"
    r"|fim[_-](?:prefix|middle|suffix|pad)|file_sep|endoftext"
    # Nemotron and Apertus; Gemma; Seed; MiniMax; LongCat; T5 and older Nemotrons; Baichuan; TeleChat.
    r"|SPECIAL_\d+|unused\d+|seed:\w+|minimax:\w+|longcat_\w+|extra_id_\d+|reserved(?:_token)?_\d+"
    r"|_(?:start|end|user|bot|system|observation|pad))>)"
)
# What in small letters, or with anything else in it, is ordinary text: Mistral's, Kimi's and EXAONE's; Baichuan-M1's;
# the roles of Ling and Ring; MiniMax's; Falcon's.
_THIS_CASE = (
    r"\[(?=(?:PREFIX|MIDDLE|SUFFIX|AUDIO|BEGIN_AUDIO|TRANSCRIBE|BOS|EOS|EOT)\])"
    r"|<(?=(?:B_U?SYS|B_APE|B_FUNC|B_CODE|[CH]_[QA])>)"
    r"|<(?=role>\s*(?:HUMAN|SYSTEM|ASSISTANT|OBSERVATION)\s*</role>)"
    r"|\](?=~!?b[\[\]]|![pd]~\[|<\][a-z ]{1,32}\[>\[)|\[(?=e~\[)"
    r"|>(?=>(?:TITLE|ABSTRACT|INTRODUCTION|SUMMARY|COMMENT|ANSWER|QUESTION|DOMAIN|PREFIX|SUFFIX|MIDDLE)<<)"
)
_CONTROL = re.compile(f"(?i:{_ANY_CASE})|{_THIS_CASE}")


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
