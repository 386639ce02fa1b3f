"""One function for all tasks: predict a split with the serving code, then judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import Prediction
from fovea_serving.predictor import Predictor

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.classification import judge_classification
from fovea_trainer.evaluation.detection import judge_detection
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.evaluation.segmentation import judge_segmentation

BATCH = 8
"""Images that are decoded and predicted at once; bounds the memory."""
DEFAULT_SLICES = ("class", "objectSize")

Pairs = Iterator[tuple[Sample, Prediction]]
Judge = Callable[[Pairs, tuple[str, ...], str, Sequence[str]], EvaluationResult]
JUDGES: dict[Task, Judge] = {
    Task.CLASSIFICATION: judge_classification,
    Task.DETECTION: judge_detection,
    Task.SEMANTIC_SEGMENTATION: judge_segmentation,
}


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    split: str = "test",
    slices: Sequence[str] = DEFAULT_SLICES,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Quality of the exported model on a split.

    Args:
        predictor: The exported model with its pre- and postprocessing; it knows the task.
        samples: The split's images with their labels; read one batch at a time.
        classes: Names of the classes in the order of their index.
        split: Name of the split; the metrics are named after it.
        slices: What the primary metric is broken down by: class, objectSize, source, group.
        progress: Called with (images done, images in all).

    Raises:
        InvalidInput: the split is empty.
    """
    if not samples:
        raise InvalidInput(f"the split {split} has no images", None, "give it a share in the Dataset's splits.ratios")

    def pairs() -> Pairs:
        for start in range(0, len(samples), BATCH):
            part = [samples[index] for index in range(start, min(start + BATCH, len(samples)))]
            yield from zip(part, predictor.predict([sample.image_bytes for sample in part]), strict=True)
            if progress is not None:
                progress(start + len(part), len(samples))

    return JUDGES[predictor.postprocess.task](pairs(), tuple(classes), split, slices)
