"""What can go wrong on the way. Decisions are returned as replies; these are the failures, and are raised.

GatewayError
├── Stopping                503  the gateway ends, and the exchange did not end in time
└── UpstreamError           the upstream did not give a whole answer
    ├── ConnectError        502  nobody answers there: refused, no such host, bad certificate
    ├── ConnectTimeout      504  no connection within connect_timeout_s
    ├── ReadTimeout         504  connected, but no answer within first_byte_timeout_s or idle_timeout_s
    ├── ProtocolError       502  the connection broke, or what came is not HTTP
    └── NoCapacity          503  every connection we may open is busy
"""

from __future__ import annotations

from proxy.core.headers import Field, field
from proxy.core.messages import (
    STOPPING,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_NO_CAPACITY,
    UPSTREAM_PROTOCOL,
    UPSTREAM_TIMEOUT,
    Message,
)
from proxy.core.reply import SERVER_ERROR, Reply

RETRY_SOON = field(b"Retry-After", b"1")
"""With every refusal for want of room: room comes back as soon as something ends."""


class GatewayError(Exception):
    """Any failure the gateway has a name for. ``str()`` is for the log, never for the caller."""

    status: int
    code: str
    message: Message
    headers: tuple[Field, ...] = ()

    def reply(self) -> Reply:
        """What the caller is told."""
        return Reply.of(self.status, SERVER_ERROR, self.code, self.message, headers=self.headers)


class Stopping(GatewayError):
    """The gateway ends, and the exchange did not end in the time it was given."""

    status = 503
    code = "gateway_stopping"
    message = STOPPING


class UpstreamError(GatewayError):
    """The upstream did not give a whole answer."""

    status = 502
    code = "upstream_error"
    message: Message = UPSTREAM_PROTOCOL


class ConnectError(UpstreamError):
    """No connection could be made."""

    code = "upstream_unreachable"
    message = UPSTREAM_CONNECT


class ConnectTimeout(UpstreamError):
    """No connection could be made in time."""

    status = 504
    code = "upstream_connect_timeout"
    message = UPSTREAM_CONNECT_TIMEOUT


class ReadTimeout(UpstreamError):
    """The upstream kept silent for too long."""

    status = 504
    code = "upstream_timeout"
    message = UPSTREAM_TIMEOUT


class ProtocolError(UpstreamError):
    """The upstream broke off or does not speak HTTP."""

    code = "upstream_protocol_error"
    message = UPSTREAM_PROTOCOL


class NoCapacity(UpstreamError):
    """Every connection we may open to this origin is busy."""

    status = 503
    code = "upstream_no_capacity"
    message = UPSTREAM_NO_CAPACITY
    headers = (RETRY_SOON,)
