"""What is decided while the store cannot be asked, by each rule's on_store_error."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from proxy.core.figure import Figure
from proxy.core.gcra import GCRA
from proxy.core.rate import Claim, Claims, Decision, OnStoreError, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.breaker import FAILURES
from proxy.limits.memory import MemoryStore
from proxy.limits.outage import OutageStore
from proxy.limits.store import Standing, StoreError
from tests.support.clock import FakeClock

MINUTE, HOUR = Window("minute", 5, 60), Window("hour", 7, 3600)


def rule(on_store_error: OnStoreError, *windows: Window, name: str = "limit") -> Rule:
    return Rule(name, windows or (MINUTE,), SLIDING, on_store_error=on_store_error)


class FarStore:
    """A store that answers later, unless it is in trouble."""

    def __init__(self, clock: FakeClock) -> None:
        self.is_in_trouble = False
        self.is_closed = False
        self.asked = 0
        self.inner = MemoryStore(clock)

    def _look(self) -> None:
        self.asked += 1
        if self.is_in_trouble:
            raise StoreError("in trouble")

    async def open(self) -> None:
        self._look()

    async def acquire(self, claims: Claims) -> Decision:
        await asyncio.sleep(0)
        self._look()
        return self.inner.acquire(claims)

    def give_back(self, claims: Claims, decision: Decision) -> None:
        self.inner.give_back(claims, decision)

    async def standing(self, claim: Claim) -> Standing:
        self._look()
        return self.inner.standing(claim)

    async def reset(self, claim: Claim) -> bool:
        self._look()
        return self.inner.reset(claim)

    def figures(self) -> list[Figure]:
        return [("sluice_far", "gauge", "Of the store itself.", {}, 7)]

    async def probe(self) -> None:
        self._look()

    async def close(self) -> None:
        self.is_closed = True


class Scene:
    """An outage store over one that can be brought into trouble."""

    def __init__(self, hosts: int = 1) -> None:
        self.clock = FakeClock()
        self.far = FarStore(self.clock)
        self.local = MemoryStore(self.clock)
        self.store = OutageStore(self.far, self.local, hosts=hosts, clock=self.clock)

    async def ask(self, *claims: Claim) -> Decision:
        decision = self.store.acquire(claims)
        return decision if isinstance(decision, Decision) else await decision

    async def open_breaker(self) -> None:
        self.far.is_in_trouble = True
        for _ in range(FAILURES):
            await self.ask(Claim(rule("allow", name="other"), "x"))
        assert self.store.breaker.is_open


def run(scene: Scene, main: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        try:
            await main
        finally:
            await scene.store.close()

    asyncio.run(whole())


def test_a_store_that_answers_decides() -> None:
    scene = Scene()

    async def main() -> None:
        claim = Claim(rule("local"), "a")
        decisions = [await scene.ask(claim) for _ in range(6)]
        assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
        assert not any(decision.unavailable or decision.local for decision in decisions)
        assert len(scene.local) == 0
        scene.store.give_back((claim,), decisions[0])
        assert (await scene.ask(claim)).allowed

    run(scene, main())


@pytest.mark.parametrize("is_open", [False, True])
def test_deny(is_open: bool) -> None:
    scene = Scene()

    async def main() -> None:
        if is_open:
            await scene.open_breaker()
        scene.far.is_in_trouble = True
        claim = Claim(rule("deny"), "a")
        assert await scene.ask(claim) == Decision(False, 1.0, claim, unavailable=True)

    run(scene, main())


@pytest.mark.parametrize("is_open", [False, True])
def test_allow(is_open: bool) -> None:
    scene = Scene()

    async def main() -> None:
        if is_open:
            await scene.open_breaker()
        scene.far.is_in_trouble = True
        for _ in range(20):
            assert await scene.ask(Claim(rule("allow"), "a")) == Decision(True, unavailable=True)

    run(scene, main())


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_local_admits_this_hosts_share(hosts: int) -> None:
    scene = Scene(hosts)

    async def main() -> None:
        await scene.open_breaker()
        asked = rule("local", MINUTE, HOUR)
        share = -(-5 // hosts)
        decisions = [await scene.ask(Claim(asked, "a")) for _ in range(7)]
        assert [decision.allowed for decision in decisions] == [True] * share + [False] * (7 - share)
        assert all(decision.unavailable and decision.local for decision in decisions)
        # In the words of the rule the claim is of, not of its share.
        assert decisions[-1][1:4] == (60.0, Claim(asked, "a"), MINUTE)
        assert [left.window for left in decisions[0].left] == [MINUTE, HOUR]
        assert [left.remaining for left in decisions[0].left] == [share - 1, -(-7 // hosts) - 1]

    run(scene, main())


def test_of_shares_alike_the_longest_wait_is_told() -> None:
    scene = Scene(hosts=10)

    async def main() -> None:
        await scene.open_breaker()
        asked = rule("local", MINUTE, HOUR)
        assert (await scene.ask(Claim(asked, "a"))).allowed
        assert (await scene.ask(Claim(asked, "a")))[1:4] == (3600.0, Claim(asked, "a"), HOUR)

    run(scene, main())


def test_the_share_of_gcra() -> None:
    scene = Scene(2)

    async def main() -> None:
        await scene.open_breaker()
        asked = Rule("limit", (Window("minute", 6, 60),), GCRA, burst=4, on_store_error="local")
        assert [(await scene.ask(Claim(asked, "a"))).allowed for _ in range(3)] == [True, True, False]
        scene.clock.advance(20)
        assert [(await scene.ask(Claim(asked, "a"))).allowed for _ in range(2)] == [True, False]

    run(scene, main())


def test_one_claim_that_is_denied_denies_the_request_and_charges_nothing() -> None:
    scene = Scene()

    async def main() -> None:
        await scene.open_breaker()
        local, deny = Claim(rule("local", name="l"), "a"), Claim(rule("deny", name="d"), "a")
        for _ in range(10):
            decision = await scene.ask(local, deny)
            assert (decision.allowed, decision.refused, decision.local) == (False, deny, False)
        assert len(scene.local) == 0

    run(scene, main())


def test_local_and_allow_together() -> None:
    scene = Scene()

    async def main() -> None:
        await scene.open_breaker()
        allow, local = Claim(rule("allow", name="w"), "a"), Claim(rule("local", name="l"), "a")
        decisions = [await scene.ask(allow, local) for _ in range(6)]
        assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
        assert decisions[-1].refused == local
        # Of the other claim nothing is known.
        assert {decision.left for decision in decisions} == {()}
        scene.store.give_back((allow, local), decisions[0])
        assert (await scene.ask(allow, local)).allowed

    run(scene, main())


def test_units_go_back_to_whoever_was_charged() -> None:
    scene = Scene()

    async def main() -> None:
        claims = (Claim(rule("local"), "a"),)
        far = await scene.ask(*claims)
        scene.far.is_in_trouble = True
        local = await scene.ask(*claims)
        assert (far.local, local.local) == (False, True)
        scene.store.give_back(claims, local)
        assert len(scene.local) == 0
        assert len(scene.far.inner) == 1
        scene.store.give_back(claims, far)
        assert len(scene.far.inner) == 0
        # Nobody was charged for this one.
        scene.store.give_back(claims, Decision(True, unavailable=True, at=far.at))

    run(scene, main())


def test_a_local_store_in_trouble_denies() -> None:
    scene = Scene()

    class Full(MemoryStore):
        def acquire(self, claims: Claims) -> Decision:
            raise StoreError("no room")

    store = OutageStore(scene.far, Full(scene.clock), clock=scene.clock)

    async def main() -> None:
        scene.far.is_in_trouble = True
        claim = Claim(rule("local"), "a")
        decision = store.acquire((claim,))
        assert not isinstance(decision, Decision)
        assert await decision == Decision(False, 1.0, claim, unavailable=True)
        await store.close()

    run(scene, main())


def test_an_open_breaker_asks_nothing() -> None:
    scene = Scene()

    async def main() -> None:
        await scene.open_breaker()
        asked = scene.far.asked
        for _ in range(100):
            assert isinstance(scene.store.acquire((Claim(rule("deny"), "a"),)), Decision)
        for question in (scene.store.standing, scene.store.reset):
            with pytest.raises(StoreError):
                await question(Claim(rule("deny"), "a"))
        assert scene.far.asked == asked
        # Exact again within a second.
        scene.far.is_in_trouble = False
        await asyncio.sleep(0.7)
        assert not scene.store.breaker.is_open
        assert not (await scene.ask(Claim(rule("deny"), "a"))).unavailable

    run(scene, main())


def test_standing_and_reset() -> None:
    scene = Scene()

    async def main() -> None:
        claim = Claim(rule("local"), "a")
        await scene.ask(claim)
        assert (await scene.store.standing(claim)).left[0].remaining == 4
        scene.far.is_in_trouble = True
        await scene.ask(claim)
        scene.far.is_in_trouble = False
        assert await scene.store.reset(claim)
        assert len(scene.local) == 0
        assert not (await scene.store.standing(claim)).is_known
        assert not await scene.store.reset(claim)

    run(scene, main())


def test_figures() -> None:
    scene = Scene()

    async def main() -> None:
        await scene.ask(Claim(rule("deny"), "a"))
        await scene.open_breaker()
        await scene.ask(Claim(rule("local"), "a"))
        found = {(name, *labels.values()): value for name, _, _, labels, value in scene.store.figures()}
        assert found == {
            ("sluice_limit_store_up",): 0,
            ("sluice_limit_store_outages_total",): 1,
            ("sluice_limit_store_failures_total", "error"): FAILURES,
            ("sluice_limit_store_bypassed_total", "deny"): 0,
            ("sluice_limit_store_bypassed_total", "allow"): FAILURES,
            ("sluice_limit_store_bypassed_total", "local"): 1,
            ("sluice_limit_store_calls_total",): 1,
            ("sluice_limit_store_seconds_total",): 0.0,
            ("sluice_far",): 7,
            ("sluice_limit_subjects", "limit"): 1,
        }
        assert all(name.endswith("_total") == (kind == "counter") for name, kind, *_ in scene.store.figures())

    run(scene, main())
    assert scene.far.is_closed


def test_a_store_that_is_away_at_the_start_is_not_asked_by_requests() -> None:
    scene = Scene()
    scene.far.is_in_trouble = True

    async def main() -> None:
        await scene.store.open()
        asked = scene.far.asked
        decision = await scene.ask(Claim(rule("deny"), "a"))
        assert (decision.allowed, decision.unavailable) == (False, True)
        assert scene.far.asked == asked
        assert scene.store.breaker.opened == 1

    run(scene, main())


def test_a_store_that_is_there_at_the_start_is_asked() -> None:
    scene = Scene()

    async def main() -> None:
        await scene.store.open()
        decision = await scene.ask(Claim(rule("deny"), "a"))
        assert (decision.allowed, decision.unavailable) == (True, False)

    run(scene, main())
