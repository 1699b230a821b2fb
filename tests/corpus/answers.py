"""What upstreams may send, through the whole gateway: the client gets one reading of it, a 502, or a cut.

The client is h11, a strict reader with nothing of ours in it. After each answer another request is made on the same
connection, if that is still open, and one on a new connection; both must get their own answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import h11

from tests.corpus.cases import load
from tests.corpus.public import Block
from tests.support.corpus import LANES, PATIENCE_S, Lane, Tier, answer_with_target, gateway_lane
from tests.support.upstream import Received, Script, Wire

_TARGET = "/v1/case"


@dataclass(frozen=True)
class AnswerCase:
    """Bytes an upstream sends to one request, and the one reading they have; ``closes`` = then it closes."""

    name: str
    data: bytes
    tier: Tier
    status: int = 200
    body: bytes = b""
    method: str = "GET"
    closes: bool = False


class End(Enum):
    """What the client got."""

    TAKEN = "a whole answer of the upstream's"
    REFUSED = "the gateway's own 502"
    CUT = "an answer that breaks off"
    WAITS = "no end"
    NONSENSE = "what h11 cannot read"


@dataclass
class Got:
    """What the client read."""

    end: End
    status: int = 0
    body: bytes = b""
    target: str = ""  # the request the upstream answered, if it said so
    detail: str = ""


@dataclass
class AnswerVerdict:
    """An answer and what came of it."""

    case: AnswerCase
    got: list[Got] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class _Client:
    """h11 on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.CLIENT)

    @classmethod
    async def connect(cls, port: int) -> _Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, target: str) -> Got:
        """One request and what comes of it."""
        request = h11.Request(method=method, target=target, headers=[("Host", "gateway.test")])
        self._writer.write((self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b""))
        got = Got(End.WAITS)
        try:
            await self._read(got)
        except TimeoutError:
            pass
        except h11.RemoteProtocolError as error:
            # Its word for an end before the end; anything else is something we should not have passed on.
            is_cut = any(word in str(error) for word in ("incomplete", "closed connection", "unexpectedly closed"))
            got.end, got.detail = (End.CUT if is_cut else End.NONSENSE), str(error)
        except ConnectionError:
            got.end = End.CUT
        return got

    async def _read(self, got: Got) -> None:
        is_own = False
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(PATIENCE_S):
                    self._h11.receive_data(await self._reader.read(65_536))
            elif isinstance(event, h11.Response):
                got.status = event.status_code
                names = {bytes(name): bytes(value) for name, value in event.headers}
                is_own = b"x-sluice-upstream-sent" in names and event.status_code == 502
                got.target = names.get(b"x-target", b"").decode("ascii")
            elif isinstance(event, h11.Data):
                got.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                got.end = End.REFUSED if is_own else End.TAKEN
                return
            elif isinstance(event, h11.ConnectionClosed):
                got.end = End.CUT
                return

    @property
    def can_go_on(self) -> bool:
        """Whether another request may be made."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            return True
        return False

    async def close(self) -> None:
        """Close."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def own_answers() -> list[AnswerCase]:
    """Every answer of ours."""
    cases = []
    for entry in load("answers.yaml"):
        text = entry["data"]
        for mark, (filler, times) in entry.get("repeat", {}).items():
            text = text.replace(mark, filler * times)
        cases.append(
            AnswerCase(
                entry["name"],
                text.encode("latin-1"),
                Tier(entry["expect"]),
                entry.get("status", 200),
                entry.get("body", "").encode("latin-1"),
                entry.get("method", "GET"),
                entry.get("closes", False),
            )
        )
    return cases


def answer_case(block: Block) -> AnswerCase:
    """A response block of llhttp's as a case.

    What llhttp refuses within the first answer is severe, and so is a first answer without an end; behind the first
    one nothing counts.
    """
    finals = [message for message in block.messages if not message.head.get("code", b"").startswith(b"1")]
    first = finals[0] if finals else None
    tier = Tier.AMBIGUOUS
    if first is None or first.complete is False or (first.complete is None and block.error) or block.skips_body:
        tier = Tier.SEVERE
    status = int(first.head.get("code", b"0")) if first else 0
    body = first.body if first else b""
    return AnswerCase(block.name, block.data, tier, status, body, closes=True)


def _script(case: AnswerCase, written: asyncio.Event, *, bytewise: bool) -> Script:
    async def script(received: Received, wire: Wire) -> None:
        if received.target != _TARGET:
            await answer_with_target(received, wire)
            return
        with contextlib.suppress(ConnectionError):
            step = 1 if bytewise and len(case.data) < 2000 else 65_536
            for start in range(0, len(case.data), step):
                await wire.send(case.data[start : start + step])
                await asyncio.sleep(0)
        if case.closes:
            wire.close()
        written.set()

    return script


async def judge_answer(lane: Lane, case: AnswerCase) -> AnswerVerdict:
    """Have the upstream answer with this, at once and byte by byte."""
    verdict = AnswerVerdict(case)
    for bytewise in (False, True):
        written = asyncio.Event()
        lane.upstream.script = _script(case, written, bytewise=bytewise)
        before = len(lane.upstream.ledger)
        client = await _Client.connect(lane.port)
        got = await client.ask(case.method, _TARGET)
        verdict.got.append(got)
        faults = answer_faults(case, got)
        # What comes behind an answer is to be there before the next request is, or it would end that one.
        async with asyncio.timeout(PATIENCE_S):
            await written.wait()
        await asyncio.sleep(0.002)
        if got.end in (End.TAKEN, End.REFUSED) and client.can_go_on:
            again = await client.ask("GET", "/v1/again")
            if (again.end, again.target) != (End.TAKEN, "/v1/again"):
                faults.append(f"the next request on the connection got {again}")
        await client.close()
        fresh = await _Client.connect(lane.port)
        other = await fresh.ask("GET", "/v1/fresh")
        await fresh.close()
        if (other.end, other.target) != (End.TAKEN, "/v1/fresh"):
            faults.append(f"a request on another connection got {other}")
        asked = [entry.target for entry in lane.upstream.ledger[before:]]
        if asked.count(_TARGET) != 1:
            faults.append(f"the upstream was asked {asked}")
        verdict.faults += [f"{case.name}{', byte by byte' if bytewise else ''}: {fault}" for fault in faults]
    return verdict


def answer_faults(case: AnswerCase, got: Got) -> list[str]:
    if got.end in (End.WAITS, End.NONSENSE):
        return [f"the client got {got}"]
    if got.end is End.TAKEN:
        if case.tier is Tier.SEVERE:
            return [f"the client took {got}"]
        if (got.status, got.body) != (case.status, case.body):
            return [f"the client took {got}, not {case.status} with {case.body!r}"]
        return []
    is_other = got.end is End.CUT and case.tier is Tier.AMBIGUOUS and not case.body.startswith(got.body)
    return [f"the client got {got}"] if case.tier is Tier.COMPLIANT or is_other else []


async def judge_answers(cases: Sequence[AnswerCase]) -> list[AnswerVerdict]:
    """Every case, several at a time, in the order given."""
    verdicts: dict[int, AnswerVerdict] = {}
    queue = list(enumerate(cases))[::-1]

    async def work() -> None:
        async with gateway_lane() as lane:
            while queue:
                index, case = queue.pop()
                verdicts[index] = await judge_answer(lane, case)

    async with asyncio.TaskGroup() as group:
        for _ in range(LANES):
            group.create_task(work())
    return [verdicts[index] for index in range(len(cases))]
