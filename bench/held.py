"""Streams that stay open: how many a gateway carries, and what they weigh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bench.client import Client, Gateway, HeldClient, Tally, connect

_AT_A_TIME = 64
_GRACE_S = 20.0


class Held:
    """Streams through a gateway, opened a few at a time, each with its first event before it counts as open."""

    def __init__(self, gateway: Gateway, round_number: int) -> None:
        self.tally = Tally()
        self._gateway = gateway
        self._round_number = round_number
        self._clients: list[Client] = []
        self._open = 0
        self._changed = asyncio.Event()

    async def open(self, count: int) -> None:
        """Open so many more. Raises OSError, and RuntimeError if one of them is refused or does not begin."""
        for number in range(len(self._clients), len(self._clients) + count):
            # Gateways close connections that are opened long before they ask.
            self._clients += await connect(HeldClient, self, self._gateway, 1, self._round_number, number)
            self._clients[-1].ask()
            await self._until(lambda: len(self._clients) - self._open < _AT_A_TIME, "begin")
        await self._until(lambda: self._open == len(self._clients), "begin")

    async def ended(self) -> Tally:
        """Wait until all have ended, as the upstream was told to; what they brought. Raises RuntimeError."""
        await self._until(lambda: self.tally.answers == len(self._clients), "end")
        return self.tally

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), _GRACE_S)
            except TimeoutError:
                raise RuntimeError(
                    f"streams do not {what}: {self._open} of {len(self._clients)} have begun, "
                    f"{self.tally.answers} have ended"
                ) from None
            if self.tally.failures:
                what_failed, count = self.tally.failures.most_common(1)[0]
                raise RuntimeError(f"{count} of {len(self._clients)} streams: {what_failed}")

    def first(self, client: Client) -> None:
        """One more is open."""
        self._open += 1
        self._changed.set()

    def whole(self, client: Client) -> None:
        """One has ended; the upstream was told to end all."""
        self._changed.set()

    def failed(self, client: Client, what: str) -> None:
        """Whoever waits is told."""
        self.tally.failures[what] += 1
        self._changed.set()

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()
