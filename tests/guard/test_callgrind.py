"""What callgrind writes, and what is made of it."""

from __future__ import annotations

from pathlib import Path

from guard import callgrind

PART = """\
# callgrind format
version: 1
pid: 4711
part: 2

positions: line
events: Ir
summary: 3539

ob=(1) /usr/lib/libpython3.11.so.1.0
fl=(52) /build/Python/ceval.c
fn=(7) _PyEval_EvalFrameDefault'2
0 1000
fi=(53) /build/Include/object.h
+1 39
cob=(2) /usr/lib/x86_64-linux-gnu/libc.so.6
cfi=(3) ???
cfn=(9) malloc
calls=2 0
0 700

fn=(8) list_dealloc.lto_priv.0
* 40
cfn=(7)
calls=1 1630
* 1539

ob=(2)
fn=(9)
0 300
fn=(10) 0x000000000001ab70
0 60
fn=(11) 0x000000000001ab99
-3 1

ob=(4) /lib64/ld-linux-x86-64.so.2
fn=(12) __tls_get_addr
0 5
"""


def test_what_callees_cost_is_theirs() -> None:
    assert callgrind.parse(PART.splitlines()) == {
        "python:_PyEval_EvalFrameDefault": 1039,
        "python:list_dealloc": 40,
        "python:__tls_get_addr": 5,
        "libc:malloc": 300,
        "libc:?": 61,
    }


def test_the_program_and_its_library_are_the_same_python() -> None:
    program = [line.replace("libpython3.11.so.1.0", "python3.11") for line in PART.splitlines()]
    assert callgrind.parse(program) == callgrind.parse(PART.splitlines())
    ours = [name for name in callgrind.parse(program) if callgrind.is_python(name)]
    assert len(ours) == 3


def test_a_library_whose_name_begins_like_it_is_none() -> None:
    lines = ["ob=(1) /x/pythonish.so", "fn=(1) f", "0 1", "ob=(2) /x/parser.cpython-311-x86_64-linux-gnu.so", "0 2"]
    assert callgrind.parse(lines) == {"pythonish:f": 1, "parser:f": 2}


def test_counting_waits_for_its_mark() -> None:
    words = callgrind.command("getpriority", Path("/x/counts"))
    assert words[0] == "valgrind"
    assert "--instr-atstart=no" in words
    assert "--dump-before=getpriority" in words
