"""Where limits count: in one worker, in all workers of this machine, or in Redis for all machines."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator

from proxy.settings.section import Section

_LEAST_BYTES = 1_048_576
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


class Limits(Section):
    """Where all limits count."""

    store: SecretStr | None = Field(
        default=None,
        description="memory, shared, or the URL of a Redis or Valkey; left out, memory with one worker, else shared.",
    )
    namespace: str = Field(
        default="sluice", description="What the names of this gateway's counters in Redis begin with."
    )
    timeout_s: float = Field(
        default=0.05, ge=0.001, le=10, description="How long Redis may take to answer, in seconds."
    )
    hosts: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="How many hosts share the limits: on_store_error: local divides by it.",
    )
    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="PEM file of authorities to trust for rediss:// instead of the system's.",
    )
    max_bytes: int = Field(
        default=0, ge=0, description="shared: its largest size in memory; 0 = 256 MiB, or half of what is free."
    )
    dir: str | None = Field(
        default=None,
        min_length=1,
        description="shared: a folder in which counters survive a restart; left out, they are forgotten with it.",
    )

    @field_validator("max_bytes")
    @classmethod
    def _enough(cls, size: int) -> int:
        if 0 < size < _LEAST_BYTES:
            raise ValueError(f"write at least {_LEAST_BYTES} (1 MiB), or 0 to leave it to the gateway")
        return size

    @field_validator("namespace")
    @classmethod
    def _plain(cls, namespace: str) -> str:
        if not _NAMESPACE.match(namespace):
            raise ValueError("write letters, digits, '_', '.' and '-', 64 at most")
        return namespace
