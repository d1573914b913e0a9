"""How fast is a mix beside the tokenizer alone, and how much memory does it take?

    python benchmarks/mixing.py --folder mixing --tokens 10M 30M 100M --interleave 10M
    python benchmarks/mixing.py --folder mixing --records 3.7M

Writes invented records (Zipf-distributed words, the fields of real ones, 1:1 by tokens, 1 % of them near duplicates)
and a byte-level BPE tokenizer of 128K entries trained on such text, or takes those that lie in --folder from a
run before. Then, each in a process of its own and one after the other: the raw `encode_batch_fast` of the texts that
are mixed, already in memory; `smt mix` of all of them, with everything that it does; and, for comparison,
`datasets.map` with the same count and `datasets.interleave_datasets`. Imports are not timed, loading the tokenizer is
(but not in the raw speed). CPU seconds are those of all threads. Prints Markdown tables. With --records it mixes so
many short texts instead, to show what memory their number takes.
"""

import argparse
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import transformers

from smt_plugin.config import MixSection, parse_tokens
from smt_plugin.mixing.manifest import budget_name
from smt_plugin.mixing.mix import mix_run
from smt_plugin.records import Record

NUM_WORDS, VOCABULARY, NUM_DOCUMENTS = 200_000, 131_072, 265
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
SHARES = {"synthetic_qa": 1.0, "focal_rewrite": 1.0}
BATCH = 1024


class Clock:
    """Wall and CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def spent(self) -> dict[str, float]:
        """Both."""
        return {"seconds": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}


class Writer:
    """Invents text: 200,000 words of one to five syllables, the frequent ones short, in sentences of some 15."""

    def __init__(self, seed: int) -> None:
        words = np.random.default_rng(0)
        onsets = "b c d f g h k l m n p r s t v w st tr ch sh th".split()
        codas = ["", "", "n", "r", "s", "t", "l", "nd"]
        syllables = [a + b + c for a in onsets for b in "a e i o u ea oo".split() for c in codas]
        made: dict[str, None] = {}
        while len(made) < NUM_WORDS:
            count = 1 + words.poisson(np.log10(1 + len(made)) / 3.5)
            made["".join(syllables[i] for i in words.integers(0, len(syllables), min(count, 5)))] = None
        plain = list(made)
        forms = [*plain, *(word + "," for word in plain), *(word + "." for word in plain), *(w.title() for w in plain)]
        self._forms = np.array(forms, dtype=object)
        chances = 1 / (np.arange(NUM_WORDS) + 2.7) ** 1.05
        self._cumulative = np.cumsum(chances / chances.sum())
        self._rng = np.random.default_rng(seed)

    def text(self, words: int) -> str:
        """So many words."""
        chosen = np.minimum(np.searchsorted(self._cumulative, self._rng.random(words)), NUM_WORDS - 1)
        fate = self._rng.random(words)
        ends = fate < 1 / 15
        ends[-1] = True
        form = np.where(ends, 2, np.where(fate < 1 / 7, 1, 0))
        form[1:][ends[:-1]] = 3
        form[0] = 3
        return " ".join(self._forms[chosen + NUM_WORDS * form])

    def length(self, mean: int) -> int:
        """A number of words, from a half to one and a half of the mean."""
        return int(self._rng.integers(mean // 2, mean + mean // 2))


def make_tokenizer(folder: Path) -> None:
    """Train the tokenizer, with Llama 3's way of splitting text into words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    rust = Tokenizer(models.BPE())
    split = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    parts = [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    rust.pre_tokenizer = pre_tokenizers.Sequence(parts)
    rust.decoder = decoders.ByteLevel()
    writer = Writer(1)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    rust.train_from_iterator((writer.text(500) for _ in range(30_000)), trainer)
    rust.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=rust, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    ).save_pretrained(folder)


def make_records(run: Path, tokenizer: Path, tokens: int) -> None:
    """Write a run's records, half of the tokens each in question-answer pairs and in rewrites."""
    from tokenizers import Tokenizer

    rust = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    writer = Writer(2)
    sample = [writer.text(400) for _ in range(200)]
    per_word = sum(map(len, rust.encode_batch_fast(sample))) / (200 * 400)
    (run / "records.partial").mkdir(parents=True)
    for method, words in (("synthetic_qa", 75), ("focal_rewrite", 500)):
        around = 12 if method == "synthetic_qa" else 1
        count = round(tokens / 2 / (words * per_word + around))
        with (run / "records.partial" / f"{method}.jsonl").open("wb") as file:
            for number, record in enumerate(invented(writer, method, words, count)):
                file.write(orjson.dumps(record.to_json()) + b"\n")
                if number % 100 == 99:
                    file.write(orjson.dumps(nearly_again(record).to_json()) + b"\n")
    (run / "records.partial").rename(run / "records")


