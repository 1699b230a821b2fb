"""A listener on real sockets whose application says whom it sees, and the clients and certificates to try it with."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trustme
import uvloop
from tornado.web import Application, RequestHandler

from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener, Timeouts
from proxy.wire.response import ResponseWriter
from proxy.wire.tls import ServerTls

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
GET = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
TIMEOUTS = Timeouts(header_s=5, body_s=5, keep_alive_s=5)


def run(loop_name: str, main: Coroutine[Any, Any, None]) -> None:
    """Run on a loop of this kind; whatever is left behind is an error."""

    async def alone() -> None:
        await main
        for _ in range(20):
            if len(asyncio.all_tasks()) == 1:
                break
            await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(alone())


class Who(RequestHandler):
    """Says who asks, as the connection tells it; says a body back."""

    def get(self) -> None:
        assert isinstance(self.request.connection, ResponseWriter)
        context = self.request.connection.context
        told = {name: getattr(context, name) for name in ("address", "remote_ip", "protocol")}
        self.write(told | {"family": context.address_family, "request": self.request.protocol})

    def post(self) -> None:
        self.write(self.request.body)


@asynccontextmanager
async def serving(
    endpoint: Endpoint | None = None,
    *,
    timeouts: Timeouts = TIMEOUTS,
    may_speak_proxy: Callable[[str], bool] = lambda peer_ip: True,
) -> AsyncIterator[Listener]:
    """A listener on an endpoint, by default any port of 127.0.0.1."""
    app = Application([("/", Who)], log_function=lambda handler: None)
    listener = Listener(app, timeouts=timeouts, may_speak_proxy=may_speak_proxy)
    try:
        await listener.listen(endpoint or Endpoint("127.0.0.1"))
        yield listener
    finally:
        await listener.close()
        await asyncio.sleep(0.01)
        assert len(listener) == 0
        listener.ticker.close()


class Client:
    """One connection that asks who it is taken for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, where: int | str, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1") -> Client:
        """Connect to a port, or to a unix socket's path."""
        name = "gateway.test" if tls else None
        if isinstance(where, str):
            return cls(*await asyncio.open_unix_connection(where, ssl=tls, server_hostname=name))
        return cls(*await asyncio.open_connection(host, where, ssl=tls, server_hostname=name))

    async def ask(self, before: bytes = b"", *, by: int = 0) -> dict[str, Any]:
        """Who we are, to the server. ``before`` precedes the request; all goes in pieces of ``by`` bytes if given."""
        data = before + GET
        for start in range(0, len(data), by or len(data)):
            self.writer.write(data[start : start + (by or len(data))])
            if by:
                await asyncio.sleep(0.001)
        answer: dict[str, Any] = json.loads(await self.answer())
        return answer

    async def answer(self) -> bytes:
        """The body of one answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        assert head.startswith("HTTP/1.1 200 "), head
        (length,) = [int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        return await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All there is until the server ends the connection, however it does."""
        received = b""
        try:
            while piece := await self.reader.read(65_536):
                received += piece
        except OSError:
            pass
        return received

    @property
    def certificate(self) -> bytes:
        """The server's, in DER."""
        found: ssl.SSLObject = self.writer.get_extra_info("ssl_object")
        der = found.getpeercert(binary_form=True)
        assert der
        return der

    @property
    def port(self) -> int:
        """The port of this end."""
        return int(self.writer.get_extra_info("sockname")[1])

    def close(self) -> None:
        """Close now, without TLS's goodbye."""
        self.writer.transport.abort()


class Pki:
    """A certificate authority and the files of a server."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.cert, self.key, self.client_ca = (str(folder / f"{name}.pem") for name in ("cert", "key", "client_ca"))
        self.authority.cert_pem.write_to_path(self.client_ca)
        self.renew()

    def issue(self) -> tuple[bytes, bytes]:
        """A new certificate with its chain, and its key, in PEM."""
        issued = self.authority.issue_cert("gateway.test")
        return b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes()

    def renew(self) -> None:
        """Put a new pair in the place of the old one, file by file."""
        cert, key = self.issue()
        replace(self.cert, cert)
        replace(self.key, key)

    def server(self, **more: Any) -> ServerTls:
        """TLS with these files."""
        return ServerTls(self.cert, self.key, **more)

    def client(self, authority: trustme.CA | None = None, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        """A client that trusts the authority; one with a certificate of ``authority`` if given."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        if authority is not None:
            authority.issue_cert("client@gateway.test").configure_cert(context)
        for name, version in versions.items():
            setattr(context, name, version)
        return context


def replace(path: str, content: bytes) -> None:
    """Put a file in another's place, as careful tools do."""
    Path(f"{path}.new").write_bytes(content)
    os.replace(f"{path}.new", path)
