"""Raw messages through the whole gateway, each with a canary request behind it, judged by the upstream's ledger.

A canary is a request nobody can confuse with another: its target holds a number used once. A case is sound when the
upstream has seen exactly what the case may make it see, each request at most once and in order, the canary at most
once, and when every answer the client got belongs to the request it stands for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import count, pairwise
from typing import Any

from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate

import proxy
from proxy.core.headers import Field, Headers
from proxy.gateway.plane import DataPlane
from proxy.wire.gate import RequestError
from proxy.wire.listener import Listener
from proxy.wire.server import ServerConnection
from tests.support.upstream import FakeUpstream, Received, Wire

IDLE_S = 0.5
"""A connection on which nothing has happened for so long, where nothing need happen, waits for more of the case."""
PATIENCE_S = 15.0
"""The same where something must happen: only a machine that is very busy takes as long."""
_BYTEWISE = 8192
LANES = 6
"""Gateways that run at once, each with an upstream of its own."""
_NUMBERS = count(1)
_START = re.compile(r"(DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT) (/[\x21-\x7e]*|\*) HTTP/1\.[01]\Z")
_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*\Z")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}\r\n\Z")
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]*)\Z")
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")


class Tier(Enum):
    """What a case must come to."""

    SEVERE = "severe"  # refused, the connection closed
    AMBIGUOUS = "ambiguous"  # refused, or read in the one way the case gives
    COMPLIANT = "compliant"  # read in the one way the case gives
    WAITS = "waits"  # not whole: nothing may come of it but what was whole before it


class Way(Enum):
    """How a case is sent."""

    WHOLE = "in one segment, the canary directly behind"
    BYTEWISE = "one byte at a time, the canary directly behind"
    LATER = "in one segment, the canary once it was answered"


@dataclass(frozen=True)
class Reading:
    """One request as a server understands it."""

    method: str
    target: str
    body: bytes = b""


@dataclass(frozen=True)
class Case:
    """Bytes a client sends, and what the upstream may see of them.

    ``by_rule`` is why a case that others accept is refused here on purpose; ``closes`` = the case itself asks for
    the end of its connection, so that nothing behind it is read; ``may_stop`` = it may be refused at any request.
    """

    name: str
    data: bytes
    tier: Tier
    readings: tuple[Reading, ...] = ()
    statuses: tuple[int, ...] = ()
    by_rule: str = ""
    closes: bool = False
    may_stop: bool = False


@dataclass
class Outcome:
    """What came of a case: the upstream's ledger, and the client's answers."""

    seen: list[Reading] = field(default_factory=list)
    canaries: int = 0
    answers: list[tuple[int, str]] = field(default_factory=list)
    """(status, the target of the request the upstream answered, or "" if the gateway answered itself)"""
    message: str = ""  # what the gateway's own last error said
    closed: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether the gateway ended the connection over something."""
        last = self.answers[-1] if self.answers else None
        return self.closed and (last is None or (last[0] >= 400 and not last[1]))

    @property
    def turned_away(self) -> bool:
        """Whether it was refused, or answered with an error here although the connection goes on."""
        return self.refused or (bool(self.answers) and self.answers[0][0] >= 400 and not self.answers[0][1])


class LedgerUpstream(FakeUpstream):
    """Reads more strictly than any server has to, and writes down whatever is not beyond doubt.

    ``host`` is the only Host it may be given. It is empty behind a proxy that is only compared with: that one may
    send HTTP/1.0, trailers and what else is legal.
    """

    def __init__(self, host: str = "") -> None:
        super().__init__()
        self.host = host
        self.faults: list[str] = []

    async def _serve(self, number: int, wire: Wire) -> None:
        while not wire.is_closed:
            head = (await wire.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.split("\r\n")[:-2]
            if not _START.match(start) or (self.host and not start.endswith("1.1")):
                self.faults.append(f"the upstream was sent the start line {start!r}")
                return
            self.faults += [f"the upstream was sent the line {line!r}" for line in lines if not _LINE.match(line)]
            pairs = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]
            method, target, _ = start.split(" ")
            received = Received(number, method, target, pairs, b"")
            self.faults += head_faults(received, self.host)
            if self.faults:
                return
            await self._read_strictly(received, wire.reader)
            self.ledger.append(received)
            await self.script(received, wire)

    async def _read_strictly(self, received: Received, reader: asyncio.StreamReader) -> None:
        """Read a body of which every byte is where RFC 9112 section 7.1 wants it."""
        if (length := received.get("content-length")) is not None:
            received.body = await reader.readexactly(int(length))
        elif received.get("transfer-encoding") is not None:
            size = -1
            while size:
                line = await reader.readuntil(b"\r\n")
                if not _SIZE.match(line):
                    self.faults.append(f"the upstream was sent the chunk size {line!r}")
                    raise asyncio.IncompleteReadError(line, None)
                size = int(line, 16)
                received.body += await reader.readexactly(size)
                while not size and not self.host and await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                if (size or self.host) and await reader.readexactly(2) != b"\r\n":
                    self.faults.append("the upstream was sent a chunk without an end, or a trailer")


