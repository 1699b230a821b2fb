"""Every leaf by its path: ``SLUICE__STAGES__LIMIT__HOUR=50`` and ``--set stages.limit.hour=50``; secrets as files."""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.settings.layers import Layers
from proxy.settings.problems import Kind, Origin, Path, Problem, did_you_mean, dotted, show
from proxy.settings.shape import LISTEN, PREFIX, Leaf, moved, variable
from proxy.settings.values import read_json

FILE = "_FILE"
MAX_SECRET_BYTES = 65_536

OPTIONS: Mapping[str, Path] = {"--host": ("listen", "host"), "--port": ("listen", "port")}
"""Options of the command line that stand for one setting each."""
LISTEN_VARIABLE = variable(LISTEN)

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


def apply_lists(layers: Layers, environ: Mapping[str, str], overrides: Mapping[str, str]) -> None:
    """Put a list of listeners, in JSON, over what ``listen`` is in the file.

    To be done before the settings are settled: which there are depends on how many listeners there are.
    """
    given = [(Origin(Kind.ENVIRONMENT, LISTEN_VARIABLE), environ.get(LISTEN_VARIABLE, ""))]
    given.append((Origin(Kind.COMMAND_LINE, f"--set {LISTEN[0]}"), overrides.get(str(LISTEN[0]), "")))
    for origin, text in given:
        if not _is_list(text):
            continue
        try:
            layers.put_value(LISTEN, read_json(text.strip(), "list"), origin)
        except ValueError as error:
            layers.complain(LISTEN, str(error), origin=origin)


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
        if name == LISTEN_VARIABLE and _is_list(environ[name]):
            continue
        if name not in known:
            place = tuple(name.removeprefix(PREFIX).lower().split("__"))
            if not refuse_in_list(layers, place, origin, name):
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
        if (name,) == LISTEN and _is_list(text):
            continue
        option = OPTIONS.get(name)
        leaf = known.get(name) if option is None else layers.leaves.get(option)
        origin = Origin(Kind.COMMAND_LINE, f"--set {name}" if option is None else name)
        if leaf is not None:
            layers.put(leaf, text, origin)
        elif not refuse_in_list(layers, option or tuple(name.split(".")), origin, str(origin.name)):
            hint = moved(tuple(name.split("."))) or did_you_mean(name, known)
            if any(dotted(section) == name for section in layers.sections):
                hint = "it is a section; set its keys one by one"
            layers.problems.append(Problem(origin, "", "unknown setting", hint))


def refuse_in_list(layers: Layers, path: Path, origin: Origin, name: str) -> bool:
    """Complain about a setting of the one listener where there is a list of them. False if it is none."""
    if not isinstance(layers.get(LISTEN), list) or path not in layers.known or path[:1] != LISTEN:
        return False
    first: Path = (*LISTEN, 0, *path[1:])
    message = f"cannot be set: listen is a list ({layers.origin(LISTEN)})"
    hint = f"leave {name} out; each entry has its own, like {dotted(first)} ({variable(first)})"
    layers.complain(path, message, hint, origin=origin)
    return True


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
    return moved(tuple(name.removeprefix(PREFIX).lower().split("__")), variable) or did_you_mean(name, known)


def _is_list(text: str) -> bool:
    return text.lstrip().startswith("[")
