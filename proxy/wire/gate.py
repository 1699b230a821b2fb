"""The strict gate: what httptools accepts and another server might understand differently is refused here.

Sources: RFC 9112 sections 3, 6 and 9; RFC 9110 sections 7.2 (Host) and 10.1.1 (Expect).
"""

from __future__ import annotations

import re
from functools import lru_cache

from proxy.core.headers import FORWARDING, NAMES_NOTHING, REPLACED_IN_RESPONSES, Headers
from proxy.core.sse import EventWatch
from proxy.wire.framing import BY_CHUNKS, BY_CLOSE, BY_LENGTH, NO_BODY

_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*\Z")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._~-]{1,253})(?::([0-9]{1,5}))?\Z")
# A path that another server might resolve to a different one.
_AMBIGUOUS_PATH = re.compile(rb"^//|\\|%5c|%00|(?:/|%2f)(?:\.|%2e){1,2}(?:/|%2f|;|\Z)", re.IGNORECASE)
_REMEMBERED = 512
"""Targets and hosts up to this many bytes are judged once and remembered: most requests have the same few."""
_DECIMAL = re.compile(rb"(?:0|[1-9][0-9]{0,17})\Z")
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_HYPHENS = re.compile(rb"[-_.]+")
_TWINNED = FORWARDING | {
    b"authorization",
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"te",
    b"transfer-encoding",
    b"upgrade",
}
_REPLACED = b"|".join(sorted(REPLACED_IN_RESPONSES))
_MEANS_SOMETHING = re.compile(rb"\n(content-type|content-length|%b):([^\r\n]*)" % _REPLACED).findall
"""The lines of an answer that mean something to us, in lower case; all others only pass."""
_DROPPED = re.compile(rb"^(?:%b):[^\n]*\n" % _REPLACED, re.IGNORECASE | re.MULTILINE).sub
_JUDGED = frozenset(
    {b"authorization", b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"}
)
ALLOWED_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
_ALLOWED = frozenset(ALLOWED_METHODS.split(", "))


class RequestError(Exception):
    """A request that must not be served. ``reason`` is plain English for the caller."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ResponseError(Exception):
    """An answer that makes no sense."""


class RequestHead:
    """The head of one request that passed the gate."""

    __slots__ = (
        "content_length",
        "expects_continue",
        "framing",
        "headers",
        "keep_alive",
        "method",
        "target",
        "version",
        "wants_websocket",
    )

    def __init__(self, method: str, target: bytes, version: str, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.version = version  # "1.0" or "1.1"
        self.headers = headers
        self.framing = NO_BODY
        self.content_length = 0
        self.keep_alive = version == "1.1"
        self.expects_continue = False
        self.wants_websocket = False  # the one Upgrade we perform; any other one is ignored (RFC 9110 section 7.8)


class ResponseHead:
    """The head of one answer that passed the gate."""

    __slots__ = (
        "body_follows",
        "content_length",
        "crossing",
        "events",
        "framing",
        "headers",
        "keep_alive",
        "may_be_events",
        "reason",
        "size",
        "status",
        "version",
    )

    def __init__(self, status: int, reason: bytes, version: str, headers: Headers) -> None:
        self.status = status
        self.reason = reason
        self.version = version
        self.headers = headers
        self.size = 0  # bytes of it on the wire
        self.body_follows = False  # the first bytes of its body came in the same segment
        self.events: EventWatch | None = None  # put here by whoever wants its body watched as a stream of events
        self.framing = BY_CLOSE
        self.content_length = 0
        self.may_be_events = False  # some Content-Type says so
        # The lines that may cross, as they stand on the wire; None where only `end_to_end` can tell.
        self.crossing: bytes | None = None
        self.keep_alive = version == "1.1"

    def forget_lines(self) -> None:
        """Let go of the header lines: whoever wanted them has them, and a stream need not hold them twice."""
        self.headers, self.crossing = Headers(), None


def check_request(head: RequestHead) -> None:
    """The gate for requests: sets framing, persistence and expectation. Raises RequestError."""
    is_old = head.version == "1.0"
    if not is_old and head.version != "1.1":
        raise RequestError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    _check_target(head)
    host: bytes | None = None
    seen_authorization = False
    closes = False
    fields = head.headers.fields
    names = b" ".join([line[0] for line in fields])
    if b"_" in names or b"." in names or b"--" in names:
        _check_twins(head.headers)
    for lower, _, value in fields:
        if lower not in _JUDGED:
            continue
        if lower == b"host":
            if host is not None:
                raise RequestError(400, "there is more than one Host header")
            host = value
        elif lower == b"content-length":
            if head.framing is not NO_BODY:
                raise RequestError(400, "the body is framed twice")
            # A leading zero is octal to some, and must not go on as it came.
            if not _DECIMAL.match(value):
                raise RequestError(400, "Content-Length is not a plain decimal number")
            head.framing = BY_LENGTH
            head.content_length = int(value)
        elif lower == b"transfer-encoding":
            if head.framing is not NO_BODY:
                raise RequestError(400, "the body is framed twice")
            if is_old or value.lower() != b"chunked":
                raise RequestError(400, "the only Transfer-Encoding accepted is chunked, on HTTP/1.1")
            head.framing = BY_CHUNKS
        elif lower == b"connection":
            closes = closes or _says(b"close", value)
            head.keep_alive = head.keep_alive or _says(b"keep-alive", value)
        elif lower == b"expect":
            if value.lower() != b"100-continue":
                raise RequestError(417, "the only expectation understood is 100-continue")
            head.expects_continue = not is_old
        elif lower == b"upgrade":
            # Nothing but this one word on a plain GET: with more than one protocol or a body it is ignored.
            head.wants_websocket = value.lower() == b"websocket"
        elif lower == b"authorization":
            if seen_authorization:
                raise RequestError(400, "there is more than one Authorization header")
            seen_authorization = True
    head.keep_alive = head.keep_alive and not closes
    _check_host(host, is_old)
    if head.wants_websocket:
        head.wants_websocket = _may_switch(head)


def _may_switch(head: RequestHead) -> bool:
    """Whether a request that names WebSocket in Upgrade really asks for it (RFC 6455 section 4.1)."""
    return (
        head.method == "GET"
        and head.version == "1.1"
        and head.framing is not BY_CHUNKS
        and head.content_length == 0
        and any(_says(b"upgrade", value) for value in head.headers.get_all(b"connection"))
        and len(head.headers.get_all(b"upgrade")) == len(head.headers.get_all(b"sec-websocket-key")) == 1
    )


def _check_target(head: RequestHead) -> None:
    target = head.target
    if head.method not in _ALLOWED:
        raise RequestError(405, "the method is not allowed")
    if target == b"*" and head.method == "OPTIONS":
        return
    reason = _target_fault(target) if len(target) <= _REMEMBERED else _target_fault.__wrapped__(target)
    if reason:
        raise RequestError(400, reason)


@lru_cache(maxsize=1024)
def _target_fault(target: bytes) -> str:
    """What is wrong with a target; empty if nothing is."""
    if not _TARGET.match(target):
        return "the target must be a path of visible ASCII characters without '#'"
    if _AMBIGUOUS_PATH.search(target.partition(b"?")[0]):
        return "the path holds dot segments, backslashes or a doubled slash at its start"
    return ""


def _check_host(host: bytes | None, is_old: bool) -> None:
    if host is None:
        if is_old:
            return
        raise RequestError(400, "the Host header is missing")
    if len(host) > _REMEMBERED or not _is_host(host):
        raise RequestError(400, "the Host header is malformed")


@lru_cache(maxsize=1024)
def _is_host(host: bytes) -> bool:
    match = _HOST.match(host)
    return match is not None and (match[1] is None or int(match[1]) <= 65535)


def _check_twins(headers: Headers) -> None:
    """Refuse a name that some servers take for another one: ``Authorization_``, ``X_Forwarded_For``, ``Host--``."""
    for name, _, _ in headers.fields:
        if b"_" in name or b"." in name or b"--" in name:
            twin = _HYPHENS.sub(b"-", name).strip(b"-")
            if twin in _TWINNED or headers.get(twin) is not None:
                shown = name.decode("latin-1")
                raise RequestError(400, f"the header {shown!r} can be taken for {twin.decode('latin-1')!r}")


def check_response(head: ResponseHead, block: bytes) -> None:
    """The gate for answers: sets framing, persistence and what may cross of the ``block`` of header lines.

    Nothing is taken apart but the lines that mean something here. Raises ResponseError.
    """
    if head.version not in ("1.0", "1.1"):
        raise ResponseError("another version than HTTP/1.0 or HTTP/1.1")
    if head.status < 100:
        raise ResponseError("a status below 100")
    if head.reason != b"OK" and not _REASON.match(head.reason):
        raise ResponseError("a control character in the reason")
    closes = names_others = drops = False
    for name, came in _MEANS_SOMETHING(b"\n" + block.lower()):
        value = came.strip()
        if name == b"content-type":
            head.may_be_events = head.may_be_events or value.startswith(b"text/event-stream")
            continue
        if name == b"content-length":
            if head.framing is not BY_CLOSE:
                raise ResponseError("the body is framed twice")
            if not value.isdigit() or len(value) > 18:
                raise ResponseError("Content-Length is not a decimal number")
            head.framing = BY_LENGTH
            head.content_length = int(value)
            continue
        drops = True
        if name == b"transfer-encoding":
            if head.framing is not BY_CLOSE:
                raise ResponseError("the body is framed twice")
            if value != b"chunked":
                raise ResponseError("a Transfer-Encoding other than chunked")
            head.framing = BY_CHUNKS
        elif name == b"connection":
            closes = closes or _says(b"close", value)
            head.keep_alive = head.keep_alive or _says(b"keep-alive", value)
            names_others = names_others or value not in NAMES_NOTHING
            # Whoever takes it at its word drops the length, and with it the end of the body.
            if len(value) > 13 and _says(b"content-length", value):
                raise ResponseError("Connection names Content-Length")
    head.keep_alive = head.keep_alive and not closes
    if not names_others:
        head.crossing = _DROPPED(b"", block) if drops else block


def _says(option: bytes, connection: bytes) -> bool:
    """Whether a Connection line lists this option; in any line, close wins (RFC 9112 section 9.3)."""
    lower = connection.lower()
    return lower == option or option in [token.strip() for token in lower.split(b",")]
