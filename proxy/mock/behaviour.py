"""Behaviours of the mock: slow, failing, broken or silent answers, chosen by server, model name or request.

One notation everywhere, ``name=value`` separated by semicolons: ``status=429; retry-after=2``. It is read
strictly: an unknown name, a value out of range or a repeated name is a `BehaviourError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

HEADER = "x-mock"


class BehaviourError(ValueError):
    """A behaviour that cannot be read; the message says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How an answer is given. Times in milliseconds, except ``retry_after_s``; None = not set.

    A *part* is one event of an event stream, or one piece of an audio answer.
    """

    delay_ms: int = 0
    chunk_delay_ms: int = 0
    status: int = 200
    code: str | None = None
    retry_after_s: float | None = None
    cut_after: int | None = None
    cut_by: str = "close"
    chunks: int | None = None
    silence: bool = False

    def __post_init__(self) -> None:
        if self.fails:
            return
        for name, value in (("code", self.code), ("retry-after", self.retry_after_s)):
            if value is not None:
                raise BehaviourError(f"{name} goes with an error status only: add status=429, say")

    @property
    def fails(self) -> bool:
        """Whether the answer is an error instead of what was asked for."""
        return self.status >= 400

    def but(self, settings: str, where: str) -> Behaviour:
        """This behaviour with the settings of a text laid over it; what the text does not name stays.

        A new status forgets the ``code`` and ``retry-after`` that went with the old one. Raises
        `BehaviourError`, which names ``where`` the text came from.
        """
        values = parse(settings, where)
        if "status" in values:
            values = {"code": None, "retry_after_s": None} | values
        try:
            return replace(self, **values)
        except BehaviourError as error:
            raise BehaviourError(f"{where}: {error}") from None


class Setting(NamedTuple):
    """One setting: its name in texts (and as an option), its field in `Behaviour`, and how it is read."""

    name: str
    field: str
    metavar: str
    help: str
    read: Callable[[str], Any]


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def _or_none(read: Callable[[str], object]) -> Callable[[str], object]:
    def read_or_none(text: str) -> object:
        if text == "none":
            return None
        try:
            return read(text)
        except ValueError as error:
            raise ValueError(f"{error}, or none") from None

    return read_or_none


def _status(text: str) -> int:
    if text == "200" or re.fullmatch(r"[45][0-9]{2}", text):
        return int(text)
    raise ValueError("200 or an error status from 400 to 599")


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text):
        raise ValueError("seconds such as 2 or 0.5")
    return float(text)


def _code(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", text):
        raise ValueError("an error code such as insufficient_quota")
    return text


def _end(text: str) -> str:
    if text not in ("close", "reset"):
        raise ValueError("close or reset")
    return text


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("on or off")
    return text == "on"


TEN_MINUTES_MS = 600_000

SETTINGS: tuple[Setting, ...] = (
    Setting("delay-ms", "delay_ms", "N", "wait N ms before the answer's head", _whole(0, TEN_MINUTES_MS)),
    Setting(
        "chunk-delay-ms",
        "chunk_delay_ms",
        "N",
        "wait N ms between two parts of a streamed answer",
        _whole(0, TEN_MINUTES_MS),
    ),
    Setting("status", "status", "N", "answer with error N in OpenAI's shape (200 = answer normally)", _status),
    Setting("code", "code", "CODE", "the error's code, such as insufficient_quota", _or_none(_code)),
    Setting("retry-after", "retry_after_s", "S", "seconds in the retry-after headers", _or_none(_seconds)),
    Setting(
        "cut-after",
        "cut_after",
        "N",
        "break the connection after N parts of a streamed answer, or in the middle of any other",
        _or_none(_whole(0, 1_000_000)),
    ),
    Setting("cut-by", "cut_by", "HOW", "break it by 'close' (unfinished chunking) or TCP 'reset'", _end),
    Setting("chunks", "chunks", "N", "answer with N words, so N deltas", _or_none(_whole(1, 1_000_000))),
    Setting("silence", "silence", "on|off", "read the request and never answer", _switch),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}

MODELS: Mapping[str, str] = {
    "mock-400": "status=400",
    "mock-401": "status=401",
    "mock-403": "status=403",
    "mock-429": "status=429; retry-after=1",
    "mock-quota": "status=429; code=insufficient_quota",
    "mock-500": "status=500",
    "mock-503": "status=503",
    "mock-slow": "delay-ms=1000; chunk-delay-ms=200",
    "mock-cut": "cut-after=3",
    "mock-silence": "silence",
}
"""Model names that choose a behaviour, so that any client can ask for it."""


def parse(settings: str, where: str) -> dict[str, Any]:
    """The fields of `Behaviour` a text sets. ``silence`` alone means ``silence=on``.

    Raises `BehaviourError` with ``where``, the number of the setting and what is wrong with it.
    """
    values: dict[str, Any] = {}
    for number, text in enumerate(settings.split(";"), 1):
        if not text.strip():
            continue
        name, equals, value = (piece.strip() for piece in text.partition("="))
        place = f"{where}, setting {number} ({text.strip()!r})"
        setting = _BY_NAME.get(name)
        if setting is None:
            raise BehaviourError(f"{place}: there is no setting {name!r}; {_hint(name)}")
        if setting.field in values:
            raise BehaviourError(f"{place}: {name} is given twice")
        if not equals and name == "silence":
            value = "on"
        try:
            values[setting.field] = setting.read(value)
        except ValueError as error:
            raise BehaviourError(f"{place}: {name} must be {error}") from None
    return values


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    return f"did you mean {close[0]!r}?" if close else "known are " + ", ".join(_BY_NAME)


def resolve(server: Behaviour, model: str | None, headers: Iterable[str]) -> Behaviour:
    """The behaviour of one request: the ``x-mock`` header over the model's name over the server's own.

    ``headers`` are the values of all ``x-mock`` lines. Raises `BehaviourError`.
    """
    chosen = server
    if model is not None and model in MODELS:
        chosen = chosen.but(MODELS[model], f"model {model}")
    text = "; ".join(headers)
    return chosen.but(text, f"header {HEADER}") if text else chosen
