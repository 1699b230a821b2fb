"""The exchange: all that is known about one request and its answer."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from proxy.core.headers import Headers

if TYPE_CHECKING:
    from proxy.core.rate import Admission
    from proxy.core.reply import Reply


class Route(StrEnum):
    """Which contract an exchange follows; decides the shape of our own answers."""

    API = "api"  # OpenAI's own, below /v1
    CHAT = "chat"  # the simple chat contract, POST /<route>


class UpstreamSent(StrEnum):
    """Whether the request may have reached the upstream, and so may have been billed."""

    NO = "no"
    UNKNOWN = "unknown"
    YES = "yes"


# Names of their own: on Python 3.11 a look into the class of an Enum costs as much as three calls.
NOT_SENT, MAYBE_SENT, SENT = UpstreamSent


class Exchange:
    """One request and its answer. Each field has one writer, named in the comment above it."""

    __slots__ = (
        "aborted",
        "authorization",
        "body",
        "body_credential",
        "bytes_in",
        "bytes_out",
        "client_ip",
        "completed",
        "credential",
        "credential_source",
        "entered",
        "first_byte_s",
        "forwarded_chain",
        "headers",
        "limited",
        "method",
        "model",
        "peer_ip",
        "refused_with",
        "reply",
        "request_id",
        "response_headers",
        "route",
        "sequence",
        "shadowed",
        "started_ns",
        "started_s",
        "status",
        "step",
        "stream",
        "target",
        "upstream_sent",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        peer_ip: str,
        client_ip: str = "",
        route: Route = Route.API,
        request_id: str = "",
        sequence: int = 0,
        started_ns: int = 0,
        started_s: float = 0.0,
        forwarded_chain: str = "",
    ) -> None:
        # the data plane, when the head is in
        self.method = method
        self.target = target  # raw bytes: path and query as they came
        self.headers = headers
        self.peer_ip = peer_ip
        self.client_ip = client_ip or peer_ip
        self.forwarded_chain = forwarded_chain
        self.route = route
        self.request_id = request_id
        self.sequence = sequence
        self.started_ns = started_ns  # wall clock
        self.started_s = started_s  # monotonic clock
        # the delegate, as the body comes in; None until it is whole, and for good if nobody wanted it
        self.body: bytes | None = None
        self.body_credential: str | None = None  # the chat route: its field api_key
        self.model: str | None = None
        self.bytes_in = 0
        # the key stage
        self.credential: str | None = None
        self.credential_source: str | None = None  # "client", "server", or None: no key stage ran
        self.authorization: bytes | None = None  # replaces what the client sent; None = as it came
        # the limit stages: what each was granted or refused, by the stage's name
        self.limited: dict[str, Admission] | None = None
        # the forwarder
        self.upstream_sent = NOT_SENT
        self.status = 0
        self.response_headers: Headers | None = None
        self.bytes_out = 0
        self.first_byte_s = 0.0
        # of a stream of events: "complete" with its last event, "truncated" without; "" if it promises none
        self.stream = ""
        self.aborted = ""  # "", "client", "upstream" or "gateway": who ended it early
        self.refused_with = ""  # the code of an answer of ours that no stage asked for
        # the chain
        self.step = 0
        self.entered = -1  # index of the stage it stands at; -1 = no chain was asked
        self.reply: Reply | None = None
        self.shadowed: list[tuple[str, Reply]] | None = None
        self.completed = False

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    def __repr__(self) -> str:
        path = self.path.decode("latin-1")
        return f"<Exchange {self.request_id} {self.method} {path} from {self.client_ip} status={self.status}>"
