"""Being told to stop: SIGTERM and Ctrl-C end a measurement, and what it has made is removed on the way out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Raised wherever the signal comes; no handler of errors is to take it for one."""

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        self.status = 128 + number
        """What a shell reports of a process that ended by this signal."""
        super().__init__(self.name)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raises `Stopped` in its body at the first SIGINT or SIGTERM; more of them are ignored until it is left.

    A signal that was ignored before stays so, as those of a job under ``nohup``. Only in the main thread.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in taken:
            signal.signal(number, _stop)
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _stop(number: int, frame: FrameType | None) -> None:
    # Whoever presses Ctrl-C twice would otherwise interrupt the cleaning up.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
