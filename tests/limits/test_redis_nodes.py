"""Where the store finds its server: sentinels, a cluster of three, TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
import trustme

from proxy.core.gcra import GCRA
from proxy.core.rate import Claim, Claims, Decision, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.address import parse_store
from proxy.limits.memory import MemoryStore
from proxy.limits.outage import OutageStore
from proxy.limits.redis import RedisStore
from proxy.limits.redis_call import key_slot
from proxy.limits.redis_link import Trouble
from proxy.limits.store import StoreError
from tests.support.redis import RedisCluster, RedisServer, free_port, redis_server, wait_until

NUMBERS = count()
DAY = Window("day", 300, 86_400)


def claims(subject: str = "a", limit: int = 300) -> Claims:
    """One claim of each algorithm."""
    day = Window("day", limit, 86_400)
    return (
        Claim(Rule("ring", (day,), SLIDING), subject),
        Claim(Rule("smooth", (day,), GCRA, burst=limit), subject),
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


async def traffic(stores: list[RedisStore], asked: Claims, times: int, apart_s: float = 0.0) -> list[Decision]:
    """So many requests over the stores, a few at a time."""
    decisions: list[Decision] = []
    for n in range(times // 10):
        calls = [stores[(n + m) % len(stores)].acquire(asked) for m in range(10)]
        decisions += await asyncio.gather(*calls)
        await asyncio.sleep(apart_s)
    return decisions


class TestCluster:
    def opened(self, cluster: RedisCluster, *, namespace: str = "", spread: bool = False) -> RedisStore:
        name = namespace or f"t{next(NUMBERS)}"
        return RedisStore(parse_store(cluster.url), namespace=name, timeout_s=5, spread=spread)

    @pytest.mark.parametrize("spread", [False, True])
    def test_the_limit_is_exact(self, cluster: RedisCluster, spread: bool) -> None:
        async def main() -> None:
            name = f"t{next(NUMBERS)}"
            stores = [self.opened(cluster, namespace=name, spread=spread) for _ in range(3)]
            for subject in "abcdefgh":
                decisions = await traffic(stores, claims(subject, 25), 40)
                assert sum(decision.allowed for decision in decisions) == 25
            held = [len(node.command("KEYS", f"{name}:*")) for node in cluster.nodes]
            assert sum(held) == 16
            assert held.count(0) == (0 if spread else 2), held
            assert await stores[0].reset(claims("a", 25)[0])
            assert (await stores[1].standing(claims("a", 25)[0])).left[0].remaining == 25
            await stores[0].probe()
            for store in stores:
                await store.close()

        asyncio.run(main())

    def test_a_slot_that_moves_under_traffic_loses_nothing(self, cluster: RedisCluster) -> None:
        async def main() -> None:
            name = f"t{next(NUMBERS)}"
            stores = [self.opened(cluster, namespace=name) for _ in range(2)]
            slot = key_slot(name.encode())
            for node in cluster.nodes:
                node.command("CONFIG", "RESETSTAT")
            has_moved = asyncio.Event()
            asked = asyncio.ensure_future(self.until(has_moved, stores))
            others = asyncio.ensure_future(self.newcomers(stores[0]))
            for _ in range(2):
                await asyncio.sleep(0.05)
                owner = cluster.owner(slot)
                target = cluster.nodes[(cluster.nodes.index(owner) + 1) % 3]
                await cluster.migrate(slot, target, pause_s=0.02)
            has_moved.set()
            decisions = await asked
            assert sum(decision.allowed for decision in decisions) == 300
            assert await others == 20
            errors = "".join(node.command("INFO", "errorstats") for node in cluster.nodes)
            assert all(f"errorstat_{error}:" in errors for error in ("ASK", "MOVED", "TRYAGAIN")), errors
            for store in stores:
                await store.close()

        asyncio.run(main())

    @staticmethod
    async def until(is_over: asyncio.Event, stores: list[RedisStore]) -> list[Decision]:
        """Requests until something is over, and some more."""
        decisions = []
        while not is_over.is_set():
            decisions += await traffic(stores, claims(), 10, 0.01)
        return decisions + await traffic(stores, claims(), 350)

    @staticmethod
    async def newcomers(store: RedisStore) -> int:
        """Subjects that begin while the slot moves: each is admitted once of two."""
        admitted = 0
        for n in range(20):
            for _ in range(2):
                admitted += (await store.acquire(claims(f"new{n}", 1))).allowed
            await asyncio.sleep(0.01)
        return admitted

    def test_a_script_that_a_node_does_not_know(self, cluster: RedisCluster) -> None:
        async def main() -> None:
            store = self.opened(cluster)
            assert (await store.acquire(claims())).allowed
            for node in cluster.nodes:
                node.command("SCRIPT", "FLUSH")
            decision = await store.acquire(claims())
            assert [left.remaining for left in decision.left] == [298, 298]
            store.give_back(claims(), decision)
            await asyncio.sleep(0.1)
            assert (await store.standing(claims()[0])).left[0].remaining == 299
            await store.close()

        asyncio.run(main())

    def test_an_address_of_which_one_node_is_gone(self, cluster: RedisCluster) -> None:
        async def main() -> None:
            address = parse_store(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[2].port}")
            store = RedisStore(address, namespace=f"t{next(NUMBERS)}", timeout_s=5)
            assert (await store.acquire(claims())).allowed
            await store.close()
            nobody = RedisStore(parse_store("redis+cluster://127.0.0.1:1"), timeout_s=1)
            for question in (nobody.acquire(claims()), nobody.probe()):
                with pytest.raises(Trouble, match="no node of the cluster"):
                    await question
            await nobody.close()

        asyncio.run(main())


class SentinelServer(RedisServer):
    """A ``redis-sentinel`` that watches one master."""

    def __init__(self, folder: Path, master: RedisServer, port: int) -> None:
        super().__init__(folder, port=port)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nunixsocket {self.path}\nbind 127.0.0.1\ndir {folder}\nlogfile {self.log}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
        )
        self._command = [self._command[0], str(config), "--sentinel"]


@contextmanager
def watched(folder: Path, *, has_replica: bool) -> Iterator[tuple[RedisServer, RedisServer | None, str]]:
    """A master, its replica, and the address of the sentinel that watches them; one of two sentinels is gone."""
    homes = [folder / name for name in ("one", "two", "sentinel")]
    for home in homes:
        home.mkdir()
    with redis_server(homes[0], port=free_port()) as master, ExitStack() as stack:
        replica = None
        if has_replica:
            options = ("--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
            replica = stack.enter_context(redis_server(homes[1], *options, port=free_port()))
            wait_until(lambda: "master_link_status:up" in replica.command("INFO", "replication"))
        sentinel = SentinelServer(homes[2], master, free_port())
        stack.callback(sentinel.stop)
        sentinel.start()
        if has_replica:
            wait_until(lambda: "slaves=1" in sentinel.command("INFO", "sentinel"), 15)
        yield master, replica, f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main"


def test_the_sentinels_name_the_master(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        store = RedisStore(parse_store(url), timeout_s=1)
        assert (await store.acquire(claims())).allowed
        await store.probe()
        await store.close()
        for text in (f"{url}er", "redis+sentinel://127.0.0.1:1/main"):
            lost = RedisStore(parse_store(text), timeout_s=1)
            with pytest.raises(Trouble, match="name no master"):
                await lost.acquire(claims())
            await lost.close()

    with watched(tmp_path, has_replica=False) as (master, _, url):
        asyncio.run(main(url))
        kinds = [key.split(":")[1] for key in master.command("KEYS", "sluice:*:{sluice}:*")]
        assert sorted(set(kinds)) == ["gcra1", "sliding1"], "those of the claims, and the probe's"


@pytest.mark.long
def test_a_failover_of_the_sentinels_is_followed(tmp_path: Path) -> None:
    async def main(master: RedisServer, replica: RedisServer, url: str) -> None:
        redis = RedisStore(parse_store(url), timeout_s=0.2)
        loop = asyncio.get_running_loop()
        store = OutageStore(redis, MemoryStore(loop.time), clock=loop.time)
        for _ in range(5):
            decision = await redis.acquire(claims())
        assert decision.left[0].remaining == 295
        await asyncio.to_thread(wait_until, lambda: replica.command("EXISTS", *replica.command("KEYS", "*")) == 2)
        master.stop()
        for _ in range(5):
            answer = store.acquire(claims())
            assert (answer if isinstance(answer, Decision) else await answer).unavailable
        async with asyncio.timeout(15):
            while store.breaker.is_open:
                assert isinstance(store.acquire(claims()), Decision)
                await asyncio.sleep(0.02)
        assert replica.command("ROLE")[0] == "master"
        decision = await redis.acquire(claims())
        assert decision.left[0].remaining == 294, "the replica has what the master had told it"
        await store.close()

    with watched(tmp_path, has_replica=True) as (master, replica, url):
        assert replica is not None
        asyncio.run(main(master, replica, url))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pem = str(folder / "server.pem")
    options = ["--tls-cert-file", pem, "--tls-key-file", pem, "--tls-auth-clients", "no"]
    options += ["--tls-ca-cert-file", str(folder / "ca.pem"), "--requirepass", "hush"]
    with redis_server(folder, *options, tls_port=free_port()) as server:
        yield server


class TestTLS:
    def ask(self, text: str, ca_file: Path | None) -> Decision:
        async def main() -> Decision:
            store = RedisStore(parse_store(text), timeout_s=5, ca_file=None if ca_file is None else str(ca_file))
            try:
                return await store.acquire(claims())
            finally:
                await store.close()

        return asyncio.run(main())

    def test_the_server_is_the_one_it_says(self, tls_server: RedisServer) -> None:
        url = f"rediss://:hush@localhost:{tls_server.tls_port}"
        assert self.ask(url, tls_server.folder / "ca.pem").allowed

    @pytest.mark.parametrize(
        ("host", "has_authority"), [("localhost", False), ("127.0.0.1", True)], ids=["not trusted", "another name"]
    )
    def test_any_other_is_not_spoken_to(self, tls_server: RedisServer, host: str, has_authority: bool) -> None:
        ca_file = tls_server.folder / "ca.pem" if has_authority else None
        with pytest.raises(StoreError, match=r"(?i)certificate") as error:
            self.ask(f"rediss://:hush@{host}:{tls_server.tls_port}", ca_file)
        assert "hush" not in str(error.value)

    def test_a_ca_file_that_is_none(self, tls_server: RedisServer, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="cannot connect to rediss://"):
            self.ask(f"rediss://localhost:{tls_server.tls_port}", tmp_path / "nothing.pem")
        assert issubclass(ssl.SSLError, OSError)
