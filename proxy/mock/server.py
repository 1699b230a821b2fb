"""The mock OpenAI upstream as a Tornado application on Tornado's own HTTP server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.routing import AnyMatches

from proxy.mock.api import Api
from proxy.mock.behaviour import Behaviour
from proxy.mock.exchange import MAX_BODY_BYTES, Plane
from proxy.mock.files import FileShelf
from proxy.mock.ledger import Ledger


class LedgerHandler(web.RequestHandler):
    """``/_mock/ledger``: GET answers the entries as JSON, DELETE empties the ledger. Neither is recorded."""

    def initialize(self, ledger: Ledger) -> None:
        """Tornado's constructor: takes the arguments of the route."""
        self._ledger = ledger

    def get(self) -> None:
        """``{"entries": [...], "dropped": 0}``; see `proxy.mock.ledger.Entry`."""
        entries = [entry.as_dict() for entry in self._ledger.entries]
        self.write({"entries": entries, "dropped": self._ledger.dropped})

    def delete(self) -> None:
        """204."""
        self._ledger.clear()
        self.set_status(204)


def _unix_time() -> float:
    return time.time_ns() / 1e9


class MockOpenAI:
    """A mock of OpenAI's API on a socket of its own.

    ``behaviour`` is how every request is answered unless its model name or its ``x-mock`` header says
    otherwise; it may be replaced while the mock runs. ``ledger`` has what was received, ``files`` what was
    uploaded. ``clock`` tells Unix time in seconds. Start and stop it inside one event loop, once.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = _unix_time,
    ) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self.files = FileShelf()
        self._plane = Plane(Api(self.files, clock), self.ledger, behaviour or Behaviour(), clock)
        # The plane is a routing target and not a RequestHandler, because it takes every method there is,
        # counts connections and breaks them.
        self.application = web.Application(
            [(r"/_mock/ledger", LedgerHandler, {"ledger": self.ledger}), (AnyMatches(), self._plane)]
        )
        self._server: HTTPServer | None = None
        self._host = ""
        self._port = 0

    @property
    def behaviour(self) -> Behaviour:
        """How requests are answered that do not say otherwise."""
        return self._plane.behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._plane.behaviour = behaviour

    @property
    def port(self) -> int:
        """The port listened on; 0 before `start`."""
        return self._port

    @property
    def origin(self) -> str:
        """Scheme, host and port, such as ``http://127.0.0.1:9000``."""
        # An address that stands for all of them is none to connect to.
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as ``base_url``."""
        return f"{self.origin}/v1"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Raises OSError if the address cannot be had."""
        if self._server is not None:
            raise RuntimeError("this mock was started before")
        # Not Tornado's bind_sockets: that one leaves its socket open when the port is taken.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
        listener.setblocking(False)
        self._host = host
        self._port = listener.getsockname()[1]
        self._server = HTTPServer(self.application, max_body_size=MAX_BODY_BYTES)
        self._server.add_sockets([listener])

    async def stop(self) -> None:
        """Stop listening, close every connection at once and wait until no task is left."""
        if self._server is None:
            return
        self._plane.closing = True
        self._server.stop()
        await self._server.close_all_connections()
        await self._plane.close()
