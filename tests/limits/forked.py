"""Processes for tests: functions that run in forked children, with an answer or a violent end."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable


class Child:
    """A function in a forked process. Its arguments are what the parent had; what it changes there, nobody sees."""

    def __init__(self, work: Callable[[], object]) -> None:
        read, write = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forking with threads: the child opens everything anew, and ends without unwinding.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(read)
                os.write(write, repr(work()).encode())
                status = 0
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(status)
        os.close(write)
        self._answer = os.fdopen(read, "rb")

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """The end of the process: 0, what it exited with, or minus the signal."""
        self._answer.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def answer(self) -> str:
        """What the function returned, as `repr` writes it, once the process ended well."""
        answer = self._answer.read().decode()
        assert self.wait() == 0
        return answer


def run_apart(work: Callable[[], object]) -> str:
    """Run a function in a process of its own, to its end."""
    return Child(work).answer()
