"""How alike methods pull at a model's weights: cosines of the gradients of their records, content apart from form."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smt_plugin.errors import BadInput, first_line, require
from smt_plugin.mixing.lines import ReplayLine, identity_of, parsed_line, record_lines
from smt_plugin.mixing.source import plain_qa
from smt_plugin.records import record_files
from smt_plugin.report.sections import Section

CHAT, TEXT, PROSE = "chat", "text", "prose"
# What a document's text answers where it is put into a chat.
_ASK = "Write what you know about this."
Vectors = dict[str, NDArray[np.float32]]
"""Side, `method as form` -> a projected gradient a document, rows in the same order on all sides."""


@dataclass(frozen=True, slots=True)
class Cosine:
    """How alike two sides are.

    Attributes:
        mean: cosine of their mean gradients; of a side with itself, of those of two halves of the documents.
        low, high: its 95 % interval over documents.
        corrected: what the cosine would be without the noise of few records; None where that is not known.
    """

    side: str
    other: str
    mean: float
    low: float
    high: float
    corrected: float | None


def drawn_records(
    run: Path, methods: Sequence[str], documents: int, records: int, seed: int
) -> dict[str, dict[str, list[ReplayLine]]]:
    """Draw records of the documents that all methods have records of.

    Args:
        documents: how many at most.
        records: of each method and document, at most.

    Returns:
        Document -> method -> records; the draw depends on the seed and the ids alone.

    Raises:
        BadInput: records are missing or broken, or fewer than four documents have some of every method.
    """

    def place(identifier: str) -> bytes:
        return hashlib.sha256(f"{seed} {identifier}".encode()).digest()

    ids = {method: {doc_id for _, doc_id, _ in _lines(run, method)} for method in methods}
    shared = sorted(set.intersection(*ids.values()), key=place)[:documents]
    if len(shared) < 4:
        raise BadInput(
            f"{run}: {len(shared)} documents have records of each of {', '.join(methods)}, and four are needed; "
            "generate more, or name fewer methods."
        )
    drawn: dict[str, dict[str, list[tuple[bytes, ReplayLine]]]] = {document: {} for document in shared}
    for method in methods:
        for identity, doc_id, line in _lines(run, method):
            if doc_id in drawn:
                kept = drawn[doc_id].setdefault(method, [])
                kept.append((place(identity), line))
                kept.sort(key=itemgetter(0))
                del kept[records:]
    return {
        document: {method: [line for _, line in kept] for method, kept in of_method.items()}
        for document, of_method in drawn.items()
    }


def _lines(run: Path, method: str) -> Iterator[tuple[str, str, ReplayLine]]:
    """Each record's id, its document's, and the record."""
    for where, content in record_lines(record_files(run, method)):
        line = parsed_line(content, where)
        line.check(where)
        yield identity_of(line, where), str(line.doc_id), line


Sides = list[tuple[str, str]]
"""Method and form of each side."""


def sides_of(drawn: Mapping[str, Mapping[str, Sequence[ReplayLine]]], methods: Sequence[str]) -> Sides:
    """Each method's records as chats and as texts; pairs also as prose, which documents are already."""
    lines = next(iter(drawn.values()))
    return [
        (method, form) for method in methods for form in (CHAT, TEXT, *([PROSE] if lines[method][0].messages else []))
    ]


def turns_as(line: ReplayLine, form: str) -> str | list[dict[str, str]]:
    """A record as a text, as a chat, or as the prose of its answers, whichever it is trained as."""
    if form == PROSE and line.messages:
        return " ".join(turn.content for turn in line.messages if turn.role == "assistant")
    if form != CHAT:
        return line.text or plain_qa(line.messages or [])
    if line.messages:
        return [{"role": turn.role, "content": turn.content} for turn in line.messages]
    return [{"role": "user", "content": _ASK}, {"role": "assistant", "content": line.text or ""}]


