"""OpenAI's own API, below ``/v1``: what comes goes on as it came, in both directions."""

from __future__ import annotations

from asyncio import Future

from proxy.core.errors import GatewayError, ProtocolError
from proxy.core.headers import REPLACED_IN_INFORMATIONAL, REPLACED_IN_RESPONSES, Headers, end_to_end, field
from proxy.core.sse import EventWatch, is_event_stream, promises_terminal_event
from proxy.gateway.envelope import error_event, error_object
from proxy.gateway.forwarding import ForwardingDelegate
from proxy.gateway.heartbeat import COMMENT, Heartbeat, LateAnswer
from proxy.gateway.masking import masked, may_tell_key, sealed
from proxy.gateway.websocket import UPGRADE, accepted_fields
from proxy.wire.client import UpstreamConnection
from proxy.wire.framing import BY_CHUNKS, BY_CLOSE, BY_LENGTH, NO_BODY
from proxy.wire.gate import ResponseError, ResponseHead
from proxy.wire.tunnel import Tunnel


class ApiDelegate(ForwardingDelegate):
    """One exchange below ``/v1``."""

    _splices = False
    _is_waiting_for_client = False
    _events: EventWatch | None = None  # of an answer that is a stream of events
    _ends_by_close = False
    _is_begun = False  # by us, and no stream of the upstream's has come yet
    _is_switching = False

    # request

    def _send(self) -> Future[None] | None:
        """Every stage was passed: forward the request as it came."""
        exchange = self.exchange
        body = exchange.body
        came = self._head.framing
        chunked = False
        framing = b""
        if body is not None:
            framing = b"Content-Length: %d\r\n" % len(body)
        elif came is BY_LENGTH:
            framing = b"Content-Length: %d\r\n" % self._head.content_length
        elif came is BY_CHUNKS:
            chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        if self._downstream.wants_websocket:
            self._is_switching = True
            framing = UPGRADE
        elif self._plane.heartbeat_s and exchange.method == "POST" and not self._is_http10:
            self._heartbeat = Heartbeat(self._plane.ticker, self._plane.heartbeat_s, self._beat)
            # In a packed stream there is no place for a comment, and a packed error is none that we can tell of.
            exchange.headers.set(b"Accept-Encoding", b"identity")
            self._heartbeat.see(body or b"")
            if body is not None:
                self._heartbeat.touch()
        head = self._plane.upstream.request_head(exchange, framing)
        return self._start(head, body, chunked=chunked)

    # answer

    def on_answer_informational(self, head: ResponseHead) -> None:
        """Pass it on; a 100 was never asked for by us, who answer the client's ``Expect`` ourselves."""
        if head.status != 100:
            headers = Headers(end_to_end(head.headers, REPLACED_IN_INFORMATIONAL))
            self._downstream.inform(head.status, head.reason, headers)

    def on_answer_headers(self, head: ResponseHead) -> bool:
        """The upstream answers: pass its head on. True = its body goes out as it stands on the wire."""
        exchange = self.exchange
        downstream = self._downstream
        if self._heartbeat is not None:
            self._heartbeat.forget()
        if downstream.started:
            return self._take_late(head)
        exchange.status = head.status
        exchange.first_byte_s = self._plane.clock()
        hides_key = head.status >= 400 and may_tell_key(exchange, head.status)
        if hides_key and self._forward is not None:
            refusal = sealed(head)
            if refusal is not None:
                self._reply(refusal)
                return False
            self._forward.give_to(masked(self, exchange, head))
        if head.crossing is not None:
            headers = Headers.of_block(head.crossing)
        else:
            headers = Headers(end_to_end(head.headers, REPLACED_IN_RESPONSES))
        exchange.response_headers = headers
        headers.append(self._request_id_field())
        try:
            self._chain.response_headers(exchange)
        except Exception:
            self._crash()
            return False
        framing = head.framing
        if framing is not NO_BODY and head.may_be_events and is_event_stream(head.headers):
            self._watch(head)
        if self._chain.changes_chunks and framing is not NO_BODY:
            headers.remove(b"content-length")
            framing = BY_CLOSE
        self._splices = downstream.can_splice and not hides_key and framing in (BY_LENGTH, BY_CHUNKS)
        if framing is BY_CHUNKS and self._is_http10:
            self._splices = False
        if not self._splices and framing in (BY_CLOSE, BY_CHUNKS):
            framing = BY_CLOSE if self._is_http10 else BY_CHUNKS
        try:
            downstream.start(
                head.status,
                head.reason,
                headers,
                framing,
                splice=self._splices,
                body_follows=head.body_follows,
            )
        except Exception as error:
            # A head that may not be written: what the upstream sent is not HTTP after all.
            self._fail(ProtocolError(f"its headers cannot be passed on: {type(error).__name__}"))
            return False
        if self._events is not None:
            headers.fold()
            exchange.headers.fold()
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
        if self._heartbeat is not None:
            self._heartbeat.touch()
        if not ready.done() and self._forward is not None:
            self._forward.pause()
            self._is_waiting_for_client = True
            ready.add_done_callback(self._resume)

    def _resume(self, ready: Future[None]) -> None:
        ready.cancelled() or ready.exception()  # looked at; the close callback deals with a lost client
        self._is_waiting_for_client = False
        if self._forward is not None:
            self._forward.resume()

    def on_answer_end(self) -> None:
        """The answer is whole, unless it is a stream that ended without its last event."""
        if self._events is not None and not self._may_end(self._events):
            self._fail(ProtocolError("the stream ended without its last event"))
            return
        if self._splices:
            self._downstream.splice_end()
        else:
            self._downstream.finish()
        self._forward = None
        self._complete()

    # streams of events

    def _watch(self, head: ResponseHead) -> None:
        """Follow the events of this answer."""
        head.events = self._events = EventWatch()
        # An announced length leaves no room for anything of ours.
        self._events.is_between_chunks = head.framing is not BY_LENGTH
        self._ends_by_close = head.framing is BY_CLOSE

    def _may_end(self, events: EventWatch) -> bool:
        """Whether the stream can be whole; False if its end cannot be told from a broken connection."""
        return events.is_terminated or not self._ends_by_close or not promises_terminal_event(self.exchange.path)

    def _ending(self) -> str:
        """What there is to say of the end of this stream; nothing if its kind may end as it likes, and did."""
        if self._events is not None and self._events.is_terminated:
            return "complete"
        is_short = self.exchange.aborted or promises_terminal_event(self.exchange.path)
        return "truncated" if is_short else ""

    def _has_room(self) -> bool:
        """Whether an event of ours can stand where the answer is now."""
        if self._chain.changes_chunks or self._is_http10:
            return False
        events = self._events
        if events is None:
            return self._is_begun
        return events.is_between_events and events.is_between_chunks and not events.is_terminated

    def _interject(self, event: bytes) -> None:
        """Write an event of our own."""
        self.exchange.bytes_out += len(event)
        if self._splices:
            self._downstream.splice(b"%x\r\n%b\r\n" % (len(event), event))
        else:
            self._downstream.write(event)

    def _say_why(self, error: GatewayError) -> None:
        if self._events is not None:
            self.exchange.stream = "truncated"
        if self._has_room():
            reply = error.reply()
            self._interject(self._error_event(error_object(reply, *self._plane.words_for(self.exchange))))

    def _error_event(self, error: dict[str, object]) -> bytes:
        number = self._events.sequence_number if self._events is not None else -1
        return error_event(self.exchange.path, error, number + 1)

    # heartbeats

    def _beat(self) -> None:
        """It has been silent: say something, if there is a place for it."""
        if self._answered or self._is_waiting_for_client or self._heartbeat is None:
            return
        if not self._downstream.started and self._heartbeat.asks_for_stream():
            self._commit()
        if self._downstream.started and self._has_room():
            self._interject(COMMENT)

    def _commit(self) -> None:
        """Begin the stream in the upstream's place: there is no other way to say that it is still at work."""
        exchange = self.exchange
        exchange.status = 200
        exchange.response_headers = Headers(
            [
                field(b"Content-Type", b"text/event-stream; charset=utf-8"),
                field(b"Cache-Control", b"no-cache"),
                self._request_id_field(),
                self._plane.date_field(),
            ]
        )
        try:
            self._chain.response_headers(exchange)
        except Exception:
            self._crash()
            return
        self._downstream.start(200, b"OK", exchange.response_headers, BY_CHUNKS)
        self._is_begun = True

    def _take_late(self, head: ResponseHead) -> bool:
        """The upstream answers, but a 200 is out: its events go on, and anything else becomes one."""
        self.exchange.first_byte_s = self._plane.clock()
        if head.status == 200 and is_event_stream(head.headers):
            self._watch(head)
            assert self._events is not None
            self._events.is_between_chunks = True  # the chunks are ours
        elif self._forward is not None:
            late = LateAnswer(self._end_late, self._fail)
            self._forward.give_to(masked(late, self.exchange, head))
        return False

    def _end_late(self, error: dict[str, object] | None) -> None:
        """An answer that is no stream has come where one was begun: it ends with an event that says so."""
        if error is None:
            self._fail(ProtocolError("it did not answer with a stream"))
            return
        self.exchange.aborted = "upstream"
        self._interject(self._error_event(error))
        self._downstream.finish()
        self._complete()

    # another protocol

    def on_answer_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """The upstream goes over to WebSocket, if we asked for that: join the two connections."""
        if not self._is_switching:
            raise ResponseError("a 101 that nobody asked for")
        exchange = self.exchange
        fields = accepted_fields(head, exchange.headers)
        exchange.status = 101
        exchange.first_byte_s = self._plane.clock()
        exchange.response_headers = Headers([*fields, self._request_id_field()])
        self._chain.response_headers(exchange)
        self._downstream.set_close_callback(None)
        connection.hand_over()
        client, early = self._downstream.switch(exchange.response_headers)
        tunnel = Tunnel(
            client,
            connection,
            ticker=self._plane.ticker,
            idle_s=self._plane.upstream.config.idle_timeout_s,
            on_end=self._tunnel_ended,
        )
        tunnel.begin(early, data)

    def _tunnel_ended(self, tunnel: Tunnel) -> None:
        exchange = self.exchange
        exchange.bytes_in, exchange.bytes_out = tunnel.bytes_up, tunnel.bytes_down
        exchange.aborted = (tunnel.ended_by or "gateway") if tunnel.was_broken else ""
        self._complete()

    # end

    def _let_go(self) -> None:
        super()._let_go()
        if (self._events is not None or self._is_begun) and not self.exchange.stream:
            self.exchange.stream = self._ending()
