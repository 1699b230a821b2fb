"""LiteLLM's proxy, without a database."""

from __future__ import annotations

import time
from pathlib import Path

from bench.install import BUILD, wheel
from bench.peers.peer import Peer
from bench.request import CLIENT_KEY, SERVER_KEY

_VERSION = "1.106.2"
# Of the hundred packages it needs, the versions that were measured.
_CONSTRAINTS = Path(__file__).with_name("litellm.constraints")
_READY = "Application startup complete."
_TLS = """
  ssl_verify: "{ca}\""""


class LiteLLM(Peer):
    """One process for each worker. It reads every message and writes it anew.

    An allowlist is part of its paid edition; its limits count keys, which need a database, and not addresses.
    """

    name = "litellm"
    has_workers = True
    is_slow = True
    is_faithful = False
    lacks = "no allowlist (in its paid edition), no limit by client address"
    differs = (
        "reads every message and writes it anew; its access log is a line of plain text by its server; "
        "holds uploads in memory"
    )
    start_timeout_s = 120.0

    @classmethod
    def install(cls) -> None:
        """A wheel, and the hundred it needs."""
        wheel(f"litellm[proxy]=={_VERSION}", constraints=_CONSTRAINTS)

    def environment(self) -> dict[str, str]:
        """It would fetch its list of prices at start; its uploads trust only the authorities of the environment."""
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        if self.target.ca is not None:
            env["SSL_CERT_FILE"] = str(self.target.ca)
        return env

    def configure(self) -> list[str]:
        """Fill in the template."""
        ca = self.target.ca
        file = self.fill(
            "litellm.yaml.template",
            client_key=CLIENT_KEY,
            server_key=SERVER_KEY,
            url=self.target.url,
            tls="" if ca is None else _TLS.format(ca=ca),
        )
        return [
            *(str(BUILD / "venv" / "bin" / "litellm"), "--config", str(file), "--host", "127.0.0.1"),
            *("--port", str(self.port), "--num_workers", str(self.workers)),
        ]

    def start(self, cores: set[int]) -> float:
        """As for all; then wait for the other workers, which are not ready at the same time.

        Raises RuntimeError.
        """
        took_s = super().start(cores)
        assert self.process is not None
        deadline = time.monotonic() + self.start_timeout_s
        while (self.directory / "said.log").read_text(errors="replace").count(_READY) < self.workers:
            self.process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all workers of {self.name} start; it said:\n{self.process.said()}")
            time.sleep(0.05)
        return took_s

    def version(self) -> str:
        """As the wheel has it."""
        return _VERSION
