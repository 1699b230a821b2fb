"""Origins: scheme, host and port of an upstream, taken from its base_url."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


class Origin(NamedTuple):
    """What a pool of connections is kept for."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, base_url: str) -> tuple[Origin, bytes, bytes]:
        """(origin, value of the Host field, path prefix without a slash at its end)."""
        parts = urlsplit(base_url)
        tls = parts.scheme == "https"
        host = parts.hostname or ""
        origin = cls(host, parts.port or (443 if tls else 80), tls)
        bracketed = f"[{host}]" if ":" in host else host
        default_port = parts.port is None or parts.port == (443 if tls else 80)
        authority = bracketed if default_port else f"{bracketed}:{parts.port}"
        path = parts.path.rstrip("/") or "/v1"
        return origin, authority.encode("ascii"), path.encode("ascii")
