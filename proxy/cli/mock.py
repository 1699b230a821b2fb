"""``sluice mock``: a mock OpenAI to try a configuration against without spending."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.mock.behaviour import SETTINGS, Behaviour, BehaviourError

if TYPE_CHECKING:
    from proxy.mock.server import MockOpenAI


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command."""
    parser = subparsers.add_parser(
        "mock",
        help="run a mock OpenAI to try a configuration against",
        epilog="Single requests can ask for any of this with the header 'x-mock: status=429; retry-after=2', or "
        "with a model such as mock-429, mock-500, mock-slow or mock-cut. What was received: GET /_mock/ledger.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=9000, help="port, 0 for any free one (default %(default)s)")
    for setting in SETTINGS:
        parser.add_argument(f"--{setting.name}", metavar=setting.metavar, dest=_dest(setting.name), help=setting.help)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve until SIGINT or SIGTERM. 2 = an option makes no sense, 69 = the port is not to be had."""
    given = {setting.name: getattr(args, _dest(setting.name)) for setting in SETTINGS}
    text = "; ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    try:
        behaviour = Behaviour().but(text, "command line")
    except BehaviourError as error:
        print(f"sluice mock: {error}", file=sys.stderr)
        return 2
    # The mock is built on the openai package, which takes half a second to import: only when it runs.
    from proxy.mock.running import serve

    try:
        serve(args.host, args.port, behaviour, ready=_say_where)
    except OSError as error:
        print(f"sluice mock: cannot listen on {args.host}:{args.port}: {error.strerror or error}", file=sys.stderr)
        return 69
    return 0


def _say_where(mock: MockOpenAI) -> None:
    print(f"mock OpenAI on {mock.base_url}", flush=True)


def _dest(setting: str) -> str:
    return f"behaviour_{setting}"
