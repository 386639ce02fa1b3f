"""Proof that an exported file computes what the torch module computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fovea_api.errors import FoveaError
from fovea_serving.backends import BackendOptions, open_backend
from numpy.typing import NDArray
from torch import Tensor

from fovea_trainer.export.exporter import Exportable
from fovea_trainer.tasks import definition

RELATIVE = 1e-3
"""Difference allowed in relation to the value; float32 sums in another order stay well below it."""


class ParityError(FoveaError):
    """The exported model does not compute what the trained one does."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared, on how many images; the largest difference, and how far the outputs of the images differ."""

    file: str
    images: int
    difference: Mapping[str, float]
    spread: Mapping[str, float]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} within {value:.2g}" for name, value in self.difference.items())
        return f"PyTorch and {self.file} agree on {self.images} images: {parts}"


def check_parity(model: Exportable, path: Path, batch: Tensor | NDArray[np.float32]) -> Parity:
    """Compares what was exported with its file, in the backend that runs it, on a batch of real images.

    Args:
        model: What was exported.
        path: The exported file.
        batch: Normalized float32 `[N, 3, H, W]` of at least two different images.

    Raises:
        ParityError: an output differs by more than the task's `parity_tolerance[name] + RELATIVE * |value|`, has
            another shape or is not finite; or the outputs hardly differ between images, so that equality proves
            nothing.
    """
    images = torch.as_tensor(batch).float()
    if len(images) < 2:
        raise ValueError("parity needs a batch of at least two images")
    known = definition(model.task)
    module, _ = model.traced()
    with torch.no_grad():
        expected = {name: output.numpy() for name, output in zip(module.names, module(images), strict=True)}
    backend = open_backend(path, BackendOptions(module.names))
    size = backend.fixed_batch or len(images)
    parts = [backend.run(images[start : start + size].numpy()) for start in range(0, len(images), size)]
    measured = {name: np.concatenate([part[name] for part in parts]) for name in module.names}
    difference = {}
    spread = {name: float(np.ptp(output, axis=0).max()) for name, output in expected.items()}
    for name, output in expected.items():
        difference[name] = _difference(name, output, measured[name], known.parity_tolerance[name], path)
    informative = known.informative_output
    if spread[informative] <= 10 * max(difference[informative], 1e-7):
        raise ParityError(
            f"the outputs of {len(images)} images differ by no more than {spread[informative]:.2g}, "
            "so comparing them proves nothing",
            str(path),
            "train the model, or compare on images that look different",
        )
    return Parity(path.name, len(images), difference, spread)


def _difference(
    name: str, expected: NDArray[np.float32], measured: NDArray[np.float32], absolute: float, path: Path
) -> float:
    if expected.shape != measured.shape:
        raise ParityError(f"{name} has shape {measured.shape} instead of {expected.shape}", str(path))
    if not (np.isfinite(expected).all() and np.isfinite(measured).all()):
        raise ParityError(f"{name} has values that are not finite", str(path), "lower the learning rate")
    off = np.abs(expected - measured)
    excess = off - (absolute + RELATIVE * np.abs(expected))
    if excess.max() > 0:
        index = np.unravel_index(int(excess.argmax()), excess.shape)
        raise ParityError(
            f"{name}[{', '.join(map(str, index))}] is {measured[index]:.6g} in the file "
            f"and {expected[index]:.6g} in PyTorch; "
            f"allowed is a difference of {absolute:g} + {RELATIVE:g} of the value",
            str(path),
            "the exporter mistranslates an operation; report the architecture",
        )
    return float(off.max())
