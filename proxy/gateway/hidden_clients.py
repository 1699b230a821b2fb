"""Notices a gateway that sees one client instead of many, because something in front of it hides them."""

from __future__ import annotations

import logging

from proxy.core.address import UNIX, Networks, parse_address, parse_network
from proxy.core.chain import Chain

log = logging.getLogger("sluice.gateway")

_PRIVATE = Networks(map(parse_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
HIDDEN_CLIENTS_AFTER = 20
"""Requests from one and the same private peer after which we suspect that it hides the real clients."""


class HiddenClients:
    """Looks at the first peers, and warns once if all are the same private address while stages judge by address."""

    def __init__(self, chain: Chain, *, trusts_proxies: bool) -> None:
        self._judging = [s.name for s in chain.stages if "client_ip" in s.reads and s.name in chain.names]
        self._trusts_proxies = trusts_proxies
        self._only_peer: str | None = None

    def see(self, peer_ip: str, sequence: int) -> None:
        """Note the peer of one of the first requests."""
        if sequence == 1:
            self._only_peer = peer_ip
        elif peer_ip != self._only_peer:
            self._only_peer = None
        if sequence < HIDDEN_CLIENTS_AFTER or self._only_peer is None or self._trusts_proxies:
            return
        if self._judging and _is_private(peer_ip):
            log.warning(
                "every request so far came from %s, a private address: if that is a proxy or Docker's bridge, then "
                "%s see one client instead of many; see 'Behind Docker or a proxy' in the README (TRUSTED_PROXIES)",
                peer_ip,
                " and ".join(self._judging),
            )


def _is_private(ip: str) -> bool:
    """Whether an address is one that NAT and bridges use (RFC 1918, RFC 4193)."""
    return ip != UNIX and _PRIVATE.find(parse_address(ip)) is not None
