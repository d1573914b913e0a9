"""The report's pictures, as SVG text."""

import io
from collections import defaultdict
from typing import TYPE_CHECKING

from smt_plugin.errors import require
from smt_plugin.evaluation.arms import split_arm
from smt_plugin.evaluation.intervals import Estimate
from smt_plugin.report.results import ARM_NAMES, REFERENCE, ArmResult, beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_plot(results: list[ArmResult]) -> str:
    """Draw the arms with their intervals, base + RAG as a line across, and return the picture as SVG text."""
    figure, axes = axes_of(0.6 * len(results) + 1.2)
    for place, result in enumerate(reversed(results)):
        color = "#b5532a" if result.is_trained else "#3b6ea5"
        accuracy = result.accuracy
        if accuracy is None:
            axes.text(50, place, "missing", ha="center", va="center", color="#888888", style="italic")
            continue
        mean = accuracy.mean * 100
        errors = [[mean - accuracy.low * 100], [accuracy.high * 100 - mean]]
        axes.errorbar(mean, place, xerr=errors, fmt="o", color=color, capsize=4, markersize=7)
        number = axes.annotate(f"{mean:.1f}", (mean, place), xytext=(0, 9), textcoords="offset points", ha="center")
        # On white, so that the line does not strike the number through.
        number.set(color=color, bbox={"fc": "white", "ec": "white", "pad": 1})
        if result.arm == beside(result.arm, REFERENCE):
            axes.axvline(mean, color=color, linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(range(len(results)), [result.name for result in reversed(results)])
    axes.set_ylim(-0.6, len(results) - 0.3)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %, with 95 % interval")
    return svg_of(figure)


def scaling_plot(results: list[ArmResult]) -> str | None:
    """Draw accuracy by tokens of the mix, base + RAG as a line across, as SVG text; None for fewer than two budgets."""
    curves: dict[str, list[tuple[int, Estimate]]] = defaultdict(list)
    name = beside(results[0].arm, REFERENCE)
    for result in results:
        # Of the kind of scoring of the first arm, as the verdicts are.
        if beside(result.arm, REFERENCE) == name and result.mix_tokens is not None and result.accuracy is not None:
            curves[split_arm(result.arm)[0]].append((result.mix_tokens, result.accuracy))
    if max(map(len, curves.values()), default=0) < 2:
        return None
    figure, axes = axes_of(4.5)
    for (arm, points), color in zip(curves.items(), ("#b5532a", "#5b8a3c", "#7a5195"), strict=False):
        tokens, means, below, above = zip(
            *((n, e.mean * 100, (e.mean - e.low) * 100, (e.high - e.mean) * 100) for n, e in sorted(points)),
            strict=True,
        )
        axes.errorbar(tokens, means, yerr=[below, above], fmt="o-", color=color, capsize=4, label=ARM_NAMES[arm])
    reference = next((result.accuracy for result in results if result.arm == name), None)
    if reference is not None:
        axes.axhline(reference.mean * 100, color="#3b6ea5", linestyle=":", label=ARM_NAMES[name])
        axes.axhspan(reference.low * 100, reference.high * 100, color="#3b6ea5", alpha=0.12, linewidth=0)
    ticks = sorted({n for points in curves.values() for n, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    lowest, highest = axes.get_ylim()
    axes.set_ylim(max(lowest, 0), min(highest, 100))
    axes.set_xlabel("tokens of the mix")
    axes.set_ylabel("accuracy, %, with 95 % interval")
    axes.legend(frameon=False)
    return svg_of(figure)


def axes_of(height: float) -> "tuple[Figure, Axes]":
    """Return a figure of so many inches' height, and its axes."""
    require("matplotlib", "eval")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg_of(figure: "Figure") -> str:
    """Return a figure as SVG text, the same text each time."""
    from matplotlib import rc_context

    figure.tight_layout()
    picture = io.StringIO()
    with rc_context({"svg.hashsalt": "smt"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    text = picture.getvalue()
    return text[text.index("<svg") :]
