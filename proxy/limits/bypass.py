"""What is decided while a store cannot be asked: each rule's own ``on_store_error``."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from proxy.core.figure import Figure
from proxy.core.rate import Claim, Claims, Decision, Remaining, Rule
from proxy.limits.store import LimitStore, StoreError

RETRY_AFTER_S = 1.0
"""What a refused client is told: by then the store is asked again, if it is back."""

MOST_SHARES = 1000


class Bypass:
    """Decides without the store. ``local`` is another store on this host that answers at once.

    It decides on ``local`` claims, with the part of each limit that falls to one of ``hosts`` that cannot ask each
    other: each admits at most ceil(L / hosts), together they admit at most L, rounded up to a multiple of ``hosts``.
    The bypassed store never learns what was admitted here, so a window that has seen both admits at most the sum.
    """

    def __init__(self, local: LimitStore, hosts: int = 1) -> None:
        self._local = local
        self._hosts = hosts
        self._shares: dict[Rule, Rule] = {}
        self._decided: Counter[str] = Counter(deny=0, allow=0, local=0)

    def decide(self, claims: Claims) -> Decision:
        """What the rules say. One claim that is denied denies the request, before anything is charged."""
        for claim in claims:
            if claim.rule.on_store_error == "deny":
                return self._denied(claim)
        shares = self._shares_of(claims)
        if not shares:
            self._decided["allow"] += 1
            return Decision(True, unavailable=True)
        counted = tuple([claim for claim in claims if claim.rule.on_store_error == "local"])
        try:
            decision = self._local.acquire(shares)
        except StoreError:
            return self._denied(counted[0])
        assert isinstance(decision, Decision), "the store on this host answers at once"
        self._decided["local"] += 1
        return _translated(decision, shares, counted, is_all=len(counted) == len(claims))

    def _denied(self, claim: Claim) -> Decision:
        self._decided["deny"] += 1
        return Decision(False, RETRY_AFTER_S, claim, unavailable=True)

    def _shares_of(self, claims: Claims) -> Claims:
        return tuple([Claim(self._share(rule), key) for rule, key in claims if rule.on_store_error == "local"])

    def _share(self, rule: Rule) -> Rule:
        share = self._shares.get(rule)
        if share is None:
            if len(self._shares) >= MOST_SHARES:
                self._shares.clear()
            share = self._shares[rule] = rule.share(self._hosts)
        return share

    def give_back(self, claims: Claims, decision: Decision) -> None:
        """Undo the charges that were made here, if any were."""
        if decision.local:
            # What cannot go back stays charged: too little is admitted then, never too much.
            with suppress(StoreError):
                self._local.give_back(self._shares_of(claims), decision)

    def reset(self, claim: Claim) -> bool:
        """Forget a subject here; whether there was anything to forget."""
        return any(self._local.reset(share) is True for share in self._shares_of((claim,)))

    def figures(self) -> list[Figure]:
        """What was decided here, for the metrics."""
        about = "Decisions made without the limit store, by on_store_error."
        return [
            ("sluice_limit_store_bypassed_total", "counter", about, {"policy": policy}, count)
            for policy, count in self._decided.items()
        ]


def _translated(decision: Decision, shares: Claims, counted: Claims, *, is_all: bool) -> Decision:
    """The local store's decision in the words of the rules whose shares it has decided on."""
    left: tuple[Remaining, ...] = ()
    if is_all:
        windows = [window for claim in counted for window in claim.rule.windows]
        left = tuple(
            [Remaining(w, part.remaining, part.reset_s) for w, part in zip(windows, decision.left, strict=True)]
        )
    decision = decision._replace(left=left, unavailable=True, local=True)
    if decision.refused is None or decision.window is None:
        return decision
    refused = counted[shares.index(decision.refused)]
    window = refused.rule.windows[decision.refused.rule.windows.index(decision.window)]
    return decision._replace(refused=refused, window=window)
