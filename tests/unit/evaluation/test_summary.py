"""An epoch and the exported model are evaluated alike: the same figures for the same predictions."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from fovea_api.common import Task
from fovea_api.metrics import PRIMARY
from fovea_serving.pipeline import Classification, Detection, Prediction, SemanticSegmentation
from fovea_trainer.data.version import Sample
from fovea_trainer.tasks import definition
from fovea_trainer.tasks.base import EvaluationRequest

CLASSES = ("one", "two", "three")
RANDOM = np.random.default_rng(0)


def sample(task: Task, objects: int) -> Sample:
    """Random labels. The third class never occurs; every fifth object is difficult."""
    corner = RANDOM.uniform(0, 380, (objects, 2))
    mask = RANDOM.integers(0, 2, (20, 20)).astype(np.uint8)
    mask[0, :5] = 255
    return Sample(
        digest="a",
        name="a",
        source="lab",
        image_bytes=b"",
        width=400,
        height=400,
        label=int(RANDOM.integers(2)),
        boxes=np.hstack([corner, corner + 20]).astype(np.float32),
        labels=RANDOM.integers(0, 2, objects).astype(np.int32),
        mask_bytes=cv2.imencode(".png", mask)[1].tobytes() if task is Task.SEMANTIC_SEGMENTATION else None,
        difficult=np.arange(objects) % 5 == 0,
    )


def predict(task: Task, sample: Sample) -> Prediction:
    """The labels with errors; also of the class that never occurs."""
    if task is Task.CLASSIFICATION:
        return Classification(RANDOM.dirichlet((1, 1, 1)).astype(np.float32))
    if task is Task.SEMANTIC_SEGMENTATION:
        mask = RANDOM.integers(0, 3, (20, 20)).astype(np.uint8)
        mask[:, 0] = 255  # what CenterCrop cuts off
        return SemanticSegmentation(mask)
    count = len(sample.boxes)
    labels = np.where(RANDOM.random(count) < 0.8, sample.labels, RANDOM.integers(0, 3, count))
    boxes = sample.boxes + RANDOM.normal(0, 1.5, sample.boxes.shape)
    return Detection(
        boxes.astype(np.float32), labels.astype(np.int64), np.sort(RANDOM.random(count).astype(np.float32))[::-1].copy()
    )


@pytest.mark.parametrize(
    ("task", "objects"),
    [
        (Task.CLASSIFICATION, (0,) * 12),
        (Task.SEMANTIC_SEGMENTATION, (0,) * 3),
        (Task.DETECTION, (150, 12, 0)),
        (Task.DETECTION, (0, 0)),
    ],
)
def test_an_epoch_and_the_exported_model_are_evaluated_alike(task: Task, objects: tuple[int, ...]) -> None:
    samples = [sample(task, count) for count in objects]
    predictions = [predict(task, sample) for sample in samples]
    pairs = list(zip(samples, predictions, strict=True))
    threshold = definition(task).operating_point(iter(pairs)) or 0.5
    request = EvaluationRequest(CLASSES, "validation", (), PRIMARY[task], threshold)
    exported = definition(task).evaluate(iter(pairs), request)
    workers = [definition(task).epoch_metrics(len(CLASSES)) for _ in range(2)]
    for index in reversed(range(len(samples))):
        workers[index % 2].update(index, samples[index], predictions[index])
    workers[1].merge(pickle.loads(pickle.dumps(workers[0])))
    epoch = workers[1].compute()
    assert epoch
    for name, value in epoch.items():
        assert value == pytest.approx(exported.metric(name), abs=1e-6), name
