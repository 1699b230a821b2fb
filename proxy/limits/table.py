"""How the accounts of the shared store lie in its one lmdb table: keys, values, and walks over them.

A key is two bytes for the rule's space (`Space.number`), one for its kind, then the subject. Short subjects stand
there as they are, longer ones as their BLAKE2b hash (RFC 7693), so that no key comes near lmdb's 511 bytes; the kind
keeps one from being taken for the other. A value is the account's floats and, last, the time when it expires.
Space number 0 is the register of spaces.

One table without named ones: a commit copies the pages on the way to a record, and a named table is a record itself
(measured: 0.5 to 1 µs more per decision).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, TypeAlias, TypeVar

import lmdb

from proxy.core.rate import Rule

COUNT: Final = 0x23
"""The kind of the record that counts a space's subjects (``#``)."""
SHARED: Final = 0x2A
"""The kind of the account which subjects share that found no room (``*``)."""
PLAIN, HASHED = b"=", b"~"
"""The kinds of a subject's own account."""

FIRST = b"\x00\x01"
"""No account's key is below this."""
REGISTER = b"\x00\x00="
FILLED = b"\x00\x00!"
"""The record that says that a saved state was taken over, or that there was none."""

MAX_PLAIN_BYTES = 40
"""Longer subjects are hashed. The longest IPv6 address has 39 characters."""
HASH_BYTES = 20

_NUMBER = struct.Struct(">H")
_COUNT = struct.Struct("<Q")
_TIME = struct.Struct("=d")

Txn: TypeAlias = "lmdb.Transaction[bytes]"


class Space:
    """The accounts of one space: how their keys are made."""

    __slots__ = (
        "_shared",
        "count_key",
        "hashed",
        "longest_s",
        "max_subjects",
        "name",
        "number",
        "plain",
        "position",
    )

    def __init__(self, number: int, name: str) -> None:
        prefix = _NUMBER.pack(number)
        self.number = number
        self.name = name
        self.count_key = prefix + bytes((COUNT,))
        self._shared = prefix + bytes((SHARED,))
        self.plain = prefix + PLAIN
        self.hashed = prefix + HASHED
        # Where to look for the next expired account when there is no room.
        self.position = self.plain
        # Overrides may have longer windows than the rule they belong to.
        self.longest_s = 0
        self.max_subjects = 0

    def adapt(self, rule: Rule) -> None:
        """A rule counts here."""
        self.longest_s = max(self.longest_s, rule.longest_s)
        self.max_subjects = rule.max_subjects

    def key(self, subject: str) -> bytes:
        """The key of a subject's own account. At most 43 bytes."""
        text = subject.encode("utf-8", "surrogatepass")
        if len(text) <= MAX_PLAIN_BYTES:
            return self.plain + text
        return self.hashed + blake2b(text, digest_size=HASH_BYTES).digest()

    def shared_key(self, rule: Rule) -> bytes:
        """The key of the account that subjects of the same numbers share without room. At most 23 bytes."""
        return self._shared + blake2b(rule.crowd.encode("ascii"), digest_size=HASH_BYTES).digest()

    def count(self, txn: Txn) -> int:
        """How many subjects have an account of their own."""
        value = txn.get(self.count_key)
        return _COUNT.unpack(value)[0] if value else 0

    def add(self, txn: Txn, subjects: int) -> None:
        """Count so many subjects more, or fewer."""
        txn.put(self.count_key, _COUNT.pack(self.count(txn) + subjects))


def spaces(txn: Txn) -> list[Space]:
    """All spaces of the table."""
    found = []
    with txn.cursor() as cursor:
        if cursor.set_range(REGISTER):
            for key, value in cursor:
                if not key.startswith(REGISTER):
                    break
                found.append(Space(_NUMBER.unpack(value[:2])[0], value[2:].decode("utf-8", "surrogatepass")))
    return found


def register(txn: Txn, name: str) -> Space:
    """The space of this name, new if there is none."""
    text = name.encode("utf-8", "surrogatepass")
    key = REGISTER + blake2b(text, digest_size=HASH_BYTES).digest()
    value = txn.get(key)
    if value is not None:
        return Space(_NUMBER.unpack(value[:2])[0], name)
    number = 1 + max((space.number for space in spaces(txn)), default=0)
    enter(txn, number, name)
    return Space(number, name)


def enter(txn: Txn, number: int, name: str) -> None:
    """Put a space into the register under this number."""
    text = name.encode("utf-8", "surrogatepass")
    txn.put(REGISTER + blake2b(text, digest_size=HASH_BYTES).digest(), _NUMBER.pack(number) + text)


def number_of(key: bytes) -> int:
    """The number of the space a key belongs to."""
    number: int = _NUMBER.unpack_from(key)[0]
    return number


def expires_at(value: bytes | memoryview) -> float:
    """When an account is as good as none."""
    expiry: float = _TIME.unpack_from(value, len(value) - 8)[0]
    return expiry


View = TypeVar("View", bytes, memoryview)


def walk(txn: lmdb.Transaction[View], start: bytes) -> Iterator[tuple[View, View]]:
    """(key, value) of all accounts from a key on; memory views end with the transaction."""
    with txn.cursor() as cursor:
        if cursor.set_range(start):
            for key, value in cursor:
                if key[2] != COUNT:
                    yield key, value


def used_bytes(txn: Txn) -> int:
    """The pages that hold accounts."""
    stat = txn.stat()
    return (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]
