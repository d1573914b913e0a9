import pytest

from smt_plugin.backends.base import CacheUse
from smt_plugin.generation.progress import GenerateProgress, progress_line
from smt_plugin.generation.summary import MethodCount, Summary


def summary() -> Summary:
    count = MethodCount(1000, tokens=250, records=3, parts=2)
    return Summary({"wrap": count}, 4, 5, asked=7, prompt_tokens=800, completion_tokens=400, seconds=10.0, rejected=1)


def test_the_line_says_share_rates_and_failures() -> None:
    assert progress_line(summary()) == (
        " 25% of 1,000 tokens, 2/5 parts of documents, 7 completions (0 reused), in 80 out 40 tokens/s, "
        "1 rejected, 0 refused"
    )


def test_a_shard_that_happens_to_hold_no_document_has_a_line_too() -> None:
    assert progress_line(Summary({"wrap": MethodCount(0)}, 0, 0)).startswith("  0% of 0 tokens, 0/0 documents")


def test_the_line_says_cache_and_money_when_they_are_known() -> None:
    now = summary()
    now.cache, now.money, now.currency = CacheUse(9999, 1000, 950), 12.345, "EUR"
    assert "95% from the cache, 1 rejected, 0 refused, 12.35 EUR" in progress_line(now)


def test_the_time_left_follows_the_last_minutes_and_not_what_a_resumed_run_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("smt_plugin.progress.time.monotonic", lambda: clock[0])
    now = Summary({"wrap": MethodCount(10_000)}, 1, 1)
    with GenerateProgress() as progress:
        for second in range(0, 1000, 20):
            clock[0] = now.seconds = second
            # Five thousand tokens come at once from the store, then ten a second.
            now.methods["wrap"].tokens = 0 if second == 0 else min(5000 + 5 * second, 10_000)
            progress.show(now)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(", 0 refused, time left not known yet")
    assert lines[-1].startswith(" 99% of 10,000 tokens, 0/1 documents")
    assert lines[-1].endswith(", 20 s left")
