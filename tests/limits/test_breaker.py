"""The breaker: five failures in a row open it, the first sign of life closes it, each is said once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from proxy.limits.breaker import FAILURES, Breaker
from proxy.limits.redis_link import Trouble
from proxy.limits.store import StoreError

EVERY_S = 0.01


class Patient:
    """Something to probe."""

    def __init__(self) -> None:
        self.is_well = False
        self.probes = 0
        self.fault: Exception = StoreError("still in trouble")

    async def probe(self) -> None:
        self.probes += 1
        if not self.is_well:
            raise self.fault


@pytest.fixture
def patient() -> Patient:
    return Patient()


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until something is so; a second is more than enough."""
    for _ in range(100):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within a second")


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "sluice.limits"]


def test_four_failures_in_a_row_are_borne(patient: Patient) -> None:
    async def main() -> None:
        breaker = Breaker("store", patient.probe)
        for _ in range(3):
            for _ in range(FAILURES - 1):
                breaker.failed(StoreError("no"))
            breaker.succeeded()
        assert not breaker.is_open
        assert breaker.failures == {"error": 12}
        await breaker.close()

    asyncio.run(main())


def test_it_opens_once_and_closes_once(patient: Patient, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        breaker = Breaker("the store", patient.probe, every_s=EVERY_S)
        for _ in range(FAILURES + 20):
            breaker.failed(Trouble("timeout", "no answer within 50 ms"))
        assert breaker.is_open
        assert breaker.opened == 1
        assert breaker.failures == {"timeout": FAILURES + 20}
        # What was asked before it opened may still be answered: that is no proof.
        breaker.succeeded()
        await eventually(lambda: patient.probes >= 3)
        assert breaker.opened == 1
        patient.is_well = True
        await eventually(lambda: not breaker.is_open)
        probes = patient.probes
        await asyncio.sleep(5 * EVERY_S)
        assert patient.probes == probes
        assert await counts_anew(breaker)

    async def counts_anew(breaker: Breaker) -> bool:
        for _ in range(FAILURES - 1):
            breaker.failed(StoreError("no"))
        assert not breaker.is_open
        breaker.failed(StoreError("no"))
        await breaker.close()
        return breaker.opened == 2

    with caplog.at_level(logging.INFO, "sluice.limits"):
        asyncio.run(main())
    opened, closed, again = texts(caplog)
    assert "the store cannot be asked" in opened
    assert "no answer within 50 ms" in opened
    assert "the store answers again" in closed
    assert "cannot be asked" in again


def test_a_fault_of_the_probe_is_not_the_end_of_probing(patient: Patient, caplog: pytest.LogCaptureFixture) -> None:
    patient.fault = RuntimeError("a fault of ours")

    async def main() -> None:
        breaker = Breaker("the store", patient.probe, every_s=EVERY_S)
        for _ in range(FAILURES):
            breaker.failed(StoreError("no"))
        await eventually(lambda: patient.probes >= 2)
        patient.is_well = True
        await eventually(lambda: not breaker.is_open)

    asyncio.run(main())
    assert any("looking for the store failed: RuntimeError" in text for text in texts(caplog))


def test_closing_it_ends_the_probing(patient: Patient) -> None:
    async def main() -> None:
        breaker = Breaker("the store", patient.probe, every_s=EVERY_S)
        for _ in range(FAILURES):
            breaker.failed(StoreError("no"))
        await breaker.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
