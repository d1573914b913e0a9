"""A study's pictures, as SVG text: accuracy over tokens, a curve each, and its law where there is one."""

from collections.abc import Callable, Sequence
from typing import Any

from smt_plugin.evaluation.intervals import Estimate
from smt_plugin.mixing.manifest import budget_name
from smt_plugin.report.plots import axes_of, svg_of
from smt_plugin.study.results import CurveResult

_COLORS = ("#3b6ea5", "#7a7a7a", "#b5532a", "#2f7d4f", "#7a5195", "#c49a1a", "#1b8a8f", "#8c3f5d")


def scaling_figure(curves: list[CurveResult], reference: Estimate | None) -> str:
    """Draw the curves of a group, and base + RAG as a line across.

    Every training is a dot, with its interval where it is the only one of its budget. A law is a line with its 95 %
    band; where there is none, no line is drawn.
    """
    figure, axes = axes_of(4.5)
    for place, curve in enumerate(curves):
        color = _COLORS[place % len(_COLORS)]
        aside = 2 ** (0.05 * (place - (len(curves) - 1) / 2))  # so that no dot hides another
        label = curve.name if curve.law else f"{curve.name} (no law: {curve.no_law.partition(';')[0]})"
        axes.plot([], [], "o-" if curve.law else "o", color=color, label=label)
        for budget, trainings in curve.points.items():
            means = [each.mean * 100 for each in trainings]
            if curve.seeds == 1:
                errors = [
                    [(each.mean - each.low) * 100 for each in trainings],
                    [(each.high - each.mean) * 100 for each in trainings],
                ]
                axes.errorbar([budget * aside] * len(means), means, yerr=errors, fmt="o", color=color, capsize=3)
            else:
                axes.plot([budget * aside] * len(means), means, "o", color=color, markersize=4, alpha=0.7)
        if curve.law:
            tokens, values = list(curve.law.at), list(curve.law.at.values())
            axes.plot(tokens, [value.mean * 100 for value in values], "-", color=color)
            low, high = ([getattr(value, end) * 100 for value in values] for end in ("low", "high"))
            axes.fill_between(tokens, low, high, color=color, alpha=0.12, linewidth=0)
    if reference is not None:
        axes.axhline(reference.mean * 100, color="black", linestyle=":", linewidth=1, label="base + RAG")
    budgets = sorted({budget for curve in curves for budget in curve.points})
    over_tokens(axes, budgets, budget_name)
    axes.set_ylabel("accuracy, %")
    if all(curve.seeds == 1 for curve in curves):
        axes.set_title("one training each: the variance of training is left out", loc="left", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    return svg_of(figure)


def coverage_figure(curves: dict[str, dict[int, Estimate]], kind: str) -> str:
    """Draw the shares that are touched over tokens of records, a curve for each method.

    Args:
        curves: name -> tokens -> share, 0 to 1.
        kind: of what it is a share.
    """
    figure, axes = axes_of(4.0)
    for place, (name, points) in enumerate(curves.items()):
        means = [each.mean * 100 for each in points.values()]
        errors = [
            [(each.mean - each.low) * 100 for each in points.values()],
            [(each.high - each.mean) * 100 for each in points.values()],
        ]
        aside = 2 ** (0.05 * (place - (len(curves) - 1) / 2))  # so that no dot hides another
        color = _COLORS[place % len(_COLORS)]
        axes.errorbar([n * aside for n in points], means, yerr=errors, fmt="o-", color=color, capsize=3, label=name)
    ticks = max((sorted(points) for points in curves.values()), key=lambda each: len(each))
    over_tokens(axes, ticks, "{:,}".format)
    axes.set_ylim(0, 103)
    axes.set_ylabel(f"{kind} touched, %, with 95 % interval")
    axes.legend(frameon=False, fontsize=8)
    return svg_of(figure)


def over_tokens(axes: Any, ticks: Sequence[int], name: Callable[[int], str]) -> None:
    """Make a picture's x tokens of records, doubled at each step, with these ticks."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [name(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("tokens of records")
