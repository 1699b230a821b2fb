"""The store on a real Redis server: the contract of all stores, and what is its own."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, Claim, Claims, Decision, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.address import parse_store
from proxy.limits.memory import MemoryStore
from proxy.limits.redis import RedisStore, findings
from proxy.limits.redis_call import key_slot
from proxy.limits.store import LimitStore
from tests.limits.contract import BOTH, LimitStoreContract
from tests.support.clock import FakeClock
from tests.support.redis import RedisServer, redis_server

ROOT = Path(__file__).resolve().parents[2]
HOUR = Window("hour", 50, 3600)
NUMBERS = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


class TestRedisStore(LimitStoreContract):
    examples = 60

    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> None:
        self.address = parse_store(server.url)

    def open(self, clock: FakeClock) -> LimitStore:
        # A namespace of its own: as good as an empty server. Generous, since the machine is shared.
        return RedisStore(self.address, namespace=f"t{next(NUMBERS)}", timeout_s=5, clock=clock)


def opened(server: RedisServer, **options: Any) -> RedisStore:
    """A store with a namespace of its own, that has time."""
    return RedisStore(parse_store(server.url), **{"namespace": f"t{next(NUMBERS)}", "timeout_s": 5, **options})


def rule(*windows: Window, algorithm: Algorithm = SLIDING, name: str = "limit", burst: int = 100) -> Rule:
    return Rule(name, windows or (HOUR,), algorithm, burst=burst)


async def flood(stores: list[RedisStore], claims: Claims, times: int) -> list[Decision]:
    """So many requests at once, over all the stores."""
    return await asyncio.gather(*[stores[n % len(stores)].acquire(claims) for n in range(times)])


class TestExactness:
    @BOTH
    @pytest.mark.parametrize("limit", [1, 30, 1000])
    def test_exactly_the_limit_is_admitted(self, server: RedisServer, algorithm: Algorithm, limit: int) -> None:
        async def main() -> None:
            namespace = f"t{next(NUMBERS)}"
            stores = [opened(server, namespace=namespace) for _ in range(3)]
            # A window that gives no unit back while the test runs.
            asked = rule(Window("day", limit, 86_400), algorithm=algorithm, burst=limit)
            decisions = await flood(stores, (Claim(asked, "a"),), min(10 * limit, 3 * limit + 100))
            assert sum(decision.allowed for decision in decisions) == limit
            for store in stores:
                await store.close()

        asyncio.run(main())

    def test_processes_share_one_limit(self, server: RedisServer) -> None:
        program = (
            "import asyncio, sys\n"
            "from tests.limits.test_redis import flood, rule\n"
            "from proxy.core.rate import Claim, Window\n"
            "from proxy.limits.address import parse_store\n"
            "from proxy.limits.redis import RedisStore\n"
            "async def main():\n"
            "    store = RedisStore(parse_store(sys.argv[1]), namespace='processes', timeout_s=5)\n"
            "    claims = (Claim(rule(Window('day', 200, 86400)), 'a'),)\n"
            "    print(sum(decision.allowed for decision in await flood([store], claims, 150)))\n"
            "    await store.close()\n"
            "asyncio.run(main())\n"
        )
        processes = [
            subprocess.Popen([sys.executable, "-c", program, server.url], stdout=subprocess.PIPE, text=True, cwd=ROOT)
            for _ in range(3)
        ]
        assert sum(int(process.communicate(timeout=30)[0]) for process in processes) == 200

    def test_the_wait_is_true_to_the_millisecond(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server)
            loop = asyncio.get_running_loop()
            claims = (Claim(rule(Window("second", 1, 1)), "a"),)
            assert (await store.acquire(claims)).allowed
            begun = loop.time()
            wait_s = (await store.acquire(claims)).retry_after_s
            assert 0.9 < wait_s < 1
            # Told at some time between `begun` and now: so long after now it must be admitted.
            told = loop.time()
            await asyncio.sleep(begun + wait_s - loop.time() - 0.003)
            if loop.time() < begun + wait_s - 0.001:
                early = await store.acquire(claims)
                assert not early.allowed
                assert early.retry_after_s > 0
            await asyncio.sleep(told + ceil(wait_s * 1000) / 1000 - loop.time())
            assert (await store.acquire(claims)).allowed
            await store.close()

        asyncio.run(main())

    @BOTH
    def test_a_wait_obeyed_to_the_millisecond(self, server: RedisServer, algorithm: Algorithm) -> None:
        async def main() -> None:
            clock = FakeClock()
            store = opened(server, clock=clock)
            claims = (Claim(rule(Window("odd", 7, 61), algorithm=algorithm, burst=1), "a"),)
            for _ in range(8):
                decision = await store.acquire(claims)
                while not decision.allowed:
                    wait_s = ceil(decision.retry_after_s * 1000) / 1000
                    clock.advance(wait_s - 0.001)
                    assert not (await store.acquire(claims)).allowed
                    clock.advance(0.001 + 1e-9)
                    decision = await store.acquire(claims)
                    assert decision.allowed
                clock.advance(0.1234)
            await store.close()

        asyncio.run(main())

    def test_what_one_rule_refuses_is_charged_in_none(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server)
            wide, narrow = rule(name="ip"), rule(Window("hour", 1, 3600), name="key", algorithm=GCRA)
            claims = (Claim(wide, "10.0.0.1"), Claim(narrow, "key"))
            assert (await store.acquire(claims)).allowed
            for _ in range(20):
                refused = await store.acquire(claims)
                assert (refused.allowed, refused.refused) == (False, claims[1])
            assert (await store.standing(claims[0])).left[0].remaining == HOUR.limit - 1
            await store.close()

        asyncio.run(main())

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_it_decides_as_the_store_in_memory_does(self, server: RedisServer, data: st.DataObject) -> None:
        """Any times at all: the script's arithmetic is Python's, bit for bit."""
        windows = st.lists(
            st.builds(Window, st.just("w"), st.integers(1, 7), st.integers(1, 50)), min_size=1, max_size=3
        )
        algorithms: tuple[Algorithm, ...] = (SLIDING, GCRA, SLIDING)
        rules = [
            rule(*data.draw(windows), algorithm=algorithm, name=f"r{n}", burst=data.draw(st.integers(1, 8)))
            for n, algorithm in enumerate(algorithms)
        ]
        # A subject may have other numbers from another place: then two rules ask one account by turns.
        other = rule(*data.draw(windows), name="r0")
        for each in (rules[0], other):
            each.capacity, each.longest_s, each.crowd = (
                max(rules[0].capacity, other.capacity),
                max(rules[0].longest_s, other.longest_s),
                "",
            )
        rules.append(other)
        claimed = st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from("ab")),
            min_size=1,
            max_size=3,
            unique_by=lambda claim: (claim[0] % 3, claim[1]),
        )
        gaps = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 60), st.floats(0, 2000))
        steps = data.draw(st.lists(st.tuples(gaps, st.one_of(claimed, claimed, st.integers(0, 9))), max_size=20))

        async def main() -> None:
            clock = FakeClock(data.draw(st.floats(0, 1e9)))
            memory, store = MemoryStore(clock), opened(server, clock=clock)
            admitted: list[tuple[Claims, Decision]] = []
            for gap, step in steps:
                clock.advance(gap)
                if isinstance(step, list):
                    claims = tuple(Claim(rules[index], subject) for index, subject in step)
                    expected = memory.acquire(claims)
                    assert await store.acquire(claims) == expected
                    if expected.allowed:
                        admitted.append((claims, expected))
                elif admitted:
                    undone = admitted.pop(step % len(admitted))
                    memory.give_back(*undone)
                    store.give_back(*undone)
                    await asyncio.sleep(0)  # it is sent as soon as the loop runs again
            for asked in rules:
                assert (await store.standing(Claim(asked, "a"))).left == memory.standing(Claim(asked, "a")).left
            await store.close()

        asyncio.run(main())

    def test_a_rule_whose_account_another_has_charged_beyond_its_limit(self, server: RedisServer) -> None:
        async def main() -> None:
            clock = FakeClock()
            memory, store = MemoryStore(clock), opened(server, clock=clock)
            larger, smaller = rule(Window("minute", 5, 60)), rule(Window("minute", 2, 60))
            smaller.capacity, smaller.crowd = larger.capacity, larger.crowd
            for _ in range(5):
                assert await store.acquire((Claim(larger, "a"),)) == memory.acquire((Claim(larger, "a"),))
                clock.advance(10)
            claims = (Claim(smaller, "a"),)
            while not (decision := await store.acquire(claims)).allowed:
                assert decision == memory.acquire(claims)
                assert decision.left[0].reset_s == decision.retry_after_s
                assert await store.standing(claims[0]) == memory.standing(claims[0])
                clock.advance(5)
            assert decision == memory.acquire(claims)
            # At 50 s; the fourth of the five was charged at 30 s.
            assert clock.now_s == 1000 + 30 + 60
            await store.close()

        asyncio.run(main())


class TestClock:
    """The server's clock is wrong, now or before."""

    @BOTH
    def test_one_that_was_stepped_back_admits_no_more(self, server: RedisServer, algorithm: Algorithm) -> None:
        async def main() -> None:
            clock = FakeClock(10_000)
            store = opened(server, clock=clock)
            minute = (Claim(rule(Window("minute", 4, 60), algorithm=algorithm, burst=4), "a"),)
            for _ in range(3):
                assert (await store.acquire(minute)).allowed
            clock.now_s -= 50
            assert [(await store.acquire(minute)).allowed for _ in range(3)] == [True, False, False]
            # The wait is what it takes until that clock has come so far.
            wait_s = (await store.acquire(minute)).retry_after_s
            assert wait_s == (50 + 60 if algorithm is SLIDING else 50 + 15)
            clock.advance(wait_s - 0.01)
            assert not (await store.acquire(minute)).allowed
            clock.advance(0.01)
            assert (await store.acquire(minute)).allowed
            await store.close()

        asyncio.run(main())

    def test_an_account_does_not_lend_its_time_to_another(self, server: RedisServer) -> None:
        async def main() -> None:
            clock = FakeClock(10_000)
            store = opened(server, clock=clock)
            long, short = Claim(rule(), "a"), Claim(rule(Window("minute", 1, 60), name="short"), "a")
            assert (await store.acquire((long,))).allowed
            clock.now_s -= 100
            assert (await store.acquire((short,))).allowed
            # By the first account's time the second one's minute would be over.
            assert not (await store.acquire((long, short))).allowed
            await store.close()

        asyncio.run(main())

    @BOTH
    def test_one_that_was_far_ahead_shuts_nobody_out(self, server: RedisServer, algorithm: Algorithm) -> None:
        async def main() -> None:
            clock = FakeClock(1e8)
            store = opened(server, clock=clock)
            asked = (Claim(rule(Window("minute", 2, 60), algorithm=algorithm, burst=2), "a"),)
            for _ in range(2):
                assert (await store.acquire(asked)).allowed
            clock.now_s -= 365 * 86_400
            decisions = [await store.acquire(asked) for _ in range(3)]
            assert [decision.allowed for decision in decisions] == [True, True, False]
            assert decisions[-1].retry_after_s == (60 if algorithm is SLIDING else 30)
            await store.close()

        asyncio.run(main())


