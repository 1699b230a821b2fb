"""A peer: one gateway under measurement. Each is one small class in a file of its own, listed in ``__init__.py``."""

from __future__ import annotations

import http.client
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple

from bench.process import Process
from bench.request import ANSWER, FIELDS, JSON_TARGET, QUESTION, says_the_same

_FOLDER = Path(__file__).parent
_ASK_EVERY_S = 0.005


class Target(NamedTuple):
    """The upstream: 127.0.0.1:port in the clear, or https://localhost:port with the CA (PEM) to verify it by."""

    port: int
    ca: Path | None = None

    @property
    def address(self) -> str:
        """``host:port``; with TLS the host is the name in its certificate."""
        return f"{'127.0.0.1' if self.ca is None else 'localhost'}:{self.port}"

    @property
    def url(self) -> str:
        """Without a path."""
        return f"{'http' if self.ca is None else 'https'}://{self.address}"


class Peer(ABC):
    """A gateway that admits 127.0.0.0/8, limits by client address, sets the server's key and logs every request.

    It keeps connections alive on both sides; with a CA in ``target`` it verifies the upstream by it. ``directory``
    is its own. ``port`` is one of 127.0.0.1, free at the moment this is made.
    """

    name: str
    has_workers: bool
    """Whether it can run two workers, processes or threads, on one port."""
    is_slow: bool = False
    """Whether a request costs it about a millisecond or more: few connections are load enough."""
    is_faithful: bool = True
    """Whether an answer arrives byte for byte; else only what it says is the same (`is_answer`)."""
    lacks: str = ""
    """What it cannot do of all this, as half a sentence for a footnote; empty if nothing."""
    differs: str = ""
    """What it does otherwise than the others, to its advantage or not, as half a sentence for a footnote."""
    start_timeout_s: float = 15.0

    def __init__(self, directory: Path, target: Target, *, workers: int = 1) -> None:
        if workers > 1 and not self.has_workers:
            raise ValueError(f"{self.name} runs one worker only")
        self.directory = directory
        self.target = target
        self.workers = workers
        self.port = free_port()
        self.process: Process | None = None
        self._refused = ""

    @classmethod
    def install(cls) -> None:
        """Get what it needs, if that is missing. Raises bench.install.Unavailable if it is not to be had."""
        return

    @abstractmethod
    def configure(self) -> list[str]:
        """Write the configuration into ``directory``; the command that runs the gateway in the foreground."""

    @abstractmethod
    def version(self) -> str:
        """What is measured."""

    def environment(self) -> Mapping[str, str]:
        """What it needs in its environment besides PATH and HOME."""
        return {}

    @property
    def fields(self) -> Mapping[str, str]:
        """Header fields its clients have to send besides those of the SDK."""
        return {}

    def is_answer(self, body: bytes) -> bool:
        """Whether a body is the upstream's plain answer: its very bytes, or what they say if not faithful."""
        return body == ANSWER or (not self.is_faithful and says_the_same(body, ANSWER))

    def start(self, cores: set[int]) -> float:
        """Start it on these cores and wait until it forwards; seconds from the one to the other.

        Raises RuntimeError if it ends, answers what it must not, or takes longer than ``start_timeout_s``.
        """
        argv = self.configure()
        # Nothing of the caller's environment may configure what is measured.
        env = {"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment()}
        started = time.perf_counter()
        self.process = Process(argv, cores, env=env, log=self.directory / "said.log")
        try:
            while not self._forwards():
                self.process.check()
                if time.perf_counter() - started > self.start_timeout_s:
                    raise RuntimeError(
                        f"{self.name} does not forward{self._refused}; it said:\n{self.process.said()}"
                    )
                time.sleep(_ASK_EVERY_S)
            return time.perf_counter() - started
        except BaseException:
            self.stop()
            raise

    def _forwards(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.start_timeout_s)
        fields = {**dict(FIELDS), **self.fields, "Connection": "close"}
        try:
            connection.request("POST", JSON_TARGET, QUESTION, fields)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if response.status == 503:
            # Some listen before they know where to forward to.
            self._refused = f", and answers 503: {body[:500]!r}"
            return False
        if response.status != 200 or not self.is_answer(body):
            raise RuntimeError(f"{self.name} answers {response.status}: {body[:500]!r}")
        return True

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def fill(self, template: str, **values: object) -> Path:
        """Write a template of this folder, filled in, into ``directory`` under its name less ``.template``."""
        file = self.directory / template.removesuffix(".template")
        known = {
            "directory": self.directory,
            "port": self.port,
            "workers": self.workers,
            "target": self.target.address,
        }
        file.write_text(Template((_FOLDER / template).read_text()).substitute(known, **values))
        return file


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
