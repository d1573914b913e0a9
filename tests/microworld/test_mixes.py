import re

import pytest
import yaml

from benchmarks.microworld_mixes import (
    BUDGETS,
    METHODS,
    MIXES,
    Training,
    differences,
    every_training,
    run_file,
    seed_interval,
    slopes,
    summary,
    write_run_file,
)
from smt_plugin.cli.quickstart import RUN_FILE

SEEDS = [7, 11]
# The accuracy of every mix at every budget: 10 points a doubling, "focal" 20, "documents" 5.
LEVELS = {
    "questions": (0.4, 0.5, 0.6),
    "documents": (0.3, 0.35, 0.4),
    "mixed": (0.4, 0.5, 0.6),
    "focal": (0.4, 0.6, 0.8),
}


def answers(seed: int, level: float) -> dict[str, tuple[float, str]]:
    """Two documents of ten questions; one lies 0.1 above the level, the other below, in the other seed by 0.2."""
    spread = 0.1 * (1 + SEEDS.index(seed))
    return {f"{seed}/{d}-{q}": (level + spread * (1 - 2 * d), f"{seed}/{d}") for d in range(2) for q in range(10)}


TRAININGS = [
    Training(seed, budget, mix, budget, budget, budget // 2, 5, 60.0, 0.0, answers(seed, LEVELS[mix][place]))
    for seed in SEEDS
    for place, budget in enumerate(BUDGETS)
    for mix in MIXES
]
BASE = {arm: {q: a for seed in SEEDS for q, a in answers(seed, 0.5).items()} for arm in ("base", "base_rag")}


def cells(table: str, *start: str) -> list[str]:
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    (found,) = [row for row in rows if row[: len(start)] == list(start)]
    return found


def test_a_training_differs_from_the_quickstart_in_nothing_but_folder_methods_shares_tokens_and_arms():
    settings = {"shares": MIXES["mixed"], "sources": {"synthetic_qa": "x.jsonl"}, "tokens": 40_000}
    ours = yaml.safe_load(run_file("mixed-40K", 160_000, mix=settings, evaluate={"arms": ["trained"]}))
    theirs = yaml.safe_load(RUN_FILE)
    theirs["mix"] |= settings
    theirs["evaluate"]["arms"] = ["trained"]
    assert {**ours, "run": None, "methods": None} == {**theirs, "run": None, "methods": None}
    assert ours["methods"] == {method: {"tokens": 400_000} for method in METHODS}


def test_results_of_other_settings_are_refused(tmp_path):
    write_run_file(tmp_path / "a.yaml", run_file("a", 160_000))
    write_run_file(tmp_path / "a.yaml", run_file("a", 160_000))
    with pytest.raises(SystemExit, match="other settings"):
        write_run_file(tmp_path / "a.yaml", run_file("a", 80_000))


def test_the_summary_shows_the_mean_over_seeds_and_each_seed():
    row = cells(summary(TRAININGS, BASE, SEEDS, list(BUDGETS)), "160K", "focal")
    assert row[2] == "80.0%"
    assert row[5:7] == ["80.0%", "80.0%"]
    assert row[7].startswith("+30.0")


def test_differences_are_paired_so_that_what_the_mixes_share_cancels():
    table = differences(TRAININGS, SEEDS, list(BUDGETS))
    assert cells(table, "160K", "focal - mixed")[2].startswith("+20.0 (+")
    shared = cells(table, "160K", "mixed - questions")[2]
    assert re.fullmatch(r"\+0\.0 \(-(\d+\.\d) to \+\1\)", shared)


def test_the_slope_is_the_gain_of_a_doubling():
    table = slopes(TRAININGS, SEEDS, list(BUDGETS))
    assert cells(table, "documents")[1].startswith("+5.0")
    assert cells(table, "focal")[1].startswith("+20.0")
    assert cells(table, "focal - mixed")[1].startswith("+10.0 (")


def test_the_interval_over_seeds_is_students():
    low, high, p_value = seed_interval([0.1, 0.2, 0.3])
    assert (low, high) == pytest.approx((0.2 - 4.3027 * 0.1 / 3**0.5, 0.2 + 4.3027 * 0.1 / 3**0.5), abs=1e-4)
    assert p_value == pytest.approx(0.0742, abs=1e-4)


def test_every_training_has_a_row_with_its_tokens_times_epochs():
    table = every_training(TRAININGS)
    assert len(table.splitlines()) == 2 + len(TRAININGS)
    assert cells(table, "7", "40K", "mixed")[5:7] == ["200,000", "100,000"]
