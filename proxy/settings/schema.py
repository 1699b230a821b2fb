"""The JSON Schema of ``sluice.yaml``, for editors: completion, hover texts, and red lines while typing.

It is made from the models and a little more precise than they can say themselves: which settings a stage has
follows from its name or its type.
"""

from __future__ import annotations

from typing import Any

from proxy.settings.model import Settings
from proxy.stages import CONFIGS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_Schema = dict[str, Any]

_MODE = "#/$defs/Mode"
# ${PORT:-5000} stands for a number, but is text to an editor.
_VARIABLE: _Schema = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}


def json_schema() -> _Schema:
    """The schema as plain data."""
    schema = Settings.model_json_schema()
    definitions: _Schema = schema.pop("$defs")
    definitions.pop("StageConfig", None)
    for name, config in CONFIGS.items():
        stage = config.model_json_schema()
        definitions.update(stage.pop("$defs", {}))
        about = stage["properties"]["type"]["description"]
        stage["properties"]["type"] = {"description": about, "type": "string", "const": name}
        definitions[name] = stage
    named = {"description": "A stage of your own name: type says what it is.", "required": ["type"]}
    schema["properties"]["stages"] = {
        "description": Settings.model_fields["stages"].description,
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in CONFIGS},
        "additionalProperties": named | {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in CONFIGS]},
        "propertyNames": {"pattern": "^[a-z][a-z0-9]*(_[a-z0-9]+)*$"},
    }
    head = {"$schema": DIALECT, "title": "sluice.yaml", "description": Settings.__doc__}
    whole = head | {key: value for key, value in schema.items() if key not in head}
    whole["$defs"] = dict(sorted(definitions.items()))
    _tidy(whole)
    return whole


def _tidy(node: object) -> None:
    """Drop the titles that only repeat names, and let variables stand for what is no text."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in ("properties", "$defs"):
            for name, inner in value.items():
                inner.pop("title", None)
                if key == "properties":
                    value[name] = _or_variable(inner)
        _tidy(value)


def _or_variable(schema: _Schema) -> _Schema:
    """The schema of one setting, or a variable in its place if the setting is not free text anyway."""
    kinds = [schema, *schema.get("anyOf", ())]
    is_text = any(kind.get("type") == "string" and "enum" not in kind for kind in kinds)
    is_list = any(kind.get("type") == "array" for kind in kinds)
    holds_section = any(kind.get("$ref", _MODE) != _MODE for kind in kinds) and not is_list
    is_section = holds_section or schema.get("type") == "object"
    if schema.get("default", _VARIABLE) is None:
        del schema["default"]
    if is_text or is_section:
        return schema
    about = {key: schema[key] for key in ("description", "default") if key in schema}
    strict = {key: value for key, value in schema.items() if key not in about}
    # A list left empty, ``allow:``, is not the same as one left out.
    written = [kind for kind in strict.get("anyOf", [strict]) if kind.get("type") != "null"]
    return about | {"anyOf": [*written, _VARIABLE]}
