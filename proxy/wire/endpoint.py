"""Where a listener listens: a TCP address or a unix socket, and what is spoken before HTTP there."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.wire.tls import ServerTls

BACKLOG = 1024
KEEP_ALIVE_IDLE_S = 30
KEEP_ALIVE_INTERVAL_S = 10
KEEP_ALIVE_PROBES = 3
"""A client that vanished without a word is noticed after 30 + 3 x 10 seconds, if nothing is being sent to it."""
OUT_OF_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the kernel says when it has no descriptor or no memory left: a state of this machine, which passes."""
_Found = Sequence[tuple[int, int, int, str, tuple[object, ...]]]
LOCK_TRIES = 20
LOCK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address to listen on. ``unix`` (a path) counts instead of ``host`` and ``port`` where it is set.

    ``host`` "" = every address of this machine; ``port`` 0 = any free one; ``mode`` = the file mode of the unix
    socket, None = as the umask has it; ``proxy_protocol`` = every connection must begin with a PROXY header.
    """

    host: str = ""
    port: int = 0
    unix: str | None = None
    mode: int | None = None
    tls: ServerTls | None = None
    proxy_protocol: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether HTTP begins with a connection's first byte."""
        return self.tls is None and not self.proxy_protocol

    def url(self, name: tuple[str, int] | str) -> str:
        """How a log names a socket of this endpoint, bound to ``name``."""
        scheme = "https" if self.tls is not None else "http"
        if isinstance(name, str):
            return f"{scheme}+unix:{name}"
        host, port = name[0], name[1]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@dataclass(frozen=True, slots=True)
class UnixFile:
    """The file of a unix socket of ours."""

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, if it is still ours: somebody may have put another in its place.

        To be called before the socket is closed: until then the kernel gives its inode to no other file.
        """
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or its folder is not ours to change any more


@dataclass(frozen=True, slots=True)
class Bound:
    """The sockets of an endpoint, listening; ``file`` is the unix socket's."""

    sockets: tuple[socket.socket, ...]
    file: UnixFile | None = None

    def close(self) -> None:
        """Give everything back."""
        if self.file is not None:
            self.file.remove()
        for sock in self.sockets:
            sock.close()


async def bind(endpoint: Endpoint) -> Bound:
    """Bind an endpoint. Raises OSError if it cannot be had, with the path of a unix socket as its ``filename``."""
    if endpoint.unix is not None:
        return bind_unix(endpoint.unix, endpoint.mode)
    found = await asyncio.get_running_loop().getaddrinfo(
        endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return _bind_rows(found, 1)[0]


def bind_slots(endpoint: Endpoint, slots: int) -> list[Bound]:
    """Bind an endpoint once for each of so many processes that share its port; blocks while a name is looked up.

    The kernel spreads new connections over the processes (SO_REUSEPORT, socket(7)); where ``port`` is 0 the first
    socket decides. A unix socket cannot be had several times: then there is one `Bound`, for all of them. Raises
    OSError as `bind` does, also if another process, even one of ours, has the port.
    """
    if endpoint.unix is not None:
        return [bind_unix(endpoint.unix, endpoint.mode)]
    return _bind_rows(
        socket.getaddrinfo(endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE),
        slots,
    )


def _bind_rows(found: _Found, rows: int) -> list[Bound]:
    """So many times one socket for each address that was found."""
    sockets: list[list[socket.socket]] = [[] for _ in range(rows)]
    failed: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                name = _free_name(family, address) if rows > 1 else address
                for row in sockets:
                    row.append(_bind_tcp(family, name, is_shared=rows > 1))
            except OSError as error:
                # A name may stand for ::1 on a machine without IPv6: one address that is there is enough.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                failed = error
        if failed is not None and not sockets[0]:
            raise failed
    except BaseException:
        for row in sockets:
            for sock in row:
                sock.close()
        raise
    return [Bound(tuple(row)) for row in sockets]


def _free_name(family: int, address: tuple[object, ...]) -> tuple[object, ...]:
    """The address with its port, if nobody has it: SO_REUSEPORT would let us in beside another gateway."""
    with _bind_tcp(family, address, listens=False) as probe:
        name: tuple[object, ...] = probe.getsockname()
        return name


def _bind_tcp(
    family: int, address: tuple[object, ...], *, is_shared: bool = False, listens: bool = True
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # Elsewhere the option would let two processes share a port without knowing of each other.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        keep_alive(sock)
        sock.bind(address)
        if listens:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel ask silent clients whether they are still there; accepted sockets inherit it."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_ALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEP_ALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEP_ALIVE_PROBES),
    ):
        option = getattr(socket, name, None)  # macOS calls the first one otherwise
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def bind_unix(path: str, mode: int | None = None) -> Bound:
    """Bind a unix socket. A socket file that nobody listens on any more is replaced.

    Raises OSError with the path as its ``filename``: if somebody listens there, if another kind of file is there, or
    (EAGAIN) if another process keeps the folder locked.
    The mode is set before the socket listens, and until it listens the kernel refuses everybody, so that nobody gets
    in under a mode not asked for; a changed umask would have served too, but the umask is the whole process's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file: UnixFile | None = None
    try:
        with _alone_in(os.path.dirname(path) or "."):
            _clear_the_way(path)
            sock.bind(path)
            made = os.lstat(path)
            file = UnixFile(path, made.st_dev, made.st_ino)
            if mode is not None:
                os.chmod(path, mode)
            # Still alone: to a process that asks who is there, a socket that does not listen yet is a dead one.
            sock.listen(BACKLOG)
    except OSError as error:
        Bound((sock,), file).close()
        raise OSError(error.errno, error.strerror or str(error), path) from None
    return Bound((sock,), file)


@contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """While one process replaces a dead socket in this folder, another of ours must not take the new one for dead.

    Whoever may read the folder may lock it, for as long as they like: after about a second this raises OSError
    (EAGAIN) with the folder as its ``filename``.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(LOCK_TRIES):
            if _has_locked(descriptor):
                break
            # The loop has nothing else to do yet: listeners are bound before anybody is served.
            time.sleep(LOCK_EVERY_S)
        else:
            raise OSError(errno.EAGAIN, "another process keeps its folder locked", folder)
        yield
    finally:
        os.close(descriptor)


def _has_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_the_way(path: str) -> None:
    """Remove a dead socket's file. Raises OSError if what is there is alive, or no socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "a file that is no socket is there already")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except PermissionError:
            raise
        except OSError:
            pass  # a full queue, or a socket of another kind: alive in any case
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
