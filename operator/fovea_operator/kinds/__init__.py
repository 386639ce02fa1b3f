"""The kinds that users write, a package each. A package here is registered by being here: it has an `ENTRY`."""

from __future__ import annotations

import sys
from functools import cache

from fovea_operator.registry import Registry


@cache
def builtin() -> Registry:
    """The registry of the kinds in this package."""
    return Registry.of_packages(sys.modules[__name__])
