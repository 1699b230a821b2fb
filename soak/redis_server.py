"""A real Redis server of our own: started, frozen, killed and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from soak.hosts import started

_START_S = 10.0


class RedisServer:
    """``redis-server`` without persistence, for the length of an ``async with`` block.

    Raises RuntimeError where it is not installed or does not start.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-soak-")
        self._log = Path(self._folder.name) / "redis.log"

    @property
    def url(self) -> str:
        """What a gateway's ``limits.store`` is set to."""
        return f"redis://{self.address}:{self.port}/0"

    async def __aenter__(self) -> RedisServer:
        if shutil.which("redis-server") is None:
            raise RuntimeError("redis-server is not installed")
        with socket.socket() as free:
            free.bind((self.address, 0))
            self.port = free.getsockname()[1]
        try:
            await self.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.kill()
        self._folder.cleanup()

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "bind": self.address,
            "port": str(self.port),
            "protected-mode": "no",
            "save": "",
            "appendonly": "no",
            "dir": self._folder.name,
            "logfile": str(self._log),
            "tcp-backlog": "511",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = started(["redis-server", *words])
        end = time.monotonic() + _START_S
        while not await self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"redis-server did not start: {self._log.read_text()[-500:]}")
            await asyncio.sleep(0.002)

    async def _answers(self) -> bool:
        try:
            return await self.ask(b"PING") == b"+PONG\r\n"
        except OSError:
            return False

    async def ask(self, *words: bytes) -> bytes:
        """Send a command on a connection of its own; its answer as it stands. Raises OSError."""
        reader, writer = await asyncio.open_connection(self.address, self.port)
        try:
            packed = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
            writer.write(packed)
            answer = await reader.read(65_536)
            if answer[:1] == b"$":
                size, _, _ = answer[1:].partition(b"\r\n")
                whole = 0 if size == b"-1" else 5 + len(size) + int(size)
                while len(answer) < whole and (more := await reader.read(65_536)):
                    answer += more
            return answer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def freeze(self) -> None:
        """Stop it where it is: it holds its connections and answers nothing."""
        self._signal(signal.SIGSTOP)
        while self._state() != "T":  # noqa: ASYNC110 - the kernel does not tell
            await asyncio.sleep(0)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it at once: its connections are closed, new ones refused, and what it knew is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _state(self) -> str:
        assert self._process is not None
        # The name before it is in parentheses and may hold blanks.
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
