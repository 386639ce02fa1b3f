"""COCO as tools write it. Images have 100 x 100 pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from dataset_support import SourceRead, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_store import StorePath
from fovea_trainer.data.checks import MIN_BOX_SIDE
from fovea_trainer.data.findings import FindingKind
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.read import class_mask
from fovea_trainer.data.records import Region
from fovea_trainer.data.regions import extent, pixels_of

Item = Mapping[str, object]
CATEGORIES: Sequence[Item] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}
OBJECT = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]}
CAT = ("cat", 10, 20, 40, 60)


def coco(images: Sequence[Item] = (IMAGE,), objects: Sequence[Item] = (OBJECT,), **more: object) -> str:
    """A COCO file with an item a line, the images from line 2 on."""
    sections = {"images": images, "annotations": objects, "categories": CATEGORIES, **more}
    texts = [f'"{name}": ' + json.dumps(items).replace("}, {", "},\n{") for name, items in sections.items()]
    return "{\n" + ",\n".join(texts) + "\n}"


def read(root: Path, files: Mapping[str, str | bytes], task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read_source(Format.COCO, write(root, files), task, **options)


# --- Paths ---

WRITTEN = {
    "backslashes": "images\\a.jpg",
    "folder of the format": "a.jpg",
    "another machine": "C:\\Users\\me\\data\\images\\a.jpg",
    "absolute": "/home/me/data/images/a.jpg",
    "above": "../../media/upload/1/a.jpg",
    "a URL": "http://images.cocodataset.org/train2017/a.jpg?x=1#y",
    "Label Studio's": "/data/local-files/?d=data%5Cimages%5Ca.jpg",
    "another case": "IMAGES/A.JPG",
    "dots": "./images/./b/../a.jpg",
    "blanks around": " images/a.jpg ",
}


@pytest.mark.parametrize("case", WRITTEN)
def test_paths(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"images/a.jpg": "", "x.json": coco([{**IMAGE, "file_name": WRITTEN[case]}])})
    assert found.boxes == {"images/a.jpg": [CAT]}
    assert found.findings == []


@pytest.mark.parametrize("name", ["a b#1?.jpg", "100%.jpg", "100%25.jpg", "Übung.jpg", "a&b;c.jpg", "a+b.jpg"])
def test_names_with_signs_that_mean_something_elsewhere(name: str, tmp_path: Path) -> None:
    found = read(tmp_path, {f"images/{name}": "", "x.json": coco([{**IMAGE, "file_name": name}])})
    assert found.boxes == {f"images/{name}": [CAT]}


def test_letters_composed_and_not(tmp_path: Path) -> None:
    found = read(tmp_path, {"images/U\u0308bung.jpg": "", "x.json": coco([{**IMAGE, "file_name": "\u00dcbung.jpg"}])})
    assert found.boxes == {"images/U\u0308bung.jpg": [CAT]}


def test_a_name_is_not_another_folders_file_of_that_name(tmp_path: Path) -> None:
    images = [{**IMAGE, "file_name": "cam1/0.jpg"}, {**IMAGE, "id": 2, "file_name": "cam2/0.jpg"}]
    objects = [OBJECT, {**OBJECT, "image_id": 2, "category_id": 2}]
    found = read(tmp_path, {"cam2/0.jpg": "", "cam1/1.jpg": "", "x.json": coco(images, objects)})
    assert found.boxes == {"cam2/0.jpg": [("dog", *CAT[1:])]}
    assert found.findings == [("MissingImage", "x.json:2")]


def test_a_name_that_two_files_have_is_named_with_both(tmp_path: Path) -> None:
    found = read(tmp_path, {"b/0.jpg": "", "c/0.jpg": "", "x.json": coco([{**IMAGE, "file_name": "0.jpg"}])})
    assert [(finding.place, finding.message) for finding in found.source_findings] == [
        ("x.json:2", "'0.jpg' could be b/0.jpg or c/0.jpg")
    ]


# --- A: one bad entry ---

OTHER = {"id": 2, "file_name": "b.jpg", "width": 100, "height": 100}
BAD_IMAGES: dict[str, Sequence[Item]] = {
    "no name": [{**IMAGE, "file_name": ""}],
    "a name that is no text": [{**IMAGE, "file_name": 7}],
    "no id": [{"file_name": "a.jpg"}],
    "null id": [{**IMAGE, "id": None}],
    "not there": [{**IMAGE, "file_name": "missing.jpg"}],
    "above the source": [{**IMAGE, "file_name": "../../etc/passwd"}],
    "no object": ["a.jpg"],  # type: ignore[list-item]
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    objects = [OBJECT, {**OBJECT, "image_id": 2}]
    found = read(tmp_path, {"a.jpg": "", "b.jpg": "", "x.json": coco([*BAD_IMAGES[case], OTHER], objects)})
    assert found.boxes == {"b.jpg": [CAT]}
    assert found.findings[0] in [("InvalidLabel", "x.json:2"), ("MissingImage", "x.json:2")]


@pytest.mark.parametrize("side", [None, "wide", 0, -5, 1e30, [], "100", 100.0])
def test_a_size_that_is_none_is_not_missed(side: object, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "x.json": coco([{**IMAGE, "width": side}])})
    assert (found.boxes, found.findings) == ({"a.jpg": [CAT]}, [])


BAD_OBJECTS: dict[str, Item] = {
    "three numbers": {**OBJECT, "bbox": [1, 2, 3]},
    "words": {**OBJECT, "bbox": "1 2 3 4"},
    "null": {**OBJECT, "bbox": [1, 2, None, 4]},
    "no category": {"image_id": 1, "bbox": [1, 2, 30, 40]},
    "null category": {**OBJECT, "category_id": None},
    "another category": {**OBJECT, "category_id": 7},
    "no image": {**OBJECT, "image_id": None},
    "another image": {**OBJECT, "image_id": 7},
    "no object": 7,  # type: ignore[dict-item]
}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_a_bad_object_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=[BAD_OBJECTS[case], OBJECT])})
    assert found.boxes == {"a.jpg": [CAT]}
    (finding,) = found.findings
    assert finding[1] == "x.json:3"


def test_an_entry_of_a_file_of_one_line_is_named_by_its_number(tmp_path: Path) -> None:
    """So programs write: on the line of their file stands all that it has."""
    content = {"images": [IMAGE], "annotations": [OBJECT, OBJECT | {"bbox": [1]}], "categories": CATEGORIES}
    found = read(tmp_path, {"a.jpg": "", "x.json": json.dumps(content)})
    assert found.findings == [("InvalidLabel", "x.json:1, entry 2 of annotations")]


RUNS = {"size": [100, 100], "counts": [1020, 40, *[60, 40] * 29, 6040]}
"""The pixels of CAT."""
GOOD_OBJECTS: dict[str, Item] = {
    "numbers as texts": {**OBJECT, "bbox": ["10", "20", "30.0", "40"]},
    "ids as texts": {**OBJECT, "image_id": "1", "category_id": "1"},
    "ids as fractions": {**OBJECT, "image_id": 1.0, "category_id": 1.0},
    "a polygon alone": {**OBJECT, "bbox": None, "segmentation": [[10, 20, 40, 20, 40, 60]]},
    "run lengths alone": {**OBJECT, "bbox": None, "segmentation": RUNS},
    "a speck beside a polygon": {
        **OBJECT,
        "bbox": None,
        "segmentation": [[3, 3], [4, 4, 5, 5], [10, 20, 40, 20, 40, 60]],
    },
    "a polygon and an empty box": {**OBJECT, "bbox": [], "segmentation": [[10, 20, 40, 20, 40, 60]]},
}


@pytest.mark.parametrize("case", GOOD_OBJECTS)
def test_what_is_certain_is_read(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=[GOOD_OBJECTS[case]])})
    assert (found.boxes, found.findings) == ({"a.jpg": [CAT]}, [])


def test_the_box_of_run_lengths_is_that_of_their_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        lengths = random.integers(0, (4, 30, 200)[number % 3], 9).tolist()
        runs = [0, *lengths, 100 * 100 - sum(lengths)]
        object_ = {**OBJECT, "bbox": None, "segmentation": {"size": [100, 100], "counts": runs}}
        found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=[object_])})
        pixels = pixels_of(Region("cat", runs=tuple(runs), size=(100, 100)), 100, 100)
        left, top, right, bottom = extent(pixels)
        wide = min(right - left, bottom - top) >= MIN_BOX_SIDE
        assert found.boxes["a.jpg"] == ([("cat", left, top, right, bottom)] if wide else []), runs


def test_objects_that_are_mostly_crowds_are_told(tmp_path: Path) -> None:
    """CVAT gives `iscrowd` 1 to each mask, however many objects it shows."""
    crowd = {**OBJECT, "iscrowd": 1, "segmentation": RUNS}
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=[crowd, {**crowd, "category_id": 2}, OBJECT])})
    assert [box[0:1] + box[5:] for box in found.images["a.jpg"].content.boxes] == [("cat", True), ("dog", True)]
    (finding,) = found.source_findings
    assert (finding.kind, finding.place) == (FindingKind.IGNORED_REGION, "x.json")
    assert (finding.message[:31], "CVAT" in finding.remedy) == ("2 of 3 objects are crowds (`isc", True)
    assert read(tmp_path / "half", {"a.jpg": "", "x.json": coco(objects=[crowd, OBJECT])}).source_findings == ()


def test_an_image_under_two_ids_is_left_out_and_both_are_named(tmp_path: Path) -> None:
    images = [IMAGE, {**IMAGE, "id": 9}, OTHER]
    found = read(tmp_path, {"a.jpg": "", "b.jpg": "", "x.json": coco(images, [{**OBJECT, "image_id": 2}])})
    assert found.boxes == {"b.jpg": [CAT]}
    (finding,) = found.source_findings
    assert "x.json:2 (id 1) and x.json:3 (id 9)" in finding.message


def test_two_images_under_one_id_are_left_out_and_both_are_named(tmp_path: Path) -> None:
    images = [IMAGE, {**IMAGE, "file_name": "c.jpg"}, OTHER]
    files = {"a.jpg": "", "b.jpg": "", "c.jpg": "", "x.json": coco(images, [OBJECT, {**OBJECT, "image_id": 2}])}
    found = read(tmp_path, files)
    assert found.boxes == {"b.jpg": [CAT]}
    assert found.findings == [("ListedTwice", "x.json:2"), ("ListedTwice", "x.json:3")]


def test_an_image_that_is_listed_twice_alike_is_one(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "x.json": coco([IMAGE, IMAGE])})
    assert (found.boxes, found.findings) == ({"a.jpg": [CAT]}, [])


# --- Files ---

BESIDE = {
    "another JSON": ('{"version": 2}', [("UnreadableFile", "y.json:1")]),
    "a list": ("[1, 2]", [("UnreadableFile", "y.json:1")]),
    "broken": ('{"images": [{"id": 1', [("UnreadableFile", "y.json:1")]),
    "captions": (coco(objects=[{"image_id": 1, "id": 5, "caption": "a cat"}]), []),
    "panoptic": (coco(objects=[{"image_id": 1, "file_name": "a.png", "segments_info": []}]), []),
    "no objects": (coco(objects=[]), []),
}


@pytest.mark.parametrize("case", BESIDE)
def test_files_beside(case: str, tmp_path: Path) -> None:
    text, findings = BESIDE[case]
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(), "y.json": text})
    assert (found.boxes, found.findings) == ({"a.jpg": [CAT]}, findings)


def test_labels_of_several_files_are_joined_each_by_its_own_categories(tmp_path: Path) -> None:
    stuff = coco(
        [{**IMAGE, "id": "other"}],
        [{**OBJECT, "image_id": "other", "bbox": [50, 50, 20, 20]}],
        categories=[{"id": 1, "name": "sky"}],
    )
    found = read(tmp_path, {"a.jpg": "", "instances.json": coco(), "stuff.json": stuff})
    assert found.boxes == {"a.jpg": [CAT, ("sky", 50, 50, 70, 70)]}


def test_an_older_export_beside_the_newest_doubles_no_object(tmp_path: Path) -> None:
    """The keypoints of COCO's people, which lie in a file of their own, have the boxes of the other."""
    moved, dog = {**OBJECT, "bbox": [11, 20, 30, 40]}, {**OBJECT, "id": 2, "category_id": 2}
    files = {"a.jpg": "", "x.json": coco(objects=[OBJECT, dog])}
    found = read(tmp_path / "old", {**files, "x (1).json": coco(objects=[moved, dog])})
    assert (found.images, found.findings) == ({}, [("ListedTwice", "x (1).json:2")])
    found = read(tmp_path / "people", {**files, "people.json": coco(objects=[{**OBJECT, "keypoints": [11, 21, 2]}])})
    assert found.boxes == {"a.jpg": [CAT, ("dog", *CAT[1:])]}
    assert found.findings == [("DuplicateBox", "x.json:3")]


