"""Where a server connection stands.

It goes round: HEAD → BODY → ANSWER → HEAD; by way of FLUSH, if the client has not taken enough of its answer for
another one to be fetched. While the delegate asks for time the connection is HELD: bytes that arrive then wait in a
small buffer, because a connection that is not read notices neither FIN nor RST. It leaves the round to a protocol of
its own, `Linger` or a `Tunnel`, or by being CLOSED.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """One place on the way round."""

    HEAD = "head"
    BODY = "body"
    HELD = "held"
    ANSWER = "answer"
    FLUSH = "flush"
    LINGER = "linger"
    TUNNEL = "tunnel"
    CLOSED = "closed"


# Names of their own: see `proxy.wire.framing`.
HEAD, BODY, HELD, ANSWER, FLUSH, LINGER, TUNNEL, CLOSED = State
BUSY = frozenset({HELD, ANSWER, FLUSH})
"""Where bytes that come have to wait."""
UNDER_WAY = BUSY | {BODY, TUNNEL}
"""Where somebody would miss something if the connection were cut."""
