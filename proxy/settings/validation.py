"""Plain values into `Settings`: the models do the checking, and their complaints become plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.settings.layers import Layers
from proxy.settings.listen import MOST_LISTENERS, Listen
from proxy.settings.model import Settings
from proxy.settings.problems import DEFAULT, Kind, Path, describe, did_you_mean, dotted, show
from proxy.settings.shape import LISTEN, is_secret, keys_beside, moved
from proxy.settings.values import number
from proxy.stages import CONFIGS, StageConfig

_STAGE_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*\Z")
_TYPES = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_sub_type": "must be text",
    "string_unicode": "must be text in valid Unicode",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def validate(layers: Layers) -> Settings:
    """The settings these layers say; what is wrong is noted in ``layers`` and replaced by its default."""
    stages = _stages(layers)
    checked = {"stages": stages, "listen": _listen(layers)}
    values = {key: value for key, value in layers.values.items() if key not in checked}
    for _ in range(3):
        try:
            return Settings.model_validate(values | checked)
        except ValidationError as error:
            for path in _complain(layers, Settings, (), error):
                _remove(values, path)
    return Settings.model_validate(checked)


def _listen(layers: Layers) -> Listen | list[Listen]:
    """The listeners, each checked by itself, so that complaints name the entry."""
    given = layers.values.get(LISTEN[0], {})
    if not isinstance(given, list):
        return _listener(layers, LISTEN, given)
    if not 0 < len(given) <= MOST_LISTENERS:
        layers.complain(LISTEN, f"a list must hold 1 to {MOST_LISTENERS} listeners, not {len(given)}")
    entries = [_listener(layers, (*LISTEN, index), entry) for index, entry in enumerate(given[:MOST_LISTENERS])]
    return entries or [Listen()]


def _listener(layers: Layers, path: Path, entry: object) -> Listen:
    """One listener; what is wrong with it is noted, and a default in its place."""
    if not isinstance(entry, dict):
        which = "a mapping" if path[1:] else "a mapping, or a list of mappings"
        layers.complain(path, f"must be {which}, not {describe(entry)}")
        return Listen()
    entry = dict(entry)
    for _ in range(3):
        try:
            return Listen.model_validate(entry)
        except ValidationError as error:
            for inner in _complain(layers, Listen, path, error):
                # All of tls, or what is left of it would be found wanting.
                entry.pop(inner[0], None)
    return Listen()


def _stages(layers: Layers) -> dict[str, StageConfig]:
    built: dict[str, StageConfig] = {name: config() for name, config in CONFIGS.items()}
    entries = layers.values.get("stages", {})
    if not isinstance(entries, dict):
        # Whatever stands here may be a key that slipped out of its list.
        given = "text" if isinstance(entries, str) else describe(entries)
        layers.complain(("stages",), f"must be a mapping, not {given}")
        return built
    for name, entry in entries.items():
        path: Path = ("stages", name)
        config = _stage_class(layers, path, entry)
        if config is not None:
            try:
                built[name] = config.model_validate(entry)
            except ValidationError as error:
                _complain(layers, config, path, error)
    return built


def _stage_class(layers: Layers, path: Path, entry: object) -> type[StageConfig] | None:
    """The config class of an entry of ``stages``, or None if there was something to complain about."""
    name = str(path[-1])
    if not isinstance(entry, dict):
        # Whatever stands here may be a key that slipped out of its list.
        layers.complain(path, f"must be a mapping, not {_described(path, entry)}")
        return None
    if not _STAGE_NAME.match(name):
        layers.complain(
            path,
            "a stage's name is lower-case letters, digits and single underscores",
            "so that SLUICE__STAGES__... can name it",
            key=True,
        )
        return None
    given = entry.get("type")
    if given is None:
        if name not in CONFIGS:
            hint = did_you_mean(name, CONFIGS)
            hint = hint or f"a name of your own needs a type: {', '.join(CONFIGS)}"
            layers.complain(path, "unknown stage", hint, key=True)
        return CONFIGS.get(name)
    config = CONFIGS.get(given) if isinstance(given, str) else None
    if config is None:
        known = f"must be one of {', '.join(CONFIGS)}, not {describe(given)}"
        layers.complain((*path, "type"), known, did_you_mean(given, CONFIGS) if isinstance(given, str) else "")
    return config


def _complain(layers: Layers, model: type[BaseModel], at: Path, error: ValidationError) -> list[Path]:
    """Note every error of one model; answers with the paths, inside the model, that cannot be used."""
    unusable: list[Path] = []
    for detail in error.errors(include_url=False):
        inner: Path = tuple(detail["loc"])
        path = (*at, *inner)
        leaf = layers.leaves.get(_leaf_path(layers, path))
        unusable.append(leaf.path[len(at) :] if leaf is not None else inner)
        if detail["type"] == "extra_forbidden":
            layers.complain(path, "unknown key", _known(layers, path), key=True)
            continue
        if detail["type"] == "missing":
            # Something may have stood there that could not be read.
            if not layers.is_doubtful(path):
                layers.complain(path, "is missing", origin=layers.origin(path[:-1]))
            continue
        for place, message, hint in _culprits(layers, model, path, detail):
            layers.complain(place, message, hint, key=isinstance(layers.get(place), dict))
    return unusable


def _culprits(
    layers: Layers, model: type[BaseModel], path: Path, detail: ErrorDetails
) -> Iterable[tuple[Path, str, str]]:
    """The complaint; for a list the model refuses as a whole, one for each item it also refuses alone."""
    given = detail["input"]
    leaf = layers.leaves.get(path)
    if detail["type"] != "value_error" or leaf is None or leaf.is_secret or not isinstance(given, list):
        return [(path, *_words(layers, path, detail))]
    found: list[tuple[Path, str, str]] = []
    for index, item in enumerate(given):
        try:
            model.model_validate({str(path[-1]): [item]})
        except ValidationError as error:
            found.extend(((*path, index), *_words(layers, path, one)) for one in error.errors())
    return found or [(path, *_words(layers, path, detail))]


def _words(layers: Layers, path: Path, detail: ErrorDetails) -> tuple[str, str]:
    """(message, hint) for one error of a model."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    origin = layers.origin(path)
    but = f", not {_described(path, given)}"
    if kind == "value_error":
        offers_any = given == [] and path[-1] == "allow" and origin.kind is Kind.ENVIRONMENT
        return show(str(context["error"]), 300), f"here: {origin.name}=any" if offers_any else ""
    if kind in _TYPES:
        return _TYPES[kind] + but, _type_hint(layers, path, kind, given)
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]}{but}", ""
    if kind in ("literal_error", "enum"):
        choices = str(context["expected"]).replace("'", "")
        known = re.split(r", | or ", choices)
        quoted = f'quote it: "{given}"' if isinstance(given, int | float) and str(given) in known else ""
        return f"must be {choices}{but}", did_you_mean(given, known) if isinstance(given, str) else quoted
    if kind == "string_too_short":
        return "must not be empty", ""
    # Messages of the library never quote what was given.
    return detail["msg"][:1].lower() + detail["msg"][1:], ""


