"""Once imported, `smt study run` trains and answers in no time; each training is noted in the file TRAINED."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event

from smt_plugin.study import run
from tests.study.microworld_study import Commands


class Noted(Commands):
    """As `Commands`; a line in the file for each training that was begun."""

    def __call__(self, words: list[str], log: Path, say: Callable[[str], None], stopping: Event) -> float:
        """As `run_command`."""
        if words[0] == "axolotl":
            with Path(os.environ["TRAINED"]).open("a") as file:
                file.write(f"{Path(words[2]).parent.name}\n")
        return super().__call__(words, log, say, stopping)


run.run_command = Noted(lambda folder, arm: [0.25, 0.5, 0.75, 0.5] * 3)
