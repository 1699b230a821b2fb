"""The admin plane's place in the supervisor: its port, its token, and what it is told about the workers.

The port is bound before the first worker starts, so that one already taken is known at once; Tornado and Prometheus
are loaded behind it, so that no client waits for them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.admin.token import TokenFile
from proxy.gateway.channel import ChannelClosed
from proxy.gateway.figures import Figure
from proxy.settings.model import Admin as AdminSettings
from proxy.wire.endpoint import Endpoint, bind_slots

if TYPE_CHECKING:
    from proxy.admin.application import AdminServer, Gateway
    from proxy.supervisor.supervisor import Supervisor

log = logging.getLogger("sluice.supervisor")

ANSWER_S = 3.0
"""How long a worker may take to answer a question of an operator's."""


class AdminPort:
    """The admin listener, bound. Raises OSError if the port cannot be had, or the token not be kept."""

    def __init__(self, settings: AdminSettings, environ: Mapping[str, str]) -> None:
        self._host = settings.host
        self._server: AdminServer | None = None
        try:
            self._bound = bind_slots(Endpoint(host=settings.host, port=settings.port), 1)[0]
        except OSError as error:
            error.filename = (
                f"{settings.host}:{settings.port} (admin.port; SLUICE__ADMIN__ENABLED=false does without)"
            )
            raise
        self.port: int = self._bound.sockets[0].getsockname()[1]
        self._file: TokenFile | None = None
        try:
            if settings.token is None:
                self._file = TokenFile(self.port, environ)
        except OSError:
            self._bound.close()
            raise
        self._token = self._file.token if settings.token is None and self._file else ""
        if settings.token is not None:
            self._token = settings.token.get_secret_value()

    def open(self, gateway: Gateway) -> None:
        """Answer on it, from the running loop."""
        from proxy.admin.application import AdminServer

        self._server = AdminServer(self._bound.sockets, gateway, self._token, self._host)
        log.info("admin on %s", Endpoint().url((self._host, self.port)))

    def close(self) -> None:
        """Let go of the port, and remove the token."""
        if self._file is not None:
            self._file.remove()
        if self._server is not None:
            self._server.stop()
        self._bound.close()


class Overview:
    """The workers as operators see them."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._asked = 0

    @property
    def is_ready(self) -> bool:
        """Whether new work is welcome."""
        return self._supervisor.is_ready

    def workers(self) -> list[dict[str, object]]:
        """Each with its slot, process id, state, age, restarts of the slot and beats missed."""
        return [
            {
                "slot": slot.number,
                "pid": process.pid,
                "state": process.state.value,
                "age_s": round(self._supervisor.now_s() - process.started_s, 3),
                "restarts": slot.restarts,
                "missed_beats": process.missed,
            }
            for slot in self._supervisor.slots
            for process in slot.processes
        ]

    def restart(self, why: str) -> bool:
        """Replace the workers one by one."""
        return self._supervisor.restart(why)

    async def ask(self, name: str, params: Mapping[str, object]) -> object:
        """What some worker answers: what they count is the same to all of them. Raises `Unavailable`, `Refused`."""
        from proxy.admin.application import Unavailable

        ready = self._supervisor.ready
        # Nobody else is asked afterwards: a question that stops one worker would stop the next one, too.
        ready = [process for process in ready if not process.missed] or ready
        if not ready:
            raise Unavailable
        self._asked += 1
        try:
            return await ready[self._asked % len(ready)].channel.ask(name, params, ANSWER_S)
        except (ChannelClosed, TimeoutError):
            raise Unavailable from None

    def figures(self) -> list[Figure]:
        """The supervisor's own, then those of all workers together."""
        return [*self._own(), *self._supervisor.tally.total(self._live())]

    def _live(self) -> Iterator[tuple[int, Sequence[Figure]]]:
        return ((process.slot, process.figures) for process in self._supervisor.processes())

    def _own(self) -> Iterator[Figure]:
        supervisor = self._supervisor
        restarts = sum(slot.restarts for slot in supervisor.slots)
        yield build_info()
        yield "sluice_workers_wanted", "gauge", "Workers there are to be.", {}, len(supervisor.slots)
        yield "sluice_workers_ready", "gauge", "Workers that accept clients.", {}, len(supervisor.ready)
        yield "sluice_worker_restarts_total", "counter", "Workers started in the place of another.", {}, restarts
        text = "Beats that a worker should have sent."
        yield "sluice_worker_beats_missed_total", "counter", text, {}, supervisor.watch.missed_beats
        text = "Workers killed because they were silent for too long."
        yield "sluice_worker_frozen_kills_total", "counter", text, {}, supervisor.watch.frozen_kills


def build_info() -> Figure:
    """Which version this is."""
    return "sluice_build_info", "gauge", "Always 1; the version is a label.", {"version": __version__}, 1
