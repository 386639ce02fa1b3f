"""Objects that are kept up to date by server-side apply: whether one differs, and what of it belongs to others.

What was applied last is known by its digest, in an annotation: so a field that a new manifest lacks is noticed, and an
operator that has just started writes nothing. A field that another manager has set is left to it, and named in a second
annotation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from fovea_api import names
from fovea_api.common import parse_quantity
from pydantic import JsonValue

from fovea_operator.objects import JsonObject, View, mapping, text

ANNOTATION_APPLIED = f"{names.GROUP}/applied"
"""Digest of the manifest that was applied last."""
ANNOTATION_LEFT = f"{names.GROUP}/left-to-others"
"""Fields of the manifest that other field managers own, one path a line."""
_STEP = re.compile(r'\.([^.\[]+)|\[(\w+)=("(?:[^"\\]|\\.)*"|[^\],]+)\]')

Path = tuple[str | tuple[str, str], ...]
"""Names of fields; an item of a list is named by a key and its value."""


def digest(manifest: View) -> str:
    """Digest of a manifest."""
    text = json.dumps(dict(manifest), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def to_apply(manifest: View, left: Sequence[str] = ()) -> JsonObject:
    """What is sent: the manifest without the fields that are left to others, and both annotations."""
    sent = _without(dict(manifest), [parse_path(path) for path in left])
    metadata = dict(mapping(sent, "metadata"))
    own: JsonObject = {ANNOTATION_APPLIED: digest(manifest)}
    if left:
        own[ANNOTATION_LEFT] = "\n".join(left)
    return sent | {"metadata": metadata | {"annotations": dict(mapping(metadata, "annotations")) | own}}


def differs(live: View, manifest: View) -> bool:
    """Whether an object must be applied again: the manifest is another one, or somebody removed or changed a part."""
    annotations = mapping(live, "metadata", "annotations")
    if text(annotations, ANNOTATION_APPLIED) != digest(manifest):
        return True
    left = text(annotations, ANNOTATION_LEFT).splitlines()
    kept = _without(dict(manifest), [parse_path(path) for path in left])
    labels = mapping(kept, "metadata", "labels")
    body = {name: part for name, part in kept.items() if name not in ("apiVersion", "kind", "metadata", "status")}
    return not (_holds(dict(live), body) and _holds(dict(mapping(live, "metadata", "labels")), dict(labels)))


def parse_path(path: str) -> Path:
    """A field's path as the API server writes it, such as `.spec.containers[name="main"].image`."""
    return tuple(_steps(path))


def _steps(path: str) -> Iterator[str | tuple[str, str]]:
    for match in _STEP.finditer(path):
        name, key, value = match.groups()
        yield name if name is not None else (key, str(json.loads(value)) if value.startswith('"') else value)


def _without(value: JsonObject, paths: Sequence[Path]) -> JsonObject:
    for path in paths:
        value = _removed(value, path)
    return value


def _removed(value: JsonObject, path: Path) -> JsonObject:
    """The value without what lies at the path; the same where nothing does."""
    name = path[0]
    if not isinstance(name, str) or name not in value:
        return value
    below = value[name]
    if len(path) == 1:
        return {key: part for key, part in value.items() if key != name}
    if isinstance(below, dict):
        return value | {name: _removed(below, path[1:])}
    if isinstance(below, list) and isinstance(path[1], tuple):
        return value | {name: list(_items_without(below, path[1], path[2:]))}
    return value


def _items_without(items: Sequence[JsonValue], item: tuple[str, str], rest: Path) -> Iterator[JsonValue]:
    for each in items:
        if not (isinstance(each, dict) and str(each.get(item[0])) == item[1]):
            yield each
        elif rest:
            yield _removed(each, rest)


def _holds(live: JsonValue, part: JsonValue) -> bool:
    """Whether a value has this part: what the API server or others added to it does not matter."""
    if isinstance(part, Mapping):
        below = live if isinstance(live, Mapping) else {}
        return all(_holds(below.get(name), value) for name, value in part.items())
    if isinstance(part, list):
        others = live if isinstance(live, list) else []
        named = _by_name(part)
        if named:
            known = _by_name(others)
            return all(_holds(known.get(name), item) for name, item in named.items())
        return len(others) == len(part) and all(map(_holds, others, part))
    return live == part or (part in (None, "") and live is None) or _same_quantity(live, part)


def _by_name(items: Sequence[JsonValue]) -> dict[str, JsonValue]:
    """Items of a list that is merged by name; empty for another list."""
    named = {str(item["name"]): item for item in items if isinstance(item, dict) and "name" in item}
    return dict(named) if len(named) == len(items) else {}


def _same_quantity(live: JsonValue, part: JsonValue) -> bool:
    """Whether the API server only wrote a quantity in its own way: 1 for 1000m."""
    try:
        return parse_quantity(str(live)) == parse_quantity(str(part))
    except ValueError:
        return False
