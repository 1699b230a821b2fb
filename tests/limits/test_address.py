"""Addresses of stores: what is written, what is meant, and that no password shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.limits.address import StoreAddress, parse_store

HOST = ("host", 6379)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("memory", StoreAddress("memory")),
        ("shared", StoreAddress("shared")),
        ("redis://host", StoreAddress("redis", (HOST,))),
        ("redis://host/", StoreAddress("redis", (HOST,))),
        ("redis://host:7000/3", StoreAddress("redis", (("host", 7000),), db=3)),
        ("redis://host?db=3", StoreAddress("redis", (HOST,), db=3)),
        ("valkey://host", StoreAddress("redis", (HOST,))),
        ("REDIS://host", StoreAddress("redis", (HOST,))),
        ("rediss://host:1", StoreAddress("redis", (("host", 1),), is_tls=True)),
        ("valkeys://host", StoreAddress("redis", (HOST,), is_tls=True)),
        ("redis://[::1]:7000/1", StoreAddress("redis", (("::1", 7000),), db=1)),
        ("redis://[::1]", StoreAddress("redis", (("::1", 6379),))),
        ("redis://:pass@host", StoreAddress("redis", (HOST,), password="pass")),
        ("redis://me:p%40ss%2F%25:x@host", StoreAddress("redis", (HOST,), username="me", password="p@ss/%:x")),
        ("redis://me@host", StoreAddress("redis", (HOST,), username="me")),
        ("unix:///run/redis.sock", StoreAddress("redis", path="/run/redis.sock")),
        ("unix:///run/a%20b.sock?db=2", StoreAddress("redis", path="/run/a b.sock", db=2)),
        ("unix://me:pw@/run/r.sock", StoreAddress("redis", path="/run/r.sock", username="me", password="pw")),
        ("unix:///run/r.sock?password=p%40w", StoreAddress("redis", path="/run/r.sock", password="p@w")),
        (
            "redis+sentinel://me:pw@a,b:1,[::1]:2/main/4",
            StoreAddress(
                "sentinel",
                (("a", 26379), ("b", 1), ("::1", 2)),
                db=4,
                service="main",
                username="me",
                password="pw",
            ),
        ),
        (
            "rediss+sentinel://a/main?sentinel_username=s&sentinel_password=sp",
            StoreAddress(
                "sentinel",
                (("a", 26379),),
                is_tls=True,
                service="main",
                sentinel_username="s",
                sentinel_password="sp",
            ),
        ),
        ("redis+cluster://a:1,b:2", StoreAddress("cluster", (("a", 1), ("b", 2)))),
        ("valkeys+cluster://a", StoreAddress("cluster", (("a", 6379),), is_tls=True)),
    ],
)
def test_what_is_meant(text: str, address: StoreAddress) -> None:
    assert parse_store(text) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write memory, shared, redis://"),
        ("redis", "write memory, shared, redis://"),
        ("mysql://:hush@host", "kind of store is not known"),
        ("redis+ring://:hush@host", "kind of store is not known"),
        ("redis://", "host is missing"),
        ("redis://:hush@", "host is missing"),
        ("redis://:hush@host:port", "port is a number"),
        ("redis://:hush@host:0", "port is a number"),
        ("redis://:hush@host:65536", "port is a number"),
        ("redis://:hush@host:99999999999", "port is a number"),
        ("redis://:hush@host/zero", "database is a number"),
        ("redis://:hush@host/-1", "database is a number"),
        ("redis://:hush@host/1?db=1", "stands twice"),
        ("redis://:hush@host?db=1&db=2", "stands twice"),
        ("redis://:hush@host?timeout=1", "option in the address is not known"),
        ("redis://:hu/sh@host", "percent-encode the characters"),
        ("redis://:hu?sh@host", "percent-encode the characters"),
        ("redis://:hu#sh@host", "percent-encode #|%23"),
        ("redis://:hush%@host", "write it as %25"),
        ("redis://:%ff@host", "not UTF-8"),
        ("redis://:hush @host", "percent-encode it"),
        ("redis://:hush@host\n", "percent-encode it"),
        ("redis://:hush@::1", "in brackets"),
        ("redis://:hush@[::1", "in brackets"),
        ("redis://:hush@[::1]7000", "in brackets"),
        ("redis://:hush@a,b", r"redis\+sentinel://"),
        ("redis://:hush@a?sentinel_password=hush", "belong to redis"),
        ("redis+sentinel://:hush@a,b", "name of their service"),
        ("redis+cluster://:hush@a,b/1", "only database 0"),
        ("unix://:hush@host/run/redis.sock", "unix socket is written"),
        ("unix://:hush@", "unix socket is written"),
        ("unix:///run/redis.sock?x=hush", "unix socket is written"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        parse_store(text)
    assert "hush" not in str(error.value)
    assert "sh@" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("memory", "memory"),
        ("valkey://me:hush@host", "redis://me:***@host:6379/0"),
        ("rediss://:hush@[::1]:1/2", "rediss://:***@[::1]:1/2"),
        ("unix://:hush@/run/r.sock?db=1", "unix://:***@/run/r.sock?db=1"),
        (
            "redis+sentinel://:hush@a,b/main?sentinel_password=hush",
            "redis+sentinel://:***@a:26379,b:26379/main/0",
        ),
        ("redis+cluster://me@a:1", "redis+cluster://me@a:1"),
    ],
)
def test_no_text_shows_a_password(text: str, shown: str) -> None:
    address = parse_store(text)
    assert str(address) == shown
    assert repr(address) == f"<StoreAddress {shown}>"
    assert "hush" not in f"{address} {address!r} {[address]}"


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for whole in (text, f"redis://{text}", f"redis+sentinel://{text}", f"unix://{text}"):
        try:
            address = parse_store(whole)
        except ValueError:
            continue
        assert parse_store(whole) == address


@given(st.text(min_size=8, max_size=20, alphabet=st.characters(codec="utf-8", exclude_characters="*")))
def test_any_password_can_be_written_and_is_not_shown(password: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in password.encode())
    address = parse_store(f"redis://:{quoted}@host")
    assert address.password == password
    assert address.secrets == (password,)
    assert password not in repr(address)
