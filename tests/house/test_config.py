"""The shipped configuration: complete, loadable, and described by a fresh schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from proxy.cli.config import schema_text
from proxy.settings import Settings, load
from proxy.settings.shape import leaves

CONFIG = Path(__file__).parents[2] / "config"
SHIPPED = CONFIG / "sluice.yaml"
SCHEMA = CONFIG / "sluice.schema.json"
EXAMPLES = sorted((CONFIG / "examples").glob("*.yaml"))
FILES = [SHIPPED, *EXAMPLES]
ENVIRON = {"OPENAI_API_KEY": "sk-for-the-examples"}


def ids(path: Path) -> str:
    return path.name


def problems(schema: dict[str, Any], value: object, root: dict[str, Any], at: str = "") -> list[str]:
    """Why the value does not fit, as far as our schema goes: the keywords it uses, and an error for any other."""
    found: list[str] = []
    for keyword, rule in schema.items():
        found += _violations(keyword, rule, schema, value, root, at)
    return found


def _violations(
    keyword: str, rule: Any, schema: dict[str, Any], value: object, root: dict[str, Any], at: str
) -> list[str]:
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": int | float,
        "boolean": bool,
        "null": type(None),
    }
    match keyword:
        case "$ref":
            return problems(root["$defs"][rule.removeprefix("#/$defs/")], value, root, at)
        case "type":
            wrong = not isinstance(value, types[rule]) or (isinstance(value, bool) and rule != "boolean")
            return [f"{at}: not of type {rule}"] if wrong else []
        case "const" | "enum":
            return [] if value in ([rule] if keyword == "const" else rule) else [f"{at}: not {rule}"]
        case "pattern":
            return [] if isinstance(value, str) and re.search(rule, value) else [f"{at}: not like {rule}"]
        case "minimum" | "maximum" | "exclusiveMinimum" | "minLength":
            size = len(value) if isinstance(value, str) else value
            assert isinstance(size, int | float)
            fits = {"minimum": size >= rule, "maximum": size <= rule, "minLength": size >= rule}
            return [] if fits.get(keyword, size > rule) else [f"{at}: {keyword} is {rule}"]
        case "required":
            assert isinstance(value, dict)
            return [f"{at}: lacks {name}" for name in rule if name not in value]
        case "properties":
            if not isinstance(value, dict):
                return []
            return [p for k, s in rule.items() if k in value for p in problems(s, value[k], root, f"{at}.{k}")]
        case "additionalProperties":
            assert isinstance(value, dict)
            others = set(value) - set(schema.get("properties", ()))
            if rule is False:
                return [f"{at}.{key}: unknown" for key in sorted(others)]
            return [p for key in others for p in problems(rule, value[key], root, f"{at}.{key}")]
        case "propertyNames":
            assert isinstance(value, dict)
            return [p for key in value for p in problems(rule, key, root, f"{at}.{key}")]
        case "items":
            assert isinstance(value, list)
            return [p for index, item in enumerate(value) for p in problems(rule, item, root, f"{at}[{index}]")]
        case "anyOf" | "oneOf":
            fitting = sum(_fits(one, value, root) for one in rule)
            return [] if fitting == 1 or (fitting and keyword == "anyOf") else [f"{at}: fits {fitting} of {keyword}"]
        case "minItems" | "maxItems":
            assert isinstance(value, list)
            fits = {"minItems": len(value) >= rule, "maxItems": len(value) <= rule}
            return [] if fits[keyword] else [f"{at}: {keyword} is {rule}"]
        case "description" | "title" | "default" | "$schema" | "$defs" | "format" | "writeOnly":
            return []
    raise AssertionError(f"the schema uses {keyword}, which this test does not know")


def _fits(schema: dict[str, Any], value: object, root: dict[str, Any]) -> bool:
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    kind = schema.get("type")
    shapes = {"object": dict, "array": list, "integer": int, "number": int | float, "string": str}
    if kind in shapes and not isinstance(value, shapes[kind]):
        return False
    return not problems(schema, value, root)


def plain_yaml(text: str) -> Any:
    return yaml.safe_load(text)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of the PEM files that shipped files ask for: cert, key and ca."""
    folder = tmp_path_factory.mktemp("pem")
    paths = {name: folder / f"{name}.pem" for name in ("cert", "key", "ca")}
    authority = trustme.CA()
    issued = authority.issue_cert("gateway.example")
    authority.cert_pem.write_to_path(str(paths["ca"]))
    issued.private_key_pem.write_to_path(str(paths["key"]))
    for number, certificate in enumerate(issued.cert_chain_pems):
        certificate.write_to_path(str(paths["cert"]), append=number > 0)
    paths["key"].chmod(0o600)
    return {name: str(path) for name, path in paths.items()}


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_every_shipped_file_loads(path: Path, pem: dict[str, str]) -> None:
    files = {"TLS_CERT": pem["cert"], "TLS_KEY": pem["key"], "CLIENT_CA": pem["ca"]}
    loaded = load(path, ENVIRON | files)
    assert loaded.source == str(path)
    assert not [notice for notice in loaded.notices if notice.startswith("WARNING")]


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_every_shipped_file_points_editors_to_the_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    start, _, schema = first.partition("=")
    assert start == "# yaml-language-server: $schema"
    assert (path.parent / schema).resolve() == SCHEMA


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_every_shipped_file_fits_the_schema(path: Path) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert problems(schema, plain_yaml(path.read_text(encoding="utf-8")), schema) == []


