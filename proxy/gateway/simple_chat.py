"""The route of the simple chat contract: through the same chain and the same forwarder as everything else."""

from __future__ import annotations

from asyncio import Future
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.core.errors import ProtocolError
from proxy.core.exchange import Route
from proxy.core.headers import Field, Headers, field
from proxy.core.messages import METHOD_NOT_ALLOWED
from proxy.core.reply import INVALID_REQUEST, Reply
from proxy.gateway import chat_contract
from proxy.gateway.downstream import Downstream
from proxy.gateway.envelope import JSON_TYPE, chat_answer
from proxy.gateway.forwarding import ForwardingDelegate
from proxy.gateway.masking import masked
from proxy.stages.key import bearer
from proxy.wire.gate import ResponseHead

if TYPE_CHECKING:
    from proxy.gateway.plane import DataPlane

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_USER_AGENT = f"sluice/{__version__}".encode("ascii")
_ALLOW = field(b"Allow", b"POST")


class ChatDelegate(ForwardingDelegate):
    """One exchange of the simple chat contract; its body is always held, in both directions."""

    route = Route.CHAT

    _request: chat_contract.ChatRequest | None = None
    _answer_head: ResponseHead | None = None
    _size = 0

    def __init__(self, plane: DataPlane, downstream: Downstream) -> None:
        super().__init__(plane, downstream)
        self._pieces: list[bytes] = []

    def _refusal(self) -> Reply | None:
        exchange = self.exchange
        if exchange.method != "POST":
            return Reply.of(
                405,
                INVALID_REQUEST,
                "method_not_allowed",
                METHOD_NOT_ALLOWED,
                headers=(_ALLOW,),
                method=exchange.method,
                allowed="POST",
            )
        return None

    def _read_body(self, body: bytes) -> Reply | None:
        try:
            request = self._request = chat_contract.parse(body, self._plane.chat_defaults)
        except chat_contract.Refused as refused:
            return refused.reply
        self.exchange.model = request.model
        self.exchange.body_credential = request.api_key
        return None

    def _send(self) -> Future[None] | None:
        exchange = self.exchange
        if exchange.body is None:
            # Every stage was content with the head; the contract itself needs the body.
            self._hold()
            return None
        assert self._request is not None
        upstream = self._plane.upstream
        body = chat_contract.upstream_body(self._request, self._plane.chat_defaults, is_openai=upstream.is_openai)
        head = upstream.chat_head(self._authorization(), _USER_AGENT, len(body))
        return self._start(head, body)

    def _authorization(self) -> bytes | None:
        """What the key stage resolved; without such a stage, the caller's credential as it came."""
        exchange = self.exchange
        if exchange.authorization is not None:
            return exchange.authorization
        if exchange.credential_source is None and exchange.body_credential and exchange.body_credential.isprintable():
            return b"Bearer " + exchange.body_credential.encode("ascii", "replace")
        header = bearer(exchange)
        return None if header is None else b"Bearer " + header.encode("latin-1")

    def on_answer_headers(self, head: ResponseHead) -> bool:
        """The upstream answers: keep its head until its body is whole."""
        self.exchange.first_byte_s = self._plane.clock()
        self._answer_head = head
        if self._forward is not None:
            # An error's own words are repeated to the caller.
            self._forward.give_to(masked(self, self.exchange, head))
        return False

    def on_answer_data(self, data: bytes) -> None:
        """Keep a piece of the upstream's body, up to a bound."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            self._fail(ProtocolError("its answer is too large"))

    def on_answer_end(self) -> None:
        """The upstream's answer is whole: put it into the contract's words."""
        head, request = self._answer_head, self._request
        assert head is not None
        assert request is not None
        body = b"".join(self._pieces)
        answer = chat_contract.read_answer(body) if head.status == 200 else None
        exchange = self.exchange
        kept = _kept(head.headers)
        if answer is None:
            reply = chat_contract.failure(head.status, head.headers, body, request.model)
            content_type, rendered = self._plane.render(reply, exchange)
            exchange.status = reply.status
            self._answer(reply.status, [_content_type(content_type), *reply.headers, *kept], rendered)
            return
        dialogue = [*request.dialogue, {"role": "assistant", "content": answer.text}]
        language = self._plane.language_of(exchange)
        rendered = chat_answer(answer.text, dialogue, answer.finish_reason, self._plane.catalogue, language)
        exchange.status = 200
        self._answer(200, [_content_type(JSON_TYPE), *kept], rendered)


def _content_type(value: bytes) -> Field:
    return field(b"Content-Type", value)


def _kept(headers: Headers) -> list[Field]:
    """OpenAI's own request id and rate limits, which are worth having on this route too."""
    return [line for line in headers.fields if line[0] == b"x-request-id" or line[0].startswith(b"x-ratelimit-")]
