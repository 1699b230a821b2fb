"""The life of a forwarded exchange, in the order of this file: request in, verdict, forwarding, answer out, end."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from proxy.core.chain import BODY_WANTED, Verdict
from proxy.core.errors import ProtocolError, UpstreamError
from proxy.core.exchange import Exchange
from proxy.core.headers import REPLACED_IN_RESPONSES, Headers, end_to_end
from proxy.core.messages import BODY_TOO_LARGE
from proxy.core.reply import INVALID_REQUEST, Reply
from proxy.gateway.answering import AnsweringDelegate
from proxy.gateway.downstream import Downstream
from proxy.gateway.forward import Forward
from proxy.wire.framing import Framing
from proxy.wire.gate import ResponseHead

if TYPE_CHECKING:
    from proxy.gateway.plane import DataPlane


class ExchangeDelegate(AnsweringDelegate):
    """One exchange below ``/v1``. `proxy.gateway.simple_chat.ChatDelegate` changes what goes up and comes down."""

    def __init__(self, plane: DataPlane, downstream: Downstream) -> None:
        super().__init__(plane, downstream)
        self._forward: Forward | None = None
        self._task: asyncio.Task[None] | None = None
        self._held: list[bytes] | None = None  # the body's pieces, while it is being held
        self._held_limit = plane.max_held_bytes
        self._splices = False

    # request in

    def _refusal(self, exchange: Exchange) -> Reply | None:
        """What is wrong with the request before any stage is asked."""
        length = exchange.headers.get(b"content-length")
        limit = self._plane.max_body_bytes
        if length is not None and limit and length.isdigit() and int(length) > limit:
            return too_large(limit)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """A piece of the body: held, or sent on."""
        if self._answered:
            return None
        exchange = self.exchange
        exchange.bytes_in += len(chunk)
        if self._held is not None:
            if exchange.bytes_in > self._held_limit:
                self._reply(too_large(self._held_limit))
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
        """The request is whole."""
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

    def _begin(self) -> Awaitable[None] | None:
        return self._proceed()

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
        length = self.exchange.headers.get(b"content-length")
        if length is not None and int(length) > self._held_limit:
            self._reply(too_large(self._held_limit))
        elif self._held is None:
            self._held = []

    # forwarding

    def _send(self) -> Future[None] | None:
        """Every stage was passed: forward the request as it came."""
        exchange = self.exchange
        body = exchange.body
        chunked = False
        framing = b""
        if body is not None:
            framing = b"Content-Length: %d\r\n" % len(body)
        elif (length := exchange.headers.get(b"content-length")) is not None:
            framing = b"Content-Length: %b\r\n" % length
        elif exchange.headers.get(b"transfer-encoding") is not None:
            chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        head = self._plane.upstream.request_head(exchange, framing)
        return self._start(head, body, chunked=chunked)

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

    def on_answer_headers(self, head: ResponseHead) -> bool:
        """The upstream answers: pass its head on. True = its body goes out as it stands on the wire."""
        exchange = self.exchange
        exchange.status = head.status
        exchange.first_byte_s = self._plane.clock()
        downstream = self._downstream
        headers = exchange.response_headers = Headers(end_to_end(head.headers, REPLACED_IN_RESPONSES))
        headers.fields.append(self._request_id_field())
        try:
            self._chain.response_headers(exchange)
        except Exception:
            self._crash()
            return False
        framing = head.framing
        if self._chain.changes_chunks and framing is not Framing.NONE:
            headers.remove(b"content-length")
            framing = Framing.CLOSE
        self._splices = downstream.can_splice and framing in (Framing.LENGTH, Framing.CHUNKED)
        if framing is Framing.CHUNKED and self._is_http10:
            self._splices = False
        if not self._splices and framing in (Framing.CLOSE, Framing.CHUNKED):
            framing = Framing.CLOSE if self._is_http10 else Framing.CHUNKED
        try:
            downstream.start(
                head.status,
                head.reason,
                headers.fields,
                framing,
                splice=self._splices,
                body_follows=head.body_follows,
            )
        except Exception as error:
            # A head that may not be written: what the upstream sent is not HTTP after all.
            self._fail(ProtocolError(f"its headers cannot be passed on: {type(error).__name__}"))
            return False
        return self._splices

    def on_answer_data(self, data: bytes) -> None:
        """The next bytes of the answer; a client that cannot take them makes the upstream wait."""
        exchange = self.exchange
        if self._splices:
            ready = self._downstream.splice(data)
        else:
            if self._chain.changes_chunks:
                try:
                    data = self._chain.response_chunk(exchange, data)
                except Exception:
                    self._crash()
                    return
            ready = self._downstream.write(data)
        exchange.bytes_out += len(data)
        if not ready.done() and self._forward is not None:
            self._forward.pause()
            ready.add_done_callback(self._resume)

    def _resume(self, ready: Future[None]) -> None:
        ready.cancelled() or ready.exception()  # looked at; the close callback deals with a lost client
        if self._forward is not None:
            self._forward.resume()

    def on_answer_end(self) -> None:
        """The answer is whole."""
        if self._splices:
            self._downstream.splice_end()
        else:
            self._downstream.finish()
        self._complete()

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


def too_large(limit: int) -> Reply:
    """413: the body has more than ``limit`` bytes."""
    return Reply.of(413, INVALID_REQUEST, "body_too_large", BODY_TOO_LARGE, count=limit)
