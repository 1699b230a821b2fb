"""HAProxy as a gateway: rules and a stick table do what the default chain does."""

from __future__ import annotations

import subprocess

from bench.install import ensure, program
from bench.peers.peer import Peer
from bench.request import SERVER_KEY

_TLS = "ssl verify required ca-file {ca} verifyhost localhost sni str(localhost)"


class HAProxy(Peer):
    """One process, with a thread for each worker. Uploads are streamed."""

    name = "haproxy"
    has_workers = True
    differs = "limits in one window; writes each log line with a system call of its own; streams uploads"

    @classmethod
    def install(cls) -> None:
        """A package of Debian."""
        ensure(["haproxy"])

    def configure(self) -> list[str]:
        """Fill in the template."""
        ca = self.target.ca
        file = self.fill(
            "haproxy.cfg.template",
            server_key=SERVER_KEY,
            upstream_port=self.target.port,
            tls="" if ca is None else _TLS.format(ca=ca),
        )
        return [program("haproxy"), "-db", "-f", str(file)]

    def version(self) -> str:
        """As ``haproxy -v`` has it."""
        said = subprocess.run([program("haproxy"), "-v"], capture_output=True, text=True, check=True)
        return said.stdout.split()[2].partition("-")[0]
