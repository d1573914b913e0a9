"""Sample records and replay text to token budgets: `<run>/records/*.jsonl` -> `<run>/mix/`.

Every length is counted as axolotl will train it: question-answer records in the target model's chat
template, documents with the tokens that its tokenizer adds and an end-of-text token.

A mix takes one pass over the records, which measures them all and writes the training rows, and what to know of each,
to scratch files; in memory is then what is being sorted, some 40 bytes a record. Each mix is a choice among these rows,
copied in shuffled order.
"""

import gc
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smt_plugin import __version__
from smt_plugin.config import MixSection
from smt_plugin.errors import BadInput
from smt_plugin.files import check_place, content_hash, locked, make_folder, sweep, whole, write_json, write_jsonl
from smt_plugin.mixing import manifest
from smt_plugin.mixing.chooser import TOLERANCE, Choice, Chooser
from smt_plugin.mixing.lines import record_lines, rejects_of, replay_lines, source_files, source_paths
from smt_plugin.mixing.near_duplicates import NearDuplicates, repeats
from smt_plugin.mixing.provenance import FOLDER as PROVENANCE
from smt_plugin.mixing.provenance import Provenance
from smt_plugin.mixing.ruler import Ruler
from smt_plugin.mixing.source import BATCH, CHAT, PLAIN_QA, TEXT, THREADS, Scratch, Source
from smt_plugin.rejects import rejects_hash

# (Whether it is replay, form) -> the file that such rows go to.
_FILES = {
    (False, CHAT): manifest.CHAT_FILE,
    (False, TEXT): manifest.TEXT_FILE,
    (False, PLAIN_QA): manifest.PLAIN_QA_FILE,
    (True, TEXT): manifest.REPLAY_TEXT_FILE,
    (True, CHAT): manifest.REPLAY_CHAT_FILE,
}
_PARALLEL = "TOKENIZERS_PARALLELISM"


