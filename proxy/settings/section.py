"""What the sections of the settings have in common: strict models, and types that several of them use."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from proxy.core.address import parse_address

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")
A_DAY_S = 86_400.0

Port = Annotated[int, Field(ge=0, le=65535)]
Timeout = Annotated[float, Field(gt=0, le=A_DAY_S)]


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
