"""The header fields that tell a client about its limits."""

from __future__ import annotations

from math import ceil

from proxy.core.headers import Field, Headers, field
from proxy.core.rate import Decision, Rule

_RATE_LIMIT = b"RateLimit: %b\r\n"
_REMAINING = b"x-ratelimit-remaining-requests"
_REQUESTS = (b"x-ratelimit-limit-requests", _REMAINING, b"x-ratelimit-reset-requests")


class LimitFields:
    """``RateLimit-Policy`` and ``RateLimit`` of some rules (draft-ietf-httpapi-ratelimit-headers-11).

    Each window is an item named after its rule, so that no two lines of a head speak of the same name. Both are lists
    of strings with parameters (RFC 9651), and may stand in several lines.
    """

    __slots__ = ("_template", "policy")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        items = [(label, window) for rule in rules for label, window in zip(rule.labels, rule.windows, strict=True)]
        policies = [f'"{label}";q={window.limit};w={window.seconds}' for label, window in items]
        self.policy = field(b"RateLimit-Policy", ", ".join(policies).encode("ascii"))
        told = ", ".join([f'"{label}";r=%d;t=%d' for label, _ in items])
        self._template = told.encode("ascii")

    def remaining(self, decision: Decision, elapsed_s: float) -> Field:
        """What each window has left, and in how many seconds more of it comes back.

        What was left is told as it was when the request was decided on, ``elapsed_s`` ago; more may be left by now.
        """
        values: list[int] = []
        for _, left, reset_s in decision.left:
            values += (left, ceil(reset_s - elapsed_s) if reset_s > elapsed_s else 0)
        value = self._template % tuple(values)
        return (b"ratelimit", _RATE_LIMIT % value, value)


def add_request_fields(headers: Headers, decision: Decision) -> None:
    """``x-ratelimit-*-requests`` in OpenAI's form, for the window that has least left, or refused.

    Of several limits, the one that has least left is told of.
    """
    window, left, reset_s = min(decision.left, key=lambda it: (it.window is not decision.window, it.remaining))
    told = headers.get(_REMAINING)
    if told is not None:
        if int(told) <= left:
            return
        for name in _REQUESTS:
            headers.remove(name)
    headers.add(b"X-RateLimit-Limit-Requests", b"%d" % window.limit)
    headers.add(b"X-RateLimit-Remaining-Requests", b"%d" % left)
    headers.add(b"X-RateLimit-Reset-Requests", duration(reset_s).encode("ascii"))


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it, rounded up to the millisecond: ``120ms``, ``1.5s``, ``6m0s``, ``23h59m59s``.

    https://platform.openai.com/docs/guides/rate-limits
    """
    milliseconds = ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
