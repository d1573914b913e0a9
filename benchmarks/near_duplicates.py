"""What would a MinHash library cost a mix, and what would it find, beside `smt_plugin.mixing.near_duplicates`?

    pip install datasketch rensa
    python benchmarks/near_duplicates.py --tokenizer FOLDER      (without it, the row of the tokenizer is left out)

Invented texts; to 2 % of them a copy with some words changed, so that both 0.8 of the shingles and 0.8 of the word
5-grams are shared (planted), and to as many one that shares 0.4 to 0.75 of the shingles (a decoy). Everything takes 70
values in 14 bands of 5; datasketch and rensa once over word 5-grams, as their users do it, once over the shingle
hashes of `smt_plugin.mixing.near_duplicates`. Whatever shares a band is compared exactly, but for
`RMinHashDeduplicator`, which goes by its own estimate from 128 values. Each runs in a process of its own, three times;
CPU seconds are those of all threads in the fastest run, memory is the peak of the process less that before, with all
texts in memory already. Linux.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from smt_plugin.mixing.near_duplicates import BANDS, ROWS, NearDuplicates, band_keys, shared, shingles

VALUES, THRESHOLD, BATCH = BANDS * ROWS, 0.8, 1024
Found = tuple[set[int], int]
Sets = Callable[[list[str]], Iterator[list[Any]]]


def word_5_grams(texts: list[str]) -> Iterator[list[bytes]]:
    for text in texts:
        words = text.lower().encode().split()
        yield [b" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))]


def shingle_hashes(texts: list[str], as_bytes: bool = False) -> Iterator[list[Any]]:
    for start in range(0, len(texts), BATCH):
        hashes, begins = shingles(texts[start : start + BATCH])
        listed = hashes.view("S8").tolist() if as_bytes else (hashes >> np.uint64(32)).tolist()
        for begin, end in pairwise([*begins.tolist(), len(listed)]):
            yield listed[begin:end]


def verified(texts: list[str], candidates: Iterable[tuple[int, list[int]]]) -> Found:
    """The texts that share enough with an earlier candidate, and how many pairs were compared in vain."""
    dropped: set[int] = set()
    in_vain = 0
    for text, others in candidates:
        for other in others:
            if other < text and text not in dropped and other not in dropped:
                is_near = shared(texts[text], texts[other]) >= THRESHOLD
                in_vain += not is_near
                dropped.update([text] if is_near else [])
    return dropped, in_vain


def ours(texts: list[str], keys_of: Callable[[list[str]], Any] = band_keys) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        near = NearDuplicates(Path(folder))
        for start in range(0, len(texts), BATCH):
            near.add(keys_of(texts[start : start + BATCH]))
        read: list[int] = []
        everything = np.ones(len(texts), dtype=bool)
        found = near.find(everything, np.sort, lambda text: read.append(text) or texts[text], THRESHOLD)
        dropped = {text for text, _, _ in found}
    return dropped, len(set(zip(read[::2], read[1::2], strict=True))) - len(dropped)


def rensa_keys(texts: list[str]) -> Any:
    """Our shingles and our bands; the signatures between them are rensa's."""
    from rensa import RMinHash

    hashes, begins = shingles(texts)
    ends = np.append(begins, len(hashes)).astype(np.uint64)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, VALUES, 42).to_rows()
    least = np.array(rows, dtype=np.uint64).reshape(len(texts), BANDS, ROWS)
    return (least * np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, ROWS + 1, dtype=np.uint64)).sum(axis=2)


def datasketch(texts: list[str], sets: Sets, **options: Any) -> Found:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=VALUES, params=(BANDS, ROWS))

    def candidates() -> Iterator[tuple[int, list[int]]]:
        for text, signature in enumerate(MinHash.generator(sets(texts), num_perm=VALUES, **options)):
            yield text, index.query(signature)
            index.insert(text, signature, check_duplication=False)

    return verified(texts, candidates())


def rensa(texts: list[str], sets: Sets) -> Found:
    from rensa import RMinHash, RMinHashLSH

    signatures = RMinHash.from_token_sets(sets(texts), VALUES, 42)
    index = RMinHashLSH(THRESHOLD, VALUES, BANDS)
    index.insert_many(signatures)
    return verified(texts, enumerate(index.query_all(signatures)))


def rensa_estimate(texts: list[str], sets: Sets) -> Found:
    from rensa import RMinHashDeduplicator

    deduplicator = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=128, use_lsh=True)
    kept = deduplicator.add_pairs((str(text), tokens) for text, tokens in enumerate(sets(texts)))
    return {text for text, is_kept in enumerate(kept) if not is_kept}, 0


