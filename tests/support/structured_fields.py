"""A parser for lists of structured field values (RFC 9651 section 4.2), strict enough to find out a bad line.

Inner lists, byte sequences, dates and display strings are not needed here, and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Bare = str | int | float | bool
Item = tuple[Bare, dict[str, Bare]]

_NUMBER = re.compile(r"-?(?:([0-9]{1,12}\.[0-9]{1,3})|([0-9]{1,15}))(?![0-9.])")
_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_KEY = re.compile(r"[a-z*][a-z0-9_\-.*]*")


def parse_list(lines: Iterable[str]) -> list[Item]:
    """The items of a list that stands in these field lines, in order. Raises ValueError if it is none."""
    text = ", ".join(lines).strip(" ")
    if not text.isascii():
        raise ValueError("not ASCII")
    items: list[Item] = []
    while text:
        item, text = _item(text)
        items.append(item)
        text = text.lstrip(" \t")
        if not text:
            return items
        if text[0] != ",":
            raise ValueError(f"no comma at {text!r}")
        text = text[1:].lstrip(" \t")
        if not text:
            raise ValueError("a comma at the end")
    return items


def _item(text: str) -> tuple[Item, str]:
    value, text = _bare(text)
    parameters: dict[str, Bare] = {}
    while text.startswith(";"):
        text = text[1:].lstrip(" ")
        key, text = _taken(_KEY, text)
        parameters[key] = True
        if text.startswith("="):
            parameters[key], text = _bare(text[1:])
    return (value, parameters), text


def _bare(text: str) -> tuple[Bare, str]:
    if found := _NUMBER.match(text):
        number = found[0]
        return (float(number) if found[1] else int(number)), text[found.end() :]
    if found := _STRING.match(text):
        return re.sub(r"\\(.)", r"\1", found[1]), text[found.end() :]
    if found := re.match(r"\?([01])", text):
        return found[1] == "1", text[2:]
    return _taken(_TOKEN, text)


def _taken(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    found = pattern.match(text)
    if found is None:
        raise ValueError(f"nothing to read at {text!r}")
    return found[0], text[found.end() :]
