"""The admin plane's application: health, for now, where no allowlist and no client can be in the way."""

from __future__ import annotations

from collections.abc import Callable

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler


class Healthz(RequestHandler):
    """``/healthz``: the process is alive."""

    def get(self) -> None:
        """200, always."""
        _plain(self, "ok")


class Readyz(RequestHandler):
    """``/readyz``: the gateway takes new work."""

    def initialize(self, is_ready: Callable[[], bool]) -> None:
        """Take what tells readiness."""
        self._is_ready = is_ready

    def get(self) -> None:
        """200 if ready, else 503."""
        ready = self._is_ready()
        self.set_status(200 if ready else 503)
        _plain(self, "ok" if ready else "not ready")


def _plain(handler: RequestHandler, text: str) -> None:
    handler.set_header("Content-Type", "text/plain; charset=utf-8")
    handler.set_header("Cache-Control", "no-store")
    handler.set_header("Server", "sluice")
    handler.finish(f"{text}\n")


def application(is_ready: Callable[[], bool]) -> Application:
    """The Tornado application of the admin plane."""
    return Application([(r"/healthz", Healthz), (r"/readyz", Readyz, {"is_ready": is_ready})], log_function=_no_log)


def _no_log(handler: RequestHandler) -> None:
    """Health checks every few seconds are not worth a line."""


class AdminServer:
    """The admin plane on its own port. Raises OSError if the port cannot be had."""

    def __init__(self, host: str, port: int, *, is_ready: Callable[[], bool]) -> None:
        self._server = HTTPServer(application(is_ready))
        try:
            self._server.listen(port, host)
        except OSError as error:
            error.filename = f"{host}:{port} (admin.port; SLUICE__ADMIN__ENABLED=false does without)"
            raise

    @property
    def port(self) -> int:
        """The bound port."""
        sockets = self._server._sockets.values()
        return int(next(iter(sockets)).getsockname()[1])

    def stop(self) -> None:
        """Accept no more."""
        self._server.stop()
