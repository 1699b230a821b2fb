"""What an operator asks about limits: where a subject stands, and to forget it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.core.address import UNIX, normalise_peer, parse_address
from proxy.core.chain import Chain
from proxy.core.rate import Claim
from proxy.limits.store import LimitStore, Standing, StoreError
from proxy.stages.limit import Limit
from proxy.stages.limit_rules import KEY_PREFIX
from proxy.stages.subjects import KEY_DIGITS, key_id, path_of

_PARTS = ("client_ip", "credential", "path")


def parse_subject(text: str) -> dict[str, str]:
    """The parts of a subject as an operator writes it.

    ``203.0.113.7`` (or ``unix``), ``/v1/embeddings``, ``sha256:...`` (a key by its hash), or parts by name, separated
    by commas: ``client_ip=203.0.113.7,path=/v1/embeddings``. Raises ValueError.
    """
    if not text.startswith(tuple(f"{part}=" for part in _PARTS)):
        name = "path" if text.startswith("/") else "credential" if text.startswith(KEY_PREFIX) else "client_ip"
        return {name: _value(name, text)}
    given: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if not equals or name not in _PARTS or name in given:
            raise ValueError("write parts like client_ip=203.0.113.7,path=/v1/embeddings, each once")
        given[name] = _value(name, value)
    return given


def _value(name: str, text: str) -> str:
    if name == "path":
        if not text.startswith("/"):
            raise ValueError("a path begins with /, like /v1/embeddings")
        return path_of(text.encode("utf-8"))
    if name == "credential":
        digits = text.removeprefix(KEY_PREFIX)
        if digits == text:
            return key_id(text)
        if len(digits) < KEY_DIGITS or set(digits) - set("0123456789abcdef"):
            raise ValueError(f"a key's hash is written as sha256: and {KEY_DIGITS} or more hexadecimal digits")
        return digits[:KEY_DIGITS]
    if text == UNIX:
        return UNIX
    try:
        return normalise_peer(str(parse_address(text)))
    except ValueError as error:
        raise ValueError(f"{error}; a subject is an address, a path, or parts by name: see --help") from None


class LimitQuestions:
    """Answers for the limits of one chain. Answers are plain data; what cannot be meant raises ValueError.

    While the store cannot be asked the answer is ``{"unavailable": why}``.
    """

    def __init__(self, chain: Chain, store: LimitStore) -> None:
        self._limits = [stage for stage in chain.stages if isinstance(stage, Limit)]
        self._store = store

    async def show(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Where ``subject`` stands with every limit that counts such subjects."""
        try:
            return {"limits": await self._standings(self._claims(params))}
        except StoreError as error:
            return {"unavailable": str(error)}

    async def _standings(self, claims: list[Claim]) -> list[dict[str, Any]]:
        shown = []
        for claim in claims:
            answer = self._store.standing(claim)
            left, is_known = answer if isinstance(answer, Standing) else await answer
            for label, (window, remaining, reset_s) in zip(claim.rule.labels, left, strict=True):
                shown.append(
                    {
                        "limit": label,
                        "subject": claim.subject,
                        "requests": window.limit,
                        "window_s": window.seconds,
                        "remaining": remaining,
                        "reset_s": round(reset_s, 3),
                        "seen": is_known,
                    }
                )
        return shown

    async def reset(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Forget ``subject`` in every limit that counts such subjects."""
        forgotten = []
        try:
            for claim in self._claims(params):
                answer = self._store.reset(claim)
                if answer if isinstance(answer, bool) else await answer:
                    forgotten.append(claim.rule.name)
        except StoreError as error:
            return {"unavailable": str(error)}
        return {"forgotten": forgotten}

    def _claims(self, params: Mapping[str, Any]) -> list[Claim]:
        given = parse_subject(str(params.get("subject", "")))
        claims = [claim for stage in self._limits for claim in stage.claims_of(given)]
        if not claims:
            counted = sorted({"+".join(parts) for stage in self._limits for parts in stage.counted_by()})
            by = ", ".join(counted) or "nothing: no limit is set"
            raise ValueError(f"no limit counts by {'+'.join(sorted(given))}; they count by {by}")
        return claims
