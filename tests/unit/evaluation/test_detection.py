"""The evaluation of detectors on cases that can be counted by hand, and against other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from fovea_api.common import Task
from fovea_api.metrics import BY_CLASS, evaluated
from fovea_serving.pipeline import Detection
from fovea_trainer.data.version import Sample
from fovea_trainer.evaluation.result import EvaluationResult
from fovea_trainer.tasks.base import EvaluationRequest
from fovea_trainer.tasks.detection.average_precision import average_precision
from fovea_trainer.tasks.detection.errors import count_errors
from fovea_trainer.tasks.detection.evaluation import evaluate_detection, operating_point
from fovea_trainer.tasks.detection.matching import GroundTruth, ground_truth_of, iou_matrix, match, match_all

CLASSES = ("cell", "platelet")


def sample(boxes: list, labels: list, *, difficult: list | None = None, source: str = "lab", name: str = "a") -> Sample:
    return Sample(
        digest=name,
        name=name,
        source=source,
        image_bytes=b"",
        width=500,
        height=500,
        label=-1,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        mask_bytes=None,
        difficult=np.array(difficult if difficult is not None else [False] * len(labels), bool),
    )


def detected(*items: tuple[list, int, float]) -> Detection:
    items = tuple(sorted(items, key=lambda item: -item[2]))
    return Detection(
        np.array([box for box, _, _ in items], np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in items], np.int64),
        np.array([score for _, _, score in items], np.float32),
    )


def evaluate(
    *pairs: tuple[Sample, Detection],
    slices: tuple[str, ...] = ("class", "objectSize"),
    primary: str = "mAP",
    threshold: float = 0.05,
) -> EvaluationResult:
    return evaluate_detection(iter(pairs), EvaluationRequest(CLASSES, "test", slices, primary, threshold))


ONE, TWO, FAR = [10, 10, 60, 60], [100, 100, 200, 200], [300, 300, 400, 400]


def test_all_right_is_one() -> None:
    result = evaluate((sample([ONE, TWO], [0, 1]), detected((ONE, 0, 0.9), (TWO, 1, 0.8))))
    for name in ("mAP", "mAP50", "mAP75", "precision", "recall", "f1", "meanMatchIoU"):
        assert result.metric(name) == pytest.approx(1), name
    assert result.metrics["test/AP/platelet"] == pytest.approx(1)
    assert sum(result.errors.values()) == 0
    assert result.confusion.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert result.worst[0].score == 1


def test_each_kind_of_error_is_counted_by_itself() -> None:
    shifted = [10, 35, 60, 85]  # IoU 1/3 with ONE
    boxes = np.array([ONE, TWO, FAR, [420, 10, 480, 70], [200, 10, 240, 50]], np.float32)
    ground_truth = GroundTruth(boxes, np.array([0, 0, 1, 1, 1]), np.zeros(5, bool))
    detections = detected(
        (TWO, 0, 0.99),
        ([101, 101, 201, 201], 0, 0.98),  # duplicate
        (shifted, 0, 0.97),  # localisation
        (FAR, 0, 0.96),  # classification
        ([420, 40, 480, 100], 0, 0.95),  # both: its object counts as missed too
        ([10, 400, 60, 450], 1, 0.94),  # background
    )
    errors = count_errors(ground_truth, detections, match(ground_truth, detections, same_class=True))
    assert errors == {
        "localisation": 1,
        "classification": 1,
        "both": 1,
        "duplicate": 1,
        "background": 1,
        "missed": 2,
    }


def test_confusion_has_a_background() -> None:
    result = evaluate(
        (sample([ONE, TWO, FAR], [0, 0, 1]), detected((ONE, 0, 0.9), (TWO, 1, 0.9), ([0, 400, 50, 450], 1, 0.9)))
    )
    assert result.confusion.rows == ("cell", "platelet", "background")
    assert result.confusion.counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_the_operating_point_is_where_f1_is_best() -> None:
    noise = [([300 + 5 * i, 10, 340 + 5 * i, 40], 0, 0.3 - i / 100) for i in range(9)]
    image = sample([ONE, TWO], [0, 0]), detected((ONE, 0, 0.9), (TWO, 0, 0.6), *noise)
    threshold = operating_point(iter([image]))
    assert threshold == pytest.approx(0.6)
    result = evaluate(image, threshold=threshold)
    assert result.metric("precision") == result.metric("recall") == 1


def test_precision_and_recall_are_those_at_the_given_threshold_not_at_the_best_one() -> None:
    """The threshold is the model's: a test split whose own best one is another has no say in it."""
    image = sample([ONE, TWO], [0, 0]), detected((ONE, 0, 0.9), (TWO, 0, 0.6), (FAR, 0, 0.3))
    assert operating_point(iter([image])) == pytest.approx(0.6)
    for threshold, precision, recall, missed in ((0.2, 2 / 3, 1, 0), (0.6, 1, 1, 0), (0.8, 1, 0.5, 1)):
        result = evaluate(image, threshold=threshold)
        assert result.metric("precision") == pytest.approx(precision)
        assert result.metric("recall") == pytest.approx(recall)
        assert result.metric("f1") == pytest.approx(2 * precision * recall / (precision + recall))
        assert result.metric("scoreThreshold") == result.threshold == threshold
        assert result.errors["missed"] == missed
        assert result.confusion.counts[0, 2] == missed
        assert result.metric("mAP50") == pytest.approx(1)  # which goes over all scores


