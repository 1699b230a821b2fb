"""Hides the server's key in what the upstream says about it: "Incorrect API key provided: sk-..." is not for callers.

Only answers of status 400 and above to exchanges that travel with a server key are looked into; everything else goes
on as it came, and pays one comparison for it. In those answers every occurrence of the key is replaced by as many
asterisks, in the head and, as its bytes come, in the body: nothing is held but the few bytes that may be the
beginning of the key.

A body in ``gzip`` is unpacked for that and goes on unpacked. One in any other coding cannot be looked into: 401 and
403, which are about the key, are then answered in the gateway's own words; other errors go on as they came.
(Content codings: RFC 9110 section 8.4.)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from proxy.core.errors import ProtocolError, UpstreamError
from proxy.core.exchange import Exchange
from proxy.core.headers import Headers
from proxy.core.messages import UPSTREAM_FORBIDDEN, UPSTREAM_REFUSED_KEY
from proxy.core.reply import INVALID_REQUEST, PERMISSION, Reply
from proxy.gateway.forward import AnswerTaker
from proxy.wire.client import UpstreamConnection
from proxy.wire.framing import BY_CHUNKS, BY_LENGTH, NO_BODY
from proxy.wire.gate import ResponseError, ResponseHead

MAX_UNPACKED_BYTES = 1_048_576
"""A compressed error with more in it than this is cut."""
_TELLING = 12
"""A part of the key with so many characters is hidden too, where the body ends within the key."""
_ZIPPED = (b"gzip", b"x-gzip")
_GZIP = 16 + zlib.MAX_WBITS
# What describes the bytes of a body that will be other bytes.
_OF_PACKED_BODY = frozenset({b"content-encoding", b"content-length", b"content-md5", b"content-digest", b"etag"})


def may_tell_key(exchange: Exchange, status: int) -> bool:
    """Whether an answer is an error about a request that travelled with a server's key."""
    return status >= 400 and exchange.credential_source == "server"


def sealed(head: ResponseHead) -> Reply | None:
    """What to answer in the place of a refusal whose body cannot be looked into; None for all other answers."""
    if head.status not in (401, 403) or head.framing is NO_BODY or _coding(head) in (b"", *_ZIPPED):
        return None
    kept = tuple(line for line in head.headers.fields if line[0] == b"x-request-id")
    if head.status == 401:
        return Reply.of(401, INVALID_REQUEST, "invalid_api_key", UPSTREAM_REFUSED_KEY, headers=kept)
    return Reply.of(403, PERMISSION, "forbidden", UPSTREAM_FORBIDDEN, headers=kept, reason="")


def masked(taker: AnswerTaker, exchange: Exchange, head: ResponseHead) -> AnswerTaker:
    """Who takes the rest of an answer so that ``taker`` sees no key in it: itself, unless it `may_tell_key`.

    If it is another, the head has been changed as well: its values, and for a body that is to be unpacked its
    framing. Such a body cannot be had as it stands on the wire.
    """
    if not may_tell_key(exchange, head.status):
        return taker
    key = (exchange.credential or "").encode("ascii")
    mask = b"*" * len(key)
    lines = [
        (name, line.replace(key, mask), value.replace(key, mask)) if key in line else (name, line, value)
        for name, line, value in head.headers.fields
    ]
    head.headers, head.crossing = Headers(lines), None
    head.reason = head.reason.replace(key, mask)
    unpack = None
    if head.framing is not NO_BODY and _coding(head) in _ZIPPED:
        unpack = _Unpacker()
        head.headers = Headers([line for line in lines if line[0] not in _OF_PACKED_BODY])
        if head.framing is BY_LENGTH:
            head.framing = BY_CHUNKS
    return MaskedAnswer(taker, KeyMask(key), lambda: exchange.completed, unpack)


def _coding(head: ResponseHead) -> bytes:
    """The coding of a body, in lower case; empty if it is as it is."""
    coding = b",".join(head.headers.get_all(b"content-encoding")).strip().lower()
    return b"" if coding == b"identity" else coding


class KeyMask:
    """Replaces a key in bytes that come in pieces by as many asterisks."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._mask = b"*" * len(key)
        self._held = b""  # the end of what came, if a key may have begun there

    def feed(self, data: bytes) -> bytes:
        """What can be shown of the bytes so far; the same number of bytes comes out, some of them later."""
        data = (self._held + data).replace(self._key, self._mask)
        begun = self._begun(data)
        self._held = data[len(data) - begun :]
        return data[: len(data) - begun]

    def rest(self) -> bytes:
        """What is left at the end of the body."""
        held, self._held = self._held, b""
        return held if len(held) < _TELLING else b"*" * len(held)

    def _begun(self, data: bytes) -> int:
        """How many bytes at the end of the data are the longest beginning of the key."""
        key = self._key
        at = data.find(key[:1], max(len(data) - len(key) + 1, 0))
        while at >= 0:
            if key.startswith(data[at:]):
                return len(data) - at
            at = data.find(key[:1], at + 1)
        return 0

    def __repr__(self) -> str:
        return f"<KeyMask [{len(self._held)} held]>"


class _Unpacker:
    """Unpacks a gzip body, and drops what stands behind its end. Raises ProtocolError for no gzip, or too much."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)
        self._left = MAX_UNPACKED_BYTES
        self._has_begun = False

    def feed(self, data: bytes) -> bytes:
        """Unpack the next piece."""
        if self._stream.eof:
            return b""
        self._has_begun = True
        try:
            unpacked = self._stream.decompress(data, self._left + 1)
        except zlib.error:
            raise ProtocolError("the body of its error is not the gzip it says it is") from None
        self._left -= len(unpacked)
        if self._left < 0:
            raise ProtocolError("the body of its error is too large to be unpacked")
        return unpacked

    def end(self) -> None:
        """The body has ended. Raises ProtocolError if what was packed has not."""
        if self._has_begun and not self._stream.eof:
            raise ProtocolError("the body of its error ended early")


class MaskedAnswer:
    """Takes an answer in the place of ``taker``, and passes it on without the key.

    ``is_over()`` tells whether the taker has ended the exchange in the meantime.
    """

    def __init__(
        self, taker: AnswerTaker, mask: KeyMask, is_over: Callable[[], bool], unpack: _Unpacker | None = None
    ) -> None:
        self._taker = taker
        self._mask = mask
        self._is_over = is_over
        self._unpack = unpack

    def on_answer_informational(self, head: ResponseHead) -> None:
        """Never called: the head is in already."""

    def on_answer_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """Never called: the head is in already."""
        raise ResponseError("a 101 behind an answer")

    def on_answer_headers(self, head: ResponseHead) -> bool:
        """Never called: the head is in already."""
        return False

    def on_answer_data(self, data: bytes) -> None:
        """Pass on what of it can be shown."""
        if self._unpack is not None:
            try:
                data = self._unpack.feed(data)
            except ProtocolError as error:
                self._taker.on_answer_error(error)
                return
        self._pass_on(self._mask.feed(data))

    def on_answer_end(self) -> None:
        """Pass on the rest, and the end."""
        if self._unpack is not None:
            try:
                self._unpack.end()
            except ProtocolError as error:
                self._taker.on_answer_error(error)
                return
        self._pass_on(self._mask.rest())
        if not self._is_over():
            self._taker.on_answer_end()

    def on_answer_error(self, error: UpstreamError) -> None:
        """It was cut; what is held may be half a key, and stays here."""
        self._taker.on_answer_error(error)

    def _pass_on(self, data: bytes) -> None:
        if data and not self._is_over():
            self._taker.on_answer_data(data)
