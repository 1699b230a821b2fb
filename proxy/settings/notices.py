"""What is said at start: nothing that keeps the gateway from running, but what its operator should know."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from proxy.core.stage import Mode
from proxy.settings.checks import guards, is_everything
from proxy.settings.layers import Layers
from proxy.settings.listeners import is_within_reach, placed
from proxy.settings.model import Settings
from proxy.settings.problems import Path, dotted, show
from proxy.settings.stores import STORE, holds_password, store_notices
from proxy.stages.ip_allowlist import IPAllowlistConfig
from proxy.stages.key import KeyConfig


def notices(layers: Layers, settings: Settings, short_names: Mapping[str, Path]) -> list[str]:
    """Everything to be said, the loudest first."""
    said = [
        *_open_to_everybody(settings),
        *_forgeable(settings),
        *_readable_keys(layers, settings),
        *_plaintext_keys(layers, settings),
        *_unheard(settings, layers, short_names),
        *_unread_header(layers, settings),
        *store_notices(layers, settings),
    ]
    return sorted(said, key=lambda notice: not notice.startswith("WARNING: "))


def _open_to_everybody(settings: Settings) -> Iterator[str]:
    configs = [(name, settings.stages[name]) for name in settings.chain]
    has_keys = any(
        isinstance(config, KeyConfig) and config.server_keys and config.mode is Mode.ENFORCE for _, config in configs
    )
    if has_keys and not guards(settings):
        # None is open by itself if a trusted proxy brings the strangers.
        places = [listen.place for listen in settings.listeners if is_within_reach(listen)]
        places = places or [listen.place for listen in settings.listeners]
        yield (
            f"WARNING: EVERYBODY who can reach {' or '.join(places)} spends the money of the server's "
            "API key. Say who may: set IP_ALLOWLIST, or stages.ip_allowlist.allow"
        )
    for name, config in configs:
        if isinstance(config, IPAllowlistConfig) and config.allow is None and config.mode is not Mode.OFF:
            yield (
                f"{name}: no list is set, so everybody may speak. List addresses and networks in IP_ALLOWLIST or "
                f"stages.{name}.allow, or write allow: [any] if this is meant"
            )


def _forgeable(settings: Settings) -> Iterator[str]:
    for network in settings.trusted_proxies:
        if is_everything(network):
            yield (
                f"WARNING: trusted_proxies holds {network}: every client can claim to be any address, and so "
                "pass the allowlist and the limits"
            )


def _readable_keys(layers: Layers, settings: Settings) -> Iterator[str]:
    for path, listen in placed(settings):
        if listen.tls is not None and os.stat(listen.tls.key).st_mode & stat.S_IROTH:
            where: Path = (*path, "tls", "key")
            yield (
                f"WARNING: every user of this machine can read the private key {show(listen.tls.key, None)} "
                f"({dotted(where)}, {layers.origin(where)}). Better: chmod o-r"
            )


def _plaintext_keys(layers: Layers, settings: Settings) -> Iterator[str]:
    document = layers.document
    for leaf in layers.leaves.values():
        given = layers.written(leaf.path)
        if not leaf.is_secret or not given or leaf.path in document.substituted:
            continue
        if leaf.path == STORE and not holds_password(given):
            continue
        if isinstance(given, list) and all(
            (*leaf.path, index) in document.substituted for index in range(len(given))
        ):
            continue
        where = document.origin(leaf.path)
        if where is None or not where.line:
            continue
        read = ", and every user of this machine can read it" if document.is_readable_by_all else ""
        yield (
            f"{'WARNING: ' if read else ''}{where} holds a key in plain text{read}. Better: "
            f"{leaf.variable}_FILE, or ${{NAME}} in its place"
        )


def _unheard(settings: Settings, layers: Layers, short_names: Mapping[str, Path]) -> Iterator[str]:
    """Short names of stages that are not in the chain under that name."""
    for name, path in short_names.items():
        if path[0] != "stages":
            continue
        stage = str(path[1])
        if path not in layers.leaves:
            yield f"{name} has no effect: the stage {stage} has no setting {dotted(path[2:])}"
        elif stage not in settings.chain:
            yield (
                f"{name} has no effect: the chain has no stage named {stage}. "
                f"Set {layers.leaves[path].variable.replace(stage.upper(), '<NAME>', 1)} instead"
            )


def _unread_header(layers: Layers, settings: Settings) -> Iterator[str]:
    path: Path = ("client_ip_header",)
    if not settings.trusted_proxies and settings.client_ip_header != Settings.model_fields[str(path[0])].default:
        yield (
            f"client_ip_header ({layers.origin(path)}) has no effect: no header is believed while trusted_proxies "
            "is empty"
        )
