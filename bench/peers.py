"""Who can be measured. A further peer is a class in its own file and a line here."""

from __future__ import annotations

from bench.nginx import Nginx
from bench.peer import Peer
from bench.sluice import Sluice

BASELINE = Nginx.name
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Nginx, Sluice)}
