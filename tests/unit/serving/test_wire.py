"""What gateway and replica send to each other arrives as it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fovea_api.common import Task
from fovea_serving.pipeline import Classification, Detection, InstanceSegmentation, Prediction, SemanticSegmentation
from fovea_serving.pipeline.run_lengths import encode
from fovea_serving.upstreams import Answer, PredictOptions
from fovea_serving.upstreams.wire import UnreadableMessage, read_answers, read_request, write_answers, write_request

PREDICTIONS = {
    Task.CLASSIFICATION: Classification(np.array([0.25, 0.75], np.float32), top_k=1),
    Task.DETECTION: Detection(
        np.array([[1, 2, 3, 4.5]], np.float32), np.array([2], np.int64), np.array([0.9], np.float32)
    ),
    Task.INSTANCE_SEGMENTATION: InstanceSegmentation.of_masks(
        [encode(np.ones((2, 3), bool), 1, 1, 5, 4), encode(np.eye(4, dtype=bool), 0, 0, 5, 4)],
        np.array([2, 0]),
        np.array([0.9, 0.5], np.float32),
        (5, 4),
    ),
    Task.SEMANTIC_SEGMENTATION: SemanticSegmentation(np.array([[0, 1, 255], [2, 2, 0]], np.uint8).T),
}
NOTHING = Detection(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
CLASSES = ("a", "b", "c")


@pytest.mark.parametrize("task", PREDICTIONS)
def test_answers_arrive_as_they_were(task: Task) -> None:
    sent = [Answer(PREDICTIONS[task], 640, 480, 3), Answer(PREDICTIONS[task], 64, 48)]
    received = read_answers(write_answers(sent), task)
    assert [(a.width, a.height, a.batch_size) for a in received] == [(640, 480, 3), (64, 48, None)]
    assert [_json(a.prediction) for a in received] == [_json(a.prediction) for a in sent]


def test_an_image_without_objects_has_none_on_the_other_side() -> None:
    (received,) = read_answers(write_answers([Answer(NOTHING, 1, 1)]), Task.DETECTION)
    assert _json(received.prediction) == {"objects": []}


@pytest.mark.parametrize(
    "options", [PredictOptions(), PredictOptions(0.25, (2, 0), 10, 512), PredictOptions(confidence=0.0, classes=())]
)
@pytest.mark.parametrize("images", [[], [b"one"], [b"", b"\x00\xff", *[b"more"] * 10]])
def test_requests_arrive_as_they_were(images: Sequence[bytes], options: PredictOptions) -> None:
    assert read_request(write_request(images, options)) == (list(images), options)


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(UnreadableMessage):
        read_answers(b"<html>", Task.DETECTION)
    with pytest.raises(UnreadableMessage, match=r"boxes\.0"):
        read_answers(write_answers([Answer(PREDICTIONS[Task.CLASSIFICATION], 1, 1)]), Task.DETECTION)


def _json(prediction: Prediction) -> object:
    return prediction.to_dict(CLASSES, masks=True)
