"""``sluice healthcheck``: ask the running gateway whether it takes work; for Docker and its like."""

from __future__ import annotations

import argparse
import http.client
import socket
import ssl
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.cli.options import add_config_options, load_from
from proxy.settings import Listen, Settings

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to ask: a unix socket or an address, with TLS or without."""

    host: str = "127.0.0.1"
    port: int = 80
    unix: str | None = None
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return self.unix or f"{self.host}:{self.port}"


class _Connection(http.client.HTTPConnection):
    """A connection to a target of any kind."""

    def __init__(self, target: _Target, timeout_s: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self._target = target

    def connect(self) -> None:
        """Connect, and speak TLS if the target does. Raises OSError."""
        if self._target.unix is None:
            super().connect()
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._target.unix)
        if self._target.tls is not None:
            self.sock = self._target.tls.wrap_socket(self.sock, server_hostname=self.host)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command."""
    parser = subparsers.add_parser("healthcheck", help="exit 0 if the running gateway is ready, else 1")
    add_config_options(parser)
    parser.add_argument("--url", help="ask this address instead of the configured one, like http://127.0.0.1:5000")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="wait this long (default 3)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """0 = ready, 1 = not ready or not there."""
    target = _of_url(args.url) if args.url else _configured(load_from(args, environ).settings)
    if target is None:
        print("every listener asks for a certificate or a PROXY header; enable admin, or give --url", file=sys.stderr)
        return 1
    try:
        with closing(_Connection(target, args.timeout)) as connection:
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {target}: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"{target} is not ready (status {status})", file=sys.stderr)
        return 1
    print("ready")
    return 0


def _of_url(url: str) -> _Target:
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    return _Target(parts.hostname or "127.0.0.1", parts.port or (443 if tls else 80), tls=tls)


def _configured(settings: Settings) -> _Target | None:
    """The first listener that answers anybody, else the admin listener; None if there is neither."""
    for listen in settings.listeners:
        if listen.proxy_protocol == "off" and (listen.tls is None or listen.tls.client_ca is None):
            return _of_listener(listen)
    admin = settings.admin
    return _Target(_WILDCARDS.get(admin.host, admin.host), admin.port) if admin.enabled else None


def _of_listener(listen: Listen) -> _Target:
    tls: ssl.SSLContext | None = None
    if listen.tls is not None:
        # The certificate is for the name clients use, and we come by another way. Nothing secret is said.
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return _Target(_WILDCARDS.get(listen.host, listen.host), listen.port, listen.unix, tls)
