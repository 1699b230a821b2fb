"""``python -m guard``: measure, compare with the baseline, name the culprits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.install import ensure
from guard import baseline, report, session, verdict
from guard.session import Measured


def main(
    argv: Sequence[str] | None = None,
    measure: Callable[[], Measured] = session.measure,
    folder: Path = baseline.FOLDER,
) -> int:
    """Measure and judge. 0 = no unit has become too dear, 1 = one has, or something was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m guard", description="Instructions per unit, against a baseline.")
    parser.add_argument("--record", action="store_true", help="make what is measured the baseline of this Python")
    args = parser.parse_args(argv)
    if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
        raise SystemExit("The guard counts with Valgrind what CPython does on Linux.")
    ensure(["valgrind"])
    try:
        now = measure()
    except RuntimeError as error:
        print(f"guard: {error}", file=sys.stderr)
        return 1
    before = baseline.read(folder)
    rows = verdict.rows(now, before)
    print(report.table(rows))
    if args.record:
        print(f"recorded in {baseline.write(now, folder)}")
        return 0
    for row in rows:
        if row.is_dearer and before is not None:
            print(f"\n{report.culprits(row.unit, now, before)}")
    for sentence in report.advice(rows, baseline.VERSION):
        print(f"\n{sentence}")
    return int(any(row.is_dearer for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
