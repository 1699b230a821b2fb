"""What goes through the whole data plane: a client's bytes in, requests upstream out, in one process.

The same bytes in three cuts lead to the same requests upstream, the same access log and the same answers. Whatever
goes upstream is HTTP to h11; it is one of the client's own requests with method, target, body and lines as they came,
in the same order; its Host is ours, its credential the client's or the server's, and what may not cross has not.
Every exchange is closed, and the log says ``upstream_sent: no`` of exactly those that the upstream never saw.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h11

from fuzz.target import ERRORS, Finding, Target, require
from fuzz.targets import request
from fuzz.targets.mock import cuts, run
from proxy.core.exchange import Exchange, Route, UpstreamSent
from proxy.core.origin import Origin
from proxy.gateway.plane import DataPlane
from proxy.settings import load
from proxy.wire.client import UpstreamConnection
from proxy.wire.gate import RequestHead
from proxy.wire.listener import Listener
from proxy.wire.pool import Pool
from proxy.wire.server import ServerConnection
from tests.wire.transport import MockTransport

SERVER_KEY = b"Bearer sk-of-the-server"
HOST = b"origin.test:8080"
_CONFIG: dict[str, object] = {
    "chain": ["ip_allowlist", "limit", "key", "upstream"],
    "stages": {
        "ip_allowlist": {"allow": ["any"]},
        "limit": {"by": "client_ip"},
        "key": {"server_keys": ["sk-of-the-server"], "prefer": "client"},
        "upstream": {"base_url": "http://origin.test:8080/base/v1"},
    },
}
_BODY = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
# RFC 9110 section 7.6.1, and what the gateway ends or writes itself.
_ENDS_HERE = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade http2-settings forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port x-real-ip "
    b"host expect content-length x-sluice-hop authorization".split()
)
_NEVER_NAMED = frozenset((b"", b"authorization", b"content-type", b"content-encoding"))
_OF_AN_ACCOUNT = frozenset((b"openai-organization", b"openai-project", b"cookie"))
Lines = list[tuple[bytes, bytes]]


@dataclass
class Received:
    """A request as the origin's h11 reads it."""

    method: str
    target: bytes
    fields: Lines
    body: bytes = b""
    is_whole: bool = False


@dataclass
class Outcome:
    """What came of one connection."""

    received: list[Received] = field(default_factory=list)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    statuses: list[bytes] = field(default_factory=list)
    opened: int = 0

    def shown(self) -> tuple[object, ...]:
        """What must be the same however the bytes were cut. Of a body that broke off another part may have come."""
        whole = [(one.method, one.target, one.fields, one.body) for one in self.received if one.is_whole]
        return whole, self.statuses


class _OriginTransport(MockTransport):
    """The origin behind a connection: reads with h11, answers in the loop's next round."""

    def __init__(self, protocol: UpstreamConnection, outcome: Outcome) -> None:
        super().__init__(protocol)
        self._outcome = outcome
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self._received: Received | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Read what the gateway sends."""
        super().write(data)
        self._h11.receive_data(bytes(data))
        try:
            self._read()
        except h11.RemoteProtocolError as error:
            raise Finding("what goes upstream is not HTTP to h11", f"{error}: {bytes(data)!r}") from None

    def _read(self) -> None:
        while (event := self._h11.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                self._received = Received(event.method.decode(), event.target, list(event.headers))
                self._outcome.received.append(self._received)
            elif isinstance(event, h11.Data):
                assert self._received is not None
                self._received.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self._received is not None
                self._received.is_whole = True
                answer = _HEAD if self._received.method == "HEAD" else _HEAD + _BODY
                self._loop.call_soon(self.feed, answer)
        require(not self._h11.trailing_data[0], "more than one request goes upstream at a time")


class _Pool(Pool):
    """Dials nothing: every request has a new connection to the origin above."""

    outcome: Outcome

    def acquire(self) -> UpstreamConnection:
        """A new one."""
        connection = UpstreamConnection(self)
        _OriginTransport(connection, self.outcome)
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Close it."""
        connection.close()


class _Plane(DataPlane):
    """The data plane, with what it opens and closes noted."""

    outcome = Outcome()
    _mock_pool: _Pool | None = None

    @property
    def pool(self) -> Pool:
        """The pool that dials nothing."""
        if self._mock_pool is None:
            self._mock_pool = _Pool(Origin("origin.test", 8080, False), self.ticker)
        self._mock_pool.outcome = self.outcome
        return self._mock_pool

    def open_exchange(self, head: RequestHead, context: Any, route: Route) -> Exchange:
        """One more."""
        self.outcome.opened += 1
        return super().open_exchange(head, context, route)

    def close_exchange(self, exchange: Exchange) -> None:
        """Its line of the log."""
        super().close_exchange(exchange)
        self.outcome.log.append((exchange.upstream_sent, exchange.method, exchange.status))


_planes: list[_Plane] = []


def _plane() -> _Plane:
    if not _planes:
        _planes.append(_Plane(load(_CONFIG, {}).settings))
    return _planes[0]


