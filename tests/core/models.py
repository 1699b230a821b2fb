"""The plainest models of the two algorithms: every request ever admitted, gone through afresh for each answer.

They share no code with `proxy.core` and keep no ring and no arrival time. Times are floats that tests choose so that
they and their sums are exact; `GcraModel` reckons in fractions besides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from math import floor

from proxy.core.gcra import GCRA
from proxy.core.rate import Remaining, Rule, Window


class Model(ABC):
    """One subject of one rule. ``kept`` are the times of its admitted requests, without those given back."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.kept: list[float] = []

    @abstractmethod
    def wait(self, window: Window, now: float) -> float:
        """Seconds until this window has room for one more request; 0 if it has now."""

    @abstractmethod
    def left(self, window: Window, now: float) -> Remaining:
        """What this window still admits, and in how many seconds the next unit comes back."""

    @abstractmethod
    def give_back(self, at: float) -> bool:
        """Undo a charge made at that time; False if it stays."""

    @abstractmethod
    def assert_bound(self) -> None:
        """Fail if the kept requests are more than the algorithm promises, in any interval at all."""

    def charge(self, now: float) -> None:
        """Record one admitted request."""
        self.kept.append(now)

    def waits(self, now: float) -> dict[Window, float]:
        """The wait for each window of the rule."""
        return {window: self.wait(window, now) for window in self.rule.windows}

    def remaining(self, now: float) -> tuple[Remaining, ...]:
        """What each window of the rule has left."""
        return tuple(self.left(window, now) for window in self.rule.windows)


class SlidingModel(Model):
    """Never more than L in any window of length W: at most L - 1 in the one before each admitted request."""

    def _used(self, window: Window, now: float) -> int:
        return sum(now - window.seconds < time <= now for time in self.kept)

    def wait(self, window: Window, now: float) -> float:
        # Room comes only when some request leaves the window.
        moments = [now, *(time + window.seconds for time in self.kept if time + window.seconds > now)]
        return min(moment for moment in moments if self._used(window, moment) < window.limit) - now

    def left(self, window: Window, now: float) -> Remaining:
        used = self._used(window, now)
        leaving = [time + window.seconds - now for time in self.kept if time + window.seconds > now]
        return Remaining(window, window.limit - used, min(leaving, default=0.0))

    def give_back(self, at: float) -> bool:
        if at not in self.kept:
            return False
        self.kept.remove(at)
        return True

    def assert_bound(self) -> None:
        for window in self.rule.windows:
            # A fullest window can always be moved until it begins with a request.
            for begin in self.kept:
                assert sum(begin <= time < begin + window.seconds for time in self.kept) <= window.limit


class GcraModel(Model):
    """A leaky bucket for each window: it holds ``burst`` requests and leaks L / W of them a second."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._charged_last: float | None = None

    def charge(self, now: float) -> None:
        super().charge(now)
        self._charged_last = now

    def _bucket(self, window: Window) -> tuple[int, Fraction]:
        """(requests it holds, requests it leaks in a second)"""
        return min(self.rule.burst, window.limit), Fraction(window.limit, window.seconds)

    def _level(self, window: Window, now: float) -> Fraction:
        """How many requests are in the bucket."""
        _, leak = self._bucket(window)
        level, last = Fraction(0), Fraction(0)
        for time in self.kept:
            level = max(level - (Fraction(time) - last) * leak, Fraction(0)) + 1
            last = Fraction(time)
        return max(level - (Fraction(now) - last) * leak, Fraction(0))

    def wait(self, window: Window, now: float) -> float:
        size, leak = self._bucket(window)
        return float(max((self._level(window, now) + 1 - size) / leak, Fraction(0)))

    def left(self, window: Window, now: float) -> Remaining:
        size, leak = self._bucket(window)
        level = self._level(window, now)
        room = floor(size - level)
        # The next unit is back when the level has sunk to where one more fits.
        return Remaining(window, room, float((level - (size - room - 1)) / leak) if level else 0.0)

    def give_back(self, at: float) -> bool:
        if at != self._charged_last or at not in self.kept:
            return False
        self.kept.remove(at)
        return True

    def assert_bound(self) -> None:
        for window in self.rule.windows:
            size, leak = self._bucket(window)
            for first, begin in enumerate(self.kept):
                for last, end in enumerate(self.kept[first:], first):
                    assert last - first + 1 <= size + (Fraction(end) - Fraction(begin)) * leak


def model_of(rule: Rule) -> Model:
    """The model of a subject that was never seen."""
    return GcraModel(rule) if rule.algorithm is GCRA else SlidingModel(rule)
