"""``sluice limits``: ask the running gateway where a client stands with its limits, or have it forgotten."""

from __future__ import annotations

import argparse
import getpass
import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote

from proxy.admin.token import find_token
from proxy.cli.options import add_config_options, load_from
from proxy.settings import Settings
from proxy.stages.limit_rules import KEY_PREFIX
from proxy.stages.subjects import key_id

_TIMEOUT_S = 10.0
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_SUBJECT = (
    "203.0.113.7, unix, /v1/embeddings, sha256:HASH (a key), or parts by name for a limit that counts by several: "
    "client_ip=203.0.113.7,path=/v1/embeddings; credential=- asks for the key itself"
)


class _Refused(Exception):
    """The gateway could not be asked, or had nothing to say."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command."""
    parser = subparsers.add_parser(
        "limits",
        help="show or reset what a client has left of its limits",
        description="Ask the gateway of this configuration, running on this machine, through its admin listener.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="show | reset")
    for action, about in (("show", "what a subject has left"), ("reset", "forget what a subject has sent")):
        command = actions.add_parser(action, help=about)
        command.add_argument("subject", metavar="SUBJECT", help=_SUBJECT)
        add_config_options(command)
        command.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print what the gateway answers. 0 = done, 1 = it could not be asked, or knows no such subject."""
    settings = load_from(args, environ).settings
    try:
        subject = _without_keys(args.subject)
        answer = _ask(settings, environ, "GET" if args.action == "show" else "DELETE", subject)
    except _Refused as refused:
        print(f"sluice limits: {refused}", file=sys.stderr)
        return 1
    for line in _shown(answer["limits"]) if args.action == "show" else _forgotten(answer["forgotten"]):
        print(line)
    return 0


def _without_keys(subject: str) -> str:
    """The subject with every key replaced by its hash: the key itself is nobody's business on the way."""
    pairs = []
    for pair in subject.split(","):
        name, equals, value = pair.partition("=")
        if equals and name == "credential" and not value.startswith(KEY_PREFIX):
            value = getpass.getpass("Key: ") if value == "-" and sys.stdin.isatty() else value
            value = sys.stdin.readline().strip() if value == "-" else value
            pair = f"credential={KEY_PREFIX}{key_id(value)}"
        elif pair.startswith("sk-"):
            pair = f"{KEY_PREFIX}{key_id(pair)}"
        pairs.append(pair)
    return ",".join(pairs)


def _ask(settings: Settings, environ: Mapping[str, str], method: str, subject: str) -> dict[str, Any]:
    """The answer of the admin plane. Raises _Refused with words for the operator."""
    admin = settings.admin
    if not admin.enabled:
        raise _Refused("the admin listener is off (admin.enabled), and the gateway is asked through it")
    host, port = _WILDCARDS.get(admin.host, admin.host), admin.port
    try:
        token = admin.token.get_secret_value() if admin.token is not None else find_token(port, environ)
    except OSError as error:
        raise _Refused(f"no way to ask the gateway with admin port {port}: {error.strerror}") from None
    try:
        with closing(http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)) as connection:
            target = f"/-/limits?subject={quote(subject, safe='')}"
            connection.request(method, target, headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _Refused(f"no answer from the admin listener at {host}:{port}: {error}") from None
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        answer = {"error": body.decode("utf-8", "replace").strip()[:200] or f"status {response.status}"}
    if response.status != 200:
        raise _Refused(str(answer.get("error", f"status {response.status}")))
    return answer


def _shown(limits: list[dict[str, Any]]) -> Iterator[str]:
    width = max([len(limit["limit"]) for limit in limits], default=0)
    for limit in limits:
        left = f"{limit['remaining']} of {limit['requests']} left in {limit['window_s']} s"
        if not limit["seen"]:
            left += ", not seen lately"
        elif limit["reset_s"]:
            left += f", more in {limit['reset_s']:g} s"
        yield f"{limit['limit']:<{width}}  {left}"


def _forgotten(names: list[str]) -> Iterator[str]:
    yield f"forgotten in {', '.join(names)}" if names else "there was nothing to forget"
