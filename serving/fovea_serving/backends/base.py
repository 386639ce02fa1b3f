"""What a runtime offers: an exported file, opened on a device, that turns a batch into outputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

INPUT = "image"
"""Name of the input of every exported file: normalized float32 [N, 3, height, width]."""


class InvalidModel(InvalidInput):
    """The file cannot be loaded, or lacks the inputs and outputs that its task has."""


class Device(StrEnum):
    """Where a model computes."""

    CPU = "CPU"
    CUDA = "CUDA"


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How a file is opened.

    Args:
        outputs: Names of the outputs that are read.
        device: Where it computes; None: on a GPU where there is one and the runtime can use it.
        threads: Threads on a CPU; 0: as many as this process may use.
    """

    outputs: tuple[str, ...]
    device: Device | None = None
    threads: int = 0


class Backend(Protocol):
    """An opened file. One object may be used by several threads."""

    @property
    def device(self) -> Device:
        """Where it computes."""

    @property
    def fixed_batch(self) -> int | None:
        """The only number of images that it takes at once; None: any."""

    def run(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """The outputs by name for normalized images [N, 3, height, width]."""
