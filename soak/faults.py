"""The faults of G1 by name: what the upstream or the client does, and how a request may end under it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from soak import caller
from soak.answers import FRAMINGS, INTERIM, answer, stream
from soak.book import End
from soak.caller import Leave, Way
from soak.origin import Asked
from tests.support.upstream import Wire

Script = Callable[[Asked[Any], Wire], Awaitable[None]]
IDLE_S = 1.0
"""What the gateway's ``idle_timeout_s`` is set to, for upstreams that fall silent."""


class Door(Enum):
    """What the upstream does with connections."""

    OPEN = "accepts"
    REFUSED = "refuses"
    SLAMMED = "accepts and closes"


@dataclass(frozen=True)
class Fault:
    """One fault. ``ends`` are those a client may see; ``said`` what an error of ours may then say about billing."""

    name: str
    ends: frozenset[End]
    script: Script
    way: Way = caller.plainly
    head: Script | None = None
    door: Door = Door.OPEN
    said: frozenset[str] = frozenset({"unknown"})
    in_rounds: bool = False
    """All clients ask at once, and nobody asks again before the upstream has had its last word."""
    connections: int = 0
    """At least so many clients at once, for faults that take their time."""


async def well(asked: Asked[Any], wire: Wire) -> None:
    """No fault: the answer."""
    await wire.send(answer(asked.nonce))


def _end(wire: Wire, how: Leave) -> None:
    wire.close() if how is Leave.FIN else wire.reset()


def silent(how: Leave) -> Script:
    """Take the request and end the connection without a word."""

    async def script(asked: Asked[Any], wire: Wire) -> None:
        _end(wire, how)

    return script


def mid_head(how: Leave) -> Script:
    """End within the head of the answer."""

    async def script(asked: Asked[Any], wire: Wire) -> None:
        whole = answer(asked.nonce)
        await wire.send(whole[: asked.random.randrange(1, whole.index(b"\r\n\r\n") + 4)])
        _end(wire, how)

    return script


def mid_body(how: Leave, framing: str) -> Script:
    """End somewhere within the body of a stream, before its terminal event."""

    async def script(asked: Asked[Any], wire: Wire) -> None:
        head, *pieces = stream(asked.nonce, framing)
        body = b"".join(pieces)
        terminal = body.index(b"data: [DONE]")
        await wire.send(head + body[: asked.random.randrange(terminal)])
        await asyncio.sleep(0.001)
        _end(wire, how)

    return script


def after(how: Leave) -> Script:
    """Answer, and close the idle connection about when it is used again."""

    async def script(asked: Asked[Any], wire: Wire) -> None:
        await wire.send(answer(asked.nonce))
        await asyncio.sleep(asked.random.uniform(0, 0.002))
        _end(wire, how)

    return script


async def short(asked: Asked[Any], wire: Wire) -> None:
    """Announce more than is ever sent, and fall silent."""
    head, *pieces = stream(asked.nonce, "length")
    await wire.send(head + b"".join(pieces[:3]))
    await wire.gone()


async def bad_chunk(asked: Asked[Any], wire: Wire) -> None:
    """Break the chunked framing in the middle."""
    head, *pieces = stream(asked.nonce, "chunked")
    await wire.send(head + b"".join(pieces[:3]))
    await asyncio.sleep(0)
    await wire.send(
        asked.random.choice([b"zz\r\n", b"5\r\nabcdefg\r\n", b"-1\r\n", b"\r\n\r\n", b"0x5\r\nabcde\r\n"])
    )
    await wire.gone()


async def garbage(asked: Asked[Any], wire: Wire) -> None:
    """Say something that is not HTTP."""
    await wire.send(asked.random.choice([b"\x15\x03\x01\x00\x02\x02\x16", b"SSH-2.0-x\r\n", b"HTTP/9 yes\r\n\r\n"]))
    await wire.gone()


async def extra(asked: Asked[Any], wire: Wire) -> None:
    """Send a second answer behind the first, in the same segment."""
    await wire.send(answer(asked.nonce) + answer("n00000000-0000000"))
    await wire.gone()


async def unsolicited(asked: Asked[Any], wire: Wire) -> None:
    """Send a second answer when nobody has asked: sooner, and it could not be told from the answer to come."""
    await wire.send(answer(asked.nonce))
    asked.later.append(lambda: wire.send(answer("n00000000-0000000")))


