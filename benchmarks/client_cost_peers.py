"""Drivers of other tools for client_cost.py, each run by the Python that the tool is installed in.

    python benchmarks/client_cost_peers.py datatrove prompts.jsonl http://127.0.0.1:8000/v1 128 folder

Each sends every line of prompts.jsonl (`id`, `messages`) once, in the way the tool means for many requests to one
OpenAI-compatible server, with at most that many in flight, and leaves the answers in the folder.
"""

import json
import sys
from pathlib import Path
from typing import Any

MODEL = "instant"
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 4096}


async def rollout(document: Any, generate: Any) -> Any:
    """Ask for one answer to a document of datatrove's."""
    return await generate({"messages": document.metadata["messages"], **SAMPLING})


def datatrove(prompts: list[dict[str, Any]], url: str, concurrency: int, folder: Path, durable: bool = False) -> None:
    """Its inference runner, with its cache of requests on disk if `durable`."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.writers import JsonlWriter

    documents = [Document(text="-", id=str(row["id"]), metadata={"messages": row["messages"]}) for row in prompts]
    config = InferenceConfig(
        server_type="endpoint",
        model_name_or_path=MODEL,
        endpoint_url=url.removesuffix("/v1"),
        use_chat=True,
        max_concurrent_generations=concurrency,
    )
    name = "${rank}_${chunk_index}.jsonl" if durable else "${rank}.jsonl"
    runner = InferenceRunner(
        rollout,
        config,
        JsonlWriter(str(folder / "out"), output_filename=name, compression=None),
        checkpoints_local_dir=str(folder / "checkpoints") if durable else None,
    )
    LocalPipelineExecutor([documents, runner], logging_dir=str(folder / "logs")).run()


def datatrove_durable(prompts: list[dict[str, Any]], url: str, concurrency: int, folder: Path) -> None:
    """The same with what it needs to go on after a crash."""
    datatrove(prompts, url, concurrency, folder, durable=True)


def distilabel(prompts: list[dict[str, Any]], url: str, concurrency: int, folder: Path) -> None:
    """A pipeline of one task; a batch is in flight at once."""
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import ChatGeneration

    with Pipeline("cost", cache_dir=folder / "cache") as pipeline:
        load = LoadDataFromDicts(data=[{"messages": row["messages"]} for row in prompts], batch_size=concurrency)
        sampling = {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 4096}
        model = OpenAILLM(model=MODEL, base_url=url, api_key="none", generation_kwargs=sampling)
        load >> ChatGeneration(llm=model, input_batch_size=concurrency)
    made = pipeline.run(use_cache=False)
    made["default"]["train"].to_json(str(folder / "out.jsonl"))


def synthetic_data_kit(prompts: list[dict[str, Any]], url: str, concurrency: int, folder: Path) -> None:
    """Its client's batches for API endpoints, without the pause that it makes between two."""
    from synthetic_data_kit.models.llm_client import LLMClient

    client = LLMClient(provider="api-endpoint", api_base=url, api_key="none", model_name=MODEL)
    client.sleep_time = 0
    answers = client.batch_completion([row["messages"] for row in prompts], 0.7, 4096, 0.95, batch_size=concurrency)
    (folder / "out.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    tool, path, url, concurrency, folder = sys.argv[1:]
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    drivers = (datatrove, datatrove_durable, distilabel, synthetic_data_kit)
    {driver.__name__: driver for driver in drivers}[tool](rows, url, int(concurrency), Path(folder))
