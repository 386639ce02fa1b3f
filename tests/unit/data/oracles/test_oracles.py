"""The same files, read by others and by us: Datumaro (a stored result), torchvision, and pycocotools' own code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dataset_support import read_source
from faster_coco_eval import COCO as ReferenceCOCO
from faster_coco_eval.core import mask
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_serving.pipeline.run_lengths import decode_runs
from fovea_store import StorePath
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.read import class_mask
from fovea_trainer.data.records import Region
from fovea_trainer.data.regions import draw
from oracle_sets import CLASSES, SETS, SIDE
from torchvision.datasets import ImageFolder, VOCDetection

HERE = Path(__file__).parent
DATUMARO = json.loads((HERE / "datumaro.json").read_text())
FORMATS = {
    "coco": Format.COCO,
    "voc": Format.PASCAL_VOC,
    "yolo": Format.YOLO,
    "darknet": Format.YOLO,
    "imagenet": Format.IMAGE_FOLDER,
    "cvat": Format.CVAT,
    "vott": Format.CSV,
    "one-hot": Format.CSV,
}


@pytest.mark.parametrize("name", SETS)
def test_datumaro_reads_the_same(name: str, tmp_path: Path) -> None:
    SETS[name](tmp_path)
    if name in ("imagenet", "one-hot"):
        ours = read_source(FORMATS[name], tmp_path, Task.CLASSIFICATION).labels
        names = {path: path.replace("/", ":") if name == "imagenet" else Path(path).name for path in ours}
        assert {names[path].rpartition(".")[0]: [[label]] for path, label in ours.items()} == DATUMARO[name]
        return
    found = read_source(FORMATS[name], tmp_path)
    assert found.findings == []
    ours = {Path(path).stem: sorted(map(list, boxes)) for path, boxes in found.boxes.items()}
    assert ours == {stem: [[box[0], *map(round, box[1:])] for box in boxes] for stem, boxes in DATUMARO[name].items()}


def test_torchvision_reads_the_same_boxes(tmp_path: Path) -> None:
    SETS["voc"](tmp_path / "VOCdevkit/VOC2012")
    ours = read_source(Format.PASCAL_VOC, tmp_path)
    names = ("xmin", "ymin", "xmax", "ymax")
    for split, hint in (("train", "train"), ("val", "validation")):
        theirs = VOCDetection(str(tmp_path), image_set=split)
        for _, content in theirs:
            annotation = content["annotation"]
            path = f"VOCdevkit/VOC2012/JPEGImages/{annotation['filename']}"
            boxes = [
                (one["name"], *(int(one["bndbox"][side]) for side in names)) for one in annotation.get("object", [])
            ]
            assert sorted(ours.boxes[path]) == sorted(boxes)
            assert ours.splits[path] == hint


def test_torchvision_reads_the_same_classes(tmp_path: Path) -> None:
    SETS["imagenet"](tmp_path)
    theirs = ImageFolder(str(tmp_path))
    ours = read_source(Format.IMAGE_FOLDER, tmp_path, Task.CLASSIFICATION)
    assert {
        str(Path(path).relative_to(tmp_path)): theirs.classes[index] for path, index in theirs.samples
    } == ours.labels


def test_pycocotools_draws_the_same_pixels(tmp_path: Path) -> None:
    SETS["coco"](tmp_path)
    classes = ("background", *CLASSES)
    ours = read_source(Format.COCO, tmp_path, Task.SEMANTIC_SEGMENTATION, classes=classes)
    theirs = ReferenceCOCO(str(tmp_path / "annotations/instances_train.json"))
    tree = Tree.of(StorePath.parse(str(tmp_path)))
    for image in theirs.loadImgs(theirs.getImgIds()):
        expected = np.zeros((SIDE, SIDE), np.uint8)
        for annotation in theirs.loadAnns(theirs.getAnnIds(imgIds=image["id"])):
            expected[theirs.annToMask(annotation) == 1] = annotation["category_id"]
        content = ours.images[f"images/train/{image['file_name']}"].content
        assert (class_mask(tree, content, classes, SIDE, SIDE) == expected).all()


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_are_drawn_as_pycocotools_draws_them(seed: int) -> None:
    pixels = np.asfortranarray(np.random.default_rng(seed).random((9, 14)) > 0.5, np.uint8)
    runs = decode_runs(mask.encode(pixels)["counts"].decode())
    drawn = draw([Region("x", runs=tuple(runs), size=(9, 14))], ["background", "x"], 14, 9)
    assert (drawn == pixels).all()
