"""Reading YAML strictly, and remembering where everything stood.

One document that is a mapping, with text as keys; no duplicates, anchors, aliases, merge keys or tags; UTF-8, at
most 1 MiB. The reader works on the parser's events, so nothing is built that was not checked before.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

import yaml

from proxy.settings.plain import Surprise, plain
from proxy.settings.problems import MOST_PROBLEMS, ConfigError, Kind, Origin, Path, Problem, dotted, show
from proxy.settings.shape import is_secret, may_be_off
from proxy.settings.substitution import SubstitutionError, has_variable, substitute
from proxy.settings.values import Untyped

MAX_BYTES = 1_048_576
MAX_DEPTH = 16

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Unusable:
    """Stands for a value that has already been complained about."""


UNUSABLE = Unusable()


@dataclass(slots=True)
class Document:
    """What a file says. ``keys`` and ``values_at`` hold (line, column) from 1 of every key and every value."""

    name: str
    values: dict[str, object] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values_at: dict[Path, tuple[int, int]] = field(default_factory=dict)
    substituted: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    is_readable_by_all: bool = False
    is_broken: bool = False
    """The file could not be read to its end, so what ``values`` lacks may well be there."""

    def origin(self, path: Path, *, key: bool = False) -> Origin | None:
        """Where the value, or the key, of this path stands; None if it is not in the file."""
        first, second = (self.keys, self.values_at) if key else (self.values_at, self.keys)
        place = first.get(path) or second.get(path)
        return None if place is None else Origin(Kind.FILE, self.name, *place)

    def complain(self, message: str, hint: str = "", mark: tuple[int, int] = (0, 0), path: Path = ()) -> None:
        """Note a problem at (line, column). Raises `ConfigError` when nobody would read further ones."""
        self.problems.append(Problem(Origin(Kind.FILE, self.name, *mark), dotted(path), message, hint))
        if len(self.problems) >= MOST_PROBLEMS:
            raise ConfigError(self.problems)


def read_file(path: str | FilePath, environ: Mapping[str, str]) -> Document:
    """Read a file. Whatever is wrong with it stands in the document's ``problems``."""
    document = Document(str(path))
    content = b""
    try:
        with open(path, "rb") as file:
            document.is_readable_by_all = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        document.complain(f"cannot be read: {(reason or 'not a usable path').lower()}")
        document.is_broken = True
        return document
    if len(content) > MAX_BYTES:
        document.complain(f"is larger than {MAX_BYTES} bytes; that is no configuration of ours")
        document.is_broken = True
        return document
    read_bytes(document, content, environ)
    return document


