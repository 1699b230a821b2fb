"""What a request costs as work grows: one curve for each thing that may grow, and whether it is flat or linear.

    python -m bench.curves

A curve has the CPU time of one request at several sizes: more stages, networks, limited keys, header lines, or a
longer prompt. Allowlist and limit are to be flat, and nothing may be worse than linear.
"""
