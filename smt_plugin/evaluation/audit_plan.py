"""What `smt audit` will ask and cost, told before anything is spent."""

from collections.abc import Iterator

from smt_plugin.backends.base import MAX_ATTEMPTS, Request
from smt_plugin.config import RunFile
from smt_plugin.corpus import Document, estimate_tokens, read_documents
from smt_plugin.evaluation.audit import texts_to_judge
from smt_plugin.evaluation.audit_sample import Drawn
from smt_plugin.faithfulness.verdicts import PROMPT, VERDICT_TOKENS, asks, judge_of
from smt_plugin.generation.asker import messages_about
from smt_plugin.generation.completions import CompletionStore, completion_key
from smt_plugin.generation.plan import Plan, PromptPlan, cost_lines, table_lines
from smt_plugin.methods.base import Ask
from smt_plugin.prompts import Prompts


async def plan_audit(run_file: RunFile, drawn: dict[str, Drawn]) -> Plan:
    """Work out what `judge_records` will ask if every reply has all verdicts; nothing is asked.

    Raises:
        BadInput: as `judge_records`, before it asks anything.
    """
    settings, prompts = judge_of(run_file), Prompts(run_file.prompts)
    plan, num_parts, measured, mean = PromptPlan(), 0, 0, 0.0
    folder = run_file.run / "audit"
    # Planning makes no folders and no stores.
    store = CompletionStore(folder) if (folder / "completions.sqlite").is_file() else None
    try:
        if store is not None and (use := store.uses(settings.model).get(PROMPT)) and use.done:
            measured, mean = use.done, use.completion_tokens / use.done
        for part, calls in _calls(run_file, drawn):
            num_parts += 1
            length, is_shown = estimate_tokens(part.text.strip()), False
            for call in calls:
                messages = messages_about(part, prompts, call.prompt, call.variables)[1:]
                request = Request(messages, call.sampling, call.sample * MAX_ATTEMPTS, call.schema, "")
                plan.calls += 1
                if store is not None and store.get(completion_key(request, settings.model)) is not None:
                    plan.stored += 1
                    continue
                plan.new_tokens += estimate_tokens(messages[0]["content"]) - (length if is_shown else 0.0)
                plan.cached_tokens += length if is_shown else 0.0
                plan.output_tokens += mean or call.example_tokens
                is_shown = True
    finally:
        if store is not None:
            await store.close()
    gpus = settings.price.gpus if settings.price else 0
    return Plan(settings.model, {PROMPT: plan}, measured, [] if measured else [PROMPT], num_parts, gpus=gpus)


def _calls(run_file: RunFile, drawn: dict[str, Drawn]) -> Iterator[tuple[Document, list[Ask]]]:
    settings = judge_of(run_file)
    for part, texts in texts_to_judge(read_documents(run_file.corpus), drawn):
        yield part, [call for text in texts for call in asks(text.claims, part, settings)]


def audit_plan_text(plan: Plan, run_file: RunFile) -> str:
    """Return the plan as a person reads it: calls, tokens, hours and money."""
    lines = [
        *table_lines(plan),
        f"tokens are those left to pay for; {plan.num_parts:,} documents or parts of long ones.",
        "As if every reply had all verdicts: what is missing is asked for again.",
        f"Sizes are means over {plan.measured:,} replies of this judge."
        if plan.measured
        else f"The replies' size is a guess ({VERDICT_TOKENS} tokens a claim).",
        "Cached: what a server with a prefix cache reads once a document, as vLLM does.",
    ]
    price, how = judge_of(run_file).price, "its servers' log tells one"
    return "\n".join([*lines, *cost_lines(plan, price, how, "evaluate.judge.price")])
