"""A fixed piece of pure Python, to measure the Python itself with.

Builds of one version differ: optimised by profile or not, with another compiler. One that needs half as many
instructions for this needs half as many for the gateway's own code, too. Never change what is done here without
recording the baselines of all versions again.
"""

from __future__ import annotations

ROUNDS = 400
_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test:5000\r\nAccept: application/json\r\n"
    b"Authorization: Bearer sk-of-a-client\r\nContent-Type: application/json\r\nContent-Length: 350\r\n\r\n"
)


class _Line:
    __slots__ = ("name", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value

    def is_named(self, name: bytes) -> bool:
        return self.name.lower() == name

    def written(self) -> bytes:
        return b"%b: %b\r\n" % (self.name, self.value)


class _Message:
    def __init__(self) -> None:
        self.lines: list[_Line] = []
        self.counts: dict[bytes, int] = {}
        self.size = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.lines.append(_Line(name, value))
        self.counts[name] = self.counts.get(name, 0) + 1
        self.size += len(name) + len(value)


def calibrate() -> int:
    """Do it. Returns something that depends on all of it."""
    total = 0
    for number in range(ROUNDS):
        message = _Message()
        for text in _HEAD.split(b"\r\n")[1:-2]:
            name, _, value = text.partition(b": ")
            message.add(name, value)
        kept = [line for line in message.lines if not line.is_named(b"authorization")]
        written = b"".join([line.written() for line in kept])
        said = f'{{"number":{number},"size":{message.size},"name":"{kept[-1].name.decode("ascii")}"}}'
        end = written.find(b"Content-Length")
        total += len(written[:end]) + len(said) + message.counts.get(kept[-1].name, 0)
        try:
            total += int(kept[-1].value) & 0xFF
        except ValueError:
            total -= 1
    return total
