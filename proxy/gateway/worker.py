"""A worker: the data plane on its listener, from start to drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from proxy.gateway.access_log import AccessLog
from proxy.gateway.plane import DataPlane
from proxy.wire.listener import Listener, Timeouts

if TYPE_CHECKING:
    from proxy.settings.model import Settings

log = logging.getLogger("sluice")

EX_UNAVAILABLE = 69
"""Exit status for a port that is not to be had (<sysexits.h>)."""
DRAIN_S = 30.0
"""How long running exchanges may take after a signal to stop."""


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop where it exists, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Worker:
    """Serves one configuration until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[None] = self._loop.create_future()
        self._signals = 0
        self._at_close: list[Callable[[], None]] = []
        self._access_log = self._open_access_log()
        self.plane = DataPlane(settings, self._access_log)
        listen = settings.listen
        self.listener = Listener(
            self.plane,
            ticker=self.plane.ticker,
            timeouts=Timeouts(listen.header_timeout_s, listen.body_timeout_s, listen.keep_alive_timeout_s),
            max_header_bytes=listen.max_header_bytes,
            on_error=self.plane.render_refusal,
        )

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
        listen = self._settings.listen
        await self.listener.listen(listen.host, listen.port)
        for host, port in self.listener.addresses:
            shown = f"[{host}]" if ":" in host else host
            log.info("listening on http://%s:%d, forwarding to %s", shown, port, self.plane.upstream.config.base_url)

    def at_close(self, callback: Callable[[], None]) -> None:
        """Call this when everything ends."""
        self._at_close.append(callback)

    def stop(self) -> None:
        """End soon: the first call drains, a second one ends now."""
        self._signals += 1
        if not self._stop.done():
            self._stop.set_result(None)
        elif self._signals > 1:
            log.warning("stopping now")
            self.listener.abort()

    async def run(self) -> None:
        """Serve until `stop`, then drain."""
        await self._stop
        self.plane.is_ready = False
        log.info("draining %d connection(s)", len(self.listener))
        if not await self.listener.drain(DRAIN_S):
            log.warning("some exchanges were cut after %d seconds", DRAIN_S)
        await self.close()

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
        except OSError as error:
            where = error.filename or f"{settings.listen.host}:{settings.listen.port} (listen.port)"
            log.error("cannot use %s: %s", where, error.strerror or error)
            if worker is not None:
                await worker.close()
            return EX_UNAVAILABLE
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, worker.stop)
        await worker.run()
        return 0

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())
