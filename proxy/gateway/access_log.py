"""The access log: one JSON line per exchange, buffered, written by a thread of its own.

No body, no query, no secret is ever in it; a credential appears as the first 12 hexadecimal digits of its SHA-256.
A reader that stops reading costs lines, which are counted, and never a request.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import threading
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from queue import Full, Queue

from proxy.core.chain import Chain
from proxy.core.exchange import Exchange
from proxy.stages.key import bearer

log = logging.getLogger("sluice.access")

VERSION = 1
FLUSH_BYTES = 32_768
FLUSH_S = 0.25
MAX_BATCHES = 256
_SHOWN = 1024  # characters of a path or a forwarded chain


def line_of(exchange: Exchange, chain: Chain, now_s: float) -> str:
    """The line of one exchange, with its line feed. ``now_s`` is the monotonic clock at its end."""
    stages = ",".join([f'"{name}":{quoted(verdict)}' for name, verdict in chain.verdicts(exchange)])
    total_ms = (now_s - exchange.started_s) * 1000
    first = f"{(exchange.first_byte_s - exchange.started_s) * 1000:.3f}" if exchange.first_byte_s else "null"
    digest = credential_digest(exchange)
    path = exchange.path.decode("latin-1")[:_SHOWN]
    return (
        f'{{"v":{VERSION},"time_ns":{exchange.started_ns},"seq":{exchange.sequence},'
        f'"request_id":"{exchange.request_id}","peer_ip":"{exchange.peer_ip}","client_ip":"{exchange.client_ip}",'
        f'"forwarded":{quoted(exchange.forwarded_chain[:_SHOWN])},'
        f'"credential":{_or_null(digest)},"key":{_or_null(exchange.credential_source)},'
        f'"route":"{exchange.route}","method":{quoted(exchange.method)},"path":{quoted(path)},'
        f'"model":{_or_null(exchange.model and exchange.model[:_SHOWN])},"stages":{{{stages}}},'
        f'"status":{exchange.status},"upstream_sent":"{exchange.upstream_sent}",'
        f'"bytes_in":{exchange.bytes_in},"bytes_out":{exchange.bytes_out},'
        f'"first_byte_ms":{first},"total_ms":{total_ms:.3f},"aborted":{_or_null(exchange.aborted)}}}\n'
    )


def _or_null(text: str | None) -> str:
    return quoted(text) if text else "null"


def credential_digest(exchange: Exchange) -> str | None:
    """The short digest of the credential an exchange travels with, or None without one."""
    credential = exchange.credential or exchange.body_credential or bearer(exchange)
    if not credential:
        return None
    return hashlib.sha256(credential.encode("utf-8", "replace")).hexdigest()[:12]


class AccessLog:
    """Collects lines and hands them, in batches, to a thread that writes them to ``fd``.

    ``call_later(seconds, callback)`` is the loop's: lines wait at most a quarter of a second.
    """

    def __init__(self, fd: int, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._fd = fd
        self._call_later = call_later
        self._lines: list[str] = []
        self._size = 0
        self._is_scheduled = False
        self.dropped = 0
        self._batches: Queue[bytes | None] = Queue(MAX_BATCHES)
        self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)
        self._thread.start()

    def add(self, exchange: Exchange, chain: Chain, now_s: float) -> None:
        """Note an exchange that has ended."""
        line = line_of(exchange, chain, now_s)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._call_later(FLUSH_S, self._on_time)

    def _on_time(self) -> None:
        self._is_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Hand over what has been collected."""
        if not self._lines:
            return
        batch = "".join(self._lines).encode("ascii")
        count = len(self._lines)
        self._lines.clear()
        self._size = 0
        try:
            self._batches.put_nowait(batch)
        except Full:
            if not self.dropped:
                log.error("the access log is not being read: lines are dropped")
            self.dropped += count

    def close(self) -> None:
        """Write what is left, and wait a moment for it."""
        self.flush()
        try:
            self._batches.put_nowait(None)
        except Full:
            return
        self._thread.join(timeout=2)

    def _write_all(self) -> None:
        failing = False
        while True:
            batch = self._batches.get()
            if batch is None:
                return
            try:
                self._write(batch)
            except OSError as error:
                # A full disk may have room again: the next batch is tried like the first.
                self.dropped += batch.count(b"\n")
                if not failing:
                    log.error("the access log cannot be written: %s", error.strerror)
                failing = True
            else:
                failing = False

    def _write(self, batch: bytes) -> None:
        view = memoryview(batch)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                select.select([], [self._fd], [])
