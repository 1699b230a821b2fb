"""Message heads: httptools checks them, however their bytes are cut; then they are taken apart and pass the gate.

httptools gets no callback for lines: it checks every byte, and once it has accepted the head its lines are had by a
plain split, which keeps each as it came. Measured on a head of 14 lines, reading costs 3.6 µs more than with a call
per line, and writing the lines out again 2.2 µs less: fidelity is the reason, not speed.
"""

from __future__ import annotations

import re

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from proxy.core.headers import Field, Headers, taken_apart
from proxy.wire.framing import NO_BODY
from proxy.wire.gate import RequestError, RequestHead, ResponseError, ResponseHead, check_request, check_response

MAX_FIELDS = 100
"""Header lines of one message; one of them may have half the bytes a head may have."""

MAX_RESPONSE_HEAD = 262_144
"""Bytes of the head of an answer."""
_BODYLESS = (204, 304)
_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
LONGEST_METHOD = 24
_METHOD = re.compile(rb"[!#$%%&'*+.^_`|~0-9A-Za-z-]{1,%d} " % LONGEST_METHOD)
_METHOD_BEGUN = re.compile(rb"[!#$%%&'*+.^_`|~0-9A-Za-z-]{1,%d}\Z" % LONGEST_METHOD)
_BLANK_LINE = (b"\r", b"\n")
_HEAD_END = b"\r\n\r\n"


class _End:
    """Notes that httptools has seen the end of a head. Apart, so that no two objects keep each other alive."""

    __slots__ = ("reached",)

    def __init__(self) -> None:
        self.reached = False

    def on_headers_complete(self) -> None:
        self.reached = True


