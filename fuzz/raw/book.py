"""What reached the origin against what the access log says reached it: request by request, in little memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

Key = tuple[str, str, str]
"""(method, path, digest of the credential): what both sides know of a request."""

_SHOWN = 1024  # characters of a path in the access log
_CHAT = ("POST", "/v1/chat/completions")


def digest_of(authorization: bytes) -> str:
    """The short digest of a credential, as the access log has it."""
    credential = authorization.partition(b" ")[2].strip().decode("latin-1")
    return hashlib.sha256(credential.encode()).hexdigest()[:12]


class Book:
    """Both sides of the account. An entry that is on both sides is forgotten.

    ``arrived`` counts requests whose head reached the origin, ``said`` the log's lines by ``upstream_sent``.
    """

    def __init__(self) -> None:
        self.arrived = 0
        self.said: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._open: dict[Key, list[int]] = {}  # arrived, logged "yes", logged "unknown"

    def arrive(self, method: str, target: bytes, authorization: bytes) -> None:
        """The head of a request is at the origin."""
        self.arrived += 1
        path = target.partition(b"?")[0].decode("latin-1")[:_SHOWN]
        self._note((method, path, digest_of(authorization)), 0)

    def log(self, line: bytes) -> None:
        """A line of the access log."""
        entry = json.loads(line)
        sent = entry["upstream_sent"]
        self.said[sent] += 1
        self.statuses[entry["status"]] += 1
        if sent != "no":
            method, path = _CHAT if entry["route"] == "chat" else (entry["method"], entry["path"])
            self._note((method, path, entry["credential"] or ""), 1 if sent == "yes" else 2)

    def _note(self, key: Key, column: int) -> None:
        counts = self._open.setdefault(key, [0, 0, 0])
        counts[column] += 1
        if counts[0] == counts[1] + counts[2]:
            del self._open[key]

    def disagreements(self) -> list[str]:
        """Requests that one side has and the other has not. An ``unknown`` that never arrived is none."""
        found = []
        for key, (arrived, certain, unsure) in self._open.items():
            if not certain <= arrived <= certain + unsure:
                found.append(f"{key}: {arrived} arrived, {certain} logged as sent, {unsure} as perhaps sent")
        return found

    @property
    def never_arrived(self) -> int:
        """Lines that say ``unknown`` whose request did not reach the origin."""
        return sum(max(0, certain + unsure - arrived) for arrived, certain, unsure in self._open.values())
