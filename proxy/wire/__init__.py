"""HTTP/1.1 on httptools and asyncio transports, behind Tornado's delegate contract.

httptools reads heads; where a body begins and ends is decided by ``framing.py``, because the parser does not
tell at which byte a message stopped. Whatever passes the parser passes the strict gate in ``head.py`` next.
"""
