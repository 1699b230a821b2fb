"""What is said to the server for a request: the keys of its claims, the packed command, and the answer's meaning.

Everything that does not depend on the subjects is worked out once for each combination of rules.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from functools import lru_cache
from hashlib import blake2b, sha1
from importlib.resources import files
from typing import NamedTuple

from proxy.core.rate import Claim, Claims, Decision, Remaining, Rule, Window
from proxy.limits.store import Standing

VERSION = "1"
"""Of the accounts' form. It is in every key, as the algorithm is: accounts that mean other things never meet."""

CLUSTER_SLOTS = 16384
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Script:
    """A Lua script: its text, and the two ways to run it."""

    def __init__(self, name: str) -> None:
        text = files("proxy.limits").joinpath(f"{name}.lua").read_bytes()
        sha = sha1(text, usedforsecurity=False).hexdigest().encode("ascii")
        self.by_sha = bulk(b"EVALSHA") + bulk(sha)
        self.by_text = bulk(b"EVAL") + bulk(text)


@lru_cache(maxsize=2)
def script(name: str) -> Script:
    """A script of this package, read once."""
    return Script(name)


def bulk(data: bytes) -> bytes:
    """An argument as the protocol has it (RESP, bulk string)."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def command(*words: bytes) -> bytes:
    """A packed command."""
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))


def key_slot(tag: bytes) -> int:
    """The slot in a cluster of every key with this hash tag (Redis cluster specification, "Hash tags")."""
    return crc_hqx(tag, 0) % CLUSTER_SLOTS


def check_namespace(namespace: str) -> str:
    """Raises ValueError for what cannot be the first word of a key: it must not look like a hash tag."""
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError("the namespace of a store has 1 to 64 letters, digits, dots, underscores and dashes")
    return namespace


class Keys:
    """The names of accounts: ``namespace:algorithm and version:{tag}:hash of the rule's space and the subject``.

    The tag is the namespace: all accounts of a request share a slot of a cluster. With ``spread`` it is the subject's
    hash, which does the same where all claims of a request have the same subject, and spreads the load.
    """

    def __init__(self, namespace: str, spread: bool) -> None:
        self.namespace = check_namespace(namespace)
        self.spread = spread
        self.slot = key_slot(namespace.encode("ascii"))
        self._hashes: dict[str, blake2b] = {}

    def name(self, claim: Claim) -> bytes:
        """The key of a claim's account."""
        rule = claim.rule
        started = self._hashes.get(rule.space)
        if started is None:
            # Keyed by the space, so that no subject of one rule can be made to look like one of another's.
            space = blake2b(rule.space.encode()).digest()
            started = self._hashes[rule.space] = blake2b(key=space, digest_size=16)
        hashed = started.copy()
        hashed.update(_bytes(claim.subject))
        tag = self.tag(claim.subject) if self.spread else self.namespace
        return f"{self.namespace}:{rule.algorithm.name}{VERSION}:{{{tag}}}:{hashed.hexdigest()}".encode("ascii")

    def tag(self, subject: str) -> str:
        """The hash tag of a subject whose accounts have a slot of their own."""
        return blake2b(_bytes(subject), digest_size=8).hexdigest()

    def slot_of(self, subject: str) -> int:
        """The slot of a cluster that a subject's accounts are in."""
        return key_slot(self.tag(subject).encode("ascii")) if self.spread else self.slot


class Call(NamedTuple):
    """A script call: the command up to the keys, by the script's hash and by its text, and what follows."""

    by_sha: bytes
    by_text: bytes
    rest: bytes


class Plan:
    """The calls of one combination of rules. Raises ValueError for an algorithm that the scripts do not know."""

    def __init__(self, rules: tuple[Rule, ...], keys: Keys, outlives_s: float) -> None:
        for rule in rules:
            if rule.algorithm.name not in ("sliding", "gcra"):
                raise ValueError(f"the algorithm {rule.algorithm.name} is not known to the redis store")
        self._keys = keys
        self._windows: tuple[Window, ...] = tuple(window for rule in rules for window in rule.windows)
        asked = [word for rule in rules for word in _asked(rule)]
        undone = [word for rule in rules for word in _undone(rule)]
        self._acquire = _heads("acquire", len(rules), 3 + len(asked))
        self._give_back = _heads("give_back", len(rules), 1 + len(undone))
        self._outlives = bulk(repr(outlives_s).encode("ascii"))
        self._asked = b"".join(map(bulk, asked))
        self._undone = b"".join(map(bulk, undone))

    def acquire(self, claims: Claims, now: bytes, *, is_look: bool = False) -> Call:
        """The call of `acquire.lua` for these claims."""
        name = self._keys.name
        keys = b"".join([bulk(name(claim)) for claim in claims])
        mode = b"$4\r\nlook\r\n" if is_look else b"$6\r\ncharge\r\n"
        return Call(*self._acquire, keys + mode + bulk(now) + self._outlives + self._asked)

    def give_back(self, claims: Claims, at: float) -> Call:
        """The call of `give_back.lua`."""
        keys = b"".join([bulk(self._keys.name(claim)) for claim in claims])
        return Call(*self._give_back, keys + bulk(repr(at).encode("ascii")) + self._undone)

    def decision(self, claims: Claims, answer: bytes) -> Decision:
        """What the script decided."""
        allowed, at, refused, window, wait, *left = answer.split()
        standing = self._left(left)
        if allowed == b"1":
            return Decision(True, left=standing, at=float(at))
        claim = claims[int(refused) - 1]
        return Decision(False, float(wait), claim, claim.rule.windows[int(window) - 1], standing, float(at))

    def standing(self, answer: bytes) -> Standing:
        """What the script saw."""
        known, _, _, _, _, *left = answer.split()
        return Standing(self._left(left), known == b"1")

    def _left(self, words: list[bytes]) -> tuple[Remaining, ...]:
        pairs = iter(words)
        return tuple(
            [Remaining(window, int(next(pairs)), float(next(pairs))) for window in self._windows],
        )


def _heads(name: str, keys: int, arguments: int) -> tuple[bytes, bytes]:
    length, count = b"*%d\r\n" % (3 + keys + arguments), bulk(b"%d" % keys)
    found = script(name)
    return length + found.by_sha + count, length + found.by_text + count


def _asked(rule: Rule) -> list[bytes]:
    size = rule.capacity if rule.algorithm.name == "sliding" else rule.burst
    words = [rule.algorithm.name.encode("ascii"), b"%d" % size, b"%d" % rule.longest_s, b"%d" % len(rule.windows)]
    return words + [b"%d" % number for window in rule.windows for number in (window.limit, window.seconds)]


def _undone(rule: Rule) -> list[bytes]:
    if rule.algorithm.name == "sliding":
        return [b"sliding"]
    return [b"gcra", b"%d" % len(rule.windows), *[b"%d" % window.seconds for window in rule.windows]]


def _bytes(subject: str) -> bytes:
    return subject.encode("utf-8", "surrogatepass")
