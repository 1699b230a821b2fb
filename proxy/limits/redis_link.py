"""One connection to one server, shared by all calls of this process: each is written at once, answers come in order.

redis-py connects, authenticates, speaks TLS and parses; its clients are not used, because a client takes a connection
from a pool for each call, which costs 100 µs of CPU a call, and thousands of connections while a server is slow. Here
a call is a write and a place in a queue, so a caller that has gone away leaves nothing in disorder: its answer comes
in its turn, and is told to ``late``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy.limits.address import Host, StoreAddress
from proxy.limits.store import StoreError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

log = logging.getLogger("sluice.limits")

MOST_CALLS = 2000
"""That wait for an answer on one connection. Further ones fail at once: they would not be answered in time."""

RETIRED_S = 5.0
"""How long a connection that was replaced is kept for the answers it still owes."""

LOGIN = "the server does not accept the user and password, or wants some"

Late = Callable[[object], None]
"""Told the answer to a call whose caller did not wait for it."""


class Trouble(StoreError):
    """Why the store could not be asked. ``reason`` is one word for the metrics."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Link:
    """A connected connection. ``is_up`` until it is lost; `connect` makes one."""

    def __init__(self, connection: AbstractConnection, host: Host) -> None:
        self.host = host
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[asyncio.Future[object], Late | None]] = deque()
        self._heard_s = self._loop.time()
        self._is_over = False
        self._is_retired = False
        self._unsent: list[bytes] = []
        self._has_unsent = asyncio.Event()
        self._writing = self._loop.create_task(self._write())
        self.reading = self._loop.create_task(self._read())
        """Ends with the connection."""

    @property
    def is_up(self) -> bool:
        """Whether it can be asked."""
        return not self._is_over and self._connection.is_connected

    async def ask(self, command: bytes, late: Late | None = None, *, answers: int = 1) -> object:
        """Send a packed command, or as many as have ``answers``; the last answer, which may be a `ResponseError`.

        Raises `Trouble` if the connection is or gets lost. The command may have been carried out nevertheless.
        """
        if not self.is_up:
            raise Trouble("lost", "the connection to the server was lost")
        if len(self._waiting) >= MOST_CALLS:
            raise Trouble("busy", "too many calls wait for the server's answer")
        if not self._waiting:
            self._heard_s = self._loop.time()
        future: asyncio.Future[object] = self._loop.create_future()
        for _ in range(answers - 1):
            self._waiting.append((self._loop.create_future(), None))
        self._waiting.append((future, late))
        self._unsent.append(command)
        self._has_unsent.set()
        try:
            answer = await future
        except asyncio.CancelledError:
            # The answer may be there already, while its caller was told to stop before it could look.
            if future.done() and not future.cancelled() and late is not None:
                late(future.result())
            raise
        if isinstance(answer, Trouble):
            # Each caller has its own: raising adds to an exception.
            raise Trouble(answer.reason, str(answer))
        return answer

    def is_silent(self, seconds: float) -> bool:
        """Whether something is asked, and nothing was answered for so long."""
        return bool(self._waiting) and self._loop.time() - self._heard_s > seconds

    async def _write(self) -> None:
        """Write what was asked since the last write. Not in the callers' tasks: one that is cancelled while the
        server takes nothing more would leave half a command, and cost the connection."""
        try:
            while True:
                await self._has_unsent.wait()
                self._has_unsent.clear()
                commands, self._unsent = self._unsent, []
                if not self._connection.is_connected:
                    # Asked all the same, redis-py would connect again, and answers and callers would part.
                    return
                await self._connection.send_packed_command(commands, check_health=False)
        except Exception as error:
            # The callers are told by the reader, which ends with it.
            log.debug("limits: writing to the store failed: %s", type(error).__name__)
        finally:
            self.reading.cancel()

    async def _read(self) -> None:
        from redis.exceptions import AuthenticationError, ResponseError

        waiting, read = self._waiting, self._connection.read_response
        lost = Trouble("lost", "the connection to the server was lost")
        try:
            while waiting or not self._is_retired:
                answer: object
                try:
                    answer = await read()
                except ResponseError as error:
                    answer = error
                self._heard_s = self._loop.time()
                future, late = waiting.popleft()
                if not future.done():
                    future.set_result(answer)
                elif late is not None:
                    late(answer)
        except AuthenticationError:
            lost = Trouble("login", LOGIN)
        except Exception as error:
            lost = Trouble("lost", f"the connection to the server was lost ({type(error).__name__})")
        finally:
            self._is_over = True
            self._writing.cancel()
            while waiting:
                future, late = waiting.popleft()
                if not future.done():
                    future.set_result(lost)
                elif late is not None:
                    late(lost)
            await self._connection.disconnect(nowait=True)

    def retire(self) -> None:
        """Another connection takes over: this one is closed as soon as it owes no answer."""
        self._is_over = True
        self._is_retired = True
        self._loop.call_later(RETIRED_S if self._waiting else 0, self.reading.cancel)

    async def close(self) -> None:
        """Close it; calls that wait for an answer fail."""
        self._is_over = True
        self.reading.cancel()
        await asyncio.gather(self.reading, self._writing, return_exceptions=True)


async def connect(address: StoreAddress, host: Host, ca_file: str | None) -> Link:
    """Connect to a server, authenticate and select the database. Raises `Trouble`."""
    from redis.exceptions import AuthenticationError, RedisError

    connection = _connection(address, host, ca_file)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except (RedisError, OSError) as error:
        if isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError):
            raise Trouble("login", LOGIN) from None
        raise Trouble("connect", f"cannot connect to {address}: {scrubbed(error, address)}") from None
    return Link(connection, host)


def _connection(address: StoreAddress, host: Host, ca_file: str | None) -> AbstractConnection:
    from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    settings: dict[str, Any] = {
        "db": address.db,
        "username": address.username or None,
        "password": address.password or None,
        # Time is kept by the callers: a call that is given up must not take the connection with it.
        "socket_timeout": None,
        "socket_connect_timeout": None,
        # Whether a call was carried out is not known when its answer is lost: none is ever sent twice.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if address.path:
        return UnixDomainSocketConnection(path=address.path, **settings)
    if address.is_tls:
        return SSLConnection(host=host[0], port=host[1], ssl_ca_certs=ca_file, ssl_check_hostname=True, **settings)
    return Connection(host=host[0], port=host[1], **settings)


def scrubbed(error: object, address: StoreAddress) -> str:
    """The text of an error, in one line and without the address's secrets."""
    text = " ".join(str(error).split())
    for secret in address.secrets:
        text = text.replace(secret, "***")
    return text[:300]
