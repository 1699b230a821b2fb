"""What holds when things go wrong: faults, aborts, cuts, drains and slow peers in numbers, each with its figure.

    make soak                       every figure at full counts
    python -m soak G1 G9 --quick    two of them, roughly

The gateway runs in a process of its own; clients, upstream and ledger share the one that judges. Everything stays on
this machine: on loopback, and limits between network namespaces where it allows them. `tests/soak` runs the same code
with small counts.
"""
