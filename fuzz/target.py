"""What is tried: a function from bytes to nothing that raises `Finding` when a promise is broken."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT / "tests" / "fuzz" / "seeds"
REGRESSIONS = SEEDS / "regressions"


class Finding(Exception):
    """A promise that did not hold. ``rule`` names it in a few words, the same for every input that breaks it."""

    def __init__(self, rule: str, detail: object = "") -> None:
        super().__init__(f"{rule}: {detail}" if detail != "" else rule)
        self.rule = rule


class Hang(BaseException):
    """An input took longer than a second. No `Exception`, so that nothing on the way catches it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One place that reads bytes.

    ``run`` raises for a broken promise: `Finding`, or whatever was not meant to come out. ``words`` are pieces of the
    language the place reads, for the mutations. ``max_bytes`` bounds an input.
    """

    name: str
    about: str
    run: Callable[[bytes], None]
    words: tuple[bytes, ...]
    max_bytes: int = 2048


def seeds_of(name: str) -> list[bytes]:
    """The seeds and the regressions of a target, in the order of their files' names."""
    return [path.read_bytes() for path in seed_files(name)]


def seed_files(name: str) -> list[Path]:
    """The files of `seeds_of`."""
    found = [path for folder in (SEEDS / name, REGRESSIONS / name) if folder.is_dir() for path in folder.iterdir()]
    return sorted(found)


def require(holds: bool, rule: str, detail: object = "") -> None:
    """Raises `Finding` unless ``holds``."""
    if not holds:
        raise Finding(rule, detail)


def rule_of(error: BaseException) -> str:
    """What a failure is called: its rule, or the type of the exception and where in the code it arose."""
    if isinstance(error, Finding):
        return error.rule
    if isinstance(error, Hang):
        return "it took longer than a second"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{ROOT}/proxy/" in frame.filename]
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} at {Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].name}"


class Errors(logging.Handler):
    """Collects what is logged as an error below ``sluice``: there a traceback is a failure, whoever caught it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)

    def check(self) -> None:
        """Raises the exception that was logged, or `Finding`; forgets all."""
        records = self.records[:]
        self.records.clear()
        for record in records:
            if record.exc_info and record.exc_info[1] is not None:
                raise record.exc_info[1]
            raise Finding("an error was logged", record.getMessage())

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect them during a block; nothing of ``sluice`` is logged elsewhere meanwhile."""
        logger = logging.getLogger("sluice")
        former = logger.level, logger.propagate
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = former[1]
            logger.setLevel(former[0])
            self.records.clear()


ERRORS = Errors()
"""The errors of this process; targets look at them after each input."""
