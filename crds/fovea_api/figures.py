"""How large the architectures are and how much they compute, as plain data known without torch.

`figures.json` beside this file is generated (`python -m fovea_trainer.models.catalogue`), which takes seconds for each:
what was entered stays, so whoever changes a network deletes its line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

from fovea_api.common import Model

FILE = "figures.json"
CLASSES = 10
"""Of the networks that the figures are of."""


class Figures(Model):
    """Of an architecture with its default options and input."""

    mega_parameters: float
    """Millions of trained numbers."""
    giga_macs: float
    """Billions of multiplications with addition for one image, decoding included."""


@cache
def figures() -> Mapping[str, Figures]:
    """Of all architectures by name, but for the models of timm."""
    text = resources.files("fovea_api").joinpath(FILE).read_text("utf-8")
    return MappingProxyType({name: Figures.model_validate(item) for name, item in json.loads(text).items()})