def test_nothing_detected_is_zero_and_no_crash() -> None:
    result = evaluate((sample([ONE], [0]), detected()), (sample([], [], name="b"), detected()))
    assert result.metric("mAP") == result.metric("f1") == 0
    assert not any(name.startswith("test/mAPL") for name in result.metrics), "no object is large"
    assert result.errors["missed"] == 1
    assert result.worst[0].name == "a"


def test_nothing_labelled_is_zero_and_no_crash() -> None:
    result = evaluate((sample([], []), detected((ONE, 0, 0.9))))
    assert result.metric("mAP") == 0
    assert result.errors["background"] == 1


def test_a_class_that_does_not_occur_has_no_metric() -> None:
    result = evaluate((sample([ONE], [0]), detected((ONE, 0, 0.9), (TWO, 1, 0.5))))
    assert "test/AP/platelet" not in result.metrics
    assert result.metric("mAP") == pytest.approx(1)


def test_difficult_objects_need_not_be_found_and_may_be() -> None:
    ground_truth = sample([ONE, TWO], [0, 0], difficult=[False, True])
    for detections in (detected((ONE, 0, 0.9)), detected((ONE, 0, 0.9), (TWO, 0, 0.95))):
        result = evaluate((ground_truth, detections))
        assert result.metric("mAP") == result.metric("precision") == result.metric("recall") == pytest.approx(1)


def test_slices_by_source() -> None:
    pairs = [
        (sample([ONE], [0], source="lab"), detected((ONE, 0, 0.9))),
        (sample([ONE], [0], source="field", name="b"), detected()),
    ]
    slices = {part.name: (part.images, part.value) for part in evaluate(*pairs, slices=("source",)).slices}
    assert slices == {"lab": (1, pytest.approx(1)), "field": (1, 0)}


@pytest.mark.parametrize(("primary", "values"), [("mAP50", [1, 0]), ("recall", [1, 0]), ("mAP", [0.7, 0])])
def test_slices_follow_the_primary_metric(primary: str, values: list[float]) -> None:
    loose = [10, 10, 60, 51]  # an IoU of 0.82 with ONE: right at seven of the ten thresholds of mAP
    pairs = [
        (sample([ONE], [0], source="lab"), detected((loose, 0, 0.9))),
        (sample([ONE], [0], source="yard", name="b"), detected()),
    ]
    result = evaluate(*pairs, slices=("source",), primary=primary)
    assert result.primary == primary
    assert [part.value for part in result.slices] == pytest.approx(values, abs=0.01)


def test_not_all_sizes_can_be_worse_than_others() -> None:
    small, medium, large = [10, 10, 30, 30], [100, 100, 160, 160], [200, 200, 400, 400]
    half = detected((small, 0, 0.9), (medium, 0, 0.9), (large, 0, 0.9))
    images = [(sample([small, medium, large], [0] * 3), half), (sample([small, medium, large], [0] * 3), detected())]
    assert not any("objects are detected worse" in words for words in evaluate(*images).error_analysis)
    poor = detected((medium, 0, 0.9), (large, 0, 0.9))
    words = evaluate((sample([small, medium, large], [0] * 3), poor)).error_analysis
    assert [sentence.split()[0] for sentence in words if "detected worse" in sentence] == ["Small"]


