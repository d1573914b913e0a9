"""What a study consists of: cells, each an ordinary run, and the runs that hold what several cells share.

`<study>/generated/` has a run for every corpus and generator, `<study>/mixes/` one for every mix of these and
tokenizer, `<study>/base/` one for every corpus and model before its training, `<study>/cells/` one for every training.
Each stands beside its run file, so that every command that takes a run file takes these.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from smt_plugin.benchmarks import names
from smt_plugin.config import MixSection, RunFile, StudyFile, write_resolved
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import ARMS
from smt_plugin.faithfulness.verdicts import JUDGE
from smt_plugin.files import make_folder, write_text
from smt_plugin.generation.generate import method_options
from smt_plugin.masking import without_secrets
from smt_plugin.mixing.manifest import budget_name
from smt_plugin.training.shipped import base_model_of, read_config
from smt_plugin.training.trainings import Training

_LONGEST_NAME = 255  # bytes, on all common file systems


@dataclass(frozen=True, slots=True)
class Cell:
    """One training of a study.

    Attributes:
        corpus, generator, target: names in the study file; empty where it has none.
        seed: None for that of the training's config.
        run_file: of the training and its evaluation; its config is written by `write_cell`.
        config: the axolotl config with the seed, which `write_cell` writes.
        train_arguments: of `axolotl train`.
        generated, mixed, base: the run files of what it shares with others.
    """

    name: str
    corpus: str
    generator: str
    target: str
    mix: str
    budget: int
    seed: int | None
    run_file: RunFile
    config: Path
    train_arguments: list[str]
    generated: RunFile
    mixed: RunFile
    base: RunFile

    @property
    def training(self) -> Training:
        """Where its model is."""
        return Training(self.run_file.run)

    @property
    def shared_mix(self) -> Training:
        """Where its mix was made."""
        return Training(self.mixed.run, budget_name(self.budget))

    @property
    def arms(self) -> list[str]:
        """The arms of the trained model."""
        assert self.run_file.evaluate is not None
        return [arm for arm in self.run_file.evaluate.arms if ARMS[arm][0]]

    @property
    def base_arms(self) -> list[str]:
        """The arms of the model before its training."""
        assert self.run_file.evaluate is not None
        return [arm for arm in self.run_file.evaluate.arms if not ARMS[arm][0]]


def cells_of(study: StudyFile, run_file: RunFile) -> list[Cell]:
    """Return the cells of a study in the order of its file, the budgets of a curve beside each other.

    Raises:
        BadInput: an arm, a config or a method that is none, no arm of a trained model, a secret in the run file, or a
            folder whose path is too long.
    """
    assert run_file.evaluate is not None
    # The run files of the cells are written without secrets, and read by the commands.
    for section, value in run_file.model_dump(mode="json").items():
        if without_secrets(value) != value:
            raise BadInput(
                f"run file {study.run_file}: {section}: it holds what looks like a secret, which a study's own run "
                "files leave out; give it in an environment variable, such as OPENAI_API_KEY or HF_TOKEN."
            )
    arms = run_file.evaluate.arms
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise BadInput(
            f"run file {study.run_file}: evaluate.arms: unknown arm {unknown[0]!r}; use some of {', '.join(ARMS)}."
        )
    if not any(ARMS[arm][0] for arm in arms):
        raise BadInput(f"run file {study.run_file}: evaluate.arms: a study trains models; add `trained`.")
    for name, corpus in study.corpora.items():
        if corpus.benchmark not in (None, *names()):
            raise BadInput(
                f"corpora.{name}.benchmark: unknown benchmark {corpus.benchmark!r}; choose one of: "
                f"{', '.join(names())}."
            )
    for name, generator in study.generators.items():
        if JUDGE in (generator.gate or []) and run_file.evaluate.judge is None:
            raise BadInput(
                f"generators.{name}.gate: the run file {study.run_file} has no evaluate.judge; add one, or take "
                "`judge` out."
            )
    for name, of_mix in study.mixes.items():
        for method in of_mix.shares.keys() - of_mix.sources.keys() - run_file.methods.keys():
            raise BadInput(
                f"mixes.{name}.shares: {method} is none of the methods in the run file {study.run_file}, nor in "
                f"mixes.{name}.sources; correct its name, or add it there."
            )
    seeds: list[int | None] = [*study.seeds] or [None]
    models = _first_with_each_model(study)
    cells = [
        _cell(study, run_file, corpus, generator, target, models.get(target, ""), mix, budget, seed)
        for corpus, generator, target, mix, seed, budget in product(
            [*study.corpora] or [""],
            [*study.generators] or [""],
            [*study.targets] or [""],
            [*study.mixes],
            seeds,
            sorted(study.budgets),
        )
        if generator in (study.mixes[mix].generators or [generator])
    ]
    for cell in cells:
        # lm-eval makes a folder of this name, and goes on without saving its answers where it cannot.
        if len(str(cell.training.model).replace("/", "__").encode()) > _LONGEST_NAME:
            raise BadInput(
                f"{cell.run_file.run}: this path is too long for lm-eval, which makes one name of the model's; use "
                "shorter names in the study file, or another place for `study`."
            )
    return cells


def configs_of(study: StudyFile, run_file: RunFile) -> dict[str, str]:
    """Return of each target's name the config to start from; that of "" where the study names no target."""
    return {name: train.config for name, train in study.targets.items()} or {"": run_file.train.config}


