import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from smt_plugin.assets import asset_dir
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import read_marker
from smt_plugin.files import write_json, write_jsonl
from smt_plugin.mixing.manifest import read_manifest
from smt_plugin.study import run
from smt_plugin.study.cells import Cell
from smt_plugin.study.run import CellFailed, alone, is_done, link_folder, run_cells, run_command
from tests.study.microworld_study import CONFIGS, RUN_FILE, STUDY_FILE, Commands, read, write_study


def flat(folder: Path, arm: str) -> list[float]:
    return [0.25, 0.5, 0.75, 0.5] * 3


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands(flat)
    monkeypatch.setattr(run, "run_command", found)
    return found


def run_study(folder: Path, cells: list[Cell] | None = None) -> tuple[dict[str, str], list[str]]:
    said: list[str] = []
    settings, every = read(folder)
    return run_cells(settings, cells or every, CONFIGS, said.append), said


def test_what_cells_share_is_made_once_and_a_second_call_does_nothing(tmp_path: Path, commands: Commands) -> None:
    _, cells = write_study(tmp_path, STUDY_FILE + "seeds: [1, 2]\n")
    failed, said = run_study(tmp_path)
    assert failed == {}
    assert len(cells) == 8
    shared = [each for each in commands.said if "cells/" not in each]
    assert shared == [
        "smt generate generated/run",
        "smt evaluate base/run",
        "smt mix mixes/questions",
        "smt mix mixes/mixed",
    ]
    assert sum(each.startswith("axolotl") for each in commands.said) == 8
    assert sum("done in" in line for line in said) == 8
    commands.said.clear()
    failed, said = run_study(tmp_path)
    assert commands.said == []
    assert [line.partition(": ")[2] for line in said] == ["done before, skipped"] * 8


def test_how_long_the_cells_that_are_left_take_is_told_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Minutes that a training takes: one, and one more for each 1K tokens.
    write_study(tmp_path, STUDY_FILE.replace("[2K, 4K]", "[1K, 2K, 4K]"))
    now = 0.0

    class Slow(Commands):
        def __call__(self, words: list[str], *rest: Any) -> float:
            nonlocal now
            if words[0] == "axolotl":
                now += 60 + 60 * int(re.findall(r"(\d)K/", words[2])[-1])
            return super().__call__(words, *rest)

    monkeypatch.setattr(run, "run_command", Slow(flat))
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: now))
    _, said = run_study(tmp_path)
    assert [line.partition("done in ")[2] for line in said if "done in" in line] == [
        "120 s; 5 left, about 10 min 00 s",
        "180 s; 4 left, about 15 min 00 s",
        "300 s; 3 left, about 10 min 00 s",
        "120 s; 2 left, about 8 min 00 s",
        "180 s; 1 left, about 5 min 00 s",
        "300 s",
    ]


def test_a_cell_is_a_run_of_its_own_with_the_shared_mix_and_the_base_models_answers(
    tmp_path: Path, commands: Commands
) -> None:
    _, cells = write_study(tmp_path)
    run_study(tmp_path)
    small, large = (cell.run_file.run for cell in cells[:2])
    assert read_manifest(large / "mix" / "manifest.json")["record_tokens"] == pytest.approx(4000, rel=0.05)
    texts = [set((folder / "mix" / "qa.jsonl").read_text().splitlines()) for folder in (small, large)]
    assert texts[0] < texts[1]
    shared = cells[0].shared_mix.mix / "qa.jsonl"
    assert (small / "mix" / "qa.jsonl").samefile(shared)
    assert (small / "results" / "base_rag" / "arm.json").samefile(
        cells[0].base.run / "results" / "base_rag" / "arm.json"
    )


def test_a_cell_that_fails_says_why_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path)
    commands = Commands(flat, fails=lambda said: said == "axolotl train cells/questions.4K")
    monkeypatch.setattr(run, "run_command", commands)
    failed, said = run_study(tmp_path)
    assert failed == {"questions.4K": "axolotl train cells/questions.4K was told to fail"}
    assert "[2/4] questions.4K: failed: axolotl train cells/questions.4K was told to fail" in said
    monkeypatch.setattr(run, "run_command", commands := Commands(flat))
    assert run_study(tmp_path)[0] == {}
    assert commands.said == [
        "smt evaluate base/run",
        "axolotl train cells/questions.4K",
        "smt evaluate cells/questions.4K",
    ]


