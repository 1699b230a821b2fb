"""The shape of the settings: which leaves there are, what type each has, what its environment name is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from proxy.settings.model import Downstream, Settings
from proxy.settings.problems import Path, dotted
from proxy.stages import CONFIGS, StageConfig

PREFIX = "SLUICE__"
LISTEN: Final = ("listen",)
"""The one section that can be a list of sections."""

StageTypes = Mapping[str, type[StageConfig]]
"""The config class of each stage by the stage's name."""


class Leaf:
    """One setting: a scalar, a list, or a mapping with keys of the operator's choosing."""

    __slots__ = ("annotation", "description", "is_secret", "nullable", "path")

    def __init__(self, path: Path, field: FieldInfo) -> None:
        self.path = path
        self.description = field.description or ""
        self.annotation, self.nullable = _without_none(field.annotation)
        self.is_secret = _holds_secret(self.annotation)

    @property
    def kind(self) -> type | None:
        """``list`` or ``dict`` for containers, else None."""
        origin = get_origin(self.annotation)
        return origin if origin in (list, dict) else None

    @property
    def variable(self) -> str:
        """``SLUICE__STAGES__LIMIT__HOUR``"""
        return variable(self.path)

    def __repr__(self) -> str:
        return f"<Leaf {self.variable}>"


def variable(path: Path) -> str:
    """The environment name of a setting or section."""
    return PREFIX + "__".join(str(part).upper() for part in path)


def leaves(stage_types: StageTypes = CONFIGS, listeners: int | None = None) -> dict[Path, Leaf]:
    """Every leaf by its path, in the order of the models.

    ``listeners``: how many entries ``listen`` has, if it is a list; each has leaves of its own then.
    """
    found = {leaf.path: leaf for leaf in _leaves(Settings, (), listeners) if leaf.path != ("stages",)}
    for name, config in stage_types.items():
        found.update({leaf.path: leaf for leaf in _leaves(config, ("stages", name))})
    return found


def sections(leaves: Iterable[Path]) -> set[Path]:
    """Every mapping with fixed keys that holds these leaves, by its path; the whole file is ``()``."""
    found: set[Path] = {()}
    for path in leaves:
        found.update(path[:length] for length in range(1, len(path)))
    return found


def section_model(annotation: object) -> type[BaseModel] | None:
    """The model a field holds, perhaps optional or in a list, or None if the field is a leaf."""
    kind, _ = _without_none(annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def keys_beside(leaf: Leaf, within: Path) -> list[str]:
    """The keys that can stand beside one deep within a mapping: ``within`` is its path below the leaf."""
    annotation: object = leaf.annotation
    for part in within[:-1]:
        model = section_model(annotation)
        if model is not None:
            field = model.model_fields.get(str(part))
            annotation = None if field is None else _without_none(field.annotation)[0]
        else:
            # Under the operator's own names there is one kind of thing.
            annotation = get_args(annotation)[-1] if get_args(annotation) else None
    model = section_model(annotation)
    return list(model.model_fields) if model is not None else []


def moved(path: Path, spelled: Callable[[Path], str] = dotted) -> str:
    """A hint for a setting that stands elsewhere now, or an empty text. ``spelled`` writes the new place."""
    name = path[-1:]
    place: Path = ("downstream", *name)
    return f"it is {spelled(place)} now" if path[:1] == LISTEN and name and name[0] in Downstream.model_fields else ""


def is_optional(section: Path) -> bool:
    """Whether a section need not be there: with nothing in it, it is not."""
    model: type[BaseModel] = Settings
    optional = False
    for name in section:
        field = model.model_fields.get(name) if isinstance(name, str) else None
        inner = None if field is None else section_model(field.annotation)
        if field is not None and inner is not None:
            model, optional = inner, _without_none(field.annotation)[1]
        elif isinstance(name, str):
            return False
    return optional


def _leaves(model: type[BaseModel], path: Path, listeners: int | None = None) -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        below = (*path, name)
        inner = section_model(field.annotation)
        if inner is None:
            yield Leaf(below, field)
        elif listeners is not None and below == LISTEN:
            for index in range(listeners):
                yield from _leaves(inner, (*below, index))
        else:
            yield from _leaves(inner, below)


def _without_none(annotation: object) -> tuple[object, bool]:
    if get_origin(annotation) in (Union, UnionType):
        rest = [member for member in get_args(annotation) if member is not NoneType]
        return rest[0], len(rest) < len(get_args(annotation))
    return annotation, False


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(member) for member in get_args(annotation))


def choices(annotation: object) -> tuple[object, ...]:
    """The values a setting can have, if they are few; else nothing."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(annotation)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


# By name, because the reader of the file does not know yet which stages there are.
_NAMES_WITH_OFF = frozenset(leaf.path[-1] for leaf in leaves().values() if "off" in choices(leaf.annotation))


def may_be_off(path: Path) -> bool:
    """Whether ``off`` is one of the words for what stands here, so that nobody can mean a boolean by it."""
    return bool(path) and path[-1] in _NAMES_WITH_OFF


# By name and not by place, so that a key written at the wrong place is not shown either.
_SECRET_NAMES = frozenset(
    {"api_key", "api_keys", "openai_api_key", "server_key"}
    | {str(leaf.path[-1]) for leaf in leaves().values() if leaf.is_secret}
)
# What stands in the place of such a section may well be the secret that belongs into it.
_SECRET_SECTIONS = frozenset(leaf.path[:-1] for leaf in leaves().values() if leaf.is_secret)


def is_secret(path: Path) -> bool:
    """Whether what stands here, right or wrong, may be a secret. ``listen.tls.key`` is the path of a file."""
    if path[:1] == LISTEN and path[-2:] == ("tls", "key"):
        return False
    if path in _SECRET_SECTIONS:
        return True
    return any(part in _SECRET_NAMES for part in path) or path[-1:] in (("key",), ("keys",))
