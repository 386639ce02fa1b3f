"""Objects with their pixels, from label files to a version. Images of the formats' tests have 100 x 100 pixels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import Build, SourceRead, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline.run_lengths import decode
from fovea_store import StorePath
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.guess import guess_task
from fovea_trainer.data.version import open_version

SQUARE = [10, 20, 40, 20, 40, 60, 10, 60]
RUNS = {"size": [100, 100], "counts": [1010, 40, 60, 40, 8850]}
"""Rows 10 to 49 of the columns 10 and 11."""
FILE = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def coco(root: Path, *objects: dict[str, object]) -> SourceRead:
    annotations = [{"image_id": 1, "category_id": 1, **each} for each in objects]
    text = json.dumps({**FILE, "annotations": annotations}).replace("}, {", "},\n{")
    return read_source(Format.COCO, write(root, {"a.jpg": "", "x.json": text}), Task.INSTANCE_SEGMENTATION)


def shapes(read: SourceRead, name: str = "a.jpg") -> list[tuple[str, list[int], bool, int]]:
    """Class, box, whether it is left out of training, and number of pixels of each object."""
    content = read.images[name].content
    return [
        (box[0], [int(edge) for edge in box[1:5]], box[5], int(decode(mask.encode(), 100, 100).sum()))
        for box, mask in zip(content.boxes, content.masks, strict=True)
    ]


def test_coco(tmp_path: Path) -> None:
    """Polygons of several parts, run lengths, a crowd; the box is the pixels' own."""
    two = [[0, 0, 10, 0, 10, 10, 0, 10], [50, 50, 60, 50, 60, 70, 50, 70]]
    read = coco(
        tmp_path, {"segmentation": [SQUARE], "bbox": [9, 19, 33, 43]}, {"segmentation": two, "category_id": 2},
        {"segmentation": RUNS, "iscrowd": 1},
    )  # fmt: skip
    assert shapes(read) == [
        ("cat", [10, 10, 12, 50], True, 80), ("cat", [10, 20, 40, 60], False, 1200),
        ("dog", [0, 0, 60, 70], False, 300),
    ]  # fmt: skip
    assert read.findings == []


def test_an_object_whose_outline_cannot_be_read_is_not_learned_from(tmp_path: Path) -> None:
    broken = {"segmentation": {"size": [100, 100], "counts": [1, 2]}}
    read = coco(tmp_path, {"segmentation": [SQUARE]}, {**broken, "bbox": [50, 50, 20, 10]}, broken)
    assert shapes(read) == [("cat", [10, 20, 40, 60], False, 1200), ("cat", [50, 50, 70, 60], True, 200)]
    assert [kind for kind, _ in read.findings] == ["IgnoredRegion", "InvalidLabel"]


def test_boxes_alone_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"x\.json:\d+: no object has an outline.*task: Detection"):
        coco(tmp_path / "coco", {"bbox": [1, 2, 30, 40], "segmentation": []})
    files: dict[str, str | bytes] = {"images/a.jpg": "", "labels/a.txt": "0 0.5 0.5 0.2 0.4"}
    with pytest.raises(InvalidInput, match=r"a\.txt: no object has an outline: the lines are boxes"):
        read_source(Format.YOLO, write(tmp_path / "yolo", files), Task.INSTANCE_SEGMENTATION, classes=("cat",))
    files = {"JPEGImages/a.jpg": "", "Annotations/a.xml": xml((10, 20, 40, 60))}
    with pytest.raises(InvalidInput, match=r"there is no SegmentationObject"):
        read_source(Format.PASCAL_VOC, write(tmp_path / "voc", files), Task.INSTANCE_SEGMENTATION)


def test_yolo(tmp_path: Path) -> None:
    lines = "0 0.1 0.2 0.4 0.2 0.4 0.6 0.1 0.6 0.1 0.4\n1 0.7 0.7 0.9 0.7 0.8 0.9\n1 0.5 0.9 0.1 0.1"
    files: dict[str, str | bytes] = {"images/a.jpg": "", "labels/a.txt": lines, "data.yaml": "names: [cat, dog]"}
    read = read_source(Format.YOLO, write(tmp_path, files), Task.INSTANCE_SEGMENTATION)
    first, second, third = shapes(read, "images/a.jpg")
    assert first == ("cat", [10, 20, 40, 60], False, 1200)
    assert second == ("dog", [45, 85, 55, 95], True, 100), "a box among polygons"
    assert third[:3] == ("dog", [70, 70, 90, 89], False), "a corner has no pixel, as pycocotools draws it"
    assert third[3] == pytest.approx(200, abs=20)
    assert read.findings == [("IgnoredRegion", "labels/a.txt:3")]


