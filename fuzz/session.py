"""One target in a process of its own: input after input until time or count is up, findings confirmed and minimised.

    python -m fuzz.session TARGET --folder FOLDER --engine guided --seconds N

Guided by atheris the inputs follow the coverage of ``proxy``; blind ones are mutations of the seeds and nothing else,
and many times as many. What the session has done so far stands in ``FOLDER/TARGET.json``, the input under way in
``FOLDER/TARGET.now``, so that even a process that was killed leaves both.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from fuzz import targets
from fuzz.mutation import Mutator, minimised
from fuzz.target import ERRORS, REGRESSIONS, SEEDS, Hang, Target, rule_of, seeds_of

HANG_S = 1.0
MOST_FINDINGS = 20
_MINIMISE_S = 15.0
_LENGTH = struct.Struct("<I")
_CURRENT_BYTES = 1 << 16
_PAGE = os.sysconf("SC_PAGE_SIZE")


def has_atheris() -> bool:
    """Whether the coverage-guided engine is installed."""
    return find_spec("atheris") is not None


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Raise `Hang` in the block when it takes longer."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def failure_of(target: Target, data: bytes) -> BaseException | None:
    """What an input makes of a target: None if every promise holds, within a second."""
    ERRORS.records.clear()  # of an input that failed before it looked at them
    try:
        with no_longer_than(HANG_S):
            target.run(data)
    except (Exception, Hang) as error:
        return error
    return None


class Current:
    """The input under way, where another process can read it."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_CURRENT_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _CURRENT_BYTES)

    def set(self, data: bytes) -> None:
        """Note the input that is tried next."""
        kept = data[: _CURRENT_BYTES - 4]
        self._map[4 : 4 + len(kept)] = kept
        _LENGTH.pack_into(self._map, 0, len(kept))

    @staticmethod
    def read(path: Path) -> bytes:
        """The input that was under way."""
        if not path.is_file():
            return b""
        content = path.read_bytes()
        return content[4 : 4 + _LENGTH.unpack_from(content)[0]]


class Session:
    """Runs inputs, counts them, and keeps what they found."""

    def __init__(self, target: Target, folder: Path, seconds: float, runs: int, engine: str) -> None:
        self._target = target
        self._folder = folder
        self._runs = runs
        self._engine = engine
        self._findings: dict[str, dict[str, Any]] = {}
        self._current = Current(folder / f"{target.name}.now")
        self._inputs = 0
        self._rss_start = 0
        self._began = self._noted = time.perf_counter()
        self._ends = self._began + seconds if seconds else float("inf")

    def one(self, data: bytes) -> bool:
        """Try an input. False = it was the last."""
        data = data[: self._target.max_bytes]
        self._current.set(data)
        error = failure_of(self._target, data)
        self._inputs += 1
        if error is not None:
            self._found(data, error)
        now = time.perf_counter()
        if now - self._noted > 1:
            self._noted = now
            if not self._rss_start and now - self._began > 5:
                self._rss_start = rss_bytes()
            self._note(is_done=False)
        return now < self._ends and self._inputs != self._runs and len(self._findings) < MOST_FINDINGS

    def close(self) -> None:
        """Write down the result."""
        self._note(is_done=True)

    def _found(self, data: bytes, error: BaseException) -> None:
        rule = rule_of(error)
        if rule in self._findings:
            self._findings[rule]["times"] += 1
            return
        if not all(self._fails_so(data, rule) for _ in range(2)):
            # A hang that does not come again was the machine's; anything else depends on what went before.
            if isinstance(error, Hang):
                return
            rule = f"{rule} (not every time)"
            small = data
        else:
            ends = time.perf_counter() + _MINIMISE_S
            small = minimised(data, lambda part: time.perf_counter() < ends and self._fails_so(part, rule))
        name = f"{self._target.name}-{hashlib.sha256(small).hexdigest()[:12]}"
        (self._folder / name).write_bytes(small)
        again = failure_of(self._target, small)
        self._findings[rule] = {
            "rule": rule,
            "message": str(again or error)[:1000],
            "input": repr(small[:400]),
            "file": str(self._folder / name),
            "times": 1,
        }
        self._note(is_done=False)

    def _fails_so(self, data: bytes, rule: str) -> bool:
        error = failure_of(self._target, data)
        return error is not None and rule_of(error) == rule

    def _note(self, *, is_done: bool) -> None:
        rss = rss_bytes()
        state = {
            "target": self._target.name,
            "about": self._target.about,
            "engine": self._engine,
            "inputs": self._inputs,
            "seconds": time.perf_counter() - self._began,
            "rss_growth_bytes": rss - self._rss_start if self._rss_start else 0,
            "findings": list(self._findings.values()),
            "is_done": is_done,
        }
        written = self._folder / f"{self._target.name}.json.new"
        written.write_text(json.dumps(state))
        written.replace(self._folder / f"{self._target.name}.json")


def rss_bytes() -> int:
    """The resident memory of this process, 0 where there is no ``/proc``."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _blind(session: Session, target: Target, random: Random) -> None:
    """Without coverage: the seeds as they are, then mutations of them."""
    mutator = Mutator(seeds_of(target.name), target.words, target.max_bytes, random)
    inputs: Iterator[bytes] = iter(seeds_of(target.name))
    while session.one(next(inputs, None) or mutator.next()):
        pass


def _guided(session: Session, target: Target, folder: Path, atheris: Any) -> None:
    """With coverage. Does not return: libFuzzer ends the process, and so do we."""
    mutators: dict[int, Mutator] = {}

    def one(data: bytes) -> None:
        if not session.one(data):
            session.close()
            # libFuzzer has no other way out that leaves the clearing up to Python.
            atexit._run_exitfuncs()
            os._exit(0)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 3 == 0:
            return bytes(atheris.Mutate(data, max_size))
        mutator = mutators.setdefault(0, Mutator(seeds_of(target.name), target.words, target.max_bytes, Random(0)))
        mutator.random.seed(seed)
        if len(data) > target.max_bytes // 2 and seed % 2:
            # Without this inputs only ever grow, and long ones cost the most and say the least.
            start = mutator.random.randrange(len(data))
            data = data[:start] + data[start + mutator.random.randrange(len(data)) :]
        return mutator.change(data)[:max_size]

    corpus = folder / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    known = [str(path / target.name) for path in (SEEDS, REGRESSIONS) if (path / target.name).is_dir()]
    flags = [
        f"-max_len={target.max_bytes}",
        "-timeout=0",  # the session has a clock of its own
        "-rss_limit_mb=4096",
        "-print_pcs=0",
        "-mutate_depth=1",
        "-verbosity=0",
        f"-artifact_prefix={folder}/{target.name}-",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus), *known], one, custom_mutator=mutate)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    """Run one session."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.session")
    parser.add_argument("target", choices=targets.NAMES)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("guided", "blind"), default="blind")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    with ERRORS.collected():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    if args.engine == "blind":
        target = targets.load(args.target)
        session = Session(target, args.folder, args.seconds, args.runs, args.engine)
        _blind(session, target, Random(args.seed))
        session.close()
        return 0
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["proxy"]):
        target = targets.load(args.target)
    session = Session(target, args.folder, args.seconds, args.runs, args.engine)
    _guided(session, target, args.folder, atheris)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
