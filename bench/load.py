"""The closed loop: each connection asks again as soon as it was answered. It shows what work costs, not how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

from bench.client import Client, Gateway, Tally, connect

GRACE_S = 10.0
"""How long the last answers may take after the time is up."""


class Load:
    """Connections that are open and wait for `run`."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._clients: list[Client] = []
        self._under_way = 0
        self._is_stopping = False
        self._idle = asyncio.Event()

    @classmethod
    async def connect(cls, kind: type[Client], gateway: Gateway, connections: int, round_number: int) -> Load:
        """Open the connections. Raises OSError."""
        load = cls()
        load._clients = await connect(kind, load, gateway, connections, round_number)
        return load

    async def run(self, seconds: float, *, midway: Callable[[], None] = lambda: None) -> Tally:
        """Keep asking for so long, then wait until every answer under way is whole; call ``midway`` in between."""
        loop = asyncio.get_running_loop()
        started = perf_counter()
        self._under_way = sum(not client.is_closed for client in self._clients)
        for client in self._clients:
            client.ask()
        loop.call_later(seconds / 2, midway)
        loop.call_later(seconds, self._stop)
        try:
            await asyncio.wait_for(self._idle.wait(), seconds + GRACE_S)
        except TimeoutError:
            self.tally.failures["no whole answer in time"] += self._under_way
        self.tally.seconds = perf_counter() - started
        return self.tally

    def _stop(self) -> None:
        self._is_stopping = True

    def first(self, client: Client) -> None:
        """What comes first is of no interest here."""

    def whole(self, client: Client) -> None:
        """Ask again, unless the time is up."""
        if self._is_stopping:
            self._one_less()
        else:
            client.ask()

    def failed(self, client: Client, what: str) -> None:
        """Count it; the others go on."""
        self.tally.failures[what] += 1
        self._one_less()

    def _one_less(self) -> None:
        self._under_way -= 1
        if self._under_way <= 0:
            self._idle.set()

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()
