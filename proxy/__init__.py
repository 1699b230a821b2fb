"""Sluice: a gateway in front of OpenAI whose whole behaviour is a chain of stages in one YAML file.

The words used throughout:

downstream   the side of the client that calls us
upstream     the side of OpenAI, or whatever ``base_url`` names
origin       scheme, host and port of an upstream: what a connection pool is kept for
exchange     one request and its answer, from the first header byte to the last body byte
stage        one concern of the chain (allowlist, limit, key, upstream ...): one file in ``stages/``
chain        the stages in the operator's order; the only loop over stages is in ``core/chain.py``
phase        a moment in an exchange at which stages are asked: request headers, request body,
             response headers, response chunk, complete
reply        an answer of our own making, returned by a stage instead of going on
peer_ip      the address of the socket; ``client_ip`` is the address after trusted proxies were believed
credential   what the client sent to identify itself; a *server key* is the operator's own
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from proxy.gateway.plane import DataPlane

__version__ = "0.1.0"
__all__ = ["__version__", "mount"]


def mount(config: str | Path | Mapping[str, object], environ: Mapping[str, str] | None = None) -> DataPlane:
    """Build the data plane as a target for ``tornado.routing`` rules.

    ``config`` is the path of a YAML file, or a mapping of the same shape. ``environ`` overrides it as
    environment variables override the file of ``sluice serve``; by default the file decides alone.
    Raises `proxy.settings.ConfigError` with every problem found. Call ``close()`` on the result when the
    application stops.
    """
    from proxy.gateway.plane import DataPlane
    from proxy.settings import ConfigError, Problem, load
    from proxy.settings.stores import store_of

    loaded = load(config, environ or {})
    for notice in loaded.notices:
        logging.getLogger("sluice").warning("%s", notice)
    # How many processes there are is the application's affair: each counts in its own memory, or all in Redis.
    settings = loaded.settings.model_copy(update={"workers": 1})
    if store_of(settings).kind == "shared":
        why, hint = "shared needs `sluice serve`, whose workers share it", "write memory, or the URL of a Redis"
        raise ConfigError([Problem(loaded.origins["limits.store"], "limits.store", why, hint)])
    return DataPlane(settings)