def head_faults(received: Received, host: str) -> list[str]:
    """Everything in a request head that two servers could understand differently."""
    faults = []
    lengths, codings = received.get_all("content-length"), received.get_all("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        faults.append(f"the upstream was sent two framings: {lengths} {codings}")
    if lengths and not _DECIMAL.match(lengths[0]):
        faults.append(f"the upstream was sent Content-Length: {lengths[0]}")
    if codings and (codings[0] if host else codings[0].lower()) != "chunked":
        faults.append(f"the upstream was sent Transfer-Encoding: {codings[0]}")
    if host and received.get_all("host") != [host]:
        faults.append(f"the upstream was sent Host: {received.get_all('host')}")
    if host:
        names = ("upgrade", "expect", "te", "trailer", "proxy-connection", "keep-alive", "x-forwarded-for")
        faults += [f"the upstream was sent {name}" for name in names if received.get(name) is not None]
    return faults


async def answer_with_target(received: Received, wire: Wire) -> None:
    """An answer that says which request it is for."""
    body = b"" if received.method == "HEAD" else b"ok"
    await wire.send(
        b"HTTP/1.1 200 OK\r\nX-Target: %b\r\nContent-Length: 2\r\n\r\n%b" % (received.target.encode("latin-1"), body)
    )


class _BytewiseConnection(ServerConnection):
    """Is given every byte as a segment of its own; behind the first ones of many, 499 at a time."""

    def data_received(self, data: bytes) -> None:
        starts: Sequence[int] = range(len(data))
        if len(data) > _BYTEWISE:
            starts = [*range(1024), *range(1024, len(data), 499)]
        for start, end in pairwise([*starts, len(data)]):
            if self._transport.is_closing():
                return
            super().data_received(data[start:end])


class _Watched(HTTPMessageDelegate):
    """Takes one request out of the count if it breaks off."""

    def __init__(self, counted: _Counted, delegate: HTTPMessageDelegate) -> None:
        self._counted = counted
        self.headers_received = delegate.headers_received  # type: ignore[method-assign]
        self.data_received = delegate.data_received  # type: ignore[method-assign]
        self.finish = delegate.finish  # type: ignore[method-assign]
        self._on_connection_close = delegate.on_connection_close

    def on_connection_close(self) -> None:
        self._counted.answered -= 1
        self._on_connection_close()


class _Counted(HTTPServerConnectionDelegate):
    """Counts the requests that are answered, by the plane or by the wire's refusal."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.answered = 0

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self.answered += 1
        return _Watched(self, self._plane.start_request(server_conn, request_conn))

    def on_close(self, server_conn: object) -> None:
        self._plane.on_close(server_conn)

    def render_refusal(self, error: RequestError, target: bytes, headers: Headers) -> tuple[list[Field], bytes]:
        self.answered += 1
        return self._plane.render_refusal(error, target, headers)


class Lane:
    """One gateway in front of one upstream; a case at a time."""

    def __init__(self, upstream: LedgerUpstream, ports: dict[Way, int], counted: _Counted) -> None:
        self.upstream = upstream
        self._ports = ports
        self._counted = counted

    @property
    def answered(self) -> int:
        """How many requests the gateway has counted on its connections, less those that broke off."""
        return self._counted.answered

    @property
    def port(self) -> int:
        """The gateway's port."""
        return self._ports[Way.WHOLE]

    async def play(self, case: Case, way: Way = Way.WHOLE) -> Outcome:
        """Send a case and its canary; what came of it."""
        before = len(self.upstream.ledger)
        number = next(_NUMBERS)
        outcome = Outcome()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[way])
        got = bytearray()
        try:
            behind = b"" if case.tier is Tier.WAITS else canary(number)
            is_later = way is Way.LATER and case.tier is not Tier.WAITS
            writer.write(case.data + (b"" if is_later else behind))
            if is_later:
                await read_until(reader, got, lambda: _STATUS.search(got) is not None, IDLE_S)
                writer.write(behind)
            if case.tier is Tier.WAITS:
                await read_until(reader, got, lambda: len(_STATUS.findall(got)) >= len(case.readings))
                outcome.closed = await read_until(reader, got, lambda: False, IDLE_S)
            else:
                outcome.closed = await read_until(reader, got, lambda: False)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        received = self.upstream.ledger[before:]
        own = f"/v1/canary-{number}"
        self._read_ledger(outcome, received, own)
        methods = [entry.method for entry in received]
        outcome.answers, outcome.message = answers_in(bytes(got), methods)
        outcome.faults += self.upstream.faults
        self.upstream.faults.clear()
        return outcome

    @staticmethod
    def _read_ledger(outcome: Outcome, received: list[Received], own: str) -> None:
        for entry in received:
            if entry.target != own:
                outcome.seen.append(Reading(entry.method, entry.target, entry.body))
                if outcome.canaries:
                    outcome.faults.append("something was forwarded behind the canary")
            else:
                outcome.canaries += 1
                if (entry.method, entry.body) != ("POST", b"canary"):
                    outcome.faults.append(f"the canary was forwarded as {entry.method} with {entry.body!r}")

    async def is_sound(self) -> bool:
        """Whether a plain request on a new connection is served as it should be."""
        outcome = await self.play(Case("a plain request", canary(0), Tier.COMPLIANT))
        return not outcome.faults and outcome.answers == [(200, "/v1/canary-0")]


