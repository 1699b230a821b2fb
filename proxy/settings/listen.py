"""Listeners: an address or a unix socket, with TLS or without, behind the PROXY protocol or not."""

from __future__ import annotations

import os
import re
from typing import Literal

from pydantic import Field, field_validator

from proxy.settings.section import Port, Section, check_host

MOST_LISTENERS = 64
"""More in one list are a mistake, and each would be a row of settings."""

# sockaddr_un(7): 108 bytes with the zero at the end; 104 on BSD and macOS.
_LONGEST_SOCKET_PATH = 103
_PERMISSIONS = re.compile(r"0?[0-7]{3}\Z")
_PEM = "-----BEGIN "


class Tls(Section):
    """The certificate a listener shows, and the one it asks its clients for."""

    cert: str = Field(min_length=1, description="PEM file: the certificate, then those that lead to its root.")
    key: str = Field(min_length=1, description="PEM file: the private key of the certificate, not encrypted.")
    client_ca: str | None = Field(
        default=None,
        description="PEM file of authorities: only clients with a certificate of one of them may connect.",
    )
    min_version: Literal["1.2", "1.3"] = Field(default="1.2", description="The oldest version of TLS that is spoken.")

    @field_validator("cert", "key", "client_ca")
    @classmethod
    def _is_path(cls, path: str | None) -> str | None:
        # Never quoted back: it would be the key itself.
        if path is not None and _PEM in path:
            raise ValueError("write the path of the PEM file, not what the file holds")
        if path is not None and ("\0" in path or not path):
            raise ValueError("write the path of a PEM file")
        return path


class Listen(Section):
    """Where clients reach the gateway: one listener, or a list of them."""

    host: str = Field(default="0.0.0.0", description="Address or name to listen on; 0.0.0.0 = every IPv4 address.")
    port: Port = Field(default=5000, description="TCP port; 0 = any free one.")
    unix: str | None = Field(
        default=None, description="Path of a unix socket to listen on, in place of host and port."
    )
    mode: str | None = Field(
        default=None,
        description='Who may open the unix socket: its permissions, octal, like "0660"; left out, the umask decides.',
    )
    tls: Tls | None = Field(default=None, description="TLS; left out, the listener speaks plain HTTP.")
    proxy_protocol: Literal["off", "required"] = Field(
        default="off",
        description="required = each connection begins with a PROXY protocol header of one of trusted_proxies.",
    )

    _host = field_validator("host")(check_host)

    @field_validator("unix")
    @classmethod
    def _path(cls, path: str | None) -> str | None:
        if path is None:
            return None
        if not path or "\0" in path:
            raise ValueError("write the path of a socket, like /run/sluice/sluice.sock")
        if path.startswith("@"):
            raise ValueError("abstract sockets have no permissions; write a path, like /run/sluice/sluice.sock")
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            raise ValueError(f"the path of a socket has at most {_LONGEST_SOCKET_PATH} bytes")
        return path

    @field_validator("mode")
    @classmethod
    def _octal(cls, mode: str | None) -> str | None:
        if mode is not None and not _PERMISSIONS.match(mode):
            raise ValueError('write permissions as three octal digits, like "0660"')
        return mode

    @property
    def permissions(self) -> int | None:
        """``mode`` as a number; None = the umask decides."""
        return None if self.mode is None else int(self.mode, 8)

    @property
    def place(self) -> str:
        """``0.0.0.0 port 5000`` or ``unix socket /run/sluice.sock``, for people."""
        return f"unix socket {self.unix}" if self.unix is not None else f"{self.host} port {self.port}"
