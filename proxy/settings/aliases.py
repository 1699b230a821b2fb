"""The short names: the few environment variables that need no path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from proxy.core.catalogue import parse_language
from proxy.settings.environment import FILE, put_file, refuse_in_list
from proxy.settings.layers import Layers
from proxy.settings.problems import Kind, Origin, Path, show

SERVER_KEYS: Path = ("stages", "key", "server_keys")
LANGUAGE: Path = ("language",)


class Alias(NamedTuple):
    """A short name. ``empty_counts``: set to nothing it is still set. ``read`` prepares the text."""

    name: str
    path: Path
    is_secret: bool = False
    empty_counts: bool = False
    read: Callable[[str], str] = str


ALIASES: tuple[Alias, ...] = (
    Alias("API_KEY", SERVER_KEYS, is_secret=True),
    Alias("SECOND_LIMIT", ("stages", "limit", "second")),
    Alias("MINUTE_LIMIT", ("stages", "limit", "minute")),
    Alias("HOUR_LIMIT", ("stages", "limit", "hour")),
    Alias("DAY_LIMIT", ("stages", "limit", "day")),
    Alias("ROUTE", ("simple_chat", "route")),
    Alias("OPENAI_BASE_URL", ("stages", "upstream", "base_url")),
    # Set to nothing it is more likely a mistake than the wish to let everybody in.
    Alias("IP_ALLOWLIST", ("stages", "ip_allowlist", "allow"), empty_counts=True),
    Alias("TRUSTED_PROXIES", ("trusted_proxies",)),
    Alias("PORT", ("listen", "port")),
    # Much software reads this name, and much of it writes INFO.
    Alias("LOG_LEVEL", ("log_level",), read=lambda text: text.strip().lower()),
)
OPENAI_API_KEY = Alias("OPENAI_API_KEY", SERVER_KEYS, is_secret=True)
"""Ambient: it becomes a server key only if `load` finds that strangers could not use it."""


def apply_aliases(layers: Layers, environ: Mapping[str, str]) -> dict[str, Path]:
    """Put the short names over the file. Answers with those that are set, for `unheard`."""
    return {alias.name: alias.path for alias in ALIASES if apply_alias(layers, alias, environ)}


def apply_alias(layers: Layers, alias: Alias, environ: Mapping[str, str]) -> bool:
    """Put one short name, or the file it names, over what is there. False if it is not set."""
    text = environ.get(alias.name)
    if text is not None and not text.strip() and not alias.empty_counts:
        text = None
    name_file = alias.name + FILE
    file = environ.get(name_file) if alias.is_secret else None
    leaf = layers.leaves.get(alias.path)
    if text is None and not file:
        return False
    if leaf is None:
        # A stage of this name but another type has no such setting; then the name has no effect, which start-up says.
        refuse_in_list(layers, alias.path, Origin(Kind.ENVIRONMENT, alias.name), alias.name)
        return True
    if text is not None and file:
        origin = Origin(Kind.ENVIRONMENT, name_file)
        layers.complain(alias.path, f"{alias.name} is set as well", "set one of them", origin=origin)
    elif text is not None:
        layers.put(leaf, alias.read(text), Origin(Kind.ENVIRONMENT, alias.name))
    elif file:
        put_file(layers, leaf, file, Origin(Kind.ENVIRONMENT, name_file))
    return True


def apply_language(layers: Layers, environ: Mapping[str, str]) -> str:
    """Let LANG choose the language if nothing else did: most systems set it for their own purposes.

    Answers with what to say at start if LANG names nothing we have, else an empty text.
    """
    text = environ.get("LANG", "")
    if not text.strip() or layers.has(LANGUAGE):
        return ""
    language = parse_language(text)
    if language is None and text.partition(".")[0] in ("C", "POSIX"):
        return ""  # the usual way of naming no language
    if language is None:
        return f"LANG={show(text)} is ignored: it names no language we have; answers are in en_US"
    layers.put_value(LANGUAGE, language, Origin(Kind.ENVIRONMENT, "LANG"))
    return ""
