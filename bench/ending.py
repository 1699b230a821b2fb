"""Ctrl-C and SIGTERM: the bench ends what it started, then itself, with one line and no traceback."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


class ToldToEnd(BaseException):
    """Raised wherever the program is when it is told to end. ``status`` is what it ends with, as a shell has it."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number
        super().__init__(f"told to end by {signal.Signals(number).name}")


@contextmanager
def heeded() -> Iterator[None]:
    """Either signal raises `ToldToEnd` from here on."""
    with _handled(_raise):
        yield


@contextmanager
def postponed() -> Iterator[None]:
    """What is done in here is not interrupted: it is the end already."""
    with _handled(signal.SIG_IGN):
        yield


async def until_told(work: Awaitable[T]) -> T:
    """Do it; a signal cancels it, and then this raises `ToldToEnd`. To be the main task of its loop."""
    told: list[int] = []
    task = asyncio.ensure_future(work)

    def end(number: int) -> None:
        told.append(number)
        task.cancel()

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if told:
            raise ToldToEnd(told[0]) from None
        raise


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise ToldToEnd(number)


@contextmanager
def _handled(handler: signal.Handlers | Callable[[int, FrameType | None], object]) -> Iterator[None]:
    former = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler_before in former.items():
            signal.signal(number, handler_before)