def test_overlaps_equal_torchvisions() -> None:
    random = np.random.default_rng(0)
    one, two = (np.cumsum(random.uniform(1, 50, (n, 2, 2)), 1).reshape(n, 4).astype(np.float32) for n in (40, 30))
    expected = torchvision.ops.box_iou(torch.from_numpy(one), torch.from_numpy(two)).numpy()
    assert iou_matrix(one, two) == pytest.approx(expected, abs=1e-6)


def random_scene(seed: int, objects: int, extra: int) -> tuple[GroundTruth, Detection]:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 400, (objects, 2))
    boxes = np.concatenate([corner, corner + random.uniform(15, 110, (objects, 2))], 1).astype(np.float32)
    labels = random.integers(0, 2, objects)
    moved = boxes + random.normal(0, 4, boxes.shape).astype(np.float32)
    corner = random.uniform(0, 400, (extra, 2))
    wrong = np.concatenate([corner, corner + 40], 1).astype(np.float32)
    scores = np.concatenate([random.uniform(0.2, 1, objects), random.uniform(0, 0.7, extra)]).astype(np.float32)
    order = np.argsort(-scores)
    detections = Detection(
        np.concatenate([moved, wrong])[order],
        np.concatenate([labels, random.integers(0, 2, extra)])[order],
        scores[order],
    )
    return GroundTruth(boxes, labels, np.zeros(objects, bool)), detections


def area_under_interpolated_curve(scenes: list[tuple[GroundTruth, Detection]], label: int, threshold: float) -> float:
    """COCO's average precision written down plainly: 101 recalls, the best precision at or beyond each."""
    ranked, total = [], 0
    for ground_truth, detections in scenes:
        objects, free = (
            ground_truth.boxes[ground_truth.labels == label],
            np.ones((ground_truth.labels == label).sum(), bool),
        )
        total += len(objects)
        for index in np.flatnonzero(detections.labels == label):
            overlap = np.where(free, iou_matrix(detections.boxes[index : index + 1], objects)[0], 0)
            right = bool(len(overlap) and overlap.max() >= threshold)
            if right:
                free[overlap.argmax()] = False
            ranked.append((detections.scores[index], right))
    true_positives = np.cumsum([right for _, right in sorted(ranked, key=lambda item: -item[0])])
    recall, precision = true_positives / total, true_positives / np.arange(1, len(true_positives) + 1)
    best = [precision[recall >= point].max(initial=0.0) for point in np.linspace(0, 1, 101)]
    return float(np.mean(best))


def test_average_precision_equals_the_plain_definition() -> None:
    scenes = [random_scene(seed, 25, 40) for seed in range(12)]
    measured = average_precision(
        [ground_truth for ground_truth, _ in scenes], [detections for _, detections in scenes], 2
    )
    for label in (0, 1):
        assert measured.per_class_50[label] == pytest.approx(
            area_under_interpolated_curve(scenes, label, 0.5), abs=1e-4
        )
        mean = np.mean([area_under_interpolated_curve(scenes, label, t) for t in np.arange(0.5, 0.96, 0.05)])
        assert measured.per_class[label] == pytest.approx(mean, abs=1e-4)
    assert measured.at_50 == pytest.approx(measured.per_class_50.mean(), abs=1e-6)


def test_scenes_of_more_than_a_hundred_objects_count_in_full() -> None:
    scene = random_scene(3, 220, 0)
    ground_truth = GroundTruth(scene[0].boxes, np.zeros(220, np.int64), np.zeros(220, bool))
    scores = np.linspace(1, 0.5, 220).astype(np.float32)
    detections = Detection(ground_truth.boxes, ground_truth.labels, scores)
    assert average_precision([ground_truth], [detections], 1).mean == pytest.approx(1, abs=1e-6)


