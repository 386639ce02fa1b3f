"""The registry: every file beside this one registers the runtime of one kind of exported file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fovea_serving.backends.base import Backend, BackendOptions, InvalidModel
from fovea_serving.registry import Registry

_OPENERS: Registry[Callable[[Path, BackendOptions], Backend]] = Registry("fovea_serving.backends", "a backend")
register = _OPENERS.register
"""Decorator of what opens files of a suffix. A suffix can be taken once."""


def open_backend(model: Path, options: BackendOptions) -> Backend:
    """The exported file in the runtime that serves it. Raises InvalidModel."""
    openers = _OPENERS.entries()
    if model.suffix not in openers:
        raise InvalidModel("no backend runs such a file", str(model), f"use one of {', '.join(sorted(openers))}")
    return openers[model.suffix](model, options)
