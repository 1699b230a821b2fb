"""Where a limit store is: `memory`, `shared`, or the URL of a Redis or Valkey server, its sentinels or cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

Kind = Literal["memory", "shared", "redis", "sentinel", "cluster"]
Host = tuple[str, int]
"""(name or address, port)"""

PORT = 6379
SENTINEL_PORT = 26379
EXAMPLES = (
    "memory, shared, redis://host:6379/0, rediss://host:6379/0 (TLS), unix:///run/redis.sock?db=0, "
    "redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379; "
    "valkey can be written in place of redis"
)
_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(sentinel|cluster))?", re.ASCII)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True, repr=False)
class StoreAddress:
    """A store's address, parsed. Neither its text nor its representation has a password.

    ``hosts`` are the server, the sentinels or some nodes of the cluster; empty with a unix socket, whose ``path`` is
    set. ``service`` is what the sentinels call the group of servers.
    """

    kind: Kind
    hosts: tuple[Host, ...] = ()
    path: str = ""
    db: int = 0
    is_tls: bool = False
    service: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no text may show."""
        return tuple(secret for secret in (self.password, self.sentinel_password) if secret)

    def __str__(self) -> str:
        if self.kind in ("memory", "shared"):
            return self.kind
        user = f"{self.username}:***@" if self.password else f"{self.username}@" if self.username else ""
        if self.path:
            return f"unix://{user}{self.path}?db={self.db}"
        scheme = "rediss" if self.is_tls else "redis"
        scheme += "" if self.kind == "redis" else f"+{self.kind}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{user}{hosts}{service}" + ("" if self.kind == "cluster" else f"/{self.db}")

    def __repr__(self) -> str:
        return f"<StoreAddress {self}>"


def parse_store(text: str) -> StoreAddress:
    """The address of a store. Raises ValueError that says what to write, and quotes nothing of ``text``.

    User and password are percent-encoded, as in RFC 3986; a lone password is written ``:password@``.
    """
    if text in ("memory", "shared"):
        return StoreAddress(text)  # type: ignore[arg-type]
    scheme, mark, rest = text.partition("://")
    if not mark:
        raise ValueError(f"this is no store; write {EXAMPLES}")
    if _FORBIDDEN.search(rest):
        raise ValueError("a blank or control character stands in the address; percent-encode it")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in path or "@" in query:
        raise ValueError("percent-encode the characters / ? # @ : in user and password, like %2F")
    if "#" in text:
        raise ValueError("a store has no #fragment; percent-encode # in a password as %23")
    userinfo, _, places = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    options = _options(query)
    username, password = _decoded(username), _decoded(password)
    if scheme.lower() == "unix":
        return _unix(places, slash + path, username, password, options)
    found = _SCHEME.fullmatch(scheme.lower())
    if found is None:
        raise ValueError(f"this kind of store is not known; write {EXAMPLES}")
    kind: Kind = found[2] or "redis"  # type: ignore[assignment]
    sentinel = (options.pop("sentinel_username", ""), options.pop("sentinel_password", ""))
    if any(sentinel) and kind != "sentinel":
        raise ValueError("sentinel_username and sentinel_password belong to redis+sentinel:// only")
    hosts = tuple(_host(place, SENTINEL_PORT if kind == "sentinel" else PORT) for place in places.split(","))
    if kind == "redis" and len(hosts) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    service, db = _service_and_db(kind, path, options)
    if options:
        raise ValueError("an option in the address is not known; only db may stand behind the ?")
    return StoreAddress(kind, hosts, "", db, bool(found[1]), service, username, password, *sentinel)


def _unix(places: str, path: str, username: str, password: str, options: dict[str, str]) -> StoreAddress:
    username, password = options.pop("username", username), options.pop("password", password)
    db = _db(options.pop("db", ""))
    if places or len(path) < 2 or options:
        raise ValueError(
            "a unix socket is written unix:///path/of/socket?db=0, with a password unix://:password@/path"
        )
    return StoreAddress("redis", (), _decoded(path), db, username=username, password=password)


def _service_and_db(kind: Kind, path: str, options: dict[str, str]) -> tuple[str, int]:
    """What stands behind the hosts: the sentinels' service, and the number of the database."""
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        service = _decoded(service)
        if not service:
            raise ValueError("sentinels need the name of their service: redis+sentinel://host:26379/service")
    number = options.pop("db", "")
    if path and number:
        raise ValueError("the database stands twice in the address: behind the / and as db=")
    db = _db(path or number)
    if kind == "cluster" and db:
        raise ValueError("a cluster has only database 0; leave the number away")
    return service, db


def _db(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise ValueError("the database is a number, as in redis://host:6379/0")
    return int(text or "0")


def _host(place: str, default_port: int) -> Host:
    """A host with its port: ``host``, ``host:6379``, ``[::1]:6379``."""
    if place.startswith("["):
        host, bracket, port = place[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("an IPv6 address is written in brackets, as in redis://[::1]:6379")
        port = port[1:]
    else:
        host, _, port = place.partition(":")
        if ":" in port:
            raise ValueError("an IPv6 address is written in brackets, as in redis://[::1]:6379")
    if not host:
        raise ValueError("the host is missing; write redis://host:6379/0")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise ValueError("the port is a number from 1 to 65535, as in redis://host:6379/0")
    return _decoded(host), int(port or default_port)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name in options:
            raise ValueError("an option stands twice in the address")
        options[name] = _decoded(value)
    return options


def _decoded(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise ValueError("a % in the address begins no escape; write it as %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("what is percent-encoded in the address is not UTF-8") from None
