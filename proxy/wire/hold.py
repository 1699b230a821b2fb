"""Waiting for a delegate that asked for time."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Awaitable, Callable

log = logging.getLogger("sluice.wire")


class Hold:
    """Waits for one awaitable at a time, and calls back unless another one or `forget` came first."""

    __slots__ = ("_future", "_on_failure", "_on_release")

    def __init__(self, on_release: Callable[[], None], on_failure: Callable[[], None]) -> None:
        self._on_release = on_release
        self._on_failure = on_failure
        self._future: Future[None] | None = None

    def wait(self, awaitable: Awaitable[None]) -> None:
        """Call ``on_release`` when this is done, ``on_failure`` if it raises."""
        self._future = asyncio.ensure_future(awaitable)
        self._future.add_done_callback(self._done)

    def forget(self) -> None:
        """Call nobody back any more."""
        self._future = None

    def _done(self, future: Future[None]) -> None:
        failure = asyncio.CancelledError() if future.cancelled() else future.exception()
        if future is not self._future:
            # It belongs to a request whose answer is out already.
            return
        self._future = None
        if failure is None:
            self._on_release()
        else:
            log.error("a delegate failed", exc_info=failure)
            self._on_failure()
