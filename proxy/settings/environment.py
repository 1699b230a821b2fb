"""Every leaf by its path: ``SLUICE__STAGES__LIMIT__HOUR=50`` and ``--set stages.limit.hour=50``; secrets as files."""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.settings.layers import Layers
from proxy.settings.problems import Kind, Origin, Path, Problem, did_you_mean, dotted, show
from proxy.settings.shape import PREFIX, Leaf, variable

FILE = "_FILE"
MAX_SECRET_BYTES = 65_536

OPTIONS: Mapping[str, Path] = {"--host": ("listen", "host"), "--port": ("listen", "port")}
"""Options of the command line that stand for one setting each."""

_TYPE_VARIABLE = re.compile(rf"{PREFIX}STAGES__([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)__TYPE\Z")
_TYPE_PATH = re.compile(r"stages\.([a-z][a-z0-9]*(?:_[a-z0-9]+)*)\.type\Z")


def added_stages(environ: Mapping[str, str], overrides: Mapping[str, str]) -> dict[str, str]:
    """The type of each stage that environment or command line gives a type: it need not be in the file."""
    found: dict[str, str] = {}
    for name, text in environ.items():
        if match := _TYPE_VARIABLE.match(name):
            found[match[1].lower()] = text.strip()
    for name, text in overrides.items():
        if match := _TYPE_PATH.match(name):
            found[match[1]] = text.strip()
    return found


def apply_environment(layers: Layers, environ: Mapping[str, str]) -> None:
    """Put every ``SLUICE__`` variable over what is there; an unknown name is a problem."""
    known: dict[str, tuple[Leaf, bool]] = {}
    for leaf in layers.leaves.values():
        known[leaf.variable] = (leaf, False)
        if leaf.is_secret:
            known[leaf.variable + FILE] = (leaf, True)
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        origin = Origin(Kind.ENVIRONMENT, name)
        if name not in known:
            layers.problems.append(Problem(origin, "", "unknown setting", _hint(layers, name, list(known))))
            continue
        leaf, is_file = known[name]
        if is_file:
            if leaf.variable in environ:
                layers.complain(leaf.path, f"{leaf.variable} is set as well", "set one of them", origin=origin)
            else:
                put_file(layers, leaf, environ[name], origin)
        else:
            layers.put(leaf, environ[name], origin)


def apply_overrides(layers: Layers, overrides: Mapping[str, str]) -> None:
    """Put what the command line says over everything. Keys are dotted paths, or options of `OPTIONS`."""
    known = {dotted(path): leaf for path, leaf in layers.leaves.items()}
    for name, text in overrides.items():
        is_option = name in OPTIONS
        leaf = layers.leaves.get(OPTIONS[name]) if is_option else known.get(name)
        origin = Origin(Kind.COMMAND_LINE, name if is_option else f"--set {name}")
        if leaf is None:
            hint = did_you_mean(name, known)
            if any(dotted(section) == name for section in layers.sections):
                hint = "it is a section; set its keys one by one"
            layers.problems.append(Problem(origin, "", "unknown setting", hint))
        else:
            layers.put(leaf, text, origin)


def put_file(layers: Layers, leaf: Leaf, path: str, origin: Origin) -> None:
    """Put the content of a file, stripped, over a leaf. Problems name variable and path, never the content."""
    content = b""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        layers.complain(leaf.path, f'the file "{show(path, None)}" is not valid UTF-8', origin=origin)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a usable path"
        layers.complain(leaf.path, f'the file "{show(path, None)}" cannot be read: {reason.lower()}', origin=origin)
    else:
        if len(content) > MAX_SECRET_BYTES:
            layers.complain(leaf.path, f'the file "{show(path, None)}" is too large to be a secret', origin=origin)
        elif not text:
            layers.complain(leaf.path, f'the file "{show(path, None)}" is empty', origin=origin)
        else:
            layers.put(leaf, text, origin, lines=True)


def _hint(layers: Layers, name: str, known: list[str]) -> str:
    below = {variable(section) for section in layers.sections if section}
    if name in below:
        example = next(other for other in known if other.startswith(f"{name}__"))
        return f"it is a section; set its keys one by one, like {example}"
    return did_you_mean(name, known)
