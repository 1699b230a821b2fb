"""``sluice`` as a process of its own, started as an operator starts it."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]


def environment(**names: str) -> dict[str, str]:
    """A clean environment: nothing the machine has set may change what a test sees."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "COVERAGE_PROCESS_START") if name in os.environ
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", **names}


def run(*args: str, stdin: str = "", timeout_s: float = 30, **names: str) -> subprocess.CompletedProcess[str]:
    """Run ``sluice`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(**names),
        cwd="/",
        check=False,
    )


class Sluice:
    """A running ``sluice serve``; ``out`` and ``err`` collect what it prints."""

    most_files = 0
    """How many files it may have open; 0 = as many as we may."""
    command: tuple[str, ...] = ("-m", "proxy", "serve")
    """What Python is to run."""

    def __init__(self, *args: str, **names: str) -> None:
        settings = {"SLUICE__ADMIN__PORT": "0", "SLUICE__LISTEN__HOST": "127.0.0.1", "PORT": "0", **names}
        self.process = subprocess.Popen(
            [sys.executable, *self.command, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**settings),
            cwd="/",
            # A group of its own, as a terminal or a service manager has it: signals to all of it spare the tests.
            start_new_session=True,
            preexec_fn=self._limit_files if self.most_files else None,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
            if stream is not None
        ]
        for thread in self._threads:
            thread.start()

    def _limit_files(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.most_files, self.most_files))

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line)  # noqa: PERF402 - each line must be there as soon as it is printed

    def wait_for(self, pattern: str, timeout_s: float = 10) -> re.Match[str]:
        """Wait until a line of either output matches."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for line in [*self.err, *self.out]:
                if found := re.search(pattern, line):
                    return found
            if self.process.poll() is not None and not any(thread.is_alive() for thread in self._threads):
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in:\n{''.join([*self.err, *self.out])}")

    @property
    def port(self) -> int:
        """The port it listens on, once it does."""
        return int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])

    @property
    def admin_port(self) -> int:
        """The port of its admin listener, once there is one."""
        return int(self.wait_for(r"admin on http://127\.0\.0\.1:(\d+)")[1])

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers, the oldest first."""
        return children(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=15)
        for thread in self._threads:
            thread.join(timeout=5)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return status


def children(pid: int) -> list[int]:
    """The process ids of a process's children (proc(5), ``task/TID/children``)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def serving(*args: str, **names: str) -> Iterator[Sluice]:
    """A ``sluice serve`` for the length of a ``with`` block."""
    sluice = Sluice(*args, **names)
    try:
        yield sluice
    finally:
        sluice.stop()
