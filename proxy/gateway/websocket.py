"""WebSocket (``/v1/realtime``): the handshake passes the chain like any request, then the connections are joined.

Source: RFC 6455 sections 1.3 and 4.
"""

from __future__ import annotations

import base64
import hashlib

from proxy.core.headers import REPLACED_IN_INFORMATIONAL, Field, Headers, end_to_end, field
from proxy.wire.gate import ResponseError, ResponseHead

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
"""The lines that ask an upstream for the switch; they are hop-by-hop, so the client's own never cross."""


def accepted_fields(head: ResponseHead, request: Headers) -> list[Field]:
    """The header lines of the 101 for the client.

    Raises ResponseError unless the answer is the handshake that was asked for: a 101 that is not would leave us
    joining a client to something that does not know it is being spoken to.
    """
    answer = head.headers
    key = request.get(b"sec-websocket-key") or b""
    expected = base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
    is_websocket = (answer.get(b"upgrade") or b"").lower() == b"websocket"
    if not is_websocket or answer.get_all(b"sec-websocket-accept") != [expected]:
        raise ResponseError("a 101 that is not the WebSocket handshake it was asked for")
    return [
        *end_to_end(answer, REPLACED_IN_INFORMATIONAL),
        field(b"Upgrade", b"websocket"),
        field(b"Connection", b"Upgrade"),
    ]
