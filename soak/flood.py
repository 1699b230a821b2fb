"""The flood of G11, in a process of its own so that its work slows nobody's clock: ``python -m soak.flood PLAN``.

PLAN is a `FloodPlan` as JSON; the result is printed as JSON, a `Result`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count

import uvloop

from soak.kernel import raise_fd_limit
from tests.support.raw import RawClient, request

LATE_S = 1.0
"""How much later than its timeout a connection may be closed: the gateway looks five times a second."""
EARLY_S = 0.1
BODY_EVERY = 5
"""Every fifth connection is slow in its body, the others in their heads."""
_CONNECTING = 100
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\nX-Padding: "


@dataclass(frozen=True)
class FloodPlan:
    """``connections`` are opened within ``ramp_s`` and kept up for ``seconds``: a closed one is replaced at once."""

    port: int
    connections: int
    seconds: float
    ramp_s: float
    header_timeout_s: float
    body_timeout_s: float
    byte_every_s: float


@dataclass
class Result:
    """How many connections were closed by the gateway: at their timeout, too late, too early; and the latest of all.

    ``open_at_end`` had time left. ``refused`` could not connect.
    """

    on_time: int = 0
    late: int = 0
    early: int = 0
    refused: int = 0
    open_at_end: int = 0
    latest_s: float = 0.0
    most_open: int = 0


class Flood:
    """Connections that say too little, too slowly."""

    def __init__(self, plan: FloodPlan) -> None:
        self.plan = plan
        self.result = Result()
        self._open = 0
        self._numbers = count()
        self._connecting = asyncio.Semaphore(_CONNECTING)

    async def run(self) -> Result:
        """Keep it up for the time of the plan."""
        self._end_s = time.monotonic() + self.plan.seconds
        between_s = self.plan.ramp_s / self.plan.connections
        await asyncio.gather(*(self._keep(number * between_s) for number in range(self.plan.connections)))
        return self.result

    async def _keep(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while time.monotonic() < self._end_s:
            try:
                async with self._connecting:
                    client = await RawClient.connect(self.plan.port)
            except OSError:
                self.result.refused += 1
                await asyncio.sleep(0.1)
                continue
            self._open += 1
            self.result.most_open = max(self.result.most_open, self._open)
            is_body = next(self._numbers) % BODY_EVERY == 0
            await (self._slow_body(client) if is_body else self._slow_head(client))
            self._open -= 1
            client.close()

    async def _slow_head(self, client: RawClient) -> None:
        """One byte at a time, and never the end of the head."""
        started = time.monotonic()
        closed = asyncio.ensure_future(_until_closed(client))
        for number in count():
            if not client.writer.is_closing():
                client.writer.write(_HEAD[number : number + 1] or b"x")
            wait_s = min(self.plan.byte_every_s, max(0.0, self._end_s - time.monotonic()))
            done, _ = await asyncio.wait([closed], timeout=wait_s)
            if done or time.monotonic() >= self._end_s:
                break
        await self._judge(closed, started, self.plan.header_timeout_s)

    async def _slow_body(self, client: RawClient) -> None:
        """A whole head, the start of the body, and silence."""
        headers = ("Authorization: Bearer sk-client", "Content-Length: 1000")
        client.writer.write(request(body=None, headers=headers) + b"{")
        started = time.monotonic()
        closed = asyncio.ensure_future(_until_closed(client))
        await asyncio.wait([closed], timeout=max(0.0, self._end_s - time.monotonic()))
        await self._judge(closed, started, self.plan.body_timeout_s)

    async def _judge(self, closed: asyncio.Future[float], started: float, timeout_s: float) -> None:
        if not closed.done():
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)
            if time.monotonic() - started > timeout_s + LATE_S:
                self.result.late += 1
            else:
                self.result.open_at_end += 1
            return
        took_s = closed.result() - started
        self.result.latest_s = max(self.result.latest_s, took_s - timeout_s)
        if took_s > timeout_s + LATE_S:
            self.result.late += 1
        elif took_s < timeout_s - EARLY_S:
            self.result.early += 1
        else:
            self.result.on_time += 1


async def _until_closed(client: RawClient) -> float:
    """When the gateway closed, after whatever it said first."""
    with suppress(ConnectionError):
        while await client.reader.read(4096):
            pass
    return time.monotonic()


def main(argv: Sequence[str]) -> int:
    """Flood."""
    # A flood comes from other machines: here it must not take the processor from those whose time is measured.
    os.nice(10)
    raise_fd_limit()
    result = uvloop.run(Flood(FloodPlan(**json.loads(argv[0]))).run())
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
