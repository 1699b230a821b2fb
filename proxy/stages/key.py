"""key: whose API key the upstream sees: the client's own, or one of the server's."""

from __future__ import annotations

import re
from itertools import cycle
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from proxy.core.exchange import Exchange, Route
from proxy.core.messages import KEY_MALFORMED, KEY_MISSING, KEY_MISSING_CHAT
from proxy.core.reply import INVALID_REQUEST, Reply
from proxy.core.stage import Stage
from proxy.stages.model import Services, StageConfig

# A key goes into a header line: visible ASCII only, so that nothing can be smuggled in by one.
_KEY = re.compile(r"[\x21-\x7e]{1,4096}\Z")
_BEARER = b"bearer "


class KeyConfig(StageConfig):
    """Server keys, and when they are used."""

    server_keys: list[SecretStr] = Field(
        default=[], description="The operator's own OpenAI keys; several are used in turn."
    )
    prefer: Literal["client", "server"] = Field(
        default="client",
        description="client = a server key only for callers without one; server = in place of whatever came.",
    )
    placeholders: list[str] = Field(
        default=["", "none", "null", "dummy", "EMPTY", "not-needed", "sk-no-key-required", "x"],
        description="Values that count as no key, in any case: the SDKs insist on some value.",
    )

    @field_validator("server_keys")
    @classmethod
    def _well_formed(cls, keys: list[SecretStr]) -> list[SecretStr]:
        for position, key in enumerate(keys, 1):
            if not _KEY.match(key.get_secret_value()):
                raise ValueError(f"key {position} is empty or holds spaces, control or non-ASCII characters")
        return keys

    @model_validator(mode="after")
    def _has_what_it_prefers(self) -> KeyConfig:
        if self.prefer == "server" and not self.server_keys:
            raise ValueError("prefer: server needs at least one key in server_keys")
        return self


class Key(Stage):
    """Resolves the credential an exchange travels with.

    On the chat route the body's ``api_key`` counts before the header, so there the body is waited for.
    """

    reads = ("headers",)
    writes = ("authorization", "credential", "credential_source")

    def __init__(self, name: str, config: KeyConfig, services: Services) -> None:
        super().__init__(name, config.mode)
        self._server_keys = cycle([key.get_secret_value() for key in config.server_keys])
        self._has_server_keys = bool(config.server_keys)
        self._prefers_server = config.prefer == "server"
        self._placeholders = frozenset(value.lower() for value in config.placeholders)

    def on_request_headers(self, exchange: Exchange) -> Reply | None:
        """Resolve from the header alone; on the chat route only if the body cannot matter."""
        if self._prefers_server:
            self._use_server_key(exchange)
            return None
        if exchange.route is Route.CHAT:
            return None
        return self._resolve(exchange, None)

    def wants_body(self, exchange: Exchange) -> bool:
        """Only on the chat route, which carries the caller's key in its body."""
        return exchange.route is Route.CHAT and not self._prefers_server

    def on_request_body(self, exchange: Exchange) -> Reply | None:
        """Resolve from the body's ``api_key``, else from the header."""
        return self._resolve(exchange, exchange.body_credential)

    def _resolve(self, exchange: Exchange, in_body: str | None) -> Reply | None:
        credential = self._real(in_body)
        if credential is not None and not _KEY.match(credential):
            return Reply.of(400, INVALID_REQUEST, "invalid_api_key", KEY_MALFORMED, param="api_key")
        from_header = credential is None
        if credential is None:
            credential = self._real(bearer(exchange))
        if credential is None:
            if self._has_server_keys:
                self._use_server_key(exchange)
                return None
            if exchange.route is Route.CHAT:
                return Reply.of(400, INVALID_REQUEST, "missing_api_key", KEY_MISSING_CHAT, param="api_key")
            return Reply.of(401, INVALID_REQUEST, "missing_api_key", KEY_MISSING)
        if self.is_enforcing:
            exchange.credential = credential
            exchange.credential_source = "client"
            # A key from the header already stands where it must.
            exchange.authorization = None if from_header else b"Bearer " + credential.encode("ascii")
        return None

    def _real(self, credential: str | None) -> str | None:
        """The credential, or None if it is absent or a placeholder."""
        if credential is None:
            return None
        # Not every blank there is: what the header goes on with must be what is counted and logged.
        credential = credential.strip(" \t\r\n")
        return None if credential.lower() in self._placeholders else credential

    def _use_server_key(self, exchange: Exchange) -> None:
        if self.is_enforcing:
            key = next(self._server_keys)
            exchange.credential = key
            exchange.credential_source = "server"
            exchange.authorization = b"Bearer " + key.encode("ascii")

    def explain(self, exchange: Exchange) -> str:
        """Whose key is used."""
        if self._prefers_server:
            return "the server's key is used, whatever the client sent (prefer: server)"
        came = exchange.body_credential if exchange.route is Route.CHAT else None
        if self._real(came) or self._real(bearer(exchange)):
            return "the client's own key is used"
        sent = "only a placeholder" if came or bearer(exchange) else "no key"
        if self._has_server_keys:
            return f"the client sent {sent}, so a server key is used"
        return f"the client sent {sent}, and there is no server key"


def bearer(exchange: Exchange) -> str | None:
    """The token of ``Authorization: Bearer`` (RFC 6750 section 2.1), or None."""
    value = exchange.headers.get(b"authorization")
    if value is None or value[:7].lower() != _BEARER:
        return None
    return value[7:].decode("latin-1")
