"""The benchmarks: each is a folder of tasks, `lm_eval_tasks/<name>/`, and the module of that name in this package.

Nothing else names a benchmark. Its module offers one or more of these:

- `read(folder)`: the documents and questions of its own files; with `OFFICIAL`, of a folder that holds all of those.
- `OFFICIAL`: what is known of its published files (`official.Official`), which are fetched where they are missing.
- `WANTED`: without `OFFICIAL`, what `read` wants in the folder, as part of a sentence.
- `make()`: documents and questions that need no files.

Every benchmark is read from `documents.jsonl` and `questions.jsonl` too, where a folder holds these.
"""

from smt_plugin.assets import asset_dir


def names() -> list[str]:
    """Return the names of the benchmarks, sorted: the folders of tasks."""
    return sorted({path.parent.name for path in asset_dir("lm_eval_tasks").glob("[!_.]*/*.yaml")})
