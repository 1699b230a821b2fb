"""The life of a forwarded exchange, in the order of this file: request in, verdict, forwarding, answer out, end.

What goes up and what comes down is said by its two kinds: `proxy.gateway.openai_api` and `proxy.gateway.simple_chat`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from asyncio import Future
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from proxy.core.chain import BODY_WANTED, Verdict
from proxy.core.errors import UpstreamError
from proxy.core.messages import BODY_TOO_LARGE
from proxy.core.reply import INVALID_REQUEST, Reply
from proxy.gateway.answering import AnsweringDelegate
from proxy.gateway.downstream import Downstream
from proxy.gateway.forward import Forward
from proxy.gateway.heartbeat import Heartbeat
from proxy.wire.client import UpstreamConnection
from proxy.wire.gate import ResponseError, ResponseHead

if TYPE_CHECKING:
    from proxy.gateway.plane import DataPlane


class ForwardingDelegate(AnsweringDelegate, ABC):
    """An exchange that passes the chain and, if it may, goes upstream."""

    _task: asyncio.Task[None] | None = None

    def __init__(self, plane: DataPlane, downstream: Downstream) -> None:
        super().__init__(plane, downstream)
        self._forward: Forward | None = None
        self._held: list[bytes] | None = None  # the body's pieces, while it is being held
        self._heartbeat: Heartbeat | None = None

    # request in

    def _refusal(self) -> Reply | None:
        """What is wrong with the request before any stage is asked."""
        limit = self._plane.max_body_bytes
        return too_large(limit) if 0 < limit < self._head.content_length else None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """A piece of the body: held, or sent on."""
        if self._heartbeat is not None:
            self._heartbeat.see(chunk)
        if self._answered:
            return None
        exchange = self.exchange
        exchange.bytes_in += len(chunk)
        if self._held is not None:
            if exchange.bytes_in > self._plane.max_held_bytes:
                self._reply(too_large(self._plane.max_held_bytes))
            else:
                self._held.append(chunk)
            return None
        limit = self._plane.max_body_bytes
        if limit and exchange.bytes_in > limit:
            self._reply(too_large(limit))
            return None
        assert self._forward is not None
        return self._forward.write(chunk)

    def finish(self) -> None:
        """The request is whole: from here on silence is the upstream's."""
        if self._heartbeat is not None:
            self._heartbeat.touch()
        if self._answered:
            return
        if self._held is None:
            assert self._forward is not None
            self._forward.end()
            return
        exchange = self.exchange
        exchange.body = b"".join(self._held)
        refusal = self._read_body(exchange.body)
        if refusal is not None:
            self._reply(refusal)
        else:
            self._proceed()

    def _read_body(self, body: bytes) -> Reply | None:
        """Look into a held body before the stages do; here there is nothing to look for."""
        return None

    # verdict

    def _proceed(self) -> Future[None] | asyncio.Task[None] | None:
        """Run the chain from where it stands; what is returned holds the body back."""
        try:
            verdict = self._chain.proceed(self.exchange)
            if verdict is None:
                return self._send()
            if isinstance(verdict, Awaitable):
                self._task = self._plane.loop.create_task(self._wait(verdict))
                return self._task
            return self._obey(verdict)
        except Exception:
            self._crash()
            return None

    _begin = _proceed

    async def _wait(self, verdict: Awaitable[Verdict]) -> None:
        try:
            decided = await verdict
            # From here on ending the exchange must not cancel the task that ends it.
            self._task = None
            ready = self._obey(decided)
        except Exception:
            self._crash()
            return
        if ready is not None:
            await ready

    def _obey(self, verdict: Verdict) -> Future[None] | None:
        if self._answered:
            return None
        if verdict is None:
            return self._send()
        if isinstance(verdict, Reply):
            self._reply(verdict)
        else:
            assert verdict is BODY_WANTED
            self._hold()
        return None

    def _hold(self) -> None:
        """Keep the body in memory until it is whole, unless it announces itself as too large for that."""
        if self._head.content_length > self._plane.max_held_bytes:
            self._reply(too_large(self._plane.max_held_bytes))
        elif self._held is None:
            self._held = []

    # forwarding

    @abstractmethod
    def _send(self) -> Future[None] | None:
        """Every stage was passed: make the request that goes upstream, and `_start` it."""

    def _start(self, head: bytes, body: bytes | None, *, chunked: bool = False) -> Future[None] | None:
        """Send a head upstream, and with it the body if it is held."""
        self._forward = Forward(self.exchange, self._plane.pool, self, head, chunked=chunked)
        ready = self._forward.start()
        if body is not None and self._forward is not None:
            if body:
                self._forward.write(body)
            self._forward.end()
            return None
        return ready

    # answer out

    def on_answer_informational(self, head: ResponseHead) -> None:
        """A 1xx answer before the real one."""

    def on_answer_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """101: another protocol."""
        raise ResponseError("a 101 that nobody asked for")

    @abstractmethod
    def on_answer_headers(self, head: ResponseHead) -> bool:
        """The upstream answers. True = its body is wanted as it stands on the wire."""

    @abstractmethod
    def on_answer_data(self, data: bytes) -> None:
        """The next bytes of the answer."""

    @abstractmethod
    def on_answer_end(self) -> None:
        """The answer is whole."""

    def on_answer_error(self, error: UpstreamError) -> None:
        """The upstream failed: say so if nothing is out yet, else let the cut be seen as a cut."""
        self._fail(error)

    # end

    def _let_go(self) -> None:
        forward, self._forward = self._forward, None
        if forward is not None:
            forward.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None


def too_large(limit: int) -> Reply:
    """413: the body has more than ``limit`` bytes."""
    return Reply.of(413, INVALID_REQUEST, "body_too_large", BODY_TOO_LARGE, count=limit)
