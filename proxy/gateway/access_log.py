"""The access log: one JSON line per exchange, buffered, written by a thread of its own.

No body, no query, no secret is ever in it; a credential appears as the first 12 hexadecimal digits of its SHA-256.
What a client wrote is escaped to visible ASCII, and no line is longer than `MAX_LINE_BYTES`, whatever it wrote.
A reader that stops reading costs lines, which are counted, and never a request.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import select
import threading
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from queue import Full, Queue

from proxy.core.chain import Chain
from proxy.core.exchange import Exchange
from proxy.stages.key import bearer

log = logging.getLogger("sluice.access")

VERSION = 1
FLUSH_BYTES = 131_072
FLUSH_S = 0.25
MAX_BATCHES = 64
MAX_LINE_BYTES = 8192
"""The longest line, its line feed included: what log shippers take in one piece."""
_SHOWN = 1024  # characters of a path, a model's name or a forwarded chain
_LONGEST_KEY = 4096  # what the key stage takes for a key
_REMEMBERED = 256  # characters of a credential
_LEAST_MASKED = 12  # a shorter credential may well be a word of the line itself
# Keys do get written into paths and model names, by mistake.
_KEY_LIKE = re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{6,}")
_MASK = "sk-***"


def line_of(exchange: Exchange, chain: Chain, now_s: float) -> str:
    """The line of one exchange, with its line feed. ``now_s`` is the monotonic clock at its end."""
    credential = exchange.credential or exchange.body_credential or bearer(exchange) or ""
    forwarded, path, model = exchange.forwarded_chain, exchange.path.decode("latin-1"), exchange.model or ""
    line = _written(
        exchange,
        chain.verdicts(exchange),
        now_s,
        credential,
        quoted(forwarded[:_SHOWN]),
        quoted(exchange.method),
        quoted(path[:_SHOWN]),
        quoted(model[:_SHOWN]) if model else "null",
    )
    # In so short a line nothing was cut. Nearly all are, so the others may take their time.
    is_short = len(line) < _SHOWN
    may_hold_key = "sk-" in path or "sk-" in model or "sk-" in forwarded
    if is_short and not may_hold_key and (len(credential) < _LEAST_MASKED or credential not in line):
        return line
    return _careful_line(exchange, chain, now_s, credential)


def _written(
    exchange: Exchange,
    verdicts: tuple[tuple[str, str], ...],
    now_s: float,
    credential: str,
    forwarded: str,
    method: str,
    path: str,
    model: str,
) -> str:
    """The line; the last four are JSON already."""
    total_ms = (now_s - exchange.started_s) * 1000
    first = f"{(exchange.first_byte_s - exchange.started_s) * 1000:.3f}" if exchange.first_byte_s else "null"
    return (
        f'{{"v":{VERSION},"time_ns":{exchange.started_ns},"seq":{exchange.sequence},'
        f'"request_id":"{exchange.request_id}","peer_ip":"{exchange.peer_ip}","client_ip":"{exchange.client_ip}",'
        f'"forwarded":{forwarded},'
        f'"credential":{_digest(credential)},"key":{_or_null(exchange.credential_source)},'
        f'"route":"{exchange.route}","method":{method},"path":{path},'
        f'"model":{model},"stages":{_stages(verdicts)},'
        f'"status":{exchange.status},"upstream_sent":"{exchange.upstream_sent}",'
        f'"bytes_in":{exchange.bytes_in},"bytes_out":{exchange.bytes_out},'
        f'"first_byte_ms":{first},"total_ms":{total_ms:.3f},"stream":{_or_null(exchange.stream)},'
        f'"aborted":{_or_null(exchange.aborted)}}}\n'
    )


def _careful_line(exchange: Exchange, chain: Chain, now_s: float, credential: str) -> str:
    """The line with what looks like a key masked, and with what a client wrote cut, the longest first, to fit."""
    given = (exchange.forwarded_chain, exchange.method, exchange.path.decode("latin-1"), exchange.model or "")
    # Masked before it is cut: half a key is still half a key.
    texts = [_masked(text[: _SHOWN + _LONGEST_KEY], credential)[:_SHOWN] for text in given]
    written = ['""', '""', '""', '""' if exchange.model else "null"]
    fixed = 0
    verdicts = chain.verdicts(exchange)
    # Chains this long are an operator's own doing; of them the end says the most.
    for kept in (verdicts, verdicts[-1:], ()):
        verdicts = kept
        fixed = len(_written(exchange, verdicts, now_s, credential, *written))
        if fixed <= MAX_LINE_BYTES:
            break
    shortest_first = sorted((len(quoted(text)), index) for index, text in enumerate(texts) if text)
    left = len(shortest_first)
    room = MAX_LINE_BYTES - fixed + len('""') * left
    for _, index in shortest_first:
        written[index] = _cut(texts[index], room // left)
        room -= len(written[index])
        left -= 1
    return _written(exchange, verdicts, now_s, credential, *written)


def _masked(text: str, credential: str) -> str:
    if len(credential) >= _LEAST_MASKED:
        text = text.replace(credential, _MASK)
    return _KEY_LIKE.sub(_MASK, text)


def _cut(text: str, most: int) -> str:
    """The text as a JSON string of at most ``most`` characters, cut between two characters of its own."""
    written = quoted(text)
    while len(written) > most and text:
        text = text[: len(text) * most // len(written)]
        written = quoted(text)
    return written


@lru_cache(maxsize=256)
def _stages(verdicts: tuple[tuple[str, str], ...]) -> str:
    """The verdicts as a JSON object. Most exchanges come to the same few."""
    return "{" + ",".join([f'"{name}":{quoted(verdict)}' for name, verdict in verdicts]) + "}"


@lru_cache(maxsize=64)
def _or_null(text: str | None) -> str:
    """One of few words, as JSON."""
    return quoted(text) if text else "null"


def _digest(credential: str) -> str:
    """What stands for a credential, as JSON; of those that clients wrote, long ones are not remembered."""
    return _digest_of(credential) if len(credential) <= _REMEMBERED else _digest_of.__wrapped__(credential)


@lru_cache(maxsize=1024)
def _digest_of(credential: str) -> str:
    if not credential:
        return "null"
    return f'"{hashlib.sha256(credential.encode("utf-8", "replace")).hexdigest()[:12]}"'


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


class TurnsLog(AccessLog):
    """An access log that several processes write to one pipe, which would mix what is longer than 4 KiB (pipe(7)).

    They take turns by locking ``lock``, a file of no other use; the kernel unlocks it when its holder dies.
    """

    def __init__(self, fd: int, call_later: Callable[[float, Callable[[], None]], object], lock: int) -> None:
        self._lock = lock
        super().__init__(fd, call_later)

    def _write(self, batch: bytes) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            super()._write(batch)
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)