def test_matching_takes_the_best_free_object() -> None:
    ground_truth = GroundTruth(np.array([ONE, [12, 12, 62, 62]], np.float32), np.zeros(2, np.int64), np.zeros(2, bool))
    matches = match(ground_truth, detected((ONE, 0, 0.9), (ONE, 0, 0.8), (ONE, 0, 0.7)), same_class=True)
    assert matches.object.tolist() == [0, 1, -1]
    assert matches.iou[0] == 1
    assert 0.8 < matches.iou[1] < 1


def test_the_result_is_json() -> None:
    import json

    result = evaluate((sample([ONE, TWO], [0, 1]), detected((ONE, 0, 0.9))), slices=("class", "objectSize", "source"))
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["metrics"]["test/recall"] == 0.5
    assert content["confusion"]["counts"][1] == [0, 0, 1]
    assert any("missed" in sentence for sentence in content["errorAnalysis"])


def test_all_metrics_are_known_to_the_api() -> None:
    made = evaluate((sample([ONE, TWO], [0, 1]), detected((ONE, 0, 0.9), (TWO, 1, 0.8)))).metrics
    assert {name for name in made if name.count("/") == 1} <= set(evaluated(Task.DETECTION, ("test",), ("objectSize",)))
    assert {name.split("/")[1] for name in made if name.count("/") == 2} == set(BY_CLASS[Task.DETECTION])


def test_overlaps_of_boxes_without_area_are_zero() -> None:
    point = np.array([[5, 5, 5, 5]], np.float32)
    assert iou_matrix(point, point).tolist() == [[0.0]]


def test_an_object_is_matched_from_an_iou_of_one_half_on() -> None:
    ground_truth = GroundTruth(np.array([[0, 0, 100, 100]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool))
    for width, expected in ((50, [0]), (49, [-1])):
        matches = match(ground_truth, detected(([0, 0, width, 100], 0, 0.9)), same_class=True)
        assert matches.object.tolist() == expected
        assert matches.iou.tolist() == pytest.approx([0.5 if expected == [0] else 0.0])
        assert matches.counts.tolist() == [True]


def test_a_detection_of_another_class_is_matched_where_classes_do_not_count() -> None:
    ground_truth = GroundTruth(np.array([ONE], np.float32), np.zeros(1, np.int64), np.zeros(1, bool))
    other = detected((ONE, 1, 0.9))
    assert match(ground_truth, other, same_class=True).object.tolist() == [-1]
    assert match(ground_truth, other, same_class=False).object.tolist() == [0]


def test_a_detection_of_a_difficult_object_does_not_count_and_takes_no_other() -> None:
    boxes = np.array([ONE, [12, 12, 62, 62], FAR], np.float32)
    ground_truth = GroundTruth(boxes, np.zeros(3, np.int64), np.array([True, False, True]))
    half = [300, 300, 400, 350]  # an IoU of 0.5 with FAR
    detections = detected((ONE, 0, 0.9), (ONE, 0, 0.8), (half, 0, 0.7), (TWO, 0, 0.6), (FAR, 1, 0.5))
    matches = match(ground_truth, detections, same_class=True)
    assert matches.object.tolist() == [1, -1, -1, -1, -1]
    assert matches.counts.tolist() == [True, False, False, True, True]
    assert (len(ground_truth), matches.n_true_positives, matches.n_predictions) == (1, 1, 3)


def test_without_flags_no_object_is_difficult() -> None:
    plain = sample([ONE, TWO], [0, 1], difficult=[])
    ground_truth = ground_truth_of(plain)
    assert len(ground_truth) == 2
    assert ground_truth.difficult.tolist() == [False, False]
    assert (ground_truth.boxes.dtype, ground_truth.labels.dtype) == (np.float32, np.int64)
    assert ground_truth_of(sample([], [])).boxes.shape == (0, 4)
    assert ground_truth_of(sample([ONE, TWO], [0, 1], difficult=[False, True])).difficult.tolist() == [False, True]


def test_images_are_matched_within_their_classes() -> None:
    scenes = [random_scene(seed, 5, 5) for seed in (0, 1)]
    together = match_all([objects for objects, _ in scenes], [detections for _, detections in scenes])
    for (objects, detections), matches in zip(scenes, together, strict=True):
        alone = match(objects, detections, same_class=True)
        assert (matches.object == alone.object).all()
        right = matches.object >= 0
        assert right.any()
        assert (detections.labels[right] == objects.labels[matches.object[right]]).all()
