"""A curve, its shape and its table: sizes, CPU time per request, and whether the cost grows with the size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

Shape = Literal["flat", "at most linear", "worse than linear"]

FLAT_EXPONENT = 0.05
"""Ten times the work costs at most 12 % more, which caches of any kind explain."""
LINEAR_EXPONENT = 1.25
"""Of the added cost: 1, and room for what else the machine does."""
NOISE = 0.1
"""The part of a cost below which a difference can be chance."""


class Point(NamedTuple):
    """The cost of one request at one size, in microseconds of CPU time."""

    x: int
    cost_us: float


class Verdict(NamedTuple):
    """What a curve looks like, and the exponent: of the whole cost if it is flat, else of the added cost."""

    shape: Shape
    exponent: float


@dataclass(frozen=True)
class Curve:
    """Points in the order of their size, and the worst shape that is good enough.

    ``per`` names the unit of x if the cost of each is of interest. ``note`` says what was measured.
    """

    name: str
    title: str
    x_name: str
    points: tuple[Point, ...]
    wanted: Shape = "at most linear"
    unit: str = "request"
    per: str = ""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """See `judge`."""
        return judge(self.points)

    @property
    def is_good(self) -> bool:
        """Whether it is no worse than wanted."""
        shapes: tuple[Shape, ...] = ("flat", "at most linear", "worse than linear")
        return shapes.index(self.verdict.shape) <= shapes.index(self.wanted)


def judge(points: Sequence[Point]) -> Verdict:
    """The shape of a curve. Raises ValueError for fewer than two points, or sizes that do not rise.

    Flat: between no two points the cost grows by more than chance and `FLAT_EXPONENT` explain. Otherwise what was
    added since the first point decides.
    """
    if len(points) < 2 or any(a.x >= b.x for a, b in pairwise(points)):
        raise ValueError("a curve has two points or more, of rising size")
    if all(b.cost_us <= a.cost_us * (1 + NOISE) * (b.x / a.x) ** FLAT_EXPONENT for a, b in combinations(points, 2)):
        return Verdict("flat", slope([(math.log(x), math.log(cost_us)) for x, cost_us in points]))
    exponent = added_exponent(points)
    return Verdict("at most linear" if exponent <= LINEAR_EXPONENT else "worse than linear", exponent)


def added_exponent(points: Sequence[Point]) -> float:
    """The exponent of the added cost, c(x) - c(x0) against x - x0: that of a + b·x is 1 however large a is.

    Fitted over the points whose added cost is more than noise; if there is but one, the last that is not stands for
    where it began. The noise is put on top of all of them, so the exponent is rather too small than too large. Of two
    points alone it is that of the whole cost.
    """
    first = points[0]
    if len(points) == 2:
        return slope([(math.log(x), math.log(cost_us)) for x, cost_us in points])
    noise_us = NOISE * first.cost_us
    added = [(x - first.x, max(cost_us - first.cost_us, 0.0)) for x, cost_us in points[1:]]
    begin = 1 + max((index for index, (_, more_us) in enumerate(added) if more_us <= noise_us), default=-1)
    if begin == len(added):
        return 0.0
    begin = min(begin, len(added) - 2)
    return slope([(math.log(x), math.log(more_us + noise_us)) for x, more_us in added[begin:]])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the straight line that fits best, by least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def table(curve: Curve) -> str:
    """The curve as text: its title, a row for each point, and a line with the verdict."""
    first = curve.points[0]
    head = f"{curve.x_name:>14}  {f'CPU µs per {curve.unit}':>20}  {'× first':>8}"
    if curve.per:
        head += f"  {f'µs per {curve.per}':>12}"
    lines = [f"{curve.name}: {curve.title}", head]
    for x, cost_us in curve.points:
        row = f"{x:>14,}  {cost_us:>20,.2f}  {cost_us / first.cost_us:>8.2f}"
        lines.append(row + (f"  {cost_us / x:>12.3f}" if curve.per else ""))
    shape, exponent = curve.verdict
    of = "the cost" if shape == "flat" else "the added cost"
    found = "" if curve.is_good else f"; NOT GOOD ENOUGH, it is to be {curve.wanted}"
    lines.append(f"  {shape}: {of} grows with {curve.x_name} to the power of {exponent:.2f}{found}")
    if curve.note:
        lines.append(f"  {curve.note}")
    return "\n".join(lines)


def document(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """The curves for a JSON file."""
    return [
        {
            **asdict(curve),
            "points": [
                {"x": x, "cost_us": cost_us, "ratio": cost_us / curve.points[0].cost_us}
                for x, cost_us in curve.points
            ],
            "shape": curve.verdict.shape,
            "exponent": curve.verdict.exponent,
            "is_good": curve.is_good,
        }
        for curve in curves
    ]
