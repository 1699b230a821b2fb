"""Which server to ask: the only one, the one the sentinels name, or the node of a cluster that has the slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from proxy.limits.address import Host, StoreAddress
from proxy.limits.redis_call import CLUSTER_SLOTS, command
from proxy.limits.redis_link import Late, Link, Trouble, connect, scrubbed

CONNECT_S = 0.4
"""For finding the server and connecting to it. Callers do not wait so long, each has its own budget."""

_HERE: Host = ("", 0)
"""The host of a unix socket."""


class Opener:
    """Connects to servers of one address, once however many callers wait for it."""

    def __init__(self, address: StoreAddress, ca_file: str | None, on_open: Callable[[Link], None]) -> None:
        self.address = address
        self.ca_file = ca_file
        self._on_open = on_open
        self._under_way: dict[Host, asyncio.Task[Link]] = {}
        self._links: set[Link] = set()

    async def fresh(self, host: Host) -> Link:
        """A new connection."""
        link = await connect(self.address, host, self.ca_file)
        self._links.add(link)
        link.reading.add_done_callback(lambda _: self._links.discard(link))
        self._on_open(link)
        return link

    async def shared(self, host: Host, find: Callable[[], Coroutine[Any, Any, Link]]) -> Link:
        """What ``find`` gives, asked once for all who want this host meanwhile. A caller that leaves ends nothing."""
        task = self._under_way.get(host)
        if task is None:
            task = self._under_way[host] = asyncio.get_running_loop().create_task(self._in_time(find))
            task.add_done_callback(lambda done: self._done(host, done))
        try:
            return await asyncio.shield(task)
        except Trouble as error:
            raise Trouble(error.reason, str(error)) from None

    def _done(self, host: Host, task: asyncio.Task[Link]) -> None:
        del self._under_way[host]
        if not task.cancelled():
            task.exception()  # looked at, also where every caller has left

    @staticmethod
    async def _in_time(find: Callable[[], Coroutine[Any, Any, Link]]) -> Link:
        try:
            async with asyncio.timeout(CONNECT_S):
                return await find()
        except TimeoutError:
            raise Trouble("connect", f"no connection within {CONNECT_S * 1000:.0f} ms") from None

    async def close(self) -> None:
        """End the attempts under way, and all connections."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*[link.close() for link in self._links])


