"""What a report says: sentences, and sections as values that terminal, HTML and JSON show alike.

A new section is a function from `RunResults` to a `Section`, named in `SECTIONS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smt_plugin.evaluation.audit import COPIED
from smt_plugin.evaluation.audit_results import ANY, Audit
from smt_plugin.evaluation.intervals import Estimate
from smt_plugin.faithfulness.check import KINDS
from smt_plugin.faithfulness.injected import NAME, NEGATION, NUMBER
from smt_plugin.report.plots import accuracy_plot, scaling_plot
from smt_plugin.report.results import REFERENCE, RunResults, beside

# Our choice: where half the answers cannot be read, the number is about their form.
_MANY_UNPARSED = 0.5


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report; one without rows and plot is shown by neither terminal nor HTML.

    Attributes:
        title: its heading.
        columns: the headings of the table, as long as each row.
        rows: the table's cells as text; the first names what the row is about.
        note: a sentence below the table.
        explanation: what only `report.html` says below it: how to read the numbers.
        plot: a picture as SVG text, which a terminal leaves out.
        data: key -> value for `report.json`, shown or not.
    """

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""
    explanation: str = ""
    plot: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


def accuracy(results: RunResults) -> Section:
    """Every arm's score, also where it is missing, and its difference to base + RAG."""
    rows = []
    for result in results.arms:
        scored, difference = result.accuracy, result.difference
        is_reference = result.arm == beside(result.arm, REFERENCE)
        if scored is None:
            cells = ("missing", "", "")
        elif difference is None:
            cells = (interval_text(scored), "reference" if is_reference else "no base + RAG", "")
        else:
            cells = (interval_text(scored), *_compared(difference))
        rows.append((result.name, *cells))
    estimates = [scored for result in results.arms for scored in (result.accuracy, result.difference) if scored]
    methods = sorted({scored.method.partition(",")[0] for scored in estimates})
    return Section(
        "Accuracy, with 95 % intervals clustered by document",
        ("arm", "accuracy", "vs base + RAG, paired", "p"),
        rows,
        note="The intervals leave out what training again with another seed would change.",
        explanation=(
            "They hold the variance of drawing other documents, questions and answers. Accuracy is the mean over "
            "questions of the mean over the sampled answers; differences are paired on the same questions. Method of "
            f"the intervals: {', '.join(methods)}."
        ),
        plot=accuracy_plot(results.arms),
        data={"arms": results.arms},
    )


def scaling(results: RunResults) -> Section:
    """Accuracy by tokens of the mix, from two budgets on."""
    return Section("Accuracy by tokens of the mix", plot=scaling_plot(results.arms))


def scoring(results: RunResults) -> Section:
    """What each arm's score is made of, and what it took."""
    rows = []
    for result in results.arms:
        if result.accuracy is None:
            continue
        tokens = "not known"
        if result.prompt_tokens is not None:
            tokens = f"{result.prompt_tokens:,.0f} / {result.answer_tokens:,.0f}"
        seconds = "" if result.seconds is None else f"{result.seconds:,.0f}"
        unparsed = f"{result.unparsed:.1%}"
        rows.append((result.name, _questions(result.accuracy), str(result.n), unparsed, tokens, seconds))
    return Section(
        "How it was scored",
        ("arm", "questions (documents)", "n", "unparsed", "tokens in / out", "seconds"),
        rows,
        explanation=(
            "“n” is how many answers were sampled for each question. A sample of which no answer can be read counts as "
            "wrong; the share of these is the column “unparsed”. Tokens are the mean of a question's prompt and of one "
            "answer, as the model's tokenizer counts them; seconds are those of the whole lm_eval run."
        ),
    )


def reading(results: RunResults) -> Section:
    """What could not be read of the answers, and the accuracy of those that could."""
    asked = any(result.by_judge for result in results.arms)
    rows = [
        (
            result.name,
            *([f"{result.by_judge:.1%}"] if asked else []),
            f"{result.unparsed - result.no_option:.1%}",
            f"{result.no_option:.1%}",
            f"{result.accuracy.mean:.1%}",
            "" if result.of_read is None else f"{result.of_read:.1%}",
        )
        for result in results.arms
        if result.accuracy and result.unparsed is not None and result.no_option is not None
    ]
    return Section(
        "What could be read",
        (
            "arm",
            *(["read by the judge"] if asked else []),
            "states nothing",
            "states no option",
            "accuracy",
            "of the read",
        ),
        rows,
        explanation=(
            "Shares of the answers. One that states nothing, or something that is no option, counts as wrong. "
            "“Of the read” is the accuracy among all others, which says less the fewer they are."
            + (" Where code read no option, the judge's model was asked which one the answer chooses." if asked else "")
        ),
    )


