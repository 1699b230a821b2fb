"""``sluice config``: the effective configuration with the origin of every value; secrets are masked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import BaseModel, SecretStr

from proxy.cli.options import add_config_options, load_from
from proxy.settings import Listen, Loaded, Origin, json_schema
from proxy.settings.plain import Surprise, plain
from proxy.settings.problems import DEFAULT, dotted
from proxy.settings.stores import STORE, shown_store

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
    Path = tuple[str | int, ...]
    _Tree = dict[str | int, "_Tree"]

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
    tree: _Tree = {}
    # A stage's leaves follow each other, but the sections of the file are not all in one piece.
    for path in sorted(loaded.leaves, key=lambda path: _place(loaded, path)):
        place = tree
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = {}
    lines = [f"{text:<{_COLUMN}}  # {origin}" if origin else text for text, origin in _lines(loaded, tree, ())]
    return "\n".join([*(f"# {notice}" for notice in loaded.notices), *lines])


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


def _lines(loaded: Loaded, tree: _Tree, above: Path) -> Iterator[tuple[str, str]]:
    """(text, origin) of every line of a section; the entries of a list begin with a dash."""
    for part, below in tree.items():
        path = (*above, part)
        if not below or _found(loaded, path) is None:
            if _applies(loaded, path):
                yield _line(loaded, path)
            continue
        if isinstance(part, str):
            yield f"{_key(part)}:", ""
        dash = "  " if isinstance(part, str) else "- "
        for text, origin in _lines(loaded, below, path):
            yield dash + text, origin
            dash = "  "


def _applies(loaded: Loaded, path: Path) -> bool:
    """A listener on a unix socket has neither host nor port."""
    listen = _found(loaded, path[:-1])
    return not isinstance(listen, Listen) or listen.unix is None or path[-1] not in ("host", "port")


def _value(loaded: Loaded, path: Path) -> object:
    if path == STORE and (store := loaded.settings.limits.store) is not None:
        return shown_store(store.get_secret_value())
    return _plain(_found(loaded, path)) if _applies(loaded, path) else None


def _found(loaded: Loaded, path: Path) -> object:
    """What the settings hold at the path; None within a section that is not there."""
    value: object = loaded.settings
    for part in path:
        if value is not None:
            value = value[part] if isinstance(value, dict | list) else getattr(value, str(part))  # type: ignore[index]
    return value


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return mask(value.get_secret_value())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, BaseModel):
        # Under a name of the operator's, as he wrote it: everything else there is a default.
        return {
            name: _plain(getattr(value, name)) for name in type(value).model_fields if name in value.model_fields_set
        }
    return value.value if isinstance(value, Enum) else value


def _line(loaded: Loaded, path: Path) -> tuple[str, str]:
    value = _value(loaded, path)
    # A section that is not there has no origin of its own.
    origin = loaded.origins.get(dotted(path), DEFAULT)
    return f"# {path[-1]}: not set" if value is None else f"{path[-1]}: {_scalar(value)}", str(origin)


def _key(name: str) -> str:
    """A stage may well be called ``on``, which is no text without quotes."""
    try:
        return name if plain(name) == name else _scalar(name)
    except Surprise:
        return _scalar(name)


def _scalar(value: object) -> str:
    """JSON, which is YAML too; with the dollar signs doubled that would else name variables."""
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")
