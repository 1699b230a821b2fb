"""``python -m bench``: measure, print one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.install import ensure
from bench.peers import BASELINE, PEERS
from bench.process import Cores, pinned
from bench.report import document, table, warnings
from bench.rounds import Plan, idle_rss_bytes, measure, running


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. 0 = the figures stand, 1 = something was not as it must be."""
    args = _parser().parse_args(argv)
    if not sys.platform.startswith("linux"):
        raise SystemExit("The bench reads CPU times from Linux's /proc: it runs on Linux only.")
    plan = Plan(rounds=2, seconds=2.0) if args.quick else Plan(args.rounds, args.seconds)
    kinds = [PEERS[name] for name in dict.fromkeys(args.peers)]
    ensure(kind.program for kind in kinds if kind.program is not None)
    load_before = os.getloadavg()[0]
    cores = Cores.available()
    print(f"gateway on core {cores.gateway}, upstream and load on core {cores.others}")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory, pinned(cores.others):
        try:
            with running(kinds, Path(directory), cores) as (upstream, peers):
                versions = {peer.name: peer.version() for peer in peers}
                rss_bytes = {peer.name: idle_rss_bytes(peer) for peer in peers}
                samples = uvloop.run(measure(upstream, peers, plan))
        except RuntimeError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    print(f"\nMedians of {plan.rounds} rounds of {plan.seconds:g} s, {plan.connections} connections; ", end="")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(table(samples, rss_bytes, BASELINE))
    for warning in warnings(samples, load_before):
        print(f"note: {warning}")
    if args.json is not None:
        args.json.write_text(json.dumps(document(samples, rss_bytes, versions, plan, BASELINE), indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="CPU time of gateways, side by side.")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="of each round (default %(default)g)")
    parser.add_argument("--quick", action="store_true", help="two rounds of two seconds: a rough figure")
    parser.add_argument(
        "--peers", nargs="+", choices=sorted(PEERS), default=list(PEERS), metavar="NAME", help=" ".join(PEERS)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