@contextlib.asynccontextmanager
async def gateway_lane() -> AsyncIterator[Lane]:
    """A lane with the real data plane on our own wire."""
    upstream = LedgerUpstream()
    upstream.script = answer_with_target
    await upstream.start()
    upstream.host = f"127.0.0.1:{upstream.port}"
    config: dict[str, Any] = {
        "stages": {
            "ip_allowlist": {"allow": ["127.0.0.1"]},
            "key": {"server_keys": ["sk-server"]},
            "upstream": {"base_url": upstream.base_url},
        }
    }
    plane = proxy.mount(config)
    counted = _Counted(plane)
    listener = Listener(counted, ticker=plane.ticker, on_error=counted.render_refusal)
    servers = {
        way: await listener.loop.create_server(partial(kind, listener), "127.0.0.1", 0)
        for way, kind in ((Way.WHOLE, ServerConnection), (Way.BYTEWISE, _BytewiseConnection))
    }
    ports = {way: server.sockets[0].getsockname()[1] for way, server in servers.items()}
    try:
        yield Lane(upstream, ports | {Way.LATER: ports[Way.WHOLE]}, counted)
    finally:
        for server in servers.values():
            server.close()
        await listener.close()
        await plane.close()
        await upstream.stop()


def canary(number: int) -> bytes:
    """A request that ends its connection."""
    return (
        b"POST /v1/canary-%d HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 6\r\nConnection: close\r\n\r\ncanary"
        % number
    )


async def read_until(
    reader: asyncio.StreamReader, got: bytearray, enough: Callable[[], bool], patience_s: float = PATIENCE_S
) -> bool:
    """Read until there is enough, the end (True), or nothing for so long."""
    while not enough():
        try:
            async with asyncio.timeout(patience_s):
                data = await reader.read(65_536)
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        if not data:
            return True
        got += data
    return False


def answers_in(data: bytes, methods: Sequence[str]) -> tuple[list[tuple[int, str]], str]:
    """((status, X-Target) of every final answer, what the gateway's own last error said).

    ``methods`` are those of the requests that the upstream saw, in order: no body follows an answer to HEAD.
    """
    answers: list[tuple[int, str]] = []
    message = ""
    remaining = list(methods)
    while match := _STATUS.match(data):
        head, _, data = data.partition(b"\r\n\r\n")
        status = int(match[1])
        if status < 200:
            continue
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        length = int(lines.get(b"content-length", b"0"))
        target = re.search(rb"(?i)\r\nx-target: ([^\r]*)", head)
        method = remaining.pop(0) if target and remaining else ""
        if method != "HEAD":
            body, data = data[:length], data[length:]
            if not target:
                message = _message_of(body)
        answers.append((status, target[1].decode("latin-1") if target else ""))
    if data:
        answers.append((0, f"not an answer: {data[:60]!r}"))
    return answers, message


