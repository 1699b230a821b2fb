"""Every target by its name. They are imported late: the engine may have to instrument what they import."""

from __future__ import annotations

from importlib import import_module

from fuzz.target import Target

NAMES = (
    "request",
    "exchange",
    "answer",
    "address",
    "forwarded",
    "proxy_protocol",
    "sse",
    "settings",
    "language",
    "chat",
)


def load(name: str) -> Target:
    """The target of this name, one of `NAMES`."""
    target: Target = import_module(f"fuzz.targets.{name}").TARGET
    return target
