"""One process that serves alone: where there is no fork, or no port for several sockets, as on macOS and Windows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING

from proxy.gateway.channel import Refused
from proxy.gateway.figures import Figure, figures
from proxy.gateway.worker import Worker, run_worker
from proxy.supervisor.admin import ANSWER_S, AdminPort, build_info

if TYPE_CHECKING:
    from proxy.settings.model import Settings


class OneWorker:
    """A worker as operators see it, if it is all there is."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @property
    def is_ready(self) -> bool:
        """Whether new work is welcome."""
        return self._worker.plane.is_ready

    def figures(self) -> list[Figure]:
        """What it counts; gauges bear the name of the one slot there is."""
        own = [
            (name, kind, text, {"worker": "0", **labels} if kind == "gauge" else labels, value)
            for name, kind, text, labels, value in figures(self._worker)
        ]
        return [build_info(), *own]

    def workers(self) -> list[dict[str, object]]:
        """None that could be told apart."""
        return []

    def restart(self, why: str) -> bool:
        """There is nobody to follow it."""
        return False

    async def ask(self, name: str, params: Mapping[str, object]) -> object:
        """What it answers. Raises `Unavailable`, `Refused`."""
        from proxy.admin.application import Unavailable

        handler = self._worker.questions.get(name)
        if handler is None:
            raise Refused(f"nobody here answers {name}")
        try:
            async with asyncio.timeout(ANSWER_S):
                result = handler(params)
                return await result if isawaitable(result) else result
        except ValueError as refused:
            raise Refused(str(refused)) from None
        except TimeoutError:
            raise Unavailable from None


def serve_alone(settings: Settings, environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; the exit status: 0 = drained, 1 = cut, 69 = a port or file is not to be had."""

    def open_admin(worker: Worker) -> None:
        if settings.admin.enabled:
            admin = AdminPort(settings.admin, environ)
            worker.at_close(admin.close)
            admin.open(OneWorker(worker))

    return run_worker(settings, open_admin)
