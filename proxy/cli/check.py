"""``sluice check``: whether the configuration can be used, and what start-up would say about it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.cli.options import add_config_options, load_from
from proxy.core.stage import Mode
from proxy.settings import Settings

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "check",
        help="check the configuration and say what is wrong with it",
        description="Check the configuration. Exit code 0 = usable, 78 = not.",
    )
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Check, print, and return the exit code. Raises `proxy.settings.ConfigError` with what is wrong."""
    loaded = load_from(args, environ)
    print(f"{loaded.source or 'built-in defaults'}: ok")
    print(f"chain: {chain_line(loaded.settings)}")
    for notice in loaded.notices:
        print(f"notice: {notice}")
    return 0


def chain_line(settings: Settings) -> str:
    """``ip_allowlist > limit (shadow) > key > upstream``"""
    names = []
    for name in settings.chain:
        mode = settings.stages[name].mode
        names.append(name if mode is Mode.ENFORCE else f"{name} ({mode})")
    return " > ".join(names)