class Single:
    """One server: the address's own, or the master of a service that sentinels watch."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._link: Link | None = None

    async def ask(self, slot: int, sent: bytes, late: Late | None) -> object:
        """Send a command to the server; the slot does not matter."""
        link = self._link
        if link is None or not link.is_up:
            link = await self._opener.shared(_HERE, self._open)
        return await link.ask(sent, late)

    async def _open(self) -> Link:
        link = await self._opener.fresh(await self._find())
        self._adopt(link)
        return link

    async def _find(self) -> Host:
        address = self._opener.address
        if address.kind == "sentinel":
            return await _master(address, self._opener.ca_file)
        return address.hosts[0] if address.hosts else _HERE

    def _adopt(self, link: Link) -> None:
        if self._link is not None:
            self._link.retire()
        self._link = link

    async def renew(self, slot: int, sent: bytes, timeout_s: float) -> object:
        """Connect anew and try a command there; if it answers, further calls go there. Raises `Trouble`."""
        host = await self._find()
        return await _tried(await self._opener.fresh(host), sent, timeout_s, self._adopt)

    def distrust(self, seconds: float) -> None:
        """The last call failed: forget the connection if it has not answered anything for so long."""
        if self._link is not None and self._link.is_silent(seconds):
            self.forget()

    def forget(self) -> None:
        """The server is not the one to ask any more: find it anew."""
        if self._link is not None:
            self._link.retire()
            self._link = None

    async def close(self) -> None:
        """Close the connection."""
        await self._opener.close()


class Cluster:
    """The nodes of a cluster: a slot's calls go where the cluster's map, or a redirection since, has it."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._links: dict[Host, Link] = {}
        self._nodes: list[Host] = list(opener.address.hosts)
        self._owners: list[Host | None] = [None] * CLUSTER_SLOTS
        self._mapping: asyncio.Task[None] | None = None

    async def ask(self, slot: int, sent: bytes, late: Late | None) -> object:
        """Send a command to the node that has the slot. A command that was redirected was not carried out."""
        from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

        host = self._owners[slot]
        if host is None:
            host = await self._find(slot)
        asking = False
        while True:
            link = await self._link(host)
            if asking:
                # In one write, so that no other call comes between on this connection.
                answer = await link.ask(command(b"ASKING") + sent, late, answers=2)
            else:
                answer = await link.ask(sent, late)
            if isinstance(answer, AskError) and not isinstance(answer, MovedError):
                host, asking = (answer.host or host[0], answer.port), True
            elif isinstance(answer, MovedError):
                host, asking = (answer.host or host[0], answer.port), False
                self._owners[slot] = host
                self._map_again()
            elif isinstance(answer, TryAgainError):
                # The keys of the call are on two nodes, until the last of them has moved.
                await asyncio.sleep(0.002)
                host, asking = self._owners[slot] or host, False
            else:
                if isinstance(answer, ClusterDownError):
                    self._map_again()
                return answer

    async def _link(self, host: Host) -> Link:
        link = self._links.get(host)
        if link is not None and link.is_up:
            return link
        try:
            return await self._opener.shared(host, lambda: self._open(host))
        except Trouble:
            # Unless it is the map that looks for a node: it goes on with the next one itself.
            self._map_again()
            raise

    async def _open(self, host: Host) -> Link:
        link = await self._opener.fresh(host)
        self._adopt(link)
        return link

    def _adopt(self, link: Link) -> None:
        before = self._links.get(link.host)
        if before is not None:
            before.retire()
        self._links[link.host] = link

    async def _find(self, slot: int) -> Host:
        await asyncio.shield(self._map_again())
        host = self._owners[slot]
        if host is None:
            raise Trouble("connect", "no node of the cluster that answers knows who has the slot")
        return host

    def _map_again(self) -> asyncio.Task[None]:
        if self._mapping is None or self._mapping.done():
            self._mapping = asyncio.get_running_loop().create_task(self._map())
        return self._mapping

    async def _map(self) -> None:
        """Ask the nodes for the map of slots, one after the other until one answers."""
        hosts = list(dict.fromkeys((*self._nodes, *self._opener.address.hosts)))
        hosts.sort(key=lambda host: host not in self._links or not self._links[host].is_up)
        for host in hosts:
            with suppress(Trouble, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    answer = await (await self._link(host)).ask(command(b"CLUSTER", b"SLOTS"))
                if isinstance(answer, list):
                    self._learn(answer, host)
                    return

    def _learn(self, slots: list[Any], asked: Host) -> None:
        """Take over the answer to ``CLUSTER SLOTS``: of each range the first and last slot, the master, replicas."""
        owners: list[Host | None] = [None] * CLUSTER_SLOTS
        nodes: dict[Host, None] = {}
        for first, last, master, *replicas in slots:
            for node in (master, *replicas):
                nodes[_named(node, asked)] = None
            owners[first : last + 1] = [_named(master, asked)] * (last + 1 - first)
        self._owners, self._nodes = owners, list(nodes)
        for host in [host for host in self._links if host not in nodes]:
            self._links.pop(host).retire()

    async def renew(self, slot: int, sent: bytes, timeout_s: float) -> object:
        """Ask for the map again, connect anew and try a command there. Raises `Trouble`."""
        await asyncio.shield(self._map_again())
        host = self._owners[slot]
        if host is None:
            raise Trouble("connect", "no node of the cluster answers")
        return await _tried(await self._opener.fresh(host), sent, timeout_s, self._adopt)

    def distrust(self, seconds: float) -> None:
        """The last call failed: forget connections that have not answered anything for so long."""
        for host in [host for host, link in self._links.items() if link.is_silent(seconds)]:
            self._links.pop(host).retire()
            self._map_again()

    def forget(self) -> None:
        """Some node does not have the slots it had: ask for the map anew."""
        self._map_again()

    async def close(self) -> None:
        """Close all connections."""
        if self._mapping is not None:
            self._mapping.cancel()
            await asyncio.gather(self._mapping, return_exceptions=True)
        await self._opener.close()


def _named(node: list[Any], asked: Host) -> Host:
    """A node of the map; one without a name is the node that was asked."""
    name = (node[0] or b"").decode()
    return (name if name not in ("", "?") else asked[0], int(node[1]))


async def _tried(link: Link, sent: bytes, timeout_s: float, adopt: Callable[[Link], None]) -> object:
    try:
        async with asyncio.timeout(timeout_s):
            answer = await link.ask(sent)
    except BaseException:
        await link.close()
        raise
    adopt(link)
    return answer


async def _master(address: StoreAddress, ca_file: str | None) -> Host:
    """Ask the sentinels for the master, one after the other. Raises `Trouble`."""
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    each_s = CONNECT_S / (len(address.hosts) + 1)
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        address.hosts,
        sentinel_kwargs={
            "username": address.sentinel_username or None,
            "password": address.sentinel_password or None,
            "socket_timeout": each_s,
            "socket_connect_timeout": each_s,
            "retry": Retry(NoBackoff(), 0),
            "ssl": address.is_tls,
            **({"ssl_ca_certs": ca_file, "ssl_check_hostname": True} if address.is_tls else {}),
        },
    )
    try:
        host, port = await sentinels.discover_master(address.service)
    except (RedisError, OSError) as error:
        raise Trouble("connect", f"the sentinels name no master: {scrubbed(error, address)}") from None
    finally:
        await sentinels.aclose()
    return str(host), int(port)
