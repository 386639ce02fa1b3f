"""From images to predictions: decoding, preprocessing, the ONNX Runtime session and postprocessing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime as ort
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

from fovea_serving.bundle import Bundle
from fovea_serving.pipeline import Postprocess, Prediction, Preprocess, decode

INPUT = "image"
Image = NDArray[np.uint8]


class InvalidModel(InvalidInput):
    """The ONNX model cannot be loaded or lacks the inputs and outputs that its task has."""


class Predictor:
    """Predicts with an exported model. One object may be used by several threads.

    Args:
        model: The ONNX file.
        preprocess: What turns an image into the model's input.
        postprocess: What turns the model's outputs into predictions.
        threads: Threads of the session; 0: one per core that this process may use. They sleep between
            requests instead of spinning, because several sessions share the cores.
        max_batch: Images that are run at once at most. A model of fixed batch size decides for itself.

    Raises:
        InvalidModel: the file is no ONNX model or lacks an input or output that the task has.
    """

    def __init__(
        self,
        model: Path,
        preprocess: Preprocess,
        postprocess: Postprocess,
        *,
        threads: int = 0,
        max_batch: int = 8,
    ) -> None:
        self.preprocess = preprocess
        self.postprocess = postprocess
        self._session = _open(model, threads or len(os.sched_getaffinity(0)))
        _check(self._session, model, postprocess.outputs)
        batch = self._session.get_inputs()[0].shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None
        self._max_batch = self._fixed_batch or max_batch

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, threads: int = 0, max_batch: int = 8) -> Self:
        """The predictor of a verified bundle."""
        manifest = bundle.manifest
        preprocess = Preprocess.from_manifest(manifest.preprocessing)
        postprocess = Postprocess.from_manifest(manifest.task, manifest.postprocessing)
        return cls(bundle.model, preprocess, postprocess, threads=threads, max_batch=max_batch)

    def predict(self, images: Sequence[Image | bytes], *, candidates: bool = False) -> list[Prediction]:
        """One prediction for each image, in order.

        Args:
            images: Whole image files as bytes, or RGB pixels uint8 `[height, width, 3]`; sizes may differ.
            candidates: Whether objects below the confidence threshold are kept, for average precision.

        Raises:
            InvalidImage: bytes that are no image; the message says which.
        """
        predictions: list[Prediction] = []
        for start in range(0, len(images), self._max_batch):
            part = images[start : start + self._max_batch]
            pixels = [
                decode(image, f"image {start + index}") if isinstance(image, bytes) else image
                for index, image in enumerate(part)
            ]
            batch, geometries = self.preprocess.batch(pixels)
            predictions += self.postprocess(self._run(batch), geometries)
        if candidates:
            return predictions
        threshold = self.postprocess.confidence_threshold
        return [prediction.above(threshold) for prediction in predictions]

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The model's raw outputs by name for normalized images `[N, 3, height, width]`."""
        parts = [self._run(batch[start : start + self._max_batch]) for start in range(0, len(batch), self._max_batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.postprocess.outputs}

    def _run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        count = len(batch)
        if self._fixed_batch is not None and count < self._fixed_batch:
            padding = np.zeros((self._fixed_batch - count, *batch.shape[1:]), np.float32)
            batch = np.concatenate([batch, padding])
        names = self.postprocess.outputs
        outputs = self._session.run(list(names), {INPUT: batch})
        return {name: output[:count] for name, output in zip(names, outputs, strict=True)}


def _open(model: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises types of its own, straight below Exception
        raise InvalidModel(f"ONNX Runtime cannot load the model: {error}", str(model), "export it again") from error


def _check(session: ort.InferenceSession, model: Path, wanted: tuple[str, ...]) -> None:
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs != {INPUT} or not outputs >= set(wanted):
        raise InvalidModel(
            f"the model has inputs {sorted(inputs)} and outputs {sorted(outputs)}",
            str(model),
            f"export it with input {INPUT} and outputs {', '.join(wanted)}",
        )
