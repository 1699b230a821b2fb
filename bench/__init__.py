"""What a request costs: CPU time of a gateway per forwarded request and per streamed event, beside its peers.

    make bench

On two cores the gateway has the first to itself; upstream and load share the second. Everything stays on loopback.
The peers take turns, round by round, so that what else the machine does meets all of them alike.
"""
