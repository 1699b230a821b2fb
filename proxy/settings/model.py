"""The settings: every key of ``sluice.yaml`` but those of the stages, which stand beside each stage.

The descriptions are the hover texts of the JSON Schema.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from proxy.core.address import parse_address, parse_network
from proxy.core.catalogue import LANGUAGES, parse_language
from proxy.stages import CONFIGS, StageConfig

_RESERVED_ROUTES = ("v1", "healthz", "readyz")
# RFC 3986 section 3.3 without percent-encoding: a route is compared with the bytes of the target as they came.
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+\Z")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")
_A_DAY_S = 86_400.0

Port = Annotated[int, Field(ge=0, le=65535)]
Timeout = Annotated[float, Field(gt=0, le=_A_DAY_S)]


class Section(BaseModel):
    """A mapping in the file. Unknown keys are errors, and nothing is converted: ``"5"`` is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def check_host(host: str) -> str:
    """An address or a host name a listener can be bound to. Raises ValueError."""
    if host == "*":
        raise ValueError('"*" is no address; write 0.0.0.0 for IPv4, or "::" for IPv6')
    if host.startswith("["):
        raise ValueError('write the address without brackets, like "::1"')
    labels = host.removesuffix(".").split(".")
    # A last label that begins with a digit is an address, or a shortened or octal form of one (RFC 3696 section 2).
    if ":" in host or labels[-1][:1].isdigit():
        parse_address(host)
    elif len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise ValueError("write an IP address, or a host name such as localhost")
    return host


class Listen(Section):
    """Where clients reach the gateway, and how much and how long it reads."""

    host: str = Field(default="0.0.0.0", description="Address or name to listen on; 0.0.0.0 = every IPv4 address.")
    port: Port = Field(default=5000, description="TCP port; 0 = any free one.")
    max_header_bytes: int = Field(
        default=65_536, ge=1024, le=1_048_576, description="Largest request head, in bytes."
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

    _host = field_validator("host")(check_host)


class Admin(Section):
    """Where operators reach the admin pages; never for clients."""

    enabled: bool = Field(default=True, description="Whether there is an admin listener at all.")
    host: str = Field(default="127.0.0.1", description="Address or name the admin listener is bound to.")
    port: Port = Field(default=5001, description="TCP port of the admin listener; 0 = any free one.")

    _host = field_validator("host")(check_host)


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
    listen: Listen = Field(default=Listen(), description="Where clients reach the gateway.")
    admin: Admin = Field(default=Admin(), description="Where operators reach the admin pages.")
    language: Literal["en_US", "zh_CN", "zh_TW", "ru_RU"] = Field(
        default="en_US", description="Language of our answers to callers who ask for none we have."
    )
    trusted_proxies: list[str] = Field(
        default=[], description="Addresses and networks of proxies whose X-Forwarded-For is believed."
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
            parse_network(entry)
        return entries

    @field_validator("model_aliases")
    @classmethod
    def _names(cls, aliases: dict[str, str]) -> dict[str, str]:
        if "" in aliases or "" in aliases.values():
            raise ValueError("a model has a name: neither side may be empty")
        return aliases
