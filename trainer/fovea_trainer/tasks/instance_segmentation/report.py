"""How a report shows objects with their pixels."""

from __future__ import annotations

from fovea_serving.pipeline import InstanceSegmentation, Prediction, decode
from fovea_serving.pipeline.run_lengths import decode as decode_runs

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.report import base


def draw_labels(sample: Sample) -> base.Image:
    """The image with its labelled objects."""
    image, _ = base.fit(decode(sample.image_bytes, sample.name), base.PICTURE_PIXELS)
    masks = (decode_runs(counts, sample.width, sample.height) for counts in sample.masks)
    return base.draw_objects(image, masks, sample.labels)


def side_by_side(sample: Sample, prediction: Prediction, evaluation: EvaluationResult) -> base.Image:
    """The image with its labelled objects beside the image with the confident detections."""
    assert isinstance(prediction, InstanceSegmentation)
    image, _ = base.fit(decode(sample.image_bytes, sample.name), base.PICTURE_PIXELS)
    confident = prediction.above(0.5 if evaluation.threshold is None else evaluation.threshold)
    masks = (decode_runs(mask["counts"], confident.width, confident.height) for mask in confident.encoded)
    return base.beside(draw_labels(sample), base.draw_objects(image, masks, confident.labels))
