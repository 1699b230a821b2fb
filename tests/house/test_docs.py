"""The documentation is true: what is generated is fresh, what it shows runs, and nothing of the code is left out."""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

import proxy
from docs import generate
from proxy import cli
from proxy.cli.options import load_from
from proxy.core.exchange import Exchange
from proxy.core.headers import Headers
from proxy.gateway.access_log import line_of
from proxy.gateway.worker import EX_UNAVAILABLE
from proxy.mock.behaviour import MODELS
from proxy.mock.running import running
from proxy.settings import load
from proxy.settings.aliases import ALIASES, OPENAI_API_KEY
from proxy.settings.environment import FILE, LISTEN_VARIABLE
from proxy.settings.problems import dotted
from proxy.settings.shape import leaves
from proxy.stages import CONFIGS, STAGES

ROOT = generate.ROOT
PAGES = [generate.README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]
REFERENCE = TEXTS["docs/configuration.md"]
ENVIRON = {"TEAM_KEY": "sk-of-the-team"}
"""What the shown YAML asks for with ``${NAME:?...}``."""
ADDRESS = "http://127.0.0.1:5000"
UNSEEN = {"forbidden", "upstream_error", "upstream_rate_limit"}
"""Codes of the chat route for OpenAI's errors: neither its answers nor the access log show them."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


class Block(NamedTuple):
    """One block of code in a page."""

    place: str
    language: str
    text: str


class Command(NamedTuple):
    """One ``sluice`` command as it is shown: the variables before it, and its arguments."""

    environ: dict[str, str]
    args: list[str]


def blocks(*languages: str) -> list[Block]:
    found = []
    for page, text in TEXTS.items():
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(f"{page}:{line}", match[1], match[2]))
    return [block for block in found if block.language in languages]


def place(block: Block) -> str:
    return block.place


def command(line: str) -> Command | None:
    """The ``sluice`` command of a shell line, or None if it is another one."""
    words = shlex.split(line, comments=True)
    environ: dict[str, str] = {}
    while words and _ASSIGNMENT.match(words[0]):
        name, _, environ[name] = words.pop(0).partition("=")
    return Command(environ, words[1:]) if words[:1] == ["sluice"] and len(words) > 1 else None


def shown_commands() -> list[Command]:
    lines = [line for block in blocks("sh") for line in block.text.replace("\\\n", " ").splitlines()]
    lines += [line[2:] for block in blocks("console") for line in block.text.splitlines() if line.startswith("$ ")]
    lines += re.findall(
        r"`(sluice\s[^`\n]+(?:\n[^`\n]+)?)`", "".join(_FENCE.sub("", text) for text in TEXTS.values())
    )
    return [found for line in lines if (found := command(line)) is not None]


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def codes_in_the_code() -> set[str]:
    """Every error code a reply or a gateway error can have, as the source spells it."""
    found: set[str] = set()
    for file in (ROOT / "proxy").rglob("*.py"):
        if "mock" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            values: list[ast.expr] = []
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("Reply", "Reply.of", "cls")
                and node.args[2:]
            ):
                values = [node.args[2]]
            elif isinstance(node, ast.ClassDef):
                values = [
                    statement.value
                    for statement in node.body
                    if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "code"
                ]
            constants = [part for value in values for part in ast.walk(value) if isinstance(part, ast.Constant)]
            found |= {constant.value for constant in constants if isinstance(constant.value, str)}
    return found


def test_what_is_generated_is_fresh() -> None:
    stale = [path.name for path, text in generate.outputs() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: stale; run `python -m docs.generate` and commit what it writes"


def test_a_changed_table_is_noticed() -> None:
    changed = README.replace("| `minute` |", "| `minutes` |")
    assert changed != README
    assert generate.with_tables(changed) == README


def test_the_reference_names_every_setting_and_its_variable() -> None:
    missing = [
        dotted(path)
        for path, leaf in leaves().items()
        if f"| `{dotted(path)}` | `{leaf.variable}` |" not in REFERENCE or not leaf.description
    ]
    assert missing == []


@pytest.mark.parametrize("text", [README, REFERENCE], ids=["README", "reference"])
def test_every_short_name_is_told(text: str) -> None:
    names = [alias.name for alias in (*ALIASES, OPENAI_API_KEY)]
    names += [f"{alias.name}{FILE}" for alias in (*ALIASES, OPENAI_API_KEY) if alias.is_secret]
    assert [name for name in [*names, "LANG"] if f"`{name}`" not in text] == []


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_section_with_yaml_and_its_options(stage: str) -> None:
    section = README.split(f"\n### {stage}\n")[1].split("\n### ")[0]
    assert f"<!-- options: {stage} -->" in section
    assert "```yaml\nstages:\n" in section


def test_every_error_code_is_told() -> None:
    codes = codes_in_the_code()
    assert {"rate_limit_exceeded", "upstream_timeout", "missing_api_key", "invalid_request"} | UNSEEN <= codes
    assert [code for code in sorted(codes - UNSEEN) if f"`{code}` |" not in README] == []


def test_every_variable_mentioned_exists() -> None:
    known = {leaf.variable for leaf in leaves().values()} | {
        f"SLUICE__STAGES__BURST__{name.upper()}" for name in CONFIGS["limit"].model_fields
    }
    known |= {leaf.variable for leaf in leaves(listeners=2).values()} | {LISTEN_VARIABLE}
    known |= {f"{leaf.variable}{FILE}" for leaf in leaves().values() if leaf.is_secret}
    mentioned = {name for text in TEXTS.values() for name in re.findall(r"SLUICE__[A-Z0-9_]*[A-Z0-9]\b(?!__<)", text)}
    assert mentioned - known == set()


@pytest.mark.parametrize("block", blocks("yaml"), ids=place)
def test_shown_yaml_loads(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(block.text.replace("/etc/sluice", str(tmp_path)), encoding="utf-8")
    if "fullchain.pem" in block.text:
        certificate = trustme.CA().issue_cert("gateway.test")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        (tmp_path / "key.pem").chmod(0o600)
    load(file, ENVIRON)


@pytest.mark.parametrize("block", blocks("json"), ids=place)
def test_shown_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", [block for block in blocks("sh") if "curl " in block.text], ids=place)
def test_bodies_given_to_curl_are_json(block: Block) -> None:
    words = shlex.split(block.text.replace("\\\n", " "), comments=True)
    for option, value in itertools.pairwise(words):
        if option == "-d":
            json.loads(value)
    assert words.count("curl") == words.count("-d")


def test_the_shown_environment_file_loads() -> None:
    (block,) = blocks("ini")
    loaded = load({}, dict(line.split("=", 1) for line in block.text.splitlines()))
    assert loaded.notices == []


@pytest.mark.parametrize("shown", shown_commands(), ids=lambda shown: " ".join(shown.args))
def test_every_shown_command_parses(shown: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for sub_command in cli.COMMANDS:
        sub_command.add(subparsers)
    if "--help" in shown.args:
        with pytest.raises(SystemExit, match=r"^0$"):
            parser.parse_args(shown.args)
        return
    args = parser.parse_args(shown.args)
    if hasattr(args, "config"):
        load_from(args, shown.environ)


@pytest.mark.parametrize("block", blocks("console"), ids=place)
def test_commands_print_what_is_shown(
    block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    first, _, output = block.text.partition("\n")
    shown = command(first.removeprefix("$ "))
    assert shown is not None
    cli.main(shown.args, shown.environ)
    assert capsys.readouterr().out == output


def test_every_sub_command_is_told() -> None:
    told = {shown.args[0] for shown in shown_commands()}
    assert told >= {sub_command.__name__.rpartition(".")[2] for sub_command in cli.COMMANDS}


@pytest.mark.parametrize("code", [0, 2, EX_UNAVAILABLE, cli.EX_CONFIG])
def test_every_exit_code_is_told(code: int) -> None:
    assert f"\n| {code} | " in README


@pytest.mark.parametrize("page", TEXTS)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    for target in _LINK.findall(TEXTS[page]):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in headings(file.read_text(encoding="utf-8")), target


def test_every_make_target_mentioned_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    mentioned = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "run", "test", "lint", "bench"} <= mentioned <= targets


def test_every_model_of_the_mock_is_told() -> None:
    assert [model for model in MODELS if f"`{model}`" not in README] == []


def test_the_shown_log_line_is_like_a_real_one() -> None:
    (shown,) = [json.loads(block.text) for block in blocks("json") if block.text.startswith('{"v"')]
    chain = proxy.mount({}).chain
    exchange = Exchange(method="GET", target=b"/v1/models", headers=Headers(), peer_ip="127.0.0.1")
    real = json.loads(line_of(exchange, chain, 1.0))
    assert list(shown) == list(real)
    section = README.split("\n## Access log\n")[1].split("\n## ")[0]
    told = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall("`(.*?)`", row)
    ]
    assert told == list(real)


def test_there_is_a_place_for_the_bench() -> None:
    assert re.search(r"<!-- bench -->\n.*?<!-- /bench -->", README, re.DOTALL)


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """The address of `sluice serve` with the shipped configuration, in front of a mock OpenAI."""
    quiet = ["--set", "admin.enabled=false", "--set", "access_log.enabled=false"]
    listen = ["--config", "config/sluice.yaml", "--host", "127.0.0.1", "--port", "0"]
    with running() as mock:
        upstream = ["--set", f"stages.upstream.base_url={mock.base_url}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", *listen, *quiet, *upstream],
            cwd=ROOT,
            env={"PATH": os.environ.get("PATH", "")},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            seen = ""
            while "listening on " not in seen:
                line = process.stderr.readline()
                assert line, seen
                seen += line
            yield seen.split("listening on ")[1].split(",")[0]
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("block", blocks("python"), ids=place)
def test_shown_python_runs(block: Block, gateway: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.text.replace(ADDRESS, gateway)],
        input="one two\nthree\n",
        cwd=ROOT,
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if ADDRESS in block.text:
        assert "You said: " in done.stdout
    if "input(" in block.text:
        assert "You said: three" in done.stdout
