"""What lm_eval's command line says to our tasks: lm-eval mixes `--metadata` with the model's arguments on its way."""

import os
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from smt_plugin.benchmarks import names
from smt_plugin.errors import BadInput

# Path of a folder -> the benchmark that it was given for.
_given_for: dict[str, str] = {}


def command_line() -> dict[str, Any]:
    """Return the options of the `lm_eval` command that this process runs, with those of its --config file.

    `metadata` and `gen_kwargs` are mappings. Empty where lm-eval is called from Python, or its command line is another
    than that of the versions we know.
    """
    program = Path(sys.argv[0])
    if program.name not in ("lm_eval", "lm-eval") and program.parts[-2:] != ("lm_eval", "__main__.py"):
        return {}
    try:
        from lm_eval._cli import HarnessCLI
        from lm_eval.config.evaluate_config import EvaluatorConfig
        from lm_eval.utils import simple_parse_args_string
    except ImportError:
        return {}
    told = {name: value for name, value in vars(HarnessCLI().parse_args()).items() if value is not None}
    if "config" in told:
        told = EvaluatorConfig.load_yaml_config(told["config"]) | told
    for name in ("metadata", "gen_kwargs"):
        value = told.get(name) or {}
        told[name] = simple_parse_args_string(value) if isinstance(value, str) else value
    return told


def check_keys(known: Sequence[str], unknown: Iterable[str], told: dict[str, Any]) -> None:
    """Refuse keys of --metadata that no task of ours knows.

    Args:
        known: those that they know.
        unknown: the arguments of a hook that it does not know; the model's are among them.
        told: of `command_line`. Where it is empty, only what looks like a misspelt key of ours is refused.

    Raises:
        BadInput: names the key, and the one that was meant.
    """
    from smt_plugin.config import RetrievalSettings

    for key in unknown:
        meant = get_close_matches(key, known, n=1, cutoff=0.6 if told else 0.8)
        if key in told.get("metadata", ()) or (not told and meant):
            if key in RetrievalSettings.model_fields:
                fix = f'it is a setting of retrieval: {{"retrieval": {{"{key}": ...}}}}.'
            else:
                fix = f"did you mean {meant[0]!r}?" if meant else "remove it."
            raise BadInput(f"--metadata: unknown key {key!r}; {fix} Our tasks know {', '.join(known)}.")


def data_folder(benchmark: str, data: str | dict[str, str] | None) -> Path | None:
    """Return a benchmark's folder of what --metadata names as `data`: one path, or a path for each benchmark.

    Raises:
        BadInput: an unknown benchmark, or one path for the tasks of two benchmarks: files of our own form would be read
            as either's.
    """
    by_benchmark = '{"data": {"quality": "/its/folder", "longhealth": "/its/folder"}}'
    if isinstance(data, dict):
        for name in data:
            if name not in names():
                raise BadInput(f"--metadata: data: unknown benchmark {name!r}; choose one of: {', '.join(names())}.")
        path = data.get(benchmark)
        return Path(path) if path else None
    if data is not None and not isinstance(data, str):
        raise BadInput(f"--metadata: data is {data!r}, but must be a path, or one for each benchmark: {by_benchmark}.")
    if not data:
        return None
    other = _given_for.setdefault(os.path.realpath(data), benchmark)
    if other != benchmark:
        raise BadInput(
            f"--metadata: data: {data} was read as {other}'s, and {benchmark}'s tasks would read it as theirs; give "
            f"each benchmark its own folder with {by_benchmark}, or SMT_{other.upper()}_DIR and "
            f"SMT_{benchmark.upper()}_DIR in the environment."
        )
    return Path(data)
