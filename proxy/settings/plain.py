"""Plain scalars: which unquoted YAML text is what.

Only ``true``, ``false``, ``null`` (or nothing) and plain decimal numbers are more than text. What some YAML
reader takes for a boolean, number or date, and we do not, is an error instead of a surprise (YAML 1.1 and 1.2
disagree on it: https://yaml.org/spec/1.2.2/ext/changes/).
"""

from __future__ import annotations

import re
from typing import Final

import yaml

from proxy.settings.problems import show
from proxy.settings.values import number

_WORDS: Final = {"true": True, "false": False, "null": None, "": None}
_TRUE = frozenset({"true", "yes", "on", "y"})
_FALSE = frozenset({"false", "no", "off", "n"})
_NULL = frozenset({"~", "null"})
_OCTAL = re.compile(r"[-+]?0o[0-7]{1,40}\Z")
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z")
_ZEROS = re.compile(r"[-+]?0[0-9_]+\Z")
_GROUPED = re.compile(r"[-+]?[0-9][0-9_]*\Z")
_TAG = "tag:yaml.org,2002:"
_YAML_1_1 = yaml.resolver.Resolver()


class Surprise(ValueError):
    """Unquoted text that is not the same everywhere. ``args``: what it looks like, how to write it instead."""

    def __init__(self, looks_like: str, instead: str) -> None:
        super().__init__(looks_like, instead)
        self.looks_like = looks_like
        self.instead = instead

    def sentence(self, text: str, is_secret: bool) -> str:
        """The complaint about ``text``, which is not shown if it may be a secret."""
        shown = "***" if is_secret else show(text)
        instead = f"write {self.instead}, or quote it" if self.instead and not is_secret else "quote it"
        return f'{shown} without quotes is {self.looks_like} to some YAML readers; {instead}: "{shown}"'


def plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar. Raises `Surprise` for text other readers take for something else."""
    if text in _WORDS:
        return _WORDS[text]
    found = number(text)
    if found is not None:
        return found
    folded = text.lower()
    if folded in _TRUE or folded in _FALSE:
        raise Surprise("a boolean", "true" if folded in _TRUE else "false")
    if folded in _NULL:
        raise Surprise("null", "null")
    tag = _resolve(text)
    if tag in ("int", "float"):
        raise Surprise("a number", _decimal(text, tag))
    if tag == "timestamp":
        raise Surprise("a date", "")
    return text


def _resolve(text: str) -> str:
    """What YAML 1.1, and the octal numbers of 1.2, make of it: ``str``, ``int``, ``float``, ``timestamp``..."""
    if _OCTAL.match(text):
        return "int"
    if _NUMBER.match(text):
        return "float"
    tag = _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return str(tag).removeprefix(_TAG)


def _decimal(text: str, tag: str) -> str:
    """How to write the number as a plain decimal; empty if it is none, like ``.inf``."""
    if _ZEROS.match(text):
        # Octal to some, decimal to others: nobody can tell what was meant.
        return "it without zeros in front"
    try:
        if _OCTAL.match(text):
            shown = str(int(text.replace("0o", ""), 8))
        elif _GROUPED.match(text):
            shown = str(int(text.replace("_", "")))
        else:
            node = yaml.ScalarNode(f"{_TAG}{tag}", text)
            shown = str(yaml.constructor.SafeConstructor().construct_object(node))
    except (ValueError, OverflowError, yaml.YAMLError):
        return ""
    return f"the decimal number {shown}" if number(shown) is not None else ""
