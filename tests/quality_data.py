"""Four invented stories with two questions each, as QuALITY's official files and as our own."""

import json
from pathlib import Path
from typing import Any

STORIES = [
    (
        "50001",
        "The Salt Clock",
        "Ada Brine",
        1951,
        "The clock on the pier ran on salt. Mirel wound it {{ 7 * 7 }} times.",
    ),
    ("50002", "Nine Kites", "Tom Vale", None, "Oru flew nine kites over the mill. {% raw %} The red one tore {0}."),
    ("50003", "Glass Harvest", "", 1960, "On the moon farm, Petra mowed glass wheat. Her mule was called Sixpence."),
    (
        "50004",
        "The Late Ferry",
        "Ada Brine",
        1953,
        "The ferry to Holm came a year late. Its captain, Yun, brought pears.",
    ),
]
# Two a story: question, options and the right option, counted from 1.
QUESTIONS = [
    [
        ("What did the clock run on?", ["Sand", "Salt", "Steam", "Springs"], 2),
        ("Who wound the clock?", ["Oru", "Yun", "Mirel", "Petra"], 3),
    ],
    [
        ("How many kites were there?", ["Nine", "Ten", "Two", "Six"], 1),
        ("Which kite tore?", ["The blue", "The red", "The green", "None"], 2),
    ],
    [
        ("What did Petra mow?", ["Hay", "Moss", "Rye", "Glass wheat"], 4),
        ("What was the mule called?", ["Penny", "Shilling", "Sixpence", "Crown"], 3),
    ],
    [
        ("How late was the ferry?", ["A day", "A week", "A year", "An hour"], 3),
        ("What did Yun bring?", ["Pears", "Plums", "Salt", "Kites"], 1),
    ],
]


def official_rows() -> dict[str, list[dict[str, Any]]]:
    """Lines of the official files: two writers an article, `gold_label` from 1, stories 1 and 2 in train."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "dev": []}
    for number, ((article_id, title, author, year, text), asked) in enumerate(zip(STORIES, QUESTIONS, strict=True)):
        for writer, (question, options, gold) in enumerate(asked):
            unique = f"{article_id}_W{writer}_1"
            rows["train" if number < 2 else "dev"].append(
                {
                    "article_id": article_id,
                    "set_unique_id": f"{article_id}_W{writer}",
                    "title": title,
                    "author": author,
                    "year": year,
                    "source": "Invented",
                    "topic": "Fiction",
                    "url": f"https://example.org/{article_id}",
                    "license": "none",
                    "article": text,
                    "questions": [
                        {
                            "question": question,
                            "question_unique_id": unique,
                            "options": options,
                            "gold_label": gold,
                            "writer_label": gold,
                            "difficult": writer,
                        }
                    ],
                }
            )
    return rows


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_official(folder: Path) -> Path:
    """Write the two official files into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in official_rows().items():
        write_lines(folder / f"QuALITY.v1.0.1.htmlstripped.{split}", rows)
    return folder


def own_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same as rows of documents.jsonl and questions.jsonl."""
    documents = [
        {"doc_id": doc_id, "title": title, "text": text, "source": "", "meta": {"author": author, "year": year}}
        for doc_id, title, author, year, text in STORIES
    ]
    questions = [
        {
            "question_id": f"{story[0]}_W{writer}_1",
            "doc_id": story[0],
            "question": question,
            "options": options,
            "answer": gold - 1,
            "meta": {},
        }
        for story, asked in zip(STORIES, QUESTIONS, strict=True)
        for writer, (question, options, gold) in enumerate(asked)
    ]
    return documents, questions


def write_own(folder: Path, sentences: int = 0) -> Path:
    """Write documents.jsonl and questions.jsonl into `folder` and return it; so many sentences more a document."""
    folder.mkdir(parents=True, exist_ok=True)
    documents, questions = own_rows()
    for document in documents:
        document["text"] += "".join(f" Sentence {number} of the story says little." for number in range(sentences))
    write_lines(folder / "documents.jsonl", documents)
    write_lines(folder / "questions.jsonl", questions)
    return folder
