"""What the accounts of the shared store say about a request, and what it does to them, within one transaction."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from proxy.core.rate import Claim, Claims, Decision, Remaining, Window
from proxy.limits import table
from proxy.limits.store import MOST_TAKEN
from proxy.limits.sweep import make_room
from proxy.limits.table import Space


class Found(NamedTuple):
    """The account one claim is decided on, and where it lies."""

    claim: Claim
    space: Space
    key: bytes
    account: array[float]
    is_new: bool
    pays: bool = True


class Verdict(NamedTuple):
    """What the accounts say, before anything is charged."""

    now: float
    found: list[Found]
    wait: float
    refused: Claim | None
    window: Window | None
    overflow: bool

    def decision(self) -> Decision:
        """The answer. Of accounts that were charged by now, if they should be."""
        left: tuple[Remaining, ...] = ()
        for entry in self.found:
            rule = entry.claim.rule
            left += rule.algorithm.remaining(entry.account, rule, self.now)
        return Decision(self.refused is None, self.wait, self.refused, self.window, left, self.now, self.overflow)


def weigh(
    txn: table.Txn, claims: Claims, spaces: list[Space], now: float, room_bytes: int, *, may_write: bool
) -> Verdict:
    """Look at the accounts of all claims. Beyond ``room_bytes`` new subjects share their space's account."""
    worst = 0.0
    refused: Claim | None = None
    refusing: Window | None = None
    overflow = False
    found: list[Found] = []
    for claim, space in zip(claims, spaces, strict=True):
        rule = claim.rule
        entry = _find(txn, claim, space, now, room_bytes, found)
        if entry.key[2] == table.SHARED:
            if may_write and make_room(txn, space, now, {other.key for other in found}):
                entry = _find(txn, claim, space, now, room_bytes, found)
            overflow = overflow or entry.key[2] == table.SHARED
        found.append(entry)
        wait, window = rule.algorithm.wait(entry.account, rule, now)
        if window is not None and wait > worst:
            worst, refused, refusing = wait, claim, window
    return Verdict(now, found, worst, refused, refusing, overflow)


def _find(txn: table.Txn, claim: Claim, space: Space, now: float, room_bytes: int, found: list[Found]) -> Found:
    """The account to decide on: the subject's own, a new one, or without room the shared one."""
    key = space.key(claim.subject)
    value = txn.get(key)
    is_new = value is None
    account = array("d", value or b"")
    if value is None:
        shared_key = space.shared_key(claim.rule)
        account = array("d", txn.get(shared_key) or b"")
        if account and account[-1] <= now:
            account = array("d")
        taken = _taken(account, claim, now)
        if len(taken) - 1 > MOST_TAKEN or not _has_room(txn, space, room_bytes, found):
            key, is_new = shared_key, False
        else:
            account = taken
    for other in found:
        if other.key == key:
            # The request pays once: where the limit is one, it would wait for ever otherwise.
            return other._replace(claim=claim, is_new=False, pays=False)
    if account:
        account.pop()
    return Found(claim, space, key, account, is_new)


def _taken(shared: array[float], claim: Claim, now: float) -> array[float]:
    """What a new subject takes along of the account it may have paid into so far, and the expiry behind it."""
    if not shared:
        return shared
    taken = claim.rule.algorithm.still(shared[:-1], claim.rule, now)
    taken.append(shared[-1])
    return taken


def _has_room(txn: table.Txn, space: Space, room_bytes: int, found: list[Found]) -> bool:
    subjects = space.count(txn) + sum(entry.is_new and entry.space is space for entry in found)
    return subjects < space.max_subjects and table.used_bytes(txn) < room_bytes


def charge(txn: table.Txn, verdict: Verdict) -> None:
    """Record the request in every account found."""
    now = verdict.now
    for claim, space, key, account, is_new, pays in verdict.found:
        if pays:
            claim.rule.algorithm.charge(account, claim.rule, now)
            account.append(now + space.longest_s)
            txn.put(key, account)
            account.pop()
            if is_new:
                space.add(txn, 1)


def give_back(txn: table.Txn, claims: Claims, spaces: list[Space], decision: Decision) -> None:
    """Undo the charges of a request, each where it was made."""
    shared: dict[bytes, Claim] = {}
    for claim, space in zip(claims, spaces, strict=True):
        key = space.key(claim.subject)
        if txn.get(key) is None:
            shared[space.shared_key(claim.rule)] = claim
        elif _undo(txn, claim, key, decision.at):
            space.add(txn, -1)
    # Else what was charged is forgotten, and what the shared account holds is another's.
    if decision.overflow:
        for key, claim in shared.items():
            _undo(txn, claim, key, decision.at)


def _undo(txn: table.Txn, claim: Claim, key: bytes, at: float) -> bool:
    """Undo the charge of one account; whether that was its last, so that it is gone."""
    value = txn.get(key)
    if value is None:
        return False
    account = array("d", value)
    expiry = account.pop()
    if not claim.rule.algorithm.give_back(account, claim.rule, at):
        return False
    if not account:
        return txn.delete(key)
    account.append(expiry)
    txn.put(key, account)
    return False
