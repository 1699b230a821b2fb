"""The limit store in this process's memory: exact for one worker, forgotten when it stops.

A table of accounts for each rule, an `OrderedDict`: a whole decision was measured at 1.6 µs, against 4 µs for one
read and write of a `cachetools.TTLCache`, which would also evict the least recently used subject when full, and so
reset somebody's limit. Here only expired subjects are ever dropped.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

from proxy.core.figure import Figure
from proxy.core.rate import Claim, Claims, Decision, Remaining, Rule, Window, make
from proxy.limits.store import MOST_TAKEN, Clock, Standing


class MemoryStore:
    """Accounts by rule and subject, each rule's bounded to its ``max_subjects``.

    While a rule's table is full, all its new subjects share one account.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tables: dict[str, _Table] = {}

    async def open(self) -> None:
        """There is nothing to be reached."""

    def acquire(self, claims: Claims) -> Decision:
        """Admit one request and charge every claim of it, or refuse it and charge none."""
        if len(claims) == 1:
            claim = claims[0]
            rule, subject = claim
            table = self._tables.get(rule.space)
            if table is not None:
                account = table.accounts.get(subject)
                if type(account) is array:
                    return self._acquire_one(claim, table, account)
        return self._acquire(claims)

    def _acquire_one(self, claim: Claim, table: _Table, account: array[float]) -> Decision:
        """Decide on the one claim of a request whose subject is known: what most are."""
        rule, subject = claim
        algorithm = rule.algorithm
        now = self._clock()
        left = algorithm.admit(account, rule, now)
        if left is not None:
            table.accounts.move_to_end(subject)
            return make(Decision, (True, 0.0, None, None, left, now, False, False, False))
        wait, window = algorithm.wait(account, rule, now)
        return Decision(False, wait, claim, window, algorithm.remaining(account, rule, now), now)

    def _acquire(self, claims: Claims) -> Decision:
        now = self._clock()
        worst = 0.0
        refused: Claim | None = None
        refusing: Window | None = None
        overflow = False
        found: _Found = []
        for claim in claims:
            rule, subject = claim
            table = self._tables.get(rule.space)
            if table is None:
                table = self._tables[rule.space] = _Table(rule)
            account = table.account(subject, rule, now, found)
            wait, window = rule.algorithm.wait(account, rule, now)
            if window is not None and wait > worst:
                worst, refused, refusing = wait, claim, window
            overflow = overflow or account is table.overflow.get(rule.crowd)
            found.append((table, claim, account))
        left: tuple[Remaining, ...] = ()
        for index, (table, (rule, subject), account) in enumerate(found):
            # Subjects that share an account pay once: the decision was about one unit.
            if refused is None and not (overflow and any(account is paid for _, _, paid in found[:index])):
                rule.algorithm.charge(account, rule, now)
                table.keep(subject, account, rule)
            left += rule.algorithm.remaining(account, rule, now)
        return Decision(refused is None, worst, refused, refusing, left, now, overflow)

    def give_back(self, claims: Claims, decision: Decision) -> None:
        """Undo the charges of a request that was certainly not sent."""
        # Times alone do not tell whose charge of a shared account it is.
        shared: list[_Table] = []
        for rule, subject in claims:
            table = self._tables.get(rule.space)
            if table is None or table.give_back(subject, rule, decision.at):
                continue
            if decision.overflow and table not in shared:
                overflow = table.overflow.get(rule.crowd)
                if overflow is not None:
                    rule.algorithm.give_back(overflow, rule, decision.at)
                shared.append(table)

    def standing(self, claim: Claim) -> Standing:
        """Where a subject stands, without charging."""
        rule, subject = claim
        table = self._tables.get(rule.space)
        account = None if table is None else table.known(subject)
        shared = None if table is None else table.overflow.get(rule.crowd)
        asked = account or shared or array("d")
        left = rule.algorithm.remaining(asked, rule, self._clock())
        return Standing(left, account is not None)

    def reset(self, claim: Claim) -> bool:
        """Forget a subject; whether there was anything to forget."""
        table = self._tables.get(claim.rule.space)
        return table is not None and table.forget(claim.subject)

    def figures(self) -> list[Figure]:
        """How many subjects have an account of their own."""
        about = "Subjects with an account of their own."
        return [
            ("sluice_limit_subjects", "gauge", about, {"rule": space.partition("/")[0]}, len(table))
            for space, table in self._tables.items()
        ]

    async def close(self) -> None:
        """Nothing is held that would have to be let go."""

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def __repr__(self) -> str:
        return f"<MemoryStore [{len(self)} subjects]>"


class _Table:
    """The accounts of one rule, in the order of their last charge, so that the expired ones are at the front.

    The account of a subject that was charged once by `sliding`, which most of a million are, is one float.
    """

    def __init__(self, rule: Rule) -> None:
        self.overflow: dict[str, array[float]] = {}
        self.accounts: OrderedDict[str, array[float] | float] = OrderedDict()
        self._max_subjects = rule.max_subjects
        self._longest_s = rule.longest_s
        self._last = rule.algorithm.last

    def known(self, subject: str) -> array[float] | None:
        """The account of a subject that has one."""
        account = self.accounts.get(subject)
        return array("d", (account,)) if type(account) is float else account  # type: ignore[return-value]

    def account(self, subject: str, rule: Rule, now: float, found: _Found) -> array[float]:
        """The account to decide on: the subject's own, a new one, or without room the shared one.

        ``found`` are the accounts of the same request so far: the new ones among them will take room, too.
        """
        account = self.accounts.get(subject)
        if account is not None:
            return array("d", (account,)) if type(account) is float else account  # type: ignore[return-value]
        # Overrides may have longer windows than the rule they belong to.
        self._longest_s = max(self._longest_s, rule.longest_s)
        self._drop_expired(now)
        shared = self.overflow.get(rule.crowd)
        if shared is None or (shared and self._last(shared) + self._longest_s <= now):
            shared = self.overflow[rule.crowd] = array("d")
        new = sum(table is self and claim.subject not in self.accounts for table, claim, _ in found)
        if len(self.accounts) + new >= self._max_subjects:
            return shared
        # A new subject may have paid into the shared account so far: it takes that along.
        taken = rule.algorithm.still(shared, rule, now)
        return shared if len(taken) > MOST_TAKEN else taken

    def keep(self, subject: str, account: array[float], rule: Rule) -> None:
        """The account was charged."""
        if account is not self.overflow.get(rule.crowd):
            accounts = self.accounts
            accounts[subject] = account[0] if len(account) == 1 else account
            accounts.move_to_end(subject)

    def give_back(self, subject: str, rule: Rule, at: float) -> bool:
        """Undo a charge of the subject's own account, if that is safe; False if it has none."""
        account = self.known(subject)
        if account is None:
            return False
        if rule.algorithm.give_back(account, rule, at):
            if account:
                self.accounts[subject] = account[0] if len(account) == 1 else account
            else:
                del self.accounts[subject]
        return True

    def forget(self, subject: str) -> bool:
        """Drop an account."""
        return self.accounts.pop(subject, None) is not None

    def _drop_expired(self, now: float) -> None:
        """Drop up to two expired subjects: each new one pays for its place, and nobody waits for a sweep."""
        for _ in range(2):
            if not self.accounts:
                return
            subject, account = next(iter(self.accounts.items()))
            last = account if type(account) is float else self._last(account)  # type: ignore[arg-type]
            if last + self._longest_s > now:
                return
            del self.accounts[subject]

    def __len__(self) -> int:
        return len(self.accounts)


_Found = list[tuple[_Table, Claim, "array[float]"]]
"""Where the claims of one request are counted."""