def tokenizer(texts: list[str], folder: Path) -> Found:
    from tokenizers import Tokenizer

    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for start in range(0, len(texts), BATCH):
        rust.encode_batch_fast(texts[start : start + BATCH])
    return set(), 0


ARMS: dict[str, Callable[[list[str]], Found]] = {
    "`smt_plugin.mixing.near_duplicates`": ours,
    "datasketch, 5-grams": partial(datasketch, sets=word_5_grams),
    "datasketch, our shingles": partial(datasketch, sets=shingle_hashes, hashfunc=int),
    "rensa, 5-grams": partial(rensa, sets=word_5_grams),
    "rensa, our shingles": partial(rensa, sets=partial(shingle_hashes, as_bytes=True)),
    "rensa's signatures between our shingles and bands": partial(ours, keys_of=rensa_keys),
    "rensa's `RMinHashDeduplicator`, 5-grams": partial(rensa_estimate, sets=word_5_grams),
}


def made(words: int, count: int) -> tuple[list[str], list[int]]:
    """The texts, originals first, and the numbers of those that are planted."""
    from mixing import Writer

    writer, rng = Writer(3), random.Random(3)
    texts = [writer.text(writer.length(words)) for _ in range(count * 24 // 25)]
    copies: dict[str, bool] = {}
    for number, text in enumerate(rng.sample(texts, count // 25)):
        is_planted = number % 2 == 0
        while True:
            words_of_it = text.split(" ")
            share = rng.uniform(0, 0.04) if is_planted else rng.uniform(0.04, 0.15)
            for at in rng.sample(range(len(words_of_it)), max(1, round(share * len(words_of_it)))):
                words_of_it[at] = writer.text(1)
            copy = " ".join(words_of_it)
            one, other = (set(grams) for grams in word_5_grams([text, copy]))
            part, part_of_grams = shared(text, copy), len(one & other) / len(one | other)
            if (min(part, part_of_grams) >= THRESHOLD and part < 1) if is_planted else 0.4 <= part <= 0.75:
                break
        copies[copy] = is_planted
    later = rng.sample(sorted(copies), len(copies))
    planted = [len(texts) + number for number, copy in enumerate(later) if copies[copy]]
    return texts + later, planted


def memory(kind: str) -> float:
    """What the process has (VmRSS) or had at most (VmHWM), in MiB."""
    return int(Path("/proc/self/status").read_text().split(f"{kind}:")[1].split()[0]) / 1024


def measure(arm: Callable[[list[str]], Found], path: Path) -> dict[str, Any]:
    """Run one arm three times on the texts of a file."""
    with path.open() as file:
        planted = set(json.loads(next(file)))
        texts = [json.loads(line) for line in file]
    arm(texts[:100])
    seconds, before = [], memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for run in range(3):
        start = time.process_time()
        dropped, in_vain = arm(texts)
        seconds.append(time.process_time() - start)
        if not run:
            peak = memory("VmHWM") - before
    found = len(dropped & planted)
    return {"cpu": min(seconds), "mib": peak, "found": found, "wrong": len(dropped) - found, "in_vain": in_vain}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="folder of a fast tokenizer, to compare with")
    parser.add_argument("--questions", type=int, default=20_000, help="texts of 75 words")
    parser.add_argument("--documents", type=int, default=5_000, help="texts of 500 words")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arms = {"`encode_batch_fast`": partial(tokenizer, folder=arguments.tokenizer)} if arguments.tokenizer else {}
    arms |= ARMS
    if arguments.measure:
        name, path = arguments.measure
        print(json.dumps(measure(arms[name], Path(path))))
        return
    for words, count in ((75, arguments.questions), (500, arguments.documents)):
        texts, planted = made(words, count)
        print(f"\n{len(texts):,} texts of some {words} words, {len(planted):,} planted copies, as many decoys:\n")
        print("| what | CPU s | µs a text | memory, MiB | planted ones found | dropped wrongly | false candidates |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(line) + "\n" for line in [planted, *texts])
            file.flush()
            for name in arms:
                command = [sys.executable, __file__, "--measure", name, file.name]
                command += ["--tokenizer", str(arguments.tokenizer)] if arguments.tokenizer else []
                r = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                cells = [f"{r['cpu']:.2f}", f"{r['cpu'] / len(texts) * 1e6:.0f}", f"{r['mib']:.0f}"]
                quality = [f"{r['found'] / len(planted):.1%}", str(r["wrong"]), str(r["in_vain"])]
                cells += ["", "", ""] if "encode" in name else quality
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
