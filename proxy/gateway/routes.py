"""Which contract a request follows, decided on the raw bytes of its target."""

from __future__ import annotations

from enum import Enum


class Destination(Enum):
    """Where a request goes."""

    API = "api"
    CHAT = "chat"
    HEALTHZ = "healthz"
    READYZ = "readyz"
    NOWHERE = "nowhere"


# A name of its own: see `proxy.wire.framing`.
TO_API = Destination.API


class Routes:
    """The routing table: ``/v1``, the simple chat contract's path, and health.

    ``chat_route`` is the setting ``simple_chat.route``: without one the contract lives at ``/`` and ``/api``.
    """

    def __init__(self, chat_route: str) -> None:
        chat = [f"/{chat_route}", f"/{chat_route}/"] if chat_route else ["/", "/api", "/api/"]
        self._exact = {path.encode("ascii"): Destination.CHAT for path in chat}
        self._exact |= {b"/healthz": Destination.HEALTHZ, b"/readyz": Destination.READYZ, b"/v1": Destination.API}

    def destination(self, target: bytes) -> Destination:
        """Where a target (path and query) leads."""
        if target.startswith(b"/v1/"):
            return TO_API
        return self._exact.get(target.partition(b"?")[0], Destination.NOWHERE)


def speaks_openai(target: bytes) -> bool:
    """Whether an error about this target takes OpenAI's shape; an unknown target does too."""
    return not target or target.startswith((b"/v1/", b"/v1?")) or target == b"/v1"
