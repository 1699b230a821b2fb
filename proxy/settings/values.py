"""Text into values: what an environment variable or an option says, read as the type of its setting.

The type decides, not the look of the text: ``5`` is a number for a limit and a name for a model.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import get_args

from proxy.settings.shape import Leaf, choices

INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,30})\Z")
DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,3})?\Z")


class Untyped(str):
    """Text whose type is that of the setting it stands for."""

    __slots__ = ()


def number(text: str) -> int | float | None:
    """The number a plain decimal stands for, else None. ``0123``, ``+1``, ``.5``, ``1_000`` are none."""
    if INTEGER.match(text):
        return int(text)
    if DECIMAL.match(text) and isfinite(value := float(text)):
        return value
    return None


def typed(text: str, leaf: Leaf, *, lines: bool = False) -> object:
    """The text as its setting's type; as it is if it cannot be read so, for the model to refuse.

    Lists are comma separated or JSON, mappings are JSON. ``lines``: line breaks separate too. Raises
    ValueError for what begins like JSON but is none.
    """
    kind = leaf.kind
    if kind is None:
        if leaf.nullable and not text.strip():
            return None
        return scalar(str(text), leaf.annotation)
    text = text.strip()
    opening = "[" if kind is list else "{"
    if text.startswith(opening):
        return read_json(text, "list" if kind is list else "mapping")
    if kind is dict:
        return text or {}
    entries = re.split(r"[,\r\n]" if lines else ",", text)
    inner = get_args(leaf.annotation)[0]
    # Nothing between two commas is nothing: templates leave such gaps.
    return [scalar(entry.strip(), inner) for entry in entries if entry.strip()]


def scalar(text: str, annotation: object) -> object:
    """One text as one value."""
    if annotation is bool:
        return {"true": True, "false": False}.get(text, text)
    if annotation in (int, float):
        found = number(text.strip())
        return text if found is None else found
    return next((choice for choice in choices(annotation) if str(choice) == text.strip()), text)


def read_json(text: str, what: str) -> object:
    """The value of JSON text. ``what``: a list or a mapping. Raises ValueError, which does not quote the text."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        # The parser's own words could quote a secret.
        raise ValueError(f"begins like a JSON {what}, but is not valid JSON") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _refuse(constant: str) -> object:
    raise ValueError(constant)
