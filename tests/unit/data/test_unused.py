"""Files that nobody reads are reported, in one finding; what can be read is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_support import detection, draw, write
from fovea_api.dataset import Recipe
from fovea_trainer.data.build import CheckResult, check_dataset

BOX = "0 0.5 0.5 0.2 0.4\n"
XML = (
    "<annotation><object><name>cat</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>50</xmax><ymax>60</ymax></bndbox>"
    "</object></annotation>"
)


def check(tmp_path: Path, files: dict[str, str | bytes], format: str = "YOLO", **fields: object) -> CheckResult:
    root = write(tmp_path / "source", files)
    return check_dataset(Recipe.model_validate(detection(root, format, **fields)), work_dir=tmp_path / "work")


def unused(result: CheckResult) -> list[tuple[str, str]]:
    """Severity and words of the findings about files that were not used."""
    return [
        (str(tally.severity), one.message)
        for tally in result.findings
        for one in tally.examples
        if tally.kind in ("UnusedFiles", "OtherFiles")
    ]


def yolo(count: int = 12) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {"data.yaml": "names: [cat]\n"}
    for number in range(count):
        files |= {f"images/{number}.jpg": "", f"labels/{number}.txt": BOX}
    return files


MORE: dict[str, tuple[str, dict[str, str | bytes], str]] = {
    "labels of no image": ("Warning", {"labels/gone.txt": BOX}, "label files of no image: 1 (labels/gone.txt)"),
    "a second folder of labels": ("Serious", {f"labels_v2/{number}.txt": BOX for number in range(12)},
                                  "label files of no image: 12 "
                                  "(labels_v2/0.txt, labels_v2/1.txt, labels_v2/10.txt, …)"),
    "XML beside": ("Warning", {"a.xml": XML}, "label files of no image: 1 (a.xml)"),
    "LabelMe beside": ("Warning", {"a.json": '{"version": "5.0", "shapes": []}'},
                       "label files of no image: 1 (a.json)"),
    "an archive": ("Warning", {"more.zip": b"PK"}, "archives: 1 (more.zip)"),
    "a video": ("Warning", {"more.mp4": b"x"}, "videos: 1 (more.mp4)"),
    "names that are no text": ("Note", {"\udcdcbersicht.txt": "", "\udcdcbersicht": "", r"a\b": ""},
                               "other files: 3 (a\\b, \ufffdbersicht, \ufffdbersicht.txt)"),
    "a table": ("Note", {"notes.csv": "a,b\n"}, "other files: 1 (notes.csv)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MORE)
def test_yolo(case: str, tmp_path: Path) -> None:
    severity, files, words = MORE[case]
    ((found, message),) = unused(check(tmp_path, yolo() | files))
    assert (found, message.partition("not used: ")[2]) == (severity, words)


def test_what_lies_beside_data_sets_is_not_reported(tmp_path: Path) -> None:
    names = ("README.dataset.txt", "README.roboflow.txt", "LICENSE", "images/Thumbs.db", "desktop.ini", "labels.cache")
    hidden = ("labels/.DS_Store", "__MACOSX/images/._0.jpg", "train.ipynb")
    beside: dict[str, str | bytes] = dict.fromkeys((*names, *hidden), "x")
    assert unused(check(tmp_path, yolo() | beside)) == []


def test_voc_and_coco(tmp_path: Path) -> None:
    voc: dict[str, str | bytes] = {}
    for number in range(3):
        voc |= {f"JPEGImages/{number}.jpg": "", f"Annotations/{number}.xml": XML}
    (tmp_path / "coco").mkdir()
    assert unused(check(tmp_path, {**voc, "labels.txt": "cat\n", "labels/0.txt": BOX}, "PascalVOC")) == [
        ("Serious", "2 files not used: label files of no image: 1 (labels/0.txt), other files: 1 (labels.txt)")
    ]
    coco = '{"images": [{"id": 1, "file_name": "0.jpg"}], "categories": [{"id": 1, "name": "cat"}], "annotations": '
    coco += '[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30]}]}'
    files: dict[str, str | bytes] = {
        "a.json": coco,
        "images/0.jpg": "",
        "images/1.jpg": "",
        "images/2": b"\xff\xd8\xff",
    }
    assert unused(check(tmp_path / "coco", files, "COCO")) == [
        (
            "Serious",
            "2 files not used: images that no label file lists: 1 (images/1.jpg), images by another name: 1 (images/2)",
        )
    ]


def test_images_of_every_name_are_read(tmp_path: Path) -> None:
    root = tmp_path / "source"
    names = ["a.jfif", "b.jpe", "c.JPG", "d", "e.0001", "f.TIFF"]
    for number, name in enumerate(names):
        drawn = draw(tmp_path / f"{number}{'.tif' if name.endswith('TIFF') else '.jpg'}", seed=number)
        (root / "images").mkdir(parents=True, exist_ok=True)
        shutil.move(drawn, root / "images" / name)
    files = {f"labels/{Path(name).stem}.txt": BOX for name in names}
    result = check(tmp_path, {"data.yaml": "names: [cat]\n", **files})
    assert result.summary is not None
    assert (result.summary.images, result.summary.annotations) == (6, 6)
    assert unused(result) == []