def xml(*boxes: tuple[int, int, int, int]) -> str:
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "\n".join(
        "<object><name>cat</name><bndbox>"
        + "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation>\n{objects}\n</annotation>"


def numbered(*boxes: tuple[int, int, int, int]) -> bytes:
    """A picture of objects by their numbers, with a border of 255 around each."""
    picture = np.zeros((100, 100), np.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes, 1):
        picture[top:bottom, left:right] = 255
        picture[top + 1 : bottom - 1, left + 1 : right - 1] = number
    return cv2.imencode(".png", picture)[1].tobytes()


def test_pascal_voc(tmp_path: Path) -> None:
    """The values of SegmentationObject count the objects of the XML file; 255 is of none. The lists of the segmented
    images say the splits. An image of boxes alone is left out."""
    here, there = (10, 20, 40, 60), (50, 50, 90, 80)
    files: dict[str, str | bytes] = {
        "JPEGImages/a.jpg": "", "Annotations/a.xml": xml(here, there, (2, 2, 8, 8)),
        "SegmentationObject/a.png": numbered(here, there),
        "JPEGImages/b.jpg": "", "Annotations/b.xml": xml(here, there),
        "SegmentationObject/b.png": numbered(there, here),
        "JPEGImages/c.jpg": "", "Annotations/c.xml": xml(here),
        "ImageSets/Segmentation/train.txt": "a\n", "ImageSets/Segmentation/val.txt": "b\n",
        "ImageSets/Main/train.txt": "a\nb\nc\n",
    }  # fmt: skip
    read = read_source(Format.PASCAL_VOC, write(tmp_path, files), Task.INSTANCE_SEGMENTATION)
    assert shapes(read, "JPEGImages/a.jpg") == [
        ("cat", [2, 2, 8, 8], True, 36), ("cat", [11, 21, 39, 59], False, 28 * 38),
        ("cat", [51, 51, 89, 79], False, 38 * 28),
    ]  # fmt: skip
    assert all(left_out for _, _, left_out, _ in shapes(read, "JPEGImages/b.jpg")), "numbers of other boxes"
    assert read.splits == {"JPEGImages/a.jpg": "train", "JPEGImages/b.jpg": "validation"}
    assert read.findings == [
        ("IgnoredRegion", "Annotations/a.xml:4"), ("IgnoredRegion", "Annotations/b.xml:2"),
        ("IgnoredRegion", "Annotations/b.xml:3"), ("Unlabelled", "Annotations/c.xml"),
    ]  # fmt: skip


def test_what_labels_are_for_is_seen_by_their_outlines(tmp_path: Path) -> None:
    def guessed(name: str, segmentation: object) -> Task:
        annotations = [{"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "segmentation": segmentation}]
        root = write(tmp_path / name, {"a.jpg": "", "x.json": json.dumps({**FILE, "annotations": annotations})})
        return guess_task(Format.COCO, Tree.of(StorePath.parse(str(root))))

    assert guessed("outlines", [SQUARE]) is Task.INSTANCE_SEGMENTATION
    assert guessed("boxes", []) is Task.DETECTION
    assert guess_task(Format.MASKS, Tree.of(StorePath.parse(str(tmp_path)))) is Task.SEMANTIC_SEGMENTATION


def test_a_version_keeps_the_pixels_of_each_object(tmp_path: Path, build: Build) -> None:
    """Also in the COCO files for other tools, which are read as they were written."""
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(1, 13):
        pixels = random.integers(0, 256, (60, 80, 3), np.uint8)
        file = tmp_path / "source" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        images.append({"id": number, "file_name": file.name, "width": 80, "height": 60})
        annotations += [
            {"image_id": number, "category_id": 1, "segmentation": [[5, 5, 45, 5, 45, 25, 5, 25]]},
            {"image_id": number, "category_id": 2, "segmentation": [[20, 10, 60, 10, 20, 50]]},
        ]
    content = {**FILE, "images": images, "annotations": annotations}
    (tmp_path / "source" / "labels.json").write_text(json.dumps(content))
    spec = {
        "task": "InstanceSegmentation",
        "sources": [{"name": "lab", "uri": f"file://{tmp_path}/source", "format": "COCO"}],
        "splits": {"ratios": {"train": 0.5, "validation": 0.25, "test": 0.25}},
    }
    made = build(spec)
    version = open_version(made.artifact, tmp_path / "cache")
    assert version.manifest.task is Task.INSTANCE_SEGMENTATION
    sample = version.split("train")[0]
    first, second = (decode(counts, 80, 60) for counts in sample.masks)
    assert (sample.labels.tolist(), first[5:25, 5:45].all(), int(first.sum())) == ([0, 1], True, 800)
    assert sample.boxes[1].tolist() == [20, 10, 59, 49]
    assert int(second.sum()) == pytest.approx(800, abs=40)
    exported = json.loads((StorePath.parse(made.artifact) / "coco/train.json").read_text())
    one = exported["annotations"][0]
    assert (one["area"], one["iscrowd"], one["segmentation"]["counts"]) == (800, 0, sample.masks[0].decode())
