"""The cap on a listener's connections: who is closed to make room, so that newcomers are always heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tornado.web import Application

from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener
from tests.wire.listening import GET, LOOPS, TIMEOUTS, Client, Pki, Who, run

ON_BOTH_LOOPS = pytest.mark.parametrize("loop", LOOPS)
HALF_A_HEAD = GET[:10]
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 10\r\n\r\nhello"


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@asynccontextmanager
async def capped(max_connections: int, max_surplus: int, *endpoints: Endpoint) -> AsyncIterator[Listener]:
    """A listener with a cap that serves its surplus, too; without ``endpoints`` a plain one."""
    app = Application([("/", Who)], log_function=lambda handler: None)
    surplus = Application([("/", Who)], log_function=lambda handler: None)
    listener = Listener(
        app,
        timeouts=TIMEOUTS,
        max_connections=max_connections,
        max_surplus=max_surplus,
        surplus_app=surplus,
        may_speak_proxy=lambda peer_ip: True,
    )
    try:
        for endpoint in endpoints or (Endpoint("127.0.0.1"),):
            await listener.listen(endpoint)
        yield listener
    finally:
        await listener.close()
        await asyncio.sleep(0.01)
        assert (len(listener), listener._arrivals, listener._surplus, listener._leaving) == (0, {}, {}, set())
        listener.ticker.close()


async def come(port: int, count: int, sent: bytes = b"") -> list[Client]:
    """So many clients, one after the other, who say this and no more."""
    clients = []
    for _ in range(count):
        client = await Client.connect(port)
        client.writer.write(sent)
        clients.append(client)
        await asyncio.sleep(0.01)
    return clients


def gone(clients: list[Client]) -> list[int]:
    """Which of the clients have been closed."""
    return [number for number, client in enumerate(clients) if client.reader.at_eof()]


async def are_gone(clients: list[Client], *numbers: int) -> None:
    """These are closed, and they only."""
    for number in numbers:
        assert await asyncio.wait_for(clients[number].rest(), 2) == b""
    await asyncio.sleep(0.02)
    assert gone(clients) == list(numbers)


@ON_BOTH_LOOPS
@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD])
def test_the_oldest_beyond_the_cap_makes_room(loop: str, sent: bytes) -> None:
    async def main() -> None:
        async with capped(2, 3) as listener:
            clients = await come(listener.port, 5, sent)
            assert gone(clients) == []
            other = await Client.connect(listener.port)
            assert (await other.ask())["remote_ip"] == "127.0.0.1"
            assert await other.rest() == b"", "one request each"
            await are_gone(clients, 2)
            clients += await come(listener.port, 3, sent)
            await are_gone(clients, 2, 3, 4)
            assert len(listener) == 5
            for client in [*clients, other]:
                client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_whose_request_is_under_way_stays_longer(loop: str) -> None:
    async def main() -> None:
        async with capped(1, 2) as listener:
            clients = await come(listener.port, 2, HALF_A_BODY) + await come(listener.port, 1)
            clients += await come(listener.port, 1, HALF_A_BODY)
            await are_gone(clients, 2)
            # Now all who are beyond the cap are at it: the oldest of them goes.
            clients += await come(listener.port, 1)
            await are_gone(clients, 1, 2)
            for client in (clients[0], clients[3]):
                client.writer.write(b"world")
                assert await client.answer() == b"helloworld"
            for client in clients:
                client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_many_at_once_never_close_who_is_within_the_cap(loop: str) -> None:
    async def main() -> None:
        async with capped(2, 3) as listener:
            served = await come(listener.port, 2)
            crowd = await asyncio.gather(*[Client.connect(listener.port) for _ in range(60)])
            other = await Client.connect(listener.port)
            await other.ask()
            assert len(listener) <= 5
            assert len(gone(list(crowd))) >= 57
            for client in served:
                await client.ask()
            for client in [*served, *crowd, other]:
                client.close()
            await asyncio.sleep(0.05)
            assert len(listener) == 0
            fresh = await Client.connect(listener.port)
            for _ in range(2):
                await fresh.ask()  # it is within the cap again, and so more than one request is served
            fresh.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_with_no_surplus_the_newcomer_goes(loop: str) -> None:
    async def main() -> None:
        async with capped(2, 0) as listener:
            clients = await come(listener.port, 4)
            await are_gone(clients, 2, 3)
            await clients[0].ask()
            for client in clients:
                client.close()

    run(loop, main())


# connections that are short of HTTP


@ON_BOTH_LOOPS
@pytest.mark.parametrize("is_tls", [True, False])
def test_silent_arrivals_count_and_keep_nobody_out(loop: str, pki: Pki, is_tls: bool) -> None:
    tls = pki.server() if is_tls else None
    special = Endpoint("127.0.0.1", tls=tls, proxy_protocol=not is_tls)

    async def main() -> None:
        async with capped(4, 2, Endpoint("127.0.0.1"), special, special) as listener:
            plain, *ports = [port for _, port in listener.addresses]
            silent = [client for port in ports for client in await come(port, 6)]
            await are_gone(silent, *range(6))
            served = await come(plain, 3)
            await are_gone(silent, *range(9))
            for client in served:
                await client.ask()
                await client.ask()
            other = await Client.connect(ports[0], pki.client() if is_tls else None)
            await other.ask(b"" if is_tls else b"PROXY UNKNOWN\r\n")
            for client in [*silent, *served, other]:
                client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_one_who_has_arrived_is_not_counted_twice(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with capped(2, 0, Endpoint("127.0.0.1", tls=pki.server())) as listener:
            silent = await come(listener.port, 1)
            other = await Client.connect(listener.port, pki.client())
            await other.ask()
            await are_gone(silent)
            for client in [*silent, other]:
                client.close()

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("surplus", [1, 2, 5])
def test_where_connections_fill_the_cap_tls_gets_in_all_the_same(loop: str, pki: Pki, surplus: int) -> None:
    async def main() -> None:
        async with capped(2, surplus, Endpoint("127.0.0.1"), Endpoint("127.0.0.1", tls=pki.server())) as listener:
            (_, plain), (_, secure) = listener.addresses
            crowd = await come(plain, 2 + surplus)
            assert len(listener) == 2 + surplus
            other = await Client.connect(secure, pki.client())
            assert (await other.ask())["protocol"] == "https"
            await are_gone(crowd, 2)
            silent = await come(secure, 20)
            assert len(listener) + len(listener._arrivals) == 2 + surplus
            again = await Client.connect(plain)
            await again.ask()
            for client in [*crowd, *silent, other, again]:
                client.close()

    run(loop, main())
