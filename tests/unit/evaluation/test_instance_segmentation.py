"""The evaluation of instance segmentation: COCO's average precision of masks, against torchmetrics."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from fovea_api.common import Task
from fovea_api.errors import CorruptData
from fovea_serving.pipeline import InstanceSegmentation
from fovea_serving.pipeline.run_lengths import decode, encode, unpack
from fovea_trainer.data.version import Sample
from fovea_trainer.tasks import definition
from fovea_trainer.tasks.base import EvaluationRequest
from torchmetrics.detection import MeanAveragePrecision

SIZE = (160, 120)
CLASSES = ("cell", "wall", "never")


def mask(x: float, y: float, radius: float) -> np.ndarray:
    picture = np.zeros(SIZE[::-1], np.uint8)
    cv2.ellipse(picture, (round(x), round(y)), (round(radius), round(radius * 0.6)), 30, 0, 360, 1, -1)
    return picture.astype(bool)


def scenes(count: int) -> list[tuple[Sample, InstanceSegmentation]]:
    """Objects, and detections that are off by some pixels, of the wrong class, or of nothing."""
    random, pairs = np.random.default_rng(3), []
    for index in range(count):
        n = int(random.integers(1, 7))
        x, y, radius = random.uniform(20, 140, n), random.uniform(20, 100, n), random.uniform(6, 40, n)
        labels = random.integers(0, 2, n)
        truth = [encode(mask(*place), 0, 0, *SIZE) for place in zip(x, y, radius, strict=True)]
        objects = InstanceSegmentation.of_masks(truth, labels, np.ones(n, np.float32), SIZE)
        sample = Sample(
            str(index), str(index), "lab", b"", *SIZE, -1, objects.boxes, labels.astype(np.int32), None,
            random.random(n) < 0.15, masks=tuple(truth),
        )  # fmt: skip
        moved = [
            encode(mask(a + random.normal(0, 3), b + random.normal(0, 3), c * random.uniform(0.8, 1.2)), 0, 0, *SIZE)
            for a, b, c in [*zip(x, y, radius, strict=True), (60, 60, 10)]
        ]
        predicted = np.where(random.random(n + 1) < 0.8, [*labels, 0], 1)
        scores = np.sort(random.random(n + 1).astype(np.float32))[::-1].copy()
        pairs.append((sample, InstanceSegmentation.of_masks(moved, predicted, scores, SIZE)))
    return pairs


def test_average_precision_is_that_of_torchmetrics() -> None:
    pairs = scenes(30)
    metric = MeanAveragePrecision(
        "xyxy", "segm", class_metrics=True, max_detection_thresholds=[1, 10, 300], backend="faster_coco_eval",
        # COCO's own, in full precision: at a recall of 1/10 torchmetrics' default asks for 0.100000001.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(), rec_thresholds=np.linspace(0, 1, 101).tolist(),
    )  # fmt: skip
    for sample, found in pairs:
        drawn = [np.stack([decode(counts, *SIZE) for counts in masks]) for masks in (unpack(found.masks), sample.masks)]
        metric.update(
            [{"masks": torch.from_numpy(drawn[0]), "scores": torch.from_numpy(found.scores),
              "labels": torch.from_numpy(found.labels)}],
            [{"masks": torch.from_numpy(drawn[1]), "labels": torch.from_numpy(sample.labels.astype(np.int64)),
              "iscrowd": torch.from_numpy(sample.difficult.astype(np.int64))}],
        )  # fmt: skip
    expected = metric.compute()
    task = definition(Task.INSTANCE_SEGMENTATION)
    request = EvaluationRequest(CLASSES, "test", ("objectSize",), "mAP", 0.3)
    result = task.evaluate(iter(pairs), request)
    for name, theirs in (("mAP", "map"), ("mAP50", "map_50"), ("mAP75", "map_75"), ("mAPSmall", "map_small"),
                         ("mAPMedium", "map_medium"), ("mAPLarge", "map_large")):  # fmt: skip
        measured = result.metric(name)
        assert (-1.0 if measured is None else measured) == pytest.approx(float(expected[theirs]), abs=1e-6), name
    for index, name in enumerate(CLASSES[:2]):
        assert result.metric("AP", name) == pytest.approx(float(expected["map_per_class"][index]), abs=1e-6)
    assert 0.2 < result.metrics["test/mAP"] < 0.9
    epoch = task.epoch_metrics(3)
    for index, (sample, found) in enumerate(pairs):
        epoch.update(index, sample, found)
    assert epoch.compute()["mAP"] == pytest.approx(result.metrics["test/mAP"])


def test_the_labels_themselves_are_all_right() -> None:
    task = definition(Task.INSTANCE_SEGMENTATION)
    pairs = [(sample, task.right_answer(sample, 3)) for sample, _ in scenes(5)]
    result = task.evaluate(iter(pairs), EvaluationRequest(CLASSES, "test", (), "mAP", 0.5))
    assert result.metrics["test/mAP"] == pytest.approx(1, abs=1e-6)
    assert (result.metrics["test/recall"], result.metrics["test/meanMatchIoU"]) == (1, 1)


def test_a_version_without_masks_is_refused() -> None:
    ((sample, _),) = scenes(1)
    old = Sample(sample.digest, sample.name, "", b"", *SIZE, -1, sample.boxes, sample.labels, None, sample.difficult)
    with pytest.raises(CorruptData, match="build the dataset version anew"):
        definition(Task.INSTANCE_SEGMENTATION).right_answer(old, 3)
