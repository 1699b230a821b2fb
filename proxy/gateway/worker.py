"""A worker: the data plane on its listener, from start to drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.core.figure import Figure
from proxy.gateway.access_log import AccessLog, TurnsLog
from proxy.gateway.allocator import map_large_blocks
from proxy.gateway.channel import Handler
from proxy.gateway.limit_questions import LimitQuestions
from proxy.gateway.limit_store import SharedLimits, SharedPlace, open_place, open_store
from proxy.gateway.open_files import open_file_limit, room_for_clients
from proxy.gateway.overload import MemoryGuard, Surplus
from proxy.gateway.plane import DataPlane
from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener, Timeouts
from proxy.wire.tls import ServerTls

if TYPE_CHECKING:
    from proxy.settings.listen import Listen
    from proxy.settings.model import Settings

log = logging.getLogger("sluice")

EX_UNAVAILABLE = 69
"""Exit status for a port that is not to be had (<sysexits.h>)."""
OWN_GAUGES = frozenset({"sluice_limit_store_up"})
"""Gauges of a limit store that each worker has for itself: its own way to the store."""
EX_CUT = 1
"""Exit status of a gateway that had to cut exchanges to stop."""


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop where it exists, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def calm_collector() -> None:
    """Keep the garbage collector from stopping the loop.

    What an exchange makes is freed by counting references, which a test watches over, so there is little to find.
    With 5,000 connections open a full collection took 120 to 150 ms and came every few seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)


def endpoint_of(listen: Listen) -> Endpoint:
    """What a listener of the settings is to the wire. Raises OSError for TLS files that cannot be used."""
    tls = listen.tls
    return Endpoint(
        host=listen.host,
        port=listen.port,
        unix=listen.unix,
        mode=listen.permissions,
        tls=None if tls is None else ServerTls(tls.cert, tls.key, tls.client_ca, tls.min_version),
        proxy_protocol=listen.proxy_protocol == "required",
    )


@dataclass(frozen=True, slots=True)
class Leave:
    """How to leave: accept for ``delay_s`` more, then give what is under way ``timeout_s``.

    ``is_replaced``: another worker has the port already, so nobody needs to hear that this one is not ready.
    """

    delay_s: float
    timeout_s: float
    is_replaced: bool = False


