"""A figure: one promise, measured. Each is a class in a file of its own, listed in ``figures.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Generic, Literal, TypeVar

Size = Literal["full", "quick", "test"]
"""How much is done: for a release, for a rough look, inside ``make test``."""
P = TypeVar("P")


@dataclass(frozen=True)
class Row:
    """One line of the result: what was promised, what was measured, out of how many."""

    figure: str
    goal: str
    measured: str
    counts: str
    ok: bool
    evidence: tuple[str, ...] = ()
    """The first few cases that missed, ready to print."""


class Figure(ABC, Generic[P]):
    """Bounded in count and in time by its plan. ``seed`` decides every random choice."""

    name: ClassVar[str]
    about: ClassVar[str]
    plans: ClassVar[Mapping[Size, Any]]

    def __init__(self, plan: P, seed: int, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.seed = seed
        self.say = say

    @abstractmethod
    async def run(self) -> list[Row]:
        """Measure. Raises RuntimeError if the measurement itself could not be set up."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed (nearest rank); NaN of none."""
    if not values:
        return float("nan")
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The least-squares slope of (x, y) points; 0 for fewer than two different x."""
    if not points:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def mib(size: float) -> str:
    """Bytes as MiB."""
    return f"{size / 2**20:.2f} MiB"


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{seconds * 1e3:.1f} ms"
