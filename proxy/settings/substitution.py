"""``${VAR}`` inside YAML text, as Docker Compose spells it.

``${VAR}`` must be set; ``${VAR:-x}`` is ``x`` and ``${VAR:?why}`` is an error if VAR is unset or empty; ``$$`` is a
dollar sign. Any other dollar sign stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_DOLLAR = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<how>[-?])(?P<rest>[^}]*))?\}|(?P<broken>\{))"
)


class SubstitutionError(ValueError):
    """A variable is missing, or the notation is wrong. The message names variables, never values."""


def has_variable(text: str) -> bool:
    """Whether `substitute` would change this text."""
    return _DOLLAR.search(text) is not None


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """The text with every variable in place. Raises `SubstitutionError` with the first that cannot be."""

    def replace(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["broken"]:
            raise SubstitutionError(
                'a "${" without a variable\'s name; write ${NAME}, ${NAME:-default} or ${NAME:?message}, '
                "or $$ for a dollar sign"
            )
        name, how, rest = match["name"], match["how"], match["rest"]
        value = environ.get(name)
        if how is None:
            if value is None:
                raise SubstitutionError(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
            return value
        if value:
            return value
        if how == "?":
            raise SubstitutionError(
                f"the variable {name} is not set: {rest}" if rest else f"the variable {name} is not set"
            )
        return rest or ""

    return _DOLLAR.sub(replace, text)
