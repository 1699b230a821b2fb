"""The open loop: requests at planned times, whether or not the former ones are answered.

A latency counts from the planned time. While a gateway stalls, requests wait here for a free connection, and that
wait is theirs too: counted from the sending, a stall would show in one answer of each connection only and hide in
the quantiles (coordinated omission). For the same reason what waits when the time is up is still sent and counted,
unless so much was not answered in time that the gateway cannot do the rate at all.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence

from bench.alarm import Alarm, now_s
from bench.client import Client, Gateway, SSEClient, Tally, connect

GRACE_S = 10.0
"""How long the last answers may take after the time is up."""
KEPT_UP = 0.95
"""The part of the planned requests that has to be answered in time by who can do the rate."""

_LEAD_S = 0.02


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """When to send, in seconds from the start: as independent callers do (exponential gaps), ``rate`` a second."""
    chance = random.Random(seed)
    times = []
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        times.append(at_s)
        at_s += chance.expovariate(rate)
    return times


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of them does not exceed. Raises ValueError if there are none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


class OpenLoop:
    """Connections of which each planned request takes a free one, or the next that becomes free.

    ``latencies_s`` has those of whole answers, or with an `SSEClient` those of first events. ``dropped`` is how many
    requests were never sent; it is 0 wherever the latencies are those of all who asked.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.latencies_s: list[float] = []
        self.answered_in_time = 0
        self.dropped = 0
        self._planned = 0
        self._start_s = self._last_s = 0.0
        self._clients: list[Client] = []
        self._free: deque[Client] = deque()
        self._waiting: deque[float] = deque()
        self._to_come: deque[float] = deque()
        self._under_way = 0
        self._kept_from_s = -math.inf
        self._end_s = math.inf
        self._idle = asyncio.Event()

    @classmethod
    async def connect(cls, kind: type[Client], gateway: Gateway, connections: int, round_number: int) -> OpenLoop:
        """Open the connections. Raises OSError."""
        loop = cls()
        loop._clients = await connect(kind, loop, gateway, connections, round_number)
        loop._free.extend(loop._clients)
        return loop

    async def run(self, times_s: Sequence[float], seconds: float, *, warm_up_s: float = 0.0) -> Tally:
        """Send at these times from now, and wait for every answer, to what still waits after ``seconds`` too.

        Only who has not kept up by then is not asked what still waits: that could take minutes. What was planned for
        the first ``warm_up_s`` is sent and checked, but its latency is not kept.
        """
        start_s = self._start_s = now_s() + _LEAD_S
        self._kept_from_s = start_s + warm_up_s
        self._end_s = start_s + seconds
        self._planned = len(times_s)
        self._to_come.extend(start_s + at_s for at_s in times_s)
        alarm = Alarm(self._due)
        try:
            self._alarm = alarm
            alarm.set(self._to_come[0] if self._to_come else self._end_s)
            await asyncio.wait_for(self._idle.wait(), _LEAD_S + seconds + GRACE_S)
        except TimeoutError:
            self.tally.failures["no whole answer in time"] += self._under_way + len(self._waiting)
        finally:
            alarm.close()
        self.tally.seconds = seconds
        return self.tally

    @property
    def has_kept_up(self) -> bool:
        """Whether enough was answered before the time was up."""
        return self.answered_in_time >= KEPT_UP * self._planned

    @property
    def pace(self) -> float:
        """Answers a second, up to the last: what a gateway does that cannot do the rate."""
        took_s = self._last_s - self._start_s
        return self.tally.answers / took_s if took_s > 0 else 0.0

    def _due(self) -> None:
        now = now_s()
        while self._to_come and self._to_come[0] <= now:
            planned_s = self._to_come.popleft()
            if self._free:
                self._send(self._free.popleft(), planned_s)
            else:
                self._waiting.append(planned_s)
        if now >= self._end_s:
            if not self.has_kept_up:
                self.dropped = len(self._waiting)
                self._waiting.clear()
            self._check_idle()
        else:
            self._alarm.set(self._to_come[0] if self._to_come else self._end_s)

    def _send(self, client: Client, planned_s: float) -> None:
        self._under_way += 1
        client.ask(planned_s)

    def first(self, client: Client) -> None:
        """The first event of a stream has come."""
        self._took(client)

    def whole(self, client: Client) -> None:
        """Take the next request that waits."""
        if not isinstance(client, SSEClient):
            self._took(client)
        self._under_way -= 1
        if self._waiting:
            self._send(client, self._waiting.popleft())
        else:
            self._free.append(client)
            self._check_idle()

    def _took(self, client: Client) -> None:
        now = now_s()
        self._last_s = now
        self.answered_in_time += now <= self._end_s
        if client.planned_s >= self._kept_from_s:
            self.latencies_s.append(now - client.planned_s)

    def failed(self, client: Client, what: str) -> None:
        """Count it; the others go on."""
        self.tally.failures[what] += 1
        if client in self._free:
            self._free.remove(client)
        else:
            self._under_way -= 1
        self._check_idle()

    def _check_idle(self) -> None:
        # Who waits while nothing is under way waits for connections that are all lost. What is still to come is sent
        # when the alarm rings, which may be later than the end.
        if not self._under_way and not self._to_come and now_s() >= self._end_s:
            self._idle.set()

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()