def _cell(
    study: StudyFile,
    run_file: RunFile,
    corpus: str,
    generator: str,
    target: str,
    model: str,
    mix: str,
    budget: int,
    seed: int | None,
) -> Cell:
    """A cell; `model` is the target whose runs it shares."""
    evaluate = run_file.evaluate
    assert evaluate is not None
    own: dict[str, Any] = {}
    if corpus:
        given = study.corpora[corpus]
        own["corpus"] = given.corpus
        asked = {"benchmark": given.benchmark, "data": None} if given.benchmark else {}
        evaluate = evaluate.model_copy(update=asked | ({"data": given.data} if given.data else {}))
    if generator:
        own["backend"] = study.generators[generator].backend
        if (gate := study.generators[generator].gate) is not None:
            own["gate"] = gate
    train = study.targets[target] if target else run_file.train
    shared = {"train": study.targets[model]} if model else {}

    def run(kind: str, *parts: str, **changes: Any) -> RunFile:
        folder = study.study / kind / (_joined(*parts) or "run")
        return run_file.model_copy(update={**own, "train": train, "evaluate": evaluate, "run": folder, **changes})

    def unmixed(methods: Iterable[str]) -> MixSection:
        shares = dict.fromkeys(methods, 1.0)
        return run_file.mix.model_copy(update={"budgets": [], "tokens": None, "shares": shares, "sources": {}})

    drawn = _methods_drawn_from(study, generator)
    methods = {name: options for name, options in method_options(run_file).items() if name in drawn}
    # The same for all targets, since it is made once.
    generated = run("generated", corpus, generator, methods=methods, mix=unmixed(methods), train=run_file.train)
    of_mix = study.mixes[mix]
    sources = {name: generated.run / "records" / f"{name}.jsonl" for name in of_mix.shares} | of_mix.sources
    mixing = run_file.mix.model_copy(update={"shares": of_mix.shares, "sources": sources, "tokens": None})
    nested = mixing.model_copy(update={"budgets": sorted(study.budgets)})
    mixed = run("mixes", corpus, generator, model, mix, mix=nested, **shared)
    base_arms = [arm for arm in evaluate.arms if not ARMS[arm][0]]
    base = run(
        "base",
        corpus,
        model,
        mix=unmixed(run_file.methods),
        evaluate=evaluate.model_copy(update={"arms": base_arms}),
        **shared,
    )
    said = [] if seed is None else [f"seed{seed}"]
    config = study.study / "configs" / f"{_joined(target, *said) or 'config'}.yaml"
    name = _joined(corpus, generator, target, mix, *said, budget_name(budget))
    cell = run(
        "cells",
        name,
        mix=mixing.model_copy(update={"budgets": [], "tokens": budget}),
        train=train.model_copy(update={"config": str(config)}),
    )
    return Cell(
        name, corpus, generator, target, mix, budget, seed, cell, config, study.train_arguments, generated, mixed, base
    )


def _methods_drawn_from(study: StudyFile, generator: str) -> set[str]:
    """The methods whose records of a generator any mix takes: others would be paid for and not used."""
    return {
        method
        for mix in study.mixes.values()
        if generator in (mix.generators or [generator])
        for method in mix.shares.keys() - mix.sources.keys()
    }


def _first_with_each_model(study: StudyFile) -> dict[str, str]:
    """Each target -> the first one with the same model and tokenizer, whose mixes and base arms are the same."""
    first: dict[tuple[str, object], str] = {}
    return {
        name: first.setdefault(
            (base_model_of(train.config, train.base_model), read_config(train.config).get("tokenizer_config")), name
        )
        for name, train in study.targets.items()
    }


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def path_of(run_file: RunFile) -> Path:
    """Where the run file of a run of a study lies."""
    return run_file.run.with_name(f"{run_file.run.name}.yaml")


def write_run_file(run_file: RunFile) -> Path:
    """Write the run file of a run of a study beside it, and return its path."""
    path = path_of(run_file)
    make_folder(path.parent)
    write_resolved(run_file, path)
    return path


def write_cell(cell: Cell, train_config: str | Path) -> Path:
    """Write a cell's config, the target's with the cell's seed, and its run file, and return the latter's path."""
    values = read_config(train_config)
    if cell.seed is not None:
        values["seed"] = cell.seed
    make_folder(cell.config.parent)
    write_text(
        cell.config,
        f"# Written by `smt study` from the config {train_config}.\n{yaml.safe_dump(values, sort_keys=False)}",
    )
    return write_run_file(cell.run_file)


def of_each(cells: Sequence[Cell], shared: Callable[[Cell], RunFile]) -> list[RunFile]:
    """The runs that cells share, each once, in the order of the cells."""
    return list({shared(cell).run: shared(cell) for cell in cells}.values())
