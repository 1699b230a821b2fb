"""What gateways cost, side by side: CPU time, added latency, memory, start-up; with a plain and a TLS upstream.

    make bench

On two cores the gateway has the first to itself; upstream and load share the second. Everything stays on loopback.
The peers take turns, round by round, so that what else the machine does meets all of them alike.
"""
