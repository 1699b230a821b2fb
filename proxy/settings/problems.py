"""What is wrong with a configuration, and where: every problem at once, in plain words, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Where a value stands: ``("stages", "limit", "hour")``; an integer is an index into a list, from 0."""

SHOWN_PROBLEMS = 100
MOST_PROBLEMS = 1000
"""After so many the search for more is given up: such a file is no configuration."""
_SHOWN_CHARACTERS = 60
_LONGEST_GUESS = 64
# What looks like an API key is never shown, not even where no key belongs.
_KEY = re.compile(r"\b(?:sk|rk|pk|sess)-[A-Za-z0-9_\-]{6,}|(?<=://)[^/@\s]*@")


class Kind(IntEnum):
    """The layers a value can come from, weakest first."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


class Origin(NamedTuple):
    """Where a value comes from. ``line`` and ``column`` count from 1; 0 = not known. Sorts in reading order."""

    kind: Kind
    name: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if self.kind is Kind.DEFAULT:
            return "default"
        if self.kind is Kind.FILE:
            return f"{show(self.name, None)}:{self.line}:{self.column}" if self.line else show(self.name, None)
        return f"{'environment' if self.kind is Kind.ENVIRONMENT else 'command line'} {show(self.name)}"


DEFAULT = Origin(Kind.DEFAULT)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``path`` is dotted, and empty if the problem is about no single setting."""

    where: Origin
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return "  ".join(part for part in (str(self.where), self.path, text) if part)


class ConfigError(Exception):
    """The configuration cannot be used. ``problems`` holds every reason, in reading order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        unique = set(problems)
        self.problems: Sequence[Problem] = tuple(
            sorted(unique, key=lambda problem: (problem.where, problem.path, problem.message))
        )
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [str(problem) for problem in self.problems[:SHOWN_PROBLEMS]]
        if count > SHOWN_PROBLEMS:
            lines.append(f"... and {count - SHOWN_PROBLEMS} more")
        lines.append(f"{count} problem{'' if count == 1 else 's'} in the configuration")
        return "\n".join(lines)


def dotted(path: Path) -> str:
    """``stages.ip_allowlist.allow[1]`` for an item of a list, ``listen.1.port`` for a setting within an entry."""
    text = ""
    for depth, part in enumerate(path, 1):
        if isinstance(part, int):
            text += f"[{part}]" if depth == len(path) else f".{part}"
        else:
            text += f".{show(part)}" if text else show(part)
    return text


def show(text: str, longest: int | None = _SHOWN_CHARACTERS) -> str:
    """The text fit for one line of a terminal: keys masked, cut to ``longest``, nothing unprintable."""
    text = _KEY.sub("***", text)
    if longest is not None and len(text) > longest:
        text = text[:longest] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def describe(value: object) -> str:
    """A value in plain words: ``the text "5"``, ``the number 5``, ``true``, ``a list``."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{show(value)}"' if value else "an empty text"
    if isinstance(value, int) and value.bit_length() > 128:
        return "so large a number"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "a mapping"
    return f"a value of type {type(value).__name__}"


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """A hint that names the known word closest to this one, or an empty text."""
    if len(text) > _LONGEST_GUESS:
        return ""
    # The closest is found without regard to case: HOUR and hour are the same slip.
    by_folded = {word.casefold(): word for word in known}
    close = get_close_matches(text.casefold(), by_folded, n=1, cutoff=0.65)
    return f'did you mean "{by_folded[close[0]]}"?' if close else ""
