"""Portkey's gateway on Node, from npm."""

from __future__ import annotations

import json
from pathlib import Path

from bench.install import BUILD, ensure, node_package, program
from bench.peers.peer import Peer
from bench.request import SERVER_KEY

_NAME = "@portkey-ai/gateway"
_VERSION = "1.15.2"
# What it listens with. npm would take the newest, whose answers have headers nothing can be added to: Portkey adds
# some, and every stream fails.
_INSTEAD = {"@hono/node-server": "1.14.1"}
_LOCK = Path(__file__).with_name("portkey.lock.json")


class Portkey(Peer):
    """One process. Uploads are held in memory, then sent.

    Its open-source gateway has no configuration of its own: whoever calls says in a header field where to and with
    which key. So that is what the load does, and the key is swapped for the one in that field.
    """

    name = "portkey"
    has_workers = False
    is_slow = True
    lacks = "no allowlist, no limit, no access log; the server's key comes in a header field of the client's"
    differs = "holds uploads in memory"
    start_timeout_s = 30.0

    @classmethod
    def install(cls) -> None:
        """A package of npm."""
        ensure(["node"])
        node_package(_NAME, _VERSION, instead=_INSTEAD, lock=_LOCK)

    def environment(self) -> dict[str, str]:
        """The mode of a server, and whom to trust."""
        env = {"NODE_ENV": "production"}
        if self.target.ca is not None:
            env["NODE_EXTRA_CA_CERTS"] = str(self.target.ca)
        return env

    @property
    def fields(self) -> dict[str, str]:
        """Where to, and with which key."""
        config = {"provider": "openai", "api_key": SERVER_KEY, "custom_host": f"{self.target.url}/v1"}
        return {"x-portkey-config": json.dumps(config, separators=(",", ":"))}

    def configure(self) -> list[str]:
        """All in the command and the environment."""
        server = BUILD / "npm" / "node_modules" / _NAME / "build" / "start-server.js"
        return [program("node"), str(server), "--headless", f"--port={self.port}"]

    def version(self) -> str:
        """As the package has it."""
        return _VERSION
