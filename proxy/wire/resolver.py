"""The resolver: the addresses of one host, looked up once for all who ask, and kept while the name service is ill."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

from proxy.core.errors import ConnectError

log = logging.getLogger("sluice.wire")

REFRESH_S = 20.0
"""Age of an answer at which the next dial has it looked up again, without waiting."""
FRESH_S = 30.0
"""Age of an answer from which on a dial waits for the new one."""
PATIENCE_S = 1.0
"""How long a dial that has an old answer waits for a new one."""
RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""How long after the first, second ... failure in a row the next lookup may be made."""

AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Address(NamedTuple):
    """A numeric address, without a port."""

    family: int
    host: str
    scope_id: int = 0

    def at(self, port: int) -> AddrInfo:
        """What ``getaddrinfo`` would say of this address and a TCP port."""
        name = (self.host, port, 0, self.scope_id) if self.family == socket.AF_INET6 else (self.host, port)
        return (self.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", name)


Lookup = Callable[[str], Awaitable[Collection[Address]]]
"""Host name → addresses, best first. Raises OSError (socket.gaierror) or ValueError (no possible name)."""
OnChange = Callable[[frozenset[str]], None]


async def system_lookup(host: str) -> list[Address]:
    """Ask the system's resolver, in a thread of its own.

    Not in the loop's pool, as ``loop.getaddrinfo`` does: nothing interrupts a lookup, and a loop that closes waits
    for its pool. With a silent name server that would keep a drained worker from ending for ten seconds.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(found: list[Address], error: Exception | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def look_up() -> None:
        found: list[Address] = []
        failure: Exception | None = None
        try:
            found = _addresses_of(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, found, failure)

    threading.Thread(target=look_up, name=f"lookup of {host}", daemon=True).start()
    return await answer


def literal(host: str) -> tuple[Address, ...]:
    """The address that ``host`` already is; empty for a name. Nobody is asked."""
    with suppress(OSError, ValueError):
        return tuple(
            _addresses_of(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        )
    return ()


class Resolver:
    """The addresses of one host. At most one lookup runs at a time, however many dials wait for it.

    A dial never waits while the answer is younger than ``FRESH_S``, nor while lookups fail or are slow and a last
    good answer is there: then that is used, for as long as it takes. The operating system does not tell an
    answer's TTL, hence the fixed age. ``on_change`` hears the addresses (as text) whenever an answer differs from
    the one before. ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        host: str,
        *,
        lookup: Lookup = system_lookup,
        clock: Callable[[], float] | None = None,
        patience_s: float = PATIENCE_S,
        on_change: OnChange | None = None,
    ) -> None:
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop.time
        self._lookup = lookup
        self._patience_s = patience_s
        self._on_change = on_change
        self._addresses = literal(host)
        self.hosts = _hosts_of(self._addresses)
        """The addresses as text: a set of its own, because every released connection is looked up in it."""
        self._answered_s = float("inf") if self._addresses else float("-inf")
        self._due_s = self._answered_s  # when the next dial has to ask again
        self._failures = 0  # in a row
        self._is_ill = False  # as far as the log knows
        self._reason = ""
        self._running: asyncio.Task[None] | None = None
        self._give_up_s = 0.0  # on the loop's clock: until when dials with an old answer wait for the one running
        self._last_good: str | None = None
        self._bad: set[str] = set()

    async def addresses(self) -> list[Address]:
        """The addresses to try, in this order. Raises ConnectError if none was ever found.

        While the very first lookup runs it waits for as long as the caller lets it.
        """
        now = self._clock()
        if now >= self._due_s and self._running is None:
            self._running = self._loop.create_task(self._look_up())
            self._give_up_s = self._loop.time() + self._patience_s
        if self._running is not None and self._must_wait(now):
            # The lookup itself is nobody's: whoever stops waiting must not stop it for the others.
            wait_s = max(0.0, self._give_up_s - self._loop.time()) if self._addresses else None
            _, pending = await asyncio.wait((self._running,), timeout=wait_s)
            if pending:
                self._went_wrong(f"no answer within {self._patience_s:g} s")
        if not self._addresses:
            raise ConnectError(f"no address for {self.host}: {self._reason}")
        return sorted(self._addresses, key=self._rank)

    def _must_wait(self, now: float) -> bool:
        if not self._addresses:
            return True
        return not self._is_ill and now - self._answered_s >= FRESH_S

    async def _look_up(self) -> None:
        try:
            found = tuple(dict.fromkeys(await self._lookup(self.host)))
            if not found:
                raise OSError("the answer is empty")
        except Exception as error:
            wait_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)]
            self._failures += 1
            self._due_s = self._clock() + wait_s
            self._went_wrong(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        else:
            self._take(found)
        finally:
            self._running = None

    def _went_wrong(self, reason: str) -> None:
        self._reason = reason
        if not self._is_ill:
            self._is_ill = True
            then = "going on with the last good addresses" if self._addresses else "there is no earlier answer"
            log.warning("the name %s cannot be looked up (%s): %s", self.host, reason, then)

    def _take(self, found: tuple[Address, ...]) -> None:
        if self._is_ill:
            log.info("the name %s can be looked up again", self.host)
        self._is_ill = False
        self._failures = 0
        self._answered_s = self._clock()
        self._due_s = self._answered_s + REFRESH_S
        before, now = self.hosts, _hosts_of(found)
        self._addresses, self.hosts = found, now
        if now == before:
            return
        self._bad &= now
        if before:
            log.info("the addresses of %s have changed to %s", self.host, ", ".join(sorted(now)))
        if self._on_change is not None:
            self._on_change(now)

    # what dials found out

    def worked(self, host: str) -> None:
        """A connection to this address stands: it is the first to be tried next time."""
        self._last_good = host
        self._bad.discard(host)

    def failed(self, hosts: Iterable[str]) -> None:
        """No connection to these could be made: they are the last to be tried next time."""
        self._bad.update(hosts)
        if self._last_good in self._bad:
            self._last_good = None

    def _rank(self, address: Address) -> int:
        if address.host == self._last_good:
            return 0
        return 2 if address.host in self._bad else 1

    def close(self) -> None:
        """Wait for no lookup any more."""
        if self._running is not None:
            self._running.cancel()

    def __repr__(self) -> str:
        return f"<Resolver {self.host} [{', '.join(sorted(self.hosts)) or 'no address yet'}]>"


def _hosts_of(addresses: Iterable[Address]) -> frozenset[str]:
    return frozenset(address.host for address in addresses)


def _addresses_of(infos: Iterable[tuple[object, ...]]) -> list[Address]:
    found: list[Address] = []
    for family, _, _, _, name in infos:
        assert isinstance(name, tuple)
        if family == socket.AF_INET:
            found.append(Address(socket.AF_INET, name[0]))
        elif family == socket.AF_INET6 and len(name) == 4:
            found.append(Address(socket.AF_INET6, name[0], name[3]))
    return found