def mix_run(
    run_folder: Path, settings: MixSection, seed: int = 0, drop: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write one mix to `<run>/mix/` and return its manifest; see `mix_budgets`."""
    return mix_budgets(run_folder, settings, seed, drop)[0][1]


def mix_budgets(
    run_folder: Path,
    settings: MixSection,
    seed: int = 0,
    drop: Mapping[str, str] | None = None,
    outdated: Iterable[Path] = (),
    provenance: Provenance | None = None,
) -> list[tuple[Path, dict[str, Any]]]:
    """Write a run's mixes and return the folder and the manifest of each, from the smallest budget on.

    One mix goes to `<run>/mix/`, several to `<run>/mix/<budget>/`; a smaller one is a subset of each larger one.
    The records of each part of a document are taken in order of round and index, every part equally far, so that it
    keeps its share of the tokens at every budget; each share ends at the text that comes nearest to it. A
    source that runs dry is neither repeated nor made up for by the others: `manifest["warnings"]` says by how much it
    fell short. Left out is what `rejects.jsonl` of the run that made a record rejects. Exact duplicates (by a 64-bit
    hash) and near duplicates are dropped, of replay text the exact ones; `<run>/mix/dropped.jsonl` names whatever was
    dropped, with the reason. Chat-control tokens in texts are broken up.

    Args:
        settings: of a run file, with the tokenizer set.
        seed: another seed selects and orders otherwise.
        drop: ids of records to leave out -> the reason.
        outdated: files made from the mixes that are there, which are removed before these are.
        provenance: finds the passages that records were made from; `provenance/<file>` then has a line for each row of
            a training file of records: `row` (from 0), the record's `id`, `doc_id`, `start` and `end`. A long text that
            was cut has the same in all its rows.

    Raises:
        BadInput: records, replay, tokenizer or `rejects.jsonl` are missing or unusable.
    """
    folder = run_folder / "mix"
    scratch = folder / "scratch.partial"
    with ExitStack() as stack:
        try:
            make_folder(folder)
            stack.callback(_remove_if_empty, folder)
            stack.enter_context(locked(folder / "mix.lock"))
            shutil.rmtree(scratch, ignore_errors=True)
            make_folder(scratch)
        except OSError as error:
            raise BadInput(
                f"the folder {folder} cannot be written ({error.strerror}); move away a file in its place, or fix its "
                "permissions."
            ) from None
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        with _many_rows(), ExitStack() as files:
            return _mix(run_folder, settings, seed, drop or {}, outdated, provenance, folder, scratch, files)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # there is a mix in it
        folder.rmdir()


@contextmanager
def _many_rows() -> Iterator[None]:
    """Set the interpreter and the tokenizer up for rows by the million, and back."""
    was_collecting, parallel = gc.isenabled(), os.environ.get(_PARALLEL)
    # Rows hold no cycles; looking for some would take a tenth of a mix's own time.
    gc.disable()
    # Our threads share the work out with less waiting, and free what they took themselves.
    os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()
        if parallel is None:
            del os.environ[_PARALLEL]
        else:
            os.environ[_PARALLEL] = parallel


def _mix(
    run_folder: Path,
    settings: MixSection,
    seed: int,
    drop: Mapping[str, str],
    outdated: Iterable[Path],
    provenance: Provenance | None,
    folder: Path,
    scratch: Path,
    files: ExitStack,
) -> list[tuple[Path, dict[str, Any]]]:
    if settings.tokenizer is None:
        raise BadInput("mix.tokenizer: this key is missing; give the target model's folder or hub name.")
    ruler = Ruler(settings.tokenizer, settings.sequence_len)
    as_text = settings.qa_form == "text" or not ruler.has_chat_template
    paths = source_paths(run_folder, settings.shares, settings.sources)
    rejects = rejects_of(run_folder, paths)
    leave_out = {name: ("left_out", reason) for name, reason in drop.items()}
    leave_out |= {name: ("rejected", verdict.why) for name, verdict in rejects.items()}
    near = NearDuplicates(scratch) if settings.near_duplicates < 1 else None
    sources: list[Source] = []
    for name, path in paths.items():
        store = files.enter_context(Scratch(scratch / f"source{len(sources)}"))
        source = Source(name, str(path), store, seed, as_text=as_text)
        for file in source_files(path):
            origin = provenance.of_file(file) if provenance is not None else None
            source.read(record_lines([file]), ruler, near, leave_out, origin=origin)
        if not source.lines:
            raise BadInput(f"{path} is empty; generate records first.")
        sources.append(source)
    gone = rejects.keys() - set().union(*(source.left_out for source in sources))
    _drop_duplicates(sources, near, settings.near_duplicates)
    choosers = [Chooser(source, settings.validation_rounds) for source in sources]
    available = {chooser.source.name: chooser.available for chooser in choosers}

    weights = sum(settings.shares.values())
    limited_by = None
    if settings.tokens is None and not settings.budgets:
        limited_by = min(available, key=lambda name: available[name] / settings.shares[name])
        if not available[limited_by]:
            raise BadInput(
                f"mix.shares.{limited_by}: it has no text to train on that fits into {settings.sequence_len} tokens; "
                "raise mix.sequence_len, or leave the source out."
            )
        budgets = [available[limited_by] / settings.shares[limited_by] * weights]
    else:
        budgets = [float(tokens) for tokens in sorted(set(settings.budgets)) or [settings.tokens or 0]]
    choices = [
        [chooser.take(budget * settings.shares[chooser.source.name] / weights) for chooser in choosers]
        for budget in budgets
    ]
    if not any(available.values()):
        raise BadInput(f"{run_folder / 'records'}: no record fits into {settings.sequence_len} tokens.")
    if not any(choice.tokens for choice in choices[0]):
        raise BadInput(f"{settings.budget_key}: {budgets[0]:,.0f} tokens hold not one text; give a larger budget.")

    if settings.replay is not None and settings.replay_share > 0:
        store = files.enter_context(Scratch(scratch / "replay"))
        without = not ruler.has_chat_template
        replay = Source("replay", settings.replay, store, seed, as_text=without, is_replay=True)
        per_token = settings.replay_share / (1 - settings.replay_share)
        asked = [sum(choice.tokens for choice in chosen) * per_token for chosen in choices]
        replay.read(replay_lines(settings, seed), ruler, None, {}, enough=asked[-1])
        replay.refuse_unusable()
        replay_chooser = Chooser(replay, 0)
        for chosen, tokens in zip(choices, asked, strict=True):
            chosen.append(replay_chooser.take(tokens))
        sources.append(replay)

    places = [folder / manifest.budget_name(round(budget)) if settings.budgets else folder for budget in budgets]
    # Manifests out first, in last: where there is one of these budgets, the files that it names are whole and its own.
    # A training config goes before them: axolotl would train by it on what it prepared of the earlier mix.
    outdated = [*outdated, *(place / manifest.MANIFEST_FILE for place in places)]
    names = [prefix + name for prefix in ("", manifest.VALIDATION) for name in _FILES.values()]
    names += [f"{PROVENANCE}/{name}" for name in names]
    for path in (folder / manifest.DROPPED_FILE, *outdated, *(place / name for place in places for name in names)):
        check_place(path)
    for path in outdated:
        path.unlink(missing_ok=True)
    rows = (row for source in sources for row in source.dropped_rows())
    if first := next(rows, None):
        dropped = write_jsonl(folder / manifest.DROPPED_FILE, chain([first], rows))
    else:
        dropped = 0
        (folder / manifest.DROPPED_FILE).unlink(missing_ok=True)
    shared = {
        "settings": {**settings.model_dump(mode="json"), "seed": seed},
        "limited_by": limited_by,
        "dropped": dropped,
        "rejects": {"records": len(rejects), "sha256": rejects_hash(rejects)},
        "validation": {},
        "tokenizer": ruler.report(),
        "versions": {"smt_plugin": __version__, **{name: version(name) for name in ("transformers", "tokenizers")}},
    }
    warnings = []
    if gone:
        warnings.append(
            f"rejects.jsonl rejects {len(gone):,} records that are not among those to be mixed (any more), such as "
            f"{min(gone)!r}."
        )
    if dropped:
        warnings.append(f"{dropped:,} records were dropped; {folder / manifest.DROPPED_FILE} says which and why.")
    has_origins = provenance is not None
    if not settings.validation_rounds:
        for name in _FILES.values():
            for path in (folder, folder / PROVENANCE):
                (path / (manifest.VALIDATION + name)).unlink(missing_ok=True)
    else:
        held_out = [chooser.held_out() for chooser in choosers]
        shared["validation"] = _write_files(folder, held_out, has_origins, manifest.VALIDATION)
    return [
        (place, _write_mix(place, chosen, shared, settings, warnings, has_origins))
        for place, chosen in zip(places, choices, strict=True)
    ]


def _drop_duplicates(sources: list[Source], near: NearDuplicates | None, threshold: float) -> None:
    """Take out exact and near duplicates among all records; of two, the one of the earlier source and round stays."""
    begins = np.concatenate([[0], np.cumsum([len(source) for source in sources])])

    def place(number: int) -> tuple[Source, int]:
        source = int(np.searchsorted(begins, number, side="right")) - 1
        return sources[source], number - int(begins[source])

    def in_order(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        numbers = np.sort(numbers)
        ordered = []
        for source, begin, end in zip(sources, begins, begins[1:], strict=False):
            part = numbers[np.searchsorted(numbers, begin) : np.searchsorted(numbers, end)]
            columns = (source.column("order"), source.column("round"))
            ordered.append(part[np.lexsort([column[part - begin] for column in columns])])
        return np.concatenate(ordered)

    def drop(number: int, count: str, kind: str, original: int, why: str = "") -> None:
        source, record = place(number)
        source.drop(record, count, f"{kind} of {Source.id(*place(original))}{why}")

    is_unique = np.ones(begins[-1], dtype=bool)
    later, first = repeats(np.concatenate([source.column("content") for source in sources]), is_unique, in_order)
    is_unique[later] = False
    for number, original in zip(later.tolist(), first.tolist(), strict=True):
        drop(number, "duplicates", "duplicate", original)
    if near is None:
        return
    for number, original, part in near.find(is_unique, in_order, lambda n: Source.contents(*place(n)), threshold):
        drop(number, "near_duplicates", "near duplicate", original, f": {part:.2f} of the shingles shared")


def _write_mix(
    folder: Path,
    chosen: list[Choice],
    shared: dict[str, Any],
    settings: MixSection,
    more_warnings: list[str],
    has_origins: bool,
) -> dict[str, Any]:
    """Write one mix's files and manifest into `folder`."""
    make_folder(folder)
    files = _write_files(folder, chosen, has_origins)
    everything = sum(choice.tokens for choice in chosen)
    tokens = sum(choice.tokens for choice in chosen if not choice.source.is_replay)
    sources = {
        choice.source.name: choice.report(everything if choice.source.is_replay else tokens) for choice in chosen
    }
    warnings = [sentence for choice in chosen for sentence in _shortfalls(choice, settings.budget_key)]
    if settings.replay is None and settings.replay_share > 0:
        warnings.append("no replay text was given (mix.replay), so the mix has none: general ability may fall.")
    if settings.validation_rounds and not shared["validation"]:
        warnings.append(
            f"mix.validation_rounds {settings.validation_rounds}: no document has more rounds, so nothing is held out."
        )
    if not shared["tokenizer"]["has_chat_template"] and settings.qa_form == "chat":
        warnings.append(
            f"the tokenizer {shared['tokenizer']['name']} has no chat template, so dialogues become plain text "
            "(`Question: ... Answer: ...`), and `smt evaluate` asks without a template, too."
        )
    warnings += more_warnings
    digests = [[name, entry["sha256"]] for name, entry in sorted({**files, **shared["validation"]}.items())]
    values = {
        "settings": shared["settings"],
        "tokens": everything,
        "record_tokens": tokens,
        "limited_by": shared["limited_by"],
        "sources": sources,
        "files": files,
        "validation": shared["validation"],
        "dropped": shared["dropped"],
        "rejects": shared["rejects"],
        "tokenizer": shared["tokenizer"],
        "content_hash": content_hash([[shared["tokenizer"]["sha256"], *digests]]),
        "versions": shared["versions"],
        "warnings": warnings,
    }
    write_json(folder / manifest.MANIFEST_FILE, values)
    return values


def _shortfalls(choice: Choice, budget_key: str) -> list[str]:
    """One sentence if the source ran dry or missed its share by more than half a percent, else nothing."""
    name, off = choice.source.name, choice.tokens - choice.asked
    if choice.is_dry:
        advice = "give more replay text" if choice.source.is_replay else f"generate more, or lower {budget_key}"
        return [
            f"{name} ran dry: {choice.tokens:,} of {choice.asked:,.0f} tokens, {-off / choice.asked:.1%} short. "
            f"Nothing was repeated and the other sources were not scaled: {advice}."
        ]
    if abs(off) > TOLERANCE * choice.asked:
        return [
            f"{name} has {choice.tokens:,} of {choice.asked:,.0f} tokens, {off / choice.asked:+.1%}: its texts are too "
            "long to come nearer to so small a share."
        ]
    return []


def _write_files(folder: Path, chosen: list[Choice], has_origins: bool, prefix: str = "") -> dict[str, Any]:
    """Write the training files of what was chosen, shuffled: in order of the records' hashes, whatever their round.

    Args:
        has_origins: whether to write where the rows of records come from, too.
    """
    files = {}
    digests: dict[str, Future[str]] = {}
    origins: list[Future[None]] = []
    with ThreadPoolExecutor(THREADS) as threads:
        for (is_replay, form), name in _FILES.items():
            path = folder / (prefix + name)
            of_rows = folder / PROVENANCE / path.name
            for each in (path, of_rows):
                each.unlink(missing_ok=True)
                sweep(each)
            drawn = [
                (choice.source, *choice.of_form(form)) for choice in chosen if choice.source.is_replay == is_replay
            ]
            rows = sum(len(pieces) for _, pieces, _ in drawn)
            if rows:
                digests[path.name] = threads.submit(_write_rows, path, drawn)
                if has_origins and not is_replay:
                    origins.append(threads.submit(_write_origins, of_rows, drawn))
                files[path.name] = {
                    "rows": rows,
                    "tokens": sum(int(source.column("piece_tokens")[pieces].sum()) for source, pieces, _ in drawn),
                    "form": "messages" if form == CHAT else "text",
                }
        for written in origins:
            written.result()
        _remove_if_empty(folder / PROVENANCE)
        return {name: {**entry, "sha256": digests[name].result()} for name, entry in files.items()}


# Of each source the rows that are drawn, and the records that they are of.
_Drawn = list[tuple[Source, NDArray[np.uint32], NDArray[np.uint32]]]


def _in_order(drawn: _Drawn) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.intp]]]:
    """The drawn rows in shuffled order, in batches: the source of each, and its place among all that are drawn."""
    owner = np.repeat(np.arange(len(drawn), dtype=np.uint16), [len(pieces) for _, pieces, _ in drawn])
    orders = np.concatenate([source.column("order")[records] for source, _, records in drawn])
    sort = np.lexsort((np.concatenate([pieces for _, pieces, _ in drawn]), owner, orders))
    for begin in range(0, len(sort), BATCH):
        batch = sort[begin : begin + BATCH]
        yield owner[batch], batch


def _write_rows(path: Path, drawn: _Drawn) -> str:
    """Copy rows from the scratch files in shuffled order; returns the file's SHA-256."""
    begins, sizes = (
        np.concatenate([source.column(name)[pieces] for source, pieces, _ in drawn])
        for name in ("piece_begin", "piece_size")
    )
    read = [source.scratch.read for source, _, _ in drawn]
    digest = hashlib.sha256()
    with whole(path) as file:
        for owner, batch in _in_order(drawn):
            places = zip(owner.tolist(), begins[batch].tolist(), sizes[batch].tolist(), strict=True)
            block = b"".join([read[number](place, size) for number, place, size in places])
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _write_origins(path: Path, drawn: _Drawn) -> None:
    """Write where each row of a training file comes from, in the order of `_write_rows`."""
    records = np.concatenate([records for _, _, records in drawn])
    sources = [source for source, _, _ in drawn]
    pairs = (
        pair for owner, batch in _in_order(drawn) for pair in zip(owner.tolist(), records[batch].tolist(), strict=True)
    )
    write_jsonl(path, ({"row": row, **sources[number].head(record)} for row, (number, record) in enumerate(pairs)))
