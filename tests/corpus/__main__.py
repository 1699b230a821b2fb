"""``python -m tests.corpus``: every case through the gateway, and the figures of it. Exits with 1 if one is wrong.

``--desync-guardian DIR`` and ``--llhttp DIR`` add the public collections, from copies of their projects;
``--proxies`` adds nginx and HAProxy, which are installed if they are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.install import Unavailable, ensure
from proxy.gateway.worker import new_loop
from tests.corpus.answers import AnswerVerdict, End, answer_case, judge_answers, own_answers
from tests.corpus.cases import own_cases
from tests.corpus.differential import PROXIES, Chained, Comparison, chain, compare
from tests.corpus.public import desync_cases, llhttp_blocks, request_case
from tests.support.corpus import Tier, Verdict, judge_all


class Report:
    """Lines of figures, and the faults behind them."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def line(self, text: str) -> None:
        """Print one line."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def requests(self, title: str, verdicts: Sequence[Verdict]) -> None:
        """How many of these requests came to what they must."""
        sound = sum(not verdict.faults for verdict in verdicts)
        refused = sum(verdict.turned_away for verdict in verdicts)
        by_rule = sum(bool(verdict.case.by_rule) for verdict in verdicts)
        waiting = sum(verdict.case.tier is Tier.WAITS and not verdict.turned_away for verdict in verdicts)
        parts = [f"{len(verdicts) - refused - waiting} accepted", f"{refused} refused"]
        parts += [f"{by_rule} of them by our rules alone"] * bool(by_rule) + [f"{waiting} not whole"] * bool(waiting)
        self.line(f"{title:<44} {sound:>4}/{len(verdicts):<4} {', '.join(parts)}")
        self.faults += [fault for verdict in verdicts for fault in verdict.faults]

    def answers(self, title: str, verdicts: Sequence[AnswerVerdict]) -> None:
        """The same of answers."""
        sound = sum(not verdict.faults for verdict in verdicts)
        ends = Counter(verdict.got[0].end for verdict in verdicts)
        self.line(
            f"{title:<44} {sound:>4}/{len(verdicts):<4} {ends[End.TAKEN]} passed on, "
            f"{ends[End.REFUSED]} answered 502, {ends[End.CUT]} shown as cut"
        )
        self.faults += [fault for verdict in verdicts for fault in verdict.faults]

    def comparison(self, result: Comparison) -> None:
        """How others read what we accept."""
        for name, agreed in result.agreed.items():
            title = f"read alike by {name}"
            self.line(f"{title:<44} {agreed:>4}/{result.compared:<4} {result.listed[name]} listed differences")
        self.faults += result.faults

    def chained(self, result: Chained) -> None:
        """How many a proxy and the gateway behind it count differently."""
        title = f"counted alike behind {result.name}"
        self.line(f"{title:<44} {result.sent - len(result.faults):>4}/{result.sent:<4} {result.passed_on} forwarded")
        self.faults += result.faults


async def report(desync: Path | None, llhttp: Path | None, proxies: Sequence[str]) -> list[str]:
    """Run everything and print it; the faults."""
    out = Report()
    own = await judge_all(own_cases())
    everything = list(own)
    for tier in Tier:
        out.requests(f"own requests, {tier.value}", [verdict for verdict in own if verdict.case.tier is tier])
    if desync is not None:
        words, cases = zip(*desync_cases(desync), strict=True)
        verdicts = await judge_all(cases)
        everything += verdicts
        for word in ("Severe", "Ambiguous", "Compliant", "Acceptable"):
            chosen = [verdict for verdict, said in zip(verdicts, words, strict=True) if said == word]
            out.requests(f"http-desync-guardian, {word.lower()}", chosen)
    answers = await judge_answers(own_answers())
    if llhttp is not None:
        verdicts = await judge_all([request_case(block) for block in llhttp_blocks(llhttp, "request")])
        everything += verdicts
        out.requests("llhttp, requests", verdicts)
        for reason, count in Counter(verdict.message for verdict in verdicts if verdict.refused).most_common():
            out.line(f"    {count:>3} refused: {reason}")
    for tier in (Tier.SEVERE, Tier.AMBIGUOUS, Tier.COMPLIANT):
        out.answers(f"own answers, {tier.value}", [verdict for verdict in answers if verdict.case.tier is tier])
    if llhttp is not None:
        blocks = llhttp_blocks(llhttp, "response")
        out.answers("llhttp, answers", await judge_answers([answer_case(block) for block in blocks]))
    out.comparison(await compare(everything, proxies))
    for name in proxies:
        out.chained(await chain(name, [verdict.case for verdict in everything]))
    return out.faults


def main() -> int:
    """Print the figures; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--desync-guardian", type=Path, metavar="DIR")
    parser.add_argument("--llhttp", type=Path, metavar="DIR")
    parser.add_argument("--proxies", action="store_true")
    options = parser.parse_args()
    proxies = PROXIES if options.proxies else ()
    try:
        ensure(proxies)
    except Unavailable as reason:
        raise SystemExit(str(reason)) from None
    # Each broken message is worth a line in a log, and here there are thousands.
    logging.disable(logging.ERROR)
    start_s = time.monotonic()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        faults = runner.run(report(options.desync_guardian, options.llhttp, proxies))
    for fault in faults:
        sys.stdout.write(f"WRONG {fault}\n")
    sys.stdout.write(f"{len(faults)} wrong, {time.monotonic() - start_s:.0f} s\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