def test_base_answers_that_were_given_anew_reach_a_cell_that_is_run_again(tmp_path: Path, commands: Commands) -> None:
    _, cells = write_study(tmp_path)
    run_study(tmp_path)
    run = cells[0].run_file.run
    write_json(cells[0].base.run / "results" / "base_rag" / "arm.json", {"inputs": "newer tasks"})
    assert read_marker(run / "results" / "base_rag") == {}
    (run / "cell.json").unlink()
    commands.said.clear()
    run_study(tmp_path)
    assert commands.said == ["smt evaluate base/run", "smt evaluate cells/questions.2K"]
    assert read_marker(run / "results" / "base_rag") == {"inputs": "newer tasks"}


def test_what_all_cells_need_and_fails_is_tried_once_in_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path)
    commands = Commands(flat, fails=lambda said: said.startswith("smt generate"))
    monkeypatch.setattr(run, "run_command", commands)
    failed, _ = run_study(tmp_path)
    assert len(failed) == 4
    assert commands.said == ["smt generate generated/run"]


def test_a_source_that_runs_dry_fails_the_cells_that_need_more_and_no_others(
    tmp_path: Path, commands: Commands
) -> None:
    write_study(tmp_path, STUDY_FILE.replace("[2K, 4K]", "[2K, 900K]"))
    failed, _ = run_study(tmp_path)
    assert list(failed) == ["questions.900K", "mixed.900K"]
    assert "synthetic_qa ran dry at 900,000 tokens" in failed["questions.900K"]


