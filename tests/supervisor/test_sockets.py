"""The supervisor's sockets at the end: nobody comes in any more, and who waits is not reset."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from proxy.settings.listen import Listen
from proxy.supervisor.sockets import Sockets


def test_the_deaf_let_in_nobody_and_keep_who_is_there() -> None:
    with closing(Sockets([Listen(host="127.0.0.1", port=0)], 1)) as sockets:
        (row,) = sockets.of_slot(0)
        (listening,) = row
        listening.listen()
        address = listening.getsockname()
        with socket.create_connection(address, 5) as early:
            sockets.turn_deaf()
            with pytest.raises(TimeoutError):
                socket.create_connection(address, 0.1)
            early.sendall(b"hello")
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"
                accepted.sendall(b"you")
                assert early.recv(3) == b"you"
