"""A store on this machine that runs out of room, and has some again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.core.rate import Claim, Claims, Decision, OnStoreError, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.guarded import GuardedStore
from proxy.limits.memory import MemoryStore
from proxy.limits.store import LimitStore, Standing, StoreError
from tests.limits.contract import LimitStoreContract
from tests.support.clock import FakeClock

MINUTE = Window("minute", 2, 60)


class FullStore(MemoryStore):
    """A store in memory that has no room while ``is_full``."""

    is_full = False

    def _look(self) -> None:
        if self.is_full:
            raise StoreError("no room")

    def acquire(self, claims: Claims) -> Decision:
        self._look()
        return super().acquire(claims)

    def give_back(self, claims: Claims, decision: Decision) -> None:
        self._look()
        super().give_back(claims, decision)

    def standing(self, claim: Claim) -> Standing:
        self._look()
        return super().standing(claim)


class TestTheContract(LimitStoreContract):
    def open(self, clock: FakeClock) -> LimitStore:
        return GuardedStore(MemoryStore(clock), MemoryStore(clock), clock=clock)


class Scene:
    def __init__(self, processes: int = 1) -> None:
        self.clock = FakeClock()
        self.full = FullStore(self.clock)
        self.store = GuardedStore(self.full, MemoryStore(self.clock), processes=processes, clock=self.clock)

    def ask(self, on_store_error: OnStoreError) -> Decision:
        return self.store.acquire((self.claim(on_store_error),))

    @staticmethod
    def claim(on_store_error: OnStoreError) -> Claim:
        return Claim(Rule(f"limit_{on_store_error}", (MINUTE,), SLIDING, on_store_error=on_store_error), "a")


def test_without_room_each_rule_has_its_way() -> None:
    scene = Scene()
    scene.full.is_full = True
    denied = scene.ask("deny")
    assert (denied.allowed, denied.unavailable, denied.window) == (False, True, None)
    assert [scene.ask("allow").allowed for _ in range(5)] == [True] * 5
    assert [scene.ask("local").allowed for _ in range(3)] == [True, True, False]
    scene.full.is_full = False
    assert [scene.ask("allow").allowed for _ in range(3)] == [True, True, False], "counted again"


def test_a_unit_goes_back_to_where_it_was_taken(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    counted = scene.ask("local")
    scene.full.is_full = True
    here = scene.ask("local")
    scene.store.give_back((scene.claim("local"),), counted)
    assert scene.ask("local").allowed, "one of two is taken here"
    scene.store.give_back((scene.claim("local"),), here)
    assert scene.ask("local").allowed
    assert not scene.ask("local").allowed
    scene.full.is_full = False
    assert [scene.ask("local").allowed for _ in range(2)] == [True, False], "what could not go back stays charged"


def test_each_change_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    with caplog.at_level(logging.WARNING):
        for is_full in (True, True, False, False, True, False):
            scene.full.is_full = is_full
            scene.ask("deny")
            scene.clock.advance(60)
    said = [record.getMessage() for record in caplog.records]
    assert [("no room" in text, "has room again" in text) for text in said] == [(True, False), (False, True)] * 2


def test_a_store_that_is_full_for_some_only_is_not_said_to_have_room(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            for is_full in (True, False):
                scene.full.is_full = is_full
                scene.ask("allow")
            scene.clock.advance(0.1)
    assert len(caplog.records) == 1
    told = {name: value for name, _, _, labels, value in scene.store.figures() if not labels}
    assert told["sluice_limit_store_up"] == 0


def test_each_worker_admits_its_part() -> None:
    scenes = [Scene(processes=2) for _ in range(2)]
    for scene in scenes:
        scene.full.is_full = True
    assert [scene.ask("local").allowed for scene in scenes for _ in range(2)] == [True, False] * 2


def test_what_operators_ask_fails_with_the_store() -> None:
    scene = Scene()
    claim = scene.claim("local")
    assert scene.ask("local").allowed
    scene.full.is_full = True
    with pytest.raises(StoreError):
        scene.store.standing(claim)
    assert scene.ask("local").allowed
    assert scene.store.reset(claim), "in both places"
    assert [scene.ask("local").allowed for _ in range(3)] == [True, True, False]


def test_its_figures_tell_both_sides() -> None:
    scene = Scene()
    scene.ask("local")
    scene.full.is_full = True
    scene.ask("local")
    scene.ask("deny")
    told = {(name, *labels.values()): value for name, _, _, labels, value in scene.store.figures()}
    assert told[("sluice_limit_store_up",)] == 0
    assert told[("sluice_limit_subjects", "limit_local")] == 1
    assert told[("sluice_limit_store_bypassed_total", "local")] == 1
    assert told[("sluice_limit_store_bypassed_total", "deny")] == 1
    asyncio.run(scene.store.close())
