"""``sluice healthcheck``: ask the running gateway whether it takes work; for Docker and its like."""

from __future__ import annotations

import argparse
import http.client
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from proxy.cli.options import add_config_options, load_from

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command."""
    parser = subparsers.add_parser("healthcheck", help="exit 0 if the running gateway is ready, else 1")
    add_config_options(parser)
    parser.add_argument("--url", help="ask this address instead of the configured one, like http://127.0.0.1:5000")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="wait this long (default 3)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """0 = ready, 1 = not ready or not there."""
    if args.url:
        parts = urlsplit(args.url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
    else:
        listen = load_from(args, environ).settings.listen
        host, port = _WILDCARDS.get(listen.host, listen.host), listen.port
    try:
        connection = http.client.HTTPConnection(host, port, timeout=args.timeout)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {host}:{port}: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"{host}:{port} is not ready (status {status})", file=sys.stderr)
        return 1
    print("ready")
    return 0
