"""Run what of a study is not done, through the commands that a user types: one cell after the other, or some at once.

What cells share is made when the first of them needs it, under a lock: whoever needs it, too, waits, and finds it made.
A mix's files and the base model's answers are then linked into the cells' run folders, or copied where links cannot be.
"""

import fcntl
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import linear_regression, mean
from threading import Event
from typing import IO, Any, NotRequired, TypedDict

import orjson

from smt_plugin.backends.server_process import ServerProcess, tail
from smt_plugin.config import RunFile, StudyFile
from smt_plugin.errors import BadInput
from smt_plugin.evaluation.arms import marker_path, model_hash, read_marker
from smt_plugin.files import (
    content_hash,
    file_hash,
    make_folder,
    private,
    read_json_if_there,
    whole_folder,
    write_json,
)
from smt_plugin.mixing.lines import runs_of, source_files
from smt_plugin.mixing.manifest import MANIFEST_FILE, read_manifest
from smt_plugin.progress import duration
from smt_plugin.rejects import rejects_path
from smt_plugin.study.cells import Cell, path_of, write_cell, write_run_file
from smt_plugin.training.axolotl_config import write_axolotl_config
from smt_plugin.training.shipped import read_config

_SECONDS_TO_END = 30.0
_LOOK_SECONDS = 0.2
_OF_BACKEND = {"model", "options", "structured_output", "strength", "question_coverage", "error_rate"}


class CellFailed(Exception):
    """A cell cannot go on; the message says why."""


class CommandFailed(CellFailed):
    """A command ended with an exit status that is not 0."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Done(TypedDict):
    """What was done, told by the settings that it was done with, and how long it took; None where it did not end."""

    settings: str
    seconds: float | None


class Made(TypedDict):
    """What cells share and was made, told by the settings; `short` says what is missing of it, empty if nothing is."""

    settings: str
    short: NotRequired[str]


def run_cells(
    study: StudyFile, cells: Sequence[Cell], train_configs: dict[str, str], say: Callable[[str], None], jobs: int = 1
) -> dict[str, str]:
    """Run the cells that are not done, and return the name of each that failed with the reason.

    Args:
        train_configs: of each target's name the config to start from; "" where the study names no target.
        jobs: cells at once.
    """
    failed: dict[str, str] = {}
    stopping = Event()
    shared = _Shared(say, stopping)
    left = {cell.name: cell.budget for cell in cells if not is_done(cell, train_configs[cell.target])}
    took: list[tuple[int, float]] = []

    def run(place: int, cell: Cell) -> None:
        tell = partial(_say_of, say, f"[{place}/{len(cells)}] {cell.name}")
        if is_done(cell, train_configs[cell.target]):
            left.pop(cell.name, None)
            tell("done before, skipped")
            return
        started = time.monotonic()
        try:
            with alone(path_of(cell.run_file).with_suffix(".lock"), say, stopping):
                _run_cell(study, cell, train_configs[cell.target], shared, tell)
        except (CellFailed, BadInput, OSError) as error:
            left.pop(cell.name, None)
            if not stopping.is_set():
                failed[cell.name] = " ".join(str(error).split())
                tell(f"failed: {failed[cell.name]}")
        else:
            left.pop(cell.name, None)
            seconds = time.monotonic() - started
            took.append((cell.budget, seconds))
            budgets = list(left.values())  # which other threads take from
            rest = f"; {len(budgets)} left, about {duration(_seconds_of(budgets, took) / jobs)}" if budgets else ""
            tell(f"done in {seconds:.0f} s{rest}")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in [pool.submit(run, place, cell) for place, cell in enumerate(cells, 1)]:
                done.result()
        except BaseException:
            # A signal reaches this thread alone; the others end what they run when they see this.
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _seconds_of(budgets: Iterable[int], took: Sequence[tuple[int, float]]) -> float:
    """How long cells of these budgets take, by a line through the seconds that others of theirs took."""
    tokens, seconds = [budget for budget, _ in took], [each for _, each in took]
    slope, start = linear_regression(tokens, seconds) if len(set(tokens)) > 1 else (0.0, mean(seconds))
    return sum(max(start + slope * budget, min(seconds)) for budget in budgets)


def _say_of(say: Callable[[str], None], name: str, line: str) -> None:
    say(f"{name}: {line}")


def is_done(cell: Cell, train_config: str) -> bool:
    """Whether a cell's answers are there, of these very settings.

    Of the records' budgets and the documents' texts nothing is asked: more records leave a finished cell as it is.
    """
    manifest = cell.training.mix / MANIFEST_FILE
    if not manifest.is_file() or any(
        not marker_path(cell.run_file.run / "results" / arm).is_file() for arm in cell.arms
    ):
        return False
    made = read_json_if_there(_done_path(cell), Done, "smt study run")
    return made is not None and made["settings"] == _settings_of(cell, train_config)


def _done_path(cell: Cell) -> Path:
    return cell.run_file.run / "cell.json"


def _settings_of(cell: Cell, train_config: str) -> str:
    evaluate = cell.run_file.evaluate
    assert evaluate is not None
    parts = [_training_of(cell, train_config), cell.run_file.seed, evaluate.model_dump(mode="json"), _recipe_of(cell)]
    return content_hash(parts)


def _recipe_of(cell: Cell) -> dict[str, Any]:
    """What records and mix are made by, without the methods' budgets."""
    recipe = _generator_of(cell.generated)
    recipe["methods"] = {
        name: options | {"tokens": None}
        for name, options in recipe["methods"].items()
        if name in cell.run_file.mix.shares
    }
    # Its own records are told by the recipe, wherever the study's folder lies.
    own = set(_own_records(cell))
    mix = cell.run_file.mix.model_dump(mode="json", exclude={"tokens", "budgets", "sources"})
    mix["sources"] = {name: str(path) for name, path in cell.run_file.mix.sources.items() if path not in own}
    return recipe | {"mix": mix}


