"""Two ways to run the mock without an event loop of one's own: for a block of code, or until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from proxy.mock.behaviour import Behaviour
from proxy.mock.server import MockOpenAI


@contextlib.contextmanager
def running(mock: MockOpenAI | None = None, host: str = "127.0.0.1", port: int = 0) -> Iterator[MockOpenAI]:
    """Run a mock in a thread of its own for as long as the block lasts; raises what `MockOpenAI.start` raises."""
    server = MockOpenAI() if mock is None else mock
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="mock")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(host, port), loop).result()
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def serve(
    host: str = "127.0.0.1",
    port: int = 9000,
    behaviour: Behaviour | None = None,
    *,
    ready: Callable[[MockOpenAI], None] | None = None,
) -> None:
    """Run a mock until SIGINT or SIGTERM. ``ready`` is called once it listens.

    Raises OSError if the address cannot be had.
    """
    asyncio.run(_serve(host, port, behaviour, ready))


async def _serve(
    host: str, port: int, behaviour: Behaviour | None, ready: Callable[[MockOpenAI], None] | None
) -> None:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no signal handlers in event loops: there Ctrl-C ends asyncio.run by KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, told_to_stop.set)
    mock = MockOpenAI(behaviour)
    await mock.start(host, port)
    try:
        if ready is not None:
            ready(mock)
        await told_to_stop.wait()
    finally:
        await mock.stop()
