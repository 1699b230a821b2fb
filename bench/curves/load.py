"""The load of the curves: keep-alive connections, each with one request under way, and every answer checked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import cast

from bench.request import ANSWER, CLIENT_KEY

Requests = Callable[[], bytes]
"""Makes the next request to send."""

CONNECTIONS = 16
PATIENCE_S = 10.0
"""How long the last answers may take after the time is up."""
REFUSED = b"HTTP/1.1 431 "

_OK = b"HTTP/1.1 200 "


def post(body: bytes, *fields: str) -> bytes:
    """One question, with these header lines besides the ordinary ones."""
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: gateway",
        f"Authorization: Bearer {CLIENT_KEY}",
        "Content-Type: application/json",
        "Accept: application/json",
        "User-Agent: OpenAI/Python 3.54.0",
        *fields,
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def get(lines: int, target: str = "/v1/models") -> bytes:
    """A request without a body, with so many header lines, one at least."""
    fields = ["Host: gateway", *(f"X-Line-{number}: a value of some length" for number in range(lines - 1))]
    return ("\r\n".join([f"GET {target} HTTP/1.1", *fields]) + "\r\n\r\n").encode()


def numbered(request: bytes) -> Requests:
    """The same request over and over, but for one more or less in its last header line, an ``X-Line``.

    So no two heads are the same, and all have the same length. Raises ValueError for a request without such a line.
    """
    head, end, body = request.partition(b"\r\n\r\n")
    if not head.rpartition(b"\r\n")[2].startswith(b"X-Line-"):
        raise ValueError("the last header line is not an X-Line")
    numbers = itertools.count()
    return lambda: b"%b%012d%b%b" % (head, next(numbers), end, body)


class Client(asyncio.Protocol):
    """One connection, which asks again after each whole answer until it is told to stop."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._buffer = b""
        self._is_stopping = False
        self.answers = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        # uvloop's transports have the methods, but are no subclass.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._requests())

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        data = self._buffer + data
        if not _OK.startswith(data[: len(_OK)]):
            self._fail(f"the gateway answers {data[:300]!r}")
        elif not data.endswith(ANSWER):
            self._buffer = data
        else:
            self._buffer = b""
            self.answers += 1
            if not self._is_stopping:
                self._transport.write(self._requests())
            elif not self.done.done():
                self.done.set_result(None)

    def stop(self) -> None:
        """Ask no more once the answer under way is whole."""
        self._is_stopping = True

    def close(self) -> None:
        """Whatever is under way."""
        if not self.done.done():
            self.done.cancel()
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Before its end, that is a failure."""
        self._fail("the gateway closed the connection")

    def _fail(self, what: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(what))


async def load(port: int, requests: Requests, seconds: float, connections: int = CONNECTIONS) -> int:
    """Ask a port of 127.0.0.1 for so long; how many answers came. Raises RuntimeError if one is not as it must be."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    try:
        for _ in range(connections):
            _, client = await loop.create_connection(lambda: Client(requests), "127.0.0.1", port)
            clients.append(client)
        await asyncio.sleep(seconds)
        for client in clients:
            client.stop()
        await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), PATIENCE_S)
    except TimeoutError:
        raise RuntimeError("an answer did not come in time") from None
    finally:
        for client in clients:
            client.close()
    return sum(client.answers for client in clients)


async def refusals(port: int, request: bytes, seconds: float) -> int:
    """Ask for so long what is refused with a 431, each time on a new connection; how often.

    Raises RuntimeError for any other answer.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    count = 0
    while loop.time() < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            said = await asyncio.wait_for(reader.read(), PATIENCE_S)
        finally:
            writer.transport.abort()
        if not said.startswith(REFUSED):
            raise RuntimeError(f"the gateway answers {said[:300]!r}")
        count += 1
    return count