def invented(writer: Writer, method: str, words: int, count: int) -> Iterator[Record]:
    """Records with the fields, and the sizes of fields, that `smt generate` writes."""
    for number in range(count):
        length = writer.length(words)
        if method == "synthetic_qa":
            turns = [writer.text(max(3, length // 5)), writer.text(max(3, length - length // 5))]
            roles = ("user", "assistant")
            messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
            content: dict[str, Any] = {"messages": messages}
        else:
            content = {"text": writer.text(length), "question": writer.text(14)}
        place, index = divmod(number // NUM_DOCUMENTS, 8)
        yield Record(
            method=method,
            doc_id=f"document-{number % NUM_DOCUMENTS}",
            part=0,
            round=place,
            index=index,
            tokens=length,
            prompt=f"{method}/apply",
            prompt_hash="0123456789abcdef" * 2,
            model="Qwen/Qwen3-30B-A3B-Instruct-2507",
            sampling={"temperature": 0.7, "top_p": 0.95, "max_tokens": 4096},
            completions=[f"{number:064x}", f"{number + 1:064x}"],
            **content,
        )


def make_short_records(run: Path, count: int) -> None:
    """Write so many texts of three random numbers."""
    rng = random.Random(3)
    (run / "records").mkdir(parents=True)
    with (run / "records" / "focal_rewrite.jsonl").open("wb") as file:
        for number in range(count):
            place, document = divmod(number, NUM_DOCUMENTS)
            text = f"{rng.getrandbits(30)} {rng.getrandbits(30)} {rng.getrandbits(30)}"
            row = {"id": str(number), "doc_id": f"document-{document}", "round": place, "text": text}
            file.write(orjson.dumps(row) + b"\n")


def nearly_again(record: Record) -> Record:
    """The same record with its last word changed, in a later round."""
    content: dict[str, Any] = {}
    if record.text is not None:
        content["text"] = record.text.rpartition(" ")[0] + " Changed."
    else:
        question, answer = record.messages or []
        answer = {**answer, "content": answer["content"].rpartition(" ")[0] + " Changed."}
        content["messages"] = [question, answer]
    fields = {name: getattr(record, name) for name in Record.__slots__}
    return Record(
        **{**fields, **content, "round": record.round + 10_000, "completions": ["again", *record.completions]}
    )


def texts_of(run: Path) -> Iterator[list[str]]:
    """The texts that a mix measures, in batches: dialogues in the chat template, and documents."""
    for method in SHARES:
        batch = []
        with (run / "records" / f"{method}.jsonl").open("rb") as file:
            for line in file:
                row = orjson.loads(line)
                turns = row["messages"]
                # What the template gives, without the time that it takes.
                batch.append(
                    row["text"]
                    or "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
                )
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch


def measure_raw(run: Path, tokenizer: Path) -> dict[str, Any]:
    """Encode all texts, which are in memory already."""
    from tokenizers import Tokenizer

    rust = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    batches = list(texts_of(run))
    clock = Clock()
    tokens = sum(sum(map(len, rust.encode_batch_fast(batch))) for batch in batches)
    spent = clock.spent()
    return {**spent, "tokens": tokens}


def measure_mix(run: Path, tokenizer: Path, near_duplicates: float) -> dict[str, Any]:
    """Mix everything."""
    transformers.AutoTokenizer.__name__  # noqa: B018  imports it
    shares = {name: share for name, share in SHARES.items() if (run / "records" / f"{name}.jsonl").is_file()}
    settings = MixSection(tokenizer=str(tokenizer), shares=shares, replay_share=0, near_duplicates=near_duplicates)
    clock = Clock()
    manifest = mix_run(run, settings)
    spent = clock.spent()
    sources = manifest["sources"].values()
    return {
        **spent,
        "tokens": manifest["tokens"],
        "share": manifest["sources"].get("synthetic_qa", {}).get("share"),
        "lines": sum(source["lines"] for source in sources),
        "near": sum(source["near_duplicates"] for source in sources),
    }


def measure_interleave(run: Path, tokenizer: Path) -> dict[str, Any]:
    """Count with `map`, then interleave with the chances that should give the shares, and write JSONL."""
    import datasets

    datasets.disable_progress_bars()
    fast = transformers.AutoTokenizer.from_pretrained(tokenizer)
    cache = run / "cache"
    shutil.rmtree(cache, ignore_errors=True)

    def count(batch: dict[str, list[Any]]) -> dict[str, list[int]]:
        texts = batch.get("text") or fast.apply_chat_template(batch["messages"], tokenize=False)
        return {"length": [len(code) for code in fast.backend_tokenizer.encode_batch_fast(texts)]}

    clock = Clock()
    parts, means = [], []
    for method, column in (("synthetic_qa", "messages"), ("focal_rewrite", "text")):
        rows = datasets.load_dataset(
            "json", data_files=str(run / "records" / f"{method}.jsonl"), split="train", cache_dir=str(cache)
        ).select_columns([column])
        rows = rows.map(count, batched=True, batch_size=BATCH)
        means.append(float(np.mean(rows["length"])))
        parts.append(rows)
    chances = 1 / np.array(means)
    mixed = datasets.interleave_datasets(parts, probabilities=list(chances / chances.sum()), seed=0)
    lengths, is_chat = np.array(mixed["length"]), np.array([row is not None for row in mixed["messages"]])
    mixed.to_json(run / "interleaved.jsonl", batch_size=BATCH)
    spent = clock.spent()
    tokens = int(lengths.sum())
    return {**spent, "tokens": tokens, "share": float(lengths[is_chat].sum()) / tokens}


def measured(*arguments: str) -> dict[str, Any]:
    """Run this file on one measurement in a process of its own, and return what it found."""
    result = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, Any] = orjson.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tokens", type=parse_tokens, nargs="+", default=[10_000_000])
    parser.add_argument("--interleave", type=parse_tokens, nargs="*", default=[], help="of --tokens, where to compare")
    parser.add_argument("--records", type=parse_tokens, help="mix so many short texts instead, for the memory")
    parser.add_argument("--prepare", action="store_true", help="write the records and stop")
    parser.add_argument("--measure", choices=["raw", "mix", "mix_exact", "interleave", "idle"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tokenizer = arguments.folder / "tokenizer"
    if arguments.measure:
        run = arguments.folder / (
            f"short-{arguments.records}" if arguments.records else budget_name(arguments.tokens[0])
        )
        found = {
            "raw": lambda: measure_raw(run, tokenizer),
            "mix": lambda: measure_mix(run, tokenizer, 0.8),
            "mix_exact": lambda: measure_mix(run, tokenizer, 1.0),
            "interleave": lambda: measure_interleave(run, tokenizer),
            "idle": lambda: measure_idle(tokenizer),
        }[arguments.measure]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(orjson.dumps({**found, "peak": peak}).decode())
        return
    if not tokenizer.is_dir():
        make_tokenizer(tokenizer)
    if arguments.records:
        run = arguments.folder / f"short-{arguments.records}"
        if not (run / "records").is_dir():
            make_short_records(run, arguments.records)
        found = measured("--folder", str(arguments.folder), "--records", str(arguments.records), "--measure", "mix")
        print(f"{found['lines']:,} records, {found['tokens']:,} tokens: {found['peak'] / 2**20:,.0f} MiB")
        return
    for tokens in arguments.tokens:
        run = arguments.folder / budget_name(tokens)
        if not (run / "records").is_dir():
            make_records(run, tokenizer, tokens)
    if arguments.prepare:
        return
    print("| tokens | what | seconds | CPU s | tokens/s | of the raw speed | peak memory | share of questions |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    peaks = {}
    for tokens in arguments.tokens:
        name = budget_name(tokens)
        kinds = ["raw", "mix", *(["mix_exact", "interleave"] if tokens in arguments.interleave else [])]
        all_found = {}
        for kind in kinds:
            found = measured("--folder", str(arguments.folder), "--tokens", name, "--measure", kind)
            all_found[kind] = found
            raw = all_found["raw"]
            what = {
                "raw": "`encode_batch_fast` alone",
                "mix": f"`smt mix`, {found.get('near', 0):,} near duplicates dropped",
                "mix_exact": "`smt mix`, `near_duplicates: 1`",
                "interleave": "`datasets.map`, `interleave_datasets`",
            }[kind]
            share = f"{found['share']:.2%}" if "share" in found else ""
            # All of the raw run's texts are measured in each, also what is dropped or exceeds its share.
            print(
                f"| {raw['tokens']:,} | {what} | {found['seconds']:.1f} | {found['cpu']:.1f} "
                f"| {raw['tokens'] / found['seconds']:,.0f} | {raw['seconds'] / found['seconds']:.2f} "
                f"| {'' if kind == 'raw' else format(found['peak'] / 2**20, ',.0f') + ' MiB'} | {share} |",
                flush=True,
            )
        peaks[all_found["mix"]["lines"]] = all_found["mix"]["peak"]
    idle = measured("--folder", str(arguments.folder), "--measure", "idle")["peak"]
    print(f"\npeak memory of the imports and the loaded tokenizer alone: {idle / 2**20:,.0f} MiB")
    if len(peaks) > 1:
        (few, least), (many, most) = min(peaks.items()), max(peaks.items())
        per_record = (most - least) / (many - few)
        at_700 = least + per_record * (many * 700e6 / max(arguments.tokens) - few)
        print(f"{per_record:.0f} bytes a record; at 700M tokens of such records: {at_700 / 2**20:,.0f} MiB")


def measure_idle(tokenizer: Path) -> dict[str, Any]:
    """Load what a mix loads."""
    import smt_plugin.mixing.near_duplicates  # noqa: F401
    from smt_plugin.mixing.ruler import Ruler

    Ruler(str(tokenizer), 2048)
    return {}


if __name__ == "__main__":
    main()
