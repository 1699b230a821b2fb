"""``python -m docs.generate``: write ``docs/configuration.md`` and the option tables in ``README.md``.

Both follow from the settings models. ``--check`` writes nothing and ends with 1 if something is stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path as FilePath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from proxy.settings import Settings
from proxy.settings.aliases import ALIASES, OPENAI_API_KEY
from proxy.settings.environment import FILE, OPTIONS
from proxy.settings.load import PLACES, VARIABLE
from proxy.settings.problems import Path, dotted
from proxy.settings.shape import LISTEN, Leaf, section_model, variable
from proxy.stages import CONFIGS, StageConfig

ROOT = FilePath(__file__).resolve().parents[1]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "configuration.md"
COMMON = tuple(StageConfig.model_fields)
"""The options of every stage."""

# An option table in README.md: <!-- options: limit --> ... <!-- /options -->
_BLOCK = re.compile(r"(<!-- options: ([a-z_]+) -->\n).*?(<!-- /options -->)", re.DOTALL)
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "not empty"}

_INTRODUCTION = f"""\
# Configuration

Written by `python -m docs.generate` from the settings models: edit those, not this page.

Every setting below can be given in four ways; the later one wins:

1. the default,
2. the YAML file: `--config FILE`, else the file that `{VARIABLE}` names, else the first that exists of
   {" and ".join(f"`{place}`" for place in PLACES)},
3. the environment: its short name if it has one, or its variable; the variable wins over the short name,
4. the command line: `--set PATH=VALUE` with the setting's dotted path, and
   {", ".join(f"`{option}` for `{dotted(path)}`" for option, path in OPTIONS.items())}.

`sluice check` finds mistakes, all of them at once; `sluice config` prints every setting with its value and where
that came from; `sluice config --schema` prints a JSON Schema for editors
([config/sluice.schema.json](../config/sluice.schema.json) is the same).
[config/sluice.yaml](../config/sluice.yaml) holds every setting with its default and a comment.

In a variable and after `--set`, a list is comma separated (`10.0.0.0/8,127.0.0.1`) or JSON, a mapping is JSON, and a
switch is `true` or `false`. A secret can also be read from a file: its variable with `{FILE}` behind it holds the
file's path. Inside text in the YAML file `${{NAME}}`, `${{NAME:-default}}` and `${{NAME:?message}}` stand for
environment variables, and `$$` for a dollar sign. An unknown variable that begins with `SLUICE__` is an error.
"""

_SHORT_NAMES = """\
## Short names

A short name that is empty counts as not set, except `IP_ALLOWLIST`, for which that is an error.
"""

_AFTER_SHORT_NAMES = """\
`OPENAI_API_KEY` is often set for the sake of other programs. It becomes a server key only if no other is set and
strangers are kept away: by an allowlist in the chain that does not hold everybody, or, without trusted proxies, by
listeners that are all on loopback or a unix socket or ask for a client certificate. Otherwise it is ignored, and
start-up says so.

`LANG` counts only if nothing else sets `language`. `zh_CN.UTF-8`, `zh` and `ru` are understood; `C`, `POSIX` and
languages Sluice does not have are ignored, and start-up says so.
"""

_LISTENERS = """\
`listen` holds one listener, or a list of them. In a list each entry has these settings, and its variables and paths
hold its number, from 0: `SLUICE__LISTEN__1__PORT`, `--set listen.1.port=8443`. There is no one host or port then:
`PORT`, `SLUICE__LISTEN__PORT` and `--port` are errors beside a list. `SLUICE__LISTEN` sets the whole list, in JSON,
in place of whatever the file says:

```yaml
listen:
  - {host: 127.0.0.1, port: 5000}
  - {host: "::1", port: 5000}
  - {unix: /run/sluice/sluice.sock, mode: "0660"}
```

A listener has either a host and a port or a unix socket. The files of `listen.tls` are read at start, where a
mistake in them is an error, and again when they change. With `proxy_protocol: required` a connection without a
valid header of a trusted proxy is closed; the header is never merely optional.
"""

_LIMITS = """\
An entry of `overrides` is named by whom it is for, and has any of `second`, `minute`, `hour` and `day`; what it
leaves out stays as it is for everybody. Of several that hold for a request, the one of its key counts, else the
narrowest of its address, else the one of its path.

An entry of `limits` is named by the operator (small letters, digits, `_`), and has every setting above but `type`,
`mode` and `limits`. In a variable both are JSON: `SLUICE__STAGES__LIMIT__LIMITS={"per_key": {"by": "credential",
"hour": 100}}`.

A key is named by its hash: `sha256:` and at least 32 digits of what `printf %s "$KEY" | sha256sum` prints. A path is
named as requests have it, like `/v1/embeddings`; the chat route is `/v1/chat/completions`. Percent-encoding, case,
doubled slashes, `;parameters` and the query make no difference.
"""

_STAGES = """\
## stages

Each stage has a section of settings under its name. A stage with a name of your own says its `type`; its variables
then hold that name: `SLUICE__STAGES__BURST__SECOND` for the stage `burst`. A name is made of lower-case letters,
digits and single underscores. A stage can be given by variables alone, `SLUICE__STAGES__BURST__TYPE=limit` first of
all. A stage takes part only if `chain` names it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write what is stale, or with ``--check`` only say so. 0 = all is fresh, 1 = it was not (``--check``)."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something is stale")
    args = parser.parse_args(argv)
    stale = [(path, text) for path, text in outputs() if not path.exists() or path.read_text("utf-8") != text]
    for path, text in stale:
        sys.stdout.write(f"{path.relative_to(ROOT)}: {'stale' if args.check else 'written'}\n")
        if not args.check:
            path.write_text(text, encoding="utf-8")
    return 1 if args.check and stale else 0


