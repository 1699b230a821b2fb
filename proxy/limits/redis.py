"""The limit store on a Redis or Valkey server: exact for any number of gateways on any number of machines.

A request is one call of one script for all its claims, on one connection, with the server's time. The server carries
out one script at a time, so no two requests ever see the same unit.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

from proxy.core.figure import Figure
from proxy.core.gcra import GCRA
from proxy.core.rate import Claim, Claims, Decision, Rule, Window
from proxy.limits.address import StoreAddress
from proxy.limits.redis_call import Call, Keys, Plan, command
from proxy.limits.redis_link import Link, Trouble, scrubbed
from proxy.limits.redis_nodes import CONNECT_S, Cluster, Opener, Single
from proxy.limits.store import Clock, Standing, StoreError

_Asked = ParamSpec("_Asked")

log = logging.getLogger("sluice.limits")

OLDEST_VERSION = 6
OUTLIVES_S = 1.0
"""How long an account stays after its last use could matter: the clocks of server and replica are not one."""

OUTLIVES_OWN_CLOCK_S = 3600.0
"""The same where the time is not the server's: it forgets by its own clock."""

CLOSING_S = 0.5
"""What give-backs under way get when the store is closed."""

GIVING_BACK_S = 1.0
"""What a give-back may take: nobody waits for it, and a slow server is when most units come back."""

GRACE_S = 0.005
"""The end of each call's time, counted by the event loop from when it gets there: if this process was busy meanwhile,
the answer has come and only needs to be read, and the store is not to blame."""

SILENT_S = 1.0
"""A connection on which nothing was answered for so long is given up."""

AROUND_S = 0.003
"""What of its budget a call leaves to what is around it."""

MOST_PLANS = 1000

PROBE = Rule("probe", (Window("second", 1_000_000, 1),), GCRA, burst=1_000_000)
"""What is asked to see whether the server decides again; it never refuses."""


