"""Where a namespace keeps its data: the store's URI, and how URIs of places in it are compared."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The store of a namespace."""

    uri: str
    """Its root; empty when nobody configured one."""
    secret: str = ""
    """Secret with its credentials; empty: none is needed."""
    cluster: str = ""
    """uid of the cluster: that of its namespace kube-system. With `namespace` it is whom the store must belong to."""
    namespace: str = ""
    """uid of the namespace."""
    adopt: str = ""
    """Owner whose store the namespace takes over, as `<cluster>/<namespace>`; empty: none's."""


def claim_of(uri: str) -> str | None:
    """Name of the PersistentVolumeClaim of `pvc://claim/path`; None for another URI."""
    scheme, _, rest = uri.partition("://")
    return rest.partition("/")[0] or None if scheme == "pvc" else None


def normal(uri: str) -> str:
    """A URI in one spelling, with a slash at its end."""
    scheme, separator, path = uri.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(path)}/"


def nested(one: str, other: str) -> bool:
    """Whether one of two normal URIs lies in the other, or they are the same."""
    return one.startswith(other) or other.startswith(one)


def strings(value: JsonValue, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """All strings of a value, each with the names of the fields that lead to it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from strings(part, (*path, name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings(part, path)
