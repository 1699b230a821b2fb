"""Request heads that came before: what a client sends over and over is taken apart and judged once.

One program with one key sends the same head with every request, but for the length of its body. What the gate finds
is a function of the bytes alone, so the same bytes, with any other plain length, need not be looked at again.
Measured on the head of an OpenAI SDK (14 lines): 2 µs in place of 11. A head with a line of its own in each request,
a trace's id say, is never the same, and costs half a microsecond more.

What is remembered holds clients' keys, as long as it is used and a minute or two longer.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.headers import Headers, Seen
from proxy.wire.gate import RequestHead

MOST_BYTES = 2048
"""Longer heads are not remembered."""
MOST_LINES = 32
"""Heads of more lines are not remembered; an SDK sends about 14."""
MOST_HEADS = 512
"""So many are, and as many more that were not used of late; 8 KiB each at most."""
UNUSED_S = 60.0
"""Heads not used for so long are forgotten when a new one comes, at the latest after twice that."""

_END = b"\r\n\r\n"
# As SDKs write it: those for Python and Go, and those that go by fetch.
_LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_SKIP = len(_LENGTHS[0])


class _Known:
    """One head, with the place of its length among the lines (-1 = it has none)."""

    __slots__ = ("head", "length_at", "seen")

    def __init__(self, head: RequestHead) -> None:
        # A copy: whoever was given the first one may change its lines.
        self.head = _copy(head, Headers(head.headers.fields.copy()))
        self.seen = Seen(self.head.headers)
        names = [line[0] for line in head.headers.fields]
        self.length_at = names.index(b"content-length") if b"content-length" in names else -1


class KnownHeads:
    """The heads a listener has admitted twice, up to ``max_bytes`` each. ``clock`` is in seconds.

    In two generations: what is used comes into the younger one, and the elder one is forgotten as a whole. So more
    heads than fit cost some of their number, and not all of them everything.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        # From half of what a head may have, single lines are too long as well.
        self._most = min(MOST_BYTES, max_bytes // 2)
        self._clock = clock
        self._known: dict[bytes, _Known] = {}
        self._elder: dict[bytes, _Known] = {}
        self._seen_once: set[int] = set()
        self._next_s = clock() + UNUSED_S

    def find(self, data: bytes) -> tuple[RequestHead, int] | None:
        """The head that ``data`` begins with, and the offset behind it; None if it is not whole or not known."""
        end = data.find(_END)
        if end < 0 or end > self._most:
            return None
        start, stop = _length_in(data, end)
        key = data[:end] if stop < 0 else data[:start] + data[stop:end]
        known = self._known.get(key)
        if known is None:
            known = self._elder.get(key)
            if known is None:
                return None
            self._keep(key, known)
        length = b""
        if stop >= 0:
            length = data[start:stop]
            # A leading zero is octal to some.
            if not length.isdigit() or (length[0] == 48 and length != b"0") or len(length) > 18:
                return None
        return _again(known, data[start - _SKIP + 2 : stop + 2], length), end + 4

    def remember(self, data: bytes, head: RequestHead) -> None:
        """``data`` is a whole head that has passed the gate, and what comes behind."""
        end = data.find(_END)
        if end < 0 or end > self._most or len(head.headers) > MOST_LINES:
            return
        if head.headers.get(b"upgrade") is not None:
            # Whether an Upgrade is performed depends on the length, too.
            return
        start, stop = _length_in(data, end)
        key = data[:end] if stop < 0 else data[:start] + data[stop:end]
        if self._clock() >= self._next_s:
            self._grow_old()
        once = hash(key)
        if once not in self._seen_once:
            # Of heads that never come again no more is kept than this.
            if len(self._seen_once) >= MOST_HEADS:
                self._seen_once.clear()
            self._seen_once.add(once)
        else:
            self._seen_once.discard(once)
            self._keep(key, _Known(head))

    def _keep(self, key: bytes, known: _Known) -> None:
        if len(self._known) >= MOST_HEADS:
            self._grow_old()
        self._known[key] = known

    def _grow_old(self) -> None:
        self._elder, self._known = self._known, {}
        self._next_s = self._clock() + UNUSED_S


def _length_in(data: bytes, end: int) -> tuple[int, int]:
    """Where the value of Content-Length stands in a head that ends at ``end``; (.., -1) if there is none."""
    # From behind, where most clients have it, and where looking costs less.
    at = data.rfind(_LENGTHS[0], 0, end)
    if at < 0:
        at = data.rfind(_LENGTHS[1], 0, end)
        if at < 0:
            return 0, -1
    return at + _SKIP, data.find(b"\r", at + _SKIP)


def _again(known: _Known, line: bytes, length: bytes) -> RequestHead:
    """A head of its own for one more request: what it says of the length is new, and its lines may be changed."""
    fields = known.head.headers.fields.copy()
    head = _copy(known.head, Headers(fields, known.seen))
    if length:
        fields[known.length_at] = (b"content-length", line, length)
        head.content_length = int(length)
    return head


def _copy(old: RequestHead, headers: Headers) -> RequestHead:
    head = RequestHead(old.method, old.target, old.version, headers)
    head.keep_alive, head.framing, head.content_length = old.keep_alive, old.framing, old.content_length
    head.expects_continue, head.wants_websocket = old.expects_continue, old.wants_websocket
    return head