def test_images_of_a_file_without_annotations_are_not_labelled(tmp_path: Path) -> None:
    info = json.dumps({"images": [IMAGE], "categories": CATEGORIES})
    found = read(tmp_path, {"a.jpg": "", "image_info_test2017.json": info})
    assert (found.boxes, found.findings) == ({}, [("Unlabelled", "image_info_test2017.json:1")])


def test_splits_of_files_and_folders(tmp_path: Path) -> None:
    files = {
        "annotations/instances_train2017.json": coco(),
        "valid/_annotations.coco.json": coco(),
        "train2017/a.jpg": "",
        "valid/a.jpg": "",
    }
    found = read(tmp_path, {**files, "annotations/instances_train2017.json": coco(
        [{**IMAGE, "file_name": "train2017/a.jpg"}])})  # fmt: skip
    assert found.splits == {"train2017/a.jpg": "train", "valid/a.jpg": "validation"}


def test_of_images_of_one_name_the_one_in_the_split_of_the_file_is_meant(tmp_path: Path) -> None:
    """Projects of CVAT with subsets are exported so, and COCO's own folders are called so."""
    dog = coco(objects=[{**OBJECT, "category_id": 2}])
    files = {"images/train2017/a.jpg": "", "images/val2017/a.jpg": "", "images/other/a.jpg": ""}
    listed = {"annotations/instances_train2017.json": coco(), "annotations/instances_val2017.json": dog}
    found = read(tmp_path, {**files, **listed, "x.json": coco()})
    assert found.boxes == {"images/train2017/a.jpg": [CAT], "images/val2017/a.jpg": [("dog", *CAT[1:])]}
    assert found.splits == {"images/train2017/a.jpg": "train", "images/val2017/a.jpg": "validation"}
    assert found.findings == [("MissingImage", "x.json:2")]


