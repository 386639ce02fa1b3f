"""What the operator knows of the cluster: the newest version seen of each watched object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from fovea_api import names

from fovea_operator.objects import JsonObject, Key, Kind, View, key_of, mapping, owner_of, text


def version_of(value: View) -> int:
    """The resource version as a number; Kubernetes guarantees since 1.35 that it can be compared so."""
    return int(text(value, "metadata", "resourceVersion") or 0)


@dataclass(slots=True)
class Cache:
    """Objects by key, and keys by the object they work for.

    Watch events, listings and the answers to our own writes all arrive here, in any order; an older version never
    replaces a newer one. So a reconcile always sees at least what the one before it wrote.
    """

    changed: Callable[[Kind, JsonObject], None] = lambda kind, value: None
    """Called with every object that is new, newer or gone, whoever changed it: the watch, a listing or ourselves."""
    _objects: dict[Key, JsonObject] = field(default_factory=dict)
    _owned: dict[Key, set[Key]] = field(default_factory=dict)
    _gone: dict[Key, int] = field(default_factory=dict)
    """Resource version at which a key was seen deleted, so that a late event does not bring it back."""

    def get(self, key: Key) -> JsonObject | None:
        """The object, or None."""
        return self._objects.get(key)

    def owned(self, owner: Key, kind: Kind) -> Iterator[JsonObject]:
        """Runs and children, of one kind, that work for the owner, in the order of their names."""
        yield from (self._objects[key] for key in sorted(self._owned.get(owner, ())) if key.kind == kind)

    def keys(self, kind: Kind, namespace: str | None = None) -> list[Key]:
        """All keys of a kind, or those of one namespace."""
        return [key for key in self._objects if key.kind == kind and (namespace is None or key.namespace == namespace)]

    def put(self, kind: Kind, value: JsonObject) -> bool:
        """Takes an object in, unless a newer version of it is known. Returns whether anything is new."""
        key, version = key_of(kind, value), version_of(value)
        known = self._objects.get(key)
        if version <= max(version_of(known) if known else -1, self._gone.get(key, -1)):
            return False
        self._objects[key] = _slim(kind, value)
        self._gone.pop(key, None)
        if (owner := owner_of(value)) is not None:
            self._owned.setdefault(owner, set()).add(key)
        self.changed(kind, value)
        return True

    def remove(self, kind: Kind, value: View) -> bool:
        """Takes an object out, unless a newer one of its name is known. Returns whether it was there."""
        key, version = key_of(kind, value), version_of(value)
        known = self._objects.get(key)
        if known is not None and version_of(known) > version:
            return False
        self._gone[key] = version
        return self._drop(key)

    def mark_deleting(self, key: Key) -> None:
        """Notes that we asked for the object's deletion; the watch will say when it is gone."""
        if (known := self._objects.get(key)) is not None:
            metadata = dict(mapping(known, "metadata"))
            metadata.setdefault("deletionTimestamp", "1970-01-01T00:00:00Z")
            self._objects[key] = known | {"metadata": metadata}

    def forget(self, key: Key) -> bool:
        """Takes out an object that a read has shown to be gone."""
        return self._drop(key)

    def replace(
        self, kind: Kind, listed: Iterable[JsonObject], version: int, within: Callable[[Key], bool] = lambda _: True
    ) -> None:
        """Takes a whole listing in: what is not in it and not newer than it is gone."""
        seen = set()
        for value in listed:
            seen.add(key_of(kind, value))
            self.put(kind, value)
        for key in self.keys(kind):
            if key not in seen and within(key) and version_of(self._objects[key]) <= version:
                self._drop(key)
        self._gone = {key: gone for key, gone in self._gone.items() if key.kind != kind or gone > version}

    def count(self, kind: Kind) -> int:
        """Objects of a kind."""
        return len(self.keys(kind))

    def _drop(self, key: Key) -> bool:
        known = self._objects.pop(key, None)
        if known is not None and (owner := owner_of(known)) is not None:
            owned = self._owned.get(owner, set())
            owned.discard(key)
            if not owned:
                self._owned.pop(owner, None)
        if known is not None:
            self.changed(key.kind, known)
        return known is not None


_KEPT_METADATA = (
    "name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations", "creationTimestamp",
    "deletionTimestamp", "ownerReferences",
)  # fmt: skip
_STATUS_ONLY = ("Pod", "RayCluster", "Namespace")


def _slim(kind: Kind, value: JsonObject) -> JsonObject:
    """Without what is never looked at: managed fields, the specs of pods."""
    metadata = {name: part for name, part in mapping(value, "metadata").items() if name in _KEPT_METADATA}
    if isinstance(annotations := metadata.get("annotations"), dict):
        metadata["annotations"] = {
            name: text for name, text in annotations.items() if name.startswith(f"{names.GROUP}/")
        }
    slim: JsonObject = value | {"metadata": metadata}
    if kind.name in _STATUS_ONLY:
        slim.pop("spec", None)
    return slim