def _own_records(cell: Cell) -> list[Path]:
    """The records that are made for the study; others are of runs elsewhere."""
    return [path for path in cell.run_file.mix.sources.values() if path.is_relative_to(cell.generated.run)]


def _generator_of(run_file: RunFile) -> dict[str, Any]:
    """What records are made by, but for where its server is and how that is asked."""
    backend = run_file.backend.model_dump(mode="json", include=_OF_BACKEND)
    keys = run_file.model_dump(mode="json", exclude={"run", "backend", "train", "mix", "evaluate", "price"})
    return keys | {"backend": backend}


def _training_of(cell: Cell, train_config: str) -> str:
    """Tells a training from others by its config, seed, model, arguments and mix, wherever the study's folder lies."""
    model = cell.run_file.train.base_model
    mix = read_manifest(cell.training.mix / MANIFEST_FILE)["content_hash"]
    weights = [found] if model and (found := model_hash(model)) else []
    # A config may have numbers as keys, as in max_memory.
    config = orjson.loads(orjson.dumps(read_config(train_config), option=orjson.OPT_NON_STR_KEYS))
    return content_hash([config, cell.seed, model, cell.train_arguments, mix, *weights])


class _Shared:
    """Makes what cells share, each thing once, and remembers what failed; `stopping` is set when all is to end."""

    def __init__(self, say: Callable[[str], None], stopping: Event) -> None:
        self.stopping = stopping
        self._say = say
        self._made: dict[Path, str] = {}

    def make(self, run_file: RunFile, command: str, outcome: Sequence[Path] = ()) -> None:
        """Run a command of `smt` for a shared run, unless it was run to its end for these settings.

        Args:
            outcome: what the command writes at its end, also where its exit status is 1, since a budget is unmet, some
                prompts were given up, or a source ran dry: that is told, and what was made is taken.

        Raises:
            CellFailed: it failed, now or for an earlier cell.
        """
        if run_file.run not in self._made:
            with alone(path_of(run_file).with_suffix(".lock"), self._say, self.stopping):
                # Another cell of ours may have made it meanwhile.
                if run_file.run not in self._made:
                    try:
                        self._make(run_file, command, outcome)
                    except CellFailed as error:
                        self._made[run_file.run] = str(error)
                    else:
                        self._made[run_file.run] = ""
        if why := self._made[run_file.run]:
            raise CellFailed(why)

    def _make(self, run_file: RunFile, command: str, outcome: Sequence[Path]) -> None:
        path = run_file.run / "shared.json"
        tell = partial(_say_of, self._say, f"{run_file.run.parent.name}/{run_file.run.name}")
        made = read_json_if_there(path, Made, "smt study run")
        settings = content_hash([_shared_settings(run_file, command), *_inputs_of(run_file, command)])
        # `smt evaluate` knows by itself what is done, also where tasks or a model have changed since.
        if made is not None and made["settings"] == settings and command != "evaluate":
            if short := made.get("short"):
                tell(f"{short}; that was before, `smt {command} {path_of(run_file)}` tries again")
            return
        # From here on what is there may be of other settings.
        path.unlink(missing_ok=True)
        written = write_run_file(run_file)
        before = [_version(each) for each in outcome]
        short = ""
        try:
            run_command(["smt", command, str(written)], written.with_suffix(".log"), tell, self.stopping)
        except CommandFailed as error:
            is_new = all(_version(each) not in (None, old) for each, old in zip(outcome, before, strict=True))
            if error.status != 1 or not outcome or not is_new:
                raise
            short = str(error)
            tell(short)
        write_json(path, {"settings": settings, "short": short})


