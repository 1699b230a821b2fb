"""Listeners together with everything else: sockets that collide, files of TLS, and who can reach them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from proxy.settings import load
from proxy.settings.listen import Listen, Tls
from proxy.settings.listeners import is_within_reach, same_socket
from tests.settings.loading import complaints, environment_complaints, load_text

TRUSTED = {"TRUSTED_PROXIES": "10.0.0.1"}
TLS = "listen: {tls: {cert: cert.pem, key: key.pem, client_ca: ca.pem}}\n"


@dataclass
class Files:
    """A folder with cert.pem, key.pem and ca.pem that fit together."""

    folder: Path
    authority: trustme.CA

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def wreck(self, name: str, content: bytes | None) -> None:
        """Put something else in the place of a file, or nothing."""
        self.path(name).unlink()
        if content is not None:
            self.path(name).write_bytes(content)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.chdir(tmp_path)
    made = Files(tmp_path, trustme.CA())
    made.authority.cert_pem.write_to_path(str(made.path("ca")))
    issued = made.authority.issue_cert("gateway.example")
    issued.private_key_pem.write_to_path(str(made.path("key")))
    made.path("key").chmod(0o600)
    for number, certificate in enumerate(issued.cert_chain_pems):
        certificate.write_to_path(str(made.path("cert")), append=number > 0)
    return made


def another_key(files: Files) -> None:
    files.wreck("key", files.authority.issue_cert("other.example").private_key_pem.bytes())


def encrypted_key(files: Files) -> None:
    key = serialization.load_pem_private_key(files.path("key").read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)
    files.wreck("key", pem)


def weak_certificate(files: Files) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    files.wreck("cert", signed)
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    files.wreck("key", key.private_bytes(serialization.Encoding.PEM, traditional, serialization.NoEncryption()))


def pipe(files: Files) -> None:
    files.wreck("cert", None)
    os.mkfifo(files.path("cert"))


OF_CERT = "name a readable PEM file of the certificate and its chain"
OF_KEY = "name a readable PEM file of the private key"
OF_CA = "name a readable PEM file of authorities"
WRECKS = [
    pytest.param(
        lambda files: files.wreck("cert", None),
        [f"1:22  listen.tls.cert  cannot be used: no such file or directory; {OF_CERT}"],
        id="no certificate",
    ),
    pytest.param(
        lambda files: files.wreck("key", None),
        [f"1:37  listen.tls.key  cannot be used: no such file or directory; {OF_KEY}"],
        id="no key",
    ),
    pytest.param(
        lambda files: files.wreck("cert", b"no certificate"),
        [f"1:22  listen.tls.cert  cannot be used: it holds no certificate in PEM form; {OF_CERT}"],
        id="text for a certificate",
    ),
    pytest.param(
        lambda files: files.wreck("key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        [f"1:37  listen.tls.key  cannot be used: it holds no private key in PEM form; {OF_KEY}, not encrypted"],
        id="broken key",
    ),
    pytest.param(
        lambda files: files.wreck("ca", b""),
        [f"1:57  listen.tls.client_ca  cannot be used: it holds no certificate in PEM form; {OF_CA}"],
        id="empty authorities",
    ),
    pytest.param(
        another_key,
        [
            "1:37  listen.tls.key  does not belong to the certificate in listen.tls.cert; name the key that the "
            "certificate was made for"
        ],
        id="key of another",
    ),
    pytest.param(
        encrypted_key,
        [f"1:37  listen.tls.key  cannot be used: it is encrypted; {OF_KEY}, not encrypted"],
        id="encrypted key",
    ),
    pytest.param(
        weak_certificate,
        [f"1:22  listen.tls.cert  cannot be used: OpenSSL refuses it (EE_KEY_TOO_SMALL); {OF_CERT}"],
        id="weak certificate",
    ),
    pytest.param(pipe, [f"1:22  listen.tls.cert  cannot be used: it is no file; {OF_CERT}"], id="pipe"),
    pytest.param(
        lambda files: [files.wreck(name, None) for name in ("cert", "ca")],
        [
            f"1:22  listen.tls.cert  cannot be used: no such file or directory; {OF_CERT}",
            f"1:57  listen.tls.client_ca  cannot be used: no such file or directory; {OF_CA}",
        ],
        id="two at once",
    ),
]


def test_files_that_fit_together_load(files: Files) -> None:
    loaded = load_text(files.folder, TLS)
    assert loaded.settings.listeners[0].tls == Tls(cert="cert.pem", key="key.pem", client_ca="ca.pem")
    assert not any("key" in notice for notice in loaded.notices)
    environ = {f"SLUICE__LISTEN__TLS__{name.upper()}": f"{name}.pem" for name in ("cert", "key")}
    assert load({}, environ).settings.listeners[0].tls == Tls(cert="cert.pem", key="key.pem")


@pytest.mark.parametrize(("wreck", "expected"), WRECKS)
def test_files_that_cannot_be_used_are_found_at_start(
    files: Files, wreck: Callable[[Files], None], expected: list[str]
) -> None:
    wreck(files)
    assert complaints(files.folder, TLS) == [f"sluice.yaml:{line}" for line in expected]


def test_files_of_an_entry_are_looked_at_too(files: Files) -> None:
    another_key(files)
    text = "listen:\n  - port: 1\n  - port: 2\n    tls:\n      cert: cert.pem\n      key: key.pem\n"
    assert complaints(files.folder, text) == [
        "sluice.yaml:6:12  listen.1.tls.key  does not belong to the certificate in listen.1.tls.cert; name the key "
        "that the certificate was made for"
    ]


def test_a_key_that_everybody_can_read_is_said(files: Files) -> None:
    files.path("key").chmod(0o604)
    (warning, *_) = load_text(files.folder, TLS).notices
    assert warning.replace(f"{files.folder}/", "") == (
        "WARNING: every user of this machine can read the private key key.pem (listen.tls.key, sluice.yaml:1:37). "
        "Better: chmod o-r"
    )


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "::1", True),
        ("0.0.0.0", "::", False),
        ("127.0.0.1", "::1", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::", True),
        ("localhost", "10.0.0.1", False),
        ("a.example", "A.example", True),
        ("a.example", "0.0.0.0", False),
    ],
)
def test_what_cannot_be_bound_together(one: str, other: str, expected: bool) -> None:
    assert same_socket(one, other) is same_socket(other, one) is expected


def test_listeners_that_collide_are_refused(tmp_path: Path) -> None:
    text = (
        "listen:\n  - {port: 1}\n  - {host: 127.0.0.1, port: 1}\n  - {unix: /a/s}\n  - {unix: /a/../a/s}\n"
        "  - {port: 0}\n  - {port: 0}\n  - {host: '::', port: 1}\n"
    )
    assert complaints(tmp_path, text) == [
        "sluice.yaml:3:29  listen.1.port  is the same as listen.0.port, 1, on 0.0.0.0; choose another port or host",
        "sluice.yaml:5:12  listen.3.unix  is the same socket as listen.2.unix; choose another",
    ]


def test_nothing_is_concluded_from_an_entry_that_is_wrong_itself(tmp_path: Path) -> None:
    found = complaints(
        tmp_path, "listen:\n  - {port: x}\n  - {}\nstages: {upstream: {base_url: 'http://[::1]:5000'}}\n"
    )
    assert [line.split("  ")[1] for line in found] == ["listen.0.port", "stages.upstream.base_url"]
    (found_alone,) = complaints(tmp_path, "listen:\n  - {port: x}\n  - {port: 1}\nadmin: {port: 5000}\n")
    assert "listen.0.port" in found_alone


@pytest.mark.parametrize("name", ["host", "port"])
def test_a_unix_socket_has_no_address(tmp_path: Path, name: str) -> None:
    value = {"host": "0.0.0.0", "port": "5000"}[name]
    assert complaints(tmp_path, f"listen:\n  unix: /a\n  {name}: {value}\n") == [
        f"sluice.yaml:3:9  listen.{name}  cannot be set together with listen.unix; leave one of them out; several "
        "listeners make a list"
    ]
    (found,) = complaints(tmp_path, "listen: {unix: /a}\n", {f"SLUICE__LISTEN__{name.upper()}": value})
    assert found.startswith(f"environment SLUICE__LISTEN__{name.upper()}  listen.{name}  cannot be set together")
    (found,) = complaints(tmp_path, f"listen: [{{unix: /a, {name}: {value}}}]\n")
    assert "listen.0." in found


def test_permissions_are_for_a_unix_socket(tmp_path: Path) -> None:
    assert complaints(tmp_path, 'listen: {mode: "0660"}\n') == [
        "sluice.yaml:1:16  listen.mode  is for a unix socket, and this listener has none; leave it out"
    ]


def test_the_proxy_protocol_needs_somebody_who_may_speak_it(tmp_path: Path) -> None:
    text = "listen:\n  - {proxy_protocol: required}\n  - {unix: /a, proxy_protocol: required}\n"
    tcp = (
        "sluice.yaml:2:22  listen.0.proxy_protocol  nobody could connect: only trusted_proxies may speak the PROXY "
        "protocol, and there are none; list the proxy's address in trusted_proxies (TRUSTED_PROXIES)"
    )
    unix = (
        "sluice.yaml:3:32  listen.1.proxy_protocol  nobody could connect: the peers of a unix socket are not among "
        "trusted_proxies; add the word unix to trusted_proxies (TRUSTED_PROXIES)"
    )
    assert complaints(tmp_path, text) == [tcp, unix]
    assert complaints(tmp_path, text, {"TRUSTED_PROXIES": "unix"}) == [tcp]
    assert complaints(tmp_path, text, {"TRUSTED_PROXIES": "10.0.0.1"}) == [unix]
    assert load_text(tmp_path, text, {"TRUSTED_PROXIES": "10.0.0.0/8,unix"})
    (found,) = complaints(tmp_path, text, {"TRUSTED_PROXIES": "UNIX"})
    assert "trusted_proxies[0]  'UNIX' is not an IP address" in found


def test_the_admin_listener_collides_with_any_of_them(tmp_path: Path) -> None:
    text = "listen:\n  - {port: 1}\n  - {port: 5001}\n"
    assert complaints(tmp_path, text) == [
        "sluice.yaml:3:12  listen.1.port  is the same as admin.port, 5001; choose another"
    ]
    assert complaints(tmp_path, text + "admin: {port: 1}\n") == [
        "sluice.yaml:4:15  admin.port  is the same as listen.0.port, 1; choose another"
    ]
    assert load_text(tmp_path, "listen: {unix: /run/s.sock}\nadmin: {port: 5000}\n")


def test_a_base_url_that_leads_back_to_any_of_them_is_refused() -> None:
    listen = [{"unix": "/run/s.sock"}, {"port": 1}, {"host": "127.0.0.1", "port": 2}]
    (found,) = environment_complaints({"OPENAI_BASE_URL": "http://localhost:2/v1"}, {"listen": listen})
    assert "own listener" in found
    assert load({"listen": listen}, {"OPENAI_BASE_URL": "http://localhost:5000/v1"})


@pytest.mark.parametrize(
    ("listen", "reach"),
    [
        (Listen(), True),
        (Listen(host="127.0.0.1"), False),
        (Listen(unix="/run/s.sock"), False),
        (Listen(tls=Tls(cert="a", key="b")), True),
        (Listen(tls=Tls(cert="a", key="b", client_ca="c")), False),
    ],
)
def test_whom_a_listener_lets_near(listen: Listen, reach: bool) -> None:
    assert is_within_reach(listen) is reach


@pytest.mark.parametrize(
    ("listen", "environ", "places"),
    [
        ([{"unix": "/s"}], {}, None),
        ([{"unix": "/s"}, {"host": "::1"}], {}, None),
        ([{"unix": "/s"}], {"TRUSTED_PROXIES": "unix"}, "unix socket /s"),
        ([{"unix": "/s"}, {"host": "::"}], {}, ":: port 5000"),
        ([{"port": 1}, {"host": "127.0.0.1"}, {"port": 2}], {}, "0.0.0.0 port 1 or 0.0.0.0 port 2"),
    ],
)
def test_a_shared_key_within_reach_of_one_listener_is_within_reach(
    listen: list[object], environ: dict[str, str], places: str | None
) -> None:
    config = {"listen": listen, "stages": {"ip_allowlist": {"allow": ["any"]}}}
    notices = load(config, {"API_KEY": "sk-a", **environ}).notices
    expected = f"WARNING: EVERYBODY who can reach {places} spends the money of the server's API key."
    assert [notice.startswith(expected) for notice in notices] == ([] if places is None else [True])
    ambient = load(config, {"OPENAI_API_KEY": "sk-a", **environ}).settings.stages["key"]
    assert bool(ambient.model_dump()["server_keys"]) is (places is None)


def test_a_header_that_nobody_reads_is_said() -> None:
    config = {"client_ip_header": "forwarded", "stages": {"ip_allowlist": {"allow": ["any"]}}}
    assert load(config, TRUSTED).notices == []
    assert load(config, {}).notices == [
        "client_ip_header (configuration) has no effect: no header is believed while trusted_proxies is empty"
    ]
