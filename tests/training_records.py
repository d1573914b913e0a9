"""Records and replay text of a run, as its mix reads them: chats, documents, and the odd ones among both."""

import json
import random
from pathlib import Path
from typing import Any

QUESTION = {"role": "user", "content": 'Who keeps the lamp in "The Lighthouse"?'}
ANSWER = {"role": "assistant", "content": "The log names the keeper. It is Ada."}
TEXT = "Ada keeps the lamp. She wrote it in the log."

CHATS = [
    [QUESTION, ANSWER],
    [QUESTION, ANSWER, {"role": "user", "content": "Since when?"}, {"role": "assistant", "content": "Since 1952."}],
    [{"role": "system", "content": "Answer from the log."}, QUESTION, ANSWER],
    [
        {"role": "user", "content": "What does the log say?\n\n(Quote it.)"},
        {"role": "assistant", "content": "Ça brûle — “30 years”.\n\n- lamp\n- oil"},
    ],
]
TEXTS = [
    TEXT,
    "# The log\n\nÇa brûle — “30 years”.\n\n\tThe lamp  burned.",
    f"Question: {QUESTION['content']}\nAnswer: {ANSWER['content']}",
]


def write_records(folder: Path, count: int = 0) -> Path:
    """Write `<folder>/run/records/` and `<folder>/replay.jsonl`, and return the run.

    Args:
        count: further chats and documents, each a variation of the first.
    """
    rng = random.Random(0)
    chats, texts = list(CHATS), list(TEXTS)
    for _ in range(count):
        extra = f" Then {rng.randint(1000, 9999)} ships passed."
        chats.append([QUESTION, {**ANSWER, "content": ANSWER["content"] + extra}])
        texts.append(TEXT + extra)
    run = folder / "run"
    (run / "records").mkdir(parents=True)
    for name, form, contents in (("synthetic_qa", "messages", chats), ("focal_rewrite", "text", texts)):
        place = [{"id": f"{name}{n}", "doc_id": "lighthouse", "round": n} for n in range(len(contents))]
        write(
            run / "records" / f"{name}.jsonl",
            [{**where, form: content} for where, content in zip(place, contents, strict=True)],
        )
    other = [{**QUESTION, "content": "How was the weather?"}, {**ANSWER, "content": "It was fair."}]
    weather = [{"text": f"The weather was fair on {rng.randint(1000, 9999)} days."} for _ in range(count)]
    write(folder / "replay.jsonl", [{"text": "The weather was fair."}, {"messages": other}, *weather])
    return run


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
