"""The settings of limits: how many requests in which windows, for whom, by which algorithm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from proxy.core.address import UNIX, parse_network
from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, OnStoreError, Rule, Window
from proxy.core.sliding import MAX_LIMIT, SLIDING
from proxy.stages.subject_names import CHAT_PATH, KEY_DIGITS, KEY_PREFIX, path_of

__all__ = ["ADDRESS", "KEY_PREFIX", "WINDOWS", "By", "LimitRule", "Override", "name_faults", "refuse"]

By = Literal["client_ip", "credential", "path"]
"""What a limit can tell requests apart by."""

WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
ADDRESS = "address"
"""What the limit of unverified keys' addresses is called, behind the name of the limit itself."""
ALGORITHMS: dict[str, Algorithm] = {"sliding": SLIDING, "gcra": GCRA}

# Both multiplied have to fit the integers of RFC 9651, which have 15 digits.
_MOST = 1_000_000_000
_MOST_KEYS = 100_000

_KEY_ID = re.compile(r"sha256:[0-9a-f]{32,64}\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_TAKEN = (ADDRESS, *WINDOWS)

Fault = tuple[tuple[str, ...], str]
"""(where in the settings, what is wrong)"""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Override(_Section):
    """Other numbers for somebody; what is left out stays as it is for everybody."""

    second: int | None = Field(default=None, ge=0, le=_MOST, description="Requests in any second; 0 = no limit.")
    minute: int | None = Field(default=None, ge=0, le=_MOST, description="Requests in any minute; 0 = no limit.")
    hour: int | None = Field(default=None, ge=0, le=_MOST, description="Requests in any hour; 0 = no limit.")
    day: int | None = Field(default=None, ge=0, le=_MOST, description="Requests in any day; 0 = no limit.")


class LimitRule(_Section):
    """One limit: at most so many requests of each subject in any second, minute, hour and day; 0 = no limit."""

    by: list[By] | By = Field(
        default="client_ip",
        description="Whom the limit counts: client_ip, credential, path, or a list of them for each combination.",
    )
    second: int = Field(default=0, ge=0, le=_MOST, description="Requests in any second; 0 = no limit.")
    minute: int = Field(default=0, ge=0, le=_MOST, description="Requests in any minute; 0 = no limit.")
    hour: int = Field(default=0, ge=0, le=_MOST, description="Requests in any hour; 0 = no limit.")
    day: int = Field(default=0, ge=0, le=_MOST, description="Requests in any day; 0 = no limit.")
    algorithm: Literal["sliding", "gcra"] = Field(
        default="sliding",
        description="sliding = never more in any window, numbers up to 10,000; gcra = evenly spaced, any number.",
    )
    burst: int = Field(
        default=1,
        ge=1,
        le=_MOST,
        description="gcra: how many may come at once; in a window that is burst - 1 more at most.",
    )
    exempt: list[str] = Field(
        default=[],
        description="Who is not limited: addresses, networks, 'unix', and keys as sha256: and 32 or more hex digits.",
    )
    overrides: dict[str, Override] = Field(
        default={},
        description="Other numbers for some: by address, network, 'unix', key (sha256:...) or path (/v1/...).",
    )
    on_store_error: OnStoreError = Field(
        default="deny",
        description="While the store cannot be asked: deny = 503, allow = no limit, local = this host's share of it.",
    )
    keys_per_ip: int = Field(
        default=1,
        ge=1,
        le=_MOST_KEYS,
        description="by credential: how many client keys may use one address in full; nobody has verified them.",
    )
    ipv6_prefix: int = Field(
        default=64, ge=16, le=128, description="IPv6 clients count by network of this many bits."
    )
    max_subjects: int = Field(
        default=200_000,
        ge=1,
        description="How many subjects are counted apart; further ones share one bucket until old ones expire.",
    )

    @field_validator("by", mode="before")
    @classmethod
    def _each_once(cls, by: object) -> object:
        given = by if isinstance(by, list) else [by]
        known = [part for part in get_args(By) if part in given]
        if not given or len(known) < len(given):
            raise ValueError("write client_ip, credential or path, or a list of them, each once")
        return by

    @field_validator("exempt")
    @classmethod
    def _exempted(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            if entry.startswith("/"):
                raise ValueError("a path cannot be exempt; give it numbers of its own in overrides, 0 = no limit")
            _check_subject(entry)
        return entries

    @model_validator(mode="after")
    def _sound(self) -> LimitRule:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        """What does not fit together."""
        if self.algorithm == "sliding" and self.burst != 1:
            yield ("burst",), "belongs to algorithm: gcra; sliding admits all of a limit at once"
        if "credential" not in self.parts and self.keys_per_ip != 1:
            yield ("keys_per_ip",), "belongs to limits by credential"
        for name, limit in self._numbers.items():
            yield from self._too_many((name,), limit)
        seen: dict[object, str] = {}
        for subject, override in self.overrides.items():
            where = ("overrides", subject)
            try:
                same = self._canonical(subject)
            except ValueError as error:
                yield where, str(error)
                continue
            if same in seen:
                yield where, f"is the same as {seen[same]}"
            seen[same] = subject
            for name, limit in _given(override).items():
                yield from self._too_many((*where, name), limit, is_known=subject.startswith(KEY_PREFIX))

    def _too_many(self, where: tuple[str, ...], limit: int, *, is_known: bool = False) -> Iterator[Fault]:
        # An address may have several times the limit, and its account must hold them all. Known keys have none.
        most = limit if is_known else limit * self.keys_per_ip
        if self.algorithm == "sliding" and most > MAX_LIMIT:
            yield (
                where,
                f"{most} is more than the {MAX_LIMIT} requests one window can count exactly; "
                "use a shorter window with a smaller number, or algorithm: gcra",
            )

    def _canonical(self, subject: str) -> object:
        """The same for everything that stands for the same. Raises ValueError for what can be no override here."""
        if subject.startswith("/"):
            if "path" not in self.parts:
                raise ValueError("is a path, and this limit does not count by path")
            path = path_of(subject.encode("utf-8"))
            if not path.startswith("/v1/"):
                raise ValueError(f"no request counts so: paths begin with /v1/, and the chat route is {CHAT_PATH}")
            return path
        _check_subject(subject)
        if subject.startswith(KEY_PREFIX):
            if "credential" not in self.parts:
                raise ValueError("a key has numbers of its own only where the limit counts by credential")
            return subject[: len(KEY_PREFIX) + KEY_DIGITS]
        if self.algorithm == "gcra" and "client_ip" not in self.parts:
            # One number a window cannot leak at two rates.
            raise ValueError("gcra cannot count one subject by two numbers; add client_ip to by, or use sliding")
        if subject == UNIX:
            return UNIX
        network = parse_network(subject)
        if network.version == 6 and network.prefixlen > self.ipv6_prefix:
            raise ValueError(
                f"is narrower than the networks of {self.ipv6_prefix} bits (ipv6_prefix) that IPv6 clients count by"
            )
        return network

    @property
    def parts(self) -> tuple[By, ...]:
        """What subjects are told apart by, in a fixed order."""
        by = (self.by,) if isinstance(self.by, str) else tuple(self.by)
        return tuple(sorted(by))

    @property
    def has_numbers(self) -> bool:
        """Whether anybody is limited."""
        given = [self._numbers, *map(_given, self.overrides.values())]
        return any(limit for numbers in given for limit in numbers.values())

    @property
    def _numbers(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in WINDOWS}

    def rule(self, name: str, override: Override | None = None, times: int = 1) -> Rule:
        """The rule of this name, with other numbers, or with all of them so many times as large."""
        numbers = self._numbers if override is None else {**self._numbers, **_given(override)}
        windows = [Window(n, numbers[n] * times, seconds) for n, seconds in WINDOWS.items() if numbers[n]]
        return Rule(
            name,
            tuple(windows),
            ALGORITHMS[self.algorithm],
            burst=self.burst * times,
            max_subjects=self.max_subjects,
            on_store_error=self.on_store_error,
        )


def name_faults(names: Iterable[str]) -> Iterator[Fault]:
    """What is wrong with limits' own names, which stand in header fields and metrics."""
    for name in names:
        if not _NAME.match(name):
            yield (name,), "name a limit with small letters, digits and _, like per_key"
        elif name in _TAKEN:
            yield (name,), f"{', '.join(_TAKEN)} mean something else; choose another name, like per_key"


def refuse(faults: Iterable[Fault]) -> None:
    """Raise ValidationError if there are faults: each at its own place, which a ValueError could not say."""
    found = list(faults)
    if found:
        raise ValidationError.from_exception_data(
            "limit",
            [
                {"type": "value_error", "loc": where, "input": None, "ctx": {"error": ValueError(what)}}
                for where, what in found
            ],
        )


def _given(override: Override) -> dict[str, int]:
    return override.model_dump(exclude_none=True)


def _check_subject(entry: str) -> None:
    if entry == UNIX:
        return
    if entry.startswith(KEY_PREFIX):
        if not _KEY_ID.match(entry):
            raise ValueError("a key is written as sha256: and 32 to 64 small hexadecimal digits")
        return
    if entry.startswith("sk-"):
        # Not quoted: it is a secret.
        raise ValueError("write a key as sha256: and its hash (printf %s KEY | sha256sum), never the key itself")
    parse_network(entry)
