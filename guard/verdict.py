"""Now against the baseline: which unit has become dearer, and by whose doing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from guard.callgrind import is_python
from guard.session import Cost, Functions, Measured

TOLERANCE = 0.15
_STEPS_A_CALL = 5.0
"""What a call into C weighs in the order of the culprits, in bytecode instructions."""
LEAST_GROWTH = 20.0
"""Bytecode instructions per unit. A timer that went off in every window adds less, shared among a window's units."""
_ONCE = 0.5
"""What is done less often per unit is no work of the unit: a timer did it."""
_LEAST_STEPS = 1.0
_LEAST_SHARE = 0.003


@dataclass(frozen=True)
class Row:
    """One unit. ``now`` and ``baseline`` are instructions; ``now`` as the baseline's build of Python would need."""

    unit: str
    now: float
    baseline: float | None

    @property
    def ratio(self) -> float | None:
        """How many times the baseline; None without one."""
        return None if self.baseline is None else self.now / self.baseline

    @property
    def is_dearer(self) -> bool:
        """Whether it costs too much more than recorded."""
        return self.ratio is not None and self.ratio > 1 + TOLERANCE

    @property
    def is_cheaper(self) -> bool:
        """Whether it costs so much less that the baseline would no longer guard it."""
        return self.ratio is not None and self.ratio < 1 - TOLERANCE


@dataclass(frozen=True)
class Growth:
    """One function that does more than it did: what grew, per unit, from and to; most in `weight` comes first."""

    function: str
    counts: Mapping[str, tuple[float, float]]
    is_new: bool

    @property
    def weight(self) -> float:
        """About how many bytecode instructions have come on top."""
        return sum(
            (after - before) * (1.0 if what == "steps" else _STEPS_A_CALL)
            for what, (before, after) in self.counts.items()
            if what != "calls"
        )


def build_factor(now: Measured, baseline: Measured) -> float:
    """By what the interpreter's own instructions are to be multiplied to compare this build with the baseline's."""
    return baseline.calibration / now.calibration


def rows(now: Measured, baseline: Measured | None) -> list[Row]:
    """One row a unit."""
    found = []
    for unit, cost in now.costs.items():
        before = None if baseline is None else baseline.costs.get(unit)
        factor = 1.0 if baseline is None else build_factor(now, baseline)
        # Libraries are compiled once for all builds of Python.
        comparable = cost.python * factor + (cost.instructions - cost.python)
        found.append(Row(unit, comparable, None if before is None else before.instructions))
    return found


def grown_functions(now: Functions, before: Functions) -> list[Growth]:
    """The Python functions that do noticeably more than recorded, or ask more of C, most first."""
    found = []
    for name, counts in now.items():
        old = before.get(name, {})
        grown = {
            what: (old.get(what, 0.0), count)
            for what, count in counts.items()
            if count - old.get(what, 0.0) >= (_LEAST_STEPS if what == "steps" else _ONCE)
        }
        growth = Growth(name, grown, is_new=name not in before)
        # One more call into C is a few bytecodes, whatever it costs there.
        asks_more_of_c = counts.get("calls", 0.0) >= _ONCE and any(what.startswith("C ") for what in grown)
        if growth.weight >= LEAST_GROWTH or asks_more_of_c:
            found.append(growth)
    return sorted(found, key=lambda growth: (-growth.weight, growth.function))


def grown_c(now: Cost, before: Cost, factor: float) -> list[Growth]:
    """The C functions that need noticeably more instructions than recorded, most first."""
    found = []
    for name, count in now.by_c.items():
        after, old = count * (factor if is_python(name) else 1.0), before.by_c.get(name, 0.0)
        if after - old >= before.instructions * _LEAST_SHARE:
            found.append(Growth(name, {"steps": (old, after)}, is_new=name not in before.by_c))
    return sorted(found, key=lambda growth: (-growth.weight, growth.function))