def outputs() -> Iterator[tuple[FilePath, str]]:
    """(file, what it should hold) for every file that is generated, in whole or in part."""
    yield REFERENCE, reference()
    yield README, with_tables(README.read_text(encoding="utf-8"))


def reference() -> str:
    """The text of ``docs/configuration.md``."""
    parts = [_INTRODUCTION, _SHORT_NAMES, _short_names(), _AFTER_SHORT_NAMES, "## The whole file\n"]
    leaves = [(path, field) for path, field in _fields(Settings, ()) if path != ("stages",)]
    parts.append(_settings_table([(path, field) for path, field in leaves if len(path) == 1]))
    sections = dict.fromkeys(path[:-1] for path, _ in leaves if len(path) > 1)
    for section in sections:
        parts.append(f"## {dotted(section)}\n")
        parts.append(f"{_about(section)}\n")
        parts.append(_settings_table([(path, field) for path, field in leaves if path[:-1] == section]))
        if section == LISTEN:
            parts.append(_LISTENERS)
    parts.append(_STAGES)
    for name, config in CONFIGS.items():
        parts.append(f"### {name}\n")
        parts.append(f"{_first_line(config)}\n")
        parts.append(_settings_table(list(_fields(config, ("stages", name)))))
        if name == "limit":
            parts.append(_LIMITS)
    return "\n".join(parts)


def with_tables(text: str) -> str:
    """README's text with fresh option tables. Raises KeyError for a table of something there is not."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{option_table(match[2])}\n{match[3]}", text)


def option_table(stage: str) -> str:
    """The options of one stage; ``common`` for those that every stage has."""
    config = StageConfig if stage == "common" else CONFIGS[stage]
    fields = [(name, field) for name, field in config.model_fields.items() if stage == "common" or name not in COMMON]
    rows = [(f"`{name}`", _kind(field), _default(field), field.description or "") for name, field in fields]
    return _table(("Option", "Value", "Default", "Meaning"), rows)


def _settings_table(fields: Iterable[tuple[Path, FieldInfo]]) -> str:
    rows = [
        (f"`{dotted(path)}`", f"`{variable(path)}`", _kind(field), _default(field), field.description or "")
        for path, field in fields
    ]
    return _table(("Setting", "Variable", "Value", "Default", "Meaning"), rows)


def _short_names() -> str:
    rows = [(f"`{VARIABLE}`", "", "The YAML file, if `--config` does not name one.")]
    descriptions = {path: field.description or "" for path, field in _all_fields()}
    for alias in (*ALIASES, OPENAI_API_KEY):
        names = f"`{alias.name}`" + (f", `{alias.name}{FILE}`" if alias.is_secret else "")
        rows.append((names, f"`{dotted(alias.path)}`", descriptions[alias.path]))
    rows.append(("`LANG`", "`language`", descriptions[("language",)]))
    return _table(("Name", "Setting", "Meaning"), rows)


def _all_fields() -> Iterator[tuple[Path, FieldInfo]]:
    yield from _fields(Settings, ())
    for name, config in CONFIGS.items():
        yield from _fields(config, ("stages", name))


def _fields(model: type[BaseModel], path: Path) -> Iterator[tuple[Path, FieldInfo]]:
    """Every leaf below a model with its field, in the order of the models."""
    for name, field in model.model_fields.items():
        inner = section_model(field.annotation)
        if inner is None:
            yield (*path, name), field
        else:
            yield from _fields(inner, (*path, name))


def _about(section: Path) -> str:
    """What the model says about a section."""
    model: type[BaseModel] = Settings
    for part in section:
        inner = section_model(model.model_fields[str(part)].annotation)
        assert inner is not None
        model = inner
    return _first_line(model)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0].replace("``", "`")


def _kind(field: FieldInfo) -> str:
    """What may stand there, in words."""
    annotation = Leaf((), field).annotation
    members = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    # A list may also be written as the one thing in it.
    is_choice = get_origin(field.annotation) in (Union, UnionType) and get_origin(annotation) is not list
    found = [", ".join(map(_type_name, members)) if is_choice else _type_name(annotation)]
    for constraint in field.metadata:
        for name, shown in _BOUNDS.items():
            bound = getattr(constraint, name, None)
            if bound is not None:
                found.append(shown.format(int(bound) if bound == int(bound) else bound))
    return ", ".join(found)


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{choice}`" for choice in annotation)
    if origin is list:
        inner = get_args(annotation)[0]
        if get_origin(inner) is Literal:
            return f"list of {_type_name(inner)}"
        return "list of secrets" if inner is SecretStr else "list of text"
    if origin is dict:
        return "mapping"
    return {bool: "switch", int: "integer", float: "number", str: "text", SecretStr: "secret"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if isinstance(value, Enum):
        value = value.value
    # JSON is YAML too; a plain word needs no quotes.
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w.:/-]*", value)
    return f"`{value if plain else json.dumps(value, ensure_ascii=False)}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
