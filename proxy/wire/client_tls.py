"""TLS towards the upstream: whom we trust, and how a connection's proper end is told from a cut."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path


def client_context(ca_file: str | Path | None = None) -> ssl.SSLContext:
    """What TLS connections upstream are made with: TLS 1.2 or newer, certificate and host name checked.

    ``ca_file`` is a PEM file of authorities to trust instead of the system's. Raises OSError (FileNotFoundError,
    ssl.SSLError) if it cannot be read or holds no certificate.
    """
    # Not ssl.create_default_context: that writes the secrets of every connection into the file an ambient
    # SSLKEYLOGFILE names, and what it trusts beyond the basics differs between releases of Python.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # HTTP/1.1 is all we speak: a server that would choose h2 must know (RFC 7301, RFC 9113 section 3.2).
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


def forget_certificate(transport: asyncio.BaseTransport) -> None:
    """Let go of the dictionary that loops keep of each connection's certificate, which was checked, and nobody reads.

    It takes some 1.5 KiB. The certificate itself stays with the TLS object.
    """
    certificate = transport.get_extra_info("peercert")
    if certificate is not None:
        certificate.clear()


def release_write_buffer(transport: asyncio.BaseTransport) -> None:
    """Give back the 16 KiB that OpenSSL has for what is written, if it holds them without need.

    ``SSL_MODE_RELEASE_BUFFERS``, which Python sets, frees them behind each write. But OpenSSL 3.0 makes them anew
    when it reads the session tickets that a TLS 1.3 server sends behind the handshake, and keeps them until the next
    write. A write of nothing frees them and sends nothing (SSL_write_ex(3)); the next one makes new ones.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is not None:
        with suppress(ssl.SSLError):
            tls.write(b"")


def ended_properly(transport: asyncio.BaseTransport) -> bool:
    """Whether an end of input, just reported by ``eof_received``, was said by the other side and not by an attacker.

    Over TLS only a close_notify alert says so (RFC 8446 section 6.1); a bare FIN may come from anybody on the way,
    and must not end a body that is delimited by the close (RFC 9112 section 9.8). asyncio reports both alike, so
    the TLS object is asked: behind a close_notify it reads an end, else it wants more. Over plain TCP a FIN is all
    there is, and the answer is True.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False
