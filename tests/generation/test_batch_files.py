import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from smt_plugin.backends.base import Backend
from smt_plugin.backends.endpoint import OpenAIBackend
from smt_plugin.config import RunFile
from smt_plugin.errors import BadInput
from smt_plugin.generation import batch_files
from smt_plugin.generation.batch_files import ROUNDS_AHEAD, BatchExport, BatchImport
from smt_plugin.generation.generate import generate_run
from smt_plugin.generation.summary import Summary
from tests.endpoint import MODEL, Endpoint, answer, serve

BUDGETS = {"synthetic_qa": 3000, "active_reading": 3000, "focal_rewrite": 3000}


def run_file(run: Path, corpus: Path) -> RunFile:
    return RunFile.model_validate(
        {
            "run": run,
            "corpus": corpus,
            "backend": {"kind": "microworld"},
            "methods": {name: {"tokens": tokens, "seed": 1} for name, tokens in BUDGETS.items()},
        }
    )


def generate_with(run: Path, corpus: Path, backend: Backend, **options: Any) -> Summary:
    return asyncio.run(generate_run(run_file(run, corpus), backend, rounds_ahead=ROUNDS_AHEAD, **options))


def work_off(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one line of a batch file as OpenAI's endpoint and `vllm run-batch` do."""
    body = request["body"]
    text = answer(body["messages"][-1]["content"], str(body["seed"]))
    reply = {
        "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": len(text) // 4},
    }
    response = {"status_code": 200, "request_id": "r", "body": reply}
    return {"id": "x", "custom_id": request["custom_id"], "response": response, "error": None}


def export(run: Path, corpus: Path, folder: Path) -> list[dict[str, Any]]:
    backend = BatchExport(folder, MODEL, structured_output=True)
    generate_with(run, corpus, backend)
    backend.finish()
    requests = [json.loads(line) for path in backend.files for line in path.read_text().splitlines()]
    assert len(requests) == backend.requests
    return requests


def take(run: Path, corpus: Path, path: Path, results: list[dict[str, Any]]) -> tuple[Summary, BatchImport]:
    path.write_text("".join(json.dumps(result) + "\n" for result in results))
    backend = BatchImport([path], MODEL)
    return generate_with(run, corpus, backend), backend


def records(run: Path) -> dict[str, list[str]]:
    return {path.name: sorted(path.read_text().splitlines()) for path in (run / "records").glob("*.jsonl")}


def test_batches_give_the_records_of_a_live_server_and_ask_nothing_twice(tmp_path: Path, corpus: Path) -> None:
    run, asked = tmp_path / "run", list[str]()
    for turn in range(20):
        requests = export(run, corpus, tmp_path / f"requests-{turn}")
        if not requests:
            break
        asked += [request["custom_id"] for request in requests]
        take(run, corpus, tmp_path / f"results-{turn}.jsonl", [work_off(request) for request in requests])
    assert turn < 10
    assert len(asked) == len(set(asked))

    async def live() -> None:
        async with serve(Endpoint()) as endpoint:
            await generate_run(run_file(tmp_path / "live", corpus), OpenAIBackend([endpoint.url], MODEL))

    asyncio.run(live())

    assert records(run) == records(tmp_path / "live")
    assert set(records(run)) == {f"{name}.jsonl" for name in BUDGETS}


def test_no_records_are_written_while_requests_are_left(tmp_path: Path, corpus: Path) -> None:
    export(tmp_path / "run", corpus, tmp_path / "requests")
    assert list((tmp_path / "run" / "records").iterdir()) == []


def test_failed_results_are_asked_for_again_and_refused_ones_are_not(tmp_path: Path, corpus: Path) -> None:
    run = tmp_path / "run"
    first, second, *others = export(run, corpus, tmp_path / "requests-0")
    results = [work_off(request) for request in others]
    results.append({"custom_id": first["custom_id"], "response": {"status_code": 429, "body": {}}, "error": None})
    refused = {"status_code": 400, "body": {"error": {"message": "too long"}}}
    results.append({"custom_id": second["custom_id"], "response": refused, "error": None})
    summary, backend = take(run, corpus, tmp_path / "results.jsonl", results)
    assert (backend.failed, summary.refused) == (1, 1)
    again = {request["custom_id"] for request in export(run, corpus, tmp_path / "requests-1")}
    assert first["custom_id"] in again
    assert second["custom_id"] not in again


def test_an_answer_counts_wherever_the_failure_of_the_same_request_stands(tmp_path: Path, corpus: Path) -> None:
    results = [work_off(request) for request in export(tmp_path / "run", corpus, tmp_path / "requests")]
    failure = {"custom_id": results[0]["custom_id"], "response": {"status_code": 500, "body": {}}, "error": None}
    broken = {"custom_id": results[1]["custom_id"], "response": None, "error": {"code": "batch_expired"}}
    lines = [failure, *results, broken, failure]
    summary, backend = take(tmp_path / "run", corpus, tmp_path / "results.jsonl", lines)
    assert (backend.failed, summary.asked) == (0, len(results))


@pytest.mark.parametrize("response", ['"no"', "[1]", "7"])
def test_a_result_of_another_form_is_named(tmp_path: Path, corpus: Path, response: str) -> None:
    (tmp_path / "results.jsonl").write_text(f'{{"custom_id": "{"ab" * 16}", "response": {response}}}\n')
    with pytest.raises(BadInput, match="line 1: not a batch result"):
        generate_with(tmp_path / "run", corpus, BatchImport([tmp_path / "results.jsonl"], MODEL))


def test_results_of_other_requests_are_counted_and_left_alone(tmp_path: Path, corpus: Path) -> None:
    results = [work_off(request) for request in export(tmp_path / "run", corpus, tmp_path / "requests")]
    strange = {**results[0], "custom_id": "ab" * 16}
    summary, backend = take(tmp_path / "run", corpus, tmp_path / "results.jsonl", [strange, *results])
    assert (backend.results, backend.taken, summary.asked) == (len(results) + 1, len(results), len(results))


def test_a_file_that_is_no_batch_result_is_named_with_its_line(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"custom_id": "request-1"}\n')
    with pytest.raises(BadInput, match=r"results\.jsonl, line 1: not a batch result"):
        generate_with(tmp_path / "run", corpus, BatchImport([tmp_path / "results.jsonl"], MODEL))
    with pytest.raises(BadInput, match=r"gone\.jsonl does not exist"):
        generate_with(tmp_path / "run", corpus, BatchImport([tmp_path / "gone.jsonl"], MODEL))
    with pytest.raises(BadInput, match=r"run is a folder; give the result files"):
        generate_with(tmp_path / "run", corpus, BatchImport([tmp_path / "run"], MODEL))


def test_the_requests_themselves_are_no_results(tmp_path: Path, corpus: Path) -> None:
    export(tmp_path / "run", corpus, tmp_path / "requests")
    requests = tmp_path / "requests" / "requests-0001.jsonl"
    with pytest.raises(BadInput, match=r"requests-0001\.jsonl, line 1: not a batch result"):
        generate_with(tmp_path / "run", corpus, BatchImport([requests], MODEL))


def test_an_export_of_nothing_leaves_no_folder_and_one_into_a_file_is_named(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        BadInput, match=r"file/requests-0001\.jsonl cannot be written \(Not a directory\); give another place"
    ):
        export(tmp_path / "run", corpus, tmp_path / "file")
    turn = 0
    while requests := export(tmp_path / "run", corpus, tmp_path / f"requests-{turn}"):
        results = [work_off(request) for request in requests]
        take(tmp_path / "run", corpus, tmp_path / f"results-{turn}.jsonl", results)
        turn += 1
    assert turn > 0
    assert not (tmp_path / f"requests-{turn}").exists()


def test_an_export_does_not_mix_with_an_earlier_one(tmp_path: Path, corpus: Path) -> None:
    export(tmp_path / "run", corpus, tmp_path / "requests")
    with pytest.raises(BadInput, match="holds requests already; import their results and remove them first"):
        export(tmp_path / "run", corpus, tmp_path / "requests")


def test_files_stay_below_the_size_that_an_endpoint_takes(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_files, "MOST_REQUESTS", 3)
    requests = export(tmp_path / "run", corpus, tmp_path / "requests")
    sizes = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "requests").iterdir())]
    assert sum(sizes) == len(requests)
    assert max(sizes) == 3
    assert len(sizes) == -(-len(requests) // 3)
