"""A Redis server in trouble: nothing hangs, nothing is charged twice, and limits are exact as soon as it is back."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from proxy.core.rate import Claim, Claims, Decision, OnStoreError, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.address import parse_store
from proxy.limits.memory import MemoryStore
from proxy.limits.outage import OutageStore
from proxy.limits.redis import RedisStore
from proxy.limits.redis_link import MOST_CALLS, Link, Trouble
from proxy.limits.store import StoreError
from tests.support.redis import RedisServer, free_port, redis_server, stopped
from tests.support.relay import BlackHole, Cut, FullBacklog, Latency, Relay, Way

NUMBERS = count()
HOUR = Window("hour", 20, 3600)
BUDGET_S = 0.05
SLACK_S = 0.1
"""What the scheduler of a busy machine may add."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis"), port=free_port()) as server:
        yield server


def claims(on_store_error: OnStoreError = "deny", subject: str = "a") -> Claims:
    return (Claim(Rule("limit", (HOUR,), SLIDING, on_store_error=on_store_error), subject),)


def opened(port: int, **options: Any) -> RedisStore:
    return RedisStore(
        parse_store(f"redis://127.0.0.1:{port}"),
        **{"namespace": f"t{next(NUMBERS)}", "timeout_s": BUDGET_S, **options},
    )


@asynccontextmanager
async def relayed(server: RedisServer) -> AsyncIterator[Relay]:
    relay = Relay(server.port)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


async def used(server: RedisServer, namespace: str) -> int:
    """How many units of subject a are charged."""
    store = opened(server.port, namespace=namespace, timeout_s=5)
    standing = await store.standing(claims()[0])
    await store.close()
    return HOUR.limit - standing.left[0].remaining


