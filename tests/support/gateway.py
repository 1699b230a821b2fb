"""A whole worker in the test's own loop: the data plane, its listeners, its caps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.gateway.worker import Worker
from proxy.settings import load


@asynccontextmanager
async def gateway(base_url: str, **config: Any) -> AsyncIterator[Worker]:
    """A worker in front of ``base_url``, on a free port of loopback unless ``listen`` says otherwise."""
    stages = config.pop("stages", {})
    upstream = {"base_url": base_url} | stages.get("upstream", {})
    mapping = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "admin": {"enabled": False},
        "access_log": {"enabled": False},
        "stages": {**stages, "upstream": upstream},
        **config,
    }
    worker = Worker(load(mapping, {}).settings)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.close()
