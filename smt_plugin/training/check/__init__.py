"""Look through an axolotl config before the first GPU minute: what would go wrong silently, and what it will cost.

A check is a function that takes what is known of the config and yields what is to be said of it; all stand in `CHECKS`.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from smt_plugin.errors import BadInput, require
from smt_plugin.training.check import data, forms, keys, size
from smt_plugin.training.check.known import Fact, Finding, Known, Note, Problem, look_at
from smt_plugin.training.shipped import read_config

# In the order in which they are printed.
CHECKS: tuple[Callable[[Known], Iterator[Finding]], ...] = (
    keys.unknown,
    keys.refused,
    lambda known: iter(known.findings),
    data.listed,
    keys.partial,
    keys.packages,
    keys.processor,
    data.vocabulary,
    data.prepared,
    data.rejects,
    forms.asked_as_trained,
    data.folders,
    keys.incomplete,
    size.size,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What `smt check` found: problems to fix, notes on what could not be checked, and the training's size."""

    problems: list[str]
    notes: list[str]
    facts: list[str]


def check_config(path: Path, num_gpus: int, micro_batch_size: int | None = None) -> Checked:
    """Check an axolotl config, offline and without a GPU. Relative paths are relative to the working directory.

    Args:
        num_gpus: GPUs of the training, all nodes together.
        micro_batch_size: in place of the config's, where axolotl is told another one on its command line.

    Raises:
        BadInput: there is no such file, it is no YAML mapping or a run file, or axolotl is not installed.
    """
    values = read_config(path)
    if {"corpus", "backend", "methods"} <= values.keys():
        raise BadInput(f"{path} is a run file; `smt mix` writes the config to check, axolotl.yaml in its run folder.")
    if micro_batch_size is not None:
        values["micro_batch_size"] = micro_batch_size
    os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
    # axolotl logs its whole config, and torch warns of what only GPUs need.
    logging.disable(logging.CRITICAL)
    try:
        require("axolotl", "train")
        known = look_at(path, values, num_gpus)
        findings = [finding for check in CHECKS for finding in check(known)]
    finally:
        logging.disable(logging.NOTSET)
    problems, notes, facts = (
        [finding.text for finding in findings if isinstance(finding, kind)] for kind in (Problem, Note, Fact)
    )
    # Names and paths may have line breaks, and several files the same problem.
    return Checked(list(dict.fromkeys(" ".join(problem.split()) for problem in problems)), notes, facts)
