"""Evaluation of segmentation, against torchmetrics and hand-counted pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from fovea_api.common import Task
from fovea_api.errors import CorruptData
from fovea_api.metrics import BY_CLASS, evaluated
from fovea_serving.pipeline import IGNORE, SemanticSegmentation
from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.tasks.base import EvaluationRequest
from fovea_trainer.tasks.semantic_segmentation.evaluation import evaluate_segmentation, pixel_confusion
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

CLASSES = ("background", "cell", "wall")


def sample(mask: np.ndarray, name: str = "a") -> Sample:
    _, data = cv2.imencode(".png", mask)
    nothing = np.zeros((0, 4), np.float32)
    height, width = mask.shape
    return Sample(name, name, "lab", b"", width, height, -1, nothing, np.zeros(0, np.int32), data.tobytes())


def evaluate(*pairs: tuple[np.ndarray, np.ndarray]) -> EvaluationResult:
    samples = ((sample(labelled, str(i)), SemanticSegmentation(mask)) for i, (labelled, mask) in enumerate(pairs))
    return evaluate_segmentation(samples, EvaluationRequest(CLASSES, "test", ("class", "source"), "dice", 0.5))


def test_figures_equal_torchmetrics() -> None:
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(4):
        labelled = random.integers(0, 3, (40, 50)).astype(np.uint8)
        predicted = np.where(
            random.random(labelled.shape) < 0.7, labelled, random.integers(0, 3, labelled.shape)
        ).astype(np.uint8)
        labelled[:5] = IGNORE
        pairs.append((labelled, predicted))
    result = evaluate(*pairs)
    labelled, predicted = (torch.from_numpy(np.stack(part).astype(np.int64)) for part in zip(*pairs, strict=True))
    options = {"num_classes": 3, "average": "none", "ignore_index": IGNORE}
    dice, iou = (
        multiclass_f1_score(predicted, labelled, **options),
        multiclass_jaccard_index(predicted, labelled, **options),
    )
    assert [result.metric("dice", name) for name in CLASSES] == pytest.approx(dice.tolist(), abs=1e-6)
    assert [result.metric("iou", name) for name in CLASSES] == pytest.approx(iou.tolist(), abs=1e-6)
    assert result.metric("dice") == pytest.approx(float(dice.mean()), abs=1e-6)


def test_pixels_counted_by_hand() -> None:
    labelled = np.array([[0, 0, 1], [1, IGNORE, 2]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 2, IGNORE]], np.uint8)
    assert pixel_confusion(labelled, predicted, 3).tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]
    result = evaluate((labelled, predicted))
    assert result.metric("dice", "cell") == pytest.approx(4 / 5)
    assert result.metric("iou", "cell") == pytest.approx(2 / 3)
    assert result.metric("dice", "wall") == 0
    assert result.confusion.columns[-1] == "not seen"


def test_the_worst_image_comes_first() -> None:
    labelled = np.zeros((8, 8), np.uint8)
    labelled[:, 4:] = 1
    result = evaluate((labelled, labelled), (labelled, np.zeros_like(labelled)))
    assert result.worst[0].index == 1
    assert result.worst[-1].score == 1
    assert any("cell" in sentence for sentence in result.error_analysis)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(CorruptData, match="mask"):
        evaluate((np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8)))


def test_all_metrics_are_known_to_the_api() -> None:
    task, made = Task.SEMANTIC_SEGMENTATION, evaluate((np.array([[0, 1, 2]], np.uint8),) * 2).metrics
    assert {name for name in made if name.count("/") == 1} <= set(evaluated(task, ("test",), ("objectSize",)))
    assert {name.split("/")[1] for name in made if name.count("/") == 2} == set(BY_CLASS[task])
