"""The gateway under measurement: ``sluice serve`` with one worker pinned to its core, and the upstream behind it."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.process import Cores, Process, parse_stat
from bench.request import SERVER_KEY

Config = dict[str, object]

START_S = 60.0
"""How long a start may take: ten thousand networks are read, and every gateway has the same core."""
EVENLY: Mapping[str, object] = {
    "algorithm": "gcra",
    "second": 100_000,
    "minute": 6_000_000,
    "hour": 360_000_000,
    "burst": 100_000,
}
"""Three windows that no load here fills. The account has the same size after every request: where the cost of
something else is asked, it must not grow with the time that was measured."""

_PROC = Path("/proc")
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")


def config(upstream_port: int, **changes: object) -> Config:
    """A configuration with everything on: allowlist, three limits in ``shared``, server key, access log.

    ``changes`` are whole settings, or sections of ``stages`` by their stage's name.
    """
    stages: dict[str, object] = {
        "ip_allowlist": {"allow": ["127.0.0.0/8"]},
        "limit": {**EVENLY},
        "key": {"server_keys": [SERVER_KEY], "prefer": "server"},
        "upstream": {"base_url": f"http://127.0.0.1:{upstream_port}/v1"},
    }
    whole: Config = {
        "version": 1,
        "workers": 1,
        "listen": {"host": "127.0.0.1", "port": 0},
        "admin": {"host": "127.0.0.1", "port": 0},
        "chain": list(stages),
        "limits": {"store": "shared"},
    }
    for name, value in changes.items():
        if name in stages:
            stages[name] = value
        elif name == "stages" and isinstance(value, dict):
            stages.update(value)
        else:
            whole[name] = value
    whole["stages"] = stages
    return whole


class Place(NamedTuple):
    """Where everything runs: a directory for files, and the cores."""

    directory: Path
    cores: Cores
    upstream_port: int


class Gateway:
    """One running gateway. Raises RuntimeError if it does not start."""

    def __init__(self, place: Place, name: str, settings: Config) -> None:
        directory = place.directory / name
        directory.mkdir()
        settings = {**settings, "access_log": {"path": str(directory / "access.log")}}
        # YAML holds JSON.
        file = directory / "sluice.yaml"
        file.write_text(json.dumps(settings))
        # Nothing of the caller's environment may configure what is measured.
        env = {"PATH": os.environ["PATH"], "HOME": str(directory)}
        argv = [sys.executable, "-m", "proxy", "serve", "--config", str(file)]
        self.process = Process(argv, place.cores.gateway, env=env, log=directory / "said.log")
        try:
            self.port = int(said(self.process, _LISTENING)[1])
        except BaseException:
            self.process.stop()
            raise
        self._pids = [stat.pid for stat in self.process.family]

    def cpu_s(self) -> float:
        """The CPU time it has used so far, supervisor and all, in seconds. Raises RuntimeError if it has ended."""
        self.process.check()
        return sum(cpu_s(pid) for pid in self._pids)

    def holds(self, name: str) -> Path:
        """The one file of this name that it has mapped. Raises RuntimeError if there is none."""
        for pid in self._pids:
            for line in (_PROC / str(pid) / "maps").read_text().splitlines():
                if line.endswith(f"/{name}"):
                    return Path(line[line.index("/") :])
        raise RuntimeError(f"the gateway has no {name}")


def cpu_s(pid: int) -> float:
    """The CPU time of a process so far, in seconds: to the nanosecond where the kernel keeps count (``schedstat``).

    Else to the clock tick of proc(5), as everywhere. Raises RuntimeError if the process has ended.
    """
    try:
        try:
            tasks = list((_PROC / str(pid) / "task").iterdir())
            return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
        except FileNotFoundError:
            return parse_stat((_PROC / str(pid) / "stat").read_text(errors="replace")).cpu_s
    except (FileNotFoundError, ProcessLookupError):
        raise RuntimeError("a process of the gateway ended during the measurement") from None


def said(process: Process, pattern: re.Pattern[str]) -> re.Match[str]:
    """Wait until the process says something. Raises RuntimeError if it ends before, or takes too long."""
    deadline = time.monotonic() + START_S
    while (found := pattern.search(process.said())) is None:
        process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"a process does not start; it said:\n{process.said()}")
        time.sleep(0.02)
    return found


@contextmanager
def upstream(directory: Path, cores: Cores) -> Iterator[int]:
    """The upstream in a process of its own; its port. Raises RuntimeError if it does not start."""
    argv = [sys.executable, "-m", "bench.curves.upstream"]
    process = Process(argv, cores.others, env={"PATH": os.environ["PATH"]}, log=directory / "upstream.log")
    try:
        yield int(said(process, re.compile(r"\A(\d+)\n"))[1])
    finally:
        process.stop()


@contextmanager
def gateways(place: Place, settings: Mapping[str, Config]) -> Iterator[list[Gateway]]:
    """Gateways, each by the name of its directory; at the end none is left. Raises RuntimeError."""
    with ExitStack() as stack:
        started = []
        for name, each in settings.items():
            gateway = Gateway(place, name, each)
            stack.callback(gateway.process.stop)
            started.append(gateway)
        try:
            yield started
        except RuntimeError as error:
            words = "\n".join(gateway.process.said() for gateway in started)
            raise RuntimeError(f"{error}; the gateways said:\n{words}") from None
