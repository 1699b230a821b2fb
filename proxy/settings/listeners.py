"""What no single setting of a listener can tell: whether it can be had, and whether its files can be used."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from itertools import combinations

from proxy.core.address import UNIX, Networks, parse_address, parse_network
from proxy.settings.layers import Layers
from proxy.settings.listen import Listen, Tls
from proxy.settings.model import Settings
from proxy.settings.problems import Path, dotted, show
from proxy.settings.shape import LISTEN

LOOPBACK = Networks(parse_network(network) for network in ("127.0.0.0/8", "::1"))
# Nobody types a passphrase where a gateway starts, and a prompt would wait for one for ever.
_ENCRYPTED = "it is encrypted"


def placed(settings: Settings) -> Iterator[tuple[Path, Listen]]:
    """Every listener with its path: ``listen``, or ``listen.0`` and so on."""
    for index, listen in enumerate(settings.listeners):
        yield ((*LISTEN, index) if isinstance(settings.listen, list) else LISTEN), listen


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host.casefold().removesuffix(".") == "localhost":
        return True
    try:
        return LOOPBACK.find(parse_address(host)) is not None
    except ValueError:
        return False


def is_within_reach(listen: Listen) -> bool:
    """Whether strangers can speak to the listener: not on this machine's own, nor without a certificate of ours."""
    asks_for_certificate = listen.tls is not None and listen.tls.client_ca is not None
    return not (listen.unix is not None or is_loopback(listen.host) or asks_for_certificate)


def check_listeners(layers: Layers, settings: Settings) -> None:
    """Note what keeps listeners from working. Nothing is concluded from a setting that is itself wrong."""
    for path, listen in placed(settings):
        _check_unix(layers, path, listen)
        _check_proxy_protocol(layers, path, listen, settings.trusted_proxies)
        if listen.tls is not None and not layers.is_doubtful((*path, "tls")):
            _check_tls(layers, (*path, "tls"), listen.tls)
    for (one, first), (other, second) in combinations(placed(settings), 2):
        _check_pair(layers, one, first, other, second)


def same_socket(one: str, other: str) -> bool:
    """Whether one port cannot be bound on both hosts, as far as can be told without a resolver.

    IPv6 sockets are bound for IPv6 alone, so ``0.0.0.0`` and ``::`` go together.
    """
    if one.casefold() == other.casefold():
        return True
    try:
        first, second = parse_address(one), parse_address(other)
    except ValueError:
        pass
    else:
        wide = first.is_unspecified or second.is_unspecified
        return first.version == second.version and (wide or first == second)
    return all(is_loopback(host) or host in ("0.0.0.0", "::") for host in (one, other))


def _check_unix(layers: Layers, path: Path, listen: Listen) -> None:
    if listen.unix is None:
        if listen.mode is not None:
            layers.complain((*path, "mode"), "is for a unix socket, and this listener has none", "leave it out")
        return
    for name in ("host", "port"):
        if layers.has((*path, name)):
            hint = "leave one of them out; several listeners make a list"
            layers.complain((*path, name), f"cannot be set together with {dotted((*path, 'unix'))}", hint)


def _check_proxy_protocol(layers: Layers, path: Path, listen: Listen, trusted: list[str]) -> None:
    if listen.proxy_protocol == "off" or layers.is_doubtful(("trusted_proxies",)):
        return
    place: Path = (*path, "proxy_protocol")
    if listen.unix is not None and UNIX not in trusted:
        message = "nobody could connect: the peers of a unix socket are not among trusted_proxies"
        layers.complain(place, message, "add the word unix to trusted_proxies (TRUSTED_PROXIES)")
    elif listen.unix is None and not any(entry != UNIX for entry in trusted):
        message = "nobody could connect: only trusted_proxies may speak the PROXY protocol, and there are none"
        layers.complain(place, message, "list the proxy's address in trusted_proxies (TRUSTED_PROXIES)")


def _check_pair(layers: Layers, one: Path, first: Listen, other: Path, second: Listen) -> None:
    if layers.is_doubtful(one) or layers.is_doubtful(other):
        return
    if first.unix is not None or second.unix is not None:
        if first.unix and second.unix and os.path.abspath(first.unix) == os.path.abspath(second.unix):
            layers.complain((*other, "unix"), f"is the same socket as {dotted((*one, 'unix'))}", "choose another")
    elif first.port == second.port != 0 and same_socket(first.host, second.host):
        message = f"is the same as {dotted((*one, 'port'))}, {first.port}, on {first.host}"
        layers.complain((*other, "port"), message, "choose another port or host")


def _check_tls(layers: Layers, path: Path, tls: Tls) -> None:
    """Load the files as the listener will. Whatever is said of them, what they hold is not."""
    files = {"cert": tls.cert, "key": tls.key} | ({"client_ca": tls.client_ca} if tls.client_ca else {})
    unreadable = {name: reason for name, file in files.items() if (reason := _unreadable(file))}
    for name, reason in unreadable.items():
        layers.complain((*path, name), f"cannot be used: {show(reason)}", f"name a readable PEM file of {_OF[name]}")
    if "client_ca" in files.keys() - unreadable.keys() and not _holds_certificate(files["client_ca"]):
        _complain_of_pem(layers, (*path, "client_ca"), "it holds no certificate in PEM form")
    if unreadable.keys() & {"cert", "key"}:
        return
    if not _holds_certificate(tls.cert):
        _complain_of_pem(layers, (*path, "cert"), "it holds no certificate in PEM form")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"does not belong to the certificate in {dotted((*path, 'cert'))}"
            layers.complain((*path, "key"), message, "name the key that the certificate was made for")
        elif error.reason:
            _complain_of_pem(layers, (*path, "cert"), f"OpenSSL refuses it ({show(error.reason)})")
        else:
            _complain_of_pem(layers, (*path, "key"), "it holds no private key in PEM form")
    except (OSError, ValueError) as error:
        reason = _ENCRYPTED if str(error) == _ENCRYPTED else "it cannot be read"
        _complain_of_pem(layers, (*path, "key"), reason)


_OF = {"cert": "the certificate and its chain", "key": "the private key", "client_ca": "authorities"}


def _complain_of_pem(layers: Layers, path: Path, reason: str) -> None:
    plain = ", not encrypted" if path[-1] == "key" else ""
    layers.complain(path, f"cannot be used: {reason}", f"name a readable PEM file of {_OF[str(path[-1])]}{plain}")


def _unreadable(file: str) -> str:
    """Why a file cannot be read, or an empty text."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return "it is no file"  # to open a pipe would wait for its writer
        with open(file, "rb") as opened:
            opened.read(1)
    except (OSError, ValueError) as error:
        return (getattr(error, "strerror", None) or "not a usable path").lower()
    return ""


def _holds_certificate(file: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=file)
    except (OSError, ValueError):
        return False
    return True


def _no_passphrase() -> str:
    raise ValueError(_ENCRYPTED)
