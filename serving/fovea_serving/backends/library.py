"""Libraries that not every installation has, because they are large and few need them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
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


OPENVINO = Library("openvino", "openvino", extra="openvino", use="OpenVINO")