def leaks(results: RunResults) -> Section:
    """Every arm's score on the questions that did not leak, where `smt leaks` found some that did."""
    rows = [
        (result.name, interval_text(result.accuracy), interval_text(clean), _questions(clean))
        for result in results.arms
        if result.accuracy and (clean := result.without_leaks)
    ]
    return Section(
        "Accuracy without the questions that leaked",
        ("arm", "accuracy", "without leaks", "questions (documents)"),
        rows,
        note="Left out are the questions whose wording or options stand in synthetic records, as `smt leaks` found.",
    )


def forgotten(results: RunResults) -> Section:
    """lm-eval's own tasks before and after training, where `smt retention` asked them."""
    rows = [
        (
            change.task,
            change.model,
            change.metric,
            str(change.before.questions),
            f"{change.before.mean:.1%}",
            f"{change.after.mean:.1%}",
            *_compared(change.difference),
        )
        for change in results.changes
    ]
    return Section(
        "What was forgotten: lm-eval's own tasks before and after training",
        ("task", "model", "metric", "questions", "before", "after", "after minus before, paired", "p"),
        rows,
        explanation=(
            "In %, asked of the base and of the trained model alike; differences are paired on the same questions, "
            "which are taken as independent here."
        ),
        data={"retention": results.changes},
    )


def faithfulness(results: RunResults) -> Section:
    """How many records of each method say what their documents do not, as far as code alone can tell."""
    rows = [
        (
            found.method,
            f"{found.checked:,} of {found.records:,}",
            f"{found.unfaithful:,} ({found.unfaithful / found.checked:.1%})",
            *(f"{found.findings[kind]:,}" for kind in KINDS),
            "; ".join(f"{reason} ({number:,})" for reason, number in found.unchecked.items()) or "nothing",
        )
        for found in results.faithfulness
        if found.checked
    ]
    rejected = sum(found.rejected for found in results.faithfulness)
    return Section(
        "What records say and their documents do not",
        ("method", "compared", "with a finding", *(f"a {kind}" for kind in KINDS), "not compared"),
        rows,
        note="faithfulness/<method>.jsonl in the run folder has them, the worst first. "
        + (f"The gate left out {rejected:,} records." if rejected else "Nothing was left out for it."),
        explanation=(
            "Records in which numbers, dates, quoted passages or names stand that the document lacks, found by code. "
            "It does not see a number or a name of the document in the wrong place, nor what is wrong in other words; "
            "and it names what somebody reckoned from the document."
        ),
        data={"faithfulness": results.faithfulness},
    )


def audited(results: RunResults) -> Section:
    """How much of the records a judge finds that their documents do not bear out, where `smt audit` asked one."""
    return audit_section(results.audit, results.audit_outdated) if results.audit else Section(_JUDGED)


def judge_itself(results: RunResults) -> Section:
    """How much the judge of the records finds, and how often it calls wrong what is right."""
    return judge_section(results.audit) if results.audit else Section(_JUDGE)


_JUDGED, _JUDGE = "Faithfulness, judged", "The judge of faithfulness itself"


def audit_section(audit: Audit, is_outdated: bool = False) -> Section:
    """The error rates of an audit."""
    some_left_out = any(found.left_out for found in audit.methods.values())
    rows = [
        (
            name,
            f"{_questions(judged)} of {found.records:,}" if (judged := found.per_record) else f"0 of {found.records:,}",
            _rate(judged),
            "not known" if found.by_alarms is None else f"{found.by_alarms:.1%}",
            _rate(found.per_claim),
            _rate(found.per_token),
            *([f"{found.left_out:,}"] if some_left_out else []),
        )
        for name, found in audit.methods.items()
    ]
    called = {probe.kind: f"{probe.called_wrong.mean:.1%}" for probe in audit.judge}
    itself = (
        f", who finds {called[ANY]} of errors put in and calls {called[COPIED]} of right sentences wrong"
        if called.keys() >= {ANY, COPIED}
        else ""
    )
    doubt = f" {audit.doubt.capitalize()}: these rates say nothing of the records." if audit.doubt else ""
    changed = " The records have changed since: run `smt audit` again." if is_outdated else ""
    return Section(
        _JUDGED,
        (
            "method",
            "records (documents)",
            "records in error",
            "by false alarms",
            "claims in error",
            "tokens in error",
            *(["left out"] if some_left_out else []),
        ),
        rows,
        note=f"Judged by {audit.model}{itself}; audit.jsonl has every claim.{doubt}{changed}",
        explanation=(
            "What all records of a method hold of what their documents do not bear out, estimated from a random sample "
            "that is spread evenly over the documents; a drawn record counts for those of its document that were not "
            "drawn. Intervals are 95 %, clustered by document. A record with one claim in error is in error, too. "
            "“By false alarms” is the share of records that would be so if the judge only called as many claims wrong "
            "as of the documents' own sentences: with many claims a record, few of them are enough. Nothing is "
            "corrected for the judge's own errors. “Left out” are records of which some claim has no verdict."
        ),
        data={"audit": audit},
    )


