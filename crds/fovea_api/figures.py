"""How large the architectures are and how much they compute, as plain data known without torch.

`figures.json` beside this file is generated (`python -m fovea_trainer.models.catalogue`), which takes seconds for each:
what was entered stays, so whoever changes a network deletes its line. `measured.json` is written by
`benchmarks/architectures.py` on some machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TypeVar

from fovea_api.common import Model

Read = TypeVar("Read", bound=Model)
FILE, MEASURED = "figures.json", "measured.json"
CLASSES = 10
"""Of the networks that the figures are of."""


class Figures(Model):
    """Of an architecture with its default options and input."""

    mega_parameters: float
    """Millions of trained numbers."""
    giga_macs: float
    """Billions of multiplications with addition for one image, decoding included."""


class Measured(Model):
    """Of the ONNX file of an architecture with its default options and input, in floating point, before training."""

    megabytes: float
    """Size of the file."""
    milliseconds: float
    """Median CPU time of the serving code's backend for one image, on one core."""
    machine: str
    """Processor that it was measured on."""


@cache
def figures() -> Mapping[str, Figures]:
    """Of all architectures by name, but for the models of timm."""
    return _read(FILE, Figures)


@cache
def measured() -> Mapping[str, Measured]:
    """Of those architectures by name that were measured."""
    return _read(MEASURED, Measured)


def _read(file: str, model: type[Read]) -> Mapping[str, Read]:
    text = resources.files("fovea_api").joinpath(file).read_text("utf-8")
    return MappingProxyType({name: model.model_validate(item) for name, item in json.loads(text).items()})
