"""The ledger of defaults: what an absent field of a recipe has meant, version by version.

A run's identity leaves out what says nothing: a field with the default that it was introduced with. It must be that
one, not today's. Otherwise a changed default gives old runs a new meaning, and whoever asks for the new value gets a
result that the old one made. `defaults.json` beside this file has, for each field of a recipe and for each setting
that an architecture supplies, every default that it has had, the first one first. `make generate` appends; nothing is
ever changed or removed, for stored identities and frozen recipes rest on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TypeAlias, cast, get_args

from pydantic import JsonValue
from pydantic.fields import FieldInfo

from fovea_api.common import Model, PresetModel
from fovea_api.errors import FoveaError

FILE = "defaults.json"

Ledger: TypeAlias = Mapping[str, Sequence[JsonValue]]
"""Path -> its defaults, the first one first. null: absent, or required. A block is written as `identifying` does."""


class DefaultWithdrawn(FoveaError):
    """A field that had a default has none any more: frozen recipes that lack the field would lose their meaning."""


@cache
def ledger() -> Ledger:
    """The ledger of this version."""
    return cast(Ledger, json.loads(resources.files("fovea_api").joinpath(FILE).read_text("utf-8")))


def identifying(model: Model, path: str, known: Ledger | None = None, *, given: bool = False) -> dict[str, JsonValue]:
    """The JSON form of what distinguishes one result from another: what differs from the defaults of the first day.

    Fields that a preset is to fill say nothing.

    Args:
        model: A recipe or a block of one.
        path: Its path in the ledger, such as `Training.training`.
        known: The ledger; absent: that of this version.
        given: Keeps what was given in the place of a preset also where it is the first day's default: so nothing is
            lost, and `completed` with `silent` gives the model again.
    """
    known = ledger() if known is None else known
    dumped = model.model_dump(mode="json", exclude_none=True)
    result: dict[str, JsonValue] = {}
    silent = model.silent() if isinstance(model, PresetModel) else frozenset()
    kept = type(model).by_preset() if given and isinstance(model, PresetModel) else frozenset()
    for name, alias, field in _fields(type(model)):
        if name in model.incidental or name in silent:
            continue
        value = _sparse(getattr(model, name), dumped.get(alias), f"{path}.{alias}", known, given)
        if name in kept or value != _first(type(model), name, field, f"{path}.{alias}", known):
            result[alias] = value
    return result


def completed(
    value: Mapping[str, JsonValue],
    model: type[Model],
    path: str,
    known: Ledger | None = None,
    *,
    silent: bool = False,
) -> dict[str, JsonValue]:
    """A frozen recipe, or a block of one, with what it lacks as that was meant on the day the field was introduced.

    A field that no longer exists is left out where it says what it was introduced with. One that a preset may fill is
    null where it was introduced as absent: a frozen recipe is silent about nothing; with `silent` it stays absent.
    """
    known = ledger() if known is None else known
    fields = {alias: (name, field) for name, alias, field in _fields(model)}
    retired = {
        name for name in value.keys() - fields.keys() if [value[name]] == list(known.get(f"{path}.{name}", ()))[:1]
    }
    result = {name: item for name, item in value.items() if name not in retired}
    by_preset = model.by_preset() if issubclass(model, PresetModel) else frozenset()
    for alias, (name, field) in fields.items():
        at = f"{path}.{alias}"
        first = _first(model, name, field, at, known)
        filled = not silent if name in by_preset else first is not None
        if alias not in result and filled:
            result[alias] = first
        if (block := _block(field)) is not None and alias in result:
            result[alias] = _completed_blocks(result[alias], block, at, known, silent)
    return result


def _completed_blocks(value: JsonValue, block: type[Model], path: str, known: Ledger, silent: bool) -> JsonValue:
    if isinstance(value, Mapping):
        return completed(value, block, path, known, silent=silent)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_completed_blocks(item, block, f"{path}[]", known, silent) for item in value]
    return value


def declared(model: type[Model], path: str) -> Iterator[tuple[str, JsonValue]]:
    """Every field of a recipe, by its path, with today's default as the ledger writes it."""
    for name, alias, field in _fields(model):
        at = f"{path}.{alias}"
        yield at, _today(model, name, field, at, {})
        if (block := _block(field)) is not None:
            yield from declared(block, f"{at}[]" if _is_list(field) else at)


def extended(known: Ledger, today: Mapping[str, JsonValue]) -> dict[str, list[JsonValue]]:
    """The ledger with what is new today: fields that it lacks, and defaults that have changed.

    Raises:
        DefaultWithdrawn: a field had a default and has none today.
    """
    result = {path: list(values) for path, values in known.items()}
    for path, default in today.items():
        values = result.setdefault(path, [default])
        if default is None and values[-1] is not None:
            raise DefaultWithdrawn(
                f"its default was {json.dumps(values[-1])}; today it has none", path, "give it a default that says so"
            )
        if values[-1] != default:
            values.append(default)
    return dict(sorted(result.items()))


def _fields(model: type[Model]) -> Iterator[tuple[str, str, FieldInfo]]:
    """Name, name on the wire and definition of each field."""
    for name, field in model.model_fields.items():
        yield name, field.alias or name, field


def _first(model: type[Model], name: str, field: FieldInfo, path: str, known: Ledger) -> JsonValue:
    """What the field was introduced with; one that the ledger lacks is introduced now."""
    values = known.get(path)
    return values[0] if values else _today(model, name, field, path, known)


def _today(model: type[Model], name: str, field: FieldInfo, path: str, known: Ledger) -> JsonValue:
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    dumped = model.model_construct(**{name: default}).model_dump(mode="json", include={name}, exclude_none=True)
    return _sparse(default, dumped.get(field.alias or name), path, known)


def _sparse(value: object, dumped: JsonValue, path: str, known: Ledger, given: bool = False) -> JsonValue:
    """A field's value without what says nothing in the blocks that it consists of."""
    if isinstance(value, Model):
        return identifying(value, path, known, given=given)
    if isinstance(value, tuple) and value and all(isinstance(item, Model) for item in value):
        return [identifying(item, f"{path}[]", known, given=given) for item in value]
    return dumped


def _block(field: FieldInfo) -> type[Model] | None:
    """The model of a field's value, or of the items of its list."""
    return next(_models(field.annotation), None)


def _is_list(field: FieldInfo) -> bool:
    return any(argument is Ellipsis for argument in get_args(field.annotation))


def _models(annotation: object) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
