"""What the tasks say about themselves is what serving and the API know of them."""

from __future__ import annotations

import numpy as np
import pytest
from fovea_api.common import Task
from fovea_api.metrics import EVALUATED
from fovea_serving.pipeline import Preprocess, prediction_type
from fovea_trainer.data.version import Sample
from fovea_trainer.tasks import definition

TASKS = tuple(Task)


@pytest.mark.parametrize("task", TASKS)
def test_its_outputs_and_metrics_are_known(task: Task) -> None:
    known = definition(task)
    assert set(known.parity_tolerance) == set(prediction_type(task).outputs)
    assert known.informative_output in prediction_type(task).outputs
    assert set(known.headline_metrics) <= set(EVALUATED[task])


def test_an_exported_file_may_be_off_by_what_nobody_sees() -> None:
    """A twentieth of a pixel, a thousandth of a score: sums in another order stay well below it."""
    allowed = {name: value for task in TASKS for name, value in definition(task).parity_tolerance.items()}
    assert allowed == {"logits": 1e-3, "scores": 1e-3, "boxes": 0.05, "masks": 2e-3}


def test_crowds_and_difficult_objects_are_not_learned_from() -> None:
    """As in detectron2 and torchvision's reference: neither as targets, nor as objects that balance the classes."""
    boxes = np.array([[0, 0, 40, 40], [50, 50, 90, 90], [10, 60, 30, 95]], np.float32)
    sample = Sample("a", "a", "lab", b"", 100, 100, -1, boxes, np.array([0, 1, 1], np.int32), None,
                    np.array([False, True, False]))  # fmt: skip
    task, preprocess = definition(Task.DETECTION), Preprocess(50, 50)
    item = task.annotate(sample, None, preprocess, preprocess.geometry(100, 100))  # type: ignore[arg-type]
    assert item.boxes.tolist() == [[0, 0, 20, 20], [5, 30, 15, 47.5]]
    assert item.labels.tolist() == [0, 1]
    assert task.class_counts(sample, 2).tolist() == [1, 1]
