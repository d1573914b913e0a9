"""A store that is looked at while it is written."""

import asyncio
from pathlib import Path

from smt_plugin.generation.completions import CompletionStore, look_up


def test_a_look_at_a_store_that_was_just_opened_again_leaves_its_log_to_the_writer(tmp_path: Path) -> None:
    asyncio.run(CompletionStore(tmp_path).close())
    store = CompletionStore(tmp_path)
    log = tmp_path / "completions.sqlite-wal"
    assert log.stat().st_size == 0
    written = log.stat().st_ino
    assert look_up(tmp_path, ["0" * 32]) == {}
    # Where it was deleted, what the writer puts there dies with the writer.
    assert log.stat().st_ino == written
    asyncio.run(store.close())
