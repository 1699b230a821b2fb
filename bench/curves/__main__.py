"""``python -m bench.curves``: measure, print each curve with its verdict."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path

import uvloop

from bench.curves import allowlist, chain, headers, keys, prompts
from bench.curves.gateway import Place, upstream
from bench.curves.sampling import QUICK, Plan
from bench.curves.verdict import Curve, document, table
from bench.ending import ToldToEnd, heeded, until_told
from bench.process import Cores, pinned

Section = Callable[[Place, Plan], Coroutine[None, None, list[Curve]]]

SECTIONS: Mapping[str, Section] = {
    "chain": chain.curves,
    "allowlist": allowlist.curves,
    "keys": keys.curves,
    "headers": headers.curves,
    "prompts": prompts.curves,
}


def measure(names: Iterable[str], plan: Plan, show: Callable[[str], object] = print) -> list[Curve]:
    """The curves of these sections, each shown as soon as it is there.

    The gateway has the first core of this process to itself; load and upstream have the second. Raises RuntimeError
    for what cannot be measured.
    """
    cores = Cores.available()
    found: list[Curve] = []
    with (
        tempfile.TemporaryDirectory(prefix="sluice-curves-") as directory,
        pinned(cores.others),
        upstream(Path(directory), cores) as port,
    ):
        place = Place(Path(directory), cores, port)
        for name in names:
            with heeded():
                curves = uvloop.run(until_told(SECTIONS[name](place, plan)))
            for curve in curves:
                show(table(curve) + "\n")
                found.append(curve)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. 0 = every curve is as good as it is to be, 1 = one is not, or could not be measured."""
    args = _parser().parse_args(argv)
    if not sys.platform.startswith("linux"):
        raise SystemExit("The bench reads CPU times from Linux's /proc: it runs on Linux only.")
    load_before = os.getloadavg()[0]
    try:
        # Whoever ends a run that takes too long leaves no gateways behind.
        with heeded():
            found = measure(
                args.only or SECTIONS, QUICK if args.quick else Plan(), lambda text: print(text, flush=True)
            )
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except ToldToEnd as told:
        print(f"bench: {told}", file=sys.stderr)
        return told.status
    if load_before > 0.5:
        print(f"note: the machine was busy before the run (load {load_before:.1f}): the figures are too high")
    bad = [curve.name for curve in found if not curve.is_good]
    print(f"worse than wanted: {', '.join(bad)}" if bad else "every curve is as it is to be")
    if args.json is not None:
        args.json.write_text(json.dumps(document(found), indent=2) + "\n")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.curves", description="The cost of a request as work grows."
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, shorter rounds: a rough figure")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="NAME", help=" ".join(SECTIONS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
