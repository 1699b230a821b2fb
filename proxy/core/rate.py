"""The words of limits: what a rule counts, what a request claims from it, and what a store decides.

A *rule* says how many requests each subject may send in which windows, by one algorithm: `proxy.core.sliding` or
`proxy.core.gcra`. A *claim* is one request's wish for a unit of one rule; all claims of a request are granted
together or not at all. An *account* is what a store remembers of a subject: some floats, whose meaning is the
algorithm's.
"""

from __future__ import annotations

from array import array
from typing import Literal, NamedTuple, Protocol

make = tuple.__new__
"""Makes a NamedTuple, as in ``make(Remaining, (window, 3, 0.5))``, where several are made for each request.

Their own constructors are functions of Python, which take four times as long.
"""

OnStoreError = Literal["deny", "allow", "local"]
"""What becomes of a claim while its store cannot be asked."""


class Window(NamedTuple):
    """At most ``limit`` requests in any ``seconds`` seconds; ``name`` is what it is called, like ``minute``."""

    name: str
    limit: int
    seconds: int


class Remaining(NamedTuple):
    """How many requests a window still admits, and in how many seconds the next unit comes back."""

    window: Window
    remaining: int
    reset_s: float


class Algorithm(Protocol):
    """How requests are counted. It keeps nothing itself; an empty account is that of a subject never seen."""

    name: str

    def wait(self, account: array[float], rule: Rule, now: float) -> tuple[float, Window | None]:
        """(seconds until one more request fits into every window, the window that refuses); (0, None) if it fits."""
        ...

    def charge(self, account: array[float], rule: Rule, now: float) -> None:
        """Record one admitted request."""
        ...

    def admit(self, account: array[float], rule: Rule, now: float) -> tuple[Remaining, ...] | None:
        """Record one request if it fits, and say what each window has left; None if it does not, and nothing is done.

        The same as `wait`, `charge` and `remaining`, sooner.
        """
        ...

    def give_back(self, account: array[float], rule: Rule, at: float) -> bool:
        """Undo the charge made at ``at``; False if that would let more through than is promised."""
        ...

    def remaining(self, account: array[float], rule: Rule, now: float) -> tuple[Remaining, ...]:
        """What each window has left."""
        ...

    def still(self, account: array[float], rule: Rule, now: float) -> array[float]:
        """A copy of the account, without what counts no more."""
        ...

    def last(self, account: array[float]) -> float:
        """When the account was charged last. After the rule's longest window it is as good as empty."""
        ...


class Rule:
    """How many requests each subject may send. ``name`` is the operator's: ``limit``, ``limit.per_key``.

    ``burst`` is how many may come at once where the algorithm is not `sliding`; ``max_subjects`` how many subjects
    a store keeps apart. ``space`` tells accounts of different rules apart, and those that mean different things;
    ``crowd`` tells apart whose subjects may share an account for want of room. ``buckets`` has for each window
    (window, limit, seconds, how many may come at once) as floats, which need not be converted for each request.
    """

    __slots__ = (
        "algorithm",
        "buckets",
        "burst",
        "capacity",
        "crowd",
        "labels",
        "longest_s",
        "max_subjects",
        "name",
        "on_store_error",
        "space",
        "windows",
    )

    def __init__(
        self,
        name: str,
        windows: tuple[Window, ...],
        algorithm: Algorithm,
        *,
        burst: int = 1,
        max_subjects: int = 200_000,
        on_store_error: OnStoreError = "deny",
    ) -> None:
        self.name = name
        self.windows = windows
        self.algorithm = algorithm
        self.burst = burst
        self.max_subjects = max_subjects
        self.on_store_error: OnStoreError = on_store_error
        self.capacity = max((window.limit for window in windows), default=0)
        self.longest_s = max((window.seconds for window in windows), default=0)
        self.buckets = tuple([(w, float(w.limit), float(w.seconds), float(min(burst, w.limit))) for w in windows])
        self.labels = tuple(f"{name}.{window.name}" for window in windows)
        # Who shares an account for want of room has the same numbers: else one forgets what another was charged.
        self.crowd = ",".join(f"{window.limit}/{window.seconds}" for window in windows)
        seconds = ",".join(str(window.seconds) for window in windows)
        # The times of a ring serve any windows; the numbers of gcra belong to theirs.
        self.space = f"{name}/sliding" if algorithm.name == "sliding" else f"{name}/{algorithm.name}/{seconds}"

    def share(self, hosts: int) -> Rule:
        """The rule for one of so many hosts that cannot ask each other: its part of every limit, rounded up."""
        windows = tuple(Window(w.name, -(-w.limit // hosts), w.seconds) for w in self.windows)
        share = Rule(
            self.name,
            windows,
            self.algorithm,
            burst=-(-self.burst // hosts),
            max_subjects=self.max_subjects,
            on_store_error=self.on_store_error,
        )
        # Rules that ask the same accounts by turns do so here, too.
        share.capacity, share.longest_s, share.crowd = -(-self.capacity // hosts), self.longest_s, self.crowd
        return share

    def __repr__(self) -> str:
        limits = ", ".join(f"{window.limit} per {window.name}" for window in self.windows)
        return f"<Rule {self.name}: {limits} ({self.algorithm.name})>"


class Claim(NamedTuple):
    """One request's wish for a unit of a rule, for this subject."""

    rule: Rule
    subject: str


Claims = tuple[Claim, ...]


class Decision(NamedTuple):
    """What a store answers for all claims of one request.

    ``retry_after_s`` is 0 when allowed, else the time until the same request would be admitted, as ``refused`` and
    ``window`` have it. ``left`` is what the windows of all claims have left after it, in their order; empty if not
    known. ``at`` is the time of the charge on the store's clock, which only giving it back needs. ``overflow``: some
    subject shares the bucket of those for which the store had no room. ``unavailable``: the store could not be asked,
    and the decision is what the rules say for that case; ``local``: another store on this host was asked instead.
    """

    allowed: bool
    retry_after_s: float = 0.0
    refused: Claim | None = None
    window: Window | None = None
    left: tuple[Remaining, ...] = ()
    at: float = 0.0
    overflow: bool = False
    unavailable: bool = False
    local: bool = False


class Admission(NamedTuple):
    """What a request claimed, and what was decided."""

    claims: Claims
    decision: Decision
