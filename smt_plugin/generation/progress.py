"""Show how generation is getting on: its budget, rates, failures and money."""

from smt_plugin.generation.summary import Summary
from smt_plugin.progress import Progress


class GenerateProgress(Progress):
    """Progress towards the token budget of a run."""

    def __init__(self) -> None:
        super().__init__("tokens")

    def show(self, summary: Summary) -> None:
        """Show a summary, unless the last one was shown a moment ago."""
        self.at(*_tokens_of_budget(summary), progress_line(summary))


def progress_line(summary: Summary) -> str:
    """One line: share of the budget, documents, rates (tokens a second), cache, failures, money."""
    tokens, budget = _tokens_of_budget(summary)
    documents = min((count.parts + count.waiting for count in summary.methods.values()), default=0)
    kind = "documents" if summary.num_parts == summary.num_documents else "parts of documents"
    seconds = max(summary.seconds, 1e-9)
    line = [
        f"{min(tokens / max(budget, 1), 1.0):4.0%} of {budget:,} tokens",
        f"{documents:,}/{summary.num_parts:,} {kind}",
        f"{summary.asked:,} completions ({summary.reused:,} reused)",
        f"in {summary.prompt_tokens / seconds:,.0f} out {summary.completion_tokens / seconds:,.0f} tokens/s",
    ]
    if summary.cache_share is not None:
        line.append(f"{summary.cache_share:.0%} from the cache")
    line.append(f"{summary.rejected:,} rejected, {summary.refused:,} refused")
    if summary.money is not None:
        line.append(f"{summary.money:,.2f} {summary.currency}")
    return ", ".join(line)


def _tokens_of_budget(summary: Summary) -> tuple[int, int]:
    """Tokens of the records so far and tokens asked for, over all methods."""
    counts = summary.methods.values()
    return sum(count.tokens for count in counts), sum(count.budget for count in counts)
