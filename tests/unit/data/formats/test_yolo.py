"""YOLO as tools write it. Images have 100 x 100 pixels, so that shares are per cent."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_support import SourceRead, read_source, write
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput

BOX = "0.5 0.5 0.2 0.4"
CORNERS = (40, 30, 60, 70)
NAMES = "names: [cat, dog]\n"


def read(root: Path, files: dict[str, str | bytes], **options: object) -> SourceRead:
    return read_source(Format.YOLO, write(root, files), **options)


def one(root: Path, lines: str | bytes, described: str = NAMES, **more: str) -> SourceRead:
    """A data set of one image."""
    return read(root, {"data.yaml": described, "images/a.jpg": "", "labels/a.txt": lines, **more})


# --- E: what the columns mean ---

FAR = "0 0.9 0.9 0.8 0.9 0.8 0.8 0.9 0.8 0.85 0.85"
"""A polygon of five points that is no box with keypoints: the box would leave the image."""
COLUMNS = {
    "confidence": (NAMES, f"0 {BOX} 0.87", [CORNERS], ["PredictedLabels"]),
    "track number": (NAMES, f"0 {BOX} 17", [CORNERS], ["PredictedLabels"]),
    "confidence and track number": (NAMES, f"0 {BOX} 0.87 17", [CORNERS], ["PredictedLabels"]),
    "keypoints as described": (f"{NAMES}kpt_shape: [2, 2]", f"0 {BOX} 0.45 0.4 0.55 0.6", [CORNERS], []),
    "keypoints and a confidence": (f"{NAMES}kpt_shape: [2, 2]", f"0 {BOX} 0.45 0.4 0.55 0.6 0.9", [CORNERS], []),
    "keypoints with visibility": (NAMES, f"0 {BOX} 0.45 0.4 2 0.55 0.6 1\n1 {BOX} 0 0 0 0.5 0.5 2",
                                  [CORNERS, CORNERS], []),
    "keypoints of another number": (f"{NAMES}kpt_shape: [3, 2]", f"0 {BOX} 0.45 0.4 0.55 0.6", [], ["InvalidLabel"]),
    "keypoints or polygon": (NAMES, f"0 {BOX} 0.45 0.4 0.55 0.6 0.5 0.5", [], ["InvalidLabel"]),
    "oriented": (NAMES, "0 0.5 0.3 0.7 0.5 0.5 0.7 0.3 0.5", [(30, 30, 70, 70)], []),
    "oriented with a confidence": (NAMES, "0 0.5 0.3 0.7 0.5 0.5 0.7 0.3 0.5 0.99", [(30, 30, 70, 70)], []),
    "polygons": (NAMES, f"{FAR}\n0 0.1 0.1 0.3 0.1 0.2 0.4", [(10, 10, 30, 40), (80, 80, 90, 90)], []),
    "polygons and boxes": (NAMES, f"{FAR}\n0 {BOX}", [CORNERS, (80, 80, 90, 90)], []),
    "polygons with a confidence": (NAMES, f"{FAR} 0.7\n0 0.1 0.1 0.3 0.1 0.2 0.4 0.9",
                                   [(10, 10, 30, 40), (80, 80, 90, 90)], []),
    "a polygon with a number missing": (NAMES, f"{FAR}\n0 0.1 0.1 0.3 0.1 0.2 0.4 0.9", [(80, 80, 90, 90)],
                                        ["InvalidLabel"]),
    "commas": (NAMES, "0, 0.5, 0.5, 0.2, 0.4", [CORNERS], []),
    "names instead of numbers": (NAMES, f"cat {BOX}", [CORNERS], []),
    "pixels": (NAMES, "0 50 50 20 40", [], ["InvalidLabel"]),
    "UTF-16": (NAMES, f"0 {BOX}\n".encode("utf-16"), [CORNERS], []),
}  # fmt: skip


@pytest.mark.parametrize("case", COLUMNS)
def test_columns(case: str, tmp_path: Path) -> None:
    described, lines, corners, kinds = COLUMNS[case]
    read = one(tmp_path, lines, described)
    assert sorted(box[1:] for box in read.boxes["images/a.jpg"]) == sorted(corners)
    assert [kind for kind, _ in read.findings] == kinds


def test_keypoints_are_told_from_polygons_by_all_files_together(tmp_path: Path) -> None:
    """One line of seven points could be either; with lines of other lengths beside it, they are polygons."""
    doubtful = f"0 {BOX} 0.45 0.4 0.55 0.6 0.5 0.5"
    files = {"data.yaml": NAMES, "images/a.jpg": "", "labels/a.txt": doubtful, "images/b.jpg": "", "labels/b.txt": FAR}
    assert [box[1:] for box in read(tmp_path, files).boxes["images/a.jpg"]] == [(20, 40, 55, 60)]


# --- F: names and numbers ---

THREE = f"0 {BOX}\n1 0.2 0.2 0.1 0.1\n2 0.8 0.8 0.1 0.1"
NAMED = {
    "as written": ("names: [yes, no, 1.0]", ["1.0", "no", "yes"]),
    "other words of YAML": ("names: [on, null, 007]", ["007", "null", "on"]),
    "text keys": ("names: {'0': a, '1': b, '2': c}", ["a", "b", "c"]),
    "block": ("names:\n  0: a\n  1: b b\n  2: Ä", ["a", "b b", "Ä"]),
    "given twice": ("names: [a, b, a]", ["a", "a", "b"]),
}


@pytest.mark.parametrize("case", NAMED)
def test_names(case: str, tmp_path: Path) -> None:
    described, names = NAMED[case]
    read = one(tmp_path, THREE, described)
    assert sorted(box[0] for box in read.boxes["images/a.jpg"]) == names
    assert read.findings == ([("NamesDiffer", "data.yaml:1")] if case == "given twice" else [])


UNNAMED = {
    "beyond": {"data.yaml": "names: [a, b]"},
    "a gap": {"data.yaml": "names: {0: a, 1: b, 3: c}"},
    "emptied": {"data.yaml": "names: [a, b, '']"},
    "an emptied line": {"classes.txt": "a\nb\n\nc\n"},
}


@pytest.mark.parametrize("case", UNNAMED)
def test_a_number_without_a_name_is_named_with_its_line(case: str, tmp_path: Path) -> None:
    files = {"images/a.jpg": "", "labels/a.txt": THREE}
    found = read(tmp_path, {**files, **UNNAMED[case]})
    assert sorted(box[0] for box in found.boxes["images/a.jpg"]) == ["a", "b"]
    assert found.findings == [("UnknownClass", "labels/a.txt:3")]


def test_a_number_that_is_given_twice_is_told_with_both_names(tmp_path: Path) -> None:
    found = one(tmp_path, THREE, "names:\n  0: a\n  1: b\n  1: c\n  2: d")
    assert sorted(box[0] for box in found.boxes["images/a.jpg"]) == ["a", "d"]
    assert found.findings == [("NamesDiffer", "data.yaml:1"), ("UnknownClass", "labels/a.txt:2")]


def test_an_emptied_line_of_the_names_moves_no_other(tmp_path: Path) -> None:
    found = read(tmp_path, {"classes.txt": "a\n\nc", "images/a.jpg": "", "labels/a.txt": f"2 {BOX}"})
    assert found.boxes == {"images/a.jpg": [("c", *CORNERS)]}


@pytest.mark.parametrize(
    ("described", "lines"), [("names: {1: a, 2: b}", f"0 {BOX}\n1 {BOX}"), ("names: [a, b]", f"1 {BOX}\n2 {BOX}")]
)
def test_labels_and_names_that_count_from_different_numbers_are_refused(
    described: str, lines: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"labels count the classes from .* names from"):
        one(tmp_path, lines, described)


def test_names_from_one_on(tmp_path: Path) -> None:
    found = one(tmp_path, f"1 {BOX}\n2 0.2 0.2 0.1 0.1", "names: {1: a, 2: b}")
    assert sorted(box[0] for box in found.boxes["images/a.jpg"]) == ["a", "b"]


def test_more_names_than_counted_are_told(tmp_path: Path) -> None:
    assert one(tmp_path, f"1 {BOX}", f"nc: 3\n{NAMES}").findings == [("NamesDiffer", "data.yaml:1")]


# --- I: what holds for what ---


def test_each_export_has_its_own_names(tmp_path: Path) -> None:
    files = {"names: [cat, dog]": "a", "names: [dog, cat]": "b"}
    written: dict[str, str | bytes] = {}
    for described, folder in files.items():
        written |= {
            f"{folder}/data.yaml": described,
            f"{folder}/images/x.jpg": "",
            f"{folder}/labels/x.txt": f"0 {BOX}",
        }
    assert read(tmp_path, written).boxes == {
        "a/images/x.jpg": [("cat", *CORNERS)],
        "b/images/x.jpg": [("dog", *CORNERS)],
    }


def test_a_list_of_names_in_a_folder_of_labels_holds_there(tmp_path: Path) -> None:
    written = {f"{cam}/{name}": "" for cam in ("cam1", "cam2") for name in ("0.jpg",)}
    written |= {"cam1/classes.txt": "cat", "cam2/classes.txt": "dog"}
    written |= {f"{cam}/0.txt": f"0 {BOX}" for cam in ("cam1", "cam2")}
    assert {name: boxes[0][0] for name, boxes in read(tmp_path, written).boxes.items()} == {  # type: ignore[arg-type]
        "cam1/0.jpg": "cat",
        "cam2/0.jpg": "dog",
    }


def test_the_description_goes_before_a_list_that_differs_which_is_told(tmp_path: Path) -> None:
    found = one(tmp_path, f"0 {BOX}", **{"labels/classes.txt": "person\nbicycle"})
    assert found.boxes == {"images/a.jpg": [("cat", *CORNERS)]}
    assert found.findings == [("NamesDiffer", "labels/classes.txt")]


def test_two_descriptions_of_one_folder_that_disagree_are_refused(tmp_path: Path) -> None:
    files = {"a.yaml": NAMES, "b.yaml": "names: [dog, cat]", "images/a.jpg": "", "labels/a.txt": f"0 {BOX}"}
    with pytest.raises(InvalidInput, match=r"a\.yaml: it and b\.yaml give the classes different names"):
        read(tmp_path, files)  # type: ignore[arg-type]


def test_a_label_file_is_named_after_the_image_or_its_stem(tmp_path: Path) -> None:
    files = {"images/a.b.jpg": "", "labels/a.b.txt": f"0 {BOX}", "images/c.jpg": "", "labels/c.jpg.txt": f"1 {BOX}"}
    assert {name: boxes[0][0] for name, boxes in read(tmp_path, {"data.yaml": NAMES, **files}).boxes.items()} == {
        "images/a.b.jpg": "cat",
        "images/c.jpg": "dog",
    }


def test_labels_of_two_images_are_told(tmp_path: Path) -> None:
    found = one(tmp_path, f"0 {BOX}", **{"images/a.png": ""})
    assert found.findings == [("SharedLabels", "labels/a.txt")]


# --- Splits ---

LISTED = {f"{name}/x.jpg": "" for name in ("a", "b", "c")}


@pytest.mark.parametrize(
    "described",
    [
        "train: train.txt\nval: ./lists/val.txt\ntest: ../other/c",
        "path: /home/me/data\ntrain: a\nval: b\ntest: c",
        "path: ../datasets/x\ntrain: [a]\nval: [b]\ntest: [c]",
        "train: C:\\data\\a\nval: C:\\data\\b\ntest: C:\\data\\c",
    ],
)
def test_splits_of_the_description(described: str, tmp_path: Path) -> None:
    lists = {"train.txt": "./a/x.jpg\n", "lists/val.txt": "# held out\n/home/me/data/b/x.jpg\n"}
    found = read(tmp_path, {**LISTED, **lists, "data.yaml": f"{NAMES}{described}"})
    assert found.splits == {"a/x.jpg": "train", "b/x.jpg": "validation", "c/x.jpg": "test"}
    assert found.findings == [("NoLabelFile", name) for name in found.splits]


def test_splits_of_darknet(tmp_path: Path) -> None:
    files = {
        "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n",
        "obj.names": "cat\ndog\n",
        "train.txt": "data/obj_train_data/a b.jpg\n",
        "valid.txt": "data/obj_valid_data/a b.jpg\n",
        "obj_train_data/a b.jpg": "",
        "obj_train_data/a b.txt": f"1 {BOX}",
        "obj_valid_data/a b.jpg": "",
        "obj_valid_data/a b.txt": "",
    }
    found = read(tmp_path, files)
    assert found.splits == {"obj_train_data/a b.jpg": "train", "obj_valid_data/a b.jpg": "validation"}
    assert found.boxes["obj_train_data/a b.jpg"] == [("dog", *CORNERS)]
    assert found.findings == []


def test_an_image_in_two_splits_and_a_split_that_is_not_there_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, {**LISTED, "data.yaml": f"{NAMES}train: a\nval: a\ntest: missing"})
    assert found.splits["a/x.jpg"] is None
    assert {kind for kind, _ in found.findings} == {"SplitConflict", "MissingSplit", "NoLabelFile"}


def test_labels_beside_jpeg_images(tmp_path: Path) -> None:
    found = read(tmp_path, {"data.yaml": NAMES, "JPEGImages/a.jpg": "", "labels/a.txt": f"0 {BOX}"})
    assert found.boxes == {"JPEGImages/a.jpg": [("cat", *CORNERS)]}


def test_lists_that_nothing_describes_name_splits(tmp_path: Path) -> None:
    files = {f"obj/{name}.jpg": "" for name in "abc"} | {f"obj/{name}.txt": f"0 {BOX}" for name in "abc"}
    lists = {"obj.names": "cat\n", "train.txt": "obj/a.jpg\nC:\\data\\obj\\b.jpg\n", "valid.txt": "obj/c.jpg\n"}
    found = read(tmp_path, files | lists)
    assert found.splits == {"obj/a.jpg": "train", "obj/b.jpg": "train", "obj/c.jpg": "validation"}
    assert found.findings == []


def test_an_image_without_label_file_shows_no_object_and_is_reported(tmp_path: Path) -> None:
    files = {"data.yaml": NAMES, "images/a.jpg": "", "labels/a.txt": f"0 {BOX}", "images/b.jpg": "", "labels/b.txt": "",
             "images/c.jpg": ""}  # fmt: skip
    found = read(tmp_path, files)
    assert found.boxes == {"images/a.jpg": [("cat", *CORNERS)], "images/b.jpg": [], "images/c.jpg": []}
    assert found.findings == [("NoLabelFile", "images/c.jpg")]