class _HeadParser:
    """Collects exactly one head and has it checked, however its bytes are cut."""

    __slots__ = ("_data", "_end", "_fed", "_feed_parser", "_max_bytes")

    def __init__(self, kind: type[HttpRequestParser] | type[HttpResponseParser], max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = b""
        self._fed = 0
        self._end = _End()
        self._feed_parser = kind(self._end).feed_data

    def _take(self, data: bytes) -> int:
        """The offset behind the head's end, or -1.

        Raises httptools' errors, OverflowError if the head is too long, and ValueError if it is none.
        """
        seen = len(self._data)
        if seen:
            whole = self._data + data
            # The end may have been cut in two.
            found = whole.find(_HEAD_END, max(seen - 3, 0))
        else:
            if data[:1] in _BLANK_LINE:
                # httptools would skip it; others count it as a line.
                raise ValueError
            whole = data
            found = data.find(_HEAD_END)
        length = len(whole)
        end = length if found < 0 else found + 4
        if end > self._max_bytes:
            raise OverflowError
        self._data = whole if end == length else whole[:end]
        if found < 0 and _METHOD_BEGUN.match(whole):
            # httptools would judge the word by its beginning: the verdict must not depend on where it was cut.
            return -1
        fed = self._fed
        self._fed = end
        try:  # noqa: SIM105 - suppress() costs half a microsecond, twice a request
            self._feed_parser(data if end == length and fed == seen else whole[fed:end])
        except HttpParserUpgrade:
            # It stops behind such a head, which is where we stop anyway.
            pass
        if self._end.reached != (found >= 0):
            raise ValueError
        return -1 if found < 0 else end - seen

    def _start_line(self) -> list[bytes]:
        """The words of the first line, as far as it is known."""
        return self._data.partition(b"\r\n")[0].split(b" ", 2)

    def _fields(self) -> list[Field]:
        """Every header line that is whole."""
        return taken_apart(self._data.splitlines(True)[1:])


_whole_end = _End()


def _check_whole(parser: type[HttpRequestParser] | type[HttpResponseParser], head: bytes) -> None:
    """Have httptools check a head that came in one piece. Raises its errors, and ValueError if it is no head."""
    _whole_end.reached = False
    try:  # noqa: SIM105 - suppress() costs half a microsecond, once a request
        parser(_whole_end).feed_data(head)
    except HttpParserUpgrade:
        pass
    if not _whole_end.reached:
        raise ValueError


class RequestParser(_HeadParser):
    """Reads one request head, from the first byte to the gate."""

    __slots__ = ()

    def __init__(self, max_bytes: int) -> None:
        super().__init__(HttpRequestParser, max_bytes)

    @property
    def target(self) -> bytes:
        """What is known of the target so far, for an error answer in the right shape."""
        words = self._start_line()
        return words[1] if len(words) > 1 else b""

    @property
    def headers(self) -> Headers:
        """What is known of the headers so far, for an error answer in the right language."""
        return Headers(self._fields())

    def feed(self, data: bytes) -> int:
        """Take the next bytes; the offset behind the head's end, or -1. Raises RequestError."""
        try:
            return self._take(data)
        except OverflowError:
            raise RequestError(431, "the headers are too large") from None
        except ValueError:
            raise RequestError(400, "the request line is missing or malformed") from None
        except HttpParserInvalidMethodError:
            if not _METHOD.match(self._data):
                raise RequestError(400, "the request line is malformed") from None
            raise RequestError(405, "the method is unknown") from None
        except HttpParserError as error:
            raise RequestError(400, _plain(error)) from None

    def head(self) -> RequestHead:
        """The whole head, checked. Raises RequestError."""
        most = self._max_bytes // 2
        if len(self._data) > most:
            self._check_lengths(most)
        fields = self._fields()
        if len(fields) > MAX_FIELDS:
            raise RequestError(431, f"there are more than {MAX_FIELDS} header lines")
        words = self._start_line()
        if len(words) != 3:
            raise RequestError(400, "the request line is malformed")
        method, target, version = words
        head = RequestHead(method.decode("ascii"), target, _VERSIONS.get(version, ""), Headers(fields))
        check_request(head)
        return head

    def _check_lengths(self, most: int) -> None:
        """Refuse a line of more than ``most`` bytes: what comes behind us may read less than we do."""
        start, *lines = self._data.split(b"\r\n")
        if len(start) > most:
            raise RequestError(414, "the target is too long")
        if any(len(line) > most for line in lines):
            raise RequestError(431, "a header line is too long")


class ResponseParser(_HeadParser):
    """Reads one response head, from the first byte to the gate."""

    __slots__ = ()

    def __init__(self, max_bytes: int = MAX_RESPONSE_HEAD) -> None:
        super().__init__(HttpResponseParser, max_bytes)

    def feed(self, data: bytes) -> int:
        """Take the next bytes; the offset behind the head's end, or -1. Raises ResponseError."""
        try:
            return self._take(data)
        except OverflowError:
            raise ResponseError("the head is too large") from None
        except ValueError:
            raise ResponseError("the status line is malformed") from None
        except HttpParserError as error:
            raise ResponseError(_plain(error)) from None

    def head(self, request_method: str) -> ResponseHead:
        """The whole head, checked; the request's method decides if there is a body. Raises ResponseError."""
        return _response_head(self._data, request_method)


def read_response_head(data: bytes, request_method: str, max_bytes: int = MAX_RESPONSE_HEAD) -> ResponseHead | None:
    """The head of an answer, checked, if the whole of it is there; what `ResponseParser` finds, a third sooner.

    ``size`` of what is answered is the offset behind it. Raises ResponseError.
    """
    end = data.find(_HEAD_END) + 4
    if not 4 <= end <= max_bytes or data[:1] in _BLANK_LINE:
        return None
    head = data[:end]
    try:
        _check_whole(HttpResponseParser, head)
    except ValueError:
        raise ResponseError("the status line is malformed") from None
    except HttpParserError as error:
        raise ResponseError(_plain(error)) from None
    return _response_head(head, request_method)


def _response_head(data: bytes, request_method: str) -> ResponseHead:
    start, _, block = data[:-2].partition(b"\r\n")
    version, status_text, *reason = start.split(b" ", 2)
    status = int(status_text)
    head = ResponseHead(status, reason[0] if reason else b"", _VERSIONS.get(version, ""), Headers.of_block(block))
    head.size = len(data)
    check_response(head, block)
    if request_method == "HEAD" or status in _BODYLESS or status < 200:
        head.framing = NO_BODY
    return head


def _plain(error: HttpParserError) -> str:
    """httptools' reason as part of a sentence."""
    text = str(error).strip() or "it is not HTTP"
    return text[0].lower() + text[1:].replace("`", "'")
