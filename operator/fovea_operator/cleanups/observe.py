"""Observes what must be known before anything is deleted from a store: who uses the data, and whose store it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from fovea_api import names
from fovea_api.common import DeletionPolicy, Reference

from fovea_operator.cleanups.snapshot import DeletedSnapshot
from fovea_operator.objects import NAMESPACE, RUN, Key, mapping, text
from fovea_operator.observe import Observer
from fovea_operator.runs.observe import claims_of, secret_of, views_of
from fovea_operator.store import claim_of, nested, normal, strings


async def observe_deleted(observer: Observer, key: Key, now: datetime) -> DeletedSnapshot | None:
    """The snapshot of an object that is deleted; None where there is nothing to do for it.

    That a cache lacks an object may mean that it has not been listed: before an attempt can start, all that counts is
    read live.
    """
    cache = observer.cache
    if cache.get(key) is not None or _is_deleting(observer, key.namespace):
        return None
    cleanup = next((view for view in await views_of(observer, key) if view.deletes_all), None)
    if cleanup is None:
        return None
    uri = cleanup.run.spec.store
    users, missing = _users(observer, key, cleanup.name, uri), tuple[Reference, ...]()
    store, shared = replace(await observer.store(key.namespace), uri=uri), sharing(observer, key.namespace, uri)
    if not (users or shared or cleanup.at_work or cleanup.has_ended):
        await observer.read_live(key.namespace)
        if cache.get(key) is not None:
            return None
        users = _users(observer, key, cleanup.name, uri)
        needed = [*secret_of(store), *claims_of([(store.uri, "the store")])]
        missing = await observer.missing(key, needed)
    last = cache.last(key)
    retained = last is not None and text(last, "spec", "deletionPolicy") != DeletionPolicy.DELETE
    return DeletedSnapshot(cleanup, users, store, missing, now, retained, shared)


def readers(observer: Observer, key: Key, store: str) -> Iterator[tuple[str, str]]:
    """What in the namespace names a place in an object's folder, in words, and that place below the folder.

    The object's own Runs do not count.
    """
    cache, registry = observer.cache, observer.registry
    folder = normal(f"{store}/{key.kind.name.lower()}/{key.name}")
    for kind in (*registry.primary, RUN):
        for other in cache.keys(kind, key.namespace):
            value = cache.get(other) or {}
            owner = registry.owner_of(value) if kind == RUN else None
            if owner == key:
                continue
            for path, uri in strings(dict(mapping(value, "spec"))):
                if (named := normal(uri)).startswith(folder):
                    who = f"of {owner.kind} {owner.name}" if owner is not None else f"(spec.{'.'.join(path)})"
                    yield f"{kind} {other.name} {who}", named.removeprefix(folder)


def sharing(observer: Observer, namespace: str, store: str) -> str:
    """Another namespace whose store is this one, or lies in it or around it; empty: there is none.

    Claims of one name in two namespaces are two claims.
    """
    if claim_of(store) is not None:
        return ""
    own = normal(store)
    for other in observer.cache.keys(NAMESPACE):
        theirs = observer.known_store(other.name).uri
        if other.name != namespace and theirs and nested(own, normal(theirs)):
            return other.name
    return ""


def _is_deleting(observer: Observer, namespace: str) -> bool:
    return bool(text(observer.cache.get(Key(NAMESPACE, "", namespace)) or {}, "metadata", "deletionTimestamp"))


def _users(observer: Observer, key: Key, cleanup: str, store: str) -> tuple[str, ...]:
    """What works for an object that is deleted, and what refers to it or to its data, in words."""
    own = [
        f"{kind} {text(value, 'metadata', 'name')}"
        for kind in (RUN, *observer.registry.children)
        for value in observer.cache.owned(key, kind)
        if text(mapping(value, "metadata", "labels"), names.LABEL_RUN) != cleanup
    ]
    named = [
        f"{other.kind} {other.name} ({reference.path})"
        for other, reference in observer.references(key.namespace)
        if (reference.kind, reference.name) == (key.kind.name, key.name)
    ]
    return tuple(dict.fromkeys((*own, *named, *(who for who, _ in readers(observer, key, store)))))
