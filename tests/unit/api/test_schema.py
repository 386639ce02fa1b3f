"""From models to CRDs: what Kubernetes can say is said, what it cannot is an error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import yaml
from fovea_api.common import (
    AnyValue,
    Int,
    ListMap,
    Model,
    Number,
    OpaqueObject,
    Quantity,
    Resource,
    Rule,
    Set,
    Time,
)
from fovea_api.schema import KINDS, NotExpressible, custom_resource_definition, json_schema, structural
from pydantic import Field, JsonValue

ROOT = Path(__file__).resolve().parents[3]


class Inner(Model):
    """An inner block."""

    name: Annotated[str, Field(max_length=10)]
    """A name."""
    size: Annotated[Int, Field(gt=0, lt=5)] = 3
    """A size."""
    note: Annotated[str, Field(max_length=10)] | None = None
    """A note."""


class Chosen(Model):
    """Two blocks of which one is given."""

    left: Inner | None = None
    """Left."""
    right: Inner | None = None
    """Right."""

    exactly_one: ClassVar = ("left", "right")


class Ruled(Model):
    """A block with a rule."""

    low: Number
    """Low."""
    high: Number
    """High."""

    rules: ClassVar = (Rule("self.low <= self.high", "low above high", lambda each: each.low <= each.high, ".low"),)


def schema(kind: Any) -> dict[str, Any]:
    return structural(json_schema(kind))


def test_blocks_are_inlined_with_bounds_and_defaults() -> None:
    class Outer(Model):
        """Outer."""

        inner: Inner
        """The inner one, here."""

    inner = schema(Outer)["properties"]["inner"]
    assert inner["description"] == "The inner one, here."
    assert inner["required"] == ["name"]
    assert inner["properties"]["size"] == {
        "type": "integer",
        "format": "int64",
        "description": "A size.",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 5,
        "exclusiveMaximum": True,
        "default": 3,
    }
    assert inner["properties"]["note"] == {"type": "string", "maxLength": 10, "description": "A note."}


class Plain(Model):
    """A block whose fields all have defaults."""

    size: Annotated[Int, Field(ge=0)] = 3
    """A size."""
    inner: Inner = Inner(name="x")
    """The inner one."""


def test_a_blocks_default_is_that_of_its_fields() -> None:
    class Outer(Model):
        """Outer."""

        plain: Plain = Plain()
        """As it is."""

    assert schema(Outer)["properties"]["plain"]["default"] == {"size": 3}


@pytest.mark.parametrize(
    ("default", "absent"),
    [(Plain(size=4), '{"size": 4}'), (Plain(inner=Inner(name="y")), '{"inner": {"name": "y", "size": 3}}')],
)
def test_a_default_that_says_more_is_described_and_not_stored(default: Plain, absent: str) -> None:
    class Outer(Model):
        """Outer."""

        plain: Plain = default
        """The block."""

    plain = schema(Outer)["properties"]["plain"]
    assert "default" not in plain
    assert plain["description"] == f"The block. Absent: {absent}."


def test_a_choice_has_no_stored_default() -> None:
    """A stored one would be a second choice beside the one that a user adds later."""

    class Outer(Model):
        """Outer."""

        chosen: Chosen = Chosen(left=Inner(name="x"))
        """The choice."""

    class Outermost(Model):
        """Outermost."""

        outer: Outer = Outer()
        """Its block."""

    outer = schema(Outermost)["properties"]["outer"]
    assert outer["default"] == {}
    assert "default" not in outer["properties"]["chosen"]


def test_lists_say_how_they_are_merged() -> None:
    by_name = schema(Annotated[tuple[Inner, ...], Field(max_length=3), ListMap(("name",))])
    assert (by_name["x-kubernetes-list-type"], by_name["x-kubernetes-list-map-keys"]) == ("map", ["name"])
    words = schema(Annotated[tuple[Annotated[str, Field(max_length=3)], ...], Field(max_length=3), Set()])
    assert words["x-kubernetes-list-type"] == "set"


def test_a_quantity_is_an_integer_or_a_string() -> None:
    quantity = schema(Quantity)
    assert quantity["x-kubernetes-int-or-string"] is True
    assert quantity["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert "type" not in quantity
    assert quantity["pattern"]


def test_keys_of_maps_become_rules() -> None:
    key = Annotated[str, Field(min_length=1, max_length=5, pattern="^[a-z']+$")]
    rules = schema(Annotated[Mapping[key, Int], Field(max_length=3)])["x-kubernetes-validations"]
    assert [rule["rule"] for rule in rules] == [
        "self.all(key, size(key) >= 1)",
        "self.all(key, size(key) <= 5)",
        "self.all(key, key.matches('^[a-z\\']+$'))",
    ]


def test_rules_stand_where_they_are_declared() -> None:
    assert schema(Ruled)["x-kubernetes-validations"] == [
        {"rule": "self.low <= self.high", "message": "low above high", "fieldPath": ".low"}
    ]
    (rule,) = schema(Chosen)["x-kubernetes-validations"]
    assert rule["rule"] == "[has(self.left), has(self.right)].filter(given, given).size() == 1"


def test_opaque_values_are_kept() -> None:
    assert schema(OpaqueObject) == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert schema(AnyValue) == {"x-kubernetes-preserve-unknown-fields": True}


def test_times_are_bounded() -> None:
    assert schema(Time) == {"type": "string", "format": "date-time", "maxLength": 64}


def test_a_choice_with_untyped_lists_is_stated_by_one_of() -> None:
    class Loose(Model):
        """A choice that CEL cannot see."""

        values: Annotated[tuple[AnyValue, ...], Field(max_length=3)] | None = None
        """Values."""
        inner: Inner | None = None
        """Inner."""

        exactly_one: ClassVar = ("values", "inner")

    found = schema(Loose)
    assert found["oneOf"] == [{"required": ["values"]}, {"required": ["inner"]}]
    assert found["x-kubernetes-validations"] == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (str, "a string without a largest length"),
        (tuple[Int, ...], "a list without a largest number of items"),
        (Mapping[str, Int], "a map without a largest number of entries"),
        (Int | Annotated[str, Field(max_length=3)], "a union"),
        (Inner | Ruled, "a union"),
        (tuple[Int, Int], "prefixItems"),
        (Annotated[int, Field(multiple_of=2)], "multipleOf"),
        (
            Annotated[Mapping[Annotated[str, Field(max_length=3)], AnyValue], Field(max_length=3)],
            "untyped values",
        ),
        (bytes, "format"),
        (None, "null"),
        (JsonValue, "type None"),
    ],
)
def test_what_cannot_be_said_is_an_error(kind: Any, reason: str) -> None:
    with pytest.raises(NotExpressible, match=reason):
        schema(kind)


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS)
class TestKinds:
    def parts(self, kind: type[Resource]) -> dict[str, Any]:
        crd = custom_resource_definition(kind)
        properties: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        return {part: properties[part] for part in ("spec", "status")}

    def test_everything_is_bounded(self, kind: type[Resource]) -> None:
        for path, node in nodes({"properties": self.parts(kind)}):
            if node.get("type") == "string":
                assert "maxLength" in node or "enum" in node, path
            if node.get("type") == "array":
                assert "maxItems" in node, path
            if "additionalProperties" in node:
                assert "maxProperties" in node, path

    def test_untyped_values_are_the_stated_exceptions(self, kind: type[Resource]) -> None:
        found = {
            path
            for path, node in nodes({"properties": self.parts(kind)})
            if "x-kubernetes-preserve-unknown-fields" in node
        }
        pods = ("affinity", "volumes[]", "volumeMounts[]", "env[]")
        fields = (
            "options[]",
            "choice[]",
            "values[]",
            "parameters[]",
            "spec.recipe",
            "spec.request.recipe",
            "runRequests[].recipe",
        )
        assert {path for path in found if not path.endswith((*pods, *fields))} == set()

    def test_stored_defaults_are_those_of_the_fields(self, kind: type[Resource]) -> None:
        """What the API server stores for an absent block is what it stores for an empty one."""
        for path, node in nodes({"properties": self.parts(kind)}):
            if node.get("type") == "object" and "default" in node and path != ".status":
                fields = node.get("properties", {}).items()
                assert node["default"] == {name: each["default"] for name, each in fields if "default" in each}, path


def test_generated_files_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "crds" / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "crds").glob("*.yaml")), ids=lambda file: file.name)
def test_generated_yaml_is_spelled_out(file: Path) -> None:
    aliases = [event for event in yaml.parse(file.read_text()) if isinstance(event, yaml.AliasEvent)]
    assert aliases == []
