"""LabelMe as labelme and X-AnyLabeling write it. Images have 100 x 100 pixels."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import SourceRead, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline.run_lengths import decode
from fovea_store import StorePath
from fovea_trainer.data.formats import Tree, label_me
from fovea_trainer.data.read import class_mask
from fovea_trainer.data.records import IGNORE

SQUARE = [[10, 20], [40, 20], [40, 60], [10, 60]]
CORNERS = (10, 20, 40, 60)
CLASSES = ("background", "cat", "dog")


def shape(kind: str | None = "polygon", points: object = SQUARE, label: object = "cat", **more: object) -> object:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def labels(*shapes: object, image: str = "a.jpg", **more: object) -> str:
    """A file as labelme writes it, with a line a shape."""
    size = {"imageHeight": 100, "imageWidth": 100}
    content = {"version": "5.5.0", "flags": {}, "shapes": [], "imagePath": image, "imageData": None, **size, **more}
    listed = ",\n".join(json.dumps(each) for each in shapes)
    return json.dumps(content).replace('"shapes": []', f'"shapes": [\n{listed}]')


def mask(pixels: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes()).decode()


def read(root: Path, files: Mapping[str, str | bytes], task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read_source(Format.LABEL_ME, write(root, files), task, **options)


def of_one(root: Path, *shapes: object, task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read(root, {"a.jpg": "", "a.json": labels(*shapes)}, task, **options)


# --- Shapes ---

RING = np.ones((20, 30), bool)
RING[5:15, 5:25] = False
BOXES: dict[str, tuple[object, tuple[int, int, int, int]]] = {
    "a polygon": (shape(), CORNERS),
    "no kind, as before version 3": (shape(None), CORNERS),
    "a rectangle": (shape("rectangle", [[10, 20], [40, 60]]), CORNERS),
    "a rectangle from its lower right": (shape("rectangle", [[40, 60], [10, 20]]), CORNERS),
    "a rectangle of four points": (shape("rectangle", SQUARE), CORNERS),
    "a turned rectangle": (shape("rotation", [[50, 20], [80, 50], [50, 80], [20, 50]]), (20, 20, 80, 80)),
    "a circle: its centre, and a point on it": (shape("circle", [[50, 40], [53, 44]]), (45, 35, 55, 45)),
    "a line of several parts": (shape("linestrip", [[10, 20], [40, 30], [20, 60]]), CORNERS),
    "a mask: around what it covers": (shape("mask", [[10, 20], [47, 47]], mask=mask(np.pad(RING, 4))),
                                      (14, 24, 44, 44)),
}  # fmt: skip


@pytest.mark.parametrize("case", BOXES)
def test_a_box_lies_around_its_shape(case: str, tmp_path: Path) -> None:
    given, corners = BOXES[case]
    found = of_one(tmp_path, given)
    assert (found.boxes, found.findings) == ({"a.jpg": [("cat", *corners)]}, [])


@pytest.mark.parametrize("points", [shape("point", [[50, 50]]), shape("points", SQUARE)], ids=["one", "several"])
def test_points_are_no_object_and_are_told(points: object, tmp_path: Path) -> None:
    found = of_one(tmp_path, points, shape())
    assert (found.boxes, found.findings) == ({"a.jpg": [("cat", *CORNERS)]}, [("DegenerateBox", "a.json:2")])


def objects(found: SourceRead) -> list[tuple[str, list[int], bool, int]]:
    """Class, box, whether it is left out of training, and number of pixels of each object."""
    content = found.images["a.jpg"].content
    return [
        (box[0], [int(edge) for edge in box[1:5]], box[5], int(decode(each.encode(), 100, 100).sum()))
        for box, each in zip(content.boxes, content.masks, strict=True)
    ]


def test_objects_have_the_pixels_of_their_shapes(tmp_path: Path) -> None:
    """A group of one class is an object, also of polygons and masks; a circle has its area; a mask that leaves the
    image is cut; an object that is difficult is left out of training, as is a rectangle, which has no outline."""
    found = of_one(
        tmp_path,
        shape(group_id=1), shape(points=[[60, 20], [70, 20], [70, 30], [60, 30]], group_id=1),
        shape("mask", [[60, 70], [89, 89]], mask=mask(RING), group_id=1), shape(label="dog", group_id=1),
        shape("circle", [[50, 50], [74, 57]], "sun"),
        shape("mask", [[85, 90], [114, 109]], "end", mask=mask(RING)),
        shape("rectangle", [[10, 20], [20, 30]], "frame", group_id=1),
        shape("rectangle", [[20, 30], [40, 60]], "frame", group_id=1), shape(label="hard", flags={"difficult": True}),
        task=Task.INSTANCE_SEGMENTATION,
    )  # fmt: skip
    seen = {name: (box, out, count) for name, box, out, count in objects(found)}
    assert seen["cat"] == ([10, 20, 90, 90], False, 1200 + 100 + RING.sum())
    assert seen["dog"] == ([10, 20, 40, 60], False, 1200)
    assert seen["sun"][:2] == ([25, 25, 75, 75], False)
    assert seen["sun"][2] == pytest.approx(math.pi * 25**2, rel=0.01)
    assert seen["end"] == ([85, 90, 100, 100], False, RING[:10, :15].sum())
    assert seen["frame"] == ([10, 20, 40, 60], True, 1200)
    assert seen["hard"] == ([10, 20, 40, 60], True, 1200)
    assert found.findings == [("IgnoredRegion", "a.json:8")]


def test_the_box_of_an_object_lies_around_all_its_outlines(tmp_path: Path) -> None:
    """labelme makes a group of polygons of a mask in several parts. Rectangles are an object each."""
    apart = shape(points=[[60, 20], [70, 20], [70, 30], [60, 30]], group_id=1)
    frames = [shape("rectangle", corners, "frame", group_id=1) for corners in ([[1, 1], [9, 9]], [[20, 1], [30, 9]])]
    found = of_one(tmp_path, shape(group_id=1), shape(label="dog", group_id=1), apart, shape(group_id=2), *frames)
    assert sorted(found.boxes["a.jpg"]) == [
        *[("cat", 10, 20, 40, 60), ("cat", 10, 20, 70, 60), ("dog", 10, 20, 40, 60)],
        *[("frame", 1, 1, 9, 9), ("frame", 20, 1, 30, 9)],
    ]


def test_pixels_have_the_class_of_the_last_shape_over_them(tmp_path: Path) -> None:
    """Those around a shape that does not say which are its own, or that leaves the image, are ignored, and so are
    those of a class that is dropped."""
    found = of_one(
        tmp_path, shape(), shape("mask", [[30, 50], [59, 69]], "dog", mask=mask(RING)),
        shape("rectangle", [[70, 0], [80, 10]]), shape(points=[[0, 80], [500, 80], [500, 90], [0, 90]]),
        shape(label="__ignore__", points=[[90, 90], [99, 90], [99, 99]]),
        task=Task.SEMANTIC_SEGMENTATION, classes=CLASSES, class_map={"__ignore__": ""},
    )  # fmt: skip
    expected = np.zeros((100, 100), np.uint8)
    expected[20:60, 10:40] = 1
    expected[50:70, 30:60][RING] = 2
    expected[0:10, 70:80] = expected[80:90] = IGNORE
    drawn = class_mask(Tree.of(StorePath.parse(str(tmp_path))), found.images["a.jpg"].content, CLASSES, 100, 100)
    assert (drawn[:90] == expected[:90]).all()
    assert (drawn[95, 97], drawn[95, 91]) == (IGNORE, 0)
    assert found.findings == [("IgnoredRegion", "a.json:4"), ("IgnoredRegion", "a.json:5")]


def test_rectangles_alone_are_refused_where_pixels_are_learned(tmp_path: Path) -> None:
    for task in (Task.INSTANCE_SEGMENTATION, Task.SEMANTIC_SEGMENTATION):
        with pytest.raises(InvalidInput, match=r"a\.json:2: no object has an outline.*rectangle.*task: Detection"):
            of_one(tmp_path, shape("rectangle", [[10, 20], [40, 60]]), task=task)


def test_pixels_of_no_class_are_told(tmp_path: Path) -> None:
    found = of_one(tmp_path, shape(), task=Task.SEMANTIC_SEGMENTATION)
    assert found.findings == [("UnnamedRest", "a.json")]
    assert of_one(tmp_path, shape(label="background"), task=Task.SEMANTIC_SEGMENTATION).findings == []


WRONG: dict[str, object] = {
    "no object": 7,
    "no label": shape(label=None),
    "a blank label": shape(label=" "),
    "a kind that nobody knows": shape("cuboid"),
    "too few points": shape(points=SQUARE[:2]),
    "a point of three numbers": shape(points=[[1, 2, 3], *SQUARE]),
    "a point that is no number": shape(points=[[1, True], *SQUARE]),
    "a point at infinity": shape(points=[[1, 1e300], *SQUARE]),
    "a mask that is no picture": shape("mask", [[1, 1], [5, 5]], mask="iVBO"),
    "a mask that its box does not fit": shape("mask", [[1, 1], [5, 5]], mask=mask(RING)),
    "a mask that is no text": shape("mask", [[1, 1], [5, 5]], mask=None),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_shape_is_named_with_its_line_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    found = of_one(tmp_path, shape(label="dog"), WRONG[case])
    assert (found.boxes, found.findings) == ({"a.jpg": [("dog", *CORNERS)]}, [("InvalidLabel", "a.json:3")])
    ground = of_one(tmp_path, shape(label="background"), WRONG[case], task=Task.SEMANTIC_SEGMENTATION)
    assert ground.images["a.jpg"].digest == "", "which pixels it has, nobody knows"


def test_masks_beyond_all_measure_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = shape("mask", [[10, 20], [39, 39]], mask=mask(RING))
    monkeypatch.setattr(label_me, "MAX_PIXELS", 2 * RING.size)
    assert of_one(tmp_path, given, given).findings == [("DuplicateBox", "a.json:3")]
    assert of_one(tmp_path, given, given, given).findings == [("InvalidLabel", "a.json:4")]


# --- Which file is of which image ---

PAIRS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "beside": ({"a.jpg": "", "a.json": labels(shape())}, {"a.jpg": "cat"}),
    "in another folder": ({"images/a.jpg": "", "labels/a.json": labels(shape(), image="..\\images\\a.jpg")},
                          {"images/a.jpg": "cat"}),
    "of another name": ({"a.jpg": "", "b.jpg": "", "1.json": labels(shape(), image="b.jpg"),
                         "2.json": labels(shape(label="dog"), image="C:\\x\\a.jpg")},
                        {"a.jpg": "dog", "b.jpg": "cat"}),
    "two suffixes": ({"a.jpg": "", "a.png": "", "a.json": labels(shape(), image="a.png")}, {"a.png": "cat"}),
    "copied with its JSON": ({"a.jpg": "", "a.json": labels(shape()), "b.jpg": "",
                              "b.json": labels(shape(label="dog"))}, {"a.jpg": "cat", "b.jpg": "dog"}),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(case: str, tmp_path: Path) -> None:
    files, expected = PAIRS[case]
    found = read(tmp_path, files)
    assert {name: boxes[0][0] for name, boxes in found.boxes.items()} == expected
    assert {kind for kind, _ in found.findings} <= {"Unlabelled"}


def test_an_image_without_a_file_is_unlabelled_and_one_without_shapes_shows_nothing(tmp_path: Path) -> None:
    found = read(tmp_path, {"train/a.jpg": "", "train/a.json": labels(), "val/b.jpg": ""})
    assert found.boxes == {"train/a.jpg": []}
    assert found.splits == {"train/a.jpg": "train"}
    assert found.findings == [("Unlabelled", "val/b.jpg")]


def test_an_image_that_is_in_its_file_alone_is_told(tmp_path: Path) -> None:
    files = {"b.jpg": "", "b.json": labels(), "a.json": labels(shape(), imageData="aGk="), "c.json": '{"images": []}'}
    found = read(tmp_path, files)
    assert found.findings == [("MissingImage", "a.json"), ("UnreadableFile", "c.json:1")]
    assert 'its image "a.jpg" is in `imageData` alone' in str(found.source_findings[0])
    with pytest.raises(InvalidInput, match=r"there are no images.*`imageData` is not read"):
        read(tmp_path / "alone", {"a.json": labels(shape(), imageData="aGk=")})


BROKEN = {"": "a.json:1", '{"shapes": [': "a.json:1", '{"shapes": [{"label": "cat"\n,}]}': "a.json:2"}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_named_with_its_line(text: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "a.json": text, "b.jpg": "", "b.json": labels(shape())})
    assert (list(found.boxes), found.findings) == (["b.jpg"], [("InvalidLabel", BROKEN[text])])


def test_encodings(tmp_path: Path) -> None:
    written = labels(shape(label="Größe")).encode().decode("unicode-escape")
    files = {"a.jpg": "", "a.json": written.encode("windows-1252"), "b.jpg": "", "b.json": written.encode("utf-8-sig")}
    found = read(tmp_path, files)
    assert {boxes[0][0] for boxes in found.boxes.values()} == {"Größe"}


# --- Classes of images ---


def test_the_flag_that_is_set_is_the_class(tmp_path: Path) -> None:
    """Flags that say something else are dropped by classMap; a file without flags has the class of its shapes."""
    flags = {
        "one": {"cat": True, "dog": False},
        "two": {"cat": True, "dog": True},
        "none": {"cat": False, "dog": "no"},
        "blurred": {"dog": True, "blurred": True},
        "shapes": {},
    }
    files = {f"{name}.jpg": "" for name in flags}
    shapes = {"shapes": [shape()], "one": [shape(label="dog")]}
    files |= {f"{name}.json": labels(*shapes.get(name, ()), flags=flags[name]) for name in flags}
    found = read(tmp_path, files, Task.CLASSIFICATION, class_map={"blurred": ""})
    assert found.labels == {"one.jpg": "cat", "blurred.jpg": "dog", "shapes.jpg": "cat"}
    assert found.findings == [("InvalidLabel", "two.json:1"), ("Unlabelled", "none.json:1")]
