"""The models of timm as plain data, known without torch: names, inputs and licences of their published weights.

`backbones.json` beside this file is generated (`python -m fovea_trainer.models.catalogue`). A model that was entered
once keeps its values, for silent recipes mean them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import cast

from pydantic import JsonValue

from fovea_api.common import Model
from fovea_api.errors import InvalidInput

FILE = "backbones.json"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PERMISSIVE = ("Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "MIT")
"""Licences of weights that restrict no use; any other one is accepted by name in the recipe."""


class UnknownBackbone(InvalidInput):
    """timm has no model of that name; the message has the nearest ones."""


class Backbone(Model):
    """A model of timm with its published weights."""

    width: int = 224
    """Width of the input that the weights were trained with, in pixels."""
    height: int = 224
    """Height of that input, in pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Normalization of the weights: means of R, G, B."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Normalization of the weights: standard deviations of R, G, B."""
    fixed: bool = False
    """Whether no other input size is possible."""
    published: bool = True
    """Whether there are published weights."""
    packaged: bool = False
    """Whether they come with the installation."""
    licence: str = "Apache-2.0"
    """Licence of the published weights."""


@cache
def backbones() -> Mapping[str, JsonValue]:
    """All names, sorted, each with what `Backbone` has no default for. `name.tag` is the model with other weights."""
    text = resources.files("fovea_api").joinpath(FILE).read_text("utf-8")
    return MappingProxyType(cast(dict[str, JsonValue], json.loads(text)))


def backbone(name: str, place: str) -> Backbone:
    """The model of this name. Raises UnknownBackbone, with the field and the nearest names."""
    known = backbones()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else "see fovea models timm/"
        raise UnknownBackbone(f"timm has no model {name!r}", place, remedy)
    return Backbone.model_validate(known[name])
