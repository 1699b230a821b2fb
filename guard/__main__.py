"""``python -m guard``: measure, compare with the baseline, name the culprits."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.install import Unavailable, ensure
from guard import baseline, report, session, verdict
from guard.session import Measured
from guard.stopping import Stopped, stoppable

_NO = ("", "0", "false")
"""What CI is where there is none."""


def main(
    argv: Sequence[str] | None = None,
    measure: Callable[[], Measured] = session.measure,
    folder: Path = baseline.FOLDER,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Measure and judge. 0 = no unit has become too dear, 1 = one has, or something was not as it must be.

    128 + the signal's number, as shells have it, if SIGINT or SIGTERM came. ``environ`` is asked for CI alone.
    """
    parser = argparse.ArgumentParser(prog="python -m guard", description="Instructions per unit, against a baseline.")
    parser.add_argument("--record", action="store_true", help="make what is measured the baseline of this Python")
    args = parser.parse_args(argv)
    if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
        raise SystemExit("The guard counts with Valgrind what CPython does on Linux.")
    try:
        with stoppable():
            ensure(["valgrind"])
            now = measure()
    except Stopped as stopped:
        print(f"guard: stopped by {stopped.name}", file=sys.stderr)
        return stopped.status
    except (Unavailable, RuntimeError, OSError) as error:
        print(f"guard: {error}", file=sys.stderr)
        return 1
    return _judge(now, folder, is_recording=args.record, is_strict=environ.get("CI", "") not in _NO)


def _judge(now: Measured, folder: Path, *, is_recording: bool, is_strict: bool) -> int:
    before = baseline.read(folder)
    rows = verdict.rows(now, before)
    print(report.table(rows))
    if is_recording:
        print(f"recorded in {baseline.write(now, folder)}")
        return 0
    if before is None:
        print(f"\n{report.no_baseline(baseline.VERSION, is_strict=is_strict)}")
        return int(is_strict)
    for row in rows:
        if row.is_dearer:
            print(f"\n{report.culprits(row.unit, now, before)}")
    for sentence in report.advice(rows):
        print(f"\n{sentence}")
    return int(any(row.is_dearer for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
