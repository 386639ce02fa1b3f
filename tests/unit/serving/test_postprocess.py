"""Outputs to predictions in the pixels of the original."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
import torchvision
from fovea_api.common import Task
from fovea_api.trainingjob import Resize
from fovea_serving.pipeline import (
    IGNORE,
    Classification,
    Detection,
    Postprocess,
    Preprocess,
    SemanticSegmentation,
    nms,
    softmax,
)


def random_boxes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 200, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 80, (count, 2))], 1).astype(np.float32)
    return boxes, random.permutation(count).astype(np.float32) / count


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
def test_suppression_equals_torchvisions(seed: int, threshold: float) -> None:
    boxes, scores = random_boxes(400, seed)
    expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).numpy()
    assert (nms(boxes, scores, threshold) == expected).all()


def test_detection_equals_torchvisions_suppression_per_class() -> None:
    boxes, _ = random_boxes(300, 7)
    scores = np.random.default_rng(1).uniform(0, 1, (300, 3)).astype(np.float32)
    geometry = Preprocess(320, 320).geometry(320, 320)
    detection = Postprocess(Task.DETECTION, 0.3, 0.5, 50)({"boxes": boxes[None], "scores": scores[None]}, [geometry])[0]
    assert isinstance(detection, Detection)
    anchors, labels = np.nonzero(scores >= 0.3)
    flat = torch.from_numpy(scores[anchors, labels])
    kept = torchvision.ops.batched_nms(torch.from_numpy(boxes[anchors]), flat, torch.from_numpy(labels), 0.5)[:50]
    assert detection.boxes == pytest.approx(boxes[anchors][kept.numpy()])
    assert (detection.labels == labels[kept.numpy()]).all()
    assert (np.diff(detection.scores) <= 0).all()


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 0.2, 0.6, 0.95])
def test_objects_above_a_confidence_are_what_they_are_among_all_candidates(
    confidence: float, overlapping: bool
) -> None:
    boxes, _ = random_boxes(300, 7)
    scores = np.random.default_rng(1).uniform(0, 1, (300, 3)).astype(np.float32)
    geometry = Preprocess(320, 320).geometry(320, 320)
    postprocess, outputs = Postprocess(Task.DETECTION, 0.1), {"boxes": boxes[None], "scores": scores[None]}
    (of_all,), (of_few,) = postprocess(outputs, [geometry]), postprocess(outputs, [geometry], confidence=confidence)
    assert isinstance(of_few, Detection)
    assert confidence <= of_few.scores.min(initial=1.0) or confidence < 0.1
    selected, same = (each.above(confidence, overlapping=overlapping) for each in (of_few, of_all))
    assert [(*box, label) for box, label in zip(selected.boxes.tolist(), selected.labels, strict=True)] == [
        (*box, label) for box, label in zip(same.boxes.tolist(), same.labels, strict=True)
    ]


def test_boxes_are_given_in_the_original_and_clipped() -> None:
    geometry = Preprocess(320, 320).geometry(640, 480)
    boxes = np.array([[[10, 50, 110, 90], [-50, 0, 400, 400], [5, 5, 5, 5]]], np.float32)
    scores = np.array([[[0.9, 0.0], [0.0, 0.8], [0.7, 0.7]]], np.float32)
    detection = Postprocess(Task.DETECTION)({"boxes": boxes, "scores": scores}, [geometry])[0]
    assert isinstance(detection, Detection)
    assert detection.boxes.tolist() == [[20, 20, 220, 100], [0, 0, 640, 480]]
    assert detection.labels.tolist() == [0, 1]


def test_no_detection_is_an_empty_one() -> None:
    geometry = Preprocess(320, 320).geometry(64, 48)
    outputs = {"boxes": np.zeros((1, 9, 4), np.float32), "scores": np.zeros((1, 9, 3), np.float32)}
    detection = Postprocess(Task.DETECTION)(outputs, [geometry])[0]
    assert isinstance(detection, Detection)
    assert len(detection) == 0
    assert detection.boxes.shape == (0, 4)


def test_classification_gives_probabilities() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0]], np.float32)
    prediction = Postprocess(Task.CLASSIFICATION)({"logits": logits}, [Preprocess(8, 8).geometry(8, 8)])[0]
    assert isinstance(prediction, Classification)
    assert prediction.label == 0
    assert prediction.score == pytest.approx(1 / (1 + np.exp(-1)))
    assert [index for index, _ in prediction.top(2)] == [0, 1]


def test_probabilities_are_those_of_each_image_alone() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0], [0.0, 1.0, 2.0]], np.float32)
    assert softmax(logits) == pytest.approx(scipy.special.softmax(logits, axis=-1))


def test_of_equal_scores_the_first_class_comes_first() -> None:
    probabilities = np.array([0.1, 0.3, 0.3, *[0.3 / 40] * 40], np.float32)
    assert [index for index, _ in Classification(probabilities).top(4)] == [1, 2, 0, 3]


@pytest.mark.parametrize("resize", Resize)
@pytest.mark.parametrize("size", [(640, 480), (100, 300), (64, 64)])
def test_a_mask_comes_back_to_the_original_size(resize: Resize, size: tuple[int, int]) -> None:
    width, height = size
    labelled = np.zeros((height, width), np.uint8)
    labelled[height // 4 : height // 2, width // 3 : width // 2] = 1
    labelled[height // 2 :, : width // 2] = 2
    preprocess = Preprocess(256, 256, resize)
    seen = preprocess.fit_mask(labelled)
    logits = np.stack([(seen == label) * 5.0 for label in range(3)]).astype(np.float32)
    prediction = Postprocess(Task.SEMANTIC_SEGMENTATION)({"logits": logits[None]}, [preprocess.geometry(*size)])[0]
    assert isinstance(prediction, SemanticSegmentation)
    assert prediction.mask.shape == labelled.shape
    visible = prediction.mask != IGNORE
    assert visible.all() == (resize is not Resize.CENTER_CROP or width == height)
    assert (prediction.mask[visible] == labelled[visible]).mean() > 0.98
