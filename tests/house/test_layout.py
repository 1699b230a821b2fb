"""The house: short files, telling names, and a test file for each file of code."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "proxy").rglob("*.py"))
MOST_LINES = 320
"""About 300, with room for the line that would not fit."""

BANNED_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "manager",
    "managers",
    "common",
    "base",
    "misc",
    "shared",
    "lib",
}

# (the test file, why the files have none of their own, the files)
TESTED_TOGETHER: list[tuple[str, str, str]] = [
    ("core/test_chain.py", "a stage does nothing by itself: the chain decides what runs", "core/stage"),
    ("admin/test_metrics.py", "a figure is a tuple: it counts where it is shown", "core/figure"),
    ("core/test_reply_and_errors.py", "a failure is told to the caller as a reply", "core/reply core/errors"),
    ("wire/origin.py", "an interface: what the tests of upstream connections implement", "wire/receiver"),
    ("limits/test_outage.py", "the policies, where they are needed", "limits/bypass"),
    ("limits/contract.py", "an interface: the suite that every store must pass", "limits/store"),
    ("stages/test_shelf.py", "the fields all stages have, tested on all of them", "stages/model"),
    ("gateway/test_access_log_line.py", "the line is what can go wrong", "gateway/access_log"),
    (
        "e2e/test_forwarding.py",
        "the life of an exchange: it means something only with a socket at each end",
        "gateway/answering gateway/forwarding gateway/openai_api gateway/downstream gateway/forward gateway/plane",
    ),
    ("e2e/test_chat_route.py", "the contract, as its clients see it", "gateway/simple_chat gateway/envelope"),
    ("e2e/test_failures.py", "what leads nowhere is answered on a socket like the rest", "gateway/local"),
    ("e2e/test_websocket.py", "a tunnel is two sockets", "gateway/websocket wire/tunnel"),
    ("e2e/test_heartbeat.py", "a comment is seen only in the stream it stands in", "gateway/heartbeat"),
    ("e2e/test_overload.py", "a refusal counts by what goes on beside it", "gateway/overload gateway/open_files"),
    ("e2e/test_hidden_clients.py", "who is hidden shows in many requests", "gateway/hidden_clients"),
    ("e2e/test_sdk.py", "mount() is tried under Tornado's own server", "__init__"),
    (
        "cli/test_serve.py",
        "a worker is a process: it is run as one",
        "gateway/worker cli/healthcheck",
    ),
    (
        "supervisor/test_supervisor.py",
        "who has died, is replaced or drains shows only in processes",
        "supervisor/process supervisor/rolling supervisor/watch supervisor/supervised "
        "supervisor/admin gateway/figures",
    ),
    (
        "wire/test_server_connection.py",
        "the parts of a server connection, which does nothing without them",
        "wire/server wire/request_reader wire/state wire/hold wire/peer wire/response wire/request_body",
    ),
    ("wire/test_upstream_connection.py", "one half of an upstream connection", "wire/client wire/answer_reader"),
    ("cli/test_chat_and_mock.py", "the commands as an operator runs them", "cli/__init__ cli/chat cli/mock"),
    (
        "settings/test_commands.py",
        "commands that show what loading found",
        "cli/check cli/config cli/options settings/schema",
    ),
    (
        "settings/test_load.py",
        "the inner rooms of loading: what counts is what `load` answers",
        "settings/layers settings/values settings/environ",
    ),
    ("settings/test_messages.py", "the words are the product", "settings/problems settings/validation"),
    (
        "mock/test_sdk.py",
        "the mock is what the SDK makes of it",
        "mock/answers mock/errors mock/fields mock/files mock/responses mock/text",
    ),
    ("mock/test_wire.py", "its side of the wire, by what it answers", "mock/exchange"),
]
UNTESTED: dict[str, str] = {"__main__": "one line that calls the command"}
"""Files whose test would only repeat them, with the reason."""
LISTED = {name for _, _, names in TESTED_TOGETHER for name in names.split()} | set(UNTESTED)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT / "proxy"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def has_code(path: Path) -> bool:
    """Whether a file does anything: more than a docstring, imports and the list of its names."""
    return not all(_is_passive(statement) for statement in tree(path).body)


def _is_passive(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id.startswith("__") for target in statement.targets)
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_docstring or isinstance(statement, ast.Import | ast.ImportFrom)


@cache
def imported_by_tests(folder: Path) -> frozenset[str]:
    """The modules that the test files of a folder import."""
    found: set[str] = set()
    for test in folder.glob("test_*.py"):
        for node in ast.walk(tree(test)):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return frozenset(found)


def has_test_file(path: Path) -> bool:
    """Whether the mirrored folder has a test file of the module's name, or one that imports the module."""
    folder = ROOT / "tests" / path.relative_to(ROOT / "proxy").parent
    if (folder / f"test_{path.stem}.py").is_file():
        return True
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return dotted in imported_by_tests(folder)


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_no_file_is_long(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MOST_LINES, f"{shown(path)} has {lines} lines: split it by what its parts are for"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_names_say_what_is_inside(path: Path) -> None:
    words = {part.removesuffix(".py") for part in path.relative_to(ROOT / "proxy").parts}
    if shown(path) == "limits/shared.py":
        words.discard("shared")  # what the store is called in the settings
    assert not words & BANNED_NAMES


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_file_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(tree(path))
    assert docstring
    assert docstring.splitlines()[0].rstrip()[-1] in ".:", "the first line is a sentence"


@pytest.mark.parametrize("path", [path for path in FILES if has_code(path)], ids=shown)
def test_every_file_of_code_has_a_test_file(path: Path) -> None:
    assert has_test_file(path) or shown(path).removesuffix(".py") in LISTED


@pytest.mark.parametrize(("test", "reason", "names"), TESTED_TOGETHER)
def test_what_is_listed_is_there(test: str, reason: str, names: str) -> None:
    assert (ROOT / "tests" / test).is_file()
    assert reason
    assert [name for name in names.split() if not (ROOT / "proxy" / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("name", sorted(UNTESTED))
def test_the_untested_are_small(name: str) -> None:
    assert len((ROOT / "proxy" / f"{name}.py").read_text("utf-8").splitlines()) <= 10


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in (ROOT / "tests").rglob("*.py")}), ids=lambda p: p.name
)
def test_every_folder_of_tests_is_a_package(folder: Path) -> None:
    # Else two test files of one name in two folders are the same module.
    assert (folder / "__init__.py").is_file()
