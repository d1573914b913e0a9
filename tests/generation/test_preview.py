import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.cli.app import cli
from smt_plugin.generation.generate import generate_run
from smt_plugin.generation.preview import preview_run
from smt_plugin.generation.summary import Summary
from smt_plugin.microworld import archive
from tests.endpoint import MODEL, Endpoint, serve
from tests.generation.test_generate import run_file


def test_a_preview_asks_one_round_about_two_documents_and_the_run_does_not_pay_for_it_again(
    tmp_path: Path, corpus: Path
) -> None:
    settings = run_file(tmp_path / "run", corpus, {"synthetic_qa": 3000, "focal_rewrite": 3000})
    said: list[str] = []

    async def main() -> tuple[Summary, Summary, int]:
        async with serve(Endpoint()) as endpoint:
            before = await preview_run(settings, OpenAIBackend([endpoint.url], MODEL, patience=5), say=said.append)
            after = await generate_run(settings, OpenAIBackend([endpoint.url], MODEL, patience=5))
            return before, after, len(endpoint.bodies)

    before, after, requests = asyncio.run(main())
    assert before.asked + after.asked == requests
    assert after.reused >= before.asked
    assert all(count.records for count in before.methods.values())
    text = "".join(said)
    assert text.count("##### synthetic_qa, document d") == text.count("##### focal_rewrite, document d") == 2
    assert "--- prompt synthetic_qa/pairs" in text
    assert "--- record of" in text
    # Its stand-in for a model invents a number a pair.
    assert "--- not in its document: number" in text


def test_the_command_prints_a_preview_and_writes_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive.write(tmp_path / "archive")
    Path("smt.yaml").write_text(
        "run: run\ncorpus: archive\nbackend: {kind: microworld}\nmethods: {synthetic_qa: {tokens: 5K}}\n"
    )
    result = CliRunner().invoke(cli, ["generate", "smt.yaml", "--preview"])
    assert result.exit_code == 0
    assert "what is paid for is kept" in result.output
    assert not Path("run/records").exists()
    shown = CliRunner().invoke(cli, ["show", "smt.yaml", "--method", "synthetic_qa"])
    assert "has no records yet; of what is paid for so far" in shown.output
