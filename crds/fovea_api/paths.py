"""Values of JSON objects by their path, such as `training.optimizer.name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from pydantic import JsonValue

Part: TypeAlias = Mapping[str, JsonValue]
"""A JSON object, such as a recipe or a part of one."""


def at(value: JsonValue | Part, path: str) -> JsonValue:
    """The value of a path; None where there is none."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return cast(JsonValue, value)


def with_at(value: Part, path: str, setting: JsonValue) -> dict[str, JsonValue]:
    """The object with another value at a path."""
    name, _, rest = path.partition(".")
    inner = value.get(name)
    block = inner if isinstance(inner, Mapping) else {}
    return {**value, name: with_at(block, rest, setting) if rest else setting}


def without(value: Part, path: str) -> dict[str, JsonValue]:
    """The object without the value of a path, and without blocks that are empty then."""
    name, _, rest = path.partition(".")
    result, inner = dict(value), value.get(name)
    left = without(inner, rest) if rest and isinstance(inner, Mapping) else None
    if left:
        result[name] = left
    else:
        result.pop(name, None)
    return result