def test_the_schema_is_fresh() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "write it anew: sluice config --schema"


@pytest.mark.parametrize(
    "text",
    [
        "lisen: {}",
        "listen: {port: 70000}",
        "listen: {port: '5'}",
        "listen: []",
        "listen: [{port: 70000}]",
        "listen: [{hots: a}]",
        "listen: {max_body_bytes: 5}",
        "listen: {tls: {cert: a.pem}}",
        "listen: {tls: {cert: a.pem, key: b.pem, min_version: '1.1'}}",
        "listen: {proxy_protocol: optional}",
        "client_ip_header: x-real-ip",
        "stages: {limit: {huor: 1}}",
        "stages: {limit: {mode: shade}}",
        "stages: {burst: {second: 1}}",
        "stages: {burst: {type: limits}}",
        "stages: {burst: {type: limit, base_url: x}}",
        "stages: {Burst: {type: limit}}",
        "stages: {limit: {type: key}}",
        "language: de_DE",
        "version: 2",
        "chain: limit",
        "access_log: {path: ''}",
    ],
)
def test_the_schema_refuses_mistakes(text: str) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert problems(schema, plain_yaml(text), schema)


@pytest.mark.parametrize(
    "text",
    [
        "stages: {burst: {type: limit, second: 1}}",
        "listen: {port: '${PORT:-5000}'}",
        "listen: ${LISTENERS}",
        "listen: [{port: 1}, {unix: /run/s.sock, mode: '0660'}, {tls: {cert: a.pem, key: b.pem}}]",
        "listen: {tls: }",
        "listen: {proxy_protocol: 'off'}",
        "stages: {ip_allowlist: {allow: '${WHO}', mode: '${MODE:-shadow}'}}",
        "language: ${LANGUAGE}",
        "{}",
    ],
)
def test_the_schema_takes_what_loads(text: str) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert problems(schema, plain_yaml(text), schema) == []


def test_the_shipped_file_says_the_defaults() -> None:
    assert load(SHIPPED, {}).settings == Settings()


def test_the_shipped_file_names_every_setting_and_uncommented_it_loads(tmp_path: Path, pem: dict[str, str]) -> None:
    text = re.sub(r"(?m)^( *)#(?=[a-z_]+:)", r"\1", SHIPPED.read_text(encoding="utf-8"))
    for path, file in re.findall(r"(/etc/sluice/(ca|fullchain|key|clients)\.pem)", text):
        text = text.replace(path, pem[{"fullchain": "cert", "clients": "ca"}.get(file, file)])
    said: set[str] = set()
    # A listener has either a host and a port or a unix socket.
    for others in (r"unix|mode", r"host|port"):
        start, end = text.index("\nlisten:"), text.index("\ndownstream:")
        listen = re.sub(rf"(?m)^  (?:{others}):.*\n", "", text[start:end])
        file = tmp_path / "sluice.yaml"
        file.write_text(text[:start] + listen + text[end:], encoding="utf-8")
        origins = load(file, {}).origins
        assert len(origins) == len(leaves())
        said |= {path for path, origin in origins.items() if origin.line}
    assert said == set(origins)


def test_the_shipped_file_leaves_the_language_to_the_environment() -> None:
    assert load(SHIPPED, {"LANG": "zh_CN"}).settings.language == "zh_CN"
