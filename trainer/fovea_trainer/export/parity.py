"""Proof that an exported file computes what the torch module computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fovea_api.common import Task
from fovea_api.errors import FoveaError
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import Predictor
from numpy.typing import NDArray
from torch import Tensor, nn

from fovea_trainer.export.onnx import NamedOutputs
from fovea_trainer.tasks import definition

RELATIVE = 1e-3
"""Difference allowed in relation to the value; float32 sums in another order stay well below it."""


class ParityError(FoveaError):
    """The exported model does not compute what the trained one does."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared: images, the largest difference, and how far the outputs of the images differ."""

    images: int
    difference: Mapping[str, float]
    spread: Mapping[str, float]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} within {value:.2g}" for name, value in self.difference.items())
        return f"PyTorch and ONNX agree on {self.images} images: {parts}"


def check_parity(module: nn.Module, onnx_path: Path, batch: Tensor | NDArray[np.float32], *, task: Task) -> Parity:
    """Compares the module with its exported file on a batch of real images.

    Args:
        module: The module that was exported.
        onnx_path: The exported file.
        batch: Normalized float32 `[N, 3, H, W]` of at least two different images.
        task: Says how the outputs are called.

    Raises:
        ParityError: an output differs by more than the task's `parity_tolerance[name] + RELATIVE * |value|`, has
            another shape or is not finite; or the outputs hardly differ between images, so that equality proves
            nothing.
    """
    images = torch.as_tensor(batch).float()
    if len(images) < 2:
        raise ValueError("parity needs a batch of at least two images")
    known = definition(task)
    wrapped = NamedOutputs(module.cpu().eval(), task).eval()
    with torch.no_grad():
        wanted = {name: output.numpy() for name, output in zip(wrapped.names, wrapped(images), strict=True)}
    predictor = Predictor(onnx_path, Preprocess(images.shape[3], images.shape[2]), Postprocess(task))
    measured = predictor.run(images.numpy())
    difference = {}
    spread = {name: float(np.ptp(output, axis=0).max()) for name, output in wanted.items()}
    for name, output in wanted.items():
        difference[name] = _difference(name, output, measured[name], known.parity_tolerance[name], onnx_path)
    informative = known.informative_output
    if spread[informative] <= 10 * max(difference[informative], 1e-7):
        raise ParityError(
            f"the outputs of {len(images)} images differ by no more than {spread[informative]:.2g}, "
            "so comparing them proves nothing",
            str(onnx_path),
            "train the model, or compare on images that look different",
        )
    return Parity(len(images), difference, spread)


def _difference(
    name: str, wanted: NDArray[np.float32], measured: NDArray[np.float32], absolute: float, path: Path
) -> float:
    if wanted.shape != measured.shape:
        raise ParityError(f"{name} has shape {measured.shape} instead of {wanted.shape}", str(path))
    if not (np.isfinite(wanted).all() and np.isfinite(measured).all()):
        raise ParityError(f"{name} has values that are not finite", str(path), "lower the learning rate")
    off = np.abs(wanted - measured)
    excess = off - (absolute + RELATIVE * np.abs(wanted))
    if excess.max() > 0:
        index = np.unravel_index(int(excess.argmax()), excess.shape)
        raise ParityError(
            f"{name}[{', '.join(map(str, index))}] is {measured[index]:.6g} in ONNX "
            f"and {wanted[index]:.6g} in PyTorch; "
            f"allowed is a difference of {absolute:g} + {RELATIVE:g} of the value",
            str(path),
            "the exporter mistranslates an operation; report the architecture",
        )
    return float(off.max())
