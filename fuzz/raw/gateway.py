"""``sluice serve`` as a process, with short timeouts; its access log is read from a pipe as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from fuzz.raw.book import Book
from fuzz.target import ROOT

TIMEOUT_S = 0.3
"""For a head, a gap in a body, and an idle connection."""
_CONFIG = """\
version: 1
listen: {{host: 127.0.0.1, port: 0}}
downstream: {{header_timeout_s: {timeout}, body_timeout_s: {timeout}, keep_alive_timeout_s: {timeout}}}
admin: {{enabled: false}}
chain: [ip_allowlist, limit, key, upstream]
stages:
  ip_allowlist: {{allow: [127.0.0.0/8]}}
  limit: {{by: client_ip}}
  key: {{server_keys: [], prefer: client}}
  upstream: {{base_url: "http://127.0.0.1:{port}/v1", pool_idle_timeout_s: 20}}
"""
_START_S = 20.0


class Gateway:
    """One gateway; every line of its access log goes into the book."""

    def __init__(self, folder: Path, origin_port: int, book: Book) -> None:
        config = folder / "raw.yaml"
        config.write_text(_CONFIG.format(port=origin_port, timeout=TIMEOUT_S))
        self._said = folder / "raw.log"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                cwd=folder,
            )
        self._book = book
        self.broken_line: bytes | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._book.log(line)
            except (ValueError, KeyError):
                self.broken_line = line

    def port(self) -> int:
        """Wait until it listens. Raises RuntimeError if it does not."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self.is_alive:
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.said())
            if found:
                return int(found[1])
            time.sleep(0.05)
        raise RuntimeError(f"the gateway does not listen:\n{self.said()}")

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def said(self) -> str:
        """What it says about itself."""
        return self._said.read_text(errors="replace")

    def complaints(self) -> list[str]:
        """What it says that is an error or a traceback."""
        return [line for line in self.said().splitlines() if re.search(r"\bERROR\b|^Traceback|Exception", line)]

    def rss_bytes(self) -> int:
        """Its resident memory; 0 where there is no ``/proc``."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        """Let it drain, and read its log to the end; the exit status."""
        if self.is_alive:
            self._process.terminate()
        try:
            status = self._process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status
