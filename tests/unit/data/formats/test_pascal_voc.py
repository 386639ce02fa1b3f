"""PascalVOC as tools write it. Images have 100 x 100 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from dataset_support import SourceRead, read_source, write
from fovea_api.dataset import Format

BNDBOX = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"
CORNERS = (10, 20, 40, 60)


def voc(name: str = "cat", filename: str | None = None, box: str = BNDBOX) -> str:
    named = "" if filename is None else f"<filename>{filename}</filename>"
    return f"<annotation>{named}<object><name>{name}</name>{box}</object></annotation>"


def read(root: Path, files: Mapping[str, str | bytes]) -> SourceRead:
    return read_source(Format.PASCAL_VOC, write(root, files))


def classes(found: SourceRead) -> dict[str, str]:
    return {name: boxes[0][0] for name, boxes in found.boxes.items()}


# --- I: which annotation is of which image ---

PAIRS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "cameras, beside": (
        {"cam1/0.jpg": "", "cam1/0.xml": voc("cat", "0.jpg"), "cam2/0.jpg": "", "cam2/0.xml": voc("dog", "0.jpg")},
        {"cam1/0.jpg": "cat", "cam2/0.jpg": "dog"},
    ),
    "cameras, below the format's folders": (
        {"JPEGImages/1/0.jpg": "", "Annotations/1/0.xml": voc("cat"),
         "JPEGImages/2/0.jpg": "", "Annotations/2/0.xml": voc("dog")},
        {"JPEGImages/1/0.jpg": "cat", "JPEGImages/2/0.jpg": "dog"},
    ),
    "cameras, above the format's folders": (
        {"1/JPEGImages/0.jpg": "", "1/Annotations/0.xml": voc("cat"),
         "2/JPEGImages/0.jpg": "", "2/Annotations/0.xml": voc("dog")},
        {"1/JPEGImages/0.jpg": "cat", "2/JPEGImages/0.jpg": "dog"},
    ),
    "other words for the folders": (
        {"pics/0.jpg": "", "xmls/0.xml": voc("cat")},
        {"pics/0.jpg": "cat"},
    ),
    "images at the top": ({"0.jpg": "", "xmls/0.xml": voc("cat")}, {"0.jpg": "cat"}),
    "names in <filename> alone": (
        {"images/a.jpg": "", "images/b.jpg": "",
         "labels/1.xml": voc("cat", "b.jpg"), "labels/2.xml": voc("dog", "a.jpg")},
        {"images/a.jpg": "dog", "images/b.jpg": "cat"},
    ),
    "names exchanged": (
        {"1.jpg": "", "2.jpg": "", "1.xml": voc("cat", "2.jpg"), "2.xml": voc("dog", "1.jpg")},
        {"1.jpg": "dog", "2.jpg": "cat"},
    ),
    "<filename> of before the renaming": ({"a.jpg": "", "a.xml": voc("cat", "DSC001.JPG")}, {"a.jpg": "cat"}),
    "<filename> of what was copied": (
        {"a.jpg": "", "a.xml": voc("cat", "a.jpg"), "a_flip.jpg": "", "a_flip.xml": voc("dog", "a.jpg")},
        {"a.jpg": "cat", "a_flip.jpg": "dog"},
    ),
    "<filename> without a suffix": ({"a.jpg": "", "1.xml": voc("cat", "a")}, {"a.jpg": "cat"}),
    "<filename> with entities": ({"a & b.jpg": "", "1.xml": voc("cat", "a &amp; b.jpg")}, {"a & b.jpg": "cat"}),
    "two suffixes": (
        {"a.jpg": "", "a.png": "", "1.xml": voc("cat", "a.png"), "2.xml": voc("dog", "a.jpg")},
        {"a.jpg": "dog", "a.png": "cat"},
    ),
    "letters composed and not": ({"U\u0308.jpg": "", "\u00dc.xml": voc("cat", "\u00dc.jpg")}, {"U\u0308.jpg": "cat"}),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(case: str, tmp_path: Path) -> None:
    files, expected = PAIRS[case]
    found = read(tmp_path, files)
    assert (classes(found), found.findings) == (expected, [])


def test_annotations_of_the_formats_folder_go_before_older_ones_which_are_told(tmp_path: Path) -> None:
    files = {"JPEGImages/a.jpg": "", "Annotations/a.xml": voc("cat"), "Annotations_old/a.xml": voc("dog")}
    found = read(tmp_path, files)
    assert classes(found) == {"JPEGImages/a.jpg": "cat"}
    assert found.findings == [("OrphanLabel", "Annotations_old/a.xml")]


def test_annotations_that_differ_with_equal_right_leave_the_image_out_and_are_both_named(tmp_path: Path) -> None:
    files = {"pics/a.jpg": "", "v1/a.xml": voc("cat"), "v2/a.xml": voc("dog"), "pics/b.jpg": "", "v1/b.xml": voc()}
    found = read(tmp_path, files)
    assert classes(found) == {"pics/b.jpg": "cat"}
    assert [finding.message for finding in found.source_findings] == [
        "pics/a.jpg has labels in v1/a.xml and in v2/a.xml, which differ"
    ]


def test_an_annotation_without_image_and_an_image_without_annotation_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, {"JPEGImages/a.jpg": "", "Annotations/b.xml": voc()})
    assert found.findings == [("MissingImage", "Annotations/b.xml"), ("Unlabelled", "JPEGImages/a.jpg")]


# --- G: encodings ---

GREEK = "<?xml version='1.0' encoding='{}'?>\n" + voc("Γάτα")
ENCODED: dict[str, bytes] = {
    "UTF-8": GREEK.format("utf-8").encode(),
    "UTF-8 with a mark": GREEK.format("utf-8").encode("utf-8-sig"),
    "utf8": GREEK.format("utf8").encode(),
    "UTF-16": GREEK.format("UTF-16").encode("utf-16"),
    "UTF-16 without a mark": GREEK.format("UTF-16").encode("utf-16-le"),
    "UTF-16 of a string writer": GREEK.format("utf-16").encode(),
    "Greek": GREEK.format("iso-8859-7").encode("iso-8859-7"),
    "Windows": GREEK.format("windows-1253").encode("windows-1253"),
    "an encoding that nobody knows": GREEK.format("x-mine").encode(),
    "no text encoding": GREEK.format("zlib").encode(),
    "blank lines above": b"\n\n" + GREEK.format("utf-8").encode(),
    "control characters": GREEK.format("utf-8").replace("<object>", "\x0b<object>").encode(),
    "none": voc("Γάτα").encode(),
}


@pytest.mark.parametrize("case", ENCODED)
def test_encodings(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "a.xml": ENCODED[case]})
    assert found.boxes == {"a.jpg": [("Γάτα", *CORNERS)]}


@pytest.mark.parametrize(
    ("encoding", "name"), [("gb2312", "图"), ("gb2312", "镕"), ("big5", "圖"), ("shift_jis", "図")]
)
def test_encodings_of_several_bytes(encoding: str, name: str, tmp_path: Path) -> None:
    written = "gbk" if encoding == "gb2312" else encoding
    text = f'<?xml version="1.0" encoding="{encoding}"?>{voc(name)}'.encode(written)
    assert classes(read(tmp_path, {"a.jpg": "", "a.xml": text})) == {"a.jpg": name}


def test_bytes_of_another_encoding_matter_only_where_they_stand(tmp_path: Path) -> None:
    path = voc().replace("<object>", "<path>C:\\图片</path><object>").encode("gbk")
    name = voc("狗").replace("</annotation>", f"<object><name>dog</name>{BNDBOX}</object></annotation>").encode("gbk")
    found = read(tmp_path, {"a.jpg": "", "a.xml": path, "b.jpg": "", "b.xml": name})
    assert classes(found) == {"a.jpg": "cat", "b.jpg": "dog"}
    assert found.findings == [("InvalidLabel", "b.xml:1")]


# --- A: one bad entry ---

BAD = {
    "no name": voc(""),
    "a broken file": "<annotation><object>",
    "an entity that nobody defines": voc("&eacute;"),
    "words": voc(box=BNDBOX.replace("40", "wide")),
    "not a number": voc(box=BNDBOX.replace("40", "nan")),
    "nothing": "",
    "another root": "<html/>",
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "a.xml": BAD[case], "b.jpg": "", "b.xml": voc()})
    assert found.boxes["b.jpg"] == [("cat", *CORNERS)]
    assert [place for _, place in found.findings] == ["a.xml:1"]


SHAPES = {
    "turned, of roLabelImg": "<robndbox><cx>25</cx><cy>40</cy><w>40</w><h>30</h><angle>1.5707963</angle></robndbox>",
    "a polygon, of Roboflow": "<polygon><x1>10</x1><y1>20</y1><x2>40</x2><y2>30</y2><x3>15</x3><y3>60</y3></polygon>",
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "a.xml": voc(box=SHAPES[case])})
    assert found.boxes == {"a.jpg": [("cat", *CORNERS)]}


@pytest.mark.parametrize("sides", ["0 0", "wide high", "", "100.0 100.0", "1e9 5"])
def test_a_size_that_is_none_is_not_missed(sides: str, tmp_path: Path) -> None:
    width, _, height = sides.partition(" ")
    text = voc().replace("<object>", f"<size><width>{width}</width><height>{height}</height></size><object>")
    found = read(tmp_path, {"a.jpg": "", "a.xml": text})
    assert (found.boxes, found.findings) == ({"a.jpg": [("cat", *CORNERS)]}, [])


# --- Splits ---


def test_lines_of_image_sets(tmp_path: Path) -> None:
    names = ["a b", "a", "c", "d.x", "cam1/0", "cam2/0", "Ü"]
    files = {f"JPEGImages/{name}.jpg": "" for name in names} | {f"Annotations/{name}.xml": voc() for name in names}
    files["ImageSets/Main/train.txt"] = "a b\nc  1\ncam1/0\nU\u0308\n\n"
    files["ImageSets/Main/val.txt"] = "a\nd.x -1\ncam2/0.jpg\n"
    files["ImageSets/Main/cat_train.txt"] = "a 1\n"
    found = read(tmp_path, files)
    assert {name.removeprefix("JPEGImages/"): split for name, split in found.splits.items()} == {
        "a b.jpg": "train", "c.jpg": "train", "cam1/0.jpg": "train", "Ü.jpg": "train",
        "a.jpg": "validation", "d.x.jpg": "validation", "cam2/0.jpg": "validation",
    }  # fmt: skip
    assert found.findings == []


def test_lines_of_image_sets_that_name_no_image_or_two_are_told(tmp_path: Path) -> None:
    files = {
        "JPEGImages/1/a.jpg": "",
        "Annotations/1/a.xml": voc(),
        "JPEGImages/2/a.jpg": "",
        "Annotations/2/a.xml": voc(),
    }
    files["ImageSets/Main/train.txt"] = "a\nmissing\n1/a"
    files["ImageSets/Main/test.txt"] = "1/a"
    found = read(tmp_path, files)
    assert found.splits == {"JPEGImages/1/a.jpg": None, "JPEGImages/2/a.jpg": None}
    assert found.findings == [
        ("MissingSplit", "ImageSets/Main/train.txt:1"),
        ("MissingSplit", "ImageSets/Main/train.txt:2"),
        ("SplitConflict", "ImageSets/Main/train.txt:3"),
    ]


def test_folders_of_splits(tmp_path: Path) -> None:
    files = {f"{split}/a.jpg": "" for split in ("train", "valid", "test")}
    found = read(tmp_path, files | {name.replace("jpg", "xml"): voc() for name in files})
    assert found.splits == {"train/a.jpg": "train", "valid/a.jpg": "validation", "test/a.jpg": "test"}


def test_what_only_trainval_lists_is_in_train(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for name in "abcd":
        files |= {f"JPEGImages/{name}.jpg": "", f"Annotations/{name}.xml": voc()}
    files |= {f"ImageSets/Main/{name}.txt": lines for name, lines in
              (("trainval", "a\nb\nc\n"), ("val", "b\n"), ("test", "d\n"))}  # fmt: skip
    read_of = read(tmp_path, files)
    splits = {Path(name).stem: split for name, split in read_of.splits.items()}
    assert splits == {"a": "train", "b": "validation", "c": "train", "d": "test"}
    assert read_of.findings == []
