"""Processes that a figure needs beside its own: above all the gateway, and what is asked of it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from soak import kernel
from tests.support.process import ROOT, environment

_START_S = 20.0
_STOP_S = 20.0


@dataclass(frozen=True)
class State:
    """What a gateway holds. ``objects`` is 0 unless they were to be counted."""

    port: int
    fds: int
    tasks: int
    objects: int
    in_flight: int
    connections: int

    def leaked(self, since: State) -> dict[str, int]:
        """What there is more of than before: descriptors, tasks, exchanges in flight, client connections."""
        names = ("fds", "tasks", "in_flight", "connections")
        grown = {name: getattr(self, name) - getattr(since, name) for name in names}
        return {name: count for name, count in grown.items() if count > 0}


def module(name: str, *args: str, pass_fds: Sequence[int] = (), **pipes: Any) -> subprocess.Popen[bytes]:
    """Start ``python -m name`` in a clean environment."""
    # The warnings of a process that is killed at its end are nobody's business; those of the product are tested.
    env = environment(PYTHONWARNINGS="ignore")
    return subprocess.Popen([sys.executable, "-m", name, *args], env=env, cwd=ROOT, pass_fds=pass_fds, **pipes)


def config(upstream_port: int, upstream: Mapping[str, object] | None = None, **sections: object) -> dict[str, object]:
    """A configuration with the default chain that forwards to a port on loopback; ``upstream`` is that stage's."""
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "stages": {"upstream": {"base_url": f"http://127.0.0.1:{upstream_port}/v1", **(upstream or {})}},
        "admin": {"enabled": False},
        "access_log": {"enabled": False},
        "log_level": "error",
        **sections,
    }


class Gateway:
    """A gateway for the length of an ``async with`` block."""

    port: int

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __aexit__

    async def __aenter__(self) -> Gateway:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = module(
                "soak.gateway",
                str(theirs.fileno()),
                json.dumps(self._config),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        self.pid = self.process.pid
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.timeout(_START_S):
                self.port = (await self.state()).port
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()
        if self.process.poll() is None:
            # How it ends when it is asked to is G5's; here its work is done.
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        self._said.close()

    def said(self) -> str:
        """The last 4,000 characters of what it said."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-4000:]

    async def state(self, *, count_objects: bool = False) -> State:
        """What it holds just now. Raises RuntimeError if it has ended."""
        self._writer.write(json.dumps({"count_objects": count_objects}).encode() + b"\n")
        line = b""
        with suppress(ConnectionError):
            line = await self._reader.readline()
        if not line:
            raise RuntimeError(f"the gateway has ended:\n{self.said()}")
        return State(**json.loads(line))

    async def settled(self, since: State, within_s: float) -> State:
        """Its state once it holds no more than ``since``, or when the time is up."""
        end = time.monotonic() + within_s
        while (state := await self.state()).leaked(since) and time.monotonic() < end:  # noqa: ASYNC110 - it is asked, it does not tell
            await asyncio.sleep(0.05)
        return state

    def rss_bytes(self) -> int:
        """Its resident memory."""
        return kernel.rss_bytes(self.pid)
