"""Tornado without Sluice: what its own server and client cost, in the few lines somebody would write."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.peer import Peer
from bench.request import SERVER_KEY

_GATEWAY = Path(__file__).with_name("plain_tornado_gateway.py")


class PlainTornado(Peer):
    """One process, as its counters are its own. Uploads are held in memory, then sent.

    Tornado's client has no pool: every request dials, and every TLS request shakes hands.
    """

    name = "tornado"
    has_workers = False
    is_slow = True
    lacks = "no keep-alive to the upstream: Tornado's client has none"
    differs = "limits in one window; no timeouts and no backpressure; holds uploads in memory"

    def environment(self) -> dict[str, str]:
        """The server's key."""
        return {"OPENAI_API_KEY": SERVER_KEY}

    def configure(self) -> list[str]:
        """All in the command."""
        ca = [] if self.target.ca is None else [str(self.target.ca)]
        log = str(self.directory / "access.log")
        # -P: beside the script lie files that are named like packages.
        return [sys.executable, "-P", str(_GATEWAY), str(self.port), self.target.url, log, *ca]

    def version(self) -> str:
        """As the package has it."""
        from tornado import version

        return version
