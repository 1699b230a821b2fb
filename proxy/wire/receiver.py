"""Who takes an answer from an upstream connection.

`proxy.gateway.forward.Forward` is one, and hands on to an `AnswerTaker` what concerns the client alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proxy.core.errors import UpstreamError
from proxy.wire.gate import ResponseHead

if TYPE_CHECKING:
    from proxy.wire.client import UpstreamConnection


class Receiver(Protocol):
    """Takes one answer. After `on_upstream_end` or `on_upstream_error` nothing more comes."""

    def on_upstream_informational(self, head: ResponseHead) -> None:
        """A 1xx answer before the real one (RFC 9110 section 15.2)."""
        ...

    def on_upstream_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """101: the connection, with its first bytes, is the receiver's. Raises ResponseError if it did not ask."""
        ...

    def on_upstream_headers(self, head: ResponseHead) -> bool:
        """The head is in. True = give the body as it stands on the wire, framing included."""
        ...

    def on_upstream_data(self, data: bytes) -> None:
        """The next bytes of the body."""
        ...

    def on_upstream_end(self) -> None:
        """The answer is whole."""
        ...

    def on_upstream_error(self, error: UpstreamError) -> None:
        """There will be no (whole) answer."""
        ...
