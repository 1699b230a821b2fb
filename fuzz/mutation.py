"""Mutations that know a little of what they change: words, lines, numbers, and the seeds of the same target."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

_NUMBER = re.compile(rb"[0-9A-Fa-f]{1,20}")
_NUMBERS = (
    b"0",
    b"1",
    b"-1",
    b"+1",
    b"00",
    b"007",
    b"1_0",
    b"0x10",
    b"255",
    b"256",
    b"65536",
    b"4294967296",
    b"9223372036854775808",
    b"99999999999999999999999",
    b"1e3",
    b"1.5",
    b"\xd9\xa1",
)
_ODD_BYTES = b"\x00\t\n\x0b\x0c\r \"#$%&',-./:;<=?@[\\]_{}~\x7f\x80\x85\xa0\xff"
_LINE_ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"", b"\r\n ", b"\r\n\t", b"\x85")


class Mutator:
    """Makes new inputs of ``seeds``. The same ``random`` gives the same inputs."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes], max_bytes: int, random: Random) -> None:
        self._seeds = list(seeds) or [b""]
        self._words = list(words) or [b"\0"]
        self._max_bytes = max_bytes
        self.random = random
        self._ways: list[Callable[[bytes], bytes]] = [
            self._change_byte,
            self._cut,
            self._repeat,
            self._insert_word,
            self._insert_word,
            self._replace_word,
            self._number,
            self._number,
            self._line,
            self._line,
            self._line_end,
            self._cross,
            self._case,
            self._truncate,
        ]

    def next(self) -> bytes:
        """A new input."""
        return self.change(self.random.choice(self._seeds))

    def change(self, data: bytes) -> bytes:
        """``data``, changed in one to about six ways."""
        random = self.random
        for _ in range(1 + min(5, int(random.expovariate(0.7)))):
            data = random.choice(self._ways)(data)
        return data[: self._max_bytes]

    def _place(self, data: bytes) -> int:
        return self.random.randint(0, len(data))

    def _span(self, data: bytes) -> tuple[int, int]:
        start = self._place(data)
        return start, min(len(data), start + 1 + int(self.random.expovariate(0.1)))

    def _change_byte(self, data: bytes) -> bytes:
        place = self._place(data)
        kind = self.random.random()
        if kind < 0.4:
            new = self.random.choice(_ODD_BYTES)
        elif kind < 0.7 and place < len(data):
            new = data[place] ^ (1 << self.random.randrange(8))
        else:
            new = self.random.randrange(256)
        keep = self.random.random() < 0.3
        return data[:place] + bytes((new,)) + data[place if keep else place + 1 :]

    def _cut(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + data[end:]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._place(data)] if self.random.random() < 0.3 else data

    def _repeat(self, data: bytes) -> bytes:
        start, end = self._span(data)
        times = self.random.choice((1, 1, 1, 2, 10, 100))
        return data[:end] + data[start:end] * times + data[end:]

    def _insert_word(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + self.random.choice(self._words) + data[place:]

    def _replace_word(self, data: bytes) -> bytes:
        words = self._words
        start = self.random.randrange(len(words))
        for index in range(start, start + len(words)):
            old = words[index % len(words)]
            if old and old in data:
                return data.replace(old, self.random.choice(words), 1 if self.random.random() < 0.7 else -1)
        return self._insert_word(data)

    def _number(self, data: bytes) -> bytes:
        found = [match for match in _NUMBER.finditer(data) if any(48 <= byte < 58 for byte in match[0])]
        if not found:
            return data
        match = self.random.choice(found)
        new = self.random.choice(_NUMBERS)
        if match[0].isdigit() and self.random.random() < 0.4:
            new = b"%d" % max(0, int(match[0]) + self.random.choice((-2, -1, 1, 2, 16)))
        return data[: match.start()] + new + data[match.end() :]

    def _line(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        if not lines:
            return data
        random = self.random
        here = random.randrange(len(lines))
        there = random.randrange(len(lines))
        kind = random.randrange(5)
        if kind == 0:
            del lines[here]
        elif kind == 1:
            lines.insert(there, lines[here])
        elif kind == 2:
            lines[here], lines[there] = lines[there], lines[here]
        else:
            others = random.choice(self._seeds).splitlines(keepends=True)
            if others:
                lines[here : here + kind - 3] = [random.choice(others)]
        return b"".join(lines)

    def _line_end(self, data: bytes) -> bytes:
        found = [match.start() for match in re.finditer(rb"\r?\n", data)]
        if not found:
            return data + self.random.choice(_LINE_ENDS)
        place = self.random.choice(found)
        old = 2 if data[place] == 13 else 1
        return data[:place] + self.random.choice(_LINE_ENDS) + data[place + old :]

    def _cross(self, data: bytes) -> bytes:
        other = self.random.choice(self._seeds)
        if self.random.random() < 0.3:
            return data + other
        return data[: self._place(data)] + other[self._place(other) :]

    def _case(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + data[start:end].swapcase() + data[end:]


def minimised(data: bytes, still_fails: Callable[[bytes], bool], attempts: int = 2000) -> bytes:
    """The shortest part of ``data`` found, by leaving out ever smaller pieces, that still fails."""
    step = max(1, len(data) // 2)
    while attempts > 0:
        start = 0
        shrunk = False
        while start < len(data) and attempts > 0:
            shorter = data[:start] + data[start + step :]
            attempts -= 1
            if still_fails(shorter):
                data, shrunk = shorter, True
            else:
                start += step
        if step == 1 and not shrunk:
            break
        step = max(1, step // 2)
    return data
