"""The registry: every file beside this one registers the runtime of one kind of exported file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fovea_serving.backends.base import Backend, BackendOptions, InvalidModel

Open = Callable[[Path, BackendOptions], Backend]

_OPENERS: dict[str, Open] = {}


def register(suffix: str) -> Callable[[Open], Open]:
    """Decorator of what opens files of a suffix. A suffix can be taken once."""

    def decorate(opener: Open) -> Open:
        if suffix in _OPENERS:
            raise ValueError(f"a backend for {suffix} is registered twice")
        _OPENERS[suffix] = opener
        return opener

    return decorate


def open_backend(model: Path, options: BackendOptions) -> Backend:
    """The exported file in the runtime that serves it. Raises InvalidModel."""
    _load()
    if model.suffix not in _OPENERS:
        raise InvalidModel("no backend runs such a file", str(model), f"use one of {', '.join(sorted(_OPENERS))}")
    return _OPENERS[model.suffix](model, options)


@cache
def _load() -> None:
    from fovea_serving import backends

    for module in pkgutil.iter_modules(backends.__path__):
        importlib.import_module(f"{backends.__name__}.{module.name}")
