"""Plots of a cascade as SVG: success over cost, and how far its doubt can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolenv.training.doubt import DoubtQuality
from toolenv.training.sweep import Tried

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"small": "tab:green", "frontier": "tab:red", "cascade": "tab:blue"}


def plot_pareto(table: Sequence[Tried], chosen: float, goal: float, path: Path) -> None:
    """Success, with its 95% intervals, over cost beside the frontier's.

    Args:
        chosen: the threshold that is marked.
        goal: the success that was asked for, 0 to 1, as a line.
    """
    figure = _figure(7, 4.4)
    axes = figure.subplots()
    for row in table:
        error = [[row.success.value - row.success.low], [row.success.high - row.success.value]]
        marked = row.threshold == chosen
        axes.errorbar(
            row.relative.value,
            row.success.value,
            yerr=error,
            fmt="D" if marked else "o",
            markersize=9 if marked else 5,
            markerfacecolor="none" if marked else None,
            color=_COLOURS[row.name],
            elinewidth=0.7,
            label=_label(row, marked=marked),
            zorder=3 if marked or row.name != "cascade" else 2,
        )
    axes.axhline(goal, color="grey", linestyle=":", label=f"target {goal:.3f}")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        *zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True), loc="best"
    )
    axes.set(xlabel="cost, the frontier alone = 1", ylabel="success (95% intervals)", xlim=(-0.03, None))
    _save(figure, path)


def _label(row: Tried, *, marked: bool) -> str:
    if marked:
        return f"chosen: threshold {row.threshold:.3g}"
    return row.name if row.name == "cascade" else f"{row.name} alone"


def plot_doubt(quality: DoubtQuality, path: Path) -> None:
    """Risk over coverage, and the share of wrong steps over doubt, on the steps of `quality`."""
    figure = _figure(9, 4)
    left, right = figure.subplots(1, 2)
    rate = quality.wrong / quality.steps
    coverage, risk = zip(*quality.risk_coverage, strict=True)
    left.plot(coverage, risk, color="tab:blue", label=f"least doubt first, area {quality.area:.3f}")
    left.axhline(rate, color="grey", linestyle=":", label=f"any order, {rate:.3f}")
    left.set(
        xlabel="coverage: share of steps kept", ylabel="risk: share of them not right", xlim=(0, 1), ylim=(0, None)
    )
    left.legend()
    for one in quality.bins:
        error = [[one.wrong.value - one.wrong.low], [one.wrong.high - one.wrong.value]]
        right.errorbar(one.doubt, one.wrong.value, yerr=error, fmt="o", color="tab:blue", elinewidth=0.7)
    right.plot((0, 1), (0, 1), color="grey", linestyle=":", label="calibrated")
    right.set(xlabel="doubt", ylabel="share not right (95% intervals)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    right.legend(title=f"calibration error {quality.calibration_error:.3f}")
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    """The same numbers give the same bytes."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "toolenv", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
