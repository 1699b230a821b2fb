"""The settings: any file and any environment load, or `ConfigError` says why, in readable words and without secrets.

An input is YAML, then a line ``#env`` and lines ``NAME=value``. Three variables of the environment hold a secret of
ours; it may stand nowhere in what comes out. ``@KEY@`` in the YAML stands for another one: it is looked for only if
it stands nowhere but where keys belong.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from fuzz.target import ERRORS, Finding, Target, require
from proxy.settings import ConfigError, load

SECRET = "hidden8v7qw2in4env"
IN_FILE = "hidden5d9xk3in1file"
_MARK = b"@KEY@"
_VARIABLES = ("API_KEY", "OPENAI_API_KEY", "SLUICE__STAGES__KEY__SERVER_KEYS")
_SEPARATOR = b"\n#env\n"
_folder = tempfile.TemporaryDirectory(prefix="sluice-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
_FILE = Path(_folder.name, "sluice.yaml")


def _environ(lines: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines.split(b"\n"):
        variable, equals, value = line.partition(b"=")
        if equals and b"\0" not in line:
            found[variable.decode("latin-1")] = value.decode("utf-8", "surrogateescape")
    # A value with a blank, a comma, a quote or a wrong type in front must not give it away either.
    for index, name in enumerate(_VARIABLES):
        if name in found or index == 0:
            found[name] = found.get(name, "")[:20] + SECRET
    return found


def _places(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text in a tree, keys included, with its path."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield path, str(key)
            yield from _places(below, (*path, str(key)))
    elif isinstance(value, list | set | tuple):
        for below in value:
            yield from _places(below, path)
    else:
        yield path, str(value)


def _is_only_a_key(content: bytes) -> bool:
    """Whether the mark of a secret stands only below ``stages.key.server_keys``, once."""
    text = content.decode("utf-8", "replace")
    if text.count(_MARK.decode()) != 1 or "*" in text or "&" in text or "<<" in text or "!" in text:
        return False
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return False
    paths = [path for path, found in _places(tree) if _MARK.decode() in found]
    return paths == [("stages", "key", "server_keys")]


def try_settings(data: bytes) -> None:
    """Load it; see the module's docstring."""
    content, _, lines = data.partition(_SEPARATOR)
    environ = _environ(lines)
    hides_file = _is_only_a_key(content)
    _FILE.write_bytes(content.replace(_MARK, IN_FILE.encode()))
    said: list[str] = []
    try:
        loaded = load(_FILE, environ)
    except ConfigError as error:
        text = str(error)
        require(len(text.splitlines()) >= 2, "a refusal without a reason", text)
        require(all(line.isprintable() for line in text.splitlines()), "a message that cannot be shown", ascii(text))
        said += [text, repr(error)]
    else:
        said += [repr(loaded), *map(str, loaded.notices), *map(str, loaded.origins.values())]
    if not _spreads(content, lines):
        require(not any(SECRET in text for text in said), "a secret of the environment is shown", said)
    if hides_file:
        require(not any(IN_FILE in text for text in said), "a secret of the file is shown", said)
    ERRORS.check()


def _spreads(content: bytes, lines: bytes) -> bool:
    """Whether the file itself puts the variable where no secret belongs."""
    return any(b"${" + name.encode() in content for name in _VARIABLES)


def check_nothing_left() -> None:
    """Raises `Finding` if loading left a file behind."""
    if [path.name for path in Path(_folder.name).iterdir()] not in ([], ["sluice.yaml"]):
        raise Finding("loading wrote a file")


WORDS = (
    b"version: 1\n", b"listen:", b"  host: 127.0.0.1\n", b"  port: 5000\n", b"admin: {enabled: false}\n",
    b"stages:\n", b"  ip_allowlist: {allow: [10.0.0.0/8, any]}\n", b"  limit: {by: client_ip, hour: 5}\n",
    b"chain: [key, upstream]\n", b"  key: {server_keys: [@KEY@], prefer: client}\n",
    b"  upstream: {base_url: http://127.0.0.1:1/v1}\n", b"@KEY@", b"server_keys: ", b"type: limit\n",
    b"mode: shadow\n", b"simple_chat: {route: api}\n", b"model_aliases: {a: b}\n", b"trusted_proxies: [::1]\n",
    b"${X}", b"${X:-y}", b"${X:?z}", b"${", b"$$", b"&a ", b"*a", b"<<: *a\n", b"!!python/x ", b"? ", b"- ", b"[",
    b"]", b"{", b"}", b"[" * 50, b"{a: " * 30, b"|\n", b">-\n", b"---\n", b"...\n", b"%YAML 1.1\n", b"no", b"12:30",
    b"0x7f000001", b"1_000", b".inf", b"~", b"2001-01-01", b"'", b'"', b"\\x", b"#", b"\t", b"\xef\xbb\xbf", b"\x85",
    b"\xff", b"\n#env\n", b"API_KEY=", b"OPENAI_API_KEY= ", b"SLUICE__STAGES__KEY__SERVER_KEYS=[", b"HOUR_LIMIT=5\n",
    b"LANG=zh_CN.UTF-8\n", b"PORT=70000\n", b"IP_ALLOWLIST=\n", b"TRUSTED_PROXIES=10.0.0.0/8\n", b"ROUTE=/a/b\n",
    b"OPENAI_BASE_URL=http://[::1]:5000/\n", b"SLUICE__CHAIN=key,upstream\n", b"SLUICE__STAGES__X__TYPE=limit\n",
    b"SLUICE__MODEL_ALIASES={\"a\":1}\n", b"API_KEY_FILE=/nowhere\n", b"SLUICE__NO=1\n",
    b"SLUICE__LISTEN__PORT=\xd9\xa1\n",
)  # fmt: skip

TARGET = Target("settings", "YAML and environment", try_settings, WORDS, 4096)
