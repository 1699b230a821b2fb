"""The admin plane's application: health and metrics for whoever reaches it, ``/-/`` for operators."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from proxy.admin.metrics import CONTENT_TYPE, exposition
from proxy.gateway.channel import Refused
from proxy.gateway.figures import Figure

MAX_BODY_BYTES = 65_536
IDLE_S = 60.0
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]{1,5})?\Z")


class Unavailable(Exception):
    """No worker can answer now."""


class Gateway(Protocol):
    """What the admin plane is about."""

    @property
    def is_ready(self) -> bool:
        """Whether new work is welcome."""

    def figures(self) -> list[Figure]:
        """What is counted."""

    def workers(self) -> list[dict[str, object]]:
        """The workers there are, as JSON."""

    def restart(self, why: str) -> bool:
        """Begin to replace the workers; False if that cannot be."""

    async def ask(self, name: str, params: Mapping[str, object]) -> object:
        """What a worker answers. Raises `Unavailable`, or `Refused` with the worker's words."""


class Page(RequestHandler):
    """What every answer has."""

    def initialize(self, gateway: Gateway) -> None:
        """Take what the answers are about."""
        self.gateway = gateway

    def set_default_headers(self) -> None:
        """Nothing here is to be kept by a cache."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Server", "sluice")

    def compute_etag(self) -> None:
        """Nobody asks whether it has changed."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The status in words: no traceback, and nothing that was sent."""
        self.finish(f"{self._reason}\n")


class Healthz(Page):
    """``/healthz``: the process is alive."""

    def get(self) -> None:
        """200, always."""
        self.finish("ok\n")


class Readyz(Page):
    """``/readyz``: the gateway takes new work."""

    def get(self) -> None:
        """200 if ready, else 503."""
        ready = self.gateway.is_ready
        self.set_status(200 if ready else 503)
        self.finish("ok\n" if ready else "not ready\n")


class Metrics(Page):
    """``/metrics``: for Prometheus. What workers count is as old as their last beat, a second at most."""

    def get(self) -> None:
        """The figures."""
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(exposition(self.gateway.figures()))


class Nowhere(Page):
    """Any other path."""

    def prepare(self) -> None:
        """404."""
        raise HTTPError(404)


class Operators(Page):
    """``/-/``: for those who have the token."""

    def initialize(self, gateway: Gateway, token: str = "", host: str = "") -> None:
        """Take the token, and the host the listener was given."""
        super().initialize(gateway)
        self._token = token.encode()
        self._bound_host = host

    def prepare(self) -> None:
        """421 for a name that is not ours, 401 without the token (RFC 6750 section 3)."""
        if not is_own_host(self.request.headers.get("Host", ""), self._bound_host):
            # A page elsewhere could have had its name changed into our address ("DNS rebinding").
            raise HTTPError(421)
        scheme, _, shown = self.request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode("utf-8", "replace"), self._token)
        if scheme.lower() != "bearer" or not is_right or not self._token:
            self.set_status(401)
            self.set_header("WWW-Authenticate", 'Bearer realm="sluice"')
            self.finish("Unauthorized\n")

    def answer(self, what: Mapping[str, object] | list[Any], status: int = 200) -> None:
        """Answer with JSON."""
        from tornado.escape import json_encode

        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json_encode(what) + "\n")


class Workers(Operators):
    """``/-/workers``: which there are, and how they are."""

    def get(self) -> None:
        """A list: slot, pid, state, age in seconds, restarts of the slot, beats missed."""
        self.answer({"workers": self.gateway.workers()})


class Restart(Operators):
    """``/-/restart``: replace all workers, one by one, without a connection refused."""

    def post(self) -> None:
        """202; 503 if the gateway is about to end, or has no workers to replace."""
        if self.gateway.restart("POST /-/restart"):
            self.answer({"restarting": True}, 202)
        else:
            self.answer({"error": "the gateway cannot restart its workers now"}, 503)


class Limits(Operators):
    """``/-/limits?subject=...``: what a subject has used of its limits, and to let it begin anew."""

    async def get(self) -> None:
        """What there is on it."""
        await self._ask("limits.show")

    async def delete(self) -> None:
        """Forget what it has used."""
        await self._ask("limits.reset")

    async def _ask(self, name: str) -> None:
        subject = self.get_query_argument("subject", "", strip=False)
        if not subject:
            self.answer({"error": "name a subject: ?subject=..."}, 400)
            return
        try:
            found = await self.gateway.ask(name, {"subject": subject})
        except Unavailable:
            self.answer({"error": "no worker can answer now"}, 503)
        except Refused as refused:
            self.answer({"error": str(refused)}, 400)
        else:
            answer = found if isinstance(found, dict) else {"result": found}
            if "unavailable" in answer:
                self.answer({"error": answer["unavailable"]}, 503)
            else:
                self.answer(answer, 400 if "error" in answer else 200)


def is_own_host(host: str, bound: str) -> bool:
    """Whether a ``Host`` line names an address, ``localhost`` or the host the listener was given."""
    match = _HOST.match(host)
    if match is None:
        return False
    name = match["six"] or match["name"]
    if name.casefold() in ("localhost", bound.casefold()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def application(gateway: Gateway, token: str, host: str) -> Application:
    """The Tornado application of the admin plane. With an empty token nobody is let into ``/-/``."""
    everybody = {"gateway": gateway}
    operators = {**everybody, "token": token, "host": host}
    return Application(
        [
            (r"/healthz", Healthz, everybody),
            (r"/readyz", Readyz, everybody),
            (r"/metrics", Metrics, everybody),
            (r"/-/workers", Workers, operators),
            (r"/-/restart", Restart, operators),
            (r"/-/limits", Limits, operators),
        ],
        default_handler_class=Nowhere,
        default_handler_args=everybody,
        log_function=_no_log,
    )


def _no_log(handler: RequestHandler) -> None:
    """Health checks every few seconds are not worth a line."""


class AdminServer:
    """The admin plane on sockets that listen already, from the running loop on."""

    def __init__(self, sockets: Iterable[socket.socket], gateway: Gateway, token: str, host: str) -> None:
        sockets = list(sockets)
        for sock in sockets:
            # Tornado accepts until nobody waits any more.
            sock.setblocking(False)
        self._server = HTTPServer(
            application(gateway, token, host),
            max_body_size=MAX_BODY_BYTES,
            max_header_size=MAX_BODY_BYTES,
            idle_connection_timeout=IDLE_S,
            body_timeout=IDLE_S,
        )
        self._server.add_sockets(sockets)

    def stop(self) -> None:
        """Accept no more."""
        self._server.stop()
