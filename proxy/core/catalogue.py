"""The caller's language: choosing it, and putting the gateway's sentences into it.

The texts are gettext catalogues, ``<language>/LC_MESSAGES/sluice.mo``, keyed by the English of
`proxy.core.messages`. Nothing here raises once a catalogue is loaded: a reply must not fail for want of a word.

Sources: RFC 9110 section 12.5.4 (Accept-Language), RFC 4647 section 3.4 (lookup), POSIX.1-2017 XBD 8.2 (LANG).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from gettext import GNUTranslations
from pathlib import Path

from proxy.core.messages import Sentence

LANGUAGES = ("en_US", "zh_CN", "zh_TW", "ru_RU")
DEFAULT = "en_US"
MAX_HEADER_BYTES = 1024
"""A longer Accept-Language is ignored: people know fewer languages than that."""

_DOMAIN = "sluice"
_PACKAGE = Path(__file__).resolve().parents[1]

# What each language range means to us. A range of Chinese without script or region takes the first of its two.
_RANGES: dict[str, tuple[str, ...]] = {
    "en": ("en_US",),
    "en-us": ("en_US",),
    "ru": ("ru_RU",),
    "ru-ru": ("ru_RU",),
    "zh": ("zh_CN", "zh_TW"),
    "zh-hans": ("zh_CN",),
    "zh-hans-cn": ("zh_CN",),
    "zh-cn": ("zh_CN",),
    "zh-hant": ("zh_TW",),
    "zh-hant-tw": ("zh_TW",),
    "zh-tw": ("zh_TW",),
}
# Regions we serve in the script they write. Refusing one (q=0) refuses nothing of ours, so they stand apart.
_NEIGHBOURS: dict[str, tuple[str, ...]] = {"zh-sg": ("zh_CN",), "zh-hk": ("zh_TW",), "zh-mo": ("zh_TW",)}

# One element of Accept-Language: a basic language range and its weight. Underscores are no part of the RFC,
# but clients that pass their locale on unchanged send them.
_ELEMENT = re.compile(
    r"[ \t]*(\*|[a-z]{1,8}(?:[-_][a-z0-9]{1,8})*)"
    r"(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?[ \t]*",
    re.ASCII | re.IGNORECASE,
)
_POSIX = re.compile(r"([a-z]{1,8}(?:[-_][a-z0-9]{1,8})*)(?:\.[^@]*)?(?:@.*)?", re.ASCII | re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class CatalogueError(Exception):
    """A catalogue is missing, broken, or of another language; the message names the file."""


def find_locales(package: Path = _PACKAGE) -> Path:
    """The folder of the catalogues: inside the installed package, or beside it in a checkout.

    Raises `CatalogueError` if it is in neither place.
    """
    candidates = (package / "locales", package.parent / "locales")
    for candidate in candidates:
        if _file(candidate, DEFAULT).is_file():
            return candidate
    raise CatalogueError(f"no catalogues in {candidates[0]} or {candidates[1]}")


class Catalogue:
    """Every language's texts, in memory."""

    __slots__ = ("_translations",)

    def __init__(self, translations: Mapping[str, GNUTranslations]) -> None:
        self._translations = dict(translations)

    @classmethod
    def load(cls, directory: Path) -> Catalogue:
        """Read the catalogue of each of `LANGUAGES`. Raises `CatalogueError` for the first that is unusable."""
        return cls({language: _read(_file(directory, language), language) for language in LANGUAGES})

    def text(self, sentences: Iterable[Sentence], language: str) -> str:
        """The sentences in that language, joined as it joins sentences; in `DEFAULT` if we lack it.

        ``{name}`` becomes the text of ``params["name"]`` and stays as it is without one. A value is only ever
        shown: braces inside it mean nothing, and what cannot be shown as UTF-8 becomes ``?``.
        """
        translations = self._translations.get(language) or self._translations[DEFAULT]
        glue = "" if language.startswith("zh") else " "
        return glue.join([_translate(translations, sentence) for sentence in sentences])


