"""A worker as its supervisor sees it: a process, its channel, and how it was when last heard of."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from proxy.gateway.channel import Channel, Params, pair
from proxy.gateway.figures import Figure
from proxy.supervisor.fork import fork
from proxy.supervisor.supervised import DUMP_SIGNAL, Task, serve


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may be silent, and how often workers may die. Counts, and seconds."""

    beat_s: float = 1.0
    dump_after: int = 3
    kill_after: int = 10
    start_s: float = 30.0
    most_deaths: int = 5
    within_s: float = 30.0
    now_s: float = 2.0
    """What is left to workers that were told to stop now."""
    spare_s: float = 5.0
    """What is left to a drain beyond its own timeout."""


class State(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    ENDED = "ended"


class WorkerProcess:
    """One forked worker of a slot. Raises OSError if there can be no further process.

    ``on_change(process)`` is called when it has become ready, and when it asks to leave.
    """

    def __init__(
        self, slot: int, task: Task, loop: asyncio.AbstractEventLoop, on_change: Callable[[WorkerProcess], None]
    ) -> None:
        self.slot = slot
        self.state = State.STARTING
        self.asks_to_leave = False
        self.figures: Sequence[Figure] = ()
        self.missed = 0
        self.doom = ""
        """Why we killed it."""
        self.settled: asyncio.Future[bool] = loop.create_future()
        """Whether it has become ready; done as soon as that is known."""
        self._loop = loop
        self._on_change = on_change
        self._was_dumped = False
        ours, theirs = pair()
        with theirs:
            try:
                self.pid = fork(lambda: serve(task, theirs), task.descriptors() | {theirs.fileno()})
            except BaseException:
                ours.close()
                raise
        self.started_s = self._heard_s = loop.time()
        self.channel = Channel(loop, ours, lambda: None)
        self.channel.on_say("ready", self._ready)
        self.channel.on_say("beat", self._beat)
        self.channel.on_say("leaving", self._leaving)

    def _ready(self, said: Params) -> None:
        self._beat(said)
        if self.state is State.ENDED:
            return
        if self.state is State.STARTING:
            self.state = State.READY
        self.settled.set_result(True)
        self._on_change(self)

    def _beat(self, said: Params) -> None:
        self._heard_s = self._loop.time()
        self.missed = 0
        self._was_dumped = False
        self.figures = [(name, kind, text, labels, value) for name, kind, text, labels, value in said["figures"]]

    def _leaving(self, _: Params) -> None:
        self.asks_to_leave = True
        self._on_change(self)

    def watch(self, patience: Patience, late_s: float) -> int:
        """Look whether it still beats, and do what is to be done; how many beats it has missed since the last look.

        ``late_s``: for how long we could not listen ourselves.
        """
        self._heard_s += late_s
        self.started_s += late_s
        now = self._loop.time()
        if not self.settled.done():
            if now - self.started_s > patience.start_s:
                self._kill(f"it was not ready after {patience.start_s:g} s")
            return 0
        before, self.missed = self.missed, max(int((now - self._heard_s) / patience.beat_s - 0.5), 0)
        return max(self.missed - before, 0)

    def is_frozen(self, patience: Patience) -> bool:
        """Whether it is silent for so long that it has to go."""
        return self.missed >= patience.kill_after and not self.doom

    @property
    def guilt(self) -> tuple[bool, float]:
        """Of several that are silent the one with the most of this may be what the others wait for.

        A worker that is stopped while it holds the lock of the shared limits holds up all of them.
        """
        return is_stopped(self.pid), -self._heard_s

    def kill_frozen(self) -> None:
        """It has missed too many beats."""
        self._kill(f"it has missed {self.missed} beats")

    def has_fallen_silent(self, patience: Patience) -> bool:
        """Whether it is silent for longer than can be by chance; True once for each silence."""
        if self.missed < patience.dump_after or self._was_dumped:
            return False
        self._was_dumped = True
        return True

    def dump(self) -> None:
        """Have it write the stacks of its threads."""
        self.signal(DUMP_SIGNAL)

    def _kill(self, why: str) -> None:
        if not self.doom:
            self.doom = why
            self.signal(signal.SIGKILL)

    def drain(self, timeout_s: float, *, is_replaced: bool) -> None:
        """Have it accept no more, and end when its exchanges have. May be said again."""
        self.state = State.LEAVING
        self.channel.say("drain", timeout_s=timeout_s, is_replaced=is_replaced)

    def ended(self) -> None:
        """It is gone, and was waited for."""
        self.state = State.ENDED
        # What it said last is still to be read.
        self.channel.read_rest()
        self.channel.close()
        if not self.settled.done():
            self.settled.set_result(False)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def __repr__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger (proc(5), ``stat``)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False


class Slot:
    """One place for a worker: the sockets stay, the processes come and go."""

    def __init__(self, number: int, task: Task) -> None:
        self.number = number
        self.task = task
        self.current: WorkerProcess | None = None
        self.next: WorkerProcess | None = None
        """The one that is to follow, as long as it starts."""
        self.leaving: list[WorkerProcess] = []
        self.restarts = 0

    @property
    def processes(self) -> list[WorkerProcess]:
        """All there are."""
        return [process for process in (self.current, self.next, *self.leaving) if process is not None]

    @property
    def is_ready(self) -> bool:
        """Whether somebody accepts here, who is to go on doing so."""
        return self.current is not None and self.current.state is State.READY
