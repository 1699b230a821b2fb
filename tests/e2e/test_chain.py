"""The chain is the operator's: reordered, shortened, shadowed and extended by configuration alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from proxy.core.exchange import Exchange
from proxy.core.messages import IP_NOT_ALLOWED
from proxy.core.reply import Reply
from proxy.core.stage import Stage
from proxy.gateway.plane import DataPlane
from proxy.settings import ConfigError, load
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream

NO_KEY = request(headers=())
DENY_ALL = {"deny": ["any"]}


async def ask(port: int, data: bytes) -> Answer:
    """One request on a connection of its own."""
    client = await RawClient.connect(port)
    answer = await client.ask(data)
    client.close()
    return answer


@pytest.mark.gen_test
async def test_the_default_chain_asks_for_a_key(port: int, upstream: FakeUpstream) -> None:
    answer = await ask(port, NO_KEY)
    assert answer.status == 401
    assert answer.json["error"]["code"] == "missing_api_key"
    assert answer.get("x-request-id") == answer.get("x-sluice-request-id")
    assert answer.get("x-sluice-upstream-sent") == "no"
    assert upstream.ledger == []


@pytest.mark.gen_test
@pytest.mark.environ({"SLUICE__CHAIN": "upstream"})
@pytest.mark.config({"stages": {"key": {"server_keys": ["sk-server"]}, "ip_allowlist": DENY_ALL}})
async def test_chain_upstream_alone_passes_everything_as_it_came(port: int, upstream: FakeUpstream) -> None:
    assert (await ask(port, NO_KEY)).status == 200
    assert (await ask(port, request(headers=("Authorization: Bearer none",)))).status == 200
    assert [received.get("authorization") for received in upstream.ledger] == [None, "Bearer none"]


@pytest.mark.gen_test
@pytest.mark.environ({"SLUICE__CHAIN": "key,upstream", "API_KEY": "sk-server"})
@pytest.mark.config({"stages": {"ip_allowlist": DENY_ALL, "limit": {"minute": 1}}})
async def test_chain_key_upstream_knows_neither_list_nor_limit(port: int, upstream: FakeUpstream) -> None:
    for _ in range(3):
        assert (await ask(port, NO_KEY)).status == 200
    assert [received.get("authorization") for received in upstream.ledger] == ["Bearer sk-server"] * 3


@pytest.mark.gen_test
@pytest.mark.environ({"SLUICE__CHAIN": "limit,ip_allowlist,key,upstream"})
@pytest.mark.config({"stages": {"ip_allowlist": DENY_ALL, "limit": {"minute": 2}}})
async def test_limit_before_the_list_gives_back_what_the_list_refuses(port: int) -> None:
    assert [(await ask(port, request())).status for _ in range(4)] == [403] * 4


@pytest.mark.gen_test
@pytest.mark.config({"stages": {"ip_allowlist": DENY_ALL, "limit": {"minute": 2}}})
async def test_the_list_before_the_limit_keeps_denied_clients_from_counting(port: int) -> None:
    assert [(await ask(port, request())).status for _ in range(4)] == [403] * 4


@pytest.mark.gen_test
@pytest.mark.environ({"SLUICE__STAGES__LIMIT__MODE": "shadow"})
@pytest.mark.config({"stages": {"limit": {"minute": 1}}})
async def test_a_limit_in_shadow_lets_pass_and_shows_nothing(port: int, upstream: FakeUpstream) -> None:
    answers = [await ask(port, request()) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].get("ratelimit") is None
    assert len(upstream.ledger) == 3


@pytest.mark.gen_test
@pytest.mark.environ({"SLUICE__STAGES__LIMIT__MODE": "off", "MINUTE_LIMIT": "1"})
async def test_a_stage_that_is_off_does_nothing(port: int) -> None:
    assert [(await ask(port, request())).status for _ in range(3)] == [200] * 3


@pytest.mark.gen_test
@pytest.mark.environ({"SLUICE__CHAIN": "burst,sustained,upstream"})
@pytest.mark.config({"stages": {"burst": {"type": "limit", "minute": 3}, "sustained": {"type": "limit", "hour": 2}}})
async def test_two_limits_of_one_type(port: int) -> None:
    answers = [await ask(port, request()) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    # What the second refuses costs nothing in the first.
    assert [answer.get("x-sluice-limit") for answer in answers[2:]] == ["sustained.hour"] * 2
    assert "hour" in answers[3].json["error"]["message"]


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ("limit,key", "must end with an upstream stage"),
        ("upstream,key", "must be the last"),
        ("limt,upstream", "limit"),
        ("key,key,upstream", "twice"),
    ],
)
def test_an_impossible_chain_is_refused_with_the_reason(chain: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({}, {"SLUICE__CHAIN": chain})
    assert reason in str(refused.value)
    assert "SLUICE__CHAIN" in str(refused.value)


@pytest.mark.gen_test
@pytest.mark.environ({"MINUTE_LIMIT": "2"})
async def test_limits_are_told_and_refusals_cost_nothing(port: int, upstream: FakeUpstream) -> None:
    answers = [await ask(port, request()) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429, 429]
    assert [answer.get("ratelimit-policy") for answer in answers] == ['"limit.minute";q=2;w=60'] * 5
    assert (answers[0].get("ratelimit") or "").startswith('"limit.minute";r=1;')
    refused = answers[-1]
    assert refused.json["error"]["type"] == "rate_limit_error"
    seconds, milliseconds = int(refused.get("retry-after") or 0), int(refused.get("retry-after-ms") or 0)
    assert 0 < milliseconds <= 60_000
    assert seconds == -(-milliseconds // 1000)
    assert len(upstream.ledger) == 2


@pytest.mark.gen_test
@pytest.mark.environ({"IP_ALLOWLIST": "10.0.0.0/8"})
async def test_denial_comes_before_a_byte_of_the_body_is_read(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    await client.send(b"POST /v1/x HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
    answer = await client.head()
    assert answer.status == 403  # and no 100 before it
    assert upstream.connections == 0
    client.close()


@pytest.mark.gen_test
@pytest.mark.environ({"IP_ALLOWLIST": "10.0.0.0/8", "TRUSTED_PROXIES": "127.0.0.0/8"})
@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ("10.1.2.3", 200),
        ("203.0.113.9", 403),
        ("10.1.2.3, 203.0.113.9", 403),
        ("203.0.113.9, 10.1.2.3", 200),
        ("10.1.2.3, unknown", 403),
    ],
)
async def test_behind_a_trusted_proxy_the_rightmost_untrusted_hop_counts(
    forwarded: str, status: int, port: int
) -> None:
    headers = ("Authorization: Bearer k", f"X-Forwarded-For: {forwarded}", "X-Real-IP: 10.9.9.9")
    assert (await ask(port, request(headers=headers))).status == status


@pytest.mark.gen_test
@pytest.mark.environ({"IP_ALLOWLIST": "10.0.0.0/8"})
async def test_an_untrusted_peer_cannot_forge_its_address(port: int) -> None:
    headers = (
        "Authorization: Bearer k",
        "X-Forwarded-For: 10.1.2.3",
        "X-Real-IP: 10.1.2.3",
        "Forwarded: for=10.1.2.3",
    )
    assert (await ask(port, request(headers=headers))).status == 403


class Slow(Stage):
    """A stage that has to wait, as one with a remote store would."""

    def __init__(self, reply: Reply | None = None) -> None:
        super().__init__("slow")
        self.reply = reply
        self.completed = 0

    def on_request_headers(self, exchange: Exchange) -> Awaitable[Reply | None]:
        """Wait, then decide."""
        return self._decide()

    async def _decide(self) -> Reply | None:
        await asyncio.sleep(0.05)
        return self.reply

    def on_complete(self, exchange: Exchange) -> None:
        """Count."""
        self.completed += 1


class Faulty(Stage):
    """A stage that raises."""

    def __init__(self, secret: str) -> None:
        super().__init__("faulty")
        self.secret = secret

    def on_request_headers(self, exchange: Exchange) -> None:
        """Raise, with a secret at hand."""
        raise RuntimeError(f"broken near {self.secret}")


class FaultyOnChunk(Stage):
    """A stage that raises when the answer comes."""

    def on_response_chunk(self, exchange: Exchange, chunk: bytes) -> bytes:
        """Raise."""
        raise RuntimeError("broken")


class Shout(Stage):
    """A stage that changes what comes back."""

    def on_response_headers(self, exchange: Exchange) -> None:
        """Mark the answer."""
        assert exchange.response_headers is not None
        exchange.response_headers.add(b"X-Shout", b"yes")

    def on_response_chunk(self, exchange: Exchange, chunk: bytes) -> bytes:
        """Make it loud."""
        return chunk.upper() + b"!"


class Reader(Stage):
    """A stage that wants the body."""

    def __init__(self) -> None:
        super().__init__("reader")
        self.bodies: list[bytes | None] = []

    def on_request_body(self, exchange: Exchange) -> None:
        """Keep it."""
        self.bodies.append(exchange.body)


def put_first(plane: DataPlane, stage: Stage) -> None:
    """Give the plane a chain with one more stage at its head."""
    plane.chain = type(plane.chain)([stage, *plane.chain.stages])


@pytest.mark.gen_test
async def test_a_stage_that_waits_holds_the_exchange_and_no_more(
    port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    slow = Slow()
    put_first(plane, slow)
    answers = await asyncio.gather(*[ask(port, request(body=b"x" * 200_000)) for _ in range(10)])
    assert [answer.status for answer in answers] == [200] * 10
    assert {len(received.body) for received in upstream.ledger} == {200_000}
    assert slow.completed == 10


@pytest.mark.gen_test
async def test_a_stage_that_waits_may_refuse(port: int, plane: DataPlane, upstream: FakeUpstream) -> None:
    put_first(plane, Slow(Reply.of(403, "permission_error", "no", IP_NOT_ALLOWED)))
    assert [(await ask(port, request())).status for _ in range(3)] == [403] * 3
    assert upstream.ledger == []


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_on_our_wire_a_late_refusal_keeps_the_connection(
    port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    put_first(plane, Slow(Reply.of(403, "permission_error", "no", IP_NOT_ALLOWED)))
    client = await RawClient.connect(port)
    for _ in range(3):
        assert (await client.ask(request(body=b"x" * 1000))).status == 403
    assert upstream.ledger == []
    client.close()


@pytest.mark.gen_test
async def test_a_stage_that_raises_on_a_chunk_cuts_the_answer(port: int, plane: DataPlane) -> None:
    put_first(plane, FaultyOnChunk("faulty"))
    client = await RawClient.connect(port)
    await client.send(request())
    with pytest.raises(asyncio.IncompleteReadError):
        await client.answer()
    assert "[0 in flight]" in repr(plane)
    client.close()


@pytest.mark.gen_test
async def test_a_client_that_leaves_while_a_stage_waits_is_forgotten(
    port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    put_first(plane, Slow())
    client = await RawClient.connect(port)
    await client.send(request())
    await asyncio.sleep(0.01)
    client.close()
    await asyncio.sleep(0.15)
    assert "[0 in flight]" in repr(plane)


@pytest.mark.gen_test
async def test_a_stage_that_raises_gives_a_500_and_one_traceback(
    port: int, plane: DataPlane, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    put_first(plane, Faulty("hunter2"))
    answer = await ask(port, request())
    assert answer.status == 500
    assert answer.json["error"]["code"] == "internal_error"
    assert answer.get("x-sluice-request-id") in answer.json["error"]["message"]
    assert b"hunter2" not in answer.body
    assert b"Traceback" not in answer.body
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert upstream.ledger == []
    assert "[0 in flight]" in repr(plane)


@pytest.mark.gen_test
async def test_a_stage_may_change_what_comes_back(port: int, plane: DataPlane) -> None:
    put_first(plane, Shout("shout"))
    answer = await ask(port, request())
    assert answer.get("x-shout") == "yes"
    assert answer.get("content-length") is None
    assert answer.body == b'{"OK": TRUE}!'


@pytest.mark.gen_test
async def test_a_stage_may_ask_for_the_body(port: int, plane: DataPlane, upstream: FakeUpstream) -> None:
    reader = Reader()
    put_first(plane, reader)
    assert (await ask(port, request(body=b"seen"))).status == 200
    head = b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await ask(port, head + b"4\r\nalso\r\n0\r\n\r\n")).status == 200
    assert reader.bodies == [b"seen", b"also"]
    assert [received.body for received in upstream.ledger] == [b"seen", b"also"]
    assert upstream.ledger[1].get_all("content-length") == ["4"]
