"""A worker: the data plane on its listener, from start to drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from proxy.gateway.access_log import AccessLog
from proxy.gateway.overload import MemoryGuard, Surplus
from proxy.gateway.plane import DataPlane
from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import MAX_SURPLUS, Listener, Timeouts
from proxy.wire.tls import ServerTls

if TYPE_CHECKING:
    from proxy.settings.listen import Listen
    from proxy.settings.model import Settings

log = logging.getLogger("sluice")

EX_UNAVAILABLE = 69
"""Exit status for a port that is not to be had (<sysexits.h>)."""
EX_CUT = 1
"""Exit status of a gateway that had to cut exchanges to stop."""
RESERVED_FILES = 64
"""Open files that are no connections: listeners, logs, libraries."""


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop where it exists, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def open_file_limit() -> int:
    """How many files this process may have open, once it has raised its own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def room_for_clients(files: int) -> tuple[int, int]:
    """How many clients so many open files are enough for, and how many more that are only told there is no room.

    Each one that is served may need a second file, for its connection upstream.
    """
    reserved = min(RESERVED_FILES, files // 4)
    surplus = min(MAX_SURPLUS, files // 8)
    return max((files - reserved - surplus) // 2, 1), surplus


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


class Worker:
    """Serves one configuration until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[None] = self._loop.create_future()
        self._stop_now: asyncio.Future[None] = self._loop.create_future()
        self._is_stopping = False
        self._at_close: list[Callable[[], None]] = []
        self._access_log = self._open_access_log()
        self.plane = DataPlane(settings, self._access_log)
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
        if config.path == "-":
            return AccessLog(sys.stdout.fileno(), self._loop.call_later)
        # O_APPEND: rotation by copy-and-truncate works, and so do several gateways with one file.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return AccessLog(os.open(config.path, flags, 0o640), self._loop.call_later)

    async def start(self) -> None:
        """Bind and accept. Raises OSError if the address cannot be had."""
        for listen in self._settings.listeners:
            try:
                await self.listener.listen(endpoint_of(listen))
            except OSError as error:
                error.filename = error.filename or f"{listen.place} (listen)"
                raise
        for url in self.listener.urls:
            log.info("listening on %s, forwarding to %s", url, self.plane.upstream.config.base_url)

    def at_close(self, callback: Callable[[], None]) -> None:
        """Call this when everything ends."""
        self._at_close.append(callback)

    def stop(self) -> None:
        """End soon: the first call drains, a second one ends now."""
        if not self._stop.done():
            self._stop.set_result(None)
        elif not self._stop_now.done():
            log.warning("stopping now")
            self._stop_now.set_result(None)
            self.listener.abort()

    async def run(self) -> bool:
        """Serve until `stop`, then drain; False if exchanges had to be cut."""
        await self._stop
        drain = self._settings.drain
        self.plane.is_ready = False
        self.listener.is_shedding = self._is_stopping = True
        if drain.delay_s:
            log.info("not ready any more; accepting for another %g second(s)", drain.delay_s)
            await asyncio.wait([self._stop_now], timeout=drain.delay_s)
        log.info("draining %d connection(s)", len(self.listener))
        all_ended = await self.listener.drain(0 if self._stop_now.done() else drain.timeout_s)
        if not all_ended:
            log.warning("some exchanges were cut: they had not ended within drain.timeout_s, or a signal said now")
        await self.close()
        return all_ended

    async def close(self) -> None:
        """Let go of everything, now."""
        for callback in self._at_close:
            callback()
        await self.listener.close()
        await self.plane.close()
        if self._access_log is not None:
            self._access_log.close()


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
            log.error("cannot use %s: %s", error.filename or "the network", error.strerror or error)
            if worker is not None:
                await worker.close()
            return EX_UNAVAILABLE
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, worker.stop)
        return 0 if await worker.run() else EX_CUT

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())
