"""Partial specs: any part of a model, laid over a whole one. All is optional, nothing has a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from fovea_api.common import Model, choice_rule

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class PartialOf:
    """Marks a mapping that holds any part of a model: checked as such, kept as it was written."""

    model: type[Model]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            _as_written,
            handler.generate_schema(partial(self.model)),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema)


def _as_written(value: Model) -> dict[str, JsonValue]:
    return value.model_dump(mode="json", exclude_unset=True)


@cache
def partial(model: type[Model]) -> type[Model]:
    """The model with every field optional, in nested models too; a list is one value and stays whole.

    The model's rules do not hold for a part of it; they are checked on what it is merged into.
    """
    fields: dict[str, Any] = {
        name: (
            _partial_type(field) | None,
            Field(default=None, alias=field.alias, description=field.description),
        )
        for name, field in model.model_fields.items()
    }
    result = create_model(f"Partial{model.__name__}", __base__=Model, __doc__=model.__doc__, **fields)
    if model.exactly_one:
        result.rules = (choice_rule(model.exactly_one, at_least=0),)
    return result


def _nested(field: FieldInfo) -> type[Model] | None:
    """The model that a field holds, directly or optionally."""
    kinds = (field.annotation, *get_args(field.annotation))
    models = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Model))
    return None if get_args(field.annotation)[1:2] == (...,) else next(models, None)


def _partial_type(field: FieldInfo) -> Any:
    nested = _nested(field)
    if nested is not None:
        return partial(nested)
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return kind


def merge(whole: M, part: Mapping[str, JsonValue]) -> M:
    """Lays a part over a whole: blocks are merged, all other values (lists too) are replaced.

    Of sibling blocks that exclude each other the part's own wins. Raises pydantic's ValidationError if the
    result breaks a rule.
    """
    return type(whole).model_validate(merged(type(whole), whole.to_dict(), part))


def merged(model: type[Model], whole: Mapping[str, JsonValue], part: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The same of JSON forms of a model, which is not checked. Raises KeyError where the part has an unknown field."""
    by_alias = {field.alias: field for field in model.model_fields.values()}
    rivals = {model.model_fields[name].alias for name in model.exactly_one}
    replaced = rivals if rivals & part.keys() else set()
    result = {key: value for key, value in whole.items() if key not in replaced}
    for key, value in part.items():
        nested = _nested(by_alias[key])
        below = whole.get(key)
        if nested is not None and isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(nested, below, value)
        else:
            result[key] = value
    return result