def test_an_image_in_two_splits_is_told_with_both_places(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "train.json": coco(), "val.json": coco()})
    assert found.splits == {"a.jpg": None}
    assert "train (train.json:2) and validation (val.json:2)" in found.images["a.jpg"].findings[0].message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    text = coco([{**IMAGE, "file_name": "Ü.jpg"}]).encode(encoding)
    assert read(tmp_path, {"Ü.jpg": "", "x.json": text}).boxes == {"Ü.jpg": [CAT]}


def test_a_letter_in_another_encoding_costs_its_own_entry_only(tmp_path: Path) -> None:
    text = coco([{**IMAGE, "file_name": "UE.jpg"}, OTHER], [OBJECT, {**OBJECT, "image_id": 2}])
    found = read(tmp_path, {"Ü.jpg": "", "b.jpg": "", "x.json": text.encode().replace(b"UE", b"\xdc")})
    assert (found.boxes, found.findings) == ({"b.jpg": [CAT]}, [("MissingImage", "x.json:2")])


# --- Categories ---

NAMES: dict[str, tuple[Sequence[Item], list[str], list[str]]] = {
    "numbers": ([{"id": 1, "name": 1.0}, {"id": 2, "name": 7}], ["1.0", "7"], []),
    "blanks": ([{"id": 1, "name": " cat\n"}, {"id": 2, "name": "dog"}], ["cat", "dog"], []),
    "empty": ([{"id": 1, "name": ""}, {"id": 2, "name": "dog"}], ["dog"], ["NamesDiffer", "UnknownClass"]),
    "null": ([{"id": 1, "name": None}, {"id": 2, "name": "dog"}], ["dog"], ["NamesDiffer", "UnknownClass"]),
    "one id, two names": ([{"id": 1, "name": "cat"}, {"id": 1, "name": "cow"}, {"id": 2, "name": "dog"}],
                          ["dog"], ["NamesDiffer", "UnknownClass"]),
    "two ids, one name": ([{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}], ["cat", "cat"], []),
    "decomposed": ([{"id": 1, "name": "Cafe\u0301"}, {"id": 2, "name": "Caf\u00e9"}], ["Café", "Café"], []),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_categories(case: str, tmp_path: Path) -> None:
    categories, names, kinds = NAMES[case]
    objects = [OBJECT, {**OBJECT, "category_id": 2, "bbox": [50, 50, 20, 20]}]
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=objects, categories=categories)})
    assert [box[0] for box in found.boxes["a.jpg"]] == names
    assert [kind for kind, _ in found.findings] == kinds


