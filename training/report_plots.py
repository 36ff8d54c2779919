"""Plots of a report as inline SVG: drawn with classes alone, so that the page's style decides every colour.

Lengths are in CSS pixels. A plot is at most as wide as a phone, so that its text stays readable when a page is narrow;
more come side by side where there is room. A policy has a colour and a shape of mark, so that neither stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from toolenv.agents.inert import visible
from toolenv.agents.intervals import Metric

SERIES: Final = 8
"""So many colours and marks there are; the ninth policy has the first again."""

_WIDTH, _HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 28, 40


@dataclass(frozen=True, slots=True)
class Point:
    """A policy in a plot of cost and success: `cost` a solved task, `series` its number from 0."""

    name: str
    series: int
    cost: Metric
    success: Metric
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: (x, y) in order of x, and the number of its colour."""

    name: str
    series: int
    points: tuple[tuple[float, float], ...]


def interval(metric: Metric, series: int) -> Markup:
    """A value within 0 to 1 and its interval as a small mark on a line, to stand beside the number."""
    width, middle = 84, 7

    def x(share: float) -> str:
        return f"{3 + share * (width - 6):.1f}"

    return Markup(  # numbers alone
        f'<svg class="interval s{series % SERIES}" width="{width}" height="14" aria-hidden="true">'
        f'<line class="track" x1="3" x2="{width - 3}" y1="{middle}" y2="{middle}"/>'
        f'<line class="whisker" x1="{x(metric.low)}" x2="{x(metric.high)}" y1="{middle}" y2="{middle}"/>'
        f"{_mark(float(x(metric.value)), middle, series)}</svg>"
    )


def legend_mark(series: int) -> Markup:
    """The mark of a policy, to stand beside its name."""
    return Markup(f'<svg class="key s{series % SERIES}" width="14" height="14" aria-hidden="true">') + Markup(
        f"{_mark(7, 7, series)}</svg>"
    )


def cost_plot(points: Sequence[Point], title: str, unit: str) -> Markup:
    """Success over the cost of a solved task, both with their intervals; a hollow mark is an approximate cost."""
    most = max(point.cost.high for point in points)
    ticks = _ticks(0, most)
    frame = _Frame(0, ticks[-1], 0, 1)
    body = [frame.axes(ticks, (0, 0.25, 0.5, 0.75, 1), f"{unit} a solved task", "success")]
    for point in points:
        x, y = frame.x(point.cost.value), frame.y(point.success.value)
        low, high = frame.x(point.cost.low), frame.x(point.cost.high)
        bottom, top = frame.y(point.success.low), frame.y(point.success.high)
        told = (
            f"{point.name}: success {point.success.value:.3f} [{point.success.low:.3f}, {point.success.high:.3f}], "
            f"{'≈' if point.approximate else ''}{point.cost.value:.1f} {unit} a solved task "
            f"[{point.cost.low:.1f}, {point.cost.high:.1f}]"
        )
        hollow = " hollow" if point.approximate else ""
        body.append(
            f'<g class="s{point.series % SERIES}{hollow}"><title>{_text(told)}</title>'
            f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{top:.1f}"/>'
            f"{_mark(x, y, point.series)}</g>"
        )
    return _plot(title, body)


def line_plot(lines: Sequence[Line], title: str, measure: str) -> Markup:
    """Curves over training steps; the ordinate begins at 0 unless a value lies below."""
    values = [y for line in lines for _, y in line.points]
    x_ticks = _ticks(0, max(x for line in lines for x, _ in line.points) or 1)
    y_ticks = _ticks(min(0.0, *values), max(values))
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    body = [frame.axes(x_ticks, y_ticks, "step", measure)]
    for line in lines:
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
        first, last = line.points[0][1], line.points[-1][1]
        told = f"{line.name}: {measure} {first:.3f} to {last:.3f} over {len(line.points)} points"
        body.append(
            f'<g class="s{line.series % SERIES}"><title>{_text(told)}</title><polyline class="curve" points="{path}"/>'
            f"{_mark(frame.x(line.points[-1][0]), frame.y(last), line.series)}</g>"
        )
    return _plot(title, body)


# -- inside ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values stand within a plot."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, y_name: str) -> str:
        parts = []
        for tick in y_ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick end" x="{_LEFT - 7}" y="{y + 4:.1f}">{_number(tick)}</text>')
        for tick in x_ticks:
            parts.append(
                f'<text class="tick middle" x="{self.x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 17}">{_number(tick)}</text>'
            )
        centre = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text class="axis middle" x="{centre:.0f}" y="{_HEIGHT - 5}">{_text(x_name)}</text>')
        parts.append(f'<text class="axis" x="{_LEFT - 36}" y="10">{_text(y_name)}</text>')
        return "".join(parts)


def _plot(title: str, body: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_text(title)}">'
        f"{''.join(body)}</svg>"
    )


def _mark(x: float, y: float, series: int) -> str:
    """One of eight shapes about the point."""
    shape, r = series % SERIES, 4.5
    if shape == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    corners = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in _corners(shape))
    return f'<polygon class="mark" points="{corners}"/>'


def _corners(shape: int) -> Iterator[tuple[float, float]]:
    """Corners about 0: square, triangles up and down, diamond, pentagon, hexagon, star."""
    if shape == 7:
        for corner in range(10):
            radius, angle = (1.3, 0.55)[corner % 2], math.pi * (corner / 5 - 0.5)
            yield radius * math.cos(angle), radius * math.sin(angle)
        return
    number, turn, radius = {
        1: (4, 0.25, 1.25), 2: (3, -0.5, 1.3), 3: (4, 0, 1.3), 4: (3, 0.5, 1.3), 5: (5, -0.5, 1.15), 6: (6, 0, 1.1)
    }[shape]  # fmt: skip
    for corner in range(number):
        angle = math.pi * (turn + 2 * corner / number)
        yield radius * math.cos(angle), radius * math.sin(angle)


def _ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that enclose low to high."""
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _text(text: str) -> str:
    return str(escape(visible(text)))
