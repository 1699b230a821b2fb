"""The container files say what is true of the code; and what the Dockerfile builds is built here, without Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from proxy.cli import COMMANDS
from proxy.settings import Settings, load
from proxy.settings.aliases import ALIASES
from proxy.settings.load import PLACES

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WEB: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["web"]
CONTRACT = ("API_KEY", "HOUR_LIMIT", "MINUTE_LIMIT", "SECOND_LIMIT", "ROUTE", "LANG")


class Instruction(NamedTuple):
    """One instruction of the Dockerfile; ``stage`` counts its FROM lines, from 1."""

    stage: int
    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """Its arguments, in either form."""
        found: list[str] = json.loads(self.rest) if self.rest.startswith("[") else self.rest.split()
        return found


def _instructions() -> Iterator[Instruction]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    stage = 0
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            stage += name == "FROM"
            yield Instruction(stage, name, rest.strip())


DOCKERFILE = tuple(_instructions())


def last(name: str) -> Instruction:
    """The instruction of this name that is in force in the image."""
    return [i for i in DOCKERFILE if i.name == name and i.stage == DOCKERFILE[-1].stage][-1]


def copied(stage: int) -> dict[str, str]:
    """What a stage takes from the checkout: destination by source."""
    found = {}
    for instruction in DOCKERFILE:
        if instruction.name == "COPY" and instruction.stage == stage and "--from" not in instruction.rest:
            *sources, destination = instruction.words
            found.update(dict.fromkeys(sources, destination))
    return found


def image_environ() -> dict[str, str]:
    """The variables the image sets, but its PATH."""
    return {name: value for name, _, value in (word.partition("=") for word in last("ENV").words) if name != "PATH"}


def test_everything_copied_exists_and_is_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    for source in {**copied(1), **copied(2)}:
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in ignore, source


def test_the_build_stage_has_all_the_wheel_is_made_of() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    needed = {*wheel["packages"], *wheel["force-include"], project["readme"], *project["license-files"]}
    assert needed <= copied(1).keys()


def test_the_image_runs_commands_that_exist() -> None:
    names = {command.__name__.rpartition(".")[2] for command in COMMANDS}
    assert last("ENTRYPOINT").words == list(PROJECT["project"]["scripts"])
    assert last("CMD").words[0] in names
    program, command = json.loads(last("HEALTHCHECK").rest.partition("CMD ")[2])
    assert program in PROJECT["project"]["scripts"]
    assert command in names


def test_the_image_is_not_run_by_root() -> None:
    user, group = map(int, last("USER").rest.split(":"))
    assert user > 0
    assert group > 0


def test_the_python_of_the_image_is_one_we_promise() -> None:
    found = re.search(r"^ARG BASE=python:(\d+\.\d+)-slim$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    assert f"Programming Language :: Python :: {found[1]}" in PROJECT["project"]["classifiers"]


def test_the_configuration_lies_where_it_is_looked_for() -> None:
    assert copied(2)["config/sluice.yaml"] in PLACES


def test_the_ports_are_those_the_gateway_listens_on() -> None:
    port = load(ROOT / "config" / "sluice.yaml", image_environ()).settings.listeners[0].port
    assert last("EXPOSE").rest == str(port) == str(Settings().listeners[0].port)
    assert WEB["ports"] == [f"{port}:{port}"]


def compose_environ(shell: Mapping[str, str]) -> dict[str, str]:
    """What the service gets: a name without a value is passed on from the shell, if it is set there."""
    environ = {}
    for entry in WEB["environment"]:
        name, equals, value = entry.partition("=")
        if equals or name in shell:
            environ[name] = value if equals else shell[name]
    return environ


def test_compose_sets_what_its_comments_promise() -> None:
    loaded = load(ROOT / "config" / "sluice.yaml", image_environ() | compose_environ({}))
    limit = loaded.settings.stages["limit"].model_dump()
    assert {window: limit[window] for window in ("second", "minute", "hour", "day")} == {
        "second": 1,
        "minute": 3,
        "hour": 50,
        "day": 0,
    }
    assert loaded.settings.language == "en_US"


def test_compose_passes_every_variable_of_the_contract_and_none_that_means_nothing() -> None:
    names = [entry.partition("=")[0] for entry in WEB["environment"]]
    assert set(CONTRACT) <= set(names)
    assert set(names) <= {alias.name for alias in ALIASES} | {"LANG"}
    assert len(names) == len(set(names))


def test_compose_passes_an_allowlist_on_only_if_it_is_set() -> None:
    shell = {"API_KEY": "sk-server", "IP_ALLOWLIST": "10.0.0.0/8"}
    settings = load(ROOT / "config" / "sluice.yaml", compose_environ(shell)).settings
    assert settings.stages["ip_allowlist"].model_dump()["allow"] == ["10.0.0.0/8"]
    settings = load(ROOT / "config" / "sluice.yaml", compose_environ({})).settings
    assert settings.stages["ip_allowlist"].model_dump()["allow"] is None


def test_compose_lets_the_gateway_finish() -> None:
    drain = load(ROOT / "config" / "sluice.yaml", compose_environ({})).settings.drain
    assert float(WEB["stop_grace_period"].removesuffix("s")) > drain.delay_s + drain.timeout_s
    assert last("STOPSIGNAL").rest == "SIGTERM"


def _here(root: Path, text: str) -> str:
    """A command of the Dockerfile with its absolute paths moved below ``root``."""
    return re.sub(r"(?<![\w.:/-])/(?=src|wheels|opt)", f"{root}/", text)


def build(root: Path) -> None:
    """Do what the build stage does, below ``root``, with an empty environment in place of the base image."""
    subprocess.run([sys.executable, "-m", "venv", root / "base"], check=True)
    environ = os.environ | {"PATH": f"{root / 'base' / 'bin'}:/usr/bin:/bin"}
    place = root
    for instruction in DOCKERFILE:
        if instruction.stage != 1:
            continue
        if instruction.name == "WORKDIR":
            place = Path(_here(root, instruction.rest))
            place.mkdir(parents=True)
        elif instruction.name == "COPY":
            *sources, destination = instruction.words
            for source in sources:
                _copy(ROOT / source, place / destination)
        elif instruction.name == "RUN":
            subprocess.run(["sh", "-c", _here(root, instruction.rest)], cwd=place, env=environ, check=True)


def _copy(source: Path, destination: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy(source, destination)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until_ready(url: str, process: subprocess.Popen[bytes]) -> bytes:
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                body: bytes = response.read()
                return body
        except OSError:
            assert process.poll() is None, "the gateway has ended"
            assert time.monotonic() < deadline, "the gateway does not answer"
            time.sleep(0.1)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_the_dockerfile_builds_runs_without_the_checkout(tmp_path: Path) -> None:
    build(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = tmp_path / "sluice.yaml"
    shutil.copy(ROOT / "config" / "sluice.yaml", config)
    installed = tmp_path / "opt" / "sluice"
    port = _free_port()
    environ = image_environ() | {
        "PATH": f"{installed / 'bin'}:/usr/bin:/bin",
        "SLUICE_CONFIG": str(config),
        "SLUICE__ADMIN__PORT": "0",
        "PORT": str(port),
    }
    files = {path for path in tmp_path.rglob("*") if path.is_file()}

    def sluice(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(installed / "bin" / "sluice"), *arguments]
        return subprocess.run(argv, cwd=elsewhere, env=environ, capture_output=True, text=True, timeout=30)

    assert sluice("check").returncode == 0
    assert sluice("healthcheck").returncode == 1

    argv = [str(installed / "bin" / "sluice"), *last("CMD").words]
    process = subprocess.Popen(argv, cwd=elsewhere, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert _until_ready(f"http://127.0.0.1:{port}/healthz", process) == b"ok\n"
        assert sluice("healthcheck").returncode == 0
        assert "ключ" in _refusal_in_russian(port)
        process.send_signal(getattr(signal, last("STOPSIGNAL").rest))
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    # A container's root is read-only: whatever it wrote, it could not have written there.
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == files


def _refusal_in_russian(port: int) -> str:
    """The reason the chat route gives a caller without a key: it comes from a catalogue inside the wheel."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/",
        data=b'{"user_content": "?"}',
        headers={"Accept-Language": "ru", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.request.HTTPError) as raised, urllib.request.urlopen(request, timeout=5):
        pass
    with raised.value as answer:
        assert answer.code == 400
        reason: str = json.loads(answer.read())["data"]["response"]
        return reason
