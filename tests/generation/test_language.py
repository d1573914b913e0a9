import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from smt_plugin.cli.app import cli
from tests.endpoint import MODEL, answer, mark_of, serve_in_thread


def reply(prompt: str, sample: str) -> str:
    """Write a question of its own for each document, answer it, and all else as any test server does."""
    if "Set an examination" in prompt:
        name = f"N{mark_of(prompt, '')}"
        return json.dumps({"questions": [{"question": f"Wo steht {name}?", "answer": f"Am Kai {name[1:4]}"}]})
    if asked := re.search(r"Wo steht N(...)", prompt):
        return f"The answer is: Am Kai {asked[1]}"
    return answer(prompt, sample)


@pytest.mark.parametrize("language", [None, "German"])
def test_questions_and_records_are_asked_for_in_the_language_of_the_run_file(
    tmp_path: Path, corpus: Path, language: str | None
) -> None:
    with serve_in_thread(reply) as server:
        run_file = tmp_path / "smt.yaml"
        run_file.write_text(
            f"run: run\ncorpus: corpus\nbackend: {{endpoints: ['{server.url}'], model: {MODEL}}}\n"
            "methods: {synthetic_qa: {tokens: 100}, active_reading: {tokens: 100}, focal_rewrite: {tokens: 100}}\n"
            + (f"language: {language}\n" if language else "")
        )
        for words in (["questions", str(run_file), "--free-form", "--per-document", "1"], ["generate", str(run_file)]):
            made = CliRunner().invoke(cli, words)
            assert made.exit_code == 0, made.output
        first = [body["messages"][0] for body in server.bodies]
    # What is asked without a document has no system text.
    systems = [message["content"] for message in first if message["role"] == "system"]
    assert len(systems) > 8
    assert {"Write everything in German," in system for system in systems} == {language is not None}
