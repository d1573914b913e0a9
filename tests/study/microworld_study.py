"""A small study in the microworld, for tests: its files, and a stand-in for the two commands that take minutes."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

from click.testing import CliRunner

from smt_plugin.cli.app import cli
from smt_plugin.config import StudyFile, read_run_file, read_study_file
from smt_plugin.microworld import archive
from smt_plugin.study.cells import Cell, cells_of
from smt_plugin.study.run import CommandFailed
from smt_plugin.training.shipped import read_config
from smt_plugin.training.trainings import mix_of
from tests.report.test_report import finish_arm

RUN_FILE = """\
run: unused
corpus: archive
backend: {kind: microworld}
methods:
  synthetic_qa: {tokens: 12K}
  active_reading: {tokens: 12K}
mix: {replay: archive/replay.jsonl, sequence_len: 512}
train: {config: microworld/full}
evaluate: {benchmark: microworld, data: archive, arms: [base_rag, trained]}
"""
STUDY_FILE = """\
study: study
run_file: run.yaml
mixes:
  questions: {shares: {synthetic_qa: 1}}
  mixed: {shares: {synthetic_qa: 1, active_reading: 1}}
budgets: [2K, 4K]
"""
CONFIGS = {"": "microworld/full"}


def write_study(folder: Path, study: str = STUDY_FILE, run_file: str = RUN_FILE) -> tuple[StudyFile, list[Cell]]:
    """Write archive, run file and study file into a folder, and read them."""
    archive.write(folder / "archive")
    (folder / "run.yaml").write_text(run_file)
    (folder / "study.yaml").write_text(study)
    return read(folder)


def read(folder: Path) -> tuple[StudyFile, list[Cell]]:
    """Read a study and its cells."""
    settings, run_file = read_study_file(folder / "study.yaml")
    return settings, cells_of(settings, run_file)


class Commands:
    """Stands in for `run_command`: `smt generate` and `smt mix` are real, trainings and answers are made up.

    Args:
        accuracy: of a run's folder and an arm, the accuracies of the questions.
        fails: whether a command fails.
    """

    def __init__(
        self, accuracy: Callable[[Path, str], list[float]], fails: Callable[[str], bool] = lambda said: False
    ) -> None:
        self._accuracy, self._fails = accuracy, fails
        self.said: list[str] = []

    def __call__(self, words: list[str], log: Path, say: Callable[[str], None], stopping: Event) -> float:
        """As `run_command`."""
        place = Path(words[2])
        named = place.parent if words[0] == "axolotl" else place.with_suffix("")
        said = " ".join([*words[:2], f"{named.parent.name}/{named.name}"])
        self.said.append(said)
        if self._fails(said):
            raise CommandFailed(f"{said} was told to fail", 1)
        if words[0] == "axolotl":
            model = named / "model"
            model.mkdir(exist_ok=True)
            (model / "model.safetensors").write_text("weights")
            (model / "README.md").write_text(f"```yaml\n{place.read_text()}```\n")
            assert mix_of(read_config(place))
        elif words[1] == "evaluate":
            evaluate = read_run_file(place).evaluate
            assert evaluate is not None
            for arm in evaluate.arms:
                if not (named / "results" / arm).exists():
                    finish_arm(named, arm, self._accuracy(named, arm))
        else:
            result = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
            if result.exit_code:
                raise CommandFailed(f"{said}: {result.output}", result.exit_code)
        return 1.0
