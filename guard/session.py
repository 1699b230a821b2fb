"""One measurement: a worker under callgrind, one with its functions counted, and both driven through all units."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guard import callgrind
from guard.ends import Ends, Upstream
from guard.gateway import MARK
from guard.traffic import configuration

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = {
    "JSON request": 60,
    "SSE chunk": 60,
    "refusal by the limit": 60,
    "1 MiB upload": 2,
    "JSON request, new head": 60,
}
"""Units before any is counted: the interpreter adapts its bytecode to what it meets."""
WINDOWS = 10
"""Each unit is counted in so many windows, and the cheapest counts: no timer went off in it, or the fewest did."""
TIMES = {
    "JSON request": 20,
    "SSE chunk": 40,
    "refusal by the limit": 20,
    "1 MiB upload": 1,
    "JSON request, new head": 20,
}
"""Units in a window: some milliseconds each, and the timers go off every 200 and 250."""
_START_S = 60.0
_SAME = {
    # Hashes of text decide the order in sets, and how often a look-up in a dict goes astray.
    "PYTHONHASHSEED": "0",
    # One way to copy bytes on all processors. ERMS is one instruction that callgrind counts once a byte.
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS",
}
"""What makes two runs the same."""
_STOP_S = 10.0

Functions = dict[str, dict[str, float]]
"""By Python function, ``file:name``: calls, steps (bytecode instructions) and ``C name`` (calls into C), per unit."""


@dataclass
class Cost:
    """What one unit of a kind costs."""

    instructions: float
    """Of these, ``python`` are the interpreter's own; the others are those of libraries."""
    python: float
    by_c: dict[str, float] = field(default_factory=dict)
    functions: Functions = field(default_factory=dict)


@dataclass
class Measured:
    """Everything one measurement finds."""

    calibration: float
    costs: dict[str, Cost]


class Gateway:
    """The measured process, behind its control socket."""

    def __init__(self, prefix: Sequence[str], upstream_port: int, directory: Path) -> None:
        here, there = socket.socketpair()
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TMPDIR": str(directory),  # For the pipes of Valgrind: killed, it leaves them.
            **_SAME,
        }
        with there:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "guard.gateway", str(there.fileno())],
                pass_fds=[there.fileno()],
                env=env,
                cwd=ROOT,
                process_group=0,  # A Ctrl-C is for us: the gateway ends when its socket does.
            )
        here.settimeout(_START_S)
        self._sock = here
        self._file = here.makefile("rwb", buffering=0)
        settings = configuration(upstream_port, str(directory / "access.log"))
        try:
            self.port = int(self.tell(json.dumps(settings)))
        except BaseException:
            self.close()
            raise

    def tell(self, line: str) -> Any:
        """Send one line; what is answered. Raises RuntimeError if the process ended or says nothing."""
        try:
            self._file.write(line.encode() + b"\n")
            answer = self._file.readline()
        except OSError as error:
            raise RuntimeError(f"the measured gateway does not answer: {error}") from error
        if not answer:
            raise RuntimeError("the measured gateway has ended")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._file.close()
        self._sock.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextmanager
def _driven(prefix: Sequence[str], directory: Path) -> Iterator[tuple[Gateway, Ends]]:
    upstream = Upstream()
    gateway: Gateway | None = None
    try:
        gateway = Gateway(prefix, upstream.port, directory)
        with Ends(upstream, gateway.port) as ends:
            yield gateway, ends
    finally:
        if gateway is not None:
            gateway.close()
        upstream.close()


def measure(directory: Path | None = None) -> Measured:
    """Measure every unit. Raises RuntimeError if the gateway does not do its part."""
    with tempfile.TemporaryDirectory(prefix="sluice-guard-", dir=directory) as name:
        measured = count_instructions(Path(name))
        for unit, functions in count_functions(Path(name), TIMES).items():
            measured.costs[unit].functions = functions
    return measured


def count_instructions(directory: Path) -> Measured:
    """Count under callgrind."""
    out = directory / "counts"
    with _driven(callgrind.command(MARK, out), directory) as (gateway, ends):
        gateway.tell("instrument")
        gateway.tell("calibrate")
        for unit in ends.units:
            ends.prepare(unit)
            ends.do(unit, WARM_UP[unit])
            gateway.tell("mark")
            for _ in range(WINDOWS):
                ends.do(unit, TIMES[unit])
                gateway.tell("mark")
            ends.finish(unit)
    # The first part ends with the first calibration, which only warms up; the second is the calibration itself.
    costs = {}
    for number, unit in enumerate(ends.units):
        first = 4 + number * (WINDOWS + 1)
        windows = [_part(out, part) for part in range(first, first + WINDOWS)]
        costs[unit] = _cost(min(windows, key=Counter.total), TIMES[unit])
    return Measured(calibration=float(_part(out, 2).total()), costs=costs)


def _part(out: Path, number: int) -> Counter[str]:
    return callgrind.parse(Path(f"{out}.{number}").read_text("utf-8", "replace").splitlines())


def _cost(counts: Counter[str], times: int) -> Cost:
    return Cost(
        instructions=counts.total() / times,
        python=sum(count for name, count in counts.items() if callgrind.is_python(name)) / times,
        by_c={name: count / times for name, count in counts.most_common()},
    )


def count_functions(directory: Path, times: dict[str, int]) -> dict[str, Functions]:
    """Count Python functions, without callgrind."""
    found: dict[str, Functions] = {}
    with _driven((), directory) as (gateway, ends):
        for unit in ends.units:
            ends.prepare(unit)
            ends.do(unit, WARM_UP[unit])
            windows = []
            for _ in range(WINDOWS):
                gateway.tell("count")
                ends.do(unit, times[unit])
                windows.append(gateway.tell("counts"))
            ends.finish(unit)
            found[unit] = least(windows, times[unit])
    return found


def least(windows: Sequence[Functions], times: int) -> Functions:
    """What all windows have in common, per unit: what only a timer does is missing in one of them."""
    first, *others = windows
    return {
        name: {
            what: min(count, *(window[name].get(what, 0) for window in others)) / times
            for what, count in counts.items()
            if all(what in window[name] for window in others)
        }
        for name, counts in first.items()
        if all(name in window for window in others)
    }
