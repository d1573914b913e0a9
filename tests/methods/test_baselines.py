from pathlib import Path

import pytest

from tests.generation.test_generate import records, run_generate


@pytest.mark.parametrize("method", ["wrap", "spa", "entigraph"])
def test_a_baseline_meets_a_small_budget_with_documents(tmp_path: Path, corpus: Path, method: str) -> None:
    summary, _ = run_generate(tmp_path / "run", corpus, {method: 1500})
    assert summary.unmet == []
    rows = records(tmp_path / "run", method)
    assert {row["doc_id"] for row in rows} == {"d1", "d2", "d3", "d4"}
    assert all(row["text"] and row["messages"] is None for row in rows)