class RedisStore:
    """Accounts on a server that all gateways of one ``namespace`` share.

    ``timeout_s`` is what a call may take, finding the server and connecting included; then it fails with `StoreError`
    and goes on in the background, where a unit granted too late is given back. ``spread``: all claims of any request
    have the same subject, so each subject may have its own slot of a cluster. ``clock`` is for tests; without it the
    time is the server's. ``ca_file`` has the authorities a server's certificate is checked against, instead of the
    system's. Raises ValueError for an address of another kind, and for a namespace that cannot be one.
    """

    def __init__(
        self,
        address: StoreAddress,
        *,
        namespace: str = "sluice",
        timeout_s: float = 0.05,
        ca_file: str | None = None,
        clock: Clock | None = None,
        spread: bool = False,
    ) -> None:
        if address.kind in ("memory", "shared"):
            raise ValueError(f"{address.kind} is no server")
        self.address = address
        # A client waits for more than the call: for the loop to hear of it, and for its answer to be written.
        self._timeout_s = timeout_s - min(AROUND_S, timeout_s / 10)
        self._clock = clock
        self._outlives_s = OUTLIVES_S if clock is None else OUTLIVES_OWN_CLOCK_S
        self._keys = Keys(namespace, spread)
        self._plans: dict[tuple[Rule, ...], Plan] = {}
        opener = Opener(address, ca_file, self._opened)
        self._nodes = Cluster(opener) if address.kind == "cluster" else Single(opener)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: set[asyncio.Task[object]] = set()
        self._is_checked = False
        self._is_closed = False
        self.late = 0
        """Units that were granted to callers who had stopped waiting; each is given back."""

    async def open(self) -> None:
        """Load the library, which blocks for longer than a call may take."""
        import redis.asyncio  # noqa: F401

    async def acquire(self, claims: Claims) -> Decision:
        """Admit one request and charge every claim of it, or refuse it and charge none. Raises `StoreError`."""
        plan = self._plan(claims)

        def late(answer: object) -> None:
            if isinstance(answer, bytes) and (decision := plan.decision(claims, answer)).allowed:
                self.late += 1
                self.give_back(claims, decision)

        return plan.decision(claims, await self._run(plan.acquire(claims, self._now()), claims[0], late))

    def give_back(self, claims: Claims, decision: Decision) -> None:
        """Undo the charges of a request that was certainly not sent, in the background."""
        if self._loop is None or self._is_closed:
            return
        call = self._plan(claims).give_back(claims, decision.at)
        self._start(self._in_time(GIVING_BACK_S, self._script, call, claims[0], None))

    async def standing(self, claim: Claim) -> Standing:
        """Where a subject stands, without charging. Raises `StoreError`."""
        plan = self._plan((claim,))
        return plan.standing(await self._run(plan.acquire((claim,), self._now(), is_look=True), claim))

    async def reset(self, claim: Claim) -> bool:
        """Forget a subject; whether there was anything to forget. Raises `StoreError`."""
        sent = command(b"DEL", self._keys.name(claim))
        return await self._in_time(self._timeout_s, self._ask, claim, sent, None) == 1

    async def probe(self) -> None:
        """Connect anew and see whether the server takes a write in time; if so, further calls go there.

        Raises `StoreError` if not. A decision that writes: replicas, servers without memory, and those that forbid
        scripts answer anything else.
        """
        self._loop = asyncio.get_running_loop()
        claims = (Claim(PROBE, ""),)
        call = self._plan(claims).acquire(claims, self._now())
        sent, slot = call.by_text + call.rest, self._keys.slot_of("")
        try:
            async with asyncio.timeout(CONNECT_S + self._timeout_s):
                answer = await self._nodes.renew(slot, sent, self._timeout_s)
        except TimeoutError:
            raise Trouble("timeout", "the server did not answer in time") from None
        self._checked(answer)

    def figures(self) -> list[Figure]:
        """How often the answer came too late."""
        about = "Units that were granted after their caller had stopped waiting, and given back."
        return [("sluice_limit_store_late_total", "counter", about, {}, self.late)]

    async def close(self) -> None:
        """Let go of the connections; give-backs under way get half a second."""
        self._is_closed = True
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSING_S)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._nodes.close()

    def _plan(self, claims: Claims) -> Plan:
        rules = tuple([claim.rule for claim in claims])
        plan = self._plans.get(rules)
        if plan is None:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            plan = self._plans[rules] = Plan(rules, self._keys, self._outlives_s)
        return plan

    def _now(self) -> bytes:
        return b"" if self._clock is None else repr(self._clock()).encode("ascii")

    async def _run(self, call: Call, claim: Claim, late: Callable[[object], None] | None = None) -> bytes:
        """Run a script, in time. Raises `StoreError`."""
        answer = await self._in_time(self._timeout_s, self._script, call, claim, late)
        assert isinstance(answer, bytes), "the script gives a text"
        return answer

    async def _script(self, call: Call, claim: Claim, late: Callable[[object], None] | None) -> object:
        from redis.exceptions import NoScriptError

        answer = await self._ask(claim, call.by_sha + call.rest, late)
        if isinstance(answer, NoScriptError):
            # It was not run, so this is no second run; and the server knows it from now on.
            answer = await self._ask(claim, call.by_text + call.rest, late)
        return answer

    def _ask(self, claim: Claim, sent: bytes, late: Callable[[object], None] | None) -> Awaitable[object]:
        return self._nodes.ask(self._keys.slot_of(claim.subject), sent, late)

    async def _in_time(
        self, timeout_s: float, ask: Callable[_Asked, Awaitable[object]], *asked: _Asked.args, **more: _Asked.kwargs
    ) -> object:
        self._loop = asyncio.get_running_loop()
        timeout = asyncio.timeout(None)
        nearly = self._loop.call_later(timeout_s - min(GRACE_S, timeout_s), self._last_chance, timeout)
        try:
            async with timeout:
                answer = await ask(*asked, **more)
        except TimeoutError:
            self._nodes.distrust(SILENT_S)
            raise Trouble("timeout", "no answer in time") from None
        finally:
            nearly.cancel()
        return self._checked(answer)

    @staticmethod
    def _last_chance(timeout: asyncio.Timeout) -> None:
        timeout.reschedule(asyncio.get_running_loop().time() + GRACE_S)

    def _checked(self, answer: object) -> object:
        if isinstance(answer, Exception):
            from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError

            if isinstance(answer, ReadOnlyError):
                self._nodes.forget()
            reasons: dict[type[Exception], str] = {
                OutOfMemoryError: "memory",
                ReadOnlyError: "readonly",
                NoPermissionError: "login",
            }
            reason = reasons.get(type(answer), "refused")
            raise Trouble(reason, f"the server refuses: {scrubbed(answer, self.address)}")
        return answer

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        assert self._loop is not None, "whatever starts something has been asked something before"
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StoreError):
            log.error("limits: what runs in the background failed: %s", type(error).__name__, exc_info=error)

    def _opened(self, link: Link) -> None:
        self._loop = asyncio.get_running_loop()
        if not self._is_checked:
            self._is_checked = True
            self._start(self._check(link))

    async def _check(self, link: Link) -> None:
        """Look once at what the first server is, and say what is wrong with it."""
        try:
            answer = await link.ask(command(b"INFO"))
        except Trouble:
            self._is_checked = False
            raise
        if isinstance(answer, bytes):
            for level, text in findings(answer.decode("utf-8", "replace")):
                log.log(level, "limits: %s: %s", self.address, text)

    def __str__(self) -> str:
        return str(self.address)

    def __repr__(self) -> str:
        return f"<RedisStore {self.address}>"


def findings(info: str) -> list[tuple[int, str]]:
    """What the server's ``INFO`` says against it: (level of logging, text)."""
    facts = dict(re.findall(r"^(\w+):(.*?)\r?$", info, re.MULTILINE))
    found: list[tuple[int, str]] = []
    version = facts.get("redis_version", "")
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < OLDEST_VERSION:
        text = f"the server has version {version}; limits need Redis {OLDEST_VERSION} or Valkey, at least"
        found.append((logging.ERROR, text))
    policy = facts.get("maxmemory_policy", "noeviction")
    if facts.get("maxmemory", "0") != "0" and policy != "noeviction":
        text = f"the server evicts keys when its memory is full (maxmemory-policy {policy}), which resets limits"
        found.append((logging.WARNING, f"{text}; set noeviction"))
    return found
