import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.kills import driver
from tests.study.microworld_study import write_study
from tests.test_kills import KILLS, check_whole

IMPORTED = ["smt_plugin.cli.app", "tests.study.stand_in", "smt_plugin.mixing.mix", "axolotl", "lm_eval", "torch"]


def hashes(study: Path) -> dict[str, str]:
    """Of each cell's mix."""
    return {
        path.parents[1].name: json.loads(path.read_text())["content_hash"]
        for path in (study / "cells").glob("*/mix/manifest.json")
    }


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_where_it_was_and_trains_no_finished_cell_again(tmp_path: Path) -> None:
    work, log = tmp_path / "work", tmp_path / "trained.log"
    work.mkdir()
    _, cells = write_study(work)
    study = work / "study"
    with driver(study, IMPORTED, {"TRAINED": str(log), "HF_HUB_OFFLINE": "1"}, work) as runs:
        alone = runs.smt("study", "run", "study.yaml")
        assert alone["status"] == 0, alone["said"]
        made = hashes(study)
        assert len(made) == len(cells) == 4
        rng = random.Random(1)
        kills = 0
        for _ in range(KILLS):
            shutil.rmtree(study)
            log.unlink()
            for point in (rng.randint(1, alone["changes"]), rng.randint(1, alone["changes"] // 2)):
                kills += runs.smt("study", "run", "study.yaml", kill_at=point)["status"] == -9
                check_whole(study)
            finished = {path.parent.name for path in (study / "cells").glob("*/cell.json")}
            before = Counter(log.read_text().splitlines() if log.is_file() else ())
            again = runs.smt("study", "run", "study.yaml")
            assert again["status"] == 0, again["said"]
            assert "4 of 4 cells are done" in again["said"]
            assert hashes(study) == made
            after = Counter(log.read_text().splitlines())
            assert all(after[name] == before[name] for name in finished)
            assert after.total() - len(cells) <= 2, "more trainings were begun again than were killed"
        assert kills >= KILLS
