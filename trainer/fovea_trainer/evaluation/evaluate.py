"""One function for all tasks: predict a split with the serving code, then evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fovea_api.errors import InvalidInput
from fovea_api.metrics import EVALUATED, PRIMARY
from fovea_serving.predictor import Predictor

from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.tasks import definition
from fovea_trainer.tasks.base import EvaluationRequest, Pairs

BATCH = 8
"""Images that are decoded and predicted at once; bounds the memory."""
DEFAULT_SLICES = ("class", "objectSize")


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    split: str = "test",
    slices: Sequence[str] = DEFAULT_SLICES,
    primary: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Quality of the exported model on a split.

    Args:
        predictor: The exported model with its pre- and postprocessing; it knows the task.
        samples: The split's images with their labels; read one batch at a time.
        classes: Names of the classes in the order of their index.
        split: Name of the split; the metrics are named after it.
        slices: What the primary metric is broken down by: class, objectSize, source, group.
        primary: The recipe's primary metric; absent, or one that an exported model does not have (loss): the task's.
        progress: Called with (images done, images in all).

    Raises:
        InvalidInput: the split is empty.
    """
    if not samples:
        raise InvalidInput(f"the split {split} has no images", None, "give it a share in the Dataset's splits.ratios")
    task, threshold = predictor.postprocess.task, predictor.postprocess.confidence_threshold
    headline = primary if primary in EVALUATED[task] else PRIMARY[task]
    assert headline is not None
    request = EvaluationRequest(tuple(classes), split, tuple(slices), headline, threshold)
    return definition(task).evaluate(_predict(predictor, samples, progress), request)


def choose_threshold(predictor: Predictor, samples: Sequence[Sample]) -> float | None:
    """The score from which an object is to be reported, by these images; None: the task knows no scores."""
    return definition(predictor.postprocess.task).operating_point(_predict(predictor, samples))


def _predict(
    predictor: Predictor, samples: Sequence[Sample], progress: Callable[[int, int], None] | None = None
) -> Pairs:
    for start in range(0, len(samples), BATCH):
        part = [samples[index] for index in range(start, min(start + BATCH, len(samples)))]
        images = [sample.image_bytes for sample in part]
        yield from zip(part, predictor.predict(images, candidates=True), strict=True)
        if progress is not None:
            progress(start + len(part), len(samples))
