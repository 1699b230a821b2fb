"""Headers in Tornado's type that cost nothing until somebody looks into them."""

from __future__ import annotations

from typing import Any

from tornado.httputil import HTTPHeaders

from proxy.core.headers import Headers


class WireHeaders(HTTPHeaders):
    """An `HTTPHeaders` that is filled from ``lines`` at the first look.

    The data plane reads ``lines``, bytes as they came; a `tornado.web` handler reads this like any other
    `HTTPHeaders` and pays for it then.
    """

    def __init__(self, lines: Headers) -> None:
        # Tornado's own __init__ would fill the two mappings; __getattr__ does it when one is missed.
        self.lines = lines

    def __getattr__(self, name: str) -> Any:
        if name not in ("_as_list", "_combined_cache"):
            raise AttributeError(name)
        self._as_list = {}
        self._combined_cache = {}
        for field, value in self.lines.pairs():
            self.add(field, value)
        return self.__dict__[name]


def lines_of(headers: HTTPHeaders) -> Headers:
    """The lines of any Tornado headers, without a copy where they are ours."""
    if type(headers) is WireHeaders:
        return headers.lines
    return Headers.from_pairs(headers.get_all())
