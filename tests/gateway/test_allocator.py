"""The allocator's setting, asked of a process of its own: it is for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.process import ROOT

# mallinfo2(3): bytes in blocks that are mapped by themselves, before and after one of 200,000 bytes, when one of a
# megabyte was freed already, which would have raised the threshold.
_ASK = """
import ctypes
from proxy.gateway.allocator import LARGE_BYTES, map_large_blocks
class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
c = ctypes.CDLL(None)
c.mallinfo2.restype = Info
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes = [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
{call}
c.free(c.malloc(1 << 20))
before = c.mallinfo2().hblkhd
c.malloc(200_000)
print(c.mallinfo2().hblkhd > before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the setting")
@pytest.mark.parametrize(("call", "mapped"), [("map_large_blocks()", "True"), ("", "False")])
def test_large_blocks_are_mapped_by_themselves(call: str, mapped: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _ASK.format(call=call)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=30,
    )
    assert said.stdout.strip() == mapped
