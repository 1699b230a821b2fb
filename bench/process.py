"""Processes: where they run, what they used, and their end. Linux's ``/proc`` (proc(5)) is read for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_S = 10.0


class Stat(NamedTuple):
    """One process: its parent, and the user and system time of all its threads, in seconds."""

    pid: int
    parent: int
    cpu_s: float


class Cores(NamedTuple):
    """The core of the gateway and the core of everything else; the same two sets if there is only one core."""

    gateway: set[int]
    others: set[int]

    @classmethod
    def available(cls) -> Cores:
        """The first two cores this process may use."""
        cores = sorted(os.sched_getaffinity(0))
        return cls({cores[0]}, {cores[1]}) if len(cores) > 1 else cls({cores[0]}, {cores[0]})


def parse_stat(text: str) -> Stat:
    """One line of ``/proc/PID/stat``. The name in brackets may hold anything, brackets too."""
    pid = int(text.split(" ", 1)[0])
    fields = text.rpartition(")")[2].split()
    return Stat(pid, int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def parse_schedstat(text: str) -> float:
    """The seconds that a thread ran, from its ``schedstat``, which has nanoseconds where ``stat`` has ticks."""
    return int(text.split(" ", 1)[0]) / 1e9


def parse_rss(status: str, name: str = "VmRSS") -> int:
    """The resident bytes in the text of ``/proc/PID/status``; other names for lines of ``/proc/PID/smaps_rollup``."""
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def family_rss(rollups: Sequence[str]) -> int:
    """The bytes of a family of processes, from the text of each one's ``smaps_rollup``.

    What only one process has counts in full for each. What is shared, libraries and what was there before a fork,
    counts once, as much as the member has that has most of it. The proportional set size (Pss) would not do: it
    deducts what strangers share, and a gateway on Python would weigh less because the bench runs on Python, too.
    """
    private = [parse_rss(text, "Private_Clean") + parse_rss(text, "Private_Dirty") for text in rollups]
    shared = [parse_rss(text, "Rss") - own for text, own in zip(rollups, private, strict=True)]
    return sum(private) + max(shared)


def family(root: int, stats: Sequence[Stat]) -> list[Stat]:
    """The process ``root`` and all that descend from it."""
    pids = {root}
    while True:
        found = [stat for stat in stats if stat.pid in pids or stat.parent in pids]
        if len(found) == len(pids):
            return found
        pids = {stat.pid for stat in found} | {root}


def _stats() -> list[Stat]:
    stats = []
    for directory in _PROC.iterdir():
        if directory.name.isdigit():
            try:
                stats.append(parse_stat((directory / "stat").read_text(errors="replace")))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return stats


def _run_s(tasks: Path) -> float:
    """What the threads of a process have used, in seconds, from their ``schedstat``; not those that have ended."""
    try:
        return sum(parse_schedstat((task / "schedstat").read_text()) for task in tasks.iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


class Process:
    """A child process with its own children, on given cores; what it says goes into the file ``log``."""

    def __init__(self, argv: Sequence[str], cores: set[int], *, env: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as said, pinned(cores):
            self._popen = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the bench, which then ends its processes in order.
                process_group=0,
            )
        self._log = log

    def said(self) -> str:
        """What it said so far, the last 4,000 characters of it."""
        return self._log.read_text(errors="replace")[-4000:]

    @property
    def family(self) -> list[Stat]:
        """This process and those it has started, their times to less than a tick where the kernel tells them."""
        return [
            stat._replace(cpu_s=max(stat.cpu_s, _run_s(_PROC / str(stat.pid) / "task")))
            for stat in family(self._popen.pid, _stats())
        ]

    def rss_bytes(self) -> int:
        """The resident memory of the family, in bytes: `family_rss` of its members' ``smaps_rollup``."""
        return family_rss([(_PROC / str(stat.pid) / "smaps_rollup").read_text() for stat in self.family])

    def check(self) -> None:
        """Raises RuntimeError with what it said if it has ended."""
        status = self._popen.poll()
        if status is not None:
            raise RuntimeError(f"{self._popen.args!r} ended with status {status}:\n{self.said()}")

    def stop(self) -> None:
        """End it, kindly at first."""
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def used_s(before: Sequence[Stat], after: Sequence[Stat]) -> float:
    """The CPU time a family used between two looks, in seconds. Raises RuntimeError if its members changed."""
    if {stat.pid for stat in before} != {stat.pid for stat in after}:
        raise RuntimeError("a process of the gateway started or ended during the measurement")
    return sum(stat.cpu_s for stat in after) - sum(stat.cpu_s for stat in before)


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Run on these cores; children started meanwhile stay there."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)
