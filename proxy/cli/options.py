"""The options every command that reads the configuration shares."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from proxy.settings import ConfigError, Kind, Loaded, Origin, Problem, load


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--set``, ``--host`` and ``--port``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the YAML file; else $SLUICE_CONFIG, ./sluice.yaml, /etc/sluice/sluice.yaml, or defaults",
    )
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="one setting, like stages.limit.hour=50; may be repeated",
    )
    parser.add_argument("--host", help="address or name to listen on (listen.host); not with a list of listeners")
    parser.add_argument("--port", help="port to listen on, 0 for any free one (listen.port); not with a list")


def load_from(args: argparse.Namespace, environ: Mapping[str, str]) -> Loaded:
    """Load what the options say. Raises `proxy.settings.ConfigError`."""
    overrides: dict[str, str] = {}
    for assignment in args.set:
        path, equals, value = assignment.partition("=")
        if not equals:
            where = Origin(Kind.COMMAND_LINE, "--set")
            raise ConfigError([Problem(where, "", "no value is given", "write --set PATH=VALUE")])
        overrides[path.strip()] = value
    # The short options last: they are the more explicit wish.
    options = {"--host": args.host, "--port": args.port}
    overrides |= {option: value for option, value in options.items() if value is not None}
    return load(args.config, environ, overrides)