# --- H: pixels ---

CLASSES = ("background", "cat", "dog")


def mask_of(root: Path, objects: Sequence[Item], classes: Sequence[str] = CLASSES) -> tuple[np.ndarray, list[str]]:  # type: ignore[type-arg]
    found = read(root, {"a.jpg": "", "x.json": coco(objects=objects)}, Task.SEMANTIC_SEGMENTATION, classes=classes)
    tree = Tree.of(StorePath.parse(str(root)))
    mask = class_mask(tree, found.images["a.jpg"].content, classes, 100, 100)
    return mask, [kind for kind, _ in found.findings]


POLYGON = {**OBJECT, "segmentation": [[10, 20, 40, 20, 40, 60, 10, 60]]}


def test_a_speck_beside_a_polygon_has_no_pixels(tmp_path: Path) -> None:
    mask, kinds = mask_of(tmp_path, [{**POLYGON, "segmentation": [[1, 1, 2, 2], *POLYGON["segmentation"]]}])  # type: ignore[misc]
    assert ((mask == 1).sum(), kinds) == (30 * 40, [])


def test_a_polygon_has_as_many_pixels_as_pycocotools_gives_it(tmp_path: Path) -> None:
    mask, _ = mask_of(tmp_path, [{**OBJECT, "segmentation": [[10, 10, 14, 10, 14, 14, 10, 14]]}])
    assert (mask == 1).sum() == 16
    assert (mask[10:14, 10:14] == 1).all()


