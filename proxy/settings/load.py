"""Loading: defaults, file, environment and command line into one `Settings`, with the origin of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath

from proxy.settings.aliases import OPENAI_API_KEY, SERVER_KEYS, apply_alias, apply_aliases, apply_language
from proxy.settings.checks import check, guards
from proxy.settings.environment import added_stages, apply_environment, apply_lists, apply_overrides
from proxy.settings.layers import Layers
from proxy.settings.model import Settings
from proxy.settings.notices import notices
from proxy.settings.problems import DEFAULT, ConfigError, Origin, Path, Problem, dotted
from proxy.settings.shape import Leaf
from proxy.settings.validation import validate
from proxy.settings.yaml_source import Document, read_file

VARIABLE = "SLUICE_CONFIG"
PLACES = ("sluice.yaml", "/etc/sluice/sluice.yaml")
"""Where a file is looked for if none is named; the first one is relative to the working directory."""

_IGNORED = (
    "OPENAI_API_KEY is ignored: everybody could spend its money. Set IP_ALLOWLIST to say who may use it, "
    "or API_KEY to share it with everybody"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Usable settings. ``origins`` has the origin of every leaf, by dotted path.

    ``source`` is the file read, ``configuration`` for a mapping, None for defaults alone. ``notices`` are for the
    operator, at start. ``leaves`` describes every setting, for those who print them.
    """

    settings: Settings
    source: str | None
    origins: Mapping[str, Origin]
    notices: list[str]
    leaves: Mapping[Path, Leaf] = field(repr=False)


def load(
    config: str | FilePath | Mapping[str, object] | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, str] | None = None,
) -> Loaded:
    """Load and check everything. Raises `ConfigError` with every problem found.

    ``config`` is a file, a mapping of the same shape, or None: then $SLUICE_CONFIG, else the first of `PLACES`
    that exists, else nothing but defaults. ``overrides`` is what the command line says, as text, by dotted path
    (``stages.limit.hour``) or option (``--port``).
    """
    document = _document(config, environ)
    return _assembled(document, environ, overrides or {})


def _document(config: str | FilePath | Mapping[str, object] | None, environ: Mapping[str, str]) -> Document:
    if isinstance(config, Mapping):
        document = Document("configuration")
        document.values = _plain_mapping(document, config, ())
        return document
    if config is None:
        config = environ.get(VARIABLE) or next((p for p in PLACES if FilePath(p).exists()), None)
    return Document("") if config is None else read_file(config, environ)


def _plain_mapping(document: Document, given: Mapping[str, object], path: Path) -> dict[str, object]:
    return {str(key): _plain(document, value, (*path, str(key))) for key, value in given.items()}


def _plain(document: Document, value: object, path: Path) -> object:
    """A copy of what the caller still holds, in the types a file would give; noted as being there."""
    document.keys[path] = (0, 0)
    if isinstance(value, Mapping):
        return _plain_mapping(document, value, path)
    if isinstance(value, list | tuple):
        return [_plain(document, item, (*path, index)) for index, item in enumerate(value)]
    return value


def _assembled(document: Document, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Loaded:
    if document.is_broken:
        # What the rest of the file would have said is unknown, so nothing else can be judged.
        raise ConfigError(document.problems)
    layered = _Layered(document, environ, overrides, ambient_key=True)
    settings = validate(layered.layers)
    if OPENAI_API_KEY.name in layered.short_names and SERVER_KEYS[1] in settings.chain and not guards(settings):
        # Decided only now, because it takes the whole chain to tell; so once more, without it.
        layered = _Layered(document, environ, overrides, ambient_key=False)
        settings = validate(layered.layers)
    layers = layered.layers
    check(layers, settings)
    if layers.problems:
        raise ConfigError([layered.explained(problem) for problem in layers.problems])
    said = [*notices(layers, settings, layered.short_names), *layered.notices]
    origins = {dotted(path): layers.origin(path) if layers.has(path) else DEFAULT for path in layers.leaves}
    return Loaded(settings, document.name or None, origins, said, layers.leaves)


class _Layered:
    """The layers in their order, weakest first, and what was noticed on the way."""

    def __init__(
        self,
        document: Document,
        environ: Mapping[str, str],
        overrides: Mapping[str, str],
        *,
        ambient_key: bool,
    ) -> None:
        self.notices: list[str] = []
        self.layers = layers = Layers(document)
        apply_lists(layers, environ, overrides)
        layers.settle(added_stages(environ, overrides))
        self.short_names = apply_aliases(layers, environ)
        apply_environment(layers, environ)
        apply_overrides(layers, overrides)
        # These two are often set for the sake of other programs, so they only fill what is still empty.
        if not layers.get(SERVER_KEYS) and not layers.is_doubtful(SERVER_KEYS):
            self._ambient_key(environ, ambient_key)
        ignored = apply_language(layers, environ)
        if ignored:
            self.notices.append(ignored)

    def explained(self, problem: Problem) -> Problem:
        """The problem, with a hint if the key it misses is one that was ignored."""
        is_missing_key = problem.path == dotted(SERVER_KEYS[:-1]) and not problem.hint
        return replace(problem, hint=_IGNORED) if is_missing_key and _IGNORED in self.notices else problem

    def _ambient_key(self, environ: Mapping[str, str], wanted: bool) -> None:
        if wanted:
            if apply_alias(self.layers, OPENAI_API_KEY, environ):
                self.short_names[OPENAI_API_KEY.name] = OPENAI_API_KEY.path
        else:
            self.notices.append(_IGNORED)
