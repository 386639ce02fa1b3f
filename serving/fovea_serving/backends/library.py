"""Libraries that not every installation has, because they are large and few need them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType

from fovea_api.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class Library:
    """A library of an optional part of Fovea.

    Args:
        module: What is imported.
        distribution: The package's name, by which its version is known.
        extra: The part of Fovea that brings it, as in `pip install 'fovea[extra]'`.
        use: What it is needed for, in words.
    """

    module: str
    distribution: str
    extra: str
    use: str

    def load(self) -> ModuleType:
        """The module. Raises MissingExtra."""
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            raise MissingExtra(self.extra, self.use) from error

    @property
    def version(self) -> Mapping[str, str]:
        """The package's version by its name. Raises MissingExtra."""
        self.load()
        return {self.distribution: version(self.distribution)}


OPENVINO = Library("openvino", "openvino", extra="openvino", use="OpenVINO")
LITERT = Library("ai_edge_litert.interpreter", "ai-edge-litert", extra="tflite", use="TFLite")