FAULTY: dict[str, object] = {
    "box alone": [],
    "null": None,
    "flat": [10, 20, 40, 20, 40, 60],
    "two points": [[10, 20, 40, 60]],
    "specks": [[10, 20], [40, 60]],
    "odd": [[10, 20, 40, 20, 40, 60, 1]],
    "not numbers": [[10, 20, "x", 20, 40, 60]],
    "turned run lengths": {"size": [50, 200], "counts": [10_000]},
    "run lengths of another sum": {"size": [100, 100], "counts": [1, 2]},
    "run lengths without an end": {"size": [100, 100], "counts": "o" * 5000},
    "far away": [[10, 20, 40, 20, 4e9, 60]],
}


@pytest.mark.parametrize("case", FAULTY)
def test_pixels_of_a_region_that_cannot_be_read_are_ignored_not_background(case: str, tmp_path: Path) -> None:
    objects = [{**OBJECT, "segmentation": FAULTY[case]}, {**POLYGON, "category_id": 2, "segmentation": [
        [70, 70, 90, 70, 90, 90, 70, 90]]}]  # fmt: skip
    mask, kinds = mask_of(tmp_path, objects)
    assert kinds == ["IgnoredRegion"]
    assert (mask[20:60, 10:40] == 255).all()
    assert ((mask == 255).sum(), (mask == 2).sum(), (mask == 0).sum()) == (1200, 400, 8400)


def test_an_image_is_left_out_where_nobody_knows_which_pixels_a_region_has(tmp_path: Path) -> None:
    objects = [{"image_id": 1, "category_id": 1, "segmentation": []}]
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=objects)}, Task.SEMANTIC_SEGMENTATION, classes=CLASSES)
    assert not found.images["a.jpg"].digest
    assert [kind for kind, _ in found.findings] == ["InvalidLabel"]


@pytest.mark.parametrize("options", [{"classes": ("background", "dog")}, {"class_map": {"cat": ""}}])
def test_pixels_of_a_class_that_is_not_learned_are_ignored(options: dict[str, object], tmp_path: Path) -> None:
    given = {"classes": CLASSES, **options}
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=[POLYGON])}, Task.SEMANTIC_SEGMENTATION, **given)
    content = found.images["a.jpg"].content
    mask = class_mask(Tree.of(StorePath.parse(str(tmp_path))), content, CLASSES, 100, 100)
    assert ((mask == 255).sum(), (mask == 0).sum()) == (1200, 8800)


def test_without_a_background_class_the_rest_is_told(tmp_path: Path) -> None:
    mask, kinds = mask_of(tmp_path, [POLYGON], ("cat", "dog"))
    assert kinds == ["UnnamedRest"]
    assert ((mask == 0).sum(), (mask == 255).sum()) == (1200, 8800)


# --- Sizes ---


def test_labels_of_an_image_of_another_size_are_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "x.json": coco([{**IMAGE, "width": 200, "height": 200}])})
    assert (found.boxes, [kind for kind, _ in found.findings]) == ({}, ["OtherSize"])


@pytest.mark.parametrize("size", [(1, 1), (30, 30)])
def test_a_size_that_its_own_boxes_contradict_is_told_only(size: tuple[int, int], tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "x.json": coco([{**IMAGE, "width": size[0], "height": size[1]}])})
    assert (found.boxes, [kind for kind, _ in found.findings]) == ({"a.jpg": [CAT]}, ["SizeMismatch"])


def test_no_file_of_images_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"x\.json:1: the file lists no images"):
        read(tmp_path, {"a.jpg": "", "x.json": '{"a": 1}'})


def test_an_image_with_an_object_of_no_category_is_left_out_of_segmentation(tmp_path: Path) -> None:
    objects = [POLYGON, {"image_id": 1, "segmentation": POLYGON["segmentation"]}]
    found = read(tmp_path, {"a.jpg": "", "x.json": coco(objects=objects)}, Task.SEMANTIC_SEGMENTATION, classes=CLASSES)
    assert not found.images["a.jpg"].digest
