"""What the operator knows of the cluster: the newest version seen of each watched object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fovea_api import names

from fovea_operator.objects import POD, JsonObject, Key, Kind, View, key_of, mapping, number, text, uid_of
from fovea_operator.registry import Registry
from fovea_operator.workloads.demand import kept_of_pod

_BATCH = 500
"""Objects of a listing that are taken in before other tasks (probes, the Lease) get their turn."""


def version_of(value: View) -> int:
    """The resource version as a number; Kubernetes guarantees since 1.35 that it can be compared so."""
    return int(text(value, "metadata", "resourceVersion") or 0)


@dataclass(slots=True)
class Cache:
    """Objects by key, keys by the object they work for, and who refers to whom.

    Watch events, listings and the answers to our own writes all arrive here, in any order; an older version never
    replaces a newer one. So a reconcile always sees at least what the one before it wrote.
    """

    registry: Registry
    changed: Callable[[Kind, Sequence[View], Collection[Key]], None] = lambda kind, values, referred: None
    """Called with the objects that are new, newer or deleted, whoever changed them: the watch, a listing or ourselves;
    and with the objects that they refer to, or did before."""
    lacking: set[Kind] = field(default_factory=set)
    """Kinds that the cluster does not serve, for nobody installed what defines them."""
    _objects: dict[Key, JsonObject] = field(default_factory=dict)
    _keys: dict[Kind, dict[str, dict[Key, None]]] = field(default_factory=dict)
    """The keys of all objects, by kind and namespace, in the order in which they came."""
    _owned: dict[Key, set[Key]] = field(default_factory=dict)
    _referred: dict[Key, frozenset[Key]] = field(default_factory=dict)
    """What each object of a primary kind refers to."""
    _referrers: dict[Key, dict[Key, None]] = field(default_factory=dict)
    """The same from the other side."""
    _deleted: dict[Key, int] = field(default_factory=dict)
    """Resource version at which a key was seen deleted, so that a late event does not bring it back."""
    _last: dict[Key, JsonObject] = field(default_factory=dict)
    """How objects that are deleted were seen last, as long as anything works for them."""

    def get(self, key: Key) -> JsonObject | None:
        """The object, or None."""
        return self._objects.get(key)

    def last(self, key: Key) -> JsonObject | None:
        """How an object that is deleted was seen last; None where that is not known."""
        return self._last.get(key)

    def owned(self, owner: Key, kind: Kind) -> Iterator[JsonObject]:
        """Runs and children, of one kind, that work for the owner, in the order of their names."""
        yield from (self._objects[key] for key in sorted(self._owned.get(owner, ())) if key.kind == kind)

    def keys(self, kind: Kind, namespace: str | None = None) -> list[Key]:
        """All keys of a kind, or those of one namespace."""
        by_namespace = self._keys.get(kind, {})
        if namespace is not None:
            return list(by_namespace.get(namespace, ()))
        return [key for keys in by_namespace.values() for key in keys]

    def objects(self, kind: Kind) -> list[JsonObject]:
        """All objects of a kind."""
        return [self._objects[key] for key in self.keys(kind)]

    def owners(self) -> list[Key]:
        """What Runs and children work for, whether it is there or deleted."""
        return list(self._owned)

    def referrers(self, key: Key) -> tuple[Key, ...]:
        """The objects of primary kinds that refer to this one, whether it exists or not."""
        return tuple(self._referrers.get(key, ()))

    def put(self, kind: Kind, value: JsonObject) -> bool:
        """Takes an object in, unless a newer version of it is known. Returns whether anything is new."""
        before = self._referred.get(key_of(kind, value), frozenset())
        if new := self._take(kind, value):
            self.changed(kind, (value,), before | self._referred.get(key_of(kind, value), frozenset()))
        return new

    def _take(self, kind: Kind, value: JsonObject) -> bool:
        key, version = key_of(kind, value), version_of(value)
        known = self._objects.get(key)
        if version <= max(version_of(known) if known else -1, self._deleted.get(key, -1)):
            return False
        self._objects[key] = _slim(kind, value)
        self._keys.setdefault(kind, {}).setdefault(key.namespace, {})[key] = None
        self._deleted.pop(key, None)
        self._last.pop(key, None)
        if not (known and _same_spec(known, value)):
            self._refer(key, self.registry.referred(kind, value))
        if (owner := self.registry.owner_of(value)) is not None:
            self._owned.setdefault(owner, set()).add(key)
        return True

    def remove(self, kind: Kind, value: JsonObject) -> bool:
        """Takes an object out, as it was in the end, unless a newer one of its name is known.

        Returns whether it was there.
        """
        key, version = key_of(kind, value), version_of(value)
        known = self._objects.get(key)
        if known is not None and version_of(known) > version:
            return False
        self._deleted[key] = version
        return self.forget(key, _slim(kind, value))

    def mark_deleting(self, key: Key) -> None:
        """Notes that we asked for the object's deletion; the watch will report when it is deleted."""
        if (known := self._objects.get(key)) is not None:
            metadata = dict(mapping(known, "metadata"))
            metadata.setdefault("deletionTimestamp", "1970-01-01T00:00:00Z")
            self._objects[key] = known | {"metadata": metadata}

    def forget(self, key: Key, last: JsonObject | None = None) -> bool:
        """Takes out an object that is deleted, `last` as it was in the end. Returns whether it was there."""
        before = self._referred.get(key, frozenset())
        known = self._drop(key, last)
        if known is not None:
            self.changed(key.kind, (known,), before)
        return known is not None

    async def replace(
        self, kind: Kind, listed: Iterable[JsonObject], version: int, within: Callable[[Key], bool] = lambda _: True
    ) -> None:
        """Takes a whole listing in: what is not in it and not newer than it is deleted. Reports changes at its end."""
        seen: set[Key] = set()
        changed: list[View] = []
        referred: set[Key] = set()
        for count, value in enumerate(listed, 1):
            key = key_of(kind, value)
            seen.add(key)
            before = self._referred.get(key, frozenset())
            if self._take(kind, value):
                changed.append(value)
                referred |= before | self._referred.get(key, frozenset())
            if count % _BATCH == 0:
                await asyncio.sleep(0)
        for key in self.keys(kind):
            if key not in seen and within(key) and version_of(self._objects[key]) <= version:
                referred |= self._referred.get(key, frozenset())
                changed += filter(None, [self._drop(key)])
        if changed:
            self.changed(kind, changed, referred)
        self._deleted = {key: at for key, at in self._deleted.items() if key.kind != kind or at > version}

    def count(self, kind: Kind) -> int:
        """Objects of a kind."""
        return sum(map(len, self._keys.get(kind, {}).values()))

    def _drop(self, key: Key, last: JsonObject | None = None) -> JsonObject | None:
        known = self._objects.pop(key, None)
        last = last or known
        if last is not None and key in self._owned:
            self._last[key] = last
        if known is not None:
            del self._keys[key.kind][key.namespace][key]
            self._refer(key, ())
        if known is not None and (owner := self.registry.owner_of(known)) is not None:
            owned = self._owned.get(owner, set())
            owned.discard(key)
            if not owned:
                self._owned.pop(owner, None)
                self._last.pop(owner, None)
        return known

    def _refer(self, key: Key, targets: Iterable[Key]) -> None:
        """Notes what an object refers to, in place of what it did before."""
        for target in self._referred.pop(key, ()):
            if (others := self._referrers.get(target)) is not None:
                others.pop(key, None)
                if not others:
                    del self._referrers[target]
        if now := frozenset(targets):
            self._referred[key] = now
            for target in now:
                self._referrers.setdefault(target, {})[key] = None


def _same_spec(one: View, other: View) -> bool:
    """Whether two versions of an object have the same spec, by the number that the API server gives to each."""
    generation = number(one, "metadata", "generation")
    return bool(generation) and generation == number(other, "metadata", "generation") and uid_of(one) == uid_of(other)


_KEPT_METADATA = (
    "name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations", "creationTimestamp",
    "deletionTimestamp", "ownerReferences",
)  # fmt: skip
_STATUS_ONLY = ("RayCluster", "Namespace")


def _slim(kind: Kind, value: JsonObject) -> JsonObject:
    """Without what is never looked at: managed fields, and of the specs of pods all but what they ask for."""
    metadata = {name: part for name, part in mapping(value, "metadata").items() if name in _KEPT_METADATA}
    if isinstance(annotations := metadata.get("annotations"), dict):
        metadata["annotations"] = {
            name: text for name, text in annotations.items() if name.startswith(f"{names.GROUP}/")
        }
    slim: JsonObject = value | {"metadata": metadata}
    if kind.name in _STATUS_ONLY:
        slim.pop("spec", None)
    if kind == POD:
        slim["spec"] = kept_of_pod(mapping(value, "spec"))
    return slim
