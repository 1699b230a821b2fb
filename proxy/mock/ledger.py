"""The ledger: what the mock received, request by request, for tests that count and compare."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from dataclasses import dataclass

KEPT_BODY_BYTES = 1 << 20
"""Longer bodies are recorded by digest and length alone."""


@dataclass(slots=True)
class Entry:
    """One request that arrived whole.

    ``connection`` counts TCP connections from 1 in the order of their first request, ``sequence`` counts
    requests from 1 in the order of their completion. ``headers`` are pairs of name and value: values are
    exact (latin-1), names have Tornado's capitals, and lines of one name stand together at the place of the
    first. ``authorization`` is that header's value, None without one. ``body`` is None when it was longer
    than `KEPT_BODY_BYTES`. ``status`` is 0 until the answer's head is written; ``parts`` counts the parts of a
    streamed answer handed to the socket; ``aborted`` says that the client closed before the answer was done.
    """

    sequence: int
    connection: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    authorization: str | None
    body: bytes | None
    body_length: int
    body_sha256: str
    model: str | None
    request_id: str
    status: int = 0
    parts: int = 0
    aborted: bool = False

    def header_values(self, name: str) -> list[str]:
        """Every value of a header, in order; the name's case does not matter."""
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def as_dict(self) -> dict[str, object]:
        """The entry as JSON takes it; ``body`` is in base64."""
        return {
            "sequence": self.sequence,
            "connection": self.connection,
            "method": self.method,
            "target": self.target,
            "headers": [list(pair) for pair in self.headers],
            "authorization": self.authorization,
            "body_base64": None if self.body is None else base64.b64encode(self.body).decode(),
            "body_length": self.body_length,
            "body_sha256": self.body_sha256,
            "model": self.model,
            "request_id": self.request_id,
            "status": self.status,
            "parts": self.parts,
            "aborted": self.aborted,
        }


class Body:
    """A request body as it comes in. ``content`` is its first ``keep`` bytes; the rest is only counted."""

    def __init__(self, keep: int) -> None:
        self.content = bytearray()
        self.length = 0
        self._keep = keep
        self._digest = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """The next piece."""
        self.length += len(chunk)
        self._digest.update(chunk)
        room = self._keep - len(self.content)
        if room > 0:
            self.content += chunk[:room]

    @property
    def sha256(self) -> str:
        """The digest of all of it, in hexadecimal."""
        return self._digest.hexdigest()


class Ledger:
    """The entries in order of arrival.

    A mock that runs for days must not fill the memory: beyond ``max_entries`` entries or ``max_bytes`` bytes
    of bodies the oldest go, and ``dropped`` counts them.
    """

    def __init__(self, max_entries: int = 10_000, max_bytes: int = 256 << 20) -> None:
        self._entries: deque[Entry] = deque()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._sequence = 0
        self.dropped = 0

    @property
    def entries(self) -> list[Entry]:
        """The entries, oldest first; the list is a copy, the entries are not."""
        return list(self._entries)

    def add(
        self,
        *,
        connection: int,
        method: str,
        target: str,
        headers: tuple[tuple[str, str], ...],
        body: Body,
        model: str | None,
        request_id: str,
    ) -> Entry:
        """Record a request that has arrived whole."""
        self._sequence += 1
        entry = Entry(
            sequence=self._sequence,
            connection=connection,
            method=method,
            target=target,
            headers=headers,
            authorization=next((value for name, value in headers if name.lower() == "authorization"), None),
            body=bytes(body.content) if body.length <= KEPT_BODY_BYTES else None,
            body_length=body.length,
            body_sha256=body.sha256,
            model=model,
            request_id=request_id,
        )
        self._entries.append(entry)
        self._bytes += len(entry.body or b"")
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._bytes -= len(self._entries.popleft().body or b"")
            self.dropped += 1
        return entry

    def clear(self) -> None:
        """Forget the entries. ``sequence`` goes on counting, so that no number is used twice."""
        self._entries.clear()
        self._bytes = 0
        self.dropped = 0
