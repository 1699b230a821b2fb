"""The supervisor: binds, forks, watches, replaces, drains; it decides when all of it ends, and with which status."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from proxy.gateway.limit_store import open_place
from proxy.gateway.worker import EX_CUT, EX_UNAVAILABLE, Worker, say_listening, say_unusable
from proxy.stages.upstream import UpstreamConfig
from proxy.supervisor.admin import AdminPort, Overview
from proxy.supervisor.cpus import usable_cpus
from proxy.supervisor.fork import ending
from proxy.supervisor.process import Patience, Slot, WorkerProcess
from proxy.supervisor.rolling import Rolling
from proxy.supervisor.sockets import Sockets
from proxy.supervisor.supervised import DUMP_SIGNAL, Task
from proxy.supervisor.tally import Tally
from proxy.supervisor.watch import Watch

if TYPE_CHECKING:
    from proxy.settings.model import Settings

log = logging.getLogger("sluice.supervisor")

EX_GIVEN_UP = 1
"""Exit status of a gateway whose workers keep dying."""
START_AGAIN_S = 5.0
"""When to start a worker again that could not start while others serve."""
FATAL_STATUSES = frozenset({EX_UNAVAILABLE, 78})
"""What a first worker ends with when no other will fare better: a file is not to be had, the configuration is bad."""


class Supervisor:
    """Runs one configuration until it is told to stop.

    ``prepare`` is called in each worker before it accepts; ``patience`` is for tests, which have little.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        patience: Patience | None = None,
        prepare: Callable[[Worker], None] = lambda worker: None,
    ) -> None:
        self.settings = settings
        self.environ = environ
        self.patience = patience or Patience()
        self._prepare = prepare
        self.slots: list[Slot] = []
        self.tally = Tally()
        self.is_stopping = False
        self.watch = Watch(self.processes, self.patience)
        self._deaths: deque[float] = deque(maxlen=self.patience.most_deaths)
        self._has_terminal = os.isatty(2)
        self._was_ready = False
        self._was_cut = False
        self._rolling = Rolling(self)
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def wanted(self) -> int:
        """How many workers there are to be."""
        workers = self.settings.workers
        return usable_cpus() if workers == "auto" else workers

    @property
    def ready(self) -> list[WorkerProcess]:
        """The workers that accept, and are to go on doing so."""
        return [slot.current for slot in self.slots if slot.current is not None and slot.is_ready]

    @property
    def is_ready(self) -> bool:
        """Whether new work is welcome."""
        return not self.is_stopping and any(slot.is_ready for slot in self.slots)

    def run(self) -> int:
        """Serve; the exit status: 0 = drained, 1 = cut or given up, 69 = a port or file is not to be had."""
        with suppress(ImportError):
            import uvloop  # noqa: F401 - once, for all workers
        # Whoever wants a worker's stacks may hit us; unheard, the signal would end everything.
        faulthandler.register(DUMP_SIGNAL, all_threads=True)
        with ExitStack() as held:
            try:
                self._open(held)
            except OSError as error:
                say_unusable(error)
                return EX_UNAVAILABLE
            # Asyncio's own loop: uvloop's could have threads, and what it has could not be forked.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                return runner.run(self._main())

    def _open(self, held: ExitStack) -> None:
        """Take what the workers are to have, until the end. Raises OSError."""
        settings = self.settings
        self._admin = AdminPort(settings.admin, self.environ) if settings.admin.enabled else None
        if self._admin is not None:
            held.callback(self._admin.close)
        self._sockets = Sockets(settings.listeners, self.wanted)
        held.callback(self._sockets.close)
        self._place = open_place(settings, self.wanted)
        if self._place is not None:
            held.callback(self._place.close)

    async def _main(self) -> int:
        self._loop = loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        self._now: asyncio.Future[None] = loop.create_future()
        self._all_gone: asyncio.Future[None] = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGINT, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        lock = os.memfd_create("sluice-access-log")
        try:
            for number in range(self.wanted):
                sockets = self._sockets.of_slot(number)
                task = Task(
                    self.settings,
                    sockets,
                    lock,
                    self._place,
                    number == 0,
                    self.patience.beat_s,
                    self._prepare,
                )
                self.slots.append(Slot(number, task))
            for slot in self.slots:
                self._fill(slot)
            self.watch.start(loop)
            status = await self._ended
            self.watch.stop()
        finally:
            os.close(lock)
        return status

    def fork(self, slot: Slot) -> WorkerProcess:
        """A new worker on a slot's sockets. Raises OSError."""
        return WorkerProcess(slot.number, slot.task, self._loop, self._changed)

    def _fill(self, slot: Slot) -> None:
        """Have a worker in this slot; soon, if there can be no further process just now."""
        if self.is_stopping or slot.current is not None or slot.next is not None:
            return
        try:
            slot.current = self.fork(slot)
        except OSError as error:
            log.error("worker %d cannot be started just now: %s", slot.number, error.strerror)
            self._loop.call_later(self.patience.beat_s / 2, self._fill, slot)

    # what workers say

    def _changed(self, process: WorkerProcess) -> None:
        slot = self.slots[process.slot]
        if self.is_stopping:
            return
        if process.asks_to_leave:
            if process is slot.current and slot.next is None:
                log.info("%r was asked to end; starting another", process)
                self.spawn(self._rolling.replace(slot))
            return
        log.info("%r is ready", process)
        if not self._was_ready:
            self._was_ready = True
            say_listening(self._sockets.urls, self._base_url())
            if self._admin is not None:
                self._admin.open(Overview(self))

    def _base_url(self) -> str:
        config = self.settings.stages[self.settings.chain[-1]]
        assert isinstance(config, UpstreamConfig)
        return config.base_url

    def now_s(self) -> float:
        """The clock by which workers have their age."""
        return self._loop.time()

    # watching

    def processes(self) -> Iterator[WorkerProcess]:
        """Every worker there is."""
        for slot in self.slots:
            yield from slot.processes

    def _reap(self) -> None:
        """Wait for whoever has ended: as process 1 of a container, for other people's orphans, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process in list(self.processes()):
                if process.pid == pid:
                    self._lost(process, status)

    def _lost(self, process: WorkerProcess, status: int) -> None:
        """A worker has ended."""
        slot = self.slots[process.slot]
        was_leaving, was_to_follow = process in slot.leaving, process is slot.next
        never_ready, code = not process.settled.done(), os.waitstatus_to_exitcode(status)
        process.ended()
        self.tally.carry(process.figures)
        how = f"killed, since {process.doom}" if process.doom else ending(status)
        if was_leaving:
            slot.leaving.remove(process)
        elif was_to_follow:
            slot.next = None
        else:
            slot.current = None
        if self.is_stopping:
            self._was_cut = self._was_cut or (status != 0 and not never_ready)
            log.log(logging.DEBUG if status == 0 else logging.WARNING, "%r ended: %s", process, how)
            if not any(self.processes()) and not self._all_gone.done():
                self._all_gone.set_result(None)
        elif was_leaving:
            log.info("%r, which was replaced, ended: %s", process, how)
        elif never_ready and not self._was_ready and code in FATAL_STATUSES:
            # It has said why.
            self._stop(code, timeout_s=0)
        elif was_to_follow or (never_ready and self.ready and code in FATAL_STATUSES):
            # Others serve: what keeps a new worker from starting, a bad certificate say, must not end them too.
            log.error("%r ended before it accepted: %s", process, how)
            if slot.current is None:
                # The kernel would go on to give clients to a slot in which nobody accepts.
                self._sockets.rest(slot.number)
                self._loop.call_later(START_AGAIN_S, self._fill, slot)
        else:
            self._count_death(slot, process, how)

    def _count_death(self, slot: Slot, process: WorkerProcess, how: str) -> None:
        patience = self.patience
        now = self._loop.time()
        self._deaths.append(now)
        if len(self._deaths) == patience.most_deaths and now - self._deaths[0] <= patience.within_s:
            log.error("%r ended: %s", process, how)
            log.error("%d workers died within %g seconds: giving up", patience.most_deaths, patience.within_s)
            self._stop(EX_GIVEN_UP, timeout_s=patience.spare_s)
        elif slot.current is None and slot.next is None:
            log.error("%r ended: %s; starting another", process, how)
            slot.restarts += 1
            self._fill(slot)
        else:
            log.error("%r ended: %s", process, how)
            if slot.current is None:
                slot.restarts += 1
                slot.current, slot.next = slot.next, None

    def restart(self, why: str) -> bool:
        """Replace the workers one by one; False if we are stopping."""
        return not self.is_stopping and self._rolling.begin(why)

    def spawn(self, coroutine: Coroutine[None, None, object]) -> asyncio.Task[object]:
        """Run this beside all else."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # stopping

    def _on_hangup(self) -> None:
        """SIGHUP: an operator wants a restart; or the terminal we were started in was closed, and nobody any more."""
        terminal = select.poll()
        terminal.register(2, 0)
        if self._has_terminal and any(event & select.POLLHUP for _, event in terminal.poll(0)):
            self._on_stop_signal()
        else:
            self.restart("SIGHUP")

    def _on_stop_signal(self) -> None:
        drain = self.settings.drain
        if not self.is_stopping:
            self._stop(None, delay_s=drain.delay_s, timeout_s=drain.timeout_s)
        elif not self._now.done():
            log.warning("stopping now")
            self._now.set_result(None)

    def _stop(self, status: int | None, *, timeout_s: float, delay_s: float = 0) -> None:
        """End with this status; with None, with what comes of the drain."""
        if not self.is_stopping:
            self.is_stopping = True
            self.spawn(self._drain(status, delay_s, timeout_s))

    async def _drain(self, status: int | None, delay_s: float, timeout_s: float) -> None:
        for process in self.processes():
            process.channel.say("unready")
        if delay_s:
            log.info("not ready any more; accepting for another %g second(s)", delay_s)
            await asyncio.wait([self._now], timeout=delay_s)
        # Before the workers close theirs: a connection that only we could accept would be reset.
        self._sockets.turn_deaf()
        self._sockets.close()
        for process in self.processes():
            process.drain(timeout_s, is_replaced=False)
        if any(self.processes()):
            gone = self._all_gone
            limit_s = timeout_s + self.patience.spare_s
            await asyncio.wait([gone, self._now], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            for process in self.processes():
                process.channel.say("stop")
            await asyncio.wait([gone], timeout=self.patience.now_s)
            for process in self.processes():
                process.signal(signal.SIGKILL)
            await gone
        if not self._ended.done():
            self._ended.set_result(status if status is not None else EX_CUT if self._was_cut else 0)