def negotiate(accept_language: str | None, default: str) -> str:
    """Which of `LANGUAGES` this caller is answered in; ``default`` if the header says nothing we can use.

    ``accept_language`` is the value of the field (of several lines, joined with a comma). Ranges are looked up
    as in RFC 4647 section 3.4: best weight first, ties in the order given, each cut short until it is a range
    we have. ``q=0`` rules a language out unless a longer range asks for it. A malformed or overlong header is
    ignored as a whole.
    """
    if default not in LANGUAGES:
        default = DEFAULT
    if not accept_language or len(accept_language) > MAX_HEADER_BYTES:
        return default
    return _negotiate(accept_language, default)


def parse_language(value: str) -> str | None:
    """Our language for a POSIX locale name such as ``zh_CN.UTF-8``, ``ru_RU@x`` or ``zh``.

    None for a language we lack, and for ``C``, ``POSIX`` and the empty string, which name no language.
    """
    match = _POSIX.fullmatch(value.strip())
    if match is None:
        return None
    return next(iter(_lookup(_normal(match[1]))), None)


@lru_cache(maxsize=512)
def _negotiate(accept_language: str, default: str) -> str:
    ranges = _parse(accept_language)
    refused: dict[str, int] = {}
    for wanted, weight in ranges:
        if weight == 0:
            for language in _RANGES.get(wanted, ()):
                refused[language] = max(_length(wanted), refused.get(language, 0))
    # sorted() is stable, so ranges of equal weight keep the client's order.
    for wanted, weight in sorted(ranges, key=lambda item: -item[1]):
        if weight == 0:
            break
        for language in (default, *LANGUAGES) if wanted == "*" else _lookup(wanted):
            if _length(wanted) > refused.get(language, 0):
                return language
    return default


def _parse(accept_language: str) -> list[tuple[str, float]]:
    """(range in our spelling, weight) in the order given; empty if any element is malformed."""
    found: list[tuple[str, float]] = []
    for element in accept_language.split(","):
        match = _ELEMENT.fullmatch(element)
        if match is not None:
            found.append((_normal(match[1]), float(match[2] or 1)))
        elif element.strip(" \t"):  # an empty element is legal in a list (RFC 9110 section 5.6.1)
            return []
    return found


def _lookup(wanted: str) -> tuple[str, ...]:
    """Our languages for a range, the best first: its own, or those of the longest start of it that we know."""
    for known in _starts(wanted):
        languages = _RANGES.get(known) or _NEIGHBOURS.get(known)
        if languages:
            return languages
    return ()


def _starts(wanted: str) -> Iterator[str]:
    while wanted:
        yield wanted
        wanted = wanted.rpartition("-")[0]


def _normal(tag: str) -> str:
    return tag.lower().replace("_", "-")


def _length(wanted: str) -> int:
    """How many subtags a range has: the longer, the more specific."""
    return wanted.count("-") + 1


def _file(directory: Path, language: str) -> Path:
    return directory / language / "LC_MESSAGES" / f"{_DOMAIN}.mo"


def _read(path: Path, language: str) -> GNUTranslations:
    try:
        with path.open("rb") as file:
            translations = GNUTranslations(file)
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        # The reader trusts its input: a damaged file surfaces as whatever it happens to trip over.
        raise CatalogueError(f"{path}: is not a gettext catalogue: {error!r}") from error
    found = translations.info().get("language")
    if found != language:
        raise CatalogueError(f"{path}: holds {found or 'no language'}, not {language}")
    return translations


def _translate(translations: GNUTranslations, sentence: Sentence) -> str:
    (singular, plural), params = sentence
    if plural:
        count = params.get("count")
        # A fraction, or whatever else is no whole number, takes the form of two in all of our languages.
        number = abs(count) if isinstance(count, int) else 2
        template = translations.ngettext(singular, plural, number)
    else:
        template = translations.gettext(singular)
    if "{" not in template:
        return template
    # One pass, and no str.format: that would follow attributes and indexes, and trip over a missing name.
    return _PLACEHOLDER.sub(lambda found: _shown(params, found), template)


def _shown(params: Mapping[str, object], placeholder: re.Match[str]) -> str:
    name = placeholder[1]
    if name not in params:
        return placeholder[0]
    value = params[name]
    try:
        text = str(value)
    except Exception:
        return f"<{type(value).__name__}>"
    # JSON may carry half of a surrogate pair into a value; the reply could then not be encoded.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