def _version(path: Path) -> tuple[int, int] | None:
    """Tells a file from one that was there before; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _shared_settings(run_file: RunFile, command: str) -> dict[str, Any]:
    """The keys that a command reads."""
    if command == "generate":
        judge = run_file.evaluate.judge if run_file.evaluate is not None else None
        return _generator_of(run_file) | {"judge": None if judge is None else judge.model_dump(mode="json")}
    return run_file.model_dump(mode="json", include={"corpus", "mix", "seed", "train"})


def _inputs_of(run_file: RunFile, command: str) -> list[str]:
    """Tells the files that a mix is made of from those that were there before."""
    if command != "mix":
        return []
    paths = run_file.mix.sources  # those of a study's mix are all given
    files = [file for path in paths.values() for file in source_files(path)]
    files += [rejects_path(run) for run, _ in runs_of(run_file.run, paths).values()]
    files += [Path(run_file.mix.replay)] if run_file.mix.replay else []
    return [file_hash(file) for file in files if file.is_file()]


def _run_cell(study: StudyFile, cell: Cell, train_config: str, shared: _Shared, say: Callable[[str], None]) -> None:
    if records := _own_records(cell):
        shared.make(cell.generated, "generate", records)
    if cell.base_arms:
        shared.make(cell.base, "evaluate")
    manifest = cell.shared_mix.mix / MANIFEST_FILE
    shared.make(cell.mixed, "mix", [manifest])
    run = cell.run_file.run
    written = write_cell(cell, train_config)
    log = written.with_suffix(".log")
    # Another process may make the mix anew meanwhile.
    with alone(path_of(cell.mixed).with_suffix(".lock"), say, shared.stopping):
        mix = read_manifest(manifest)
        # A source may be too small for the largest budget alone.
        if dry := [name for name, source in mix["sources"].items() if source["ran_dry"]]:
            raise CellFailed(
                f"{', '.join(dry)} ran dry at {cell.budget:,} tokens (see {manifest}); raise its budget in "
                f"{study.run_file}, or leave this one out"
            )
        own = run / "mix" / MANIFEST_FILE
        if not own.is_file() or read_manifest(own)["content_hash"] != mix["content_hash"]:
            link_folder(cell.shared_mix.mix, run / "mix")
    config = write_axolotl_config(run, cell.config, base_model=cell.run_file.train.base_model)
    values = read_config(config)
    trained = read_json_if_there(run / "trained.json", Done, "smt study run")
    settings = _training_of(cell, train_config)
    is_begun = trained is not None and trained["settings"] == settings
    if trained is None or not is_begun or trained["seconds"] is None or cell.training.unready():
        if not is_begun:
            # A model that is there would be taken for this one; checkpoints of this training may be gone on from.
            shutil.rmtree(cell.training.output, ignore_errors=True)
        write_json(run / "trained.json", {"settings": settings, "seconds": None})
        seconds = run_command(["axolotl", "train", str(config), *cell.train_arguments], log, say, shared.stopping)
        if values.get("adapter"):
            seconds += run_command(["axolotl", "merge-lora", str(config)], log, say, shared.stopping)
        if sentence := cell.training.unready():
            raise CellFailed(f"{sentence.rstrip('.')}; {tail(log)}")
        write_json(run / "trained.json", {"settings": settings, "seconds": seconds})
    for arm in cell.base_arms:
        shared_arm, own = cell.base.run / "results" / arm, run / "results" / arm
        if not own.is_dir() or read_marker(own) != read_marker(shared_arm):
            link_folder(shared_arm, own)
    seconds = run_command(["smt", "evaluate", str(written)], log, say, shared.stopping)
    write_json(_done_path(cell), {"settings": _settings_of(cell, train_config), "seconds": seconds})


def link_folder(source: Path, target: Path) -> None:
    """Make a folder with the files of another, which share their content on disk where the file system can.

    No file of ours is ever written to in place, so neither folder can change the other.
    """
    make_folder(target.parent)
    shutil.rmtree(target, ignore_errors=True)
    with whole_folder(target) as folder:
        shutil.copytree(source, folder, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)


def run_command(words: list[str], log: Path, say: Callable[[str], None], stopping: Event) -> float:
    """Run a command of this environment, which ends with this process, and return its seconds.

    Args:
        log: gets its output, after what it already holds.
        stopping: ends the command when it is set.

    Raises:
        CommandFailed: its exit status is not 0.
        CellFailed: it is not there, or was stopped.
    """
    said = shlex.join(words)
    say(f"$ {said}")
    environment = environment_of_stages()
    started = time.monotonic()
    with open(log, "ab", opener=private) as file:
        file.write(f"$ {said}\n".encode())
    program = shutil.which(words[0], path=environment["PATH"])
    if program is None:
        raise CellFailed(f"{words[0]} is not installed in this environment")
    process = ServerProcess([program, *words[1:]], environment, log)
    try:
        while (status := process.status()) is None and not stopping.wait(_LOOK_SECONDS):
            pass
    finally:
        process.stop(_SECONDS_TO_END)
    if status is None:
        raise CellFailed(f"`{said}` was stopped")
    if status != 0:
        raise CommandFailed(f"`{said}` ended with status {status}; {tail(log)}", status)
    return time.monotonic() - started


def environment_of_stages() -> dict[str, str]:
    """Return the environment variables in which `smt` and axolotl run as commands of this environment."""
    return {
        # Threads that spin while they wait make a training on two cores many times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        # The scripts beside this Python, so that an environment that is not activated works too.
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", ""),
        "AXOLOTL_DO_NOT_TRACK": "1",
    }


@contextmanager
def alone(path: Path, say: Callable[[str], None], stopping: Event) -> Iterator[None]:
    """Hold a lock meanwhile; wait for it where somebody else has it. Without locks nothing is held.

    Raises:
        CellFailed: it was told to stop while it waited.
    """
    make_folder(path.parent)
    with open(path, "ab", opener=private) as file:
        is_waiting = False
        try:
            while not _lock(file):
                if not is_waiting:
                    say(f"another cell or process works on {path.with_suffix('')}; waiting for it")
                is_waiting = True
                if stopping.wait(_LOOK_SECONDS):
                    raise CellFailed("stopped while it waited")
        except OSError:
            say(f"the file system of {path.parent} has no locks: let no two processes need the same at once")
        yield


def _lock(file: IO[bytes]) -> bool:
    """Lock a file, unless somebody else has; raises OSError where there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
