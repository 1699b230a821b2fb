"""Whether the limits can count where they are to count: the store, and what is said about it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

from proxy.core.stage import Mode
from proxy.limits.address import StoreAddress, parse_store
from proxy.settings.layers import Layers
from proxy.settings.model import Settings
from proxy.settings.problems import Path, dotted, show
from proxy.stages.limit import LimitConfig

STORE: Final[Path] = ("limits", "store")
_OF_SHARED = ("dir", "max_bytes")


def store_of(settings: Settings) -> StoreAddress:
    """Where the limits count. Raises ValueError if the text of the store is none."""
    store = settings.limits.store
    if store is not None:
        return parse_store(store.get_secret_value())
    return StoreAddress("memory" if settings.workers == 1 else "shared")


def is_remote(store: StoreAddress) -> bool:
    """Whether the store is a server, which may be out of reach."""
    return store.kind not in ("memory", "shared")


def shown_store(text: str) -> str:
    """A store's text without user and password; ``***`` for what is no store."""
    try:
        store = parse_store(text)
    except ValueError:
        return "***"
    return str(StoreAddress(store.kind, store.hosts, store.path, store.db, store.is_tls, store.service))


def holds_password(text: object) -> bool:
    """Whether a store's text has a password; of what is no store that cannot be told, so it has."""
    try:
        return bool(parse_store(str(text)).secrets)
    except ValueError:
        return True


def check_store(layers: Layers, settings: Settings) -> None:
    """Note what keeps the limits from counting there."""
    if layers.is_doubtful(STORE):
        return
    try:
        store = store_of(settings)
    except ValueError as error:
        layers.complain(STORE, str(error))
        return
    _check_workers(layers, settings, store)
    _check_packages(layers, settings, store)
    _check_authorities(layers, settings, store)


def store_notices(layers: Layers, settings: Settings) -> Iterator[str]:
    """What about the store has no effect, or another than somebody may think."""
    store = store_of(settings)
    if store.kind != "shared":
        for name in _OF_SHARED:
            yield from _unused(layers, name, "only the store shared has one")
    if not is_remote(store):
        yield from _unused(layers, "timeout_s", "only a store that is a server is waited for")
        yield from _unused(layers, "hosts", "only limits in a store that is a server are shared by hosts")
        yield from _unused(layers, "namespace", "only a store that is a server holds counters of others")
    if not store.is_tls:
        yield from _unused(layers, "ca_file", "the store is not asked over TLS (rediss://)")
    if is_remote(store) and settings.limits.hosts == 1:
        for name in settings.chain:
            if _falls_back_to_share(settings, name):
                yield (
                    f"{name}: on_store_error: local divides by limits.hosts, which is 1: while the store is out of "
                    "reach, each host admits all of the limit. Set limits.hosts to how many there are"
                )


def _unused(layers: Layers, name: str, why: str) -> Iterator[str]:
    path: Path = ("limits", name)
    if layers.has(path) and layers.get(path) != type(Settings().limits).model_fields[name].default:
        yield f"{dotted(path)} ({layers.origin(path)}) has no effect: {why}"


def _falls_back_to_share(settings: Settings, name: str) -> bool:
    config = settings.stages[name]
    if not isinstance(config, LimitConfig) or config.mode is Mode.OFF:
        return False
    return any(rule.on_store_error == "local" and rule.has_numbers for rule in (config, *config.limits.values()))


def _check_workers(layers: Layers, settings: Settings, store: StoreAddress) -> None:
    if store.kind == "memory" and settings.workers != 1 and not layers.is_doubtful(("workers",)):
        layers.complain(
            STORE,
            f"each of the workers ({settings.workers}) would count by itself, and admit all of every limit",
            "write shared, which all workers of this machine share, or the URL of a Redis",
        )


def _check_packages(layers: Layers, settings: Settings, store: StoreAddress) -> None:
    # Said where somebody chose the store, be it by the number of workers alone.
    path: Path = STORE if settings.limits.store is not None else ("workers",)
    if is_remote(store) and find_spec("redis") is None:
        layers.complain(path, "this store needs the package redis", "pip install 'sluicegate[redis]'")
    if store.kind == "shared" and find_spec("lmdb") is None:
        hint = "pip install lmdb (it is there for Linux), or count elsewhere: a single worker can use memory"
        layers.complain(path, "the store shared needs the package lmdb", hint)


def _check_authorities(layers: Layers, settings: Settings, store: StoreAddress) -> None:
    path: Path = ("limits", "ca_file")
    if settings.limits.ca_file is None or not store.is_tls or layers.is_doubtful(path):
        return
    try:
        ssl.create_default_context(cafile=settings.limits.ca_file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds no certificate in PEM form"
        layers.complain(path, f"cannot be used: {show(reason)}", "name a readable PEM file of authorities")
