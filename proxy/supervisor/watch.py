"""Watching the workers: who is silent for too long has its stacks written down, and has to go after that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from proxy.supervisor.process import Patience, WorkerProcess

log = logging.getLogger("sluice.supervisor")


class Watch:
    """Looks at each of ``processes()`` once a beat."""

    def __init__(self, processes: Callable[[], Iterable[WorkerProcess]], patience: Patience) -> None:
        self._processes = processes
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None
        self.missed_beats = 0
        self.frozen_kills = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on."""
        due_s = loop.time() + self._patience.beat_s
        self._timer = loop.call_at(due_s, self._look, loop, due_s)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        late_s = loop.time() - due_s
        self.start(loop)
        # While we could not listen ourselves nobody was silent.
        self._look_at_all(late_s if late_s >= self._patience.beat_s else 0.0)

    def _look_at_all(self, late_s: float) -> None:
        frozen: list[WorkerProcess] = []
        for process in self._processes():
            had_doom = bool(process.doom)
            self.missed_beats += process.watch(self._patience, late_s)
            if process.doom and not had_doom:
                self._has_killed(process)
            elif process.has_fallen_silent(self._patience):
                log.warning("%r has missed %d beats; its stacks follow", process, process.missed)
                process.dump()
            if process.is_frozen(self._patience):
                frozen.append(process)
        if frozen:
            # One at a time: the others may only have waited for it, and have until the next look to show that.
            worst = max(frozen, key=lambda process: process.guilt)
            worst.kill_frozen()
            self._has_killed(worst)

    def _has_killed(self, process: WorkerProcess) -> None:
        log.error("%r is killed: %s", process, process.doom)
        self.frozen_kills += 1
