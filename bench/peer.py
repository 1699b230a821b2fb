"""A peer: one gateway under measurement. Each is one small class in a file of its own, listed in ``peers.py``."""

from __future__ import annotations

import http.client
import os
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path

from bench.process import Process
from bench.request import ANSWER, FIELDS, JSON_TARGET, QUESTION

_START_S = 15.0


class Peer(ABC):
    """A gateway with one worker that admits 127.0.0.0/8, limits by client address, sets the server's key and logs.

    ``directory`` is its own and empty. Raises OSError from `start` if the program is not there.
    """

    name: str
    program: str | None = None
    """What has to be on the machine, by the name of both the command and the Debian package."""

    def __init__(self, directory: Path, upstream_port: int) -> None:
        self.directory = directory
        self.upstream_port = upstream_port
        self.port = free_port()
        self.process: Process | None = None

    @abstractmethod
    def configure(self) -> list[str]:
        """Write the configuration into ``directory``; the command that runs the gateway in the foreground."""

    @abstractmethod
    def version(self) -> str:
        """What is measured."""

    def start(self, cores: set[int]) -> None:
        """Start it and wait until it forwards. Raises RuntimeError if it does not."""
        # Nothing of the caller's environment may configure what is measured.
        env = {"PATH": os.environ["PATH"], "HOME": str(self.directory)}
        self.process = Process(self.configure(), cores, env=env, log=self.directory / "said.log")
        deadline = time.monotonic() + _START_S
        while not self._forwards():
            self.process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not forward; it said:\n{self.process.said()}")
            time.sleep(0.05)

    def _forwards(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("POST", JSON_TARGET, QUESTION, dict(FIELDS) | {"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
        except OSError:
            return False
        finally:
            connection.close()
        if response.status != 200 or body != ANSWER:
            raise RuntimeError(f"{self.name} answers {response.status}: {body[:500]!r}")
        return True

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process is not None:
            self.process.stop()
            self.process = None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
