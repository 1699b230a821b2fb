"""The start of a peer: what counts as forwarding, and what becomes of those that do not."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from bench.peers import Peer, Target
from bench.request import ANSWER

CORES = os.sched_getaffinity(0)


class Script(Peer):
    """A gateway in a few lines of Python, which find their port in ``sys.argv``."""

    name = "script"
    has_workers = False
    start_timeout_s = 1.0
    text = ""

    def configure(self) -> list[str]:
        return [sys.executable, "-c", self.text, str(self.port)]

    def version(self) -> str:
        return "1"


ANSWERING = """
import http.server, sys
statuses = iter({statuses})
class Answerer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        status = next(statuses)
        self.send_response(status)
        self.end_headers()
        self.wfile.write({answer!r})
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answerer).serve_forever()
"""


def script(directory: Path, text: str) -> Script:
    peer = Script(directory, Target(1))
    peer.text = text
    return peer


def test_503_means_not_yet(tmp_path: Path) -> None:
    peer = script(tmp_path, ANSWERING.format(statuses=[503, 503, 200], answer=ANSWER))
    peer.start_timeout_s = 15.0
    peer.start(CORES)
    peer.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit('no such file')", "status 1:\nno such file"),
        ("import time; print('waiting', flush=True); time.sleep(60)", "script does not forward; it said:\nwaiting"),
        (ANSWERING.format(statuses=[401], answer=b"no"), "script answers 401: b'no'"),
        (ANSWERING.format(statuses=[200], answer=b"other"), "script answers 200: b'other'"),
        (ANSWERING.format(statuses=[503] * 10_000, answer=b"no"), "script does not forward, and answers 503: b'no'"),
    ],
    ids=["ends", "hangs", "refuses", "answers otherwise", "has nowhere to forward to"],
)
def test_what_does_not_forward_is_said_and_ended(text: str, said: str, tmp_path: Path) -> None:
    peer = script(tmp_path, text)
    started = time.monotonic()
    with pytest.raises(RuntimeError) as failure:
        peer.start(CORES)
    assert said in str(failure.value)
    assert time.monotonic() - started < 10
    assert cast(object, peer.process) is None
