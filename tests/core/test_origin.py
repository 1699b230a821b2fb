"""Origins: what a base_url says about where to connect, what to call the host, and where paths begin."""

from __future__ import annotations

import pytest

from proxy.core.origin import Origin


@pytest.mark.parametrize(
    ("base_url", "origin", "host", "path"),
    [
        ("https://api.openai.com/v1", ("api.openai.com", 443, True), b"api.openai.com", b"/v1"),
        ("https://api.openai.com", ("api.openai.com", 443, True), b"api.openai.com", b"/v1"),
        ("https://api.openai.com/", ("api.openai.com", 443, True), b"api.openai.com", b"/v1"),
        ("https://api.openai.com/v1/", ("api.openai.com", 443, True), b"api.openai.com", b"/v1"),
        ("https://api.openai.com:443/v1", ("api.openai.com", 443, True), b"api.openai.com", b"/v1"),
        ("https://api.openai.com:8443/v1", ("api.openai.com", 8443, True), b"api.openai.com:8443", b"/v1"),
        ("http://127.0.0.1/v1", ("127.0.0.1", 80, False), b"127.0.0.1", b"/v1"),
        ("http://127.0.0.1:80/v1", ("127.0.0.1", 80, False), b"127.0.0.1", b"/v1"),
        ("http://127.0.0.1:443/v1", ("127.0.0.1", 443, False), b"127.0.0.1:443", b"/v1"),
        ("https://h:80", ("h", 80, True), b"h:80", b"/v1"),
        ("http://[::1]:8000/v1", ("::1", 8000, False), b"[::1]:8000", b"/v1"),
        ("https://[2001:db8::1]/api/openai/", ("2001:db8::1", 443, True), b"[2001:db8::1]", b"/api/openai"),
        ("HTTPS://API.Example.COM/V1", ("api.example.com", 443, True), b"api.example.com", b"/V1"),
        ("http://localhost:/v1", ("localhost", 80, False), b"localhost", b"/v1"),
        ("https://h/a%20b", ("h", 443, True), b"h", b"/a%20b"),
    ],
)
def test_of(base_url: str, origin: tuple[str, int, bool], host: bytes, path: bytes) -> None:
    assert Origin.of(base_url) == (Origin(*origin), host, path)


def test_equal_origins_share_a_pool() -> None:
    one, *_ = Origin.of("https://h/v1")
    other, *_ = Origin.of("https://H:443/other")
    assert one == other
    assert len({one, other, Origin.of("http://h:443")[0]}) == 2