class TestSpoiltAccounts:
    @pytest.mark.parametrize(
        "words",
        ["nan 0", "nan nan", "-nan -nan", "inf 0", "1000 -inf", "", "x", "1000 nan", "1000 inf", "1000", "1000 x"],
    )
    def test_what_is_no_number_does_not_admit_for_ever(self, server: RedisServer, words: str) -> None:
        async def main() -> None:
            store = opened(server, clock=FakeClock())
            claims = (Claim(rule(Window("minute", 3, 60), algorithm=GCRA, burst=3), "a"),)
            assert (await store.acquire(claims)).allowed
            (key,) = server.command("KEYS", f"{store._keys.namespace}:*")
            server.command("SET", key, words)
            # The account begins anew: it is nobody's charge that such words tell.
            assert [(await store.acquire(claims)).allowed for _ in range(4)] == [True, True, True, False]
            await store.close()

        asyncio.run(main())


class TestKeys:
    @pytest.mark.parametrize("spread", [False, True])
    def test_no_subject_shows_in_a_key(self, server: RedisServer, spread: bool) -> None:
        async def main() -> None:
            store = opened(server, spread=spread)
            for subject in ("a\r\nSET x 1", "{x}", "}{", "a:b", "*", "\x00", "\ud800", "я" * 5000, "a" * 10_000, ""):
                claims = (Claim(rule(Window("hour", 1, 3600)), subject), Claim(rule(algorithm=GCRA), subject))
                assert (await store.acquire(claims)).allowed
                assert not (await store.acquire(claims)).allowed
            keys = server.command("KEYS", f"{store._keys.namespace}:*")
            assert len(keys) == 20
            for key in keys:
                name = re.escape(store._keys.namespace)
                tag = "[0-9a-f]{16}" if spread else name
                assert re.fullmatch(rf"{name}:(sliding|gcra)1:\{{{tag}\}}:[0-9a-f]{{32}}", key)
            await store.close()

        asyncio.run(main())

    @BOTH
    def test_accounts_expire_behind_their_last_use(self, server: RedisServer, algorithm: Algorithm) -> None:
        async def main() -> None:
            store = opened(server)
            for _ in range(3):
                await store.acquire((Claim(rule(Window("minute", 2, 60), algorithm=algorithm, burst=2), "a"),))
            (key,) = server.command("KEYS", f"{store._keys.namespace}:*")
            assert 60_000 < server.command("PTTL", key) <= 61_000
            await store.close()

        asyncio.run(main())

    @pytest.mark.parametrize("namespace", ["", "a{b}", "a b", "a:b", "x" * 65, "a\n"])
    def test_a_namespace_is_a_plain_word(self, namespace: str) -> None:
        with pytest.raises(ValueError, match="namespace"):
            RedisStore(parse_store("redis://host"), namespace=namespace)

    def test_the_slot_is_the_one_of_the_tag(self) -> None:
        # The example of the cluster specification, and redis-py's own table.
        from redis.crc import key_slot as theirs

        for tag in (b"123456789", b"sluice", b"", bytes(range(0x7B))):
            assert key_slot(tag) == theirs(tag)

    def test_other_addresses_are_no_server(self) -> None:
        for text in ("memory", "shared"):
            with pytest.raises(ValueError, match="no server"):
                RedisStore(parse_store(text))


