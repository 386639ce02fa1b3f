"""From the network's outputs to predictions in the pixels of the original image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from fovea_api.bundle import Postprocessing
from fovea_api.common import Task
from numpy.typing import NDArray

from fovea_serving.pipeline.geometry import Geometry
from fovea_serving.pipeline.predictions import Prediction, prediction_type


@dataclass(frozen=True, slots=True)
class Postprocess:
    """How outputs become predictions; stored in the bundle.

    Args:
        task: What is predicted.
        score_threshold: Smallest score of a candidate.
        nms_iou: Of two objects of one class that overlap by more than this, the better stays.
        max_detections: Largest number of objects in an image.
        confidence_threshold: Smallest score of an object that is reported.
        top_k: Classes of an image that are reported.
    """

    task: Task
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 300
    confidence_threshold: float = 0.5
    top_k: int = 5

    @classmethod
    def from_manifest(cls, task: Task, manifest: Postprocessing) -> Self:
        """The postprocessing that a bundle describes."""
        return cls(task, **dict(manifest))

    def to_manifest(self) -> Postprocessing:
        """The description of it that a bundle holds."""
        return Postprocessing(**{name: getattr(self, name) for name in Postprocessing.model_fields})

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs that are read."""
        return prediction_type(self.task).outputs

    def __call__(
        self, outputs: Mapping[str, NDArray[np.float32]], geometries: Sequence[Geometry], *, confidence: float = 0.0
    ) -> Sequence[Prediction]:
        """The predictions of a batch of N images; see `Prediction.decode`.

        Args:
            outputs: The network's, by name.
            geometries: How each image became the network's input.
            confidence: Score below which objects are not asked for. Suppression goes by better boxes alone, so those
                above are what they are among all candidates, and the time goes with their number.
        """
        settings = replace(self, score_threshold=max(self.score_threshold, confidence))
        return prediction_type(self.task).decode(outputs, geometries, settings)
