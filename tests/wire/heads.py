"""Heads fed to the parsers in any segments, and what comes of them."""

from __future__ import annotations

from typing import Any

from proxy.wire.framing import Framing
from proxy.wire.gate import RequestError, RequestHead, ResponseHead
from proxy.wire.head import RequestParser, ResponseParser

MAX_BYTES = 65_536


def in_segments(data: bytes, by: int) -> list[bytes]:
    """The data in segments of ``by`` bytes; 0 = whole."""
    step = by or len(data) or 1
    return [data[start : start + step] for start in range(0, len(data), step)]


def _end(parser: RequestParser | ResponseParser, segments: list[bytes]) -> int:
    seen = 0
    for segment in segments:
        end = parser.feed(segment)
        if end >= 0:
            return seen + end
        seen += len(segment)
    return -1


def read_request(segments: list[bytes], max_bytes: int = MAX_BYTES) -> tuple[RequestHead | None, int]:
    """(the head, the offset behind it), or (None, -1) if it is not whole. Raises RequestError."""
    parser = RequestParser(max_bytes)
    end = _end(parser, segments)
    return (parser.head() if end >= 0 else None), end


def read_response(segments: list[bytes], method: str = "GET") -> tuple[ResponseHead | None, int]:
    """(the head, the offset behind it), or (None, -1) if it is not whole. Raises ResponseError."""
    parser = ResponseParser(MAX_BYTES)
    end = _end(parser, segments)
    return (parser.head(method) if end >= 0 else None), end


def facts(head: RequestHead | ResponseHead) -> dict[str, Any]:
    """Everything a head says, to compare two of them."""
    return {name: getattr(head, name) for name in head.__slots__ if name != "headers"} | {"f": head.headers.fields}


def request_of(data: bytes) -> RequestHead:
    """The head of a whole request."""
    head, _ = read_request([data])
    assert head is not None
    return head


def response_of(data: bytes, method: str = "GET") -> ResponseHead:
    """The head of a whole answer."""
    head, _ = read_response([data], method)
    assert head is not None
    return head


def get(*lines: str, target: str = "/", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request with a Host and these header lines."""
    return "\r\n".join([f"{method} {target} {version}", "Host: gateway.test", *lines, "", ""]).encode("latin-1")


def ok(*lines: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    """The head of an answer with these header lines."""
    return "\r\n".join([f"{version} {status}", *lines, "", ""]).encode("latin-1")


def status_of(data: bytes, by: int = 0) -> int:
    """The status a request is refused with; 0 if it is accepted, -1 if it is not whole."""
    try:
        return 0 if read_request(in_segments(data, by))[0] is not None else -1
    except RequestError as error:
        return error.status


def said(head: RequestHead | ResponseHead) -> list[tuple[bytes, bytes]]:
    """(name in lower case, value) of every line."""
    return [(lower, value) for lower, _, value in head.headers.fields]


NONE, LENGTH, CHUNKED, CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE
