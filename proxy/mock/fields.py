"""Fields of JSON requests, checked as OpenAI checks them: every function raises `ApiError` for a wrong one."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.mock import errors

Json = Mapping[str, object]


def model_of(body: Json) -> str:
    """The field ``model``: the name of a model that there is."""
    name = body.get("model")
    if name is None or name == "":
        raise errors.ApiError(400, "you must provide a model parameter")
    if not isinstance(name, str):
        raise errors.wrong_type("model", "a string")
    return known_model(name)


def known_model(model: str) -> str:
    """The same name; raises `ApiError` 404 if the mock is told by it that there is no such model."""
    if model == "no-such-model" or model.startswith("unknown"):
        raise errors.unknown_model(model)
    return model


def inputs(value: object) -> list[str]:
    """The texts to embed: one or several, each a string or a list of token numbers."""
    if value is None:
        raise errors.missing_parameter("input")
    several = isinstance(value, list) and not all(isinstance(item, int) for item in value)
    texts: list[str] = []
    for item in value if several and isinstance(value, list) else [value]:
        text = " ".join(map(str, item)) if isinstance(item, list) else item
        if not isinstance(text, str) or not text:
            raise errors.wrong_type("input", "a string that is not empty, or an array of them")
        texts.append(text)
    return texts


def token_limit(body: Json, name: str) -> int | None:
    """A field that limits the tokens of an answer; absent or null = no limit."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise errors.wrong_type(name, "an integer")
    if value < 1:
        raise errors.ApiError(
            400,
            f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead.",
            param=name,
            code="integer_below_min_value",
        )
    return value


def flag(body: Json, name: str) -> bool:
    """A field that is true or false; absent or null = false."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise errors.wrong_type(name, "a boolean")
