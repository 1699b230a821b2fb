"""ip_allowlist: only clients from listed addresses may speak; everybody else is refused before a body byte."""

from __future__ import annotations

from functools import lru_cache

from pydantic import Field, field_validator

from proxy.core.address import ANY, UNIX, Networks, parse_address, parse_network
from proxy.core.exchange import Exchange
from proxy.core.messages import IP_NOT_ALLOWED
from proxy.core.reply import PERMISSION, Reply
from proxy.core.stage import Stage
from proxy.stages.model import Services, StageConfig

_WORDS = (ANY, UNIX)


class IPAllowlistConfig(StageConfig):
    """Addresses and CIDR networks, IPv4 or IPv6; the words ``any`` and ``unix`` (a unix-socket peer)."""

    allow: list[str] | None = Field(
        default=None,
        description="Who may speak: addresses, networks, 'any', 'unix'. Absent = everybody.",
    )
    deny: list[str] = Field(
        default=[], description="Who may not, even if allowed: addresses, networks, 'any', 'unix'."
    )

    @field_validator("allow", "deny")
    @classmethod
    def _entries(cls, entries: list[str] | None) -> list[str] | None:
        for entry in entries or ():
            if entry not in _WORDS:
                parse_network(entry)
        return entries

    @field_validator("allow")
    @classmethod
    def _not_empty(cls, entries: list[str] | None) -> list[str] | None:
        if entries is not None and not entries:
            raise ValueError(
                "an empty list would let nobody in; write allow: [any] to let everybody in, or leave the setting out"
            )
        return entries

    @property
    def is_open(self) -> bool:
        """Whether strangers may speak."""
        return self.allow is None or ANY in self.allow or any(entry.endswith("/0") for entry in self.allow)


class _Entries:
    """A parsed list of addresses, networks and words."""

    def __init__(self, entries: list[str]) -> None:
        self.words = {entry for entry in entries if entry in _WORDS}
        self._networks = Networks(parse_network(entry) for entry in entries if entry not in _WORDS)

    def match(self, client_ip: str) -> str | None:
        """The entry that holds this client, or None."""
        if ANY in self.words:
            return ANY
        if client_ip == UNIX:
            return UNIX if UNIX in self.words else None
        network = self._networks.find(parse_address(client_ip))
        return None if network is None else str(network)


class IPAllowlist(Stage):
    """Refuses clients that are not on the list; verdicts are remembered for the last 4,096 addresses."""

    reads = ("client_ip",)

    def __init__(self, name: str, config: IPAllowlistConfig, services: Services) -> None:
        super().__init__(name, config.mode)
        self._allow = _Entries([ANY] if config.allow is None else config.allow)
        self._deny = _Entries(config.deny)
        self._is_allowed = lru_cache(maxsize=4096)(self._judge)
        self._refusal = Reply.of(403, PERMISSION, "ip_not_allowed", IP_NOT_ALLOWED)

    def on_request_headers(self, exchange: Exchange) -> Reply | None:
        """403 unless the client's address is allowed and not denied."""
        return None if self._is_allowed(exchange.client_ip) else self._refusal

    def _judge(self, client_ip: str) -> bool:
        return self._deny.match(client_ip) is None and self._allow.match(client_ip) is not None

    def explain(self, exchange: Exchange) -> str:
        """Which entry decides."""
        denied = self._deny.match(exchange.client_ip)
        if denied is not None:
            return f"{exchange.client_ip} is in deny: {denied}"
        allowed = self._allow.match(exchange.client_ip)
        if allowed is None:
            return f"{exchange.client_ip} is in no entry of allow"
        return f"{exchange.client_ip} is in allow: {allowed}"
