"""``sluice config``: the effective configuration with the origin of every value; secrets are masked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import BaseModel, SecretStr

from proxy.cli.options import add_config_options, load_from
from proxy.settings import Loaded, Origin, json_schema
from proxy.settings.plain import Surprise, plain

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
    Path = tuple[str | int, ...]

_LONG_ENOUGH = 20
_COLUMN = 40


def add(subparsers: Subparsers) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "config",
        help="print the effective configuration and where each value comes from",
        description="Print the effective configuration, with the origin of every value. Secrets are masked.",
    )
    add_config_options(parser)
    parser.add_argument("--format", choices=("yaml", "json"), default="yaml", help="yaml (default) or json")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the file instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print, and return the exit code. Raises `proxy.settings.ConfigError` with what is wrong."""
    if args.schema:
        print(schema_text(), end="")
        return 0
    loaded = load_from(args, environ)
    print(as_json(loaded) if args.format == "json" else as_yaml(loaded))
    return 0


def schema_text() -> str:
    """The JSON Schema as ``config/sluice.schema.json`` holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def as_yaml(loaded: Loaded) -> str:
    """A file that says the same, each value followed by its origin; what is not set is commented out."""
    lines = [f"# {notice}" for notice in loaded.notices]
    above: Path = ()
    # A stage's leaves follow each other, but the sections of the file are not all in one piece.
    for path in sorted(loaded.leaves, key=lambda path: _place(loaded, path)):
        new = [depth for depth in range(len(path) - 1) if path[: depth + 1] != above[: depth + 1]]
        lines.extend(f"{'  ' * depth}{_key(path[depth])}:" for depth in new)
        above = path[:-1]
        lines.append(_line(loaded, path))
    return "\n".join(lines)


def as_json(loaded: Loaded) -> str:
    """``{"settings": {path: {"value", "origin"}}, "notices": [...]}``"""
    settings = {
        name: {"value": _value(loaded, path), "origin": str(loaded.origins[name])} for name, path in _named(loaded)
    }
    whole = {"source": loaded.source, "settings": settings, "notices": loaded.notices}
    return json.dumps(whole, indent=2, ensure_ascii=False)


def shown_values(loaded: Loaded, prefix: str) -> Iterator[tuple[str, str, Origin]]:
    """(dotted path, value with secrets masked, origin) of every setting whose path begins so."""
    for name, path in _named(loaded):
        if name.startswith(prefix):
            yield name, json.dumps(_value(loaded, path), ensure_ascii=False), loaded.origins[name]


def mask(secret: str) -> str:
    """``sk-...abcd``: enough to tell two keys apart, if the key is long enough to spare it."""
    if len(secret) < _LONG_ENOUGH:
        return "***"
    return f"{'sk-' if secret.startswith('sk-') else ''}...{secret[-4:]}"


def _named(loaded: Loaded) -> Iterator[tuple[str, Path]]:
    return zip(loaded.origins, loaded.leaves, strict=True)


def _place(loaded: Loaded, path: Path) -> tuple[int, ...]:
    """The order of the models: top-level fields first as they are declared, then what is below them."""
    fields = list(type(loaded.settings).model_fields)
    return (fields.index(str(path[0])),)


def _value(loaded: Loaded, path: Path) -> object:
    value: object = loaded.settings
    for part in path:
        value = value[part] if isinstance(value, dict) else getattr(value, str(part))
    return _plain(value)


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return mask(value.get_secret_value())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    assert not isinstance(value, BaseModel)
    return value.value if isinstance(value, Enum) else value


def _line(loaded: Loaded, path: Path) -> str:
    value = _value(loaded, path)
    origin = loaded.origins[".".join(str(part) for part in path)]
    indent = "  " * (len(path) - 1)
    start = f"{indent}# {path[-1]}: not set" if value is None else f"{indent}{path[-1]}: {_scalar(value)}"
    return f"{start:<{_COLUMN}}  # {origin}"


def _key(name: str | int) -> str:
    """A stage may well be called ``on``, which is no text without quotes."""
    try:
        return str(name) if plain(str(name)) == name else _scalar(name)
    except Surprise:
        return _scalar(name)


def _scalar(value: object) -> str:
    """JSON, which is YAML too; with the dollar signs doubled that would else name variables."""
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")