def _described(path: Path, given: object) -> str:
    is_shown = not is_secret(path) or given is None or isinstance(given, bool | list | Mapping)
    return describe(given) if is_shown else "***"


def _type_hint(layers: Layers, path: Path, kind: str, given: object) -> str:
    """How to write it instead, as far as that can be told from the text."""
    origin = layers.origin(path)
    in_file = origin.kind in (Kind.FILE, Kind.DEFAULT)
    secret = is_secret(path)
    if isinstance(given, str) and in_file and origin is not DEFAULT:
        if kind in ("int_type", "float_type") and number(given) is not None:
            return "remove the quotes"
        if kind == "bool_type" and given in ("true", "false"):
            return "remove the quotes"
    if kind == "string_type" and isinstance(given, bool | int | float) and in_file:
        shown = "***" if secret else str(given).lower() if isinstance(given, bool) else str(given)
        return f'quote it: "{shown}"'
    if kind == "list_type" and isinstance(given, str | int | float) and in_file:
        return "put it between [ and ]"
    if kind == "dict_type" and isinstance(given, str) and not in_file:
        return 'write JSON, like {"name": "value"}'
    return ""


def _known(layers: Layers, path: Path) -> str:
    """A hint for an unknown key: its neighbours first, then what has that name elsewhere."""
    name = str(path[-1])
    if len(path) == 1 and name in CONFIGS:
        return f"did you mean stages.{name}?"
    neighbours = [str(p[-1]) for p in layers.known if len(p) == len(path) and p[:-1] == path[:-1]]
    leaf = layers.leaves.get(_leaf_path(layers, path))
    if leaf is not None:
        neighbours += keys_beside(leaf, path[len(leaf.path) :])
    hint = moved(path) or did_you_mean(name, sorted(neighbours))
    if hint:
        return hint
    # Of an entry of a list one cannot say which.
    elsewhere = sorted(dotted(p) for p in layers.known if p[-1:] == (name,) and all(isinstance(x, str) for x in p))
    return f"did you mean {' or '.join(elsewhere[:3])}?" if elsewhere else ""


def _leaf_path(layers: Layers, path: Path) -> Path:
    for length in range(len(path), 0, -1):
        if path[:length] in layers.leaves:
            return path[:length]
    return path


def _remove(values: dict[str, object], path: Path) -> None:
    place: object = values
    for part in path[:-1]:
        place = place.get(str(part)) if isinstance(place, dict) else None
    if isinstance(place, dict) and path:
        place.pop(path[-1], None)
    elif path:
        values.pop(str(path[0]), None)
