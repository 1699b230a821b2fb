"""The layers put on top of each other: one tree of plain values, and the origin of each."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.settings.listen import MOST_LISTENERS
from proxy.settings.problems import DEFAULT, MOST_PROBLEMS, ConfigError, Origin, Path, Problem, dotted
from proxy.settings.shape import LISTEN, Leaf, StageTypes, is_optional, leaves, sections
from proxy.settings.values import Untyped, read_json, typed
from proxy.settings.yaml_source import UNUSABLE, Document
from proxy.stages import CONFIGS, StageConfig


class Layers:
    """Values from the file, with text from stronger layers written over them.

    ``unusable`` holds the paths somebody has complained about already: what stands there now is a default, and
    nothing further is to be concluded from it.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = list(document.problems)
        self.unusable: set[Path] = set()
        self.values = self._pruned(document.values, ())
        self._origins: dict[Path, Origin] = {}
        self.stage_types: StageTypes = {}
        self.leaves: Mapping[Path, Leaf] = {}
        self.sections: set[Path] = set()
        self.known: set[Path] = set()
        """Leaves and sections, those of one listener included even where there is a list: what names can mean."""

    def settle(self, added: Mapping[str, str]) -> None:
        """Find out which settings there are: listeners, and stages with their types.

        ``added`` holds types of stages given outside the file.
        """
        self.stage_types = _stage_types(self.values.get("stages"), added)
        self.leaves = leaves(self.stage_types, self._listeners())
        self.sections = sections(self.leaves)
        one = leaves(self.stage_types)
        self.known = {*self.leaves, *self.sections, *one, *sections(one)}
        for section in sorted(self.sections, key=len):
            self._fill_section(section)
        for leaf in self.leaves.values():
            self._settle_leaf(leaf)

    def put(self, leaf: Leaf, text: str, origin: Origin, *, lines: bool = False) -> None:
        """Write text from a stronger layer over a leaf."""
        try:
            value = typed(text, leaf, lines=lines)
        except ValueError as error:
            self.complain(leaf.path, str(error), origin=origin)
            return
        self.put_value(leaf.path, value, origin)

    def put_value(self, path: Path, value: object, origin: Origin) -> None:
        """Write a value over a leaf, and note where it came from."""
        place: object = self.values
        for part in path[:-1]:
            if isinstance(place, dict) and place.get(str(part)) is None:
                place[part] = {}
            place = _look(place, (part,))
        # Where a section should be there may be anything; then the model complains about that.
        if isinstance(place, dict):
            place[path[-1]] = value
            self._origins[path] = origin
            self.unusable.discard(path)

    def get(self, path: Path) -> object:
        """What stands at the path, or None."""
        return _look(self.values, path)

    def written(self, path: Path) -> object:
        """What the file says about the path, whatever stands over it now; None if nothing."""
        return _look(self.document.values, path)

    def has(self, path: Path) -> bool:
        """Whether some layer says something about the path."""
        place = self.get(path[:-1])
        return isinstance(place, dict) and path[-1] in place

    def origin(self, path: Path, *, key: bool = False) -> Origin:
        """Where the value at this path came from; of an item, where its list did.

        A section came from the strongest layer that says something about what is in it.
        """
        if path in self.sections:
            below = [origin for other, origin in self._origins.items() if other[: len(path)] == path]
            if below:
                return max(below)
        above = [path[:length] for length in range(len(path), 0, -1)]
        # A list from a stronger layer hides the whole list of the file.
        found = [self._origins.get(place) for place in above]
        found += [self.document.origin(place, key=key) for place in above]
        return next((origin for origin in found if origin is not None), DEFAULT)

    def complain(
        self, path: Path, message: str, hint: str = "", *, origin: Origin | None = None, key: bool = False
    ) -> None:
        """Note a problem with a path; by default at the place its value came from.

        Raises `ConfigError` when there are so many that nobody would read further ones.
        """
        self.unusable.add(path)
        self.problems.append(Problem(origin or self.origin(path, key=key), dotted(path), message, hint))
        if len(self.problems) >= MOST_PROBLEMS:
            raise ConfigError(self.problems)

    def is_doubtful(self, path: Path) -> bool:
        """Whether something was wrong with the path, inside it or around it."""
        return any(path[: len(other)] == other or other[: len(path)] == path for other in self.unusable)

    def _pruned(self, values: Mapping[str, object], path: Path) -> dict[str, object]:
        kept: dict[str, object] = {}
        for key, value in values.items():
            if value is UNUSABLE:
                self.unusable.add((*path, key))
            else:
                kept[key] = self._pruned_value(value, (*path, key))
        return kept

    def _pruned_value(self, value: object, path: Path) -> object:
        if isinstance(value, dict):
            return self._pruned(value, path)
        if isinstance(value, list):
            return [self._pruned_value(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def _listeners(self) -> int | None:
        """How many entries ``listen`` has, if it is a list. A variable may stand for one, in JSON."""
        given = self.get(LISTEN)
        if isinstance(given, Untyped) and given.lstrip().startswith("["):
            try:
                given = self.values[LISTEN[0]] = read_json(given, "list")
            except ValueError as error:
                self.complain(LISTEN, str(error))
                given = self.values.pop(LISTEN[0])
        # Of more there is a complaint, and no need for their settings.
        return min(len(given), MOST_LISTENERS) if isinstance(given, list) else None

    def _fill_section(self, path: Path) -> None:
        """A section with nothing in it, ``limit:``, is one in which everything is a default."""
        if path and self.has(path) and self.get(path) is None and not is_optional(path):
            parent = self.get(path[:-1])
            assert isinstance(parent, dict)
            parent[path[-1]] = {}

    def _settle_leaf(self, leaf: Leaf) -> None:
        """Give substituted text its setting's type. A list without entries, ``allow:``, is an empty one."""
        if not self.has(leaf.path):
            return
        parent = self.get(leaf.path[:-1])
        assert isinstance(parent, dict)
        key = leaf.path[-1]
        value = parent[key]
        if value is None and leaf.kind is not None:
            parent[key] = leaf.kind()
        elif isinstance(value, Untyped):
            try:
                parent[key] = typed(value, leaf)
            except ValueError as error:
                self.complain(leaf.path, str(error))
                del parent[key]
        elif isinstance(value, list):
            parent[key] = [str(item) if isinstance(item, Untyped) else item for item in value]
        elif isinstance(value, dict):
            parent[key] = {k: str(v) if isinstance(v, Untyped) else v for k, v in value.items()}


def _look(place: object, path: Path) -> object:
    for part in path:
        if isinstance(place, list) and isinstance(part, int):
            place = place[part] if 0 <= part < len(place) else None
        else:
            place = place.get(part) if isinstance(place, dict) else None
    return place


def _stage_types(stages: object, added: Mapping[str, str]) -> StageTypes:
    found: dict[str, type[StageConfig]] = dict(CONFIGS)
    entries = stages if isinstance(stages, dict) else {}
    for name in (*entries, *added):
        entry = entries.get(name)
        given = added.get(name) or (entry.get("type") if isinstance(entry, dict) else None)
        config = CONFIGS.get(str(given)) if given is not None else CONFIGS.get(name)
        if config is not None:
            found[name] = config
        elif name in added:
            # Of no type we have, which the check of the stages will say.
            found[name] = StageConfig
    return found
