"""The shape of the settings: which leaves there are, what type each has, what its environment name is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from proxy.settings.model import Settings
from proxy.settings.problems import Path
from proxy.stages import CONFIGS, StageConfig

PREFIX = "SLUICE__"

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


def leaves(stage_types: StageTypes = CONFIGS) -> dict[Path, Leaf]:
    """Every leaf by its path, in the order of the models."""
    found = {leaf.path: leaf for leaf in _leaves(Settings, ()) if leaf.path != ("stages",)}
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
    """The model a field holds, or None if the field is a leaf."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _leaves(model: type[BaseModel], path: Path) -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        inner = section_model(field.annotation)
        if inner is None:
            yield Leaf((*path, name), field)
        else:
            yield from _leaves(inner, (*path, name))


def _without_none(annotation: object) -> tuple[object, bool]:
    if get_origin(annotation) in (Union, UnionType):
        rest = [member for member in get_args(annotation) if member is not NoneType]
        return rest[0], len(rest) < len(get_args(annotation))
    return annotation, False


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_holds_secret(member) for member in get_args(annotation))


# By name and not by place, so that a key written at the wrong place is not shown either.
_SECRET_NAMES = frozenset(
    {"api_key", "api_keys", "openai_api_key", "server_key"}
    | {str(leaf.path[-1]) for leaf in leaves().values() if leaf.is_secret}
)


def is_secret(path: Path) -> bool:
    """Whether what stands here, right or wrong, may be a secret."""
    return any(part in _SECRET_NAMES for part in path) or path[-1:] in (("key",), ("keys",))