def judge_section(audit: Audit) -> Section:
    """What is known of an audit's judge."""
    shares = {_PROBES[probe.kind]: probe.called_wrong for probe in audit.judge}
    agreement = ""
    if against := audit.against:
        labelled = {
            "claims that a person calls wrong": against.found,
            "claims that a person calls right": against.alarms,
        }
        shares |= {what: rate for what, rate in labelled.items() if rate}
        kappa = "undefined, one side never differs" if against.kappa is None else f"{against.kappa:.2f}"
        agreement = (
            f" Judge and person agree on {_rate(against.agreement)} of {against.labels:,} claims (kappa {kappa})."
            + (f" {against.unread:,} more have no verdict." if against.unread else "")
        )
    own = f" Of these it calls {_rate(audit.borne_out)} supported." if audit.borne_out else ""
    rows = [(what, _questions(rate), _rate(rate)) for what, rate in shares.items()]
    return Section(
        _JUDGE,
        ("what it judged", "n (documents)", "called wrong"),
        rows,
        note="It should call wrong all that was put in, and nothing that the documents say themselves."
        + own
        + agreement,
        explanation=(
            "An error is a number or a name that the document does not have, or the contrary of what was said, put "
            "into a claim of a record that the judge called supported. Sentences of the documents are easier to bear "
            "out than what is right in other words: there may be more false alarms than these; a person's labels tell."
        ),
    )


_PROBES = {
    NUMBER: "claims with another number put in",
    NAME: "claims with another name put in",
    NEGATION: "claims that were denied",
    ANY: "all claims with an error put in",
    COPIED: "the documents' own sentences",
}


def _rate(scored: Estimate | None) -> str:
    return "none judged" if scored is None else interval_text(scored)


SECTIONS = (accuracy, scaling, scoring, reading, leaks, faithfulness, audited, judge_itself, forgotten)


def sections_of(results: RunResults) -> list[Section]:
    """Return the report's sections in their order."""
    return [section(results) for section in SECTIONS]


def doubts(results: RunResults) -> list[str]:
    """Name what makes an arm's number say less than it seems to: prompts that were cut, answers without an option."""
    sentences = []
    for result in results.arms:
        questions = result.accuracy.questions if result.accuracy else 0
        if result.cut_documents:
            sentences.append(
                f"{result.name}: in {result.cut_documents:,} of {questions:,} prompts the ends of documents were cut "
                "off, since the model's context is too short; this arm does not read whole documents"
            )
        if result.cut:
            sentences.append(
                f"{result.name}: {result.cut:,} of {questions:,} prompts were longer than the model's "
                "context and lost their beginning; give a model of a longer context, or leave the arm out"
            )
        if result.empty:
            sentences.append(
                f"{result.name}: {result.empty:,} answers came back empty, and count as wrong; raise max_gen_toks, "
                "turn the server's thinking mode off, or see its log"
            )
        if result.unparsed is not None and result.unparsed >= _MANY_UNPARSED:
            sentences.append(
                f"{result.name}: {result.unparsed:.0%} of the answers state none of the options, and count "
                f"as wrong; read some in {results.run / 'results' / result.arm}"
            )
    return sentences


def interval_text(scored: Estimate) -> str:
    """An accuracy with its interval, both in percent."""
    if scored.refusal:
        return f"{scored.mean:.1%} (too few documents)"
    return accuracy_text(scored.mean, scored.low, scored.high)


def accuracy_text(mean: float, low: float, high: float) -> str:
    """An accuracy and the ends of its interval, all three from 0 to 1, in percent."""
    return f"{mean:.1%} ({low * 100:.1f} to {high * 100:.1f})"


def _questions(scored: Estimate) -> str:
    """Counts; and how many documents of equal sizes would say as much, where theirs differ much."""
    is_uneven = scored.effective_documents < 0.9 * scored.documents
    effective = f", as {scored.effective_documents:.0f} equal" if is_uneven else ""
    return f"{scored.questions} ({scored.documents}{effective})"


def _compared(difference: Estimate) -> tuple[str, str]:
    return difference_text(difference), "" if difference.refusal else p_text(difference.p_value)


def difference_text(difference: Estimate) -> str:
    """A difference in points with its interval."""
    if difference.refusal:
        return f"{difference.mean * 100:+.1f} (too few documents)"
    return points_text(difference.mean, difference.low, difference.high)


def points_text(mean: float, low: float, high: float) -> str:
    """A number of points, and the ends of its interval; all three from -1 to 1."""
    return f"{mean * 100:+.1f} ({low * 100:+.1f} to {high * 100:+.1f})"


def p_text(p_value: float) -> str:
    """A p-value to three digits."""
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"
