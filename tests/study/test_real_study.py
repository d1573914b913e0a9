import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.study.microworld_study import RUN_FILE, write_study

STUDY = """\
study: study
run_file: run.yaml
mixes:
  questions: {shares: {synthetic_qa: 1}}
budgets: [1K, 2K]
train_arguments: [--launcher, python, --num-epochs, "1"]
"""


@pytest.mark.slow
def test_a_study_of_two_cells_runs_from_nothing_and_is_not_run_again(tmp_path: Path) -> None:
    evaluate = 'evaluate: {benchmark: microworld, data: archive, arms: [base, trained], limit: 8, batch_size: "64"}'
    _, cells = write_study(tmp_path, STUDY, RUN_FILE[: RUN_FILE.index("evaluate")] + evaluate)

    def smt(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "smt_plugin", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    ran = smt("study", "run", "study.yaml", "--jobs", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 of 2 cells are done" in ran.stdout
    assert ran.stdout.count("$ smt evaluate") == 3  # base arms once, and each cell's own
    again = smt("study", "run", "study.yaml")
    assert again.stdout.count("done before, skipped") == 2
    assert "$ " not in again.stdout
    reported = smt("study", "report", "study.yaml")
    assert reported.returncode == 0, reported.stderr
    assert re.search(r"questions.2K +\d+\.\d%", reported.stdout)
    assert "Arm trained. 8 questions each." in reported.stdout
    # A cell is a run as any other.
    evaluated = smt("evaluate", f"study/cells/{cells[0].name}.yaml")
    assert evaluated.stdout.count("done before, skipped") == 2
