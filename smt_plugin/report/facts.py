"""What a reader of a report should know about the run: its models, budgets, mixes and leaks, in words."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from smt_plugin.benchmarks.find import OFFICIAL
from smt_plugin.config import RunFile
from smt_plugin.evaluation.leaks import dropped_from_mix, read_leaks
from smt_plugin.evaluation.tune import read_tuned
from smt_plugin.files import read_json
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.records import generated_folders
from smt_plugin.training.trainings import trainings_of


def run_facts(run_file: RunFile) -> dict[str, str]:
    """Return what a reader of the report should know: models, budgets and the mix."""
    facts = {"run": run_file.run.name, "corpus": run_file.corpus.name, "training": run_file.train.config}
    official = OFFICIAL.get(run_file.evaluate.benchmark) if run_file.evaluate else None
    if official is not None:
        facts["benchmark"] = f"{official.source}; licence: {official.licence}"
    generated: dict[str, Counter[str]] = defaultdict(Counter)
    for folder in generated_folders(run_file.run):
        if (folder / "generate.json").is_file():
            for name, count in read_json(folder / "generate.json", "smt generate", "methods")["methods"].items():
                generated[name].update(tokens=count["tokens"], records=count["records"])
    for name, total in generated.items():
        facts[name] = f"{total['tokens']:,} tokens in {total['records']:,} records"
    for training in trainings_of(run_file.run, run_file.mix.budgets):
        if (training.mix / MANIFEST_FILE).is_file():
            mix = read_manifest(training.mix / MANIFEST_FILE)
            shares = ", ".join(f"{name} {source['tokens']:,}" for name, source in mix["sources"].items())
            name = f"trained on, {training.budget}" if training.budget else "trained on"
            facts[name] = f"{mix['tokens']:,} tokens: {shares}"
    if tuned := read_tuned(run_file.run):
        facts["retrieval"] = (
            f"tuned by {tuned['by']} on {tuned['questions']:,} questions about {len(tuned['held_out'])} documents "
            "(the first fifth by title), which left all numbers below; chosen: "
            + ", ".join(f"{name} {value}" for name, value in tuned["chosen"].items())
        )
    if dropped := dropped_from_mix(run_file.run):
        facts["left out of the mix"] = f"{dropped:,} records that leak evaluation questions"
    if (run_file.run / "leaks.json").is_file():
        facts["leaks"] = leaks_text(run_file.run, run_file.mix.sources)
    return facts


def leaks_text(run: Path, sources: Mapping[str, Path] | None = None) -> str:
    """What `smt leaks` found in a run's records and the mix's from elsewhere, as a sentence."""
    leaks = read_leaks(run, sources)
    if leaks is None:
        return "not known: the records have changed since; run `smt leaks` again"
    share = len(leaks["leaked"]) / leaks["questions"]
    return (
        f"{len(leaks['leaked']):,} of {leaks['questions']:,} evaluation questions ({share:.1%}) are nearly asked "
        f"({len(leaks['asked']):,}), asked in other words ({len(leaks['alike']):,}) or quoted "
        f"({len(leaks['quoted']):,}) by {leaks['leaking_records']:,} synthetic records"
    )
