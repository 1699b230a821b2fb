"""The sockets clients come to. They outlive every worker, and with them the connections that wait to be accepted."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from proxy.settings.listen import Listen
from proxy.wire.endpoint import Bound, Endpoint, bind_slots

_SO_ATTACH_FILTER = 26
"""socket(7)."""
_KEEP_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A filter of one instruction, "return 0": of every packet no byte is kept."""


class Sockets:
    """One socket for each listener's address and each slot; a unix socket is one, for all slots.

    Raises OSError, with the listener as its ``filename``, if one cannot be had.
    """

    def __init__(self, listeners: Sequence[Listen], slots: int) -> None:
        self._bound: list[list[Bound]] = []
        self.urls: list[str] = []
        """Where clients reach the gateway, as a log names it."""
        try:
            for listen in listeners:
                self._bind(listen, slots)
        except BaseException:
            self.close()
            raise

    def _bind(self, listen: Listen, slots: int) -> None:
        endpoint = Endpoint(host=listen.host, port=listen.port, unix=listen.unix, mode=listen.permissions)
        try:
            bound = bind_slots(endpoint, slots)
        except OSError as error:
            error.filename = error.filename or f"{listen.place} (listen)"
            raise
        self._bound.append(bound)
        for sock in bound[0].sockets:
            url = endpoint.url(sock.getsockname())
            self.urls.append(url if listen.tls is None else url.replace("http", "https", 1))

    def of_slot(self, slot: int) -> list[tuple[socket.socket, ...]]:
        """The sockets a slot accepts on, for each listener."""
        return [bound[slot % len(bound)].sockets for bound in self._bound]

    def rest(self, slot: int) -> None:
        """Leave new clients to the other slots, until a worker of this one listens again.

        Those that wait here are reset. A listening socket keeps its address when it is shut down (tcp(7)). Unix
        sockets are every slot's.
        """
        for bound in self._bound:
            for sock in bound[slot].sockets if len(bound) > 1 else ():
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def turn_deaf(self) -> None:
        """Have the kernel drop what comes to open a connection, for good.

        Whoever waits can then be accepted, and the sockets closed, with nobody coming in between who would be reset:
        a dropped SYN is sent again after a second (RFC 6298 §2.1), and is refused then.
        """
        for bound in (bound for row in self._bound for bound in row):
            for sock in bound.sockets:
                if sock.family is not socket.AF_UNIX:
                    with suppress(OSError):
                        _drop_all(sock)

    def close(self) -> None:
        """Have no more clients, once the workers have let go of their copies too."""
        for rows in self._bound:
            for bound in rows:
                bound.close()
        self._bound.clear()


def _drop_all(sock: socket.socket) -> None:
    """Have every packet to a listening socket dropped; connections it has made already keep theirs."""
    program = array.array("B", _KEEP_NOTHING)
    address, _ = program.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, address))