def test_more_budgets_and_more_records_leave_finished_cells_as_they_are(tmp_path: Path, commands: Commands) -> None:
    write_study(tmp_path)
    run_study(tmp_path)
    commands.said.clear()
    more = RUN_FILE.replace("12K", "20K")
    _, cells = write_study(tmp_path, STUDY_FILE.replace("[2K, 4K]", "[2K, 4K, 6K]"), more)
    assert [is_done(cell, "microworld/full") for cell in cells] == [True, True, False, True, True, False]
    assert run_study(tmp_path)[0] == {}
    assert [each for each in commands.said if each.startswith("axolotl")] == [
        "axolotl train cells/questions.6K",
        "axolotl train cells/mixed.6K",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("study.yaml", "active_reading: 1", "active_reading: 8"),
        ("run.yaml", "{kind: microworld}", "{kind: microworld, strength: 0.5}"),
        ("run.yaml", "synthetic_qa: {tokens: 12K}", "synthetic_qa: {tokens: 12K, pairs_per_call: 3}"),
        ("run.yaml", "sequence_len: 512", "sequence_len: 512, replay_share: 0.2"),
        ("run.yaml", "methods:", "gate: [number]\nmethods:"),
    ],
)
def test_a_mix_or_a_generator_that_is_another_under_the_same_name_is_not_done(
    tmp_path: Path, commands: Commands, file: str, old: str, new: str
) -> None:
    write_study(tmp_path)
    run_study(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    _, cells = read(tmp_path)
    assert not is_done(cells[-1], "microworld/full")
    # A mix alone is another one in the study file.
    assert is_done(cells[0], "microworld/full") == (file == "study.yaml")
    assert run_study(tmp_path)[0] == {}
    assert is_done(cells[-1], "microworld/full")


def test_a_server_that_moved_makes_no_cell_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = "{endpoints: [http://127.0.0.1:1/v1], model: writer}"
    _, cells = write_study(tmp_path, STUDY_FILE, RUN_FILE.replace("{kind: microworld}", here))
    monkeypatch.setattr(run, "_training_of", lambda cell, config: "")

    def told(cells: list[Cell]) -> list[object]:
        return [run._settings_of(cells[0], ""), run._shared_settings(cells[0].generated, "generate")]

    before = told(cells)
    moved = here.replace("127.0.0.1:1", "127.0.0.1:2").replace("}", ", max_concurrency: 8}")
    assert told(write_study(tmp_path, STUDY_FILE, RUN_FILE.replace("{kind: microworld}", moved))[1]) == before
    other = here.replace("writer", "reader")
    _, cells = write_study(tmp_path, STUDY_FILE, RUN_FILE.replace("{kind: microworld}", other))
    assert [one == two for one, two in zip(told(cells), before, strict=True)] == [False, False]


def test_what_is_short_is_told_each_time_and_made_once(tmp_path: Path, commands: Commands) -> None:
    write_study(tmp_path, STUDY_FILE.replace("[2K, 4K]", "[2K, 900K]"))
    run_study(tmp_path)
    commands.said.clear()
    failed, said = run_study(tmp_path)
    assert list(failed) == ["questions.900K", "mixed.900K"]
    assert commands.said == ["smt evaluate base/run"]
    assert any("that was before, `smt mix" in line for line in said)


def test_what_an_earlier_run_made_is_not_taken_where_a_command_fails(tmp_path: Path, commands: Commands) -> None:
    write_study(tmp_path)
    run_study(tmp_path)
    more = STUDY_FILE + "seeds: [1]\n"
    _, cells = write_study(tmp_path, more, RUN_FILE.replace("archive/replay.jsonl", "no-such.jsonl"))
    failed, _ = run_study(tmp_path)
    assert list(failed) == [cell.name for cell in cells]
    assert "no-such.jsonl" in failed[cells[0].name]
    # The files that are there are those of before: status 1 is not enough to take them.
    write_study(tmp_path, more, RUN_FILE.replace("{kind: microworld}", "{kind: microworld, strength: 0.5}"))
    down = Commands(flat, fails=lambda said: said.startswith("smt generate"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_command", down)
        assert len(run_study(tmp_path)[0]) == len(cells)
    assert down.said == ["smt generate generated/run"]


def test_settings_that_were_changed_and_changed_back_make_anew_what_is_shared(
    tmp_path: Path, commands: Commands
) -> None:
    write_study(tmp_path)
    run_study(tmp_path)
    before = (tmp_path / "study" / "mixes" / "mixed" / "mix" / "2K" / "manifest.json").read_text()
    write_study(tmp_path, STUDY_FILE.replace("active_reading: 1", "active_reading: 8").replace("4K]", "900K]"))
    assert "mixed.900K" in run_study(tmp_path)[0]
    (tmp_path / "study" / "cells" / "mixed.2K" / "cell.json").unlink()
    write_study(tmp_path)
    assert run_study(tmp_path)[0] == {}
    after = (tmp_path / "study" / "mixes" / "mixed" / "mix" / "2K" / "manifest.json").read_text()
    assert json.loads(after)["content_hash"] == json.loads(before)["content_hash"]


def test_another_seed_or_another_config_trains_anew(tmp_path: Path, commands: Commands) -> None:
    write_study(tmp_path, STUDY_FILE + "seeds: [1]\n")
    run_study(tmp_path)
    _, cells = read(tmp_path)
    assert is_done(cells[0], "microworld/full")
    assert not is_done(cells[0], "qwen3-8b/full")
    (tmp_path / "study.yaml").write_text(
        (tmp_path / "study.yaml").read_text() + "train_arguments: [--num-epochs, '1']\n"
    )
    _, cells = read(tmp_path)
    assert not is_done(cells[0], "microworld/full")


def test_a_config_may_have_numbers_as_keys(tmp_path: Path, commands: Commands) -> None:
    full = (asset_dir("axolotl_configs") / "microworld" / "full.yaml").read_text()
    (tmp_path / "config.yaml").write_text(full + "max_memory: {0: 20GiB, cpu: 100GiB}\n")
    settings, cells = write_study(tmp_path, STUDY_FILE, RUN_FILE.replace("microworld/full", "config.yaml"))
    config = str(tmp_path / "config.yaml")
    assert run_cells(settings, cells[:1], {"": config}, lambda line: None) == {}
    assert is_done(cells[0], config)


def test_checkpoints_of_a_training_that_did_not_end_are_kept_for_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cells = write_study(tmp_path)
    run = cells[0].run_file.run
    monkeypatch.setattr("smt_plugin.study.run.run_command", Commands(flat, fails=lambda said: "axolotl" in said))
    run_cells(settings, cells[:1], CONFIGS, lambda line: None)
    checkpoint = run / "model" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    run_cells(settings, cells[:1], CONFIGS, lambda line: None)
    assert checkpoint.is_dir()
    (tmp_path / "study.yaml").write_text(STUDY_FILE + "train_arguments: [--num-epochs, '1']\n")
    settings, cells = read(tmp_path)
    monkeypatch.setattr("smt_plugin.study.run.run_command", Commands(flat))
    assert run_cells(settings, cells[:1], CONFIGS, lambda line: None) == {}
    assert not checkpoint.exists()


def test_an_adapter_is_merged_after_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = (asset_dir("axolotl_configs") / "microworld" / "full.yaml").read_text()
    (tmp_path / "lora.yaml").write_text(full + "adapter: lora\n")
    write_study(tmp_path, STUDY_FILE, RUN_FILE.replace("microworld/full", "lora.yaml"))
    commands = Commands(flat, fails=lambda said: "merge-lora" in said)
    monkeypatch.setattr(run, "run_command", commands)
    settings, cells = read(tmp_path)
    failed = run_cells(settings, cells[:1], {"": str(tmp_path / "lora.yaml")}, lambda line: None)
    assert failed == {"questions.2K": "axolotl merge-lora cells/questions.2K was told to fail"}


def test_a_command_leaves_its_output_in_the_log_and_its_end_in_the_error(tmp_path: Path) -> None:
    log = tmp_path / "cell.log"
    told: list[str] = []
    go_on = Event()
    assert run_command([sys.executable, "-c", "print('fine')"], log, told.append, go_on) > 0
    assert "fine" in log.read_text()
    assert told[0].startswith("$ ")
    with pytest.raises(CellFailed, match=r"ended with status 3.*out of memory"):
        run_command([sys.executable, "-c", "print('out of memory'); raise SystemExit(3)"], log, told.append, go_on)
    with pytest.raises(CellFailed, match="no-such-program is not installed"):
        run_command(["no-such-program"], log, told.append, go_on)


class Slow(Commands):
    """Trainings that take a while; notes how many there were at once, and whether they were told to stop."""

    def __init__(self, seconds: float) -> None:
        super().__init__(flat)
        self.seconds, self.now, self.most, self.stopped = seconds, 0, 0, 0

    def __call__(self, words: list[str], log: Path, say: Callable[[str], None], stopping: Event) -> float:
        if words[0] == "axolotl":
            self.now += 1
            self.most = max(self.most, self.now)
            was_stopped = stopping.wait(self.seconds)
            self.stopped += was_stopped
            self.now -= 1
        return super().__call__(words, log, say, stopping)


def slow_after_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Slow:
    """All that the cells of a study share is made; their trainings are to be made again, and take some seconds."""
    _, cells = write_study(folder)
    run_study(folder)
    for cell in cells:
        for name in ("cell.json", "trained.json"):
            (cell.run_file.run / name).unlink()
    slow = Slow(seconds)
    monkeypatch.setattr(run, "run_command", slow)
    return slow


def test_some_cells_at_once_are_no_more_than_were_asked_for_and_end_as_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    slow = slow_after_a_run(tmp_path, monkeypatch, 0.3)
    settings, cells = read(tmp_path)
    assert run_cells(settings, cells, CONFIGS, lambda line: None, jobs=2) == {}
    assert slow.most == 2
    assert all(is_done(cell, "microworld/full") for cell in cells)
    assert sum(each.startswith("axolotl") for each in slow.said) == len(cells)


def test_an_interrupt_ends_what_all_jobs_run_and_begins_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    slow = slow_after_a_run(tmp_path, monkeypatch, 60)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_cells(*read(tmp_path), CONFIGS, lambda line: None, jobs=2)
    assert time.monotonic() - started < 30
    assert slow.stopped == 2
    assert sum(each.startswith("axolotl") for each in slow.said) == 2


def test_a_command_that_is_told_to_stop_ends_with_all_that_it_started(tmp_path: Path) -> None:
    stopping = Event()
    threading.Timer(1, stopping.set).start()
    started = time.monotonic()
    with pytest.raises(CellFailed, match="was stopped"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", print, stopping)
    assert time.monotonic() - started < 30


def test_a_linked_folder_keeps_what_it_has_when_the_other_is_written_anew(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a" / "deep" / "rows.jsonl", [{"n": 1}])
    link_folder(tmp_path / "a", tmp_path / "b" / "c")
    write_jsonl(tmp_path / "a" / "deep" / "rows.jsonl", [{"n": 2}])
    assert (tmp_path / "b" / "c" / "deep" / "rows.jsonl").read_text() == '{"n":1}\n'
    link_folder(tmp_path / "a", tmp_path / "b" / "c")
    assert (tmp_path / "b" / "c" / "deep" / "rows.jsonl").read_text() == '{"n":2}\n'


def test_where_links_cannot_be_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    write_jsonl(tmp_path / "a" / "rows.jsonl", [{"n": 1}])
    link_folder(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "rows.jsonl").read_text() == '{"n":1}\n'
    assert not (tmp_path / "b" / "rows.jsonl").samefile(tmp_path / "a" / "rows.jsonl")


def test_two_processes_make_what_they_share_one_after_the_other(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from smt_plugin.study.run import alone\n"
        "from threading import Event\n"
        "with alone(Path(sys.argv[1]), print, Event()):\n print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"

    def let_go(line: str) -> None:
        assert "waiting" in line
        assert holder.stdin is not None
        holder.stdin.close()

    started = time.monotonic()
    with alone(tmp_path / "run.lock", let_go, Event()):
        assert holder.wait(10) == 0
    assert time.monotonic() - started < 10
    holder.stdout.close()


def test_a_study_without_a_finished_cell_says_what_to_do(tmp_path: Path) -> None:
    from smt_plugin.study.results import read_study

    settings, cells = write_study(tmp_path)
    with pytest.raises(BadInput, match="run `smt study run` first"):
        read_study(settings.study, cells)
