"""Sluice, as ``sluice serve`` runs it: the default chain with every stage at work."""

from __future__ import annotations

import sys

from bench.peer import Peer
from bench.request import SERVER_KEY

_CONFIG = """\
version: 1
listen: {{host: 127.0.0.1, port: {port}}}
admin: {{host: 127.0.0.1, port: 0}}
chain: [ip_allowlist, limit, key, upstream]
stages:
  ip_allowlist: {{allow: [127.0.0.0/8]}}
  # The most one window counts exactly. The load spreads over addresses so that none of them gets there.
  limit: {{by: client_ip, second: 10000, minute: 10000, hour: 10000}}
  key: {{server_keys: [{server_key}], prefer: server}}
  upstream: {{base_url: "http://127.0.0.1:{upstream_port}/v1"}}
access_log: {{path: "{directory}/access.log"}}
"""


class Sluice(Peer):
    """One worker."""

    name = "sluice"

    def configure(self) -> list[str]:
        """Write the YAML file."""
        file = self.directory / "sluice.yaml"
        text = _CONFIG.format(
            port=self.port, upstream_port=self.upstream_port, server_key=SERVER_KEY, directory=self.directory
        )
        file.write_text(text)
        return [sys.executable, "-m", "proxy", "serve", "--config", str(file)]

    def version(self) -> str:
        """As the package has it."""
        from proxy import __version__

        return __version__
