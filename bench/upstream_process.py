"""The bench's upstream as a process of its own, and how it is steered."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from pathlib import Path

from bench.certificate import issue
from bench.peers.peer import Target
from bench.process import Process
from bench.upstream import Mode

_START_S = 10.0


class Upstream:
    """It runs from the moment this is made until ``process`` is stopped. Raises RuntimeError if it does not start.

    ``targets`` has where to find it, by transport: in the clear and with TLS.
    """

    def __init__(self, directory: Path, cores: set[int]) -> None:
        certificate = issue(directory)
        argv = [sys.executable, "-m", "bench.upstream", str(certificate.certificate), str(certificate.key)]
        self.process = Process(argv, cores, env={"PATH": os.environ["PATH"]}, log=directory / "upstream.log")
        try:
            self._wait()
        except BaseException:
            self.process.stop()
            raise
        plain, tls = map(int, self.process.said().split())
        self.targets = {"plain": Target(plain), "tls": Target(tls, certificate.ca)}

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self.process.said().endswith("\n"):
            self.process.check()
            if time.monotonic() > deadline:
                raise RuntimeError("the bench's upstream does not start")
            time.sleep(0.02)

    def counters(self) -> dict[str, int]:
        """What it has sent so far, by kind."""
        return self._get("/counters")

    def stream(self, mode: Mode | None = None) -> None:
        """Have the streams that begin from now on so; None: as at the start."""
        self._get((mode or Mode()).path)

    def beat(self, interval_s: float) -> None:
        """Send each open stream an event so often, one after another."""
        self._get(f"/beat/{interval_s}")

    def finish(self) -> None:
        """End the streams that are open."""
        self._get("/finish")

    def _get(self, path: str) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", self.targets["plain"].port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"the bench's upstream answers {response.status} to {path}")
            counters: dict[str, int] = json.loads(response.read())
            return counters
        finally:
            connection.close()
