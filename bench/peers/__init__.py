"""Who is measured, in the order of the table. A further peer is a class in its own file and a word here."""

from __future__ import annotations

from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy
from bench.peers.litellm import LiteLLM
from bench.peers.nginx import Nginx
from bench.peers.peer import Peer, Target
from bench.peers.plain_tornado import PlainTornado
from bench.peers.portkey import Portkey
from bench.peers.sluice import Sluice

BASELINE = Nginx.name
PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Nginx, HAProxy, Envoy, Caddy, PlainTornado, LiteLLM, Portkey, Sluice)
}

__all__ = ["BASELINE", "PEERS", "Peer", "Target"]
