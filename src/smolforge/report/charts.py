"""Curves by step, drawn as SVG: a page without scripts can show nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from smolforge.report.page import Html, join, tag

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 480, 220, 56, 14, 28, 14
Point = tuple[int, float]  # step, value


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    colour: str  # of the page's style: train or eval
    dotted: bool = False  # few points, each with a mark


def chart(title: str, curves: Sequence[Curve], steps: int, *, low: float = 0.0, high: float = 0.0) -> Html:
    """A chart with its heading and legend; nothing, if no curve has a point.

    Args:
        steps: where the axis ends.
        low, high: values that the axis holds in any case.
    """
    curves = [
        Curve(name=curve.name, points=kept, colour=curve.colour, dotted=curve.dotted)
        for curve in curves
        if (kept := [point for point in curve.points if math.isfinite(point[1])])
    ]
    if not curves:
        return Html()
    values = [value for curve in curves for _, value in curve.points]
    low, high = min(low, *values), max(high, *values)
    drawn = [_frame(low, high, steps), *(_line(curve, low, high, steps) for curve in curves)]
    svg = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title.lower()} by step")
    legend = join((_key(curve) for curve in curves), " · ")
    return tag("div", tag("h3", title), svg, tag("p", legend, class_="dim small"))


def _key(curve: Curve) -> Html:
    sign = tag("span", "●" if curve.dotted else "━", style=f"color: var(--{curve.colour})")
    return join((sign, " ", curve.name))


def _place(point: tuple[float, float], low: float, high: float, steps: int) -> tuple[float, float]:
    """A step and a value as x and y of the drawing."""
    x = LEFT + point[0] / max(1, steps) * (WIDTH - LEFT - RIGHT)
    return x, TOP + (high - point[1]) / ((high - low) or 1.0) * (HEIGHT - TOP - BOTTOM)


def _frame(low: float, high: float, steps: int) -> Html:
    drawn = []
    for n in range(5):
        value = low + (high - low) * n / 4
        y = f"{_place((0, value), low, high, steps)[1]:.1f}"
        drawn.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke="var(--line)"))
        drawn.append(tag("text", f"{value:.2f}", x=LEFT - 6, y=y, text_anchor="end", dy=4))
    for step in sorted({round(steps * n / 4) for n in range(5)}):
        x = f"{_place((step, low), low, high, steps)[0]:.1f}"
        drawn.append(tag("text", step, x=x, y=HEIGHT - 8, text_anchor="middle"))
    return join(drawn)


def _line(curve: Curve, low: float, high: float, steps: int) -> Html:
    places = [_place(point, low, high, steps) for point in (curve.points if curve.dotted else thin(curve.points))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    colour = f"var(--{curve.colour})"
    line = tag("polyline", points=path, fill="none", stroke=colour, stroke_width="1.4", stroke_dasharray="4 4" * curve.dotted)
    dots = [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.5", fill=colour) for x, y in places] if curve.dotted else []
    return join([line, *dots])


def thin(points: Sequence[Point], most: int = 600) -> list[Point]:
    """At most `most` points, each the mean of its neighbours.

    >>> thin([(1, 2.0), (2, 4.0), (3, 5.0)], most=2)
    [(2, 3.0), (3, 5.0)]
    """
    size = -(-len(points) // most) or 1
    chunks = [points[n : n + size] for n in range(0, len(points), size)]
    return [(chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks]
