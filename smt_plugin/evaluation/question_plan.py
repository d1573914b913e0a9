"""What `smt questions` will ask and cost, told before anything is spent."""

from collections import defaultdict
from typing import Any

from smt_plugin.backends.base import Backend
from smt_plugin.config import RunFile
from smt_plugin.corpus import estimate_tokens, read_documents, split_document
from smt_plugin.evaluation.make_questions import EXAMPLE, EXAMPLE_OPTIONS, SPARE_CALLS, check_place, question_calls
from smt_plugin.evaluation.question_answers import ANSWER, RECALL, SAMPLES, VERDICT
from smt_plugin.generation.plan import Plan, PromptPlan, cost_lines, look_back, table_lines
from smt_plugin.prompts import Prompts

# Our guesses, in tokens, before a reply was seen.
_QUESTION_TOKENS = 100
_REPLY_TOKENS = {ANSWER: 200, RECALL: 200, VERDICT: 60}


async def plan_questions(run_file: RunFile, backend: Backend, per_document: int, free_form: bool) -> Plan:
    """Work out what `make_questions` will ask if it keeps all that the backend writes; nothing is asked.

    Raises:
        BadInput: as `make_questions`, before it asks anything.
    """
    check_place(run_file)
    prompts = Prompts(run_file.prompts, language=run_file.language)
    seen = await look_back(run_file, backend.model)
    plans: dict[str, PromptPlan] = defaultdict(PromptPlan)
    answers = per_document * SAMPLES
    num_parts = 0
    for document in read_documents(run_file.corpus):
        parts = split_document(document, run_file.max_document_tokens)
        num_parts += len(parts)
        asks = list(question_calls(parts, per_document, free_form))[:-SPARE_CALLS]
        writing, a_call = asks[0].prompt, asks[0].variables["num_questions"]
        reads = len({ask.document.part for ask in asks})
        variables = {**EXAMPLE, "options": [] if free_form else EXAMPLE_OPTIONS, "num_questions": a_call}
        # Prompt, calls, how many of them show a part of the document, and how many of these are the first to do so.
        calls = [(writing, len(asks), len(asks), reads), (ANSWER, answers, answers, 0), (RECALL, answers, 0, 0)]
        if free_form:
            # As if no answer were the right one's very words or number.
            calls.append((VERDICT, 2 * answers, 0, 0))
        length = estimate_tokens(document.text.strip()) / len(parts)
        for name, count, shown, first in calls:
            guess = _REPLY_TOKENS.get(name, a_call * _QUESTION_TOKENS)
            use, plan = seen.uses[name], plans[name]
            plan.calls += count
            plan.new_tokens += count * _bare_tokens(prompts, name, document.identity, variables) + first * length
            plan.cached_tokens += (shown - first) * length
            plan.output_tokens += count * (use.completion_tokens / use.done if use.done else guess)
    for name, plan in plans.items():
        plan.stored = min(seen.uses[name].done, round(plan.calls))
        left = 1 - plan.stored / plan.calls
        plan.new_tokens *= left
        plan.cached_tokens *= left
        plan.output_tokens *= left
    measured = sum(seen.uses[name].done for name in plans)
    guessed = [name for name in plans if not seen.uses[name].done]
    gpus = run_file.price.gpus if run_file.price else 0
    return Plan(backend.model, dict(plans), measured, guessed, num_parts, gpus=gpus)


def _bare_tokens(prompts: Prompts, name: str, identity: str, variables: dict[str, Any]) -> float:
    """About how many tokens a prompt has besides the document."""
    messages = prompts.messages(name, identity=identity, document="", **variables)
    has_system = name not in (RECALL, VERDICT)
    return sum(estimate_tokens(message["content"]) for message in messages[0 if has_system else 1 :])


def questions_plan_text(plan: Plan, run_file: RunFile) -> str:
    """Return the plan as a person reads it: calls, tokens, hours and money."""
    lines = [
        *table_lines(plan),
        f"tokens are those left to pay for; {plan.num_parts:,} documents or parts of long ones.",
        "As if every question were kept: what is dropped is made up for by up to "
        f"{SPARE_CALLS} more calls a document, and by answers to what they bring.",
    ]
    if plan.measured:
        lines.append(f"Sizes are means over {plan.measured:,} completions of this run.")
    if plan.guessed:
        sizes = [f"{_QUESTION_TOKENS} tokens a question"]
        sizes += [f"{_REPLY_TOKENS[name]} a reply to {name}" for name in plan.guessed if name in _REPLY_TOKENS]
        lines.append(f"The sizes of {', '.join(plan.guessed)} are guesses ({', '.join(sizes)}).")
    lines.append("Cached: what a server with a prefix cache reads once a document, as vLLM does.")
    return "\n".join([*lines, *cost_lines(plan, run_file.price, "`smt plan` with `--probe 60` measures one")])
