"""The settings: every key of ``sluice.yaml`` but those of the stages, which stand beside each stage.

The descriptions are the hover texts of the JSON Schema.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, SecretStr, SerializeAsAny, field_validator, model_validator

from proxy.core.address import UNIX, parse_network
from proxy.core.catalogue import LANGUAGES, parse_language
from proxy.settings.limits import Limits
from proxy.settings.listen import MOST_LISTENERS, Listen
from proxy.settings.section import A_DAY_S, Port, Section, Timeout, check_host
from proxy.stages import CONFIGS, StageConfig

_RESERVED_ROUTES = ("v1", "healthz", "readyz")
# RFC 3986 section 3.3 without percent-encoding: a route is compared with the bytes of the target as they came.
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+\Z")
_LEAST_MEMORY_BYTES = 67_108_864
MOST_WORKERS = 256
"""More are a mistake."""


class Downstream(Section):
    """How much the gateway reads from a client, and how long it waits for one."""

    max_header_bytes: int = Field(
        default=65_536,
        ge=1024,
        le=1_048_576,
        description="Largest request head, in bytes; one line of it may have half of that.",
    )
    max_body_bytes: int = Field(
        default=2_147_483_648, ge=0, description="Largest request body below /v1, in bytes; 0 = no cap."
    )
    header_timeout_s: Timeout = Field(
        default=10.0, description="From the first byte of a request head to its last, in seconds."
    )
    body_timeout_s: Timeout = Field(
        default=30.0, description="Longest gap between two pieces of a request body, in seconds."
    )
    keep_alive_timeout_s: Timeout = Field(
        default=75.0, description="How long an idle client connection is kept open, in seconds."
    )
    write_timeout_s: Timeout = Field(
        default=60.0,
        description="Longest time in which a client takes nothing of an answer that waits for it, in seconds.",
    )


class Overload(Section):
    """When new work is refused, so that what is under way can end well."""

    max_connections: int = Field(
        default=0,
        ge=0,
        description="Client connections served at once; 0 = as many as the limit of open files allows.",
    )
    max_in_flight: int = Field(default=0, ge=0, description="Exchanges under way at once; 0 = no cap.")
    max_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Resident memory: from 95 % of it on, new requests are refused; 0 = no cap, else ≥ 64 MiB.",
    )

    @field_validator("max_memory_bytes")
    @classmethod
    def _enough(cls, size: int) -> int:
        if 0 < size < _LEAST_MEMORY_BYTES:
            raise ValueError(f"write at least {_LEAST_MEMORY_BYTES} (64 MiB), or 0 for no cap")
        return size


class Drain(Section):
    """How the gateway stops: what is under way may end, new work goes elsewhere."""

    delay_s: float = Field(
        default=0.0,
        ge=0,
        le=A_DAY_S,
        description="Seconds in which it says it is not ready, but still accepts; for balancers to notice.",
    )
    timeout_s: float = Field(
        default=660.0, ge=0, le=A_DAY_S, description="How long running exchanges may take after that, in seconds."
    )


class Admin(Section):
    """Where operators reach the admin pages; never for clients."""

    enabled: bool = Field(default=True, description="Whether there is an admin listener at all.")
    host: str = Field(default="127.0.0.1", description="Address or name the admin listener is bound to.")
    port: Port = Field(default=5001, description="TCP port of the admin listener; 0 = any free one.")
    token: SecretStr | None = Field(
        default=None,
        description="What callers of /-/ must show; left out, one is made at start, in a file that only we can read.",
    )

    _host = field_validator("host")(check_host)

    @field_validator("token")
    @classmethod
    def _hard_to_guess(cls, token: SecretStr | None) -> SecretStr | None:
        # Visible ASCII, as it must fit into a header line.
        if token is not None and not re.fullmatch(r"[\x21-\x7e]{16,4096}", token.get_secret_value()):
            raise ValueError("write at least 16 characters, without spaces, control or non-ASCII characters")
        return token


class MaxTokens(Section):
    """How long an answer on the chat route may be, in tokens."""

    default: int = Field(default=100, ge=1, description="Used when the caller does not say.")
    maximum: int = Field(default=3500, ge=1, description="More than this is refused with a 400.")

    @model_validator(mode="after")
    def _fits(self) -> MaxTokens:
        if self.default > self.maximum:
            raise ValueError(f"default ({self.default}) is more than maximum ({self.maximum})")
        return self


class SimpleChat(Section):
    """The chat route: one question, one answer, in a simple JSON shape."""

    route: str = Field(
        default="", description='Its path, without slashes at the ends; "" = the root, and /api as well.'
    )
    default_model: str = Field(
        default="text-davinci-003",
        min_length=1,
        description="The model of callers who name none; model_aliases apply to it.",
    )
    max_tokens: MaxTokens = Field(default=MaxTokens(), description="How long an answer may be, in tokens.")
    max_body_bytes: int = Field(default=1_048_576, ge=1, le=67_108_864, description="Largest request body, in bytes.")
    token_field: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        default="auto",
        description="What the upstream calls the token limit; auto = max_completion_tokens for OpenAI itself.",
    )

    @field_validator("route")
    @classmethod
    def _usable(cls, route: str) -> str:
        route = route.strip("/")
        segments = route.split("/") if route else []
        if segments and (segments[0] == "v1" or route in _RESERVED_ROUTES):
            raise ValueError("v1, healthz and readyz are taken; choose another route, like api")
        for segment in segments:
            if segment in ("", ".", ".."):
                raise ValueError("a route has no empty, '.' or '..' segments")
            if not _SEGMENT.match(segment):
                raise ValueError("a route is a plain path like api or team/chat: no spaces, ?, #, % or \\")
        return route


class AccessLog(Section):
    """One line of JSON for every request."""

    enabled: bool = Field(default=True, description="Whether requests are logged.")
    path: str = Field(default="-", min_length=1, description='File it is appended to; "-" = standard output.')


def _default_stages() -> dict[str, StageConfig]:
    return {name: config() for name, config in CONFIGS.items()}


class Settings(Section):
    """Everything an operator can set."""

    version: Literal[1] = Field(default=1, description="Version of the shape of this file.")
    listen: Listen | Annotated[list[Listen], Field(min_length=1, max_length=MOST_LISTENERS)] = Field(
        default=Listen(), description="Where clients reach the gateway: one listener, or a list of them."
    )
    workers: int | Literal["auto"] = Field(
        default=1, description="Processes that serve clients; auto = as many as there are processors for them. Linux."
    )
    downstream: Downstream = Field(default=Downstream(), description="What a client may ask of us, and how slowly.")
    overload: Overload = Field(default=Overload(), description="When new work is refused.")
    drain: Drain = Field(default=Drain(), description="How the gateway stops.")
    admin: Admin = Field(default=Admin(), description="Where operators reach the admin pages.")
    limits: Limits = Field(default=Limits(), description="Where all limits count.")
    language: Literal["en_US", "zh_CN", "zh_TW", "ru_RU"] = Field(
        default="en_US", description="Language of our answers to callers who ask for none we have."
    )
    trusted_proxies: list[str] = Field(
        default=[],
        description="Proxies that are believed when they name the client: addresses, networks, 'unix'.",
    )
    client_ip_header: Literal["x-forwarded-for", "forwarded", "cf-connecting-ip"] = Field(
        default="x-forwarded-for", description="The one header in which trusted proxies name the client."
    )
    chain: list[str] = Field(
        default=["ip_allowlist", "limit", "key", "upstream"],
        description="The names of the stages every request passes, in this order; the last one forwards.",
    )
    stages: dict[str, SerializeAsAny[StageConfig]] = Field(
        default_factory=_default_stages,
        description="The settings of each stage by its name; one of another name says its type.",
    )
    simple_chat: SimpleChat = Field(default=SimpleChat(), description="The chat route.")
    model_aliases: dict[str, str] = Field(
        default={"text-davinci-003": "gpt-4.1-mini"},
        description="On the chat route, models by the name callers use: the name the upstream is given instead.",
    )
    access_log: AccessLog = Field(default=AccessLog(), description="One line for every request.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="How much the gateway says about itself on standard error."
    )

    @property
    def listeners(self) -> tuple[Listen, ...]:
        """Every listener, in the order of the file."""
        return tuple(self.listen) if isinstance(self.listen, list) else (self.listen,)

    @field_validator("workers", mode="before")
    @classmethod
    def _few(cls, workers: object) -> object:
        if workers == "auto" or (type(workers) is int and 1 <= workers <= MOST_WORKERS):
            return workers
        raise ValueError(f"write a number of processes from 1 to {MOST_WORKERS}, or auto")

    @field_validator("language", mode="before")
    @classmethod
    def _spelled_otherwise(cls, language: object) -> object:
        """``zh`` and ``zh_CN.UTF-8`` stand for ``zh_CN``; what we lack is left for the field's type to refuse."""
        if not isinstance(language, str) or language in LANGUAGES:
            return language
        return parse_language(language) or language

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            if entry != UNIX:
                parse_network(entry)
        return entries

    @field_validator("model_aliases")
    @classmethod
    def _names(cls, aliases: dict[str, str]) -> dict[str, str]:
        if "" in aliases or "" in aliases.values():
            raise ValueError("a model has a name: neither side may be empty")
        return aliases
