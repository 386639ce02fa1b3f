"""Proof that an exported file computes what the torch module computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fovea_api.errors import FoveaError
from fovea_serving.backends import BackendOptions, open_backend
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from scipy.spatial.distance import cdist  # type: ignore[import-untyped]
from torch import Tensor

from fovea_trainer.export.exporter import Exportable
from fovea_trainer.tasks import definition

RELATIVE = 2e-3
"""Difference allowed in relation to the value, of a corner to the longer side of its box where that is larger: a
network gives distances in units of a box's size. Float32 sums in another order reach the half of it where a group of a
few cells is normalized, as on the coarsest maps of a small image; elsewhere they stay well below."""
CHOSEN_OTHERWISE = 0.05
"""Share of an image's rows, rounded up, that may be other boxes where a network chooses them: of two whose scores are
equal but for the last digits, one is the last to be kept, or removes the other."""
NO_PAIR = 50.0
"""Distance in tolerances from which on all are alike: no pair is parted for the sake of boxes that have none."""

Outputs = Mapping[str, NDArray[np.float32]]


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
        ParityError: an output differs by more than the task's `parity_tolerance[name] + RELATIVE * |value|` (of boxes
            the longer side, if that is more), has another shape or is not finite; or the outputs hardly differ between
            images, so that equality proves nothing. Boxes that the network chooses are compared with those in the file
            that are nearest to them, in any order; `CHOSEN_OTHERWISE` of them may be others.
    """
    images = torch.as_tensor(batch).float()
    if len(images) < 2:
        raise ValueError("parity needs a batch of at least two images")
    known = definition(model.task)
    module, _ = model.traced()
    with torch.no_grad():
        expected: Outputs = {name: output.numpy() for name, output in zip(module.names, module(images), strict=True)}
    backend = open_backend(path, BackendOptions(module.names))
    size = backend.fixed_batch or len(images)
    parts = [backend.run(images[start : start + size].numpy()) for start in range(0, len(images), size)]
    measured: Outputs = {name: np.concatenate([part[name] for part in parts]) for name in module.names}
    spread = {name: float(np.ptp(output, axis=0).max()) for name, output in expected.items()}
    for name, output in expected.items():
        _check_shape(name, output, measured[name], path)
    if model.chooses_boxes:
        expected, measured = _paired(expected, measured, known.parity_tolerance)
    difference = {
        name: _difference(name, output, measured[name], known.parity_tolerance[name], path)
        for name, output in expected.items()
    }
    informative = known.informative_output
    if spread[informative] <= 10 * max(difference[informative], 1e-7):
        raise ParityError(
            f"the outputs of {len(images)} images differ by no more than {spread[informative]:.2g}, "
            "so comparing them proves nothing",
            str(path),
            "train the model, or compare on images that look different",
        )
    return Parity(path.name, len(images), difference, spread)


def _check_shape(name: str, expected: NDArray[np.float32], measured: NDArray[np.float32], path: Path) -> None:
    if expected.shape != measured.shape:
        raise ParityError(f"{name} has shape {measured.shape} instead of {expected.shape}", str(path))
    if not (np.isfinite(expected).all() and np.isfinite(measured).all()):
        raise ParityError(f"{name} has values that are not finite", str(path), "lower the learning rate")


def _paired(expected: Outputs, measured: Outputs, tolerance: Mapping[str, float]) -> tuple[Outputs, Outputs]:
    """Rows [N, K, …] of both, each row of an image beside the nearest of the file, the pairs that agree best first; the
    last pairs, `CHOSEN_OTHERWISE` of them, are left out."""
    images, rows = expected["scores"].shape[:2]
    kept = rows - math.ceil(CHOSEN_OTHERWISE * rows)
    pairs = [_nearest(_image(expected, image), _image(measured, image), tolerance) for image in range(images)]
    ours, theirs = (np.stack([pair[side][:kept] for pair in pairs]) for side in (0, 1))
    each = np.arange(images)[:, None]
    return (
        {name: output[each, ours] for name, output in expected.items()},
        {name: output[each, theirs] for name, output in measured.items()},
    )


def _image(outputs: Outputs, image: int) -> Outputs:
    return {name: output[image] for name, output in outputs.items()}


def _nearest(
    expected: Outputs, measured: Outputs, tolerance: Mapping[str, float]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the pairs of rows [K, …] by boxes and scores, in units of their tolerances; the nearest first."""
    ours, theirs = (
        np.concatenate([outputs[name] / tolerance[name] for name in ("boxes", "scores")], 1)
        for outputs in (expected, measured)
    )
    distance = np.minimum(cdist(ours, theirs, "chebyshev"), NO_PAIR)
    rows, columns = linear_sum_assignment(distance)
    order = distance[rows, columns].argsort(kind="stable")
    return rows[order], columns[order]


def _difference(
    name: str, expected: NDArray[np.float32], measured: NDArray[np.float32], absolute: float, path: Path
) -> float:
    off = np.abs(expected - measured)
    allowed = absolute + RELATIVE * (_sizes(expected) if name == "boxes" else np.abs(expected))
    excess = off - allowed
    if excess.max() > 0:
        index = np.unravel_index(int(excess.argmax()), excess.shape)
        raise ParityError(
            f"{name}[{', '.join(map(str, index))}] is {measured[index]:.6g} in the file "
            f"and {expected[index]:.6g} in PyTorch; allowed is a difference of {allowed[index]:.2g}",
            str(path),
            "the exporter mistranslates an operation; report the architecture",
        )
    return float(off.max())


def _sizes(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the corners [..., 4] (x1, y1, x2, y2) are measured by: the value, or the longer side of the box."""
    sides = np.abs(boxes[..., 2:] - boxes[..., :2]).max(axis=-1, keepdims=True)
    sizes: NDArray[np.float32] = np.maximum(np.abs(boxes), sides)
    return sizes
