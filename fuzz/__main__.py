"""``python -m fuzz``: try every target, print one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fuzz import campaign, report
from fuzz.campaign import BLIND, GUIDED, Plan
from fuzz.report import RAW
from fuzz.session import has_atheris
from fuzz.target import ROOT
from fuzz.targets import NAMES


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz. 0 = nothing was found, 1 = something was."""
    args = _parser().parse_args(argv)
    chosen = list(dict.fromkeys(args.targets)) or [*NAMES, RAW]
    seconds = args.seconds if args.seconds is not None else (0.0 if args.runs else 60.0)
    seed = args.seed if args.seed is not None else time.time_ns() % 1_000_000_007
    engines = (GUIDED, BLIND) if args.engine is None else (args.engine,)
    if not has_atheris():
        engines = (BLIND,)
        print("atheris is not installed: no coverage guides the inputs, they are mutations of the seeds alone")
    print(f"seed {seed}", flush=True)
    plan = Plan(seconds, args.runs, seed, args.folder, engines)
    results = campaign.run([name for name in chosen if name != RAW], plan, args.jobs)
    if RAW in chosen:
        from fuzz.raw import attack

        # Alone: the gateway and this process need a core each.
        results.append(attack.run(plan))
    print(f"\n{report.table(results)}")
    print(report.findings(results))
    if args.json is not None:
        args.json.write_text(json.dumps(report.document(results), indent=2) + "\n")
    return 1 if any(result.findings for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Inputs nobody would send, and oracles.")
    parser.add_argument(
        "targets", nargs="*", choices=[*NAMES, RAW, []], metavar="TARGET", help=" ".join([*NAMES, RAW])
    )
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--seconds", type=float, help="for each target (default 60)")
    bound.add_argument("--runs", type=int, default=0, help="inputs for each target")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time (default %(default)s)"
    )
    parser.add_argument(
        "--engine", choices=(GUIDED, BLIND), help="default: half the time with coverage, half without"
    )
    parser.add_argument("--seed", type=int, help="of the mutations; default: the clock")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz", help="for findings and the corpus")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
