"""What only the kernel knows: memory and descriptors of a process, queues and states of sockets (proc(5), tcp(7))."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import struct
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_SIOCOUTQ = 0x5411
# <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = (0xFFFFFFFF, 0xFFFFFFFF)
ESTABLISHED = 1
"""TCP_ESTABLISHED of <netinet/tcp.h>."""


def rss_bytes(pid: int) -> int:
    """The resident memory of a process."""
    return _status(pid, "VmRSS:")


def peak_rss_bytes(pid: int) -> int:
    """The most it was resident with since its start or `forget_peak`."""
    return _status(pid, "VmHWM:")


def forget_peak(pid: int) -> None:
    """Let `peak_rss_bytes` begin anew."""
    (_PROC / str(pid) / "clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")


def fds(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(_PROC / str(pid) / "fd"))


def raise_fd_limit() -> int:
    """Allow this process and its children as many descriptors as the hard limit says; that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Entry(NamedTuple):
    """One TCP socket of this machine: its state, and the bytes its owner has not read."""

    state: int
    unread: int


class Sockets:
    """Looks single sockets up by sock_diag(7); the table in /proc would be walked as a whole, for milliseconds."""

    def __init__(self) -> None:
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)

    def find(self, local_port: int, remote_port: int) -> Entry | None:
        """The socket of 127.0.0.1 between two ports; None if there is none. Raises OSError."""
        loopback = socket.inet_aton("127.0.0.1") + b"\0" * 12
        wanted = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, _ALL_STATES)
        wanted += struct.pack(">HH", local_port, remote_port) + loopback + loopback
        wanted += struct.pack("=III", 0, *_NO_COOKIE)
        self._kernel.send(
            struct.pack("=IHHII", 16 + len(wanted), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + wanted
        )
        answer = self._kernel.recv(8192)
        if struct.unpack_from("=H", answer, 4)[0] == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", answer, 16)[0]
            if number == errno.ENOENT:
                return None
            raise OSError(number, os.strerror(number))
        # struct inet_diag_msg: family, state, two timers, 48 bytes of ports and addresses, expiry, receive queue.
        return Entry(answer[17], struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0])

    def close(self) -> None:
        """Let go."""
        self._kernel.close()


def unacknowledged(sock: socket.socket) -> int:
    """Bytes written that the other side's kernel has not taken yet."""
    answer = fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])
