"""``python -m soak``: measure the figures, print one table."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from soak.figure import Row, Size
from soak.figures import FIGURES
from soak.report import document, misses, table, verdict


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. 0 = every goal is met, 1 = one is missed."""
    args = _parser().parse_args(argv)
    if not sys.platform.startswith("linux"):
        raise SystemExit("The soak asks Linux's kernel for memory and sockets: it runs on Linux only.")
    size: Size = "quick" if args.quick else "full"
    print(f"{size} counts, seed {args.seed}")
    rows: list[Row] = []
    for name in dict.fromkeys(args.names or FIGURES):
        rows += measure(name, size, args.seed)
    for line in misses(rows):
        print(f"missed: {line}")
    print(f"\n{table(rows)}")
    if args.json is not None:
        args.json.write_text(json.dumps(document(rows, size, args.seed), indent=2) + "\n")
    return 0 if all(row.ok for row in rows) else 1


def measure(name: str, size: Size, seed: int) -> list[Row]:
    """One figure on a loop of its own. A measurement that breaks down is a goal missed, and the others go on."""
    kind = FIGURES[name]
    print(f"\n{name}: {kind.about}", flush=True)
    started = time.monotonic()
    try:
        rows = uvloop.run(kind(kind.plans[size], seed, lambda line: print(line, flush=True)).run())
    except (RuntimeError, OSError, TimeoutError) as error:
        rows = [Row(name, kind.about, "could not be measured", str(error).splitlines()[0], False, (str(error),))]
    for row in rows:
        print(f"  {verdict(row)}: {row.goal}: {row.measured} ({row.counts})")
    print(f"  {time.monotonic() - started:.0f} s", flush=True)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m soak", description="Faults in numbers, and what holds.")
    # With choices an empty list would be refused.
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help=" ".join(FIGURES) + " (default: all)")
    parser.add_argument("--quick", action="store_true", help="small counts: a rough look in two minutes")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="repeats the choices of a run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser


def _name(name: str) -> str:
    if name not in FIGURES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FIGURES)}")
    return name


if __name__ == "__main__":
    raise SystemExit(main())
