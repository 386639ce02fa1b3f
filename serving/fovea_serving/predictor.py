"""From images to predictions: decoding, preprocessing, the backend and postprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fovea_serving.backends import BackendOptions, Device, InvalidModel, open_backend
from fovea_serving.backends.base import INPUT
from fovea_serving.bundle import Bundle
from fovea_serving.pipeline import Postprocess, Prediction, Preprocess, decode

Image = NDArray[np.uint8]

__all__ = ["INPUT", "Device", "Image", "InvalidModel", "Predictor"]


class Predictor:
    """Predicts with an exported model. One object may be used by several threads.

    Args:
        model: The exported file; its suffix says which backend runs it.
        preprocess: What turns an image into the model's input.
        postprocess: What turns the model's outputs into predictions.
        threads: Threads on a CPU; 0: as many as this process may use.
        max_batch: Images that are run at once at most. A model of fixed batch size decides for itself.
        device: Where it computes; None: on a GPU where there is one.

    Raises:
        InvalidModel: the file cannot be loaded, lacks an input or output that the task has, or has no such device.
    """

    def __init__(
        self,
        model: Path,
        preprocess: Preprocess,
        postprocess: Postprocess,
        *,
        threads: int = 0,
        max_batch: int = 8,
        device: Device | None = None,
    ) -> None:
        self.preprocess = preprocess
        self.postprocess = postprocess
        self._backend = open_backend(model, BackendOptions(postprocess.outputs, device, threads))
        self.device, self.fixed_batch = self._backend.device, self._backend.fixed_batch
        self._max_batch = self.fixed_batch or max_batch

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        precision: str | None = None,
        format_: str | None = None,
        threads: int = 0,
        max_batch: int = 8,
    ) -> Self:
        """The predictor of a verified bundle.

        Args:
            bundle: The bundle.
            precision: FP32, INT8 or, by None, the bundle's own choice.
            format_: One of `spec.export.formats`, all of which are FP32; None: the ONNX file of this precision.
            threads: Threads on a CPU; 0: as many as this process may use.
            max_batch: Images that are run at once at most.
        """
        manifest = bundle.manifest
        preprocess = Preprocess.from_manifest(manifest.preprocessing)
        postprocess = Postprocess.from_manifest(manifest.task, manifest.postprocessing)
        if format_ is not None:
            model = bundle.exported(format_)
        else:
            model = bundle.model_of(precision) if precision else bundle.model
        return cls(model, preprocess, postprocess, threads=threads, max_batch=max_batch)

    def predict(
        self, images: Sequence[Image | bytes], *, candidates: bool = False, overlapping: bool = False
    ) -> list[Prediction]:
        """One prediction for each image, in order.

        Args:
            images: Whole image files as bytes, or RGB pixels uint8 `[height, width, 3]`; sizes may differ.
            candidates: Whether objects below the confidence threshold are kept, for average precision.
            overlapping: Whether one object may be reported as several classes; candidates always are.

        Raises:
            InvalidImage: bytes that are no image; the message says which.
        """
        predictions: list[Prediction] = []
        confidence = 0.0 if candidates else self.postprocess.confidence_threshold
        for start in range(0, len(images), self._max_batch):
            part = images[start : start + self._max_batch]
            pixels = [
                decode(image, f"image {start + index}") if isinstance(image, bytes) else image
                for index, image in enumerate(part)
            ]
            batch, geometries = self.preprocess.batch(pixels)
            predictions += self.postprocess(self._run(batch), geometries, confidence=confidence)
        if candidates:
            return predictions
        return [prediction.above(confidence, overlapping=overlapping) for prediction in predictions]

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The model's raw outputs by name for normalized images `[N, 3, height, width]`."""
        parts = [self._run(batch[start : start + self._max_batch]) for start in range(0, len(batch), self._max_batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.postprocess.outputs}

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        count = len(batch)
        if self.fixed_batch is not None and count < self.fixed_batch:
            padding = np.zeros((self.fixed_batch - count, *batch.shape[1:]), np.float32)
            batch = np.concatenate([batch, padding])
        return {name: output[:count] for name, output in self._backend.run(batch).items()}
