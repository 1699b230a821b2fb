"""The clock of heartbeats, and what it keeps of a request to know whether a stream was asked for."""

from __future__ import annotations

import pytest
from tornado.ioloop import IOLoop

from proxy.gateway.heartbeat import MAX_SEEN, Heartbeat
from proxy.wire.ticker import Ticker


@pytest.fixture
def heartbeat(io_loop: IOLoop) -> Heartbeat:
    """One that never beats here."""
    ticker = Ticker(io_loop.asyncio_loop)  # type: ignore[attr-defined]
    made = Heartbeat(ticker, 1.0, lambda: None)
    made.stop()
    return made


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b'{"stream": true}'], True),
        ([b'{"str', b'eam": true}'], True),
        ([b'{"stream": 1}'], False),
        ([b'["stream"]'], False),
        ([b"{"], False),
        ([b"[" * 100_000], False),
        ([], False),
        ([b'{"stream": true, "x": "' + b"x" * MAX_SEEN, b'"}'], False),
    ],
)
def test_whether_a_stream_was_asked_for(heartbeat: Heartbeat, pieces: list[bytes], expected: bool) -> None:
    for piece in pieces:
        heartbeat.see(piece)
    assert heartbeat.asks_for_stream() is expected


def test_what_was_forgotten_is_gone_and_nothing_is_kept_after_it(heartbeat: Heartbeat) -> None:
    heartbeat.see(b'{"stream": ')
    heartbeat.forget()
    heartbeat.see(b'{"stream": true}')
    assert not heartbeat.asks_for_stream()
