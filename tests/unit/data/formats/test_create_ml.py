"""CreateML as Apple's documentation, Roboflow and labelImg have it. Images have 100 x 100 pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from dataset_support import SourceRead, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput

SIDES = {"x": 25, "y": 40, "width": 30, "height": 40}
CORNERS = (10, 20, 40, 60)


def cat(label: object = "cat", coordinates: object = SIDES) -> dict[str, object]:
    return {"label": label, "coordinates": coordinates}


def listed(*items: object) -> str:
    """A file with a line an image."""
    return "[\n" + ",\n".join(map(json.dumps, items)) + "]"


def of(*annotations: object, image: str = "a.jpg") -> dict[str, object]:
    return {"image": image, "annotations": list(annotations)}


def read(root: Path, files: Mapping[str, str | bytes], task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read_source(Format.CREATE_ML, write(root, files), task, **options)


def of_one(root: Path, *items: object, task: Task = Task.DETECTION) -> SourceRead:
    return read(root, {"a.jpg": "", "x.json": listed(*items)}, task)


FORMS: dict[str, object] = {
    "of today": of(cat()),
    "of the documentation": {"imagefilename": "a.jpg", "annotation": [cat()]},
    "of other letters": {"imageFilename": "a.jpg", "Annotations": [cat()]},
    "of labelImg": {"image": "a.jpg", "verified": False, "annotations": [cat()]},
    "one annotation": {"image": "a.jpg", "annotation": cat()},
    "shares of the sides": of(cat(coordinates={"x": 0.25, "y": 0.4, "width": 0.3, "height": 0.4})),
    "a path of another machine": of(cat(), image="file:///Users/me/a.jpg"),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_box_is_its_centre_and_sides(case: str, tmp_path: Path) -> None:
    found = of_one(tmp_path, FORMS[case])
    assert (found.boxes, found.findings) == ({"a.jpg": [("cat", *CORNERS)]}, [])


def test_a_file_of_pixels_may_have_a_number_below_one(tmp_path: Path) -> None:
    small = cat("dog", {"x": 0.5, "y": 0.5, "width": 1, "height": 1})
    found = of_one(tmp_path, of(cat(), small))
    assert found.boxes == {"a.jpg": [("cat", *CORNERS)]}
    assert found.findings == [("DegenerateBox", "x.json:2, annotation 2")]


def test_roboflow_has_a_file_a_split(tmp_path: Path) -> None:
    files = {f"{folder}/{number}.jpg": "" for number, folder in enumerate(("train", "valid", "test"))}
    files |= {f"{name.rpartition('/')[0]}/_annotations.createml.json": listed(of(cat(), image=name.rpartition("/")[2]))
              for name in files}  # fmt: skip
    found = read(tmp_path, files)
    assert set(map(len, found.boxes.values())) == {1}
    assert found.splits == {"train/0.jpg": "train", "valid/1.jpg": "validation", "test/2.jpg": "test"}


def test_an_empty_list_shows_nothing_and_none_is_unlabelled(tmp_path: Path) -> None:
    files = {"a.jpg": "", "b.jpg": "", "c.jpg": "", "x.json": listed(of(), {"image": "b.jpg"}, of(image="d.jpg"))}
    found = read(tmp_path, files)
    assert found.boxes == {"a.jpg": []}
    assert found.findings == [("MissingImage", "x.json:4"), ("Unlabelled", "x.json:3")]


WRONG: dict[str, object] = {
    "no object": 7,
    "no label": cat(None),
    "no coordinates": {"label": "cat"},
    "a label alone": "cat",
    "coordinates that are a list": cat(coordinates=[1, 2, 3, 4]),
    "a side that is missing": cat(coordinates={"x": 1, "y": 2, "width": 3}),
    "a side that is no number": cat(coordinates=SIDES | {"x": "1"}),
    "a side that is true": cat(coordinates=SIDES | {"x": True}),
    "a side at infinity": cat(coordinates=SIDES | {"x": 1e300}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_annotation_is_named_with_its_line_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    found = of_one(tmp_path, of(cat("dog"), WRONG[case]))
    assert (found.boxes, found.findings) == (
        {"a.jpg": [("dog", *CORNERS)]}, [("InvalidLabel", "x.json:2, annotation 2")])  # fmt: skip


def test_a_wrong_image_is_named_with_its_line(tmp_path: Path) -> None:
    found = of_one(tmp_path, of(cat()), {"annotations": [cat()]}, 7)
    assert len(found.boxes["a.jpg"]) == 1
    assert found.findings == [("InvalidLabel", "x.json:3"), ("InvalidLabel", "x.json:4")]


def test_an_image_that_is_listed_twice_is_kept_where_both_say_the_same(tmp_path: Path) -> None:
    again = {"imagefilename": "./a.jpg", "annotation": [cat()]}
    assert of_one(tmp_path / "same", of(cat()), again).boxes == {"a.jpg": [("cat", *CORNERS)]}
    found = of_one(tmp_path / "other", of(cat()), of(cat("dog")))
    assert (found.boxes, found.findings) == ({}, [("ListedTwice", "x.json:2")])


CLASSES: dict[str, object] = {
    "a text": {"image": "a.jpg", "annotation": "cat"},
    "a list of one": {"image": "a.jpg", "annotations": ["cat"]},
    "an object": {"image": "a.jpg", "annotations": {"label": "cat"}},
    "a list of objects": {"filename": "a.jpg", "annotations": [{"label": "cat"}]},
    "boxes of one class": of(cat(), cat()),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_of_images(case: str, tmp_path: Path) -> None:
    found = of_one(tmp_path, CLASSES[case], task=Task.CLASSIFICATION)
    assert (found.labels, found.findings) == ({"a.jpg": "cat"}, [])


def test_an_image_of_two_classes_is_left_out_unless_one_is_dropped(tmp_path: Path) -> None:
    files = {"a.jpg": "", "x.json": listed(of("cat", "dog"))}
    found = read(tmp_path, files, Task.CLASSIFICATION)
    assert (found.labels, found.findings) == ({}, [("InvalidLabel", "x.json:2")])
    assert read(tmp_path, files, Task.CLASSIFICATION, class_map={"dog": ""}).labels == {"a.jpg": "cat"}


def test_classes_alone_are_refused_where_boxes_are_learned(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"x\.json:2, annotation 1: no annotation has `coordinates`.*Classification"):
        of_one(tmp_path, of("cat"))


OTHERS = {
    "COCO": '{"images": []}',
    "Label Studio": listed({"id": 1, "data": {"image": "a.jpg"}, "annotations": []}),
    "broken": "[\n" + json.dumps(of(cat())) + ",\n{",
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_refused_alone_and_told_beside_others(case: str, tmp_path: Path) -> None:
    line = {"COCO": 1, "Label Studio": 2, "broken": 3}[case]
    with pytest.raises(InvalidInput, match=rf"y\.json:{line}"):
        read(tmp_path / "alone", {"a.jpg": "", "y.json": OTHERS[case]})
    found = read(tmp_path / "beside", {"a.jpg": "", "x.json": listed(of(cat())), "y.json": OTHERS[case]})
    assert (found.boxes, found.findings) == ({"a.jpg": [("cat", *CORNERS)]}, [("UnreadableFile", f"y.json:{line}")])
