"""Rebuild the generated files: ``sluice.pot`` from the messages, each ``sluice.mo`` from its ``sluice.po``.

Run it from the top of the checkout, after any change to a message or a translation::

    python -m locales.compile

The same sources give the same bytes on every run: no dates and no tool versions are written.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from proxy.core import messages
from proxy.core.catalogue import LANGUAGES

LOCALES = Path(__file__).resolve().parent
COMMAND = "python -m locales.compile"


class PlainCatalog(Catalog):
    """A catalogue whose header holds only what a reader needs, so that a rebuild changes nothing."""

    def __init__(self, language: str = "", plural_forms: str = "nplurals=2; plural=(n != 1);") -> None:
        super().__init__(header_comment="# Every sentence Sluice says to a caller.", fuzzy=False)
        self._header = (language, plural_forms)

    @property
    def mime_headers(self) -> list[tuple[str, str]]:
        """The header fields, in order; the last ends the header's last line."""
        language, plural_forms = self._header
        return [
            ("Project-Id-Version", "Sluice"),
            ("Language", language),
            ("MIME-Version", "1.0"),
            ("Content-Type", "text/plain; charset=UTF-8"),
            ("Content-Transfer-Encoding", "8bit"),
            ("Plural-Forms", f"{plural_forms}\n"),
        ]


def po_file(language: str) -> Path:
    """Where the translations of a language are written."""
    return LOCALES / language / "LC_MESSAGES" / "sluice.po"


def read(language: str) -> Catalog:
    """The translations of a language as they stand in its file. Raises PoFileError if it is malformed."""
    with po_file(language).open("rb") as file:
        return read_po(file, abort_invalid=True)


def template() -> bytes:
    """The contents of ``sluice.pot``: every message of the gateway, without a translation."""
    catalog = PlainCatalog()
    for name, message in sorted(vars(messages).items()):
        if isinstance(message, messages.Message):
            catalog.add(message if message.plural else message.singular, auto_comments=[name])
    written = BytesIO()
    write_po(written, catalog, width=100)
    return written.getvalue()


def compiled(language: str) -> bytes:
    """The contents of a language's ``sluice.mo``."""
    source = read(language)
    catalog = PlainCatalog(language, source.plural_forms)
    for message in source:
        if message.id:
            catalog[message.id] = message
    written = BytesIO()
    write_mo(written, catalog)
    return written.getvalue()


def outputs() -> dict[Path, bytes]:
    """Every generated file with the contents it must have."""
    made = {LOCALES / "sluice.pot": template()}
    for language in LANGUAGES:
        made[po_file(language).with_suffix(".mo")] = compiled(language)
    return made


def stale() -> dict[Path, bytes]:
    """The generated files that are missing or not what their sources give, with the contents they must have."""
    return {
        path: contents for path, contents in outputs().items() if not path.is_file() or path.read_bytes() != contents
    }


def main() -> None:
    """Write every stale file and name it."""
    for path, contents in stale().items():
        path.write_bytes(contents)
        sys.stdout.write(f"{path.relative_to(LOCALES.parent)}\n")


if __name__ == "__main__":
    main()