class TestScripts:
    def test_a_flush_of_the_scripts_costs_nothing(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server)
            claims = (Claim(rule(Window("day", 300, 86_400)), "a"),)
            admitted = 0
            for _ in range(20):
                calls = [asyncio.ensure_future(store.acquire(claims)) for _ in range(20)]
                await asyncio.sleep(0)
                await asyncio.to_thread(server.command, "SCRIPT", "FLUSH")
                admitted += sum([(await call).allowed for call in calls])
            assert admitted == 300
            await store.close()

        asyncio.run(main())

    def test_a_call_is_one_command(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server)
            claims = (Claim(rule(), "a"), Claim(rule(algorithm=GCRA), "a"), Claim(rule(), "b"))
            await store.acquire(claims)
            server.command("CONFIG", "RESETSTAT")
            for _ in range(10):
                await store.acquire(claims)
            assert (server.calls("evalsha"), server.calls("eval"), server.calls("time")) == (10, 0, 10)
            await store.close()

        asyncio.run(main())

    def test_an_algorithm_it_does_not_know_is_an_error(self, server: RedisServer) -> None:
        class Other(type(SLIDING)):  # type: ignore[misc]
            name = "other"

        async def main() -> None:
            store = opened(server)
            with pytest.raises(ValueError, match="other is not known"):
                await store.acquire((Claim(rule(algorithm=Other()), "a"),))
            await store.close()

        asyncio.run(main())