def read_bytes(document: Document, content: bytes, environ: Mapping[str, str]) -> None:
    """Read the content of a file into its document."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        document.complain("is not valid UTF-8", "save the file as UTF-8", (line, 1))
        document.is_broken = True
        return
    strange = _UNPRINTABLE.search(text)
    if strange is not None:
        line = text.count("\n", 0, strange.start()) + 1
        column = strange.start() - text.rfind("\n", 0, strange.start())
        document.complain(f"the character U+{ord(strange[0]):04X} does not belong into YAML", "", (line, column))
        document.is_broken = True
        return
    try:
        _Reader(document, text, environ).read()
    except yaml.MarkedYAMLError as error:
        document.is_broken = True
        mark = error.problem_mark
        place = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        lines = text.splitlines()
        source = lines[place[0] - 1] if 0 < place[0] <= len(lines) else ""
        hint = "inside {...} and [...] put quotes around ${...}" if "${" in source else ""
        document.complain(f"is not valid YAML: {error.problem or error.context}", hint, place)
    except yaml.YAMLError:
        document.is_broken = True
        document.complain("is not valid YAML")
    except _Stop:
        document.is_broken = True


class _Stop(Exception):
    """Nothing sensible can follow; the problem is already noted."""


def _mark(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (0, 0) if mark is None else (mark.line + 1, mark.column + 1)


class _Reader:
    """Builds plain values from the parser's events."""

    def __init__(self, document: Document, text: str, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)

    def read(self) -> None:
        document = self._document
        next(self._events)  # the start of the stream
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return
        root = next(self._events)
        values = self._node(root, (), 0)
        if isinstance(values, dict):
            document.values = values
        elif values is not None and values is not UNUSABLE:
            document.complain("must hold a mapping: lines like  key: value", "", _mark(root))
            raise _Stop
        next(self._events)  # the end of the document
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            document.complain("a second document begins here", "keep one, without ---", _mark(following))

    def _node(self, event: yaml.Event, path: Path, depth: int) -> object:
        """The value that begins with this event; `UNUSABLE` if it was complained about."""
        mark = _mark(event)
        self._document.values_at[path] = mark
        if depth > MAX_DEPTH:
            self._document.complain(f"is nested more than {MAX_DEPTH} levels deep", "", mark)
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            self._document.complain("aliases (*name) are not supported", "write the value out", mark, path)
            return UNUSABLE
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            self._document.complain("anchors (&name) are not supported", "leave the anchor out", mark, path)
        value: object
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path, depth)
        else:
            value = self._mapping(path, depth)
        tag: str | None = event.tag  # type: ignore[attr-defined]
        if tag is not None:
            shown = show(tag.replace("tag:yaml.org,2002:", "!!"))
            self._document.complain(f"tags ({shown}) are not supported", "leave the tag out", mark, path)
            return UNUSABLE
        return UNUSABLE if event.anchor is not None else value

    def _sequence(self, path: Path, depth: int) -> object:
        items: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return UNUSABLE if UNUSABLE in items else items

    def _mapping(self, path: Path, depth: int) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path, depth)
            if key is None:
                self._node(next(self._events), (*path, "?"), depth + 1)
                continue
            below = (*path, key)
            first = self._document.keys.get(below)
            if first is not None:
                message = f"is given twice, first on line {first[0]}"
                self._document.complain(message, "keep one", _mark(event), below)
                # Read under another path, so that positions of the first one stay.
                self._node(next(self._events), (*path, key, "?"), depth + 1)
                continue
            self._document.keys[below] = _mark(event)
            values[key] = self._node(next(self._events), below, depth + 1)
        return values

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str | None:
        """The key, or None if it was complained about; whatever belongs to it is consumed."""
        mark = _mark(event)
        complain = self._document.complain
        if not isinstance(event, yaml.ScalarEvent):
            complain("a key must be text", "", mark, path)
            if not isinstance(event, yaml.AliasEvent):
                self._node(event, (*path, "?"), depth + 1)
            return None
        if event.anchor is not None or event.tag is not None:
            complain("a key takes no anchor and no tag", "leave it out", mark, path)
            return None
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text == "<<":
            complain("merge keys (<<) are not supported", "write the settings out", mark, path)
            return None
        try:
            value = plain(text)
        except Surprise as surprise:
            complain(surprise.sentence(text, is_secret((*path, text))), "", mark, path)
            return None
        if not isinstance(value, str):
            what = f"a key must be text, not {'nothing' if text == '' else show(text)}"
            complain(what, f'quote it: "{show(text)}"' if text else "", mark, path)
            return None
        return value

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        text: str = event.value
        is_plain = event.implicit[0]
        if has_variable(text):
            self._document.substituted.add(path)
            try:
                text = substitute(text, self._environ)
            except SubstitutionError as error:
                self._document.complain(str(error), "", _mark(event), path)
                return UNUSABLE
            return Untyped(text) if is_plain else text
        if not is_plain:
            return text
        try:
            return plain(text)
        except Surprise as surprise:
            if text == "off" and may_be_off(path):
                return text
            self._document.complain(surprise.sentence(text, is_secret(path)), "", _mark(event), path)
            return UNUSABLE
