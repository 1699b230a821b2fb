"""A certificate for localhost from an authority made on the fly, with the program ``openssl``."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_AUTHORITY = """\
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = Sluice bench authority
[extensions]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
"""
_SERVER = """\
[req]
prompt = no
distinguished_name = name
[name]
CN = localhost
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost,IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
# What public servers have today: small, and quick to sign with.
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = "30"


class Certificate(NamedTuple):
    """PEM files: the certificate of localhost and 127.0.0.1, its key, and the authority to verify it by."""

    certificate: Path
    key: Path
    ca: Path


def issue(directory: Path) -> Certificate:
    """Make all three in ``directory``. Raises RuntimeError with what openssl said if it fails."""
    (directory / "authority.cnf").write_text(_AUTHORITY)
    (directory / "server.cnf").write_text(_SERVER)
    _openssl(
        directory,
        *("req", "-x509", *_NEW_KEY, "-config", "authority.cnf", "-days", _DAYS),
        *("-keyout", "ca.key", "-out", "ca.pem"),
    )
    _openssl(
        directory, "req", "-new", *_NEW_KEY, "-config", "server.cnf", "-keyout", "server.key", "-out", "server.csr"
    )
    _openssl(
        directory,
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-extfile", "server.cnf", "-extensions", "extensions", "-days", _DAYS, "-out", "server.pem"),
    )
    # Some gateways read their files as somebody else.
    for file in directory.iterdir():
        file.chmod(0o644)
    return Certificate(directory / "server.pem", directory / "server.key", directory / "ca.pem")


def _openssl(directory: Path, *arguments: str) -> None:
    ran = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed:\n{ran.stderr}")
