"""From the models to CustomResourceDefinitions: pydantic's JSON schema made structural for Kubernetes.

Kubernetes knows a part of OpenAPI 3.0 only: no references, no unions, no nullable by union, and a bound on
everything that a CEL rule looks at. What cannot be said in it raises `NotExpressible`; nothing is left out
silently.

The API server stores the defaults that it fills in, and a later apply is merged into what is stored. So a block's
own default is written only where it says what its fields' defaults say too. Any other would mix with what a user
writes into the block afterwards: `uri` beside a stored `weights`, limits below stored requests. Such a block stays
absent, its description says what that means, and the models, which everybody reads objects by, supply it. Nor is
there a default where the preset of an architecture decides (`ByPreset`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from fovea_api.common import LABEL_PATTERN, NAME_MESSAGE, PRESET, Column, Resource
from fovea_api.dataset import Dataset
from fovea_api.errors import FoveaError
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.names import GROUP, VERSION
from fovea_api.run import Run
from fovea_api.trainingjob import TrainingJob
from fovea_api.tuningsweep import TuningSweep

KINDS: tuple[type[Resource], ...] = (Dataset, TrainingJob, TuningSweep, ModelDeployment, Run)

Schema: TypeAlias = dict[str, Any]
"""A JSON schema: this module is the edge where JSON leaves."""


class NotExpressible(FoveaError):
    """A model says something that Kubernetes' structural schema cannot."""


_SCALARS = {"string", "integer", "number", "boolean"}
_KEPT = {
    "type",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
}
"""Keywords that mean the same on both sides."""
_TRANSLATED = {
    "$ref",
    "$defs",
    "title",
    "const",
    "anyOf",
    "default",
    "properties",
    "additionalProperties",
    "propertyNames",
    "items",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "format",
    PRESET,
}
"""Keywords that have another form in Kubernetes."""


def json_schema(kind: Any) -> Schema:
    """Pydantic's JSON schema of a type, as `structural` takes it."""
    return TypeAdapter[Any](kind).json_schema(schema_generator=_Generator)


def structural(source: Schema) -> Schema:
    """Turns pydantic's JSON schema (draft 2020-12) into a structural OpenAPI v3 schema.

    Raises:
        NotExpressible: for any keyword or combination that Kubernetes does not take, with its path.
    """
    return _Translation(source.get("$defs", {})).translate(source, "")


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, but all that is said of a map's keys stands in `propertyNames`."""

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        result = super().dict_schema(schema)
        if "patternProperties" in result:
            (result["additionalProperties"],) = result.pop("patternProperties").values()
            result["propertyNames"] = self.generate_inner(schema["keys_schema"])
        return result


