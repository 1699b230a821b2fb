"""The caller's language: any ``Accept-Language`` and any ``LANG`` give one of ours, or the default.

Besides that: case does not matter, nor empty elements and blanks around the commas; and a header with a malformed
element is ignored as a whole (the oracle for "malformed" is a reading of RFC 9110 section 12.4.2 without regular
expressions).
"""

from __future__ import annotations

from fuzz.target import Target, require
from proxy.core.catalogue import LANGUAGES, MAX_HEADER_BYTES, negotiate, parse_language

_ALPHA = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset("0123456789")


def _is_range(text: str) -> bool:
    first, *others = text.replace("_", "-").split("-")
    if text == "*":
        return True
    if not 1 <= len(first) <= 8 or not set(first) <= _ALPHA:
        return False
    return all(1 <= len(other) <= 8 and set(other) <= _ALPHA | _DIGITS for other in others)


def _is_weight(text: str) -> bool:
    name, equals, number = text.partition("=")
    whole, dot, fraction = number.partition(".")
    if name not in ("q", "Q") or not equals or whole not in ("0", "1") or len(fraction) > 3:
        return False
    return set(fraction) <= (_DIGITS if whole == "0" else {"0"}) and (bool(dot) or not fraction)


def is_well_formed(header: str) -> bool:
    """Whether every element of a list is empty, or a language range with at most one weight."""
    for element in header.split(","):
        wanted, semicolon, weight = element.strip(" \t").partition(";")
        if not wanted and not semicolon:
            continue
        if not _is_range(wanted.rstrip(" \t")):
            return False
        if semicolon and not _is_weight(weight.lstrip(" \t")):
            return False
    return True


def try_language(data: bytes) -> None:
    """Negotiate in several spellings; see the module's docstring."""
    text = data.decode("latin-1")
    default = LANGUAGES[len(text) % len(LANGUAGES)]
    chosen = negotiate(text, default)
    require(chosen in LANGUAGES, "a language we lack", chosen)
    require(parse_language(text) in (None, *LANGUAGES), "a language we lack, of LANG", parse_language(text))
    require(negotiate(text, "xx") in LANGUAGES, "a default we lack")
    if len(text) > MAX_HEADER_BYTES or not is_well_formed(text):
        require(chosen == default, "a malformed header is obeyed", (text, chosen))
        return
    if len(text) < MAX_HEADER_BYTES // 4:
        require(negotiate(text.swapcase(), default) == chosen, "case matters")
        require(negotiate(", ," + text.replace(",", " ,\t,") + ",", default) == chosen, "blanks matter")
        if "*" not in text:
            fallback = next(language for language in LANGUAGES if language != default)
            require(negotiate(text, fallback) in (chosen, fallback), "the default decides more than the default")


WORDS = (
    b"en", b"en-US", b"zh", b"zh-CN", b"zh-TW", b"zh-Hans", b"zh-Hant-HK", b"zh_MO", b"ru", b"ru-RU.UTF-8", b"de",
    b"*", b";q=0", b";q=1", b";q=0.5", b";q=1.000", b";q=0.0001", b"; Q=0.9", b";q=", b";q=2", b";level=1", b",",
    b", ", b"C", b"POSIX", b"@euro", b"-", b"_", b" ", b"\t", b"i-klingon", b"x" * 9, b"en-" * 20, b"\xc4\xb0",
    b"\xbf",
)  # fmt: skip

TARGET = Target("language", "Accept-Language and LANG", try_language, WORDS, 1200)