class TestLostAnswers:
    def test_a_call_whose_answer_is_lost_is_not_sent_again(self, server: RedisServer) -> None:
        async def main() -> None:
            async with relayed(server) as relay:
                store = opened(relay.port, timeout_s=1)
                assert (await store.acquire(claims())).allowed
                await asyncio.sleep(0.02)  # the look at the server is over
                for lost in range(1, 4):
                    before = server.calls("evalsha")
                    connection = relay.connections[-1]
                    connection.faults = (Cut(connection.passed(Way.DOWN) + 1),)
                    with pytest.raises(StoreError) as error:
                        await store.acquire(claims())
                    assert isinstance(error.value, Trouble)
                    assert error.value.reason == "lost"
                    assert server.calls("evalsha") == before + 1
                    assert await used(server, store._keys.namespace) == 2 * lost
                    # The next one goes over a new connection.
                    assert (await store.acquire(claims())).allowed
                await store.close()

        asyncio.run(main())

    @pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "late"])
    def test_a_unit_granted_too_late_is_given_back(self, server: RedisServer, is_cancelled: bool) -> None:
        async def main() -> None:
            async with relayed(server) as relay:
                store = opened(relay.port, timeout_s=1)
                # The server knows both scripts.
                store.give_back(claims(), await store.acquire(claims()))
                assert (await store.acquire(claims())).allowed
                await asyncio.sleep(0.02)
                store._timeout_s = 5 if is_cancelled else BUDGET_S
                relay.connections[0].faults = (Latency(0.15, way=Way.DOWN),)
                call = asyncio.ensure_future(store.acquire(claims()))
                await asyncio.sleep(0.08)
                if is_cancelled:
                    call.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await call
                else:
                    with pytest.raises(StoreError, match="no answer in time"):
                        await call
                assert await used(server, store._keys.namespace) == 2
                await asyncio.sleep(0.15)
                assert store.late == 1
                assert await used(server, store._keys.namespace) == 1
                # The connection is in order: the next answer is for the next caller.
                relay.connections[0].faults = ()
                store._timeout_s = 1
                assert [(await store.acquire(claims("deny", f"s{n}"))).left[0].remaining for n in range(3)] == [
                    19
                ] * 3
                assert relay.accepted == 1
                await store.close()

        asyncio.run(main())

    def test_callers_that_leave_disturb_nobody(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server.port, timeout_s=5)
            await store.acquire(claims("deny", "first"))
            for _ in range(5):
                calls = [asyncio.ensure_future(store.acquire(claims("deny", f"s{n}"))) for n in range(60)]
                await asyncio.sleep(0)
                for call in calls[::3]:
                    call.cancel()
                decisions = await asyncio.gather(*calls, return_exceptions=True)
                assert sum(isinstance(decision, Decision) for decision in decisions) == 40
            # Each has the units of its own calls alone, the cancelled ones' are back.
            await asyncio.sleep(0.05)
            for n in range(60):
                standing = await store.standing(claims("deny", f"s{n}")[0])
                assert standing.left[0].remaining == HOUR.limit - (0 if n % 3 == 0 else 5)
            await store.close()

        asyncio.run(main())

    def test_a_caller_that_leaves_as_the_answer_arrives(self) -> None:
        """Between the answer's arrival and the caller's next step is a moment in which it can be cancelled."""

        class Connection:
            """Answers once; then whoever asked is told to stop."""

            is_connected = True

            def __init__(self) -> None:
                self.sent = asyncio.Event()
                self.answered = False
                self.asking: asyncio.Task[object] | None = None

            async def send_packed_command(self, command: list[bytes], check_health: bool) -> None:
                self.sent.set()

            async def read_response(self) -> bytes:
                await self.sent.wait()
                if not self.answered:
                    self.answered = True
                    return b"granted"
                assert self.asking is not None
                self.asking.cancel()
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

            async def disconnect(self, nowait: bool) -> None:
                pass

        async def main() -> None:
            connection = Connection()
            link = Link(connection, ("", 0))  # type: ignore[arg-type]
            late: list[object] = []
            connection.asking = asyncio.ensure_future(link.ask(b"", late.append))
            with pytest.raises(asyncio.CancelledError):
                await connection.asking
            assert late == [b"granted"]
            await link.close()

        asyncio.run(main())

    def test_a_broken_connection_is_not_made_anew_behind_the_callers(self) -> None:
        """redis-py connects when it is asked to write and is not connected: then answers would go to others."""

        class Connection:
            is_connected = False

            async def send_packed_command(self, command: list[bytes], check_health: bool) -> None:
                raise AssertionError("it was asked to write")

            async def read_response(self) -> bytes:
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

            async def disconnect(self, nowait: bool) -> None:
                pass

        async def main() -> None:
            link = Link(Connection(), ("", 0))  # type: ignore[arg-type]
            with pytest.raises(Trouble, match="was lost"):
                await link.ask(b"")
            # Nor by the writer, where it breaks between the two.
            link._unsent.append(b"")
            link._has_unsent.set()
            await asyncio.sleep(0.01)
            assert link.reading.done()
            await link.close()

        asyncio.run(main())

    def test_a_caller_that_leaves_while_nothing_can_be_written(self) -> None:
        """redis-py closes a connection when a write is cancelled: half a command may have gone."""

        class Connection:
            is_connected = True

            def __init__(self) -> None:
                self.takes = asyncio.Event()
                self.written: asyncio.Queue[bytes] = asyncio.Queue()
                self.was_cancelled = False

            async def send_packed_command(self, command: list[bytes], check_health: bool) -> None:
                try:
                    await self.takes.wait()
                except asyncio.CancelledError:
                    self.was_cancelled = True
                    raise
                for each in command:
                    self.written.put_nowait(each)

            async def read_response(self) -> bytes:
                return b"to " + await self.written.get()

            async def disconnect(self, nowait: bool) -> None:
                pass

        async def main() -> None:
            connection = Connection()
            link = Link(connection, ("", 0))  # type: ignore[arg-type]
            late: list[object] = []
            calls = [asyncio.ensure_future(link.ask(b"%d" % n, late.append)) for n in range(4)]
            await asyncio.sleep(0.01)
            for call in calls[:2]:
                call.cancel()
            await asyncio.sleep(0.01)
            assert not connection.was_cancelled
            connection.takes.set()
            assert await asyncio.gather(*calls[2:]) == [b"to 2", b"to 3"]
            assert late == [b"to 0", b"to 1"]
            await link.close()

        asyncio.run(main())


