"""upstream: where requests go. It writes the request head; the wire sends it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from proxy.core.address import parse_address
from proxy.core.exchange import Exchange, Route
from proxy.core.headers import REPLACED_IN_REQUESTS, encode, end_to_end
from proxy.core.headers import Field as HeaderField
from proxy.core.headers import field as header_field
from proxy.core.messages import LOOP_DETECTED
from proxy.core.origin import Origin
from proxy.core.reply import INVALID_REQUEST, Reply
from proxy.core.stage import Stage
from proxy.stages.model import Services, StageConfig

HOP_FIELD = b"x-sluice-hop"
# With a server's key these would still speak for the client's own account; some compatible servers read the last two.
_CLIENTS_ACCOUNT = frozenset({b"openai-organization", b"openai-project", b"cookie", b"api-key", b"x-api-key"})
# So would these in Sec-WebSocket-Protocol: browsers, which can set no other header, put key and account there
# (https://platform.openai.com/docs/guides/realtime-websocket).
_ACCOUNT_PROTOCOLS = (b"openai-insecure-api-key.", b"openai-organization.", b"openai-project.")
_WITHOUT_AUTHORIZATION = REPLACED_IN_REQUESTS | {b"authorization"}
_WITHOUT_ACCOUNT = _WITHOUT_AUTHORIZATION | _CLIENTS_ACCOUNT
_URL = re.compile(r"[\x21-\x7e]+\Z")
# Where clouds hand a machine its own credentials; nothing that speaks OpenAI's API has ever been there.
_METADATA = frozenset(
    {"169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"}
    | {"fd00:ec2::23", "fd20:ce::254", "metadata.google.internal"}
)


class UpstreamConfig(StageConfig):
    """The upstream's address and how long we wait for it. Times in seconds."""

    base_url: str = Field(
        default="https://api.openai.com/v1",
        description="Where /v1 leads, version prefix included; without a path it gets /v1.",
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, description="For name, connection and TLS handshake.")
    first_byte_timeout_s: float = Field(
        default=900.0, gt=0, description="From the whole request sent to the first byte of the answer."
    )
    idle_timeout_s: float = Field(default=900.0, gt=0, description="Between two pieces of an answer.")
    pool_idle_timeout_s: float = Field(
        default=30.0, ge=0, description="How long an unused connection is kept; below the origin's own limit."
    )
    ca_file: str | None = Field(
        default=None, description="A PEM file of authorities to trust instead of the system's."
    )
    heartbeat_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds of silence in a stream after which its client gets an SSE comment; 0 = off. "
        "With it the upstream is asked not to compress its answers to POST.",
    )
    max_connections: int = Field(default=0, ge=0, description="Connections to the upstream at once; 0 = no cap.")

    @field_validator("heartbeat_s")
    @classmethod
    def _not_hurried(cls, seconds: float) -> float:
        if 0 < seconds < 1:
            raise ValueError("write at least 1 second, or 0 for off")
        return seconds

    @field_validator("base_url")
    @classmethod
    def _usable(cls, url: str) -> str:
        if not _URL.match(url):
            raise ValueError("spaces, control and non-ASCII characters do not belong into a URL")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError("write it like https://api.openai.com/v1")
        if "@" in parts.netloc or parts.query or parts.fragment or "?" in url or "#" in url:
            raise ValueError("user names, queries and fragments do not belong into base_url")
        host = parts.hostname.rstrip(".")
        if ":" in host or host.rpartition(".")[2][:1].isdigit():
            # Strictly: resolvers also take 127.1, 2130706433 and 0x7f000001 for an address.
            host = str(parse_address(host))
        if host in _METADATA:
            raise ValueError("this is a cloud's metadata service, which hands out credentials; no upstream is there")
        return url


class Upstream(Stage):
    """The last stage: stops loops, and writes the head of the request that goes on."""

    reads = ("headers", "target")
    terminal = True

    def __init__(self, name: str, config: UpstreamConfig, services: Services) -> None:
        super().__init__(name, config.mode)
        self.config = config
        self.origin, host, self._path = Origin.of(config.base_url)
        self.is_openai = self.origin.host == "api.openai.com"
        self._hop_id = services.hop_id
        self._head = b" HTTP/1.1\r\nHost: %b\r\n%b: %b\r\n" % (host, HOP_FIELD, services.hop_id)

    def on_request_headers(self, exchange: Exchange) -> Reply | None:
        """508 if this very gateway has already forwarded the request."""
        hops = exchange.headers.get(HOP_FIELD)
        if hops is not None and self._hop_id in exchange.headers.get_all(HOP_FIELD):
            return Reply.of(508, INVALID_REQUEST, "loop_detected", LOOP_DETECTED)
        return None

    def request_head(self, exchange: Exchange, framing: bytes) -> bytes:
        """The head of a forwarded ``/v1`` request; ``framing`` is the ready line that frames its body."""
        authorization = exchange.authorization
        headers = exchange.headers
        if authorization is None:
            lines, credential = headers.crossing(REPLACED_IN_REQUESTS), b""
        else:
            credential = b"Authorization: %b\r\n" % authorization
            if exchange.credential_source != "server":
                lines = headers.crossing(_WITHOUT_AUTHORIZATION)
            elif framing.startswith(b"Upgrade"):
                lines = encode(_without_account_protocols(end_to_end(headers, _WITHOUT_ACCOUNT)))
            else:
                lines = headers.crossing(_WITHOUT_ACCOUNT)
        method = exchange.method.encode("ascii")
        # The target begins with /v1, which base_url's own path stands for.
        return b"%b %b%b%b%b%b%b\r\n" % (
            method,
            self._path,
            exchange.target[3:],
            self._head,
            credential,
            lines,
            framing,
        )

    def chat_head(self, authorization: bytes | None, user_agent: bytes, length: int) -> bytes:
        """The head of the chat-completions request that stands for one of the simple chat contract."""
        credential = b"Authorization: %b\r\n" % authorization if authorization else b""
        return (
            b"POST %b/chat/completions%b%b"
            b"Content-Type: application/json\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
            b"User-Agent: %b\r\nContent-Length: %d\r\n\r\n"
        ) % (self._path, self._head, credential, user_agent, length)

    def explain(self, exchange: Exchange) -> str:
        """Where the request goes."""
        scheme = "https" if self.origin.tls else "http"
        path = b"/chat/completions" if exchange.route is Route.CHAT else exchange.path[3:]
        target = (self._path + path).decode("latin-1")
        return f"{exchange.method} goes to {scheme}://{self.origin.host}:{self.origin.port}{target}"


def _without_account_protocols(fields: list[HeaderField]) -> list[HeaderField]:
    """The lines without those WebSocket subprotocols that are a key, an organization or a project."""
    kept: list[HeaderField] = []
    for line in fields:
        if line[0] == b"sec-websocket-protocol":
            offered = [protocol.strip() for protocol in line[2].split(b",")]
            plain = [protocol for protocol in offered if not protocol.lower().startswith(_ACCOUNT_PROTOCOLS)]
            if len(plain) < len(offered):
                kept.extend([header_field(b"Sec-WebSocket-Protocol", b", ".join(plain))] if plain else [])
                continue
        kept.append(line)
    return kept
