"""The notes below the tables."""

from __future__ import annotations

from bench.notes import of_memory, of_peers, of_rates
from bench.peers import PEERS


def test_what_a_peer_lacks_stands_beside_what_it_does_otherwise() -> None:
    notes = of_peers([PEERS["caddy"], PEERS["sluice"]])
    assert [note.partition(":")[0] for note in notes] == ["caddy", "caddy", "sluice"]
    assert notes[0] == "caddy: no limit: none is built in"
    assert "limits by gcra" in notes[2]


def test_of_every_peer_is_said_who_holds_its_uploads() -> None:
    streamed = {name for name, kind in PEERS.items() if "streams uploads" in kind.differs}
    held = {name for name, kind in PEERS.items() if "holds uploads" in kind.differs}
    assert streamed == {"nginx", "haproxy", "envoy", "caddy", "sluice"}
    assert held == set(PEERS) - streamed


def test_slow_peers_are_named_where_they_are_asked_less_often() -> None:
    kinds = [PEERS[name] for name in ("nginx", "tornado", "litellm", "sluice")]
    assert of_rates(kinds, ["first_byte_p99_ms", "json_us"]) == [
        "first bytes are those of 10 streams a second with tornado and litellm, of 200 with the others"
    ]
    assert of_rates(kinds, ["second_worker"]) == [
        "one worker and two are compared at 20 requests a second with litellm, at 2,000 with the others"
    ]
    assert of_rates(kinds, ["json_us"]) == []
    assert of_rates([PEERS["nginx"], PEERS["sluice"]], ["first_byte_p99_ms", "second_worker"]) == []


def test_how_memory_is_counted_is_said_where_it_was_measured() -> None:
    assert "once what they share" in of_memory(["json_us", "rss_idle_mib"])[0]
    assert of_memory(["json_us"]) == []
