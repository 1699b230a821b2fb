"""Sluice, as ``sluice serve`` runs it: the default chain with every stage at work, admin plane and metrics too."""

from __future__ import annotations

import sys

from bench.peers.peer import Peer
from bench.request import SERVER_KEY

_TLS = """
    ca_file: "{ca}\""""


class Sluice(Peer):
    """Workers under their supervisor; limits count in the memory they share. Uploads are streamed."""

    name = "sluice"
    has_workers = True
    differs = (
        "limits by gcra, as nginx's limit_req does; the default, sliding, costs a few µs more; "
        "remembers the heads of requests, so see the figure for heads never seen before; streams uploads"
    )

    def configure(self) -> list[str]:
        """Fill in the template."""
        ca = self.target.ca
        file = self.fill(
            "sluice.yaml.template",
            server_key=SERVER_KEY,
            url=self.target.url,
            tls="" if ca is None else _TLS.format(ca=ca),
        )
        return [sys.executable, "-m", "proxy", "serve", "--config", str(file)]

    def version(self) -> str:
        """As the package has it."""
        from proxy import __version__

        return __version__
