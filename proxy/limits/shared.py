"""The limit store shared by the processes of one machine: exact over all of them, with no server.

An lmdb table in memory (tmpfs). A decision is one write transaction: lmdb's lock is a robust mutex, so a process
killed at any instant leaves the table as the last commit had it, and the next process goes on. Times come from
CLOCK_MONOTONIC, which is one for the machine; they are read under the lock, so that they rise in every account.

A refusal is found by reading alone, as soon as the decision before it was one: a state that was committed when it was
read refuses rightly, and refusing takes no lock from those that are served.

Measured hot with one claim of three windows, `gcra`, as CPU beyond `memory`: 2 µs, of which 1.1 are lmdb's. Rings are
copied: some 15 µs for a limit of 10,000; in pages, the searches of `sliding` would cost as much.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar
from weakref import WeakSet

import lmdb

from proxy.core.figure import Figure
from proxy.core.rate import Claim, Claims, Decision, Rule, make
from proxy.limits import table
from proxy.limits.store import Clock, Standing, StoreError
from proxy.limits.sweep import Sweep
from proxy.limits.table import Space
from proxy.limits.table_file import TableFile
from proxy.limits.verdict import charge, give_back, weigh

LOOK_S = 0.01
"""How often those whom a shared account refuses look for room: where subjects are made up, there is none."""
Fill = Callable[[table.Txn, int], None]
"""Puts a saved state into an empty table, up to so many bytes. Raises OSError."""
T = TypeVar("T")


class SharedStore:
    """Accounts in the directory of a running gateway, each rule's bounded to its ``max_subjects``.

    Open it after the fork, once per process; in a child of the process that opened it every call raises
    RuntimeError. ``max_bytes`` bounds the table: from seven eighths on new subjects share their rule's account, as
    they do beyond ``max_subjects``; a full table or file system raises StoreError until sweeping made room.
    ``fill`` is called once in the life of the directory, in whichever process comes first; the others wait for it.
    Raises StoreError if the table cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock, *, max_bytes: int, fill: Fill | None = None) -> None:
        self._clock = clock
        self._path = path
        self._max_bytes = max_bytes
        self._room_bytes = max_bytes // 8 * 7
        self._spaces: dict[str, Space] = {}
        self._expects_refusal = False
        self._look_at = clock()
        self.errors = 0
        self._open()
        self._sweep = Sweep(clock, self._is_crowded)
        try:
            # As it grows it is filled anew: by doubling, that is no more than twice the work.
            self._file.tried(lambda: self._fill(fill), most_bytes=max_bytes)
        except (lmdb.Error, OSError) as error:
            self._file.close()
            raise StoreError(f"the shared limit store in {path} cannot be filled: {error}") from error
        _opened.add(self)

    def _open(self) -> None:
        try:
            self._file = TableFile(self._path, self._clock, self._max_bytes)
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"the shared limit store in {self._path} cannot be opened: {error}") from error
        self._begin = self._file.env.begin

    def _fill(self, fill: Fill | None) -> None:
        with self._begin(write=True) as txn:
            if txn.get(table.FILLED) is None:
                if fill is not None:
                    fill(txn, self._room_bytes)
                txn.put(table.FILLED, b"")

    async def open(self) -> None:
        """There is nothing to be reached."""

    def acquire(self, claims: Claims) -> Decision:
        """Admit one request and charge every claim of it, or refuse it and charge none."""
        try:
            if len(claims) == 1 and not self._expects_refusal:
                return self._acquire_one(claims)
            return self._decide(claims)
        except lmdb.Error:
            return self._done(lambda: self._decide(claims))

    def _done(self, work: Callable[[], T]) -> T:
        """Do something with the table. Raises StoreError."""
        try:
            return self._file.tried(work)
        except (lmdb.Error, OSError) as error:
            raise self._failed(error) from None

    def _decide(self, claims: Claims) -> Decision:
        spaces = [self._space(claim.rule) for claim in claims]
        if self._expects_refusal:
            decision = self._refuse(claims, spaces)
            if decision is not None:
                return decision
        with self._begin(None, None, True) as txn:
            # The clock is read once the transaction stands: no time in the table is later.
            verdict = weigh(txn, claims, spaces, self._clock(), self._room_bytes, may_write=True)
            if verdict.refused is None:
                charge(txn, verdict)
        self._expects_refusal = verdict.refused is not None
        return verdict.decision()

    def _acquire_one(self, claims: Claims) -> Decision:
        """Decide on the one claim of a request: what most have, 2 µs sooner."""
        claim = claims[0]
        rule, subject = claim
        space = self._spaces.get(rule.space)
        if space is None or rule.longest_s > space.longest_s:
            space = self._space(rule)
        algorithm = rule.algorithm
        with self._begin(None, None, True) as txn:
            now = self._clock()
            key = space.key(subject)
            value = txn.get(key)
            if value is None:
                verdict = weigh(txn, claims, [self._space(rule)], now, self._room_bytes, may_write=True)
                if verdict.refused is None:
                    charge(txn, verdict)
                self._expects_refusal = verdict.refused is not None
                return verdict.decision()
            account = array("d", value)
            account.pop()
            left = algorithm.admit(account, rule, now)
            if left is not None:
                account.append(now + space.longest_s)
                txn.put(key, account)
        if left is not None:
            return make(Decision, (True, 0.0, None, None, left, now, False, False, False))
        self._expects_refusal = True
        wait, window = algorithm.wait(account, rule, now)
        return Decision(False, wait, claim, window, algorithm.remaining(account, rule, now), now)

    def _refuse(self, claims: Claims, spaces: list[Space]) -> Decision | None:
        """Decide by reading alone, if that refuses."""
        with self._begin() as txn:
            now = self._clock()
            if len(claims) == 1:
                rule, subject = claim = claims[0]
                value = txn.get(spaces[0].key(subject))
                if value is not None:
                    account = array("d", value)
                    account.pop()
                    wait, window = rule.algorithm.wait(account, rule, now)
                    if window is None:
                        return None
                    return Decision(False, wait, claim, window, rule.algorithm.remaining(account, rule, now), now)
            verdict = weigh(txn, claims, spaces, now, self._room_bytes, may_write=False)
        if verdict.refused is None:
            return None
        if verdict.overflow and now >= self._look_at:
            # Where the shared account refuses, an expired one may make room.
            self._look_at = now + LOOK_S
            return None
        return verdict.decision()

    def give_back(self, claims: Claims, decision: Decision) -> None:
        """Undo the charges of a request that was certainly not sent."""
        self._done(lambda: self._give_back(claims, decision))

    def _give_back(self, claims: Claims, decision: Decision) -> None:
        spaces = [self._space(claim.rule) for claim in claims]
        with self._begin(write=True) as txn:
            give_back(txn, claims, spaces, decision)

    def standing(self, claim: Claim) -> Standing:
        """Where a subject stands, without charging."""
        rule = claim.rule
        own, value = self._done(lambda: self._look_up(claim))
        account = array("d", value or b"")
        if account:
            account.pop()
        return Standing(rule.algorithm.remaining(account, rule, self._clock()), own is not None)

    def _look_up(self, claim: Claim) -> tuple[bytes | None, bytes | None]:
        """(the account of a subject, the one that it is asked on)"""
        rule, subject = claim
        space = self._space(rule)
        with self._begin() as txn:
            own = txn.get(space.key(subject))
            return own, txn.get(space.shared_key(rule)) if own is None else own

    def reset(self, claim: Claim) -> bool:
        """Forget a subject; whether there was anything to forget."""
        return self._done(lambda: self._reset(claim))

    def _reset(self, claim: Claim) -> bool:
        space = self._space(claim.rule)
        with self._begin(write=True) as txn:
            is_known = txn.delete(space.key(claim.subject))
            if is_known:
                space.add(txn, -1)
        return is_known

    def sweep(self) -> float:
        """Drop some of the accounts that expired, if there are any; in how many seconds to call this again.

        For one process of the machine, though it does no harm in several. Well under a millisecond. Raises
        StoreError.
        """
        return self._done(lambda: self._sweep.step(self._file.env))

    @property
    def env(self) -> lmdb.Environment:
        """The table, for those that save it in another thread. It may grow meanwhile, which ends their reading."""
        return self._file.env

    def keep_up(self) -> None:
        """Adopt what another process made of the table, for those who read `env` to the end. Raises StoreError."""
        if self._file.is_behind:
            self._done(self._file.adopt)

    def figures(self) -> list[Figure]:
        """What can be measured. Gauges are the machine's, the same in each process; totals are the process's own."""
        subjects, used = self._done(self._counted)
        return [
            *(
                ("sluice_limit_subjects", "gauge", "Subjects with an account of their own.", {"rule": rule}, count)
                for rule, count in subjects.items()
            ),
            ("sluice_limit_store_used_bytes", "gauge", "Size of the pages that hold accounts.", {}, used),
            ("sluice_limit_store_max_bytes", "gauge", "Largest size of the shared table.", {}, self._max_bytes),
            ("sluice_limit_swept_total", "counter", "Expired accounts dropped.", {}, self._sweep.swept),
            ("sluice_limit_store_errors_total", "counter", "Calls the store could not serve.", {}, self.errors),
        ]

    def _counted(self) -> tuple[dict[str, int], int]:
        """(subjects by rule, bytes that accounts take)"""
        subjects: dict[str, int] = {}
        with self._begin() as txn:
            for space in table.spaces(txn):
                rule = space.name.partition("/")[0]
                subjects[rule] = subjects.get(rule, 0) + space.count(txn)
            return subjects, table.used_bytes(txn)

    def forsake(self) -> None:
        """This process is a child of the one that opened the table."""
        self._file.forsake()
        self._begin = _opened_elsewhere
        self.sweep = _opened_elsewhere  # type: ignore[method-assign]

    async def close(self) -> None:
        """Close the table."""
        _opened.discard(self)
        self._begin = _closed
        self._file.close()

    def _space(self, rule: Rule) -> Space:
        space = self._spaces.get(rule.space)
        if space is None:
            # In a transaction of its own: what another one would leave here if it failed is not in the table.
            with self._begin(write=True) as txn:
                space = table.register(txn, rule.space)
            self._spaces[rule.space] = space
        if rule.longest_s > space.longest_s or rule.max_subjects != space.max_subjects:
            space.adapt(rule)
        return space

    def _is_crowded(self) -> bool:
        """Whether the table, or the room of one rule, is more than half full."""
        with self._begin() as txn:
            if table.used_bytes(txn) > self._max_bytes // 2:
                return True
            return any(space.count(txn) > space.max_subjects // 2 for space in self._spaces.values())

    def _failed(self, error: lmdb.Error | OSError) -> StoreError:
        self.errors += 1
        if self._file.is_broken or isinstance(error, lmdb.PanicError):
            # lmdb wants the table opened anew: it could not be mapped, or a header of it not be written.
            self._file.close()
            self._open()
        return StoreError(f"the shared limit store: {error}")

    def __len__(self) -> int:
        """Subjects with an account of their own."""
        return sum(self._done(self._counted)[0].values())

    def __repr__(self) -> str:
        return f"<SharedStore {self._path}>"


def _closed(*_: object, **__: object) -> NoReturn:
    raise StoreError("the shared limit store is closed")


def _opened_elsewhere(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("the shared limit store was opened before the fork: open one in each process")


_opened: WeakSet[SharedStore] = WeakSet()
_left_alone: list[lmdb.Environment] = []
"""Tables of the process this one was forked from: closing them is not for us."""


def _leave_alone() -> None:
    for store in _opened:
        _left_alone.append(store.env)
        store.forsake()
    _opened.clear()


os.register_at_fork(after_in_child=_leave_alone)
