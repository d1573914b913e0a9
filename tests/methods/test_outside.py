"""A method from a package of its own: named in the run file, with its prompts beside it."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.generation.batch_files import BatchExport
from smt_plugin.generation.generate import generate_run, methods_of, prompts_of
from smt_plugin.generation.plan import make_plan
from smt_plugin.generation.show import show_records
from smt_plugin.methods.synthetic_qa import SyntheticQA
from tests.endpoint import MODEL, Endpoint, answer, mark_of, serve

NAME = "haikus.haiku:Haiku"
MODULE = """
from dataclasses import dataclass, field
from typing import ClassVar

from smt_plugin.methods.base import Ask, Sampled, parse_json, record_of
from smt_plugin.methods.synthetic_qa import SyntheticQA


@dataclass(frozen=True, kw_only=True)
class Haiku(Sampled):
    name: ClassVar[str] = "haiku"
    uses: ClassVar[dict[str, type]] = {"asker": SyntheticQA}
    asker: SyntheticQA = field(default_factory=SyntheticQA)

    async def round(self, document, r, complete):
        pairs = await complete(self.asker.ask(document, r))
        if pairs is None:
            return []
        variables = {"topic": pairs.value[0]["question"]}
        answer = await complete(
            Ask(document, "haiku/lines", variables, self.sampling, r, parse_json, example=EXAMPLE, example_tokens=30)
        )
        return [] if answer is None else [record_of(self.name, document, r, 0, answer, text=answer.value["haiku"])]


EXAMPLE = '{"haiku": "An old silent pond"}'
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's folder, importable for the time of a test."""
    folder = tmp_path / "site" / "haikus"
    (folder / "prompts" / "haiku").mkdir(parents=True)
    (folder / "haiku.py").write_text(MODULE)
    (folder / "prompts" / "haiku" / "lines.jinja").write_text("{{ document }} A haiku on {{ topic }}, please.")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for module in ("haikus", "haikus.haiku"):
        sys.modules.pop(module, None)


def run_file(tmp_path: Path, corpus: Path, tokens: int = 200, **keys: Any) -> RunFile:
    return RunFile.model_validate(
        {
            "run": tmp_path / "run",
            "corpus": corpus,
            "backend": {"kind": "microworld"},
            "methods": {NAME: {"tokens": tokens}, "synthetic_qa": {"tokens": 1, "pairs_per_call": 3}},
            **keys,
        }
    )


@pytest.mark.usefixtures("package")
def test_its_prompts_are_found_by_every_stage_that_renders_them(tmp_path: Path, corpus: Path) -> None:
    file = run_file(tmp_path, corpus)

    def reply(prompt: str, sample: str) -> str:
        return (
            json.dumps({"haiku": f"Frog {mark_of(prompt, sample)}"})
            if "A haiku on" in prompt
            else answer(prompt, sample)
        )

    async def main() -> Endpoint:
        async with serve(Endpoint()) as endpoint:
            endpoint.answer = reply
            backend = OpenAIBackend([endpoint.url], MODEL)
            plan = await make_plan(file, backend)
            assert plan.prompts["haiku/lines"].output_tokens == plan.prompts["haiku/lines"].calls * 30
            assert plan.prompts["synthetic_qa/pairs"].output_tokens == plan.prompts["synthetic_qa/pairs"].calls * 330
            summary = await generate_run(file, backend)
            assert summary.unmet == []
            return endpoint

    asked = [body["messages"][-1]["content"] for body in asyncio.run(main()).bodies]
    assert any("A haiku on What is" in prompt for prompt in asked)
    (shown,) = show_records(file, NAME, 1, seed=1)
    assert "--- prompt haiku/lines\n" in shown
    assert ", please." in shown
    # Its first prompts are asked, so that the batch holds those that are made from their answers.
    more = run_file(tmp_path, corpus, tokens=2000)
    export = BatchExport(tmp_path / "batch", MODEL, structured_output=True)
    asyncio.run(generate_run(more, export))
    assert export.requests > 0


@pytest.mark.usefixtures("package")
def test_it_draws_from_another_method_with_the_options_that_the_run_file_gives_that_one(
    tmp_path: Path, corpus: Path
) -> None:
    methods = methods_of(run_file(tmp_path, corpus))
    assert methods[NAME][0].asker == methods["synthetic_qa"][0]  # type: ignore[attr-defined]
    assert methods["synthetic_qa"][0] == SyntheticQA(pairs_per_call=3)
    own = {NAME: {"tokens": 1, "asker": {"seed": 4}}, "synthetic_qa": {"tokens": 1, "pairs_per_call": 3}}
    assert methods_of(run_file(tmp_path, corpus, methods=own))[NAME][0].asker == SyntheticQA(seed=4)  # type: ignore[attr-defined]


def test_the_users_prompts_come_first_and_the_shipped_ones_are_never_replaced(
    tmp_path: Path, corpus: Path, package: Path
) -> None:
    for name in ("system", "wrap/rewrite"):
        (package / "prompts" / name).parent.mkdir(exist_ok=True)
        (package / "prompts" / f"{name}.jinja").write_text("Something else.")
    system, user = prompts_of(run_file(tmp_path, corpus)).messages("wrap/rewrite", identity="I", document="D")
    assert "Something else." not in system["content"] + user["content"]
    own = tmp_path / "prompts" / "haiku" / "lines.jinja"
    own.parent.mkdir(parents=True)
    own.write_text("My words on {{ topic }}.")
    prompts = prompts_of(run_file(tmp_path, corpus, prompts=tmp_path / "prompts"))
    assert prompts.messages("haiku/lines", topic="frogs")[1]["content"] == "My words on frogs."
    own.write_text("My words on {{ topik }}.")
    with pytest.raises(BadInput, match=r"lines\.jinja, line 1: there is no variable 'topik', but .*topic; fix it"):
        prompts_of(run_file(tmp_path, corpus, prompts=tmp_path / "prompts"))


def test_an_example_that_the_method_itself_cannot_read_is_named(tmp_path: Path, corpus: Path, package: Path) -> None:
    path = package / "haiku.py"
    path.write_text(path.read_text().replace("example=EXAMPLE, ", ""))
    backend = OpenAIBackend(["http://127.0.0.1:9/v1"], MODEL)
    says = r"prompt haiku/lines cannot read .* 'A text\.' \(not JSON\); give its Ask an `example`"
    with pytest.raises(BadInput, match=says):
        asyncio.run(make_plan(run_file(tmp_path, corpus), backend))