class TestRestart:
    def test_a_restart_costs_no_request_but_those_meanwhile(self, tmp_path: Path) -> None:
        async def main(server: RedisServer) -> None:
            store = RedisStore(parse_store(server.url), timeout_s=1)
            for _ in range(3):
                assert (await store.acquire(claims())).allowed
            for _ in range(3):
                server.stop()
                with pytest.raises(StoreError):
                    await store.acquire(claims())
                await asyncio.to_thread(server.start)
                # The server has forgotten its data and its scripts, and answers the first call.
                assert (await store.acquire(claims())).left[0].remaining == HOUR.limit - 1
            # Also when nobody has asked meanwhile.
            server.stop()
            await asyncio.to_thread(server.start)
            assert (await store.acquire(claims())).left[0].remaining == HOUR.limit - 1
            await store.close()

        with redis_server(tmp_path) as server:
            asyncio.run(main(server))

    def test_a_busy_gateway_does_not_blame_the_store(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server.port)
            await store.acquire(claims("deny", "first"))
            for _ in range(3):
                calls = [asyncio.ensure_future(store.acquire(claims("deny", f"s{n}"))) for n in range(20)]
                await asyncio.sleep(0)
                time.sleep(2 * BUDGET_S)  # noqa: ASYNC251 - that is the case
                assert all(decision.allowed for decision in await asyncio.gather(*calls))
            await store.close()

        asyncio.run(main())

    def test_thousands_that_wait_share_one_connection(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server.port, timeout_s=0.3)
            store.give_back(claims(), await store.acquire(claims()))
            await asyncio.sleep(0.02)
            with stopped(server):
                calls = [asyncio.ensure_future(store.acquire(claims())) for _ in range(MOST_CALLS + 500)]
                answers = await asyncio.gather(*calls, return_exceptions=True)
            reasons = [answer.reason for answer in answers if isinstance(answer, Trouble)]
            assert len(reasons) == len(calls)
            # Those beyond what one connection takes are told at once.
            assert reasons.count("busy") == 500
            assert len(store._nodes._opener._links) == 1
            for _ in range(100):
                # A unit that went back may be granted late once more, to one that waits behind.
                if store.late >= HOUR.limit and await used(server, store._keys.namespace) == 0:
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("units granted too late were not given back")
            await store.close()

        asyncio.run(main())


async def closed(store: OutageStore) -> None:
    """Wait until the breaker has closed: within a second, the store is back."""
    end = time.monotonic() + 1 + SLACK_S
    while store.breaker.is_open:
        await asyncio.sleep(0.005)
        assert time.monotonic() < end, "not exact again within a second"


Fault = Callable[[RedisServer], Any]


@asynccontextmanager
async def refused(server: RedisServer) -> AsyncIterator[tuple[int, Callable[[], Any]]]:
    relay = Relay(server.port)
    await relay.start()
    port = relay.port
    await relay.stop()

    async def heal() -> None:
        relay._server = await asyncio.start_server(relay._accept, "127.0.0.1", port)

    yield port, heal
    await relay.stop()


@asynccontextmanager
async def unanswered(server: RedisServer) -> AsyncIterator[tuple[int, Callable[[], Any]]]:
    hole = FullBacklog()
    await hole.start()
    yield hole.port, None  # type: ignore[misc]
    hole.stop()


def through_relay(*faults: Any) -> Fault:
    @asynccontextmanager
    async def fault(server: RedisServer) -> AsyncIterator[tuple[int, Callable[[], Any]]]:
        async with relayed(server) as relay:
            relay.faults = faults

            async def heal() -> None:
                relay.faults = ()

            yield relay.port, heal

    return fault


