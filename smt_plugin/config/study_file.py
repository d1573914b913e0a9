"""The study file: one YAML that names a run file and what varies of it, checked key by key as a run file is."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, model_validator

from smt_plugin.config.run_file import load_yaml, read_run_file
from smt_plugin.config.sections import BackendSection, GateKinds, MixSection, RunFile, TrainSection
from smt_plugin.config.values import RunPath, Section, Tokens, first_problem
from smt_plugin.errors import BadInput


def _different(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("one of them is given twice; take one out")
    return values


# It becomes a part of folders' names, between dots.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class MixOfStudy(Section):
    """One of the mixes that are compared; all else of a mix is the run file's."""

    shares: dict[str, float] = Field(min_length=1, description="as `mix.shares` of a run file")
    sources: dict[str, RunPath] = Field(default={}, description="as `mix.sources` of a run file")
    generators: list[Name] = Field(default=[], description="those whose records it is made of; default: each of them")


class GeneratorOfStudy(Section):
    """One of the ways in which records are made: written as a section `backend`, with a `gate` in it if it has one."""

    backend: BackendSection
    gate: GateKinds | None = Field(default=None, description="as `gate` of a run file; default: the run file's")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: object) -> object:
        if not isinstance(values, dict):
            return {"backend": values}
        return {"backend": {key: value for key, value in values.items() if key != "gate"}, "gate": values.get("gate")}


class CorpusOfStudy(Section):
    """One of the corpora, with the questions about it."""

    corpus: RunPath = Field(description="as `corpus` of a run file")
    benchmark: str | None = Field(default=None, description="as `evaluate.benchmark`; default: the run file's")
    data: RunPath | None = Field(
        default=None, description="as `evaluate.data`; default: the run file's, or none where `benchmark` is given"
    )


class StudyFile(Section):
    """A whole study. Relative paths are relative to the study file's folder.

    What is left out does not vary, and is the run file's.
    """

    study: RunPath = Field(description="the folder for everything that is made")
    run_file: RunPath = Field(
        description="the run file that all cells begin with; its `run` and `mix` budget are unused"
    )
    mixes: dict[Name, MixOfStudy] = Field(min_length=1, description="name -> shares and sources")
    budgets: Annotated[list[Tokens], AfterValidator(_different)] = Field(
        min_length=1, description="tokens of records, nested: a smaller mix is a part of each larger one"
    )
    generators: dict[Name, GeneratorOfStudy] = Field(
        default={}, description="name -> a section `backend`, with a `gate` in it if it has one of its own"
    )
    targets: dict[Name, TrainSection] = Field(default={}, description="name -> a section `train`")
    corpora: dict[Name, CorpusOfStudy] = Field(default={}, description="name -> corpus and questions")
    seeds: Annotated[list[Seed], AfterValidator(_different)] = Field(
        default=[], description="of the training; default: that of the training's config, once"
    )
    train_arguments: list[str] = Field(default=[], description="added to `axolotl train`, e.g. [--launcher, python]")

    @model_validator(mode="after")
    def _check(self) -> "StudyFile":
        for key in ("mixes", "generators", "targets", "corpora"):
            seen: dict[str, str] = {}
            for name in getattr(self, key):
                if (other := seen.setdefault(name.lower(), name)) != name:
                    raise ValueError(
                        f"{key}: {other} and {name} would be one folder where case does not count; rename one"
                    )
        for name, mix in self.mixes.items():
            try:
                MixSection(shares=mix.shares, sources=mix.sources)
            except ValidationError as error:
                raise ValueError(first_problem(error, "mixes", name).removesuffix(".")) from None
            for generator in mix.generators:
                if generator not in self.generators:
                    raise ValueError(f"mixes.{name}.generators: {generator} is none of `generators`; correct its name")
        return self


def read_study_file(path: Path) -> tuple[StudyFile, RunFile]:
    """Read and check a study file and the run file that it names.

    Raises:
        BadInput: as `read_run_file`, of either; or the run file has no section `evaluate`.
    """
    content = load_yaml(path, "study file ", "write one as docs/studies.md shows it")
    try:
        study = StudyFile.model_validate(content, context=path.parent)
    except ValidationError as error:
        raise BadInput(f"study file {path}: {first_problem(error).removeprefix(': ')}") from None
    run_file = read_run_file(study.run_file)
    if run_file.evaluate is None:
        raise BadInput(
            f"run file {study.run_file}: evaluate: this key is missing; a study compares answers, so add it, with "
            "`benchmark: corpus` in it."
        )
    return study, run_file