async def _serve(segments: list[bytes]) -> Outcome:
    plane = _plane()
    outcome = plane.outcome = Outcome()
    listener = Listener(plane, ticker=plane.ticker, on_error=plane.render_refusal)
    transport = MockTransport(ServerConnection(listener))
    for segment in segments:
        transport.feed(segment)
    # One round carries an answer to the client and the next pipelined request upstream.
    before = -1
    while len(transport.written) != before:
        before = len(transport.written)
        for _ in range(4):
            await asyncio.sleep(0)
    outcome.statuses = request.STATUS.findall(transport.take())
    if not transport.ended():
        transport.lose()
    listener.abort()
    for _ in range(3):
        await asyncio.sleep(0)
    require(len(listener) == 0, "a connection is counted for ever")
    return outcome


def _crosses(fields: Lines, *, is_servers: bool) -> Lines:
    """The lines that must go upstream as they came."""
    named = {
        token.strip().lower() for name, value in fields if name == b"connection" for token in value.split(b",")
    } - _NEVER_NAMED
    ends = _ENDS_HERE | named | (_OF_AN_ACCOUNT if is_servers else frozenset())
    return [(name, value) for name, value in fields if name not in ends]


def _check_forwarded(sent: Received, asked: request.Seen) -> None:
    """A request below ``/v1`` is the client's own."""
    require(
        (sent.method, sent.target) == (asked.method, b"/base" + asked.target), "another target went upstream", sent
    )
    if sent.is_whole:
        require(asked.is_whole and sent.body == asked.body, "another body went upstream", sent)
    else:
        # Of a body that breaks off it depends on the cuts how much was delivered before.
        begins = asked.body.startswith(sent.body) or sent.body.startswith(asked.body)
        require(begins, "another body went upstream", sent)
    keys = [value for name, value in sent.fields if name == b"authorization"]
    own = [value for name, value in asked.fields if name == b"authorization"]
    require(len(keys) == 1 and keys[0] in (SERVER_KEY, *own), "another credential went upstream", keys)
    is_servers = keys[0] == SERVER_KEY
    expected = _crosses(asked.fields, is_servers=is_servers)
    crossed = [line for line in sent.fields if line[0] not in _ENDS_HERE]
    require(crossed == expected, "other lines went upstream", (crossed, expected))


def _check_upstream(received: Iterable[Received], asked: list[request.Seen]) -> None:
    """What went upstream are requests of the client's, in their order."""
    waiting = list(asked)
    for sent in received:
        hosts = [value for name, value in sent.fields if name == b"host"]
        require(hosts == [HOST], "another host went upstream", hosts)
        while waiting and not _may_be(sent, waiting[0]):
            waiting.pop(0)
        require(bool(waiting), "what went upstream was never asked", sent)
        own = waiting.pop(0)
        if own.target.startswith(b"/v1"):
            _check_forwarded(sent, own)
        else:
            question = json.loads(sent.body)["messages"][-1]["content"]
            require(question == json.loads(own.body)["user_content"], "another question went upstream", sent)


def _may_be(sent: Received, asked: request.Seen) -> bool:
    if asked.target.startswith(b"/v1"):
        return sent.target == b"/base" + asked.target and sent.method == asked.method
    return sent.target == b"/base/v1/chat/completions" and asked.is_whole and b"user_content" in asked.body


def try_exchange(data: bytes) -> None:
    """Feed it in three ways; see the module's docstring."""
    asked = run(request.serve([data], denies=False)).requests
    outcomes = [run(_serve(segments)) for segments in cuts(data)]
    ERRORS.check()
    for outcome in outcomes:
        if outcome.shown() != outcomes[0].shown():
            raise Finding("cut otherwise it is something else", f"{outcomes[0].shown()} is not {outcome.shown()}")
        require(len(outcome.log) == outcome.opened, "an exchange was not closed, or twice", outcome.log)
        require(all(status != 500 for _, _, status in outcome.log), "status 500", outcome.log)
        sent = sum(1 for upstream_sent, _, _ in outcome.log if upstream_sent is not UpstreamSent.NO)
        require(sent == len(outcome.received), "log and ledger disagree", (outcome.log, outcome.received))
        _check_upstream(outcome.received, asked)


WORDS = (
    *request.WORDS, b"/v1/", b"/v1", b"/v1?", b"/v1x", b"/api", b"/ ", b"/healthz", b'{"user_content":"hi"}',
    b"Cookie: a=b\r\n", b"OpenAI-Organization: o\r\n", b"Connection: authorization, content-type, x-a\r\n",
    b"X-A: b\r\n", b"TE: trailers\r\n", b"Forwarded: for=10.0.0.1\r\n", b"X-Sluice-Hop: 0\r\n",
    b"X-Sluice-Request-Id: x\r\n", b"Proxy-Authorization: x\r\n",
)  # fmt: skip

TARGET = Target("exchange", "a client's bytes through the whole data plane", try_exchange, WORDS, 1024)