@asynccontextmanager
async def frozen(server: RedisServer) -> AsyncIterator[tuple[int, Callable[[], Any]]]:
    server.signal(signal.SIGSTOP)

    async def heal() -> None:
        server.signal(signal.SIGCONT)

    try:
        yield server.port, heal
    finally:
        server.signal(signal.SIGCONT)


@asynccontextmanager
async def out_of_memory(server: RedisServer) -> AsyncIterator[tuple[int, Callable[[], Any]]]:
    server.command("CONFIG", "SET", "maxmemory", 1)

    async def heal() -> None:
        server.command("CONFIG", "SET", "maxmemory", 0)

    try:
        yield server.port, heal
    finally:
        await heal()


@asynccontextmanager
async def read_only(server: RedisServer) -> AsyncIterator[tuple[int, Callable[[], Any]]]:
    server.command("REPLICAOF", "127.0.0.1", 1)

    async def heal() -> None:
        server.command("REPLICAOF", "NO", "ONE")

    try:
        yield server.port, heal
    finally:
        await heal()


FAULTS: dict[str, Fault] = {
    "refused": refused,
    "unanswered": unanswered,
    "black hole": through_relay(BlackHole()),
    "slow": through_relay(Latency(2.0)),
    "frozen": frozen,
    "out of memory": out_of_memory,
    "read only": read_only,
}
FORBIDDEN = {
    "without": "+@all -eval -evalsha",
    "bare": "+@connection +@read +@write +@keyspace +info -@scripting",
}
"""Users that may write and may run no script."""
BOUNDS: dict[OnStoreError, int] = {"deny": 0, "local": 10, "allow": 40}
"""What 40 requests of one subject are admitted of 20 an hour, on one of two hosts."""


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
    def test_decisions_come_in_time_by_policy_and_exact_ones_come_back(
        self, server: RedisServer, fault: Fault, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async with fault(server) as (port, heal):
                redis = opened(port)
                store = OutageStore(redis, MemoryStore(time.monotonic), hosts=2, clock=time.monotonic)
                longest_s = 0.0
                for policy, bound in BOUNDS.items():
                    admitted = 0
                    for _ in range(40):
                        begun = time.monotonic()
                        decision = store.acquire(claims(policy))
                        decision = decision if isinstance(decision, Decision) else await decision
                        longest_s = max(longest_s, time.monotonic() - begun)
                        admitted += decision.allowed
                        assert decision.unavailable
                    assert admitted == bound
                assert longest_s < BUDGET_S + SLACK_S
                assert store.breaker.is_open
                assert store.breaker.opened == 1
                assert sum(store.breaker.failures.values()) == 5, "the store is left alone behind the fifth"
                if heal is not None:
                    await heal()
                    await closed(store)
                    redis._timeout_s = 1  # the machine may be busy; from here on it is about counting
                    decisions = [store.acquire(claims("deny", "new")) for _ in range(30)]
                    found = [d if isinstance(d, Decision) else await d for d in decisions]
                    assert sum(decision.allowed for decision in found) == HOUR.limit
                    assert not any(decision.unavailable for decision in found)
                await store.close()

        with caplog.at_level(logging.INFO, "sluice.limits"):
            asyncio.run(main())
        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == (1 if fault is unanswered else 2), "one line for each change"
        assert "on_store_error decides" in texts[0]

    def test_a_server_that_forbids_scripts_is_not_back(
        self, server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It takes any write: whoever tried no more than that would begin anew every second."""

        async def main() -> None:
            stores = []
            for user in FORBIDDEN:
                address = parse_store(f"redis://{user}:pass@127.0.0.1:{server.port}")
                redis = RedisStore(address, namespace=f"t{next(NUMBERS)}", timeout_s=1)
                stores.append(OutageStore(redis, MemoryStore(time.monotonic), clock=time.monotonic))
            end = time.monotonic() + 2
            while time.monotonic() < end:
                for store in stores:
                    decision = store.acquire(claims())
                    decision = decision if isinstance(decision, Decision) else await decision
                    assert (decision.allowed, decision.unavailable) == (False, True)
                await asyncio.sleep(0.02)
            for store in stores:
                assert store.breaker.is_open
                assert store.breaker.opened == 1
                assert sum(store.breaker.failures.values()) == 5
                await store.close()

        for user, words in FORBIDDEN.items():
            assert server.command("ACL", "SETUSER", user, "on", ">pass", "~*", "&*", *words.split()) == "+OK"
        try:
            asyncio.run(main())
        finally:
            server.command("ACL", "DELUSER", *FORBIDDEN)
        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == len(FORBIDDEN), "one line each"
        assert all("on_store_error decides" in text for text in texts)

    @pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.long)])
    def test_the_store_comes_and_goes_and_no_request_is_lost(self, tmp_path: Path, times: int) -> None:
        """Nobody is left without a decision, and while the store is gone at most the share is admitted."""

        async def main(server: RedisServer) -> None:
            redis = RedisStore(parse_store(server.url), timeout_s=BUDGET_S)
            store = OutageStore(redis, MemoryStore(time.monotonic), hosts=2, clock=time.monotonic)
            asked = claims("local")
            admitted: list[Decision] = []
            is_over = False

            async def client() -> None:
                while not is_over:
                    decision = store.acquire(asked)
                    decision = decision if isinstance(decision, Decision) else await decision
                    if decision.allowed:
                        admitted.append(decision)
                    await asyncio.sleep(0.002)

            clients = [asyncio.ensure_future(client()) for _ in range(5)]
            for _ in range(times):
                await asyncio.sleep(0.1)
                server.stop()
                await asyncio.sleep(0.1)
                await asyncio.to_thread(server.start)
                await closed(store)
            await asyncio.sleep(0.1)
            is_over = True
            await asyncio.gather(*clients)
            # Each server that was started anew knew of nothing; the share is admitted once, it is one hour.
            assert sum(not decision.unavailable for decision in admitted) <= (times + 1) * HOUR.limit
            assert sum(decision.local for decision in admitted) == HOUR.limit // 2
            assert store.breaker.opened == times
            await store.close()

        with redis_server(tmp_path) as server:
            asyncio.run(main(server))


class TestSecrets:
    def test_a_wrong_password_is_said_and_not_shown(self, tmp_path: Path) -> None:
        async def main(server: RedisServer) -> None:
            for user in (":hush1@", "me:hush1@", ""):
                store = RedisStore(parse_store(f"unix://{user}{server.path}"), timeout_s=1)
                with pytest.raises(Trouble) as error:
                    await store.acquire(claims())
                assert "hush" not in str(error.value)
                assert error.value.__cause__ is None
                assert error.value.reason == "login"
                await store.close()
            store = RedisStore(parse_store(f"unix://:hush2@{server.path}?db=3"), timeout_s=1)
            assert (await store.acquire(claims())).allowed
            await store.close()
            assert len(server.command("KEYS", "*", password="hush2")) == 0, "database 3 was asked for"

        with redis_server(tmp_path, "--requirepass", "hush2") as server:
            asyncio.run(main(server))

    def test_no_password_shows_where_nobody_answers(self) -> None:
        async def main() -> None:
            for text in ("redis://:hush@127.0.0.1:1", "unix://:hush@/nowhere/redis.sock"):
                store = RedisStore(parse_store(text), timeout_s=1)
                for question in (store.acquire(claims()), store.probe(), store.reset(claims()[0])):
                    with pytest.raises(Trouble) as error:
                        await question
                    assert "hush" not in str(error.value)
                    assert error.value.reason == "connect"
                await store.close()

        asyncio.run(main())


def test_what_fails_in_the_background_leaves_nothing_behind(server: RedisServer) -> None:
    async def main() -> None:
        store = opened(1)
        with pytest.raises(StoreError):
            await store.acquire(claims())
        store.give_back(claims(), Decision(True, at=1.0))
        await store.close()
        store.give_back(claims(), Decision(True, at=1.0))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
