"""The command ``sluice``: one file a sub-command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from proxy import __version__
from proxy.cli import chat, check, config, explain, healthcheck, limits, mock, serve
from proxy.settings import ConfigError, process_environ

COMMANDS = (serve, check, explain, config, chat, mock, limits, healthcheck)

EX_CONFIG = 78
"""Exit status for a bad configuration (<sysexits.h>): starting again will not help."""


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one sub-command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="sluice", description="A gateway in front of OpenAI, assembled from one YAML file."
    )
    parser.add_argument("--version", action="version", version=f"sluice {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args, process_environ() if environ is None else environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left, as `sluice config | head` does.
        sys.stderr.close()
        return 141
    return status
