"""A gateway as one writes it in an afternoon with what Tornado brings: RequestHandler and AsyncHTTPClient.

    OPENAI_API_KEY=... python plain_tornado_gateway.py PORT URL LOG [CA]

It stands for that approach: no timeouts, no backpressure, no cancellation, nothing checked that Tornado does not.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from ipaddress import ip_address, ip_network
from typing import IO

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.web import Application, HTTPError, RequestHandler

ALLOWED = ip_network("127.0.0.0/8")
PER_SECOND = 10_000
OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length"}


class Gateway(RequestHandler):
    """Every request below /v1."""

    def initialize(
        self, url: str, key: str, trusted: ssl.SSLContext, log: IO[str], seen: dict[str, tuple[int, int]]
    ) -> None:
        """Where to, with whose key, and what all requests share."""
        self.url, self.key, self.trusted, self.log, self.seen = url, key, trusted, log, seen

    def prepare(self) -> None:
        """The allowlist, then the limit in windows that begin with each second."""
        client = self.request.remote_ip or ""
        if ip_address(client) not in ALLOWED:
            raise HTTPError(403)
        now = int(time.time())
        second, count = self.seen.get(client, (now, 0))
        count = count + 1 if second == now else 1
        self.seen[client] = now, count
        if count > PER_SECOND:
            raise HTTPError(429)

    async def post(self) -> None:
        """Forward it, and pass on the answer as it comes."""
        headers = self.request.headers.copy()
        for name in OF_ONE_CONNECTION & {name.lower() for name in headers}:
            del headers[name]
        headers["Authorization"] = f"Bearer {self.key}"
        request = HTTPRequest(
            self.url + (self.request.uri or ""),
            method="POST",
            headers=headers,
            body=self.request.body,
            ssl_options=self.trusted,
            request_timeout=0,
            decompress_response=False,
            header_callback=self.take_header,
            streaming_callback=self.pass_on,
        )
        await AsyncHTTPClient().fetch(request, raise_error=False)

    def take_header(self, line: str) -> None:
        """The status line, a field, or the empty line at the end."""
        if line.startswith("HTTP/"):
            self.set_status(int(line.split(" ", 2)[1]))
            return
        name, _, value = line.partition(":")
        if value and name.lower() not in OF_ONE_CONNECTION - {"content-length"}:
            self.set_header(name, value.strip())

    def pass_on(self, chunk: bytes) -> None:
        """One piece of the body."""
        self.write(chunk)
        self.flush()

    def on_finish(self) -> None:
        """One line in the access log."""
        line = {
            "time": time.time(),
            "client_ip": self.request.remote_ip,
            "method": self.request.method,
            "path": self.request.path,
            "status": self.get_status(),
            "bytes_in": len(self.request.body),
            "total_s": round(self.request.request_time(), 6),
        }
        self.log.write(json.dumps(line) + "\n")


def application(url: str, key: str, ca: str | None, log: IO[str]) -> Application:
    """The gateway to this upstream."""
    trusted = ssl.create_default_context(cafile=ca)
    shared: dict[str, object] = {"url": url, "key": key, "trusted": trusted, "log": log, "seen": {}}
    # Its own log of requests, which goes to standard error, in favour of ours.
    return Application([(r"/v1/.*", Gateway, shared)], log_function=lambda handler: None)


async def serve(gateway: Application, port: int) -> None:
    """Serve on 127.0.0.1 until the process is ended."""
    AsyncHTTPClient.configure(None, max_clients=10_000)
    gateway.listen(port, "127.0.0.1")
    await asyncio.Event().wait()


def main(port: str, url: str, log: str, ca: str | None = None) -> None:
    """The command."""
    with open(log, "a", buffering=1) as file:
        asyncio.run(serve(application(url, os.environ["OPENAI_API_KEY"], ca, file), int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
