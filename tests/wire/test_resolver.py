"""The resolver: one lookup for all, an answer kept while the name service is ill, changes taken up in time."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import uvloop

from proxy.core.errors import ConnectError
from proxy.wire.resolver import FRESH_S, REFRESH_S, RETRY_S, Address, Resolver, system_lookup
from tests.support.clock import FakeClock

pytestmark = pytest.mark.gen_test

NAME = "api.test"


def at(*hosts: str) -> list[Address]:
    """Addresses, as a lookup answers them."""
    return [Address(socket.AF_INET6 if ":" in host else socket.AF_INET, host) for host in hosts]


class NameService:
    """A name service that answers as told: addresses, or an exception; `hold` makes it keep silent."""

    def __init__(self, *hosts: str) -> None:
        self.answer: Sequence[Address] | Exception = at(*hosts)
        self.asked = 0
        self.running = 0
        self._open = asyncio.Event()
        self._open.set()

    async def __call__(self, host: str) -> Sequence[Address]:
        assert host == NAME
        self.asked += 1
        self.running += 1
        try:
            await self._open.wait()
        finally:
            self.running -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def hold(self) -> None:
        """Keep silent from now on."""
        self._open.clear()

    def let_go(self) -> None:
        """Answer what was asked in the meantime, and what will be."""
        self._open.set()


async def hosts(resolver: Resolver) -> list[str]:
    """The addresses a dial would try now, as text."""
    return [address.host for address in await asyncio.wait_for(resolver.addresses(), 5)]


def without_waiting(resolver: Resolver) -> list[str]:
    """The same, for a dial that must not be delayed by one round of the loop."""
    try:
        resolver.addresses().send(None)
    except StopIteration as stop:
        return [address.host for address in stop.value]
    raise AssertionError("it waits")


async def settled() -> None:
    """Let a lookup come to its end."""
    for _ in range(5):
        await asyncio.sleep(0)


def clocked(service: NameService, patience_s: float = 0.05) -> tuple[Resolver, FakeClock]:
    clock = FakeClock()
    return Resolver(NAME, lookup=service, clock=clock, patience_s=patience_s), clock


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2001:db8::7", "192.0.2.1"])
async def test_an_address_is_never_looked_up(host: str) -> None:
    clock = FakeClock()
    service = NameService()
    resolver = Resolver(host, lookup=service, clock=clock)
    for _ in range(3):
        assert without_waiting(resolver) == [host]
        clock.advance(1000)
    assert service.asked == 0


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (Address(socket.AF_INET, "192.0.2.1"), ("192.0.2.1", 443)),
        (Address(socket.AF_INET6, "fe80::1", 3), ("fe80::1", 443, 0, 3)),
    ],
)
async def test_an_address_with_a_port_is_what_sockets_take(address: Address, name: object) -> None:
    assert address.at(443) == (address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", name)


async def test_many_dials_wait_for_one_lookup() -> None:
    service = NameService("192.0.2.1", "2001:db8::1")
    service.hold()
    resolver, _ = clocked(service)
    dials = [asyncio.ensure_future(resolver.addresses()) for _ in range(100)]
    await settled()
    assert service.asked == 1
    service.let_go()
    assert await asyncio.gather(*dials) == [at("192.0.2.1", "2001:db8::1")] * 100
    assert service.asked == 1


async def test_one_who_stops_waiting_does_not_stop_the_lookup() -> None:
    service = NameService("192.0.2.1")
    service.hold()
    resolver, _ = clocked(service)
    first, second = (asyncio.ensure_future(resolver.addresses()) for _ in range(2))
    await settled()
    first.cancel()
    await settled()
    service.let_go()
    assert await second == at("192.0.2.1")
    assert first.cancelled()
    assert service.asked == 1


async def test_the_set_of_hosts_is_made_when_they_change_and_not_when_it_is_asked_for() -> None:
    service = NameService("192.0.2.1", "2001:db8::1")
    resolver, clock = clocked(service)
    assert resolver.hosts == frozenset()
    await hosts(resolver)
    assert resolver.hosts == {"192.0.2.1", "2001:db8::1"}
    assert resolver.hosts is resolver.hosts
    service.answer = at("192.0.2.7")
    clock.advance(FRESH_S)
    await hosts(resolver)
    assert resolver.hosts == {"192.0.2.7"}
    assert Resolver("192.0.2.9").hosts == {"192.0.2.9"}


async def test_while_the_answer_is_young_nobody_asks_and_nobody_waits() -> None:
    service = NameService("192.0.2.1")
    resolver, clock = clocked(service)
    await hosts(resolver)
    clock.advance(REFRESH_S - 0.1)
    assert without_waiting(resolver) == ["192.0.2.1"]
    await settled()
    assert service.asked == 1


async def test_before_it_is_old_it_is_asked_for_again_and_nobody_waits() -> None:
    service = NameService("192.0.2.1")
    resolver, clock = clocked(service)
    await hosts(resolver)
    service.answer = at("192.0.2.2")
    clock.advance(REFRESH_S)
    assert without_waiting(resolver) == ["192.0.2.1"]
    await settled()
    assert service.asked == 2
    assert without_waiting(resolver) == ["192.0.2.2"]


async def test_an_old_answer_is_waited_for_so_a_change_is_taken_up_within_30_s() -> None:
    service = NameService("192.0.2.1")
    resolver, clock = clocked(service)
    assert FRESH_S <= 30
    await hosts(resolver)
    service.answer = at("192.0.2.2")
    clock.advance(FRESH_S)
    assert await hosts(resolver) == ["192.0.2.2"]


ILLNESSES = [socket.gaierror(-3, "Temporary failure in name resolution"), [], OSError(24, "Too many open files")]


@pytest.mark.parametrize("illness", ILLNESSES, ids=["SERVFAIL", "empty", "no descriptor"])
async def test_while_lookups_fail_the_last_good_answer_is_used(
    illness: Exception | list[Address], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sluice.wire")
    service = NameService("192.0.2.1")
    resolver, clock = clocked(service)
    await hosts(resolver)
    service.answer = illness
    clock.advance(FRESH_S)
    assert await hosts(resolver) == ["192.0.2.1"]
    for asked, wait_s in enumerate((*RETRY_S, RETRY_S[-1]), start=2):
        # Not before its time, and then without making a dial wait.
        clock.advance(wait_s - 0.01)
        assert without_waiting(resolver) == ["192.0.2.1"]
        await settled()
        assert service.asked == asked
        clock.advance(0.01)
        assert without_waiting(resolver) == ["192.0.2.1"]
        await settled()
        assert service.asked == asked + 1
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert NAME in warning.message
    assert "last good" in warning.message
    assert getattr(illness, "strerror", "empty") in warning.message

    service.answer = at("192.0.2.9")
    clock.advance(RETRY_S[-1])
    without_waiting(resolver)
    await settled()
    assert without_waiting(resolver) == ["192.0.2.9"]
    said = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert [line for line in said if "again" in line]
    assert [line for line in said if "192.0.2.9" in line]


async def test_a_slow_name_service_is_waited_for_once_and_not_asked_twice(caplog: pytest.LogCaptureFixture) -> None:
    service = NameService("192.0.2.1")
    resolver, clock = clocked(service, patience_s=0.1)
    await hosts(resolver)
    service.answer = at("192.0.2.2")
    service.hold()
    clock.advance(FRESH_S)
    begun_s = time.monotonic()
    early = asyncio.ensure_future(resolver.addresses())
    await asyncio.sleep(0.05)
    # The patience is with the lookup: who comes later waits for what is left of it.
    assert await hosts(resolver) == ["192.0.2.1"]
    assert await early == at("192.0.2.1")
    assert 0.09 < time.monotonic() - begun_s < 0.4
    for _ in range(50):
        clock.advance(10)
        assert without_waiting(resolver) == ["192.0.2.1"]
    await settled()
    assert (service.asked, service.running) == (2, 1)
    assert len(caplog.records) == 1
    service.let_go()
    await settled()
    assert without_waiting(resolver) == ["192.0.2.2"]


async def test_without_any_answer_a_dial_fails_with_the_reason_and_soon_asks_again() -> None:
    service = NameService()
    service.answer = socket.gaierror(-2, "Name or service not known")
    resolver, clock = clocked(service)
    with pytest.raises(ConnectError, match=f"{NAME}: Name or service not known"):
        await hosts(resolver)
    service.answer = at("192.0.2.1")
    # A crowd that retries does not become a crowd at the name service.
    for _ in range(10):
        with pytest.raises(ConnectError):
            await hosts(resolver)
    assert service.asked == 1
    clock.advance(RETRY_S[0])
    assert await hosts(resolver) == ["192.0.2.1"]


async def test_what_worked_comes_first_and_what_failed_last() -> None:
    resolver, _ = clocked(NameService("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    assert await hosts(resolver) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    resolver.failed({"192.0.2.1"})
    resolver.worked("192.0.2.3")
    assert await hosts(resolver) == ["192.0.2.3", "192.0.2.2", "192.0.2.1"]
    resolver.failed({"192.0.2.3"})
    assert await hosts(resolver) == ["192.0.2.2", "192.0.2.1", "192.0.2.3"]
    resolver.worked("192.0.2.1")
    assert await hosts(resolver) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


async def test_a_change_is_told_and_an_answer_in_another_order_is_none() -> None:
    told: list[frozenset[str]] = []
    service = NameService("192.0.2.1", "192.0.2.2")
    clock = FakeClock()
    resolver = Resolver(NAME, lookup=service, clock=clock, on_change=told.append)
    for answer in (["192.0.2.1", "192.0.2.2"], ["192.0.2.2", "192.0.2.1"], ["192.0.2.2"], ["192.0.2.2", "192.0.2.2"]):
        service.answer = at(*answer)
        await hosts(resolver)
        clock.advance(FRESH_S)
    assert told == [{"192.0.2.1", "192.0.2.2"}, {"192.0.2.2"}]
    assert await hosts(resolver) == ["192.0.2.2"]


async def test_closing_ends_the_lookup() -> None:
    service = NameService()
    service.hold()
    resolver, _ = clocked(service)
    dialling = asyncio.ensure_future(resolver.addresses())
    await settled()
    resolver.close()
    with pytest.raises(ConnectError):
        await dialling
    assert service.running == 0


@pytest.fixture
def slow_system(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], threading.Event]]:
    """A system whose resolver hangs until the event is set; the list has the threads that asked it."""
    release = threading.Event()
    threads: list[str] = []

    def getaddrinfo(host: str, port: None, *, type: int, flags: int = 0) -> list[object]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(-2, "no address")
        threads.append(threading.current_thread().name)
        release.wait(10)
        return [
            (socket.AF_INET6, type, 6, "", ("2001:db8::1", 0, 0, 0)),
            (socket.AF_INET, type, 6, "", ("192.0.2.1", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield threads, release
    release.set()
    for thread in threading.enumerate():
        if thread.name in threads:
            thread.join(5)


async def test_the_systems_resolver_is_asked_in_one_thread_that_is_nobody_elses(
    slow_system: tuple[list[str], threading.Event],
) -> None:
    """A name service that hangs takes no thread away from the loop's pool."""
    threads, release = slow_system
    resolver = Resolver(NAME)
    dials = [asyncio.ensure_future(resolver.addresses()) for _ in range(200)]
    await asyncio.sleep(0.05)
    assert threads == [f"lookup of {NAME}"]
    release.set()
    assert await asyncio.gather(*dials) == [at("2001:db8::1", "192.0.2.1")] * 200
    assert len(threads) == 1


async def test_the_systems_failure_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: None, *, type: int, flags: int = 0) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ConnectError, match="Name or service not known"):
        await hosts(Resolver(NAME))


def test_a_lookup_that_hangs_does_not_keep_a_loop_from_closing(
    slow_system: tuple[list[str], threading.Event],
) -> None:
    threads, _ = slow_system

    async def main() -> None:
        resolver = Resolver(NAME)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.addresses(), 0.05)
        resolver.close()

    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        begun_s = time.monotonic()
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert time.monotonic() - begun_s < 2
    assert len(threads) == 2


async def test_the_systems_resolver_knows_this_machine() -> None:
    found = await system_lookup("localhost")
    assert {address.host for address in found} <= {"127.0.0.1", "::1"}
    assert found
