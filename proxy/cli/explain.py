"""``sluice explain``: take one imagined request through the chain, and say which stage decides what, and why."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Iterator, Mapping

from proxy.cli.config import shown_values
from proxy.cli.options import add_config_options, load_from
from proxy.core.address import (
    CLIENT_IP_HEADERS,
    UNIX,
    TrustedProxies,
    client_finder,
    normalise_peer,
    parse_address,
)
from proxy.core.catalogue import Catalogue, find_locales
from proxy.core.chain import Chain
from proxy.core.exchange import Exchange, Route
from proxy.core.headers import Headers
from proxy.core.reply import Reply
from proxy.core.stage import Mode, Stage
from proxy.gateway.chat_contract import Refused, parse
from proxy.gateway.plane import chat_defaults
from proxy.gateway.routes import Destination, Routes
from proxy.limits.memory import MemoryStore
from proxy.settings import Kind, Loaded, Settings
from proxy.settings.problems import dotted
from proxy.settings.stores import STORE, shown_store, store_of
from proxy.stages import Services, build
from proxy.stages.limit import Limit


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command."""
    parser = subparsers.add_parser(
        "explain",
        help="say what the chain would do with a request, and why",
        description="Take an imagined request through the chain. Nothing is sent and nothing is counted: a limit "
        "answers as it would to a client it has not seen yet.",
    )
    add_config_options(parser)
    parser.add_argument("--method", default="POST", help="default %(default)s")
    parser.add_argument("--path", default="/v1/chat/completions", help="path and query (default %(default)s)")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="a request header; may be repeated"
    )
    parser.add_argument(
        "--client-ip", default="127.0.0.1", metavar="IP", help="the socket's peer, or unix (default %(default)s)"
    )
    parser.add_argument("--body", default="", help="the request body, which only the chat route looks into")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the way of the request. 0 = it would be forwarded, 1 = it would be answered here, 2 = bad arguments."""
    loaded = load_from(args, environ)
    try:
        exchange = _exchange(args, loaded.settings)
    except ValueError as error:
        print(f"sluice explain: {error}", file=sys.stderr)
        return 2
    destination = Routes(loaded.settings.simple_chat.route).destination(exchange.target)
    print(f"{exchange.method} {exchange.path.decode('latin-1')}")
    for line in _address_lines(exchange, loaded):
        print(line)
    if destination not in (Destination.API, Destination.CHAT):
        print(f"  answered without the chain: {_LOCAL[destination]}")
        return 1
    if destination is Destination.CHAT and exchange.method != "POST":
        print("  answered without the chain: 405, the chat route takes POST only")
        return 1
    return asyncio.run(_walk(exchange, args.body.encode("utf-8"), loaded))


_SPELLED = {"x-forwarded-for": "X-Forwarded-For", "forwarded": "Forwarded", "cf-connecting-ip": "CF-Connecting-IP"}
_LOCAL = {
    Destination.HEALTHZ: "200, the process is alive",
    Destination.READYZ: "200 while the gateway takes new work, else 503",
    Destination.NOWHERE: "404, nothing is there",
}


def _exchange(args: argparse.Namespace, settings: Settings) -> Exchange:
    """The imagined request. Raises ValueError if it cannot be imagined."""
    pairs = []
    for header in args.header:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"--header {header!r}: write it like 'Authorization: Bearer sk-...'")
        pairs.append((name.strip(), value.strip()))
    if not args.path.startswith("/") or not args.path.isascii():
        raise ValueError(f"--path {args.path!r}: a path begins with / and holds ASCII characters only")
    if args.client_ip != UNIX:
        parse_address(args.client_ip)
    headers = Headers.from_pairs(pairs)
    target = args.path.encode("ascii")
    peer_ip = normalise_peer(args.client_ip)
    find = client_finder(settings.client_ip_header, TrustedProxies.parse(settings.trusted_proxies))
    is_chat = Routes(settings.simple_chat.route).destination(target) is Destination.CHAT
    return Exchange(
        method=args.method.upper(),
        target=target,
        headers=headers,
        peer_ip=peer_ip,
        client_ip=find(peer_ip, headers)[0],
        route=Route.CHAT if is_chat else Route.API,
    )


def _address_lines(exchange: Exchange, loaded: Loaded) -> Iterator[str]:
    origin = loaded.origins.get("trusted_proxies")
    counting = loaded.settings.client_ip_header
    # One that does not count is told of too: whoever sends it expects it to.
    sent = [name for name in (counting, *CLIENT_IP_HEADERS) if exchange.headers.get(name.encode("ascii")) is not None]
    shown = _SPELLED[sent[0]] if sent else ""
    if exchange.client_ip != exchange.peer_ip:
        yield f"  from {exchange.client_ip}: the peer {exchange.peer_ip} is a trusted proxy ({origin})"
    elif not sent:
        yield f"  from {exchange.peer_ip}"
    elif sent[0] == counting:
        yield f"  from {exchange.peer_ip}: its {shown} counts for nothing (trusted_proxies: {origin})"
    else:
        why = f"client_ip_header = {counting}: {loaded.origins.get('client_ip_header')}"
        yield f"  from {exchange.peer_ip}: its {shown} counts for nothing ({why})"


async def _walk(exchange: Exchange, body: bytes, loaded: Loaded) -> int:
    """Run the real chain, stage by stage as the gateway does, then say what each one did."""
    settings = loaded.settings
    services = Services(
        clock=asyncio.get_running_loop().time,
        store=MemoryStore(asyncio.get_running_loop().time),
        hop_id=os.urandom(8).hex().encode("ascii"),
    )
    chain = Chain(build(name, settings.stages[name], services) for name in settings.chain)
    waited_at = ""
    reply: Reply | None = None
    while True:
        verdict = chain.proceed(exchange)
        if isinstance(verdict, Awaitable):
            verdict = await verdict
        if verdict is None or isinstance(verdict, Reply):
            reply = verdict
            break
        waited_at = chain.names[exchange.entered]
        exchange.body = body
        if exchange.route is Route.CHAT:
            try:
                exchange.body_credential = parse(body, chat_defaults(settings)).api_key
            except Refused as refused:
                reply = refused.reply
                break
    verdicts = dict(chain.verdicts(exchange))
    for number, stage in enumerate(chain.stages, 1):
        _print_stage(number, stage, verdicts.get(stage.name), exchange, loaded, waits=stage.name == waited_at)
    if reply is None:
        return 0
    text = Catalogue.load(find_locales()).text(reply.sentences, settings.language)
    print(f"  answered here: {reply.status} {reply.code}: {text}")
    return 1


def _print_stage(
    number: int, stage: Stage, verdict: str | None, exchange: Exchange, loaded: Loaded, *, waits: bool
) -> None:
    if stage.mode is Mode.OFF:
        verdict = "off"
    reached = verdict is not None and stage.mode is not Mode.OFF
    why, *others = stage.explain(exchange).split("; ") if reached else [""]
    print(f"  {number}. {stage.name:<14} {verdict or 'not reached':<28} {why}".rstrip())
    for other in others:
        print(f"{'':<48} {other}")
    if waits:
        print("       the later stages wait here until the body is in")
    if not reached:
        return
    if isinstance(stage, Limit) and stage.counts:
        store = loaded.settings.limits.store
        where = str(store_of(loaded.settings)) if store is None else shown_store(store.get_secret_value())
        print(f"       counted in: {where}  ({loaded.origins[dotted(STORE)]})")
    for name, value, origin in shown_values(loaded, f"stages.{stage.name}."):
        if origin.kind is not Kind.DEFAULT:
            print(f"       {name} = {value}  ({origin})")
