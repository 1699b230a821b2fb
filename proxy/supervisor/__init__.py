"""The supervisor: owns the sockets, keeps the workers alive, and is the admin plane's home.

It is single-threaded, on asyncio's own loop, and never serves a client: so it can fork at any time, and hardly fail.
"""
