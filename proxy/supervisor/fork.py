"""Forking: a child that has nothing of its parent's but what it is given, and never comes back."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import NoReturn

log = logging.getLogger("sluice.supervisor")

EX_SOFTWARE = 70
"""Exit status of a child that failed for a reason nobody had thought of (<sysexits.h>)."""


def fork(body: Callable[[], int], keep: Collection[int]) -> int:
    """Run ``body`` in a child, whose exit status it answers with; the child's process id. Raises OSError.

    The child keeps the descriptors in ``keep`` and the three standard ones. It ignores SIGINT and SIGHUP, which a
    terminal sends to everybody in the foreground, and takes every other signal as a new process does.
    """
    for stream in (sys.stdout, sys.stderr):
        # What is in the buffer would be written twice.
        stream.flush()
    # The child's collector must not touch, and so copy, what is there already; nor close what is not its own.
    gc.freeze()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(body, keep, mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        gc.unfreeze()
    return pid


def _be_child(body: Callable[[], int], keep: Collection[int], mask: Iterable[int]) -> NoReturn:
    status = EX_SOFTWARE
    try:
        # Signals were blocked until here: one for the child would have been written into the parent's socket.
        signal.set_wakeup_fd(-1)
        _forget_handlers()
        _close_all_but(keep)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # Python 3.12 does so itself.
        asyncio._set_running_loop(None)
        status = body()
    except BaseException:
        log.exception("a worker failed")
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        # Nothing of the parent's may be finalised here: its objects own descriptors that are others by now.
        os._exit(status)


def _forget_handlers() -> None:
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _close_all_but(keep: Collection[int]) -> None:
    """Close by number: the objects that own the descriptors belong to the parent's loop."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in keep:
            with suppress(OSError):
                os.close(number)


def ending(status: int) -> str:
    """How a child ended, of what waitpid(2) says: ``SIGKILL``, ``exit status 70``."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
