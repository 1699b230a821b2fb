"""Whatever stands in the file or the environment: either it loads, or `ConfigError` says why."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.settings import ConfigError, load
from proxy.settings.aliases import ALIASES, OPENAI_API_KEY
from proxy.settings.listen import Listen, Tls
from proxy.settings.plain import Surprise, plain
from proxy.settings.shape import leaves

NAMES = [leaf.variable for leaf in leaves().values()]
SHORT_NAMES = [alias.name for alias in (*ALIASES, OPENAI_API_KEY)]
VARIABLES = [
    *NAMES,
    "SLUICE__LISTEN",
    *SHORT_NAMES,
    *[f"{name}_FILE" for name in SHORT_NAMES],
    "LANG",
    "SLUICE__STAGES__X__TYPE",
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["any", "limit", "key", "upstream", "10.0.0.0/8", "::1", "shadow", "${X}", "http://[::1"]),
)
KEYS = st.one_of(
    st.sampled_from(sorted({str(part) for path in leaves() for part in path})), st.text(max_size=8), st.just("x")
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=25,
)
ENTRIES = st.dictionaries(
    st.sampled_from([*Listen.model_fields, "max_body_bytes", "x"]),
    SCALARS
    | st.sampled_from(["off", "required", "0660", "localhost", "[{}]"])
    | st.integers(0, 3)
    | st.dictionaries(st.sampled_from([*Tls.model_fields, "x"]), SCALARS | st.just("/dev/null"), max_size=4),
    max_size=5,
)
YAML_TEXT = st.text(alphabet=st.sampled_from([*string.printable, "é", "\ufeff", "\x85", "\u2028", "😀", "\x00"]))
WORDS = [
    "stages:\n",
    "  limit:\n",
    "    hour: ",
    "chain: ",
    "key",
    "listen",
    "no",
    "0x1",
    "${X}",
    "${",
    "|\n",
    "---\n",
]
MARKS = ["[", "]", "{", "}", "- ", "\n", ": ", "&a ", "*a", "!!x ", "'", '"', "? ", "#", ", ", "  ", "\t", "<<"]
FRAGMENTS = st.lists(st.sampled_from([*WORDS, *MARKS]), max_size=30).map("".join)


def loads_or_complains(config: object, environ: dict[str, str], overrides: dict[str, str] | None = None) -> None:
    try:
        load(config, environ, overrides)  # type: ignore[arg-type]
    except ConfigError as error:
        lines = str(error).splitlines()
        if len(lines) < 2 or not all(line.isprintable() for line in lines):
            raise AssertionError(f"not fit to be read: {lines}") from error


def load_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sluice.yaml")
        file.write_bytes(content)
        loads_or_complains(file, {})


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    load_bytes(content)


@given(YAML_TEXT | FRAGMENTS)
@example("a: &x [*x]")
@example("? - a\n  - ? b\n: c")
@example("{" * 40)
def test_any_text(text: str) -> None:
    load_bytes(text.encode("utf-8", "replace"))


@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_tree(tree: dict[str, object]) -> None:
    loads_or_complains(tree, {})


@given(
    st.lists(ENTRIES | SCALARS, max_size=4) | ENTRIES,
    st.dictionaries(
        st.sampled_from(["PORT", "TRUSTED_PROXIES", "SLUICE__LISTEN__0__PORT", "SLUICE__LISTEN__1__TLS__KEY"]),
        st.sampled_from(["", "1", "unix", "10.0.0.1"]),
    ),
    st.booleans(),
)
def test_any_listeners(listen: object, environ: dict[str, str], is_variable: bool) -> None:
    if is_variable:
        loads_or_complains({}, environ | {"SLUICE__LISTEN": json.dumps(listen)})
    else:
        loads_or_complains({"listen": listen}, environ)


@given(st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=20) | FRAGMENTS | YAML_TEXT, max_size=5))
@example({"SLUICE__CHAIN": "[" * 100_000})
@example({"SLUICE__LISTEN__PORT": "9" * 5000})
@example({"API_KEY": "\udcff"})
@example({"ROUTE": "\udcff", "LANG": "\udcff", "OPENAI_BASE_URL": "http://\udcff"})
@example({"OPENAI_BASE_URL": "http://[::1]:5000:80/"})
@example({"OPENAI_BASE_URL": "http://[v1.x]/"})
def test_any_environment(environ: dict[str, str]) -> None:
    loads_or_complains({}, environ)


@given(st.dictionaries(st.sampled_from(["--port", "--host", "chain"]) | st.text(max_size=12), st.text(max_size=12)))
def test_any_command_line(overrides: dict[str, str]) -> None:
    loads_or_complains({}, {}, overrides)


@given(st.text(max_size=12) | st.text(alphabet="0123456789+-_.:eExobTtZ ", max_size=12))
def test_any_plain_scalar(text: str) -> None:
    try:
        found = plain(text)
    except Surprise:
        return
    assert isinstance(found, str | int | float | None)
    # Only text that says it is something else may become it.
    if isinstance(found, str):
        assert found == text
    elif found is not None and not isinstance(found, bool):
        assert found == float(text)
