"""What a prediction says of itself: as JSON, in words and drawn on its image."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import pytest
from faster_coco_eval import mask as coco_mask
from fovea_api.common import Task
from fovea_api.errors import InvalidInput, NotSupported
from fovea_serving.pipeline import (
    IGNORE,
    Classification,
    Detection,
    Geometry,
    NamedPrediction,
    Postprocess,
    Prediction,
    Preprocess,
    SemanticSegmentation,
    prediction_type,
)
from fovea_serving.pipeline.drawing import color_of
from fovea_serving.pipeline.predictions import base
from numpy.typing import NDArray
from pydantic import JsonValue

CLASSES = ("sky", "cell", "wall")

IMAGE = Classification(np.array([0.2, 0.5, 0.3], np.float32), top_k=2)
OBJECTS = Detection(
    np.array([[1, 2, 30.126, 40], [50, 20, 90, 70]], np.float32), np.array([2, 1]), np.array([0.9, 0.4], np.float32)
)
MASK = np.zeros((80, 100), np.uint8)
MASK[10:30, 20:60] = 1
MASK[70:] = IGNORE
PIXELS = SemanticSegmentation(MASK)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (IMAGE, {"classes": [{"class": "cell", "score": 0.5}, {"class": "wall", "score": 0.3}]}),
        (
            OBJECTS,
            {
                "objects": [
                    {"class": "wall", "score": 0.9, "box": [1, 2, 30.13, 40]},
                    {"class": "cell", "score": 0.4, "box": [50, 20, 90, 70]},
                ]
            },
        ),
        (
            PIXELS,
            {
                "width": 100,
                "height": 80,
                "classes": [{"class": "sky", "pixels": 6200}, {"class": "cell", "pixels": 800}],
            },
        ),
    ],
)
def test_the_json_form(prediction: Prediction, expected: object) -> None:
    assert json.loads(json.dumps(prediction.to_dict(CLASSES))) == expected


def test_masks_are_run_lengths_that_coco_reads() -> None:
    entries = json.loads(json.dumps(PIXELS.to_dict(CLASSES, masks=True)))["classes"]
    for label, entry in enumerate(entries):
        assert entry["mask"]["size"] == [80, 100]
        assert (coco_mask.decode(entry["mask"]) == (label == MASK)).all()


def equal(one: Prediction, other: Prediction) -> bool:
    assert type(one) is type(other)
    pairs = [(getattr(one, name), getattr(other, name)) for name in type(one).__dataclass_fields__]
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def test_an_image_is_read_from_its_json_form() -> None:
    read = Classification.from_dict(IMAGE.to_dict(CLASSES), CLASSES, (9, 9))
    assert equal(read, Classification(np.array([0, 0.5, 0.3], np.float32), 2))
    assert Classification.from_dict({"classes": [{"class": "wall"}]}, CLASSES, (9, 9)).top(1) == [(2, 1.0)]


def test_objects_are_read_from_their_json_form_the_best_first() -> None:
    content = OBJECTS.to_dict(CLASSES)
    content["objects"] = list(reversed(cast(list[JsonValue], content["objects"])))
    read = Detection.from_dict(content, CLASSES, (100, 80))
    assert equal(read, Detection(OBJECTS.boxes.round(2), OBJECTS.labels, OBJECTS.scores))
    assert Detection.from_dict({"objects": [{"class": "sky", "box": [0, 0, 1, 1]}]}, CLASSES, (9, 9)).scores == [1]


def test_pixels_are_read_from_their_json_form() -> None:
    assert equal(SemanticSegmentation.from_dict(PIXELS.to_dict(CLASSES, masks=True), CLASSES, (100, 80)), PIXELS)


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        (None, "a box is"),
        ([1, 2, 3], "a box is"),
        ([1, 2, 1, 9], "has no area"),
        ([1, 2, 9, 2], "has no area"),
        ([9, 2, 1, 9], "has no area"),
        ([1, 9, 9, 2], "has no area"),
    ],
)
def test_a_box_without_area_is_refused(edges: JsonValue, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Detection.from_dict({"objects": [{"class": "sky", "box": edges}]}, CLASSES, (9, 9))


def test_what_is_predicted_of_some_classes() -> None:
    assert equal(IMAGE.of([0, 2]), Classification(np.array([0.2, 0, 0.3], np.float32), 2))
    assert equal(IMAGE.of([1]), Classification(np.array([0, 0.5, 0], np.float32), 1))
    assert equal(OBJECTS.of([1]), Detection(OBJECTS.boxes[1:], OBJECTS.labels[1:], OBJECTS.scores[1:]))
    assert equal(OBJECTS.first(1), Detection(OBJECTS.boxes[:1], OBJECTS.labels[:1], OBJECTS.scores[:1]))
    assert equal(PIXELS.of([1]), SemanticSegmentation(np.where(MASK == 1, MASK, np.uint8(IGNORE))))


def test_how_much_there_is_of_each_class() -> None:
    three = Detection(np.zeros((3, 4), np.float32), np.array([2, 1, 2]), np.zeros(3, np.float32))
    assert [each.counts() for each in (IMAGE, three, PIXELS)] == [{1: 1}, {1: 1, 2: 2}, {0: 1, 1: 1}]


def test_the_arrays_of_some_images() -> None:
    stacked = Classification.stack([IMAGE, IMAGE])
    assert stacked["probabilities"].dtype == np.float32
    assert np.array_equal(stacked["probabilities"], [IMAGE.probabilities] * 2)
    few = Detection.stack([OBJECTS.first(1), OBJECTS])
    assert few["num_detections"].tolist() == [1, 2]
    assert np.array_equal(few["boxes"], [[OBJECTS.boxes[0], [0] * 4], OBJECTS.boxes])
    assert np.array_equal(few["scores"], np.array([[0.9, 0], [0.9, 0.4]], np.float32))
    assert few["labels"].tolist() == [[2, 0], [2, 1]]
    assert [few[name].dtype for name in ("num_detections", "labels")] == [np.int32, np.int32]
    assert np.array_equal(SemanticSegmentation.stack([PIXELS, PIXELS])["mask"], [MASK, MASK])
    assert SemanticSegmentation.stack([PIXELS, SemanticSegmentation(MASK[:9])]) == {}


def test_by_what_two_predictions_are_compared() -> None:
    assert IMAGE.fingerprint() == pytest.approx([0.2, 0.5, 0.3])
    assert OBJECTS.fingerprint() == pytest.approx([0.9, 0.4])
    assert PIXELS.fingerprint()[[0, 1, 2, IGNORE]] == pytest.approx([0.775, 0.1, 0, 0.125])


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (IMAGE, "cell 0.50, wall 0.30, sky 0.20"),
        (OBJECTS, "1 cell, 1 wall"),
        (OBJECTS.above(0.95), "no objects"),
        (PIXELS, "sky 78%, cell 10%"),
    ],
)
def test_in_words(prediction: Prediction, words: str) -> None:
    assert prediction.describe(CLASSES) == words


def test_scores_below_count_only_where_there_are_scores_of_single_objects() -> None:
    assert OBJECTS.above(0.4).scores.tolist() == pytest.approx([0.9, 0.4])
    assert OBJECTS.above(0.41).labels.tolist() == [2]
    assert OBJECTS.above(0.41).boxes.tolist() == OBJECTS.boxes[:1].tolist()
    assert IMAGE.above(0.99) is IMAGE
    assert PIXELS.above(0.99) is PIXELS


def test_boxes_are_drawn_at_their_edges_on_a_copy() -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    drawn = NamedPrediction(OBJECTS, CLASSES).draw(image)
    assert not image.any()
    for y, x in ((70, 70), (45, 90)):  # lines are antialiased
        assert drawn[y, x] == pytest.approx(np.array(color_of(1)), rel=0.15)
    assert not drawn[60, 70].any()


def test_a_class_is_written_into_the_corner() -> None:
    drawn = IMAGE.draw(np.zeros((80, 100, 3), np.uint8), CLASSES)
    assert tuple(drawn[0, 0]) == color_of(1)
    assert not drawn[40:].any()


def test_regions_are_tinted_but_for_the_first_class_and_what_has_none() -> None:
    image = np.full((80, 100, 3), 200, np.uint8)
    drawn = PIXELS.draw(image, CLASSES)
    assert drawn[20, 40].tolist() == [int(0.55 * 200 + 0.45 * channel) for channel in color_of(1)]
    assert (drawn[MASK != 1] == 200).all()


def test_a_further_task_is_one_more_class(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {task: kind for task, kind in base._TYPES.entries().items() if task != Task.INSTANCE_SEGMENTATION}
    monkeypatch.setattr(base._TYPES, "_entries", others)
    with pytest.raises(NotSupported, match=r"InstanceSegmentation \(use one of Classification, Detection"):
        prediction_type(Task.INSTANCE_SEGMENTATION)

    @base.register(Task.INSTANCE_SEGMENTATION)
    @dataclass(frozen=True)
    class Number(Prediction):
        outputs = ("number",)
        value: int

        @classmethod
        def decode(
            cls, outputs: Mapping[str, NDArray[np.float32]], geometries: Sequence[Geometry], settings: object
        ) -> list[Self]:
            return [cls(int(value)) for value in outputs["number"]]

        @property
        def confidence(self) -> None:
            return None

        def counts(self) -> dict[int, int]:
            return {}

        def of(self, labels: Collection[int]) -> Self:
            return self

        @classmethod
        def from_dict(cls, content: Mapping[str, JsonValue], classes: Sequence[str], size: tuple[int, int]) -> Self:
            raise NotImplementedError

        def fingerprint(self) -> NDArray[np.float64]:
            return np.array([self.value], np.float64)

        def agreement(self, other: Self, index: NDArray[np.int64]) -> float:
            return float(self.value == other.value)

        def to_dict(self, classes: Sequence[str], *, masks: bool = False) -> dict[str, JsonValue]:
            return {"number": self.value}

        def describe(self, classes: Sequence[str]) -> str:
            return str(self.value)

        def draw(self, image: NDArray[np.uint8], classes: Sequence[str]) -> NDArray[np.uint8]:
            return image

    postprocess = Postprocess(Task.INSTANCE_SEGMENTATION)
    assert postprocess.outputs == ("number",)
    predictions = postprocess({"number": np.array([3, 4], np.float32)}, [Preprocess(8, 8).geometry(8, 8)] * 2)
    assert [prediction.describe(()) for prediction in predictions] == ["3", "4"]
    with pytest.raises(ValueError, match="registered twice"):
        base.register(Task.INSTANCE_SEGMENTATION)(Number)


def test_the_manifest_of_a_bundle_says_all_of_it() -> None:
    postprocess = Postprocess(Task.CLASSIFICATION, 0.1, 0.6, 20, 0.3, 7)
    assert Postprocess.from_manifest(Task.CLASSIFICATION, postprocess.to_manifest()) == postprocess
    assert postprocess.to_manifest().to_dict() == {
        "topK": 7, "scoreThreshold": 0.1, "confidenceThreshold": 0.3, "nmsIou": 0.6, "maxDetections": 20,
    }  # fmt: skip
    prediction = postprocess({"logits": np.zeros((1, 9), np.float32)}, [Preprocess(8, 8).geometry(8, 8)])[0]
    assert len(prediction.to_dict("abcdefghi")["classes"]) == 7  # type: ignore[arg-type]


def test_one_object_is_reported_as_one_class() -> None:
    """The second box of each pair lies on the object of the first: by 0.68 of both; the last ones share 0.5."""
    boxes = np.array([[0, 0, 100, 100], [0, 19, 100, 119], [0, 0, 60, 60], [0, 20, 60, 80]], np.float32)
    found = Detection(boxes, np.array([0, 1, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6], np.float32))
    assert found.above(0.5).labels.tolist() == [0, 0, 1]
    assert found.above(0.5, overlapping=True).labels.tolist() == [0, 1, 0, 1]
    assert found.above(0.65).boxes.tolist() == found.above(0.0).above(0.65).boxes.tolist()


class TestAgreement:
    INDEX = np.arange(3)

    def detection(self, *objects: tuple[int, float, float]) -> Detection:
        """Objects of a class, 10 wide and high, at a place."""
        boxes = np.array([(x, y, x + 10, y + 10) for _, x, y in objects], np.float32).reshape(-1, 4)
        return Detection(boxes, np.array([each[0] for each in objects], np.int64), np.ones(len(objects), np.float32))

    @pytest.mark.parametrize(
        ("one", "other", "expected"),
        [
            ((), (), 1.0),
            (((0, 0, 0),), (), 0.0),
            (((0, 0, 0),), ((0, 3, 0),), 1.0),  # IoU 70 / 130
            (((0, 0, 0),), ((0, 4, 0),), 0.0),  # IoU 60 / 140
            (((0, 0, 0),), ((1, 0, 0),), 0.0),
            (((0, 0, 0), (0, 50, 0)), ((0, 0, 0),), 2 / 3),
            (((0, 0, 0),), ((0, 0, 0), (0, 1, 0)), 2 / 3),
        ],
    )
    def test_of_detections_is_the_f1_score_of_matched_objects(
        self, one: tuple[Any, ...], other: tuple[Any, ...], expected: float
    ) -> None:
        first, second = self.detection(*one), self.detection(*other)
        assert first.agreement(second, self.INDEX) == pytest.approx(expected)
        assert second.agreement(first, self.INDEX) == pytest.approx(expected)

    def test_goes_by_the_names_of_classes_in_another_order(self) -> None:
        swapped = np.array([1, 0, -1])
        assert self.detection((0, 0, 0)).agreement(self.detection((1, 0, 0)), swapped) == 1
        assert self.detection((2, 0, 0)).agreement(self.detection((2, 0, 0)), swapped) == 0
        first, second = Classification(np.array([0.9, 0.1, 0.0])), Classification(np.array([0.2, 0.8, 0.0]))
        assert (first.agreement(second, swapped), first.agreement(second, self.INDEX)) == (1, 0)

    def test_of_segmentations_is_the_mean_intersection_over_union(self) -> None:
        one = SemanticSegmentation(np.array([[0, 0, 1, 1]], np.uint8))
        other = SemanticSegmentation(np.array([[0, 1, 1, 1]], np.uint8))
        assert one.agreement(other, self.INDEX) == pytest.approx((1 / 2 + 2 / 3) / 2)
        assert one.agreement(one, self.INDEX) == 1
        assert one.agreement(one, np.array([1, 0, 2])) == 0
        assert one.agreement(SemanticSegmentation(np.array([[255, 255, 1, 1]], np.uint8)), self.INDEX) == 1
