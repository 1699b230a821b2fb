"""A Tornado application of your own with Sluice's chain inside it, on Tornado's own HTTP server.

    python examples/mount_in_tornado.py --port 8080

``/`` is the application's own; ``/v1/...`` and ``/api`` go through the chain that the configuration assembles. The
variables that change the configuration of ``sluice serve`` change it here too: ``MINUTE_LIMIT=3``,
``SLUICE__CHAIN=key,upstream`` and so on.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from contextlib import suppress
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

import proxy
from proxy.settings import process_environ

CONFIG = Path(__file__).resolve().parents[1] / "config" / "sluice.yaml"
MAX_BODY_BYTES = 512 * 1024 * 1024
"""The server reads a request's body up to this size; Tornado's own default of 100 MiB refuses large uploads."""
CLOSE_WITHIN_S = 5.0
"""How long the end waits for the connections to close."""

log = logging.getLogger("example")


class Front(RequestHandler):
    """A page of the application itself: no stage of the chain sees it."""

    def get(self) -> None:
        """Say hello."""
        self.write("This page is mine; /v1 and /api are Sluice's.\n")


def application(chain: HTTPServerConnectionDelegate) -> Application:
    """The application's routes. What matches none of them is Tornado's usual 404."""
    return Application([(r"/", Front), (r"/v1/.*", chain), (r"/api", chain)])


async def serve(host: str, port: int, config: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    plane = proxy.mount(config, process_environ())
    server = HTTPServer(application(plane), max_body_size=MAX_BODY_BYTES)
    sockets = bind_sockets(port, host)
    server.add_sockets(sockets)
    log.info("listening on http://%s:%d", host, sockets[0].getsockname()[1])

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.stop()
    with suppress(TimeoutError):
        await asyncio.wait_for(server.close_all_connections(), CLOSE_WITHIN_S)
    # Last, because the chain's connections to OpenAI serve the connections above.
    await plane.close()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description="A Tornado application with Sluice's chain inside it.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 = any free one")
    parser.add_argument("--config", type=Path, default=CONFIG, metavar="FILE")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(serve(args.host, args.port, args.config))


if __name__ == "__main__":
    main()