async def slow_head(asked: Asked[Any], wire: Wire) -> None:
    """Send the head in three pieces with pauses."""
    whole = answer(asked.nonce)
    for piece in (whole[:9], whole[9:40], whole[40:]):
        await wire.send(piece)
        await asyncio.sleep(0.02)


async def interim(asked: Asked[Any], wire: Wire) -> None:
    """Send two informational answers before the real one."""
    await wire.send(INTERIM + answer(asked.nonce))


async def early(asked: Asked[Any], wire: Wire) -> None:
    """Refuse the upload while it is under way, and close."""
    await wire.send(answer(asked.nonce, b"401 Unauthorized", b"Connection: close\r\n"))
    await asyncio.sleep(0.002)
    wire.close()


async def failed(asked: Asked[Any], wire: Wire) -> None:
    """Take the whole request, then fail: the request may have been billed."""
    await wire.send(answer(asked.nonce, b"500 Internal Server Error"))


async def dribbled(asked: Asked[Any], wire: Wire) -> None:
    """Send the answer in segments of eight bytes."""
    whole = b"".join(stream(asked.nonce, "chunked", 2))
    for start in range(0, len(whole), 8):
        await wire.send(whole[start : start + 8])
        await asyncio.sleep(0)


async def half_closed(asked: Asked[Any], wire: Wire) -> None:
    """Answer, close the sending half, and stay."""
    await wire.send(answer(asked.nonce))
    wire.half_close()
    while not await wire.gone():
        pass  # a request that was under way already: nobody answers it


async def never(asked: Asked[Any], wire: Wire) -> None:
    """Work on it until the client is gone."""
    await wire.gone()


async def endless(asked: Asked[Any], wire: Wire) -> None:
    """Begin a stream and hold it until the client is gone."""
    head, first, *_ = stream(asked.nonce, "chunked")
    await wire.send(head + first)
    await wire.gone()


_ERROR = frozenset({End.ERROR})
_CUT = frozenset({End.CUT})
_OK = frozenset({End.OK})
_NAMES = {Leave.RST: "reset", Leave.FIN: "fin"}


def _by_both() -> list[Fault]:
    found: list[Fault] = []
    for how, name in _NAMES.items():
        # A reset may overtake a head that the gateway has not read yet: then it can still say so in an error.
        cut = _CUT | _ERROR if how is Leave.RST else _CUT
        found += [
            Fault(f"{name}-before-status", _ERROR, silent(how)),
            Fault(f"{name}-mid-head", _ERROR, mid_head(how)),
            *(Fault(f"{name}-mid-body-{framing}", cut, mid_body(how, framing)) for framing in FRAMINGS),
            Fault(f"stale-{name}", _OK | _ERROR, after(how)),
        ]
        for phase, script in (("uploading", well), ("waiting", never), ("mid-stream", endless)):
            left = frozenset({End.LEFT})
            found.append(Fault(f"client-{name}-{phase}", left, script, caller.leaving(how, phase)))
    return found


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("refused", _ERROR, well, door=Door.REFUSED, said=frozenset({"no"})),
        Fault("accept-then-close", _ERROR, well, door=Door.SLAMMED, said=frozenset({"no", "unknown"})),
        *_by_both(),
        Fault("short-length", _CUT, short, connections=500),
        Fault("bad-chunk", _CUT | _ERROR, bad_chunk, said=frozenset({"unknown", "yes"})),
        Fault("garbage", _ERROR, garbage, said=frozenset({"unknown", "yes"})),
        Fault("extra-bytes", _OK, extra),
        Fault("unsolicited-bytes", _OK, unsolicited, in_rounds=True),
        Fault("slow-head", _OK, slow_head, connections=128),
        Fault("interim", _OK, interim),
        Fault("early-answer", frozenset({End.PASSED}), well, caller.with_half_an_upload, head=early),
        Fault("error-after-body", frozenset({End.PASSED}), failed),
        Fault("dribbled", _OK, dribbled),
        Fault("upstream-half-close", _OK | _ERROR, half_closed),
        Fault("client-half-close", _CUT | _OK, slow_head, caller.and_half_close),
    )
}
