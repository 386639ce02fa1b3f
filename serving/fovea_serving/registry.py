"""A registry whose entries are the files of a package: each registers itself, and the first who asks loads them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Registry(Generic[V]):
    """Entries by name.

    Args:
        package: Name of the package whose modules register.
        what: What an entry is, with its article, for the error of a name that is taken twice.
    """

    def __init__(self, package: str, what: str) -> None:
        self._package = package
        self._what = what
        self._entries: dict[str, V] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[V], V]:
        """Decorator of an entry. Raises ValueError: a name can be taken once."""

        def decorate(entry: V) -> V:
            if name in self._entries:
                raise ValueError(f"{self._what} for {name} is registered twice")
            self._entries[name] = entry
            return entry

        return decorate

    def entries(self) -> dict[str, V]:
        """All entries, those of the package's files included."""
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._loaded = True
        return self._entries
