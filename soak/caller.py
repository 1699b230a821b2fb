"""One client that asks again and again, and sometimes leaves too early."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from soak.book import Book, End, Seen, classify
from tests.support.raw import RawClient, request

LIMIT_S = 15.0
"""A request that has no end after this is counted as lost."""
UPLOAD_BYTES = 200_000
API = "/v1/chat/completions"


class Leave(Enum):
    """How a client goes away."""

    FIN = "fin"
    RST = "rst"


def question(nonce: str, *, size: int = 0, target: str = API) -> bytes:
    """A request named ``nonce``, with a body of at least ``size`` bytes."""
    asked = {"model": "m", "messages": [{"role": "user", "content": nonce}], "padding": "." * size}
    headers = ("Content-Type: application/json", "Authorization: Bearer sk-client", f"X-Nonce: {nonce}")
    return request(target, body=json.dumps(asked).encode(), headers=headers)


def chat_question(nonce: str) -> bytes:
    """The same on the chat route."""
    asked = {"user_content": nonce, "api_key": "sk-client", "max_tokens": 10}
    return request("/api", body=json.dumps(asked).encode(), headers=("Content-Type: application/json",))


class Caller:
    """Keeps its connection as long as the answers allow it."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self._client: RawClient | None = None

    async def client(self) -> RawClient:
        """Its connection, or a new one."""
        if self._client is None or self._client.reader.at_eof() or self._client.writer.transport.is_closing():
            self.close()
            self._client = await RawClient.connect(self.port)
        return self._client

    def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def leave(self, how: Leave) -> None:
        """Go away."""
        client, self._client = self._client, None
        if client is not None:
            client.close() if how is Leave.FIN else client.reset()

    async def ask(self, book: Book[Any], nonce: str, way: Way) -> Seen:
        """Make one request in one of the ways below, and note in the book how it ended."""
        try:
            async with asyncio.timeout(LIMIT_S):
                seen = await way(self, book, nonce)
        except TimeoutError:
            seen = Seen(nonce, End.HUNG)
            self.close()
        except (OSError, asyncio.IncompleteReadError):
            # Seen by the client, so not lost without notice; whether it is allowed is the fault's to say.
            seen = Seen(nonce, End.CUT)
            self.close()
        book.seen.append(seen)
        return seen

    async def take(self, nonce: str) -> Seen:
        """Read the answer."""
        client = await self.client()
        outcome = await client.outcome("POST")
        answer = outcome.answer
        if answer is None or not outcome.is_whole or answer.get("connection") == "close":
            self.close()
        return classify(nonce, outcome)


Way = Callable[[Caller, Book[Any], str], Awaitable[Seen]]
"""How a client behaves in one request."""


async def plainly(caller: Caller, book: Book[Any], nonce: str) -> Seen:
    """Ask, and read the answer."""
    client = await caller.client()
    await client.send(question(nonce))
    return await caller.take(nonce)


async def with_upload(caller: Caller, book: Book[Any], nonce: str) -> Seen:
    """The same with a large body in pieces."""
    client = await caller.client()
    await client.send(question(nonce, size=UPLOAD_BYTES), by=50_000)
    return await caller.take(nonce)


async def on_the_chat_route(caller: Caller, book: Book[Any], nonce: str) -> Seen:
    """The same in the simple contract."""
    client = await caller.client()
    await client.send(chat_question(nonce))
    return await caller.take(nonce)


async def with_half_an_upload(caller: Caller, book: Book[Any], nonce: str) -> Seen:
    """Send half of the body and wait: the answer has to come without the rest."""
    client = await caller.client()
    await client.send(question(nonce, size=UPLOAD_BYTES)[: UPLOAD_BYTES // 2])
    try:
        return await caller.take(nonce)
    finally:
        caller.close()  # half a request is no start for the next one


async def and_half_close(caller: Caller, book: Book[Any], nonce: str) -> Seen:
    """Send everything, close the sending half, read on."""
    client = await caller.client()
    await client.send(question(nonce))
    client.half_close()
    try:
        return await caller.take(nonce)
    finally:
        caller.close()


def leaving(how: Leave, phase: str) -> Way:
    """Go away in a phase: ``uploading``, ``waiting`` for the head, or in ``mid-stream``."""

    async def way(caller: Caller, book: Book[Any], nonce: str) -> Seen:
        client = await caller.client()
        if phase == "uploading":
            await client.send(question(nonce, size=UPLOAD_BYTES)[: UPLOAD_BYTES // 10])
            await asyncio.sleep(caller.random.uniform(0, 0.003))
        else:
            await client.send(question(nonce))
            await book.arrival(nonce).wait()
        if phase == "mid-stream":
            await client.reader.readuntil(b"\n\n")
        caller.leave(how)
        return Seen(nonce, End.LEFT)

    return way