def _message_of(body: bytes) -> str:
    """What an error says, in either of the gateway's shapes."""
    try:
        answer = json.loads(body)
        return str(answer["error"]["message"] if "error" in answer else answer["data"]["response"])
    except (ValueError, KeyError, TypeError):
        return body.decode("latin-1")


def faults_of(case: Case, outcome: Outcome) -> list[str]:
    """Everything about an outcome that must not be."""
    faults = list(outcome.faults)
    if outcome.canaries > 1:
        faults.append("the canary was forwarded more than once")
    expected = list(case.readings)
    if outcome.seen != expected[: len(outcome.seen)]:
        faults.append(f"the upstream saw {outcome.seen}, not {expected}")
    forwarded = [target for _, target in outcome.answers if target]
    targets = [reading.target for reading in outcome.seen]
    if forwarded[: len(targets)] != targets[: len(forwarded)] or len(forwarded) > len(targets) + outcome.canaries:
        faults.append(f"the answers {outcome.answers} are not those of {targets}")
    if outcome.refused and outcome.canaries:
        faults.append("refused, and yet the canary was forwarded")
    if outcome.turned_away and case.statuses and not any(status in case.statuses for status, _ in outcome.answers):
        faults.append(f"answered {outcome.answers}, not {case.statuses}")
    stopped = outcome.refused and case.may_stop
    if case.tier is Tier.WAITS:
        if outcome.seen != expected and not stopped:
            faults.append(f"the upstream saw {outcome.seen}, not {expected}")
    elif not outcome.refused and (
        outcome.seen != expected or outcome.canaries != (0 if case.closes else 1) or not outcome.closed
    ):
        faults.append(f"neither refused nor read as {expected} with the canary behind: {outcome}")
    if (case.tier is Tier.SEVERE and not outcome.refused) or (case.by_rule and not outcome.turned_away):
        faults.append("not refused")
    if case.tier is Tier.SEVERE and outcome.seen != expected and not stopped:
        faults.append(f"the upstream saw {outcome.seen}, not {expected}")
    if case.tier is Tier.COMPLIANT and not case.by_rule and outcome.refused:
        faults.append(f"refused: {outcome.answers} {outcome.message}")
    return faults


@dataclass
class Verdict:
    """A case and what came of it in every way it was sent."""

    case: Case
    outcomes: dict[Way, Outcome]
    faults: list[str]

    @property
    def refused(self) -> bool:
        """Whether it was refused; the ways agree, or there is a fault."""
        return self.outcomes[Way.WHOLE].refused

    @property
    def turned_away(self) -> bool:
        """Whether it was refused, or answered with an error here."""
        return self.outcomes[Way.WHOLE].turned_away

    @property
    def message(self) -> str:
        """Why it was refused."""
        return self.outcomes[Way.WHOLE].message


async def judge(lane: Lane, case: Case, ways: Iterable[Way]) -> Verdict:
    """Send a case in each of these ways, `Way.WHOLE` among them."""
    outcomes: dict[Way, Outcome] = {}
    faults: list[str] = []
    for way in ways:
        outcome = outcomes[way] = await lane.play(case, way)
        faults += [f"{case.name}, {way.value}: {fault}" for fault in faults_of(case, outcome)]
        if outcome.refused != outcomes[Way.WHOLE].refused:
            faults.append(f"{case.name}: refused or not, depending on how it was cut")
    if outcomes[Way.WHOLE].refused and not await lane.is_sound():
        faults.append(f"{case.name}: a plain request behind it fails")
    return Verdict(case, outcomes, faults)


async def judge_all(cases: Sequence[Case], ways: Iterable[Way] = tuple(Way)) -> list[Verdict]:
    """Every case, several at a time, in the order given."""
    verdicts: dict[int, Verdict] = {}
    queue = list(enumerate(cases))[::-1]

    async def work() -> None:
        async with gateway_lane() as lane:
            while queue:
                index, case = queue.pop()
                verdicts[index] = await judge(lane, case, tuple(ways))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(LANES, len(cases))):
            group.create_task(work())
    return [verdicts[index] for index in range(len(cases))]
