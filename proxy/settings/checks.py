"""What no single setting can tell: whether the stages fit together, and the addresses do not collide."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from proxy.core.chain import EXCHANGE_FIELDS, check_order
from proxy.core.origin import Origin as UpstreamOrigin
from proxy.core.stage import Mode, Stage
from proxy.limits.memory import MemoryStore
from proxy.settings.layers import Layers
from proxy.settings.listen import Listen
from proxy.settings.listeners import check_listeners, is_loopback, is_within_reach, placed
from proxy.settings.model import Settings
from proxy.settings.problems import Path, did_you_mean, dotted, show
from proxy.settings.stores import check_store
from proxy.stages import STAGES, Services, build
from proxy.stages.ip_allowlist import IPAllowlistConfig
from proxy.stages.upstream import UpstreamConfig

_WILDCARDS = frozenset({"0.0.0.0", "::", "0:0:0:0:0:0:0:0"})


def _at_rest() -> float:
    return 0.0


_SERVICES = Services(clock=_at_rest, store=MemoryStore(_at_rest), hop_id=b"check")
"""For stages that are built to be looked at and never run."""


def check(layers: Layers, settings: Settings) -> None:
    """Note what does not fit together. Nothing is concluded from a setting that is itself wrong."""
    _check_chain(layers, settings)
    _check_upstreams(layers, settings)
    _check_authorities(layers, settings)
    check_listeners(layers, settings)
    check_store(layers, settings)
    _check_admin(layers, settings)


def overlap(bound: str, host: str) -> bool:
    """Whether one port on both hosts would be the same socket, as far as can be told without a resolver."""
    if bound.casefold() == host.casefold() or (is_loopback(bound) and is_loopback(host)):
        return True
    if bound in _WILDCARDS or host in _WILDCARDS:
        other = host if bound in _WILDCARDS else bound
        return other in _WILDCARDS or is_loopback(other)
    return False


def lets_strangers_in(config: IPAllowlistConfig) -> bool:
    """Whether an allowlist holds nobody off: open by word, or by a network of every address."""
    if config.is_open:
        return True
    return any(map(is_everything, config.allow or ()))


def is_everything(network: str) -> bool:
    """Whether a network holds every address of its kind."""
    return network.endswith("/0")


def guards(settings: Settings) -> bool:
    """Whether strangers are kept away: by an allowlist in the chain, or because no listener is within their reach."""
    if not any(map(is_within_reach, settings.listeners)) and not settings.trusted_proxies:
        return True  # with a proxy in front, loopback is where strangers come from
    if any(map(is_everything, settings.trusted_proxies)):
        return False  # an address anybody can claim keeps nobody away
    configs = [settings.stages[name] for name in settings.chain if name in settings.stages]
    return any(
        isinstance(config, IPAllowlistConfig) and config.mode is Mode.ENFORCE and not lets_strangers_in(config)
        for config in configs
    )


def _check_chain(layers: Layers, settings: Settings) -> None:
    if layers.is_doubtful(("chain",)):
        return
    stages: list[Stage] = []
    seen: set[str] = set()
    for index, name in enumerate(settings.chain):
        path: Path = ("chain", index)
        if name in seen:
            again = f"to use two of one type, give the second a name of its own and write type: {show(name)}"
            layers.complain(path, f'"{show(name)}" stands in the chain twice', again)
        elif name in settings.stages and not layers.is_doubtful(("stages", name)):
            stages.append(build(name, settings.stages[name], _SERVICES))
        elif not layers.is_doubtful(("stages", name)):
            hint = did_you_mean(name, settings.stages) or "describe it under stages, with a type"
            layers.complain(path, f'unknown stage "{show(name)}"', hint)
        seen.add(name)
    # With a stage missing from its place, complaints about the order of the others would mislead.
    if len(stages) == len(settings.chain):
        for problem in check_order(stages):
            path = ("chain", problem.position) if stages else ("chain",)
            # A chain nobody wrote is at fault only for what somebody wrote about its stages.
            written = path if layers.has(("chain",)) else ("stages", stages[problem.position].name)
            layers.complain(path, str(problem), _missing(stages, problem.position), origin=layers.origin(written))


def _missing(stages: list[Stage], position: int) -> str:
    """Which stage to add, if what one reads is set by none of the chain's."""
    read = set(stages[position].reads) - EXCHANGE_FIELDS if stages else set()
    unset = read.difference(*(stage.writes for stage in stages))
    found = [name for name, stage in STAGES.items() if unset.intersection(stage.writes)]
    return f"put {' or '.join(found)} ahead of it" if found else ""


def _check_authorities(layers: Layers, settings: Settings) -> None:
    for name, config in settings.stages.items():
        path: Path = ("stages", name, "ca_file")
        if not isinstance(config, UpstreamConfig) or config.ca_file is None or layers.is_doubtful(path):
            continue
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it holds no certificate in PEM form"
            layers.complain(path, f"cannot be used: {show(reason)}", "name a readable PEM file of authorities")


def _check_upstreams(layers: Layers, settings: Settings) -> None:
    for name, config in settings.stages.items():
        path: Path = ("stages", name, "base_url")
        if not isinstance(config, UpstreamConfig) or layers.is_doubtful(path):
            continue
        origin, _, _ = UpstreamOrigin.of(config.base_url)
        hosts = [listen.host for _, listen in _bound(layers, settings) if listen.port == origin.port]
        if any(overlap(host, origin.host) for host in hosts):
            layers.complain(
                path, "leads to this gateway's own listener", "name the server that requests should go to"
            )


def _check_admin(layers: Layers, settings: Settings) -> None:
    admin = settings.admin
    if not admin.enabled or layers.is_doubtful(("admin",)):
        return
    for path, listen in _bound(layers, settings):
        if admin.port == listen.port and _collide(admin.host, listen.host):
            # The one that somebody wrote is the one to change.
            mine: Path = ("admin", "port")
            other: Path = (*path, "port")
            if not layers.has(mine):
                mine, other = other, mine
            layers.complain(mine, f"is the same as {dotted(other)}, {admin.port}", "choose another")


def _bound(layers: Layers, settings: Settings) -> Iterator[tuple[Path, Listen]]:
    """The listeners whose port is known, with their paths."""
    for path, listen in placed(settings):
        known = not any(layers.is_doubtful((*path, name)) for name in ("host", "port", "unix"))
        if known and listen.unix is None and listen.port != 0:
            yield path, listen


def _collide(one: str, other: str) -> bool:
    """Whether one port cannot be bound on both."""
    return overlap(one, other) or one in _WILDCARDS or other in _WILDCARDS
