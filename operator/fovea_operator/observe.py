"""The toolbox of observers: reads the cache, and the API server only for what is not watched and when it counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from fovea_api import names
from fovea_api.common import Model, Reference
from fovea_api.errors import InvalidManifest

from fovea_operator.cache import Cache
from fovea_operator.client import Api, NotFound
from fovea_operator.objects import (
    CLAIM,
    NAMESPACE,
    RUN,
    SECRET,
    Key,
    Kind,
    View,
    key_of,
    mapping,
    parse,
    text,
    uid_of,
)
from fovea_operator.polling import Poller
from fovea_operator.registry import Registry
from fovea_operator.scraping import Scraper
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig, strings

ANNOTATION_STORE = f"{names.GROUP}/store"
ANNOTATION_STORE_SECRET = f"{names.GROUP}/store-secret"
CLUSTER = Key(NAMESPACE, "", "kube-system")
"""The namespace whose uid identifies a cluster: every cluster has it, and for as long as it lives."""

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Observer:
    """What the observers of all kinds read with."""

    api: Api
    cache: Cache
    poller: Poller
    settings: Settings
    scraper: Scraper = field(default_factory=Scraper)
    unreadable: dict[Key, dict[Key, InvalidManifest]] = field(default_factory=dict)
    """Runs that this version of the API cannot read, by the object that they work for; the engine reports them."""

    @property
    def registry(self) -> Registry:
        """The kinds that are reconciled."""
        return self.cache.registry

    def read(self, model: type[M], key: Key) -> M | None:
        """An object from the cache, unless it is not there or being deleted. Raises InvalidManifest."""
        value = self.cache.get(key)
        if value is None or text(value, "metadata", "deletionTimestamp"):
            return None
        return parse(model, value)

    def readable(self, model: type[M], key: Key) -> M | None:
        """An object that another refers to; None where it is not there, or cannot be read, which it reports itself."""
        value = self.cache.get(key)
        with contextlib.suppress(InvalidManifest):
            return parse(model, value) if value is not None else None
        return None

    def references(self, namespace: str) -> Iterator[tuple[Key, Reference]]:
        """All references that objects of a namespace make, each with the object that makes it.

        Of an object that cannot be read everything counts that looks like one, whatever kind it may be of.
        """
        for kind in self.registry.primary:
            for key in self.cache.keys(kind, namespace):
                value = self.cache.get(key) or {}
                try:
                    references = tuple(self.registry.references(kind, value))
                except InvalidManifest:
                    references = tuple(self._apparent_references(value))
                yield from ((key, reference) for reference in references)

    def _apparent_references(self, value: View) -> Iterator[Reference]:
        spec = dict(mapping(value, "spec"))
        for path, name in strings(spec):
            if len(path) > 1 and path[-1] == "name" and path[-2].endswith("Ref"):
                version = text(spec, *path[:-1], "version")
                for kind in self.registry.primary:
                    yield Reference(kind.name, name, f"spec.{'.'.join(path[:-1])}", version)

    async def is_deleted(self, kind: Kind, value: View) -> bool:
        """Whether an object whose deletion was asked for is deleted: the watch reports none while it starts."""
        if not text(value, "metadata", "deletionTimestamp"):
            return False
        key = key_of(kind, value)
        live = await self.api.get(key, metadata_only=True)
        if live is not None and text(live, "metadata", "uid") == text(value, "metadata", "uid"):
            return False
        self.cache.forget(key)
        return True

    async def read_live(self, namespace: str) -> None:
        """Takes all objects and Runs of a namespace into the cache. Raises NotFound where a kind is not served now."""
        for kind in (*self.registry.primary, RUN):
            listed, version = await self.api.list(kind, namespace)
            if not version:
                raise NotFound(f"the API server serves no {kind}s now", kind.name)
            for value in listed:
                self.cache.put(kind, value)

    async def store(self, namespace: str) -> StoreConfig:
        """The store of a namespace, which is read where it has not been seen: a run's store is for good.

        Raises NotFound when there is no such namespace.
        """
        for key in (Key(NAMESPACE, "", namespace), CLUSTER):
            if self.cache.get(key) is None:
                live = await self.api.get(key)
                if live is None:
                    raise NotFound(f"{key} is deleted")
                self.cache.put(NAMESPACE, live)
        return self.known_store(namespace)

    def known_store(self, namespace: str) -> StoreConfig:
        """The store of a namespace as the cache knows it."""
        value = self.cache.get(Key(NAMESPACE, "", namespace)) or {}
        annotations = mapping(value, "metadata", "annotations")
        default = f"{self.settings.store.rstrip('/')}/{namespace}" if self.settings.store else ""
        return StoreConfig(
            text(annotations, ANNOTATION_STORE).rstrip("/") or default,
            text(annotations, ANNOTATION_STORE_SECRET) or self.settings.store_secret,
            cluster=uid_of(self.cache.get(CLUSTER) or {}),
            namespace=uid_of(value),
            adopt=text(annotations, names.ANNOTATION_ADOPT),
        )

    async def missing(self, asker: Key, references: Iterable[Reference]) -> tuple[Reference, ...]:
        """Those Secrets and PersistentVolumeClaims that do not exist. One that appears wakes the asker."""
        kinds = {SECRET.name: SECRET, CLAIM.name: CLAIM}
        missing = []
        for reference in references:
            key = Key(kinds[reference.kind], asker.namespace, reference.name)
            if not await self.poller.exists(key, asker):
                missing.append(reference)
        return tuple(missing)