class _Translation:
    """One walk over a schema with its definitions."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def translate(self, node: Schema, path: str) -> Schema:
        node = self._plain(node, path)
        if unknown := node.keys() - _KEPT - _TRANSLATED:
            raise NotExpressible(f"cannot say {', '.join(sorted(unknown))}", path or "the root")
        result = {key: value for key, value in node.items() if key in _KEPT}
        kind = node.get("type")
        if node.get("x-kubernetes-int-or-string"):
            result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        elif "anyOf" in node:
            raise NotExpressible("a union; use optional sibling blocks with exactly_one", path)
        elif kind == "object":
            result |= self._object(node, path)
            _choose_by_required(result)
        elif kind == "array":
            result |= self._array(node, path)
        elif kind in _SCALARS:
            result |= _scalar(node, path)
        elif not node.get("x-kubernetes-preserve-unknown-fields"):
            raise NotExpressible(f"type {kind!r}", path)
        if node.get("default") is not None and not node.get(PRESET):
            result |= _default(node, result)
        return result

    def _plain(self, node: Schema, path: str) -> Schema:
        """The node with references filled in, `X | None` reduced to X and const written as enum."""
        while True:
            if "$ref" in node:
                name = node["$ref"].removeprefix("#/$defs/")
                own = {key: value for key, value in node.items() if key != "$ref"}
                node = {**self._definitions[name], **own}
            elif "anyOf" in node and {"type": "null"} in node["anyOf"]:
                others = [option for option in node["anyOf"] if option != {"type": "null"}]
                if len(others) != 1:
                    raise NotExpressible("a union; use optional sibling blocks with exactly_one", path)
                own = {key: value for key, value in node.items() if key != "anyOf"}
                node = {**others[0], **own}
            elif "const" in node:
                node = {**node, "enum": [node["const"]]}
                del node["const"]
            else:
                return node

    def _object(self, node: Schema, path: str) -> Schema:
        values = node.get("additionalProperties")
        properties = node.get("properties")
        if properties is not None:
            result: Schema = {
                "properties": {name: self.translate(child, f"{path}.{name}") for name, child in properties.items()}
            }
            if values is True:
                result["x-kubernetes-preserve-unknown-fields"] = True
            return result
        if isinstance(values, dict) and values:
            if "maxProperties" not in node:
                raise NotExpressible("a map without a largest number of entries", path)
            result = {"additionalProperties": self.translate(values, f"{path}[*]")}
            if rules := _key_rules(node.get("propertyNames", {}), path):
                if values.get("x-kubernetes-preserve-unknown-fields"):
                    raise NotExpressible("constraints on the keys of a map of untyped values", path)
                result["x-kubernetes-validations"] = [*node.get("x-kubernetes-validations", []), *rules]
            return result
        if node.get("x-kubernetes-preserve-unknown-fields"):
            return {}
        return {"properties": {}}

    def _array(self, node: Schema, path: str) -> Schema:
        if "maxItems" not in node:
            raise NotExpressible("a list without a largest number of items", path)
        return {"items": self.translate(node["items"], f"{path}[*]")}


def _choose_by_required(node: Schema) -> None:
    """CEL cannot see a list of untyped values, so a choice that has one is stated by `oneOf` instead."""
    hidden = [
        name
        for name, field in node.get("properties", {}).items()
        if field.get("items", {}).get("x-kubernetes-preserve-unknown-fields") and "type" not in field["items"]
    ]
    for rule in node.get("x-kubernetes-validations", []):
        if any(f"has(self.{name})" in rule["rule"] for name in hidden):
            names = re.findall(r"has\(self\.(\w+)\)", rule["rule"])
            node["oneOf"] = [{"required": [name]} for name in names]
            node["x-kubernetes-validations"] = [
                other for other in node["x-kubernetes-validations"] if other is not rule
            ]
            return


def _scalar(node: Schema, path: str) -> Schema:
    result: Schema = {}
    for bound in ("minimum", "maximum"):
        exclusive = "exclusive" + bound.capitalize()
        if exclusive in node:
            result |= {bound: node[exclusive], exclusive: True}
    if node["type"] == "integer":
        result["format"] = "int64"
    if node["type"] == "string" and "enum" not in node:
        if node.get("format") == "date-time":
            result |= {"format": "date-time", "maxLength": 64}
        elif "format" in node:
            raise NotExpressible(f"format {node['format']}", path)
        elif "maxLength" not in node:
            raise NotExpressible("a string without a largest length", path)
    return result


def _key_rules(names: Schema, path: str) -> list[Schema]:
    """Constraints on the keys of a map, which a structural schema can only state as CEL."""
    rules: list[Schema] = []
    if "minLength" in names:
        length = names["minLength"]
        rules.append(
            {
                "rule": f"self.all(key, size(key) >= {length})",
                "message": f"keys must have at least {length} characters",
            }
        )
    if "maxLength" in names:
        length = names["maxLength"]
        rules.append(
            {
                "rule": f"self.all(key, size(key) <= {length})",
                "message": f"keys must have at most {length} characters",
            }
        )
    if "pattern" in names:
        pattern = names["pattern"]
        rules.append({"rule": f"self.all(key, key.matches({_cel(pattern)}))", "message": f"keys must match {pattern}"})
    if unknown := names.keys() - {"maxLength", "minLength", "pattern", "type"}:
        raise NotExpressible(f"keys with {', '.join(sorted(unknown))}", path)
    return rules


def _cel(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _default(node: Schema, result: Schema) -> Schema:
    """What a schema says of its default: the value, or for a block that must stay absent, what absent means."""
    default = _without_nulls(node["default"])
    if result.get("type") != "object":
        return {"default": default}
    fields = {name: _without_nulls(field.get("default")) for name, field in node.get("properties", {}).items()}
    own = {name: value for name, value in default.items() if value != fields.get(name)}
    if own:
        return {"description": f"{node.get('description', '')} Absent: {json.dumps(own)}.".lstrip()}
    stored = result.get("properties", {}).items()
    return {"default": {name: field["default"] for name, field in stored if "default" in field}}


def _without_nulls(default: Any) -> Any:
    """A default as the API server takes it: spelled out, for it is checked before any is filled in."""
    if isinstance(default, Mapping):
        return {key: _without_nulls(value) for key, value in default.items() if value is not None}
    if isinstance(default, Sequence) and not isinstance(default, str):
        return [_without_nulls(value) for value in default]
    return default


def custom_resource_definition(kind: type[Resource]) -> Schema:
    """The CustomResourceDefinition of a kind, ready to be written as YAML."""
    definition = kind.definition
    singular = kind.__name__.lower()
    names: Schema = {
        "kind": kind.__name__,
        "listKind": f"{kind.__name__}List",
        "plural": definition.plural,
        "singular": singular,
        "categories": ["fovea"],
    }
    if definition.short_names:
        names["shortNames"] = list(definition.short_names)
    subresources: Schema = {"status": {}}
    if definition.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.scaling.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{definition.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": openapi(kind)},
                    "subresources": subresources,
                    "additionalPrinterColumns": [_column(column) for column in definition.columns],
                }
            ],
        },
    }


UNOBSERVED = -1
"""Observed generation of an object that the operator has not seen; without one, kstatus takes it for current."""


def openapi(kind: type[Resource]) -> Schema:
    """The structural schema of a whole object of the kind."""
    fields = kind.model_fields
    properties: Schema = {
        "apiVersion": {"type": "string", "description": fields["api_version"].description},
        "kind": {"type": "string", "description": fields["kind"].description},
        "metadata": {"type": "object"},
    }
    for part in ("spec", "status"):
        properties[part] = structural(json_schema(fields[part].annotation)) | {"description": fields[part].description}
    properties["status"]["default"] = {"observedGeneration": UNOBSERVED}
    return {
        "type": "object",
        "description": kind.__doc__,
        "required": ["spec"],
        "properties": properties,
        "x-kubernetes-validations": [
            {
                "rule": f"size(self.metadata.name) <= 63 && self.metadata.name.matches({_cel(LABEL_PATTERN)})",
                "message": NAME_MESSAGE,
            }
        ],
    }


def _column(column: Column) -> Schema:
    result: Schema = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.description:
        result["description"] = column.description
    if column.wide:
        result["priority"] = 1
    return result
