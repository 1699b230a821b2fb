"""``sluice serve`` on a host, with its workers, as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType

from soak.hosts import Host, started
from soak.lane import Lane
from tests.support.process import ROOT, environment

PORT = 5000
"""Every host has an address of its own."""
_START_S = 30.0
_READY = b"GET /readyz HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


def limited(
    upstream: tuple[str, int], hub: str, store: str, limit: Mapping[str, object], **sections: object
) -> dict[str, object]:
    """A configuration that forwards to ``upstream``, believes whom ``hub`` speaks for, and limits in ``store``.

    ``sections`` stand beside the others; those of ``limits`` are added to its own.
    """
    more = sections.pop("limits", {})
    assert isinstance(more, Mapping)
    base_url = f"http://{upstream[0]}:{upstream[1]}/v1"
    return {
        "trusted_proxies": [hub],
        "limits": {"store": store, **more},
        "stages": {"ip_allowlist": {"allow": ["any"]}, "limit": limit, "upstream": {"base_url": base_url}},
        "admin": {"enabled": False},
        "access_log": {"enabled": False},
        "log_level": "info",
        **sections,
    }


class Served:
    """A gateway on a host for the length of an ``async with`` block."""

    def __init__(self, host: Host, config: Mapping[str, object], workers: int) -> None:
        self.host = host
        self.workers = workers
        listen = {"host": host.address, "port": PORT}
        self._config = {**config, "listen": listen, "workers": workers}
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-soak-")
        self._log = Path(self._folder.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Served:
        file = Path(self._folder.name) / "sluice.yaml"
        file.write_text(json.dumps(self._config))  # JSON is YAML
        argv = [sys.executable, "-m", "proxy", "serve", "--config", str(file)]
        env = environment(PYTHONWARNINGS="ignore", **self.host.environ)
        try:
            with self._log.open("wb") as log:
                self._process = started(self.host.command(argv), env=env, cwd=ROOT, stdout=log, stderr=log)
            await self._until_ready()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, 10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """The workers, as the kernel knows them."""
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def worker_cpu_s(self) -> dict[int, float]:
        """The CPU time of each worker so far, by its number."""
        return {pid: cpu_s(pid) for pid in self.worker_pids}

    def said(self) -> str:
        """Everything it said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def lanes(self, count: int, own: Sequence[str | None] = (None,)) -> list[Lane]:
        """So many connections to it, from addresses of our own in turn; the kernel spreads them over the workers.

        Raises RuntimeError.
        """
        try:
            return [await Lane.connect(self.host.address, PORT, own=each) for each in islice(cycle(own), count)]
        except OSError as error:
            raise RuntimeError(f"the gateway takes no connection ({error}):\n{self.said()[-2000:]}") from None

    async def _until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _START_S
        while not await self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the gateway did not start:\n{self.said()[-2000:]}")
            await asyncio.sleep(0.02)

    async def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None or len(self.worker_pids) < self.workers:
            return False
        try:
            lane = await Lane.connect(self.host.address, PORT)
        except OSError:
            return False
        try:
            async with asyncio.timeout(5):
                status, _ = await lane.ask(_READY)
                return status == 200
        finally:
            lane.close()


def cpu_s(pid: int) -> float:
    """The CPU time of a process, all its threads included. Raises OSError if it has ended."""
    # What clock_getcpuclockid(3) makes of a process id on Linux.
    return time.clock_gettime((~pid << 3) | 2)
