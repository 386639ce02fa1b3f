"""The same real boxes, written in other formats by the test, are read back equal."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_support import BCCD, MEMBRANE, Build, detection, read_all
from fovea_api.common import Task
from fovea_api.dataset import Format, Source
from fovea_serving.pipeline.run_lengths import decode_runs
from fovea_store import StorePath
from fovea_trainer.data.formats import Options, Tree, open_reader
from fovea_trainer.data.read import OpenSource, check, class_mask, plain_png
from fovea_trainer.data.records import SourceImage
from fovea_trainer.data.sources import open_source


def boxes_of(root: Path, format: Format) -> dict[str, list[tuple[str, float, float, float, float]]]:
    """Checked boxes by the stem of the image."""
    options = Options(Task.DETECTION)
    tree = Tree.of(StorePath.parse(str(root)))
    source = OpenSource("s", tree, open_reader(format, tree, options), options)
    found = [check(source, item) for item in source.reader.scan() if isinstance(item, SourceImage)]
    assert all(item.digest for item in found)
    return {
        Path(item.name).stem: [(b[0], *(round(v, 2) for v in b[1:5])) for b in item.content.boxes] for item in found
    }  # type: ignore[misc]


def test_pascal_voc_reads_all_of_bccd() -> None:
    read = read_all(Format.PASCAL_VOC, BCCD)
    assert len(read) == 364
    assert sum(len(labels.boxes) for _, labels in read) == 4888
    assert {found.split for found, _ in read} == {"train", "validation", "test"}
    assert {box.name for _, labels in read for box in labels.boxes} == {"RBC", "WBC", "Platelets"}


def test_coco_equals_pascal_voc(voc: Path, tmp_path: Path) -> None:
    wanted = boxes_of(voc, Format.PASCAL_VOC)
    names = ["RBC", "WBC", "Platelets"]
    coco: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": 10 + index, "name": name} for index, name in enumerate(names)]
    for number, (stem, boxes) in enumerate(wanted.items()):
        coco["images"].append({"id": number, "file_name": f"{stem}.jpg", "width": 640, "height": 480})
        for name, x1, y1, x2, y2 in boxes:
            annotation = {
                "id": len(coco["annotations"]),
                "image_id": number,
                "category_id": 10 + names.index(name),
            }
            coco["annotations"].append(annotation | {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})
    shutil.copytree(voc / "JPEGImages", tmp_path / "coco/images")
    (tmp_path / "coco/train.json").write_text(json.dumps({"info": {"a": [1, {"b": None}]}} | coco, indent=2))
    assert boxes_of(tmp_path / "coco", Format.COCO) == wanted
    assert read_all(Format.COCO, tmp_path / "coco")[0][0].split == "train"


def test_yolo_equals_pascal_voc(voc: Path, tmp_path: Path) -> None:
    wanted = boxes_of(voc, Format.PASCAL_VOC)
    names = ["RBC", "WBC", "Platelets"]
    root = tmp_path / "yolo"
    shutil.copytree(voc / "JPEGImages", root / "images/val")
    (root / "labels/val").mkdir(parents=True)
    (root / "data.yaml").write_text("names: {0: RBC, 1: WBC, 2: Platelets}\n")
    for stem, boxes in wanted.items():
        lines = [
            f"{names.index(name)} {(x1 + x2) / 1280:.9f} {(y1 + y2) / 960:.9f} "
            f"{(x2 - x1) / 640:.9f} {(y2 - y1) / 480:.9f}"
            for name, x1, y1, x2, y2 in boxes
        ]
        (root / f"labels/val/{stem}.txt").write_text("\n".join(lines))
    assert boxes_of(root, Format.YOLO) == wanted
    assert {found.split for found, _ in read_all(Format.YOLO, root)} == {"validation"}


@pytest.mark.parametrize("prefix", ["", "train/", "top/", "top/train/"])
def test_image_folder(tmp_path: Path, prefix: str) -> None:
    for name in ("cat", "dog"):
        (tmp_path / prefix / name).mkdir(parents=True)
        shutil.copy(BCCD / "JPEGImages/BloodImage_00001.jpg", tmp_path / prefix / name / "a.jpg")
    read = read_all(Format.IMAGE_FOLDER, tmp_path, Task.CLASSIFICATION)
    assert [labels.name for _, labels in read] == ["cat", "dog"]
    assert {found.split for found, _ in read} == ({"train"} if prefix.endswith("train/") else {None})


def test_masks_have_the_values_of_their_classes() -> None:
    options = Options(Task.SEMANTIC_SEGMENTATION, ("cell", "membrane"), {}, {"cell": 255, "membrane": 0})
    tree = Tree.of(StorePath.parse(str(MEMBRANE)))
    source = OpenSource("s", tree, open_reader(Format.MASKS, tree, options), options)
    items = [check(source, found) for found in source.reader.scan()]
    assert len(items) == 30
    for item in items[:5]:
        raw = cv2.imread(str(MEMBRANE / "labels" / Path(item.name).name), cv2.IMREAD_UNCHANGED)
        mask = class_mask(tree, item.content, options.classes, 512, 512)
        assert (mask == (raw == 0)).all()
        assert dict(item.content.pixels) == {0: int((raw == 255).sum()), 1: int((raw == 0).sum())}


def test_idx_packed_and_plain(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">3I", 5, 6, 4) + pixels.tobytes())
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(
        bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + bytes([0, 1, 2, 1, 0])
    )
    source = Source.model_validate({"name": "s", "uri": f"file://{tmp_path}", "format": "IDX"})
    tree = open_source(source, tmp_path / "work")
    options = Options(Task.CLASSIFICATION, ("a", "b", "c"))
    reader = open_reader(Format.IDX, tree, options)
    found = list(reader.scan())
    assert [item.labels and item.labels.name for item in found] == ["a", "b", "c", "b", "a"]
    assert {item.split for item in found} == {"test"}
    checked = check(OpenSource("s", tree, reader, options), found[3])
    assert (checked.width, checked.height, checked.content.label) == (4, 6, "b")


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (300, 500), (7, 5, 3), (200, 300, 3)])
def test_plain_png_is_read_by_others(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    read = cv2.imdecode(np.frombuffer(plain_png(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert (read == (pixels if len(shape) == 2 else pixels[..., ::-1])).all()


def test_coco_run_lengths_agree_with_the_reference() -> None:
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    for seed in range(20):
        pixels = np.asfortranarray(np.random.default_rng(seed).random((37, 53)) > 0.5 + seed / 50, np.uint8)
        text = mask.encode(pixels)["counts"].decode()
        runs = decode_runs(text)
        flags = np.repeat(np.arange(len(runs)) % 2, runs).reshape(53, 37).T
        assert (flags == pixels).all()


CLASSES = ["RBC", "WBC", "Platelets"]
Boxes = dict[str, list[tuple[str, float, float, float, float]]]


def label_me(boxes: Boxes, root: Path) -> None:
    for stem, listed in boxes.items():
        shapes = [
            {"label": name, "points": [[x2, y2], [x1, y1]], "group_id": None, "shape_type": "rectangle", "flags": {}}
            for name, x1, y1, x2, y2 in listed
        ]
        size = {"imageHeight": 480, "imageWidth": 640}
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.jpg", "imageData": None}
        (root / f"{stem}.json").write_text(json.dumps(content | size))


def create_ml(boxes: Boxes, root: Path) -> None:
    content = [
        {
            "image": f"{stem}.jpg",
            "annotations": [
                {
                    "label": name,
                    "coordinates": {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1},
                }
                for name, x1, y1, x2, y2 in listed
            ],
        }
        for stem, listed in boxes.items()
    ]
    (root / "_annotations.createml.json").write_text(json.dumps(content))


def tensorflow(boxes: Boxes, root: Path) -> None:
    rows = [
        f"{stem}.jpg,640,480,{name},{x1},{y1},{x2},{y2}" for stem, of in boxes.items() for name, x1, y1, x2, y2 in of
    ]
    (root / "_annotations.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n" + "\n".join(rows))


def vertex(boxes: Boxes, root: Path) -> None:
    rows = [
        f"TRAIN,gs://lab/{stem}.jpg,{name},{x1 / 640:.9f},{y1 / 480:.9f},,,{x2 / 640:.9f},{y2 / 480:.9f},,"
        for stem, of in boxes.items()
        for name, x1, y1, x2, y2 in of
    ]
    (root / "import.csv").write_text("\n".join(rows))


WRITTEN = {
    "LabelMe": (Format.LABEL_ME, label_me),
    "CreateML": (Format.CREATE_ML, create_ml),
    "CSV of TensorFlow": (Format.CSV, tensorflow),
    "CSV of Vertex AI": (Format.CSV, vertex),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_formats_of_labelling_tools_equal_pascal_voc(case: str, voc: Path, tmp_path: Path, build: Build) -> None:
    """Also through a whole build: the version has the same images in the same splits, with the same labels."""
    wanted = boxes_of(voc, Format.PASCAL_VOC)
    format, write = WRITTEN[case]
    root = tmp_path / "images"
    shutil.copytree(voc / "JPEGImages", root)
    write(wanted, root)
    assert boxes_of(root, format) == wanted
    theirs, ours = (build(detection(folder, kind)).summary for folder, kind in ((voc, "PascalVOC"), (root, format)))
    assert ours.annotations == sum(map(len, wanted.values()))
    assert (ours.splits, ours.classes, ours.findings) == (theirs.splits, theirs.classes, theirs.findings)
