"""Heartbeats: comments in a stream of events that is silent, so that nobody on the way takes it for dead.

Off unless ``heartbeat_s`` says otherwise. A comment stands only between two events. Before the upstream has answered
there is no stream to put one into: then, and not sooner, the gateway begins the answer itself, which commits it to
status 200. What the upstream answers after that comes as events of this stream, failures included. So that they can
be read, it is asked not to compress what it answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from proxy.core.errors import UpstreamError
from proxy.wire.client import UpstreamConnection
from proxy.wire.connection import NEVER
from proxy.wire.gate import ResponseError, ResponseHead
from proxy.wire.ticker import Ticker

COMMENT = b": still here\n\n"
"""Nothing to a reader of events (HTML standard, section 9.2.6: a line that begins with a colon is ignored)."""
MAX_SEEN = 1_048_576
"""Bytes of a request that are kept to find out whether it asks for a stream; larger ones are not asked about."""


class Heartbeat:
    """Calls ``beat`` after every ``interval_s`` of silence. Lives as long as its exchange."""

    def __init__(self, ticker: Ticker, interval_s: float, beat: Callable[[], None]) -> None:
        self._ticker = ticker
        self._interval_s = interval_s
        self._beat = beat
        self._seen: list[bytes] | None = []
        self._size = 0
        self.deadline_s = NEVER
        ticker.watch(self)

    def see(self, piece: bytes) -> None:
        """Keep a piece of the request."""
        self._size += len(piece)
        if self._size > MAX_SEEN:
            self._seen = None
        elif self._seen is not None:
            self._seen.append(piece)

    def touch(self) -> None:
        """Something was said: the silence begins anew."""
        self.deadline_s = self._ticker.loop.time() + self._interval_s

    def asks_for_stream(self) -> bool:
        """Whether the request says ``"stream": true``; looked at only when the first comment is due."""
        seen, self._seen = self._seen, None
        if not seen:
            return False
        try:
            body = json.loads(b"".join(seen))
        except (ValueError, RecursionError):
            return False
        return isinstance(body, dict) and body.get("stream") is True

    def forget(self) -> None:
        """Let go of what was kept, and keep no more: the upstream has said by itself what it answers with."""
        self._seen = None

    def on_deadline(self) -> None:
        """It has been silent for too long."""
        self.touch()
        self._beat()

    def stop(self) -> None:
        """No more comments."""
        self._ticker.drop(self)


class LateAnswer:
    """Takes an answer that is no stream, for a client to whom one was begun.

    ``on_end`` is called with OpenAI's error object out of its body, or None if there is none in it.
    """

    def __init__(
        self, on_end: Callable[[dict[str, object] | None], None], on_error: Callable[[UpstreamError], None]
    ) -> None:
        self._on_end = on_end
        self._on_error = on_error
        self._body = b""

    def on_answer_informational(self, head: ResponseHead) -> None:
        """Never called: the head is in already."""

    def on_answer_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """Never called: the head is in already."""
        raise ResponseError("a 101 behind an answer")

    def on_answer_headers(self, head: ResponseHead) -> bool:
        """Never called: the head is in already."""
        return False

    def on_answer_data(self, data: bytes) -> None:
        """Keep a piece, up to a bound."""
        if len(self._body) < MAX_SEEN:
            self._body += data

    def on_answer_end(self) -> None:
        """Find the error in it."""
        try:
            found = json.loads(self._body)
        except (ValueError, RecursionError):
            found = None
        error = found.get("error") if isinstance(found, dict) else None
        self._on_end(error if isinstance(error, dict) else None)

    def on_answer_error(self, error: UpstreamError) -> None:
        """It was cut as well."""
        self._on_error(error)
