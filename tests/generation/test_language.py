from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from tests.endpoint import MODEL, answer, serve_in_thread

EXAM = '{"questions": [{"question": "Wer zündet sie an?", "answer": "Der Wärter"}]}'


@pytest.mark.parametrize("language", [None, "German"])
def test_questions_and_records_are_asked_for_in_the_language_of_the_run_file(
    tmp_path: Path, corpus: Path, language: str | None
) -> None:
    with serve_in_thread(lambda prompt, sample: EXAM if "examination" in prompt else answer(prompt, sample)) as server:
        run_file = tmp_path / "smt.yaml"
        run_file.write_text(
            f"run: run\ncorpus: corpus\nbackend: {{endpoints: ['{server.url}'], model: {MODEL}}}\n"
            "methods: {synthetic_qa: {tokens: 100}, active_reading: {tokens: 100}, focal_rewrite: {tokens: 100}}\n"
            + (f"language: {language}\n" if language else "")
        )
        for words in (["questions", str(run_file), "--free-form", "--per-document", "1"], ["generate", str(run_file)]):
            made = CliRunner().invoke(cli, words)
            assert made.exit_code == 0, made.output
        systems = [body["messages"][0]["content"] for body in server.bodies]
    assert len(systems) > 8
    assert {"Write everything in German," in system for system in systems} == {language is not None}
