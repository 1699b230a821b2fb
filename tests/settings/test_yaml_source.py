"""Strict YAML: what is read, what is refused, and where everything stood."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import ConfigError, load
from proxy.settings.plain import Surprise, plain
from proxy.settings.yaml_source import MAX_BYTES, Document, read_bytes
from tests.settings.loading import complaints, load_text


def read(text: str, **environ: str) -> Document:
    document = Document("f")
    read_bytes(document, text.encode(), environ)
    return document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("0", 0),
        ("-7", -7),
        ("5000", 5000),
        ("1.5", 1.5),
        ("-0.25", -0.25),
        ("1e3", 1000.0),
        ("any", "any"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("::1", "::1"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("text-davinci-003", "text-davinci-003"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("e5", "e5"),
        (".", "."),
        ("-", "-"),
        ("=", "="),
        ("gpt-4.1", "gpt-4.1"),
        ("1.2.3", "1.2.3"),
        ("norway", "norway"),
    ],
)
def test_plain_scalars_are_words_numbers_or_text(text: str, value: object) -> None:
    found = plain(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "looks_like", "instead"),
    [
        ("no", "a boolean", "false"),
        ("No", "a boolean", "false"),
        ("yes", "a boolean", "true"),
        ("on", "a boolean", "true"),
        ("OFF", "a boolean", "false"),
        ("y", "a boolean", "true"),
        ("N", "a boolean", "false"),
        ("True", "a boolean", "true"),
        ("FALSE", "a boolean", "false"),
        ("~", "null", "null"),
        ("Null", "null", "null"),
        ("12:30", "a number", "the decimal number 750"),
        ("12:34:56", "a number", "the decimal number 45296"),
        ("0x7f000001", "a number", "the decimal number 2130706433"),
        ("0b101", "a number", "the decimal number 5"),
        ("0o17", "a number", "the decimal number 15"),
        ("0123", "a number", "it without zeros in front"),
        ("089", "a number", "it without zeros in front"),
        ("1_000", "a number", "the decimal number 1000"),
        ("+5", "a number", "the decimal number 5"),
        (".5", "a number", "the decimal number 0.5"),
        ("5.", "a number", "the decimal number 5.0"),
        ("1_000.5", "a number", "the decimal number 1000.5"),
        (".inf", "a number", ""),
        ("-.INF", "a number", ""),
        (".nan", "a number", ""),
        ("1e999", "a number", ""),
        ("9" * 5000, "a number", ""),
        ("2026-11-22", "a date", ""),
        ("2026-11-22T10:00:00Z", "a date", ""),
    ],
)
def test_what_other_readers_take_for_something_else_is_refused(text: str, looks_like: str, instead: str) -> None:
    with pytest.raises(Surprise) as raised:
        plain(text)
    assert (raised.value.looks_like, raised.value.instead) == (looks_like, instead)


@pytest.mark.parametrize("text", ["no", "12:30", "0x7f000001", "0123", "~", "2026-11-22", "<<", "true", "5", ""])
def test_quoted_scalars_are_always_text(text: str) -> None:
    assert read(f"a: '{text}'").values == {"a": text}
    assert read(f'"{text}": a').values == {text: "a"}


REFUSED = [
    ("a: no", 'f:1:4  a  no without quotes is a boolean to some YAML readers; write false, or quote it: "no"'),
    ("a: 2026-11-22", 'f:1:4  a  2026-11-22 without quotes is a date to some YAML readers; quote it: "2026-11-22"'),
    ("on: 1", 'f:1:1  on without quotes is a boolean to some YAML readers; write true, or quote it: "on"'),
    ("a: 1\nb: 2\na: 3", "f:3:1  a  is given twice, first on line 1; keep one"),
    ("a: {b: 1, b: 2}", "f:1:11  a.b  is given twice, first on line 1; keep one"),
    ("5: a", 'f:1:1  a key must be text, not 5; quote it: "5"'),
    ("?\n: a", "f:1:2  a key must be text, not nothing"),
    ("? [a, b]\n: c", "f:1:3  a key must be text"),
    ("? {a: b}\n: c", "f:1:3  a key must be text"),
    ("*x : c", "f:1:1  a key must be text"),
    ("&x a: 1", "f:1:1  a key takes no anchor and no tag; leave it out"),
    ("!!str a: 1", "f:1:1  a key takes no anchor and no tag; leave it out"),
    ("a: &x 1", "f:1:4  a  anchors (&name) are not supported; leave the anchor out"),
    ("a: *x", "f:1:4  a  aliases (*name) are not supported; write the value out"),
    ("<<: {a: 1}", "f:1:1  merge keys (<<) are not supported; write the settings out"),
    ("a: !!int '5'", "f:1:4  a  tags (!!int) are not supported; leave the tag out"),
    (
        "a: !!python/object:os.system x",
        "f:1:4  a  tags (!!python/object:os.system) are not supported; leave the tag out",
    ),
    ("a: 1\n---\nb: 1", "f:2:1  a second document begins here; keep one, without ---"),
    ("- a", "f:1:1  must hold a mapping: lines like  key: value"),
    ("text", "f:1:1  must hold a mapping: lines like  key: value"),
    ("a: \x07", "f:1:4  the character U+0007 does not belong into YAML"),
    ("a: " + "[" * 17 + "]" * 17, "f:1:20  is nested more than 16 levels deep"),
    ("a: b: c", "f:1:5  is not valid YAML: mapping values are not allowed in this context"),
    ("a: {b: ${X}}", "inside {...} and [...] put quotes around ${...}"),
    ("%YAML 9.9\n---\na: 1", "is not valid YAML"),
    ("a: ${X}", "f:1:4  a  the variable X is not set; set it, or write ${X:-default}"),
    ("a: ['${X:?tell me}']", "f:1:5  a[0]  the variable X is not set: tell me"),
    ("a: x${y", 'f:1:4  a  a "${" without a variable\'s name; write ${NAME}, ${NAME:-default} or ${NAME:?message}'),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED)
def test_what_is_not_plain_configuration_is_refused_with_its_place(text: str, expected: str) -> None:
    (problem,) = read(text).problems
    assert expected in str(problem)


@pytest.mark.parametrize("text", ["", "\n", "# nothing but a remark\n", "---\n", "---\n...\n", "null\n", "\ufeff"])
def test_an_empty_file_means_defaults(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, text).settings == load({}, {}).settings


def test_positions_of_keys_and_values_count_from_one() -> None:
    document = read("a:\n  - x\n  - é: y\n\nb: {c: d}\n")
    assert document.keys == {("a",): (1, 1), ("a", 1, "é"): (3, 5), ("b",): (5, 1), ("b", "c"): (5, 5)}
    assert document.values_at[("a", 0)] == (2, 5)
    assert document.values_at[("a", 1, "é")] == (3, 8)
    assert document.values_at[("b", "c")] == (5, 8)


def test_a_byte_order_mark_does_not_shift_positions(tmp_path: Path) -> None:
    assert complaints(tmp_path, "\ufefflog_level: loud\n")[0].startswith("sluice.yaml:1:12  ")


def test_a_file_that_is_not_utf_8_is_refused_by_line(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_bytes("log_level: info\nlanguage: Русский".encode("cp1251"))
    with pytest.raises(ConfigError, match=r"sluice.yaml:2:1  is not valid UTF-8; save the file as UTF-8"):
        load(file, {})


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="is larger than 1048576 bytes"):
        load(file, {})


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.yaml", "no such file or directory"), (".", "is a directory"), ("a\0b", "not a usable path")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be read: {reason}"):
        load(f"{tmp_path}/{name}", {})


def test_nothing_else_is_said_about_a_broken_file(tmp_path: Path) -> None:
    found = complaints(tmp_path, "stages: {burst: {type: limit\n", {"SLUICE__STAGES__BURST__HOUR": "5"})
    assert len(found) == 1


def test_deep_nesting_is_refused_quickly(tmp_path: Path) -> None:
    (found,) = complaints(tmp_path, "a: " + "[" * 1_000_000)
    assert "nested more than 16 levels deep" in found


def test_the_python_parser_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    text = "a: 1\nb: [x, 'y', no]\nc: {d: ''}\na: 2\n"
    with_c = read(text)
    monkeypatch.setattr("proxy.settings.yaml_source._Loader", yaml.SafeLoader)
    assert read(text) == with_c
