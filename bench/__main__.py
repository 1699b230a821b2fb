"""``python -m bench``: measure, print one table."""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from bench import notes as below
from bench.chart import chart
from bench.cpu import CPU
from bench.ending import ToldToEnd, heeded, postponed, until_told
from bench.figures import Medians
from bench.first_byte import FirstByte
from bench.goals import missed, results
from bench.install import Unavailable, ensure
from bench.latency import Latency
from bench.memory import Memory
from bench.peers import BASELINE, PEERS, Peer
from bench.process import Cores, pinned
from bench.report import GOAL_HEADS, Origin, aligned, document, grid, heads, page, warnings
from bench.section import TRANSPORTS, Bench, Plan, Section
from bench.start_up import StartUp
from bench.streams import Streams
from bench.upstream_process import Upstream
from bench.workers import Workers

# Memory is first: it wants peers that have done nothing yet. The last three start their own.
SECTIONS: dict[str, Section] = {
    section.name: section for section in (Memory(), CPU(), Latency(), FirstByte(), StartUp(), Workers(), Streams())
}

_QUICK = Plan(
    rounds=1,
    seconds=0.5,
    streams=100,
    silent=200,
    crowd=1024,
    starts=1,
    pairs=1,
    settle_s=0.3,
    silent_s=2.0,
    is_quick=True,
)


_MOST_ROUNDS = 100
_LEAST_S = 0.1
"""Of a round: shorter ones have too few answers for a 99th percentile, or for any figure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. 0 = the figures stand, 1 = something was not as it must be, 128 and more = told to end."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = _parsed(arguments)
    if not sys.platform.startswith("linux"):
        raise SystemExit("The bench reads CPU times from Linux's /proc: it runs on Linux only.")
    try:
        with heeded():
            return _run(args, shlex.join(["python", "-m", "bench", *arguments]))
    except ToldToEnd as told:
        print(f"bench: {told}", file=sys.stderr, flush=True)
        return told.status


def _run(args: argparse.Namespace, command: str) -> int:
    plan = _QUICK if args.quick else Plan()
    plan = replace(plan, rounds=args.rounds or plan.rounds, seconds=args.seconds or plan.seconds)
    began = time.monotonic()
    load_before = os.getloadavg()[0]
    kinds, notes = _available(dict.fromkeys(args.peers))
    _raise_limit_of_open_files()
    cores = Cores.available()
    print(f"gateway on core {cores.gateway}, upstream and load on core {cores.others}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory, pinned(cores.others):
        upstream = Upstream(Path(directory), cores.others)
        bench = Bench(kinds, plan, cores, Path(directory), upstream)
        sections = [SECTIONS[name] for name in SECTIONS if name in args.only]
        try:
            # The loop leaves no handler behind where there was one.
            with heeded():
                uvloop.run(until_told(_measure(bench, sections, args.transports)))
        finally:
            with postponed():
                bench.close()
                upstream.process.stop()
    origin = Origin(command, time.strftime("%Y-%m-%d"), len(os.sched_getaffinity(0)))
    notes += _notes(bench, load_before)
    _print(bench, notes, time.monotonic() - began)
    _write(args, bench, notes, origin)
    found = missed(results(Medians(bench.samples)))
    if found:
        listed = (f"{title} {wanted}: {measured}" for title, wanted, measured, _ in (each.cells for each in found))
        print(f"missed: {'; '.join(listed)}")
    return 1 if bench.problems else 0


def _notes(bench: Bench, load_before: float) -> list[str]:
    """What stands below the tables, of those peers that ran."""
    kinds = [kind for kind in bench.kinds if kind.name in bench.versions]
    figures = {sample.figure for sample in bench.samples}
    return [
        *below.of_peers(kinds),
        *below.of_rates(kinds, figures),
        *below.of_memory(figures),
        *(f"failed: {problem}" for problem in bench.problems),
        *warnings(bench.samples, load_before),
    ]


def _available(names: Iterable[str]) -> tuple[list[type[Peer]], list[str]]:
    """Who can be measured here, and for the others why not."""
    try:
        ensure(["openssl"])
    except Unavailable as reason:
        raise SystemExit(str(reason)) from None
    kinds, notes = [], []
    for name in names:
        try:
            PEERS[name].install()
        except Unavailable as reason:
            notes.append(f"{name} is left out: {reason}")
            print(f"bench: {notes[-1]}", flush=True)
        else:
            kinds.append(PEERS[name])
    return kinds, notes


def _raise_limit_of_open_files() -> None:
    """As far as this user may; what is started from here inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _measure(bench: Bench, sections: Sequence[Section], transports: Sequence[str]) -> None:
    for transport in TRANSPORTS:
        for section in sections:
            own = section.quick_transports if bench.plan.is_quick else section.transports
            if transport in transports and transport in own:
                print(f"--- {section.name}, {transport} upstream", flush=True)
                await section.measure(bench, transport)
    bench.stop_fleet()


def _print(bench: Bench, notes: Sequence[str], took_s: float) -> None:
    plan, medians = bench.plan, Medians(bench.samples)
    versions = _columns(bench)
    print(f"\nMedians of {plan.rounds} rounds of {plan.seconds:g} s, {plan.pairs} where one worker and two ", end="")
    print(f"are compared; in brackets times {BASELINE}; ", end="")
    print(f"{took_s / 60:.1f} minutes in all.")
    print(aligned(heads(versions), grid(medians, list(versions), BASELINE)))
    print()
    print(aligned(GOAL_HEADS, [result.cells for result in results(medians)]))
    for note in notes:
        print(f"note: {note}")


def _columns(bench: Bench) -> dict[str, str]:
    """The peers that ran, in their order, with their versions."""
    return {kind.name: bench.versions[kind.name] for kind in bench.kinds if kind.name in bench.versions}


def _write(args: argparse.Namespace, bench: Bench, notes: Sequence[str], origin: Origin) -> None:
    versions = _columns(bench)
    if args.json is not None:
        content = document(bench.samples, versions, bench.plan, BASELINE, notes, origin)
        args.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if args.markdown:
        print("\n" + page(bench.samples, versions, BASELINE, notes, origin))
    if args.chart is not None:
        try:
            args.chart.write_text(chart(Medians(bench.samples), list(versions), BASELINE))
        except ValueError as error:
            print(f"bench: no chart: {error}", file=sys.stderr)


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. Ends the program with what is wrong with them."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.chart is not None and "cpu" not in args.only:
        parser.error("--chart draws the figures of the section cpu, which is not measured: add it to --only")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What gateways cost, side by side.")
    parser.add_argument(
        "--rounds", type=_rounds, metavar="N", help=f"default {Plan.rounds}; one worker and two have {Plan.pairs}"
    )
    parser.add_argument("--seconds", type=_seconds, help=f"of each round (default {Plan.seconds:g})")
    parser.add_argument(
        "--quick", action="store_true", help="one short round of each: rough figures in three minutes"
    )
    for option, names in (("peers", list(PEERS)), ("only", list(SECTIONS)), ("transports", list(TRANSPORTS))):
        parser.add_argument(
            f"--{option}", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names)
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there as well")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write an SVG chart there")
    parser.add_argument("--markdown", action="store_true", help="print both tables in Markdown, too")
    return parser


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_ROUNDS:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {_MOST_ROUNDS} is needed, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not _LEAST_S <= value < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds from {_LEAST_S:g} on is needed, not {text!r}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