class Projector:
    """A model whose gradients are projected by a count sketch, which keeps cosines (Charikar et al. 2002).

    Args:
        name: folder or hub name.
        dimensions: of the projection; the error of a cosine is about 1 / sqrt(dimensions).
        most_tokens: longer texts are cut.

    Raises:
        BadInput: the model cannot be loaded.
    """

    def __init__(self, name: str, dimensions: int, most_tokens: int, seed: int) -> None:
        transformers = require("transformers", "train")
        import torch

        has_gpu = torch.cuda.is_available()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name, dtype=torch.bfloat16 if has_gpu else torch.float32
            )
        # Each kind of broken file has an error of its own.
        except Exception as error:
            raise BadInput(
                f"the model {name} cannot be loaded ({first_line(error)}); give a folder or a hub name."
            ) from None
        self._model = model.to("cuda" if has_gpu else "cpu").eval()
        self._dimensions, self._most_tokens, self._seed = dimensions, most_tokens, seed

    def gradient(self, texts: Iterable[str | list[dict[str, str]]]) -> NDArray[np.float32]:
        """The gradient of the texts' mean loss, projected; a text's loss is the mean over its trained tokens."""
        import torch

        self._model.zero_grad(set_to_none=True)
        for text in texts:
            ids, first = self._tokens(text)
            inputs = torch.tensor([ids[: self._most_tokens]], device=self._model.device)
            labels = inputs.clone()
            labels[0, :first] = -100
            self._model(input_ids=inputs, labels=labels, use_cache=False).loss.backward()
        return self._sketch()

    def _tokens(self, text: str | list[dict[str, str]]) -> tuple[list[int], int]:
        """The tokens of a text or chat as axolotl trains it, and from which on they are."""
        if isinstance(text, str):
            ids = self._tokenizer.encode(text)
            return (ids if ids[-1] == self._tokenizer.eos_token_id else [*ids, self._tokenizer.eos_token_id]), 0

        def rendered(turns: list[dict[str, str]], asks: bool) -> list[int]:
            chat = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
            found: list[int] = self._tokenizer.encode(chat, add_special_tokens=False)
            return found

        ids, asked = rendered(text, False), rendered(text[:-1], True)
        same = next((n for n, (a, b) in enumerate(zip(ids, asked, strict=False)) if a != b), len(asked))
        return ids, same

    def _sketch(self) -> NDArray[np.float32]:
        import torch

        device = self._model.device
        random = torch.Generator(device=device).manual_seed(self._seed)
        found = torch.zeros(self._dimensions, device=device)
        for weight in self._model.parameters():
            if weight.grad is None:
                continue
            flat = weight.grad.reshape(-1).float()
            # One draw for place and sign.
            draw = torch.randint(2 * self._dimensions, flat.shape, generator=random, device=device)
            found.index_add_(0, draw // 2, flat * (draw % 2 * 2 - 1))
        sketch: NDArray[np.float32] = found.cpu().numpy()
        return sketch


def measure(
    drawn: Mapping[str, Mapping[str, Sequence[ReplayLine]]],
    sides: Sides,
    gradient: Callable[[list[str | list[dict[str, str]]]], NDArray[np.float32]],
    on_progress: Callable[[float], None] = lambda done: None,
) -> Vectors:
    """Return each side's gradients, a row a document.

    Args:
        drawn: as `drawn_records` gives it.
        sides: as `sides_of` gives them.
        gradient: as `Projector.gradient`.
        on_progress: called after each document and side with how many are done.
    """
    rows: dict[str, list[NDArray[Any]]] = {f"{method} as {form}": [] for method, form in sides}
    done = 0
    for lines in drawn.values():
        for method, form in sides:
            found = gradient([turns_as(line, form) for line in lines[method]])
            rows[f"{method} as {form}"].append(found / len(lines[method]))
            done += 1
            on_progress(done)
    return {side: np.stack(each) for side, each in rows.items()}


def cosines(vectors: Vectors) -> list[Cosine]:
    """Compare all sides with one another, and each with itself, half of the documents against the others.

    Intervals are those of a jackknife over documents. What few records take off a cosine is put back by Spearman's
    correction for attenuation (1904), each side's reliability being that of its halves, by Spearman and Brown.
    """
    halves = {side: _cosine(rows, rows, own=True) for side, rows in vectors.items()}
    reliable = {side: 2 * half / (1 + half) if half > 0 else None for side, (half, _, _) in halves.items()}
    found = [Cosine(side, side, *half, None) for side, half in halves.items()]
    for side, other in combinations(vectors, 2):
        mean, low, high = _cosine(vectors[side], vectors[other])
        first, second = reliable[side], reliable[other]
        corrected = mean / (first * second) ** 0.5 if first and second else None
        found.append(Cosine(side, other, mean, low, high, corrected))
    return found


def _cosine(first: NDArray[np.float32], second: NDArray[np.float32], own: bool = False) -> tuple[float, float, float]:
    """The cosine of two sides' means, and its interval; `own` compares the even rows' mean with the odd ones'."""
    count = len(first)
    even = np.arange(count) % 2 == 0
    chosen = (even, ~even) if own else (np.ones(count, bool), np.ones(count, bool))
    sums = [rows[rows_of].sum(0, dtype=np.float64) for rows, rows_of in zip((first, second), chosen, strict=True)]

    def of(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    whole = of(*sums)
    # A sum without the row points where the mean without it does.
    left = np.array([of(sums[0] - first[n] * chosen[0][n], sums[1] - second[n] * chosen[1][n]) for n in range(count)])
    pseudo = count * whole - (count - 1) * left
    special = require("scipy.special", "eval")
    margin = float(special.stdtrit(count - 1, 0.975)) * float(pseudo.std(ddof=1)) / count**0.5
    return whole, max(whole - margin, -1.0), min(whole + margin, 1.0)


def gradients_section(found: Sequence[Cosine], documents: int, model: str) -> Section:
    """The cosines as a table."""
    rows = [
        (
            each.side,
            "itself, half against half" if each.side == each.other else each.other,
            f"{each.mean:.2f} ({each.low:.2f} to {each.high:.2f})",
            "" if each.corrected is None else f"{each.corrected:.2f}",
        )
        for each in found
    ]
    return Section(
        "Cosines of mean gradients",
        ("records", "beside", "cosine, 95 % interval", "without noise"),
        rows,
        f"{documents:,} documents; {model}. Intervals are over documents. Without noise: corrected for attenuation by "
        "the halves; it can exceed 1, as both sides tell of the same documents.",
    )
