"""The process that is measured: one worker of Sluice, and a way to mark when counting begins and ends.

    python -m guard.gateway FD

``FD`` is a socket. Its first line is the configuration as JSON; the worker answers with its port. Each further line
is one of `Control.COMMANDS`, carried out inside the loop and answered with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

from guard.calibration import calibrate
from guard.counting import FunctionCounter
from proxy.gateway.worker import Worker, calm_collector, new_loop
from proxy.settings import load

MARK = "getpriority"
"""A function of the C library that nothing else here calls: callgrind is told to write its counts at each call."""


class Control:
    """Carries out the commands of whoever measures."""

    COMMANDS = ("instrument", "mark", "calibrate", "count", "counts")

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rwb", buffering=0)
        self._counter = FunctionCounter()
        self.worker: Worker | None = None

    def fileno(self) -> int:
        """For the loop."""
        return self._file.fileno()

    def read(self) -> str:
        """The next line; empty at the end."""
        try:
            return self._file.readline().decode().strip()
        except ConnectionResetError:  # Who asked went before the answer.
            return ""

    def say(self, answer: object) -> None:
        """Answer with one line. If nobody listens any more, the next `read` finds the end."""
        with suppress(BrokenPipeError):
            self._file.write(json.dumps(answer).encode() + b"\n")

    def on_readable(self) -> None:
        """Take one command, and answer it."""
        command = self.read()
        if not command:
            asyncio.get_running_loop().remove_reader(self)
            assert self.worker is not None
            self.worker.stop()
            return
        # What lies behind a mark is counted with the units: as little as possible, the same every time.
        self.say(getattr(self, command)() if command in self.COMMANDS else f"unknown: {command}")

    def instrument(self) -> None:
        """Have Valgrind count from now on. Start-up was left out, or it would take longest of all."""
        quiet = subprocess.DEVNULL
        ask = subprocess.Popen(
            ["vgdb", f"--pid={os.getpid()}", "instrumentation", "on"], stdin=quiet, stdout=quiet, stderr=quiet
        )
        # Valgrind looks for questions while the process computes; to interrupt one that waits it needs ptrace.
        while ask.poll() is None:
            pass
        if ask.returncode:
            raise SystemExit("vgdb could not reach Valgrind")

    def mark(self) -> None:
        """Have the counts since the last mark written."""
        os.getpriority(os.PRIO_PROCESS, 0)

    def calibrate(self) -> None:
        """Do the work that never changes, between two marks."""
        calibrate()
        self.mark()
        calibrate()
        self.mark()

    def count(self) -> None:
        """Count Python functions from now on."""
        self._counter.start()

    def counts(self) -> dict[str, dict[str, float]]:
        """Stop counting them; what was found."""
        return self._counter.stop()


async def serve(control: Control) -> None:
    """Serve until the socket is closed."""
    document = control.read()
    if not document:
        return
    worker = control.worker = Worker(load(json.loads(document), {}).settings)
    await worker.start()
    calm_collector()
    asyncio.get_running_loop().add_reader(control, control.on_readable)
    control.say(worker.listener.port)
    await worker.run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve(Control(socket.socket(fileno=int(sys.argv[1])))))