class Worker:
    """Serves one configuration until it is told to stop.

    ``log_lock`` is the file (`TurnsLog`) for workers that share their standard output. ``place`` is what they share
    for their limits, and one of them, the ``is_keeper``, sweeps and saves it. Raises OSError.
    """

    def __init__(
        self,
        settings: Settings,
        log_lock: int | None = None,
        place: SharedPlace | None = None,
        *,
        is_keeper: bool = True,
    ) -> None:
        self._settings = settings
        self._own_place = open_place(settings) if place is None else None
        place = place or self._own_place
        self._limits = None if place is None else SharedLimits(place, time.monotonic, is_keeper=is_keeper)
        self._is_keeper = is_keeper
        self._last_told: list[Figure] = []
        self._log_lock = log_lock
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[Leave] = self._loop.create_future()
        self._go_on: asyncio.Future[None] = self._loop.create_future()
        self._stop_now: asyncio.Future[None] = self._loop.create_future()
        self.questions: dict[str, Handler] = {}
        self._is_stopping = False
        self._is_replaced = False
        self._at_close: list[Callable[[], None]] = []
        self._access_log = self._open_access_log()
        here = None if self._limits is None else self._limits.store
        store = open_store(settings, time.monotonic, here, workers=1 if place is None else place.workers)
        self.plane = DataPlane(settings, self._access_log, store=store)
        if self.plane.upstream.origin.tls:
            map_large_blocks()
        asked = LimitQuestions(self.plane.chain, store)
        self.on_question("limits.show", asked.show)
        self.on_question("limits.reset", asked.reset)
        downstream = settings.downstream
        connections, surplus = room_for_clients(open_file_limit())
        self.listener = Listener(
            self.plane,
            ticker=self.plane.ticker,
            timeouts=Timeouts(
                header_s=downstream.header_timeout_s,
                body_s=downstream.body_timeout_s,
                keep_alive_s=downstream.keep_alive_timeout_s,
                write_s=downstream.write_timeout_s,
            ),
            max_header_bytes=downstream.max_header_bytes,
            on_error=self.plane.render_refusal,
            max_connections=settings.overload.max_connections or connections,
            max_surplus=surplus,
            surplus_app=Surplus(self.plane),
            may_speak_proxy=self.plane.trusted.holds,
        )
        if settings.overload.max_memory_bytes:
            guard = MemoryGuard(
                settings.overload.max_memory_bytes, self._on_memory, in_flight=lambda: self.plane.in_flight
            )
            self.plane.ticker.poll(guard)

    def _on_memory(self, is_tight: bool, is_full: bool) -> None:
        self.listener.is_shedding = is_tight or self._is_stopping
        self.plane.refuse_new_work(is_full)

    def _open_access_log(self) -> AccessLog | None:
        config = self._settings.access_log
        if not config.enabled:
            return None
        if config.path == "-" and self._log_lock is not None:
            return TurnsLog(sys.stdout.fileno(), self._loop.call_later, self._log_lock)
        if config.path == "-":
            return AccessLog(sys.stdout.fileno(), self._loop.call_later)
        # O_APPEND: rotation by copy-and-truncate works, and so do several gateways with one file.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return AccessLog(os.open(config.path, flags, 0o640), self._loop.call_later)

    async def start(self, sockets: Sequence[Sequence[socket.socket]] | None = None) -> None:
        """Accept on ``sockets``, those of each listener of the settings; without them, bind and say so.

        Raises OSError if an address cannot be had, or a listener's TLS files cannot be used.
        """
        await self.plane.store.open()
        for number, listen in enumerate(self._settings.listeners):
            try:
                if sockets is None:
                    await self.listener.listen(endpoint_of(listen))
                else:
                    endpoint = endpoint_of(listen)
                    for sock in sockets[number]:
                        await self.listener.listen_on(sock, endpoint)
            except OSError as error:
                error.filename = error.filename or f"{listen.place} (listen)"
                raise
        if self._limits is not None:
            self._limits.start(self._loop)
        if sockets is None:
            say_listening(self.listener.urls, self.plane.upstream.config.base_url)

    def on_question(self, name: str, handler: Handler) -> None:
        """Have questions of this name answered that come from outside the data plane: the admin plane's."""
        self.questions[name] = handler

    def store_figures(self) -> list[Figure]:
        """What the limit store counts. Of what several workers share one of them tells the size."""
        told = self._last_told or self.plane.store.figures()
        if self._is_keeper and not self._is_replaced:
            return told
        own = frozenset() if self._is_replaced else OWN_GAUGES  # of the two in a slot one speaks
        return [figure for figure in told if figure[1] == "counter" or figure[0] in own]

    def at_close(self, callback: Callable[[], None]) -> None:
        """Call this when everything ends."""
        self._at_close.append(callback)

    def stop(self) -> None:
        """End soon: the first call drains, a second one ends now."""
        if not self._stop.done():
            drain = self._settings.drain
            self.leave(Leave(drain.delay_s, drain.timeout_s))
        else:
            self.stop_now()

    def leave(self, how: Leave) -> None:
        """Drain. Only the first call counts; a later one with no delay ends the first one's."""
        if not self._stop.done():
            self._stop.set_result(how)
        elif not how.delay_s and not self._go_on.done():
            self._go_on.set_result(None)

    def stop_now(self) -> None:
        """End now, whatever is under way."""
        if self._stop_now.done():
            return
        log.warning("stopping now")
        self._stop_now.set_result(None)
        self.leave(Leave(0, 0))
        self.listener.abort()

    def stand_aside(self) -> None:
        """Say that this gateway is not ready any more, and have connections end with their request."""
        self.plane.is_ready = False
        self.listener.is_shedding = self._is_stopping = True

    async def run(self) -> bool:
        """Serve until told to leave, then drain; False if exchanges had to be cut."""
        how = await self._stop
        self._is_replaced = how.is_replaced
        if not how.is_replaced:
            self.stand_aside()
        if how.delay_s:
            log.info("not ready any more; accepting for another %g second(s)", how.delay_s)
            await asyncio.wait(
                [self._stop_now, self._go_on], timeout=how.delay_s, return_when=asyncio.FIRST_COMPLETED
            )
        log.info("draining %d connection(s)", len(self.listener))
        all_ended = await self.listener.drain(0 if self._stop_now.done() else how.timeout_s)
        if not all_ended:
            log.warning("some exchanges were cut: they had not ended within drain.timeout_s, or a signal said now")
        await self.close()
        return all_ended

    async def close(self) -> None:
        """Let go of everything, now."""
        for callback in self._at_close:
            callback()
        await self.listener.close()
        if self._limits is not None:
            await self._limits.close()
        self._last_told = self.plane.store.figures()
        await self.plane.close()
        if self._own_place is not None:
            self._own_place.close()
        if self._access_log is not None:
            self._access_log.close()


def say_listening(urls: Sequence[str], base_url: str) -> None:
    """Tell where clients reach the gateway, once somebody accepts there."""
    for url in urls:
        log.info("listening on %s, forwarding to %s", url, base_url)


def say_unusable(error: OSError) -> None:
    """Tell why the gateway cannot start."""
    log.error("cannot use %s: %s", error.filename or "the network", error.strerror or error)


def run_worker(settings: Settings, on_start: Callable[[Worker], None]) -> int:
    """Run a worker in this process until SIGTERM or SIGINT; the exit status.

    ``on_start`` may add what lives and ends with the worker; both may raise OSError for a port already taken.
    """

    async def main() -> int:
        loop = asyncio.get_running_loop()
        worker: Worker | None = None
        try:
            worker = Worker(settings)
            on_start(worker)
            await worker.start()
            calm_collector()
        except OSError as error:
            say_unusable(error)
            if worker is not None:
                await worker.close()
            return EX_UNAVAILABLE
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, worker.stop)
        return 0 if await worker.run() else EX_CUT

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())
