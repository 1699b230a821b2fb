"""``python -m fuzz``: bytes nobody would send, and an oracle for each place that reads them.

`targets` says what is tried and what must hold, `engine` tries it in processes of its own, `raw` does the same to a
running gateway over sockets. The seeds are in ``tests/fuzz/seeds`` and run as tests too.
"""