class TestTheServer:
    def test_eviction_is_warned_of_once(self, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            store = opened(server)
            for _ in range(3):
                await store.acquire((Claim(rule(), "a"),))
                await asyncio.sleep(0.02)
            await store.close()

        server.command("CONFIG", "SET", "maxmemory", 100_000_000)
        server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try:
            asyncio.run(main())
        finally:
            server.command("CONFIG", "SET", "maxmemory", 0)
            server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        (record,) = [record for record in caplog.records if record.name == "sluice.limits"]
        assert record.levelno == logging.WARNING
        assert "maxmemory-policy allkeys-lru" in record.getMessage()

    @pytest.mark.parametrize(
        ("info", "found"),
        [
            ("redis_version:7.0.15\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", []),
            ("redis_version:7.2.4\r\nmaxmemory:5\r\nmaxmemory_policy:noeviction\r\n", []),
            ("redis_version:7.2.4\r\nmaxmemory:5\r\nmaxmemory_policy:volatile-ttl\r\n", [logging.WARNING]),
            ("redis_version:5.0.14\r\nmaxmemory:5\r\nmaxmemory_policy:noeviction\r\n", [logging.ERROR]),
            ("", []),
        ],
    )
    def test_what_is_found_in_its_info(self, info: str, found: list[int]) -> None:
        assert [level for level, _ in findings(info)] == found

    def test_a_healthy_server_is_not_spoken_of(self, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            store = opened(server)
            await store.acquire((Claim(rule(), "a"),))
            await asyncio.sleep(0.02)
            await store.close()

        asyncio.run(main())
        assert not caplog.records

    def test_nothing_is_imported_before_it_is_needed(self) -> None:
        program = "import sys, proxy.limits.redis, proxy.limits.outage; sys.exit('redis' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0

    def test_units_given_back_last_are_given_back_before_it_closes(self, server: RedisServer) -> None:
        async def main() -> None:
            store = opened(server)
            claims = (Claim(rule(), "a"),)
            decisions = [await store.acquire(claims) for _ in range(20)]
            for decision in decisions:
                store.give_back(claims, decision)
            await store.close()
            again = opened(server, namespace=store._keys.namespace)
            assert (await again.standing(claims[0])).left[0].remaining == HOUR.limit
            await again.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    def test_it_shows_no_password(self) -> None:
        assert "hush" not in repr(RedisStore(parse_store("redis://:hush@host")))
