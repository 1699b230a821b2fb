"""What a forked worker does: serves until it is told to leave, and tells its supervisor how it is."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.gateway.channel import Channel, Params
from proxy.gateway.figures import figures
from proxy.gateway.limit_store import SharedPlace
from proxy.gateway.worker import EX_CUT, EX_UNAVAILABLE, Leave, Worker, calm_collector, new_loop, say_unusable
from proxy.settings.model import Settings

log = logging.getLogger("sluice.worker")

DUMP_SIGNAL = signal.SIGUSR2
"""Has a worker write the stack of each of its threads to standard error, whatever it is doing."""
ORPHAN_S = 5.0
"""How long exchanges may take to end when the supervisor is gone."""


@dataclass(frozen=True)
class Task:
    """What a worker is to do. ``prepare`` is called with it before it accepts."""

    settings: Settings
    sockets: Sequence[Sequence[socket.socket]]
    log_lock: int
    place: SharedPlace | None
    is_keeper: bool
    beat_s: float
    prepare: Callable[[Worker], None]

    def descriptors(self) -> set[int]:
        """Those it needs."""
        kept = {sock.fileno() for row in self.sockets for sock in row} | {self.log_lock}
        return kept if self.place is None else kept | self.place.descriptors()


class Link:
    """The worker's end of the channel: heeds the supervisor, and sends it a beat as long as the loop goes round."""

    def __init__(self, worker: Worker, sock: socket.socket, beat_s: float) -> None:
        self._worker = worker
        self._beat_s = beat_s
        self._loop = asyncio.get_running_loop()
        self.channel = Channel(self._loop, sock, self._orphaned, worker.questions)
        self.channel.on_say("unready", lambda _: worker.stand_aside())
        self.channel.on_say("drain", self._drain)
        self.channel.on_say("stop", lambda _: worker.stop_now())

    def begin(self) -> None:
        """It accepts."""
        self.channel.say("ready", figures=figures(self._worker))
        self._loop.call_later(self._beat_s, self._beat)

    def leave(self) -> None:
        """Somebody wants this process to end: have it replaced, and be told to drain then."""
        self.channel.say("leaving")

    def end(self) -> None:
        """It has served."""
        self.channel.say("beat", figures=figures(self._worker))
        self.channel.close()

    def _beat(self) -> None:
        if not self.channel.is_closed:
            self.channel.say("beat", may_drop=True, figures=figures(self._worker))
            self._loop.call_later(self._beat_s, self._beat)

    def _drain(self, how: Params) -> None:
        self._worker.leave(Leave(0, float(how["timeout_s"]), bool(how["is_replaced"])))

    def _orphaned(self) -> None:
        log.error("the supervisor is gone: stopping")
        self._worker.leave(Leave(0, ORPHAN_S))
        # It may have been draining already, with more time.
        self._loop.call_later(ORPHAN_S, self._worker.stop_now)


def serve(task: Task, channel: socket.socket) -> int:
    """Be a worker with this end of a channel; the exit status: 0, 1 if exchanges were cut, 69 if it cannot start."""
    faulthandler.register(DUMP_SIGNAL, all_threads=True)

    async def main() -> int:
        worker: Worker | None = None
        try:
            worker = Worker(task.settings, task.log_lock, task.place, is_keeper=task.is_keeper)
            task.prepare(worker)
            await worker.start(task.sockets)
            calm_collector()
        except OSError as error:
            say_unusable(error)
            if worker is not None:
                await worker.close()
            return EX_UNAVAILABLE
        link = Link(worker, channel, task.beat_s)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, link.leave)
        link.begin()
        all_ended = await worker.run()
        link.end()
        # A closing loop would restore what kills: and it ended well.
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return 0 if all_ended else EX_CUT

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())
