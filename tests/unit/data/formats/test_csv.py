"""CSV as tools, competitions and tutorials write it. Images have 100 x 100 pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from dataset_support import SourceRead, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_store import StorePath
from fovea_trainer.data.formats import Options, Tree, open_reader
from fovea_trainer.data.records import NamedClass

CAT = ("cat", 10, 20, 40, 60)
TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def read(root: Path, files: Mapping[str, str | bytes], task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read_source(Format.CSV, write(root, files), task, **options)


def of_one(root: Path, table: str | bytes, task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read(root, {"a.jpg": "", "x.csv": table}, task, **options)


VIA = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
RECTANGLE = {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 40}


def via(shape: object, attributes: object = None, count: int = 1) -> str:
    named = {"type": "cat"} if attributes is None else attributes
    cells = [json.dumps(each).replace('"', '""') for each in (shape, named)]
    return f'{VIA}a.jpg,99,"{{}}",{count},0,"{cells[0]}","{cells[1]}"\n'


# --- Boxes ---

BOXES: dict[str, str] = {
    "TensorFlow's tutorials, Roboflow": TENSORFLOW + "a.jpg,100,100,cat,10,20,40,60\n",
    "other words, in another order": "label;x_max;y_max;x_min;y_min;Image ID\ncat;40;60;10;20;a.jpg\n",
    "tabs": "image\tx1\ty1\tx2\ty2\tlabel\na.jpg\t10\t20\t40\t60\tcat\n",
    "a quoted header, and blanks": '"filename", "class", "bbox_xmin", "bbox_ymin", "bbox_xmax", "bbox_ymax"\n'
                                   '"a.jpg", "cat", 10, 20, 40, 60\n',
    "left, top and sides": "patientId,x,y,width,height,Target\na,10,20,30,40,cat\n",
    "centre and sides": "image,x_center,y_center,w,h,label\na.jpg,25,40,30,40,cat\n",
    "a corner and the other": "image,left,top,right,bottom,label\na.jpg,10,20,40,60,cat\n",
    "RetinaNet": "imgs/a.jpg,10,20,40,60,cat\n",
    "RetinaNet, which begins with an image of nothing": "b.jpg,,,,,\nimgs/a.jpg,10,20,40,60,cat\n",
    "SKU-110K": "a.jpg,10,20,40,60,cat,100,100\n",
    "Vertex AI": "TRAINING,gs://bucket/x/a.jpg,cat,0.1,0.2,,,0.4,0.6,,\n",
    "Vertex AI, of four corners": "UNASSIGNED,gs://bucket/a.jpg,cat,0.1,0.2,0.4,0.2,0.4,0.6,0.1,0.6\n",
    "Vertex AI, of no set": "gs://bucket/a.jpg,cat,0.1,0.2,,,0.4,0.6,,\n",
    "Open Images": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\n"
                   "a,xclick,cat,1,0.1,0.4,0.2,0.6,0\n",
    "VIA, a rectangle": via(RECTANGLE),
    "VIA, a polygon": via({"name": "polygon", "all_points_x": [10, 40, 25], "all_points_y": [30, 20, 60]}),
    "VIA, a turned ellipse": via({"name": "ellipse", "cx": 25, "cy": 40, "rx": 20, "ry": 15, "theta": 1.5707963267949}),
    "VIA, a class that is checked": via(RECTANGLE, {"class": {"cat": True, "dog": False}, "n": "1"}),
    "blank lines and empty rows": f"\n\n{TENSORFLOW}\n,,,,,,,\na.jpg,100,100,cat,10,20,40,60\n",
    "the index of a data frame": ",image,label,xmin,ymin,xmax,ymax\n0,a.jpg,cat,10,20,40,60\n",
}  # fmt: skip


@pytest.mark.parametrize("case", BOXES)
def test_boxes(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "b.jpg": "", "x.csv": BOXES[case]})
    assert (found.boxes["a.jpg"], found.findings) == ([CAT], [])


def test_shares_may_leave_the_image(tmp_path: Path) -> None:
    """Those of Vertex AI by however much: its numbers are never pixels."""
    rows = "a.jpg,0.1,0.2,0.4,0.6,cat\na.jpg,-0.1,0.9,0.5,1.2,dog\n"
    assert of_one(tmp_path / "a", rows).boxes == {"a.jpg": [CAT, ("dog", 0, 90, 50, 100)]}
    vertex = BOXES["Vertex AI"] + "TRAINING,gs://bucket/x/a.jpg,dog,10,20,,,40,60,,\n"
    found = of_one(tmp_path / "b", vertex)
    assert (found.boxes, found.findings) == ({"a.jpg": [CAT]}, [("OutsideBox", "x.csv:2")])


def test_a_circle_of_via(tmp_path: Path) -> None:
    found = of_one(tmp_path, via({"name": "circle", "cx": 50, "cy": 40, "r": 20}))
    assert found.boxes == {"a.jpg": [("cat", 30, 20, 70, 60)]}


NEGATIVES = {
    "TensorFlow": TENSORFLOW + "a.jpg,100,100,,,,,\n",
    "RetinaNet": "a.jpg,,,,,\nb.jpg,1,2,3,4,cat\n",
    "pandas": "patientId,x,y,width,height,Target\na,nan,NaN,,,0\n",
    "Vertex AI": "TEST,gs://x/a.jpg,,,,,,,,,\n",
    "VIA": via({}, {}, 0),
}


@pytest.mark.parametrize("case", NEGATIVES)
def test_a_row_without_a_box_says_that_the_image_shows_nothing(case: str, tmp_path: Path) -> None:
    found = of_one(tmp_path, NEGATIVES[case])
    assert found.boxes == {"a.jpg": []}


def test_an_object_is_difficult_where_a_column_says_so(tmp_path: Path) -> None:
    table = "image,label,x1,y1,x2,y2,IsGroupOf\na.jpg,cat,10,20,40,60,1\na.jpg,dog,10,20,40,60,0\n"
    boxes = of_one(tmp_path, table).images["a.jpg"].content.boxes
    assert [(box[0], box[5]) for box in boxes] == [("cat", True), ("dog", False)]


def test_what_people_found_not_to_be_there_is_no_label(tmp_path: Path) -> None:
    """As Open Images has it; confidences between 0 and 1 are those of a model."""
    table = "ImageID,Source,LabelName,Confidence\na,verification,cat,1\na,verification,dog,0\nb,verification,dog,0\n"
    found = read(tmp_path / "a", {"a.jpg": "", "b.jpg": "", "x.csv": table}, Task.CLASSIFICATION)
    assert found.labels == {"a.jpg": "cat"}
    assert {kind for kind, _ in found.findings} == {"Unlabelled"}
    boxes = "image,label,x1,y1,x2,y2,score\na.jpg,cat,10,20,40,60,0.9\na.jpg,dog,10,20,40,60,high\n"
    found = of_one(tmp_path / "b", boxes)
    assert found.boxes == {"a.jpg": [CAT]}
    assert sorted(found.findings) == [("InvalidLabel", "x.csv:3"), ("PredictedLabels", "x.csv")]


def test_the_size_that_the_columns_claim_is_compared_with_the_image(tmp_path: Path) -> None:
    assert of_one(tmp_path, TENSORFLOW + "a.jpg,200,200,cat,20,40,80,120\n").findings == [("OtherSize", "x.csv:2")]


WRONG = {
    "a number that is none": "a.jpg,100,100,cat,ten,20,40,60",
    "a number that is missing": "a.jpg,100,100,cat,,20,40,60",
    "a row that ends early": "a.jpg,100,100,cat,10,20",
    "a box without a class": "a.jpg,100,100,,10,20,40,60",
    "a number at infinity": "a.jpg,100,100,cat,10,20,40,inf",
    "a comma too many": "a.jpg,100,100,cat,10,20,40,60,striped",
    "no image": ",100,100,cat,10,20,40,60",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_named_with_its_line_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    found = of_one(tmp_path, f"\n{TENSORFLOW}a.jpg,100,100,cat,10,20,40,60\n{WRONG[case]}\n")
    assert (found.boxes, found.findings) == ({"a.jpg": [CAT]}, [("InvalidLabel", "x.csv:4")])


WRONG_REGIONS: dict[str, tuple[object, object]] = {
    "a point": ({"name": "point", "cx": 1, "cy": 2}, {"type": "cat"}),
    "no points": ({"name": "polygon", "all_points_x": [], "all_points_y": []}, {"type": "cat"}),
    "points of one axis": ({"name": "polygon", "all_points_x": [1, 2]}, {"type": "cat"}),
    "two attributes": (RECTANGLE, {"color": "red", "form": "round"}),
    "two checked": (RECTANGLE, {"class": {"cat": True, "dog": True}}),
    "a list": ([1], {"type": "cat"}),
}


@pytest.mark.parametrize("case", WRONG_REGIONS)
def test_wrong_regions_of_via(case: str, tmp_path: Path) -> None:
    assert of_one(tmp_path, via(*WRONG_REGIONS[case])).findings == [("InvalidLabel", "x.csv:2")]


# --- Which image, which split ---


def test_images_are_found_by_a_name_without_suffix_where_one_has_it(tmp_path: Path) -> None:
    files = {"train/1.png": "", "a/2.jpg": "", "b/2.jpg": "", "x.csv": "id,label\n1,cat\n2,cat\n3,dog\nb/2.jpg,dog\n"}
    found = read(tmp_path, files, Task.CLASSIFICATION)
    assert found.labels == {"train/1.png": "cat", "b/2.jpg": "dog"}
    assert found.findings == [("MissingImage", "x.csv:3"), ("MissingImage", "x.csv:4")]
    assert "could be a/2.jpg or b/2.jpg" in found.source_findings[0].message


def test_of_images_of_one_name_the_one_in_the_split_of_the_file_is_meant(tmp_path: Path) -> None:
    """With suffixes as TensorFlow's tutorial has them, and without as Kaggle's sets."""
    files = {f"images/{split}/{name}.jpg": "" for split in ("train", "test") for name in "ab"}
    files |= {
        "train_labels.csv": "image,label\na.jpg,cat\nb,cat\n",
        "test_labels.csv": "image,label\na.jpg,dog\nb,dog\n",
    }
    found = read(tmp_path, files, Task.CLASSIFICATION)
    assert found.labels == {
        f"images/{split}/{name}.jpg": label for split, label in (("train", "cat"), ("test", "dog")) for name in "ab"
    }
    assert found.findings == []


def test_rows_of_an_image_that_is_gone_are_not_those_of_another_of_its_name(tmp_path: Path) -> None:
    files = {"kept/a.jpg": "", "x.csv": "kept/a.jpg,10,20,40,60,cat\ngone/a.jpg,1,2,30,40,dog\n"}
    found = read(tmp_path, files)
    assert (found.boxes, found.findings) == ({"kept/a.jpg": [CAT]}, [("MissingImage", "x.csv:2")])


def test_the_split_is_the_rows_then_the_files_then_the_folders(tmp_path: Path) -> None:
    files = {f"{name}.jpg": "" for name in ("a", "b", "c", "d", "test/e", "f")}
    rows = (
        "a.jpg,cat,TRAIN",
        "b.jpg,cat,validate",
        "c.jpg,cat,unassigned",
        "e.jpg,cat,fold1",
        "f.jpg,cat,train",
        "f.jpg,cat,test",
    )
    files |= {"x.csv": "\n".join(("image,label,split", *rows)), "valid_labels.csv": "image,label\nd.jpg,dog\n"}
    found = read(tmp_path, files, Task.CLASSIFICATION)
    splits = {"a": "train", "b": "validation", "c": None, "d": "validation", "test/e": "test", "f": None}
    assert found.splits == {f"{name}.jpg": split for name, split in splits.items()}
    assert found.findings == [("MissingSplit", "x.csv:5"), ("SplitConflict", "x.csv:6")]


def test_labels_of_several_files_are_joined(tmp_path: Path) -> None:
    more = TENSORFLOW + "./a.jpg,100,100,dog,50,50,90,90\n"
    found = read(tmp_path, {"a.jpg": "", "x.csv": BOXES["RetinaNet"], "y.csv": more})
    assert found.boxes == {"a.jpg": [CAT, ("dog", 50, 50, 90, 90)]}
    shares = {"a.jpg": "", "x.csv": BOXES["RetinaNet"], "y.csv": BOXES["Vertex AI"]}
    assert read(tmp_path / "mixed", shares).findings == [("ListedTwice", "x.csv:1")]


def test_two_files_that_differ_about_an_image_leave_it_out(tmp_path: Path) -> None:
    files = {"a.jpg": "", "x.csv": BOXES["RetinaNet"], "y.csv": BOXES["RetinaNet"].replace("a.jpg,10", "a.jpg,11")}
    found = read(tmp_path, files)
    assert (found.images, found.findings) == ({}, [("ListedTwice", "x.csv:1")])


def test_files_to_be_filled_in_are_no_labels_and_lists_of_classes_name_them(tmp_path: Path) -> None:
    files = {"a.jpg": "", "x.csv": BOXES["RetinaNet"], "classes.csv": "cat,0\ndog,1\n",
             "sample_submission.csv": "id,label\na,dog\n"}  # fmt: skip
    found = read(tmp_path, files)
    assert (found.boxes, found.findings) == ({"a.jpg": [CAT]}, [])
    reader = open_reader(Format.CSV, Tree.of(StorePath.parse(str(tmp_path))), Options(Task.DETECTION))
    assert [each.name for each in reader.scan() if isinstance(each, NamedClass)] == ["cat", "dog"]


# --- Classes of images ---

CLASSES = {
    "a name and a label": "filename,label\na.jpg,cat\nb.jpg,dog\n",
    "the only other column": "id_code,diagnosis\na,cat\nb,dog\n",
    "a name before its number": "image,class_id,class_name\na.jpg,0,cat\nb.jpg,1,dog\n",
    "no header": "x/a.jpg,cat\nx/b.jpg,dog\n",
    "Vertex AI": "TRAIN,gs://x/a.jpg,cat\nTEST,gs://x/b.jpg,dog\n",
    "the index of a data frame": "Unnamed: 0,image,diagnosis\n0,a.jpg,cat\n1,b.jpg,dog\n",
    "a column a class": "image,cat,dog,UNK\na,1.0,0.0,0.0\nb,0.0,1.0,0.0\n",
    "Roboflow": "filename, cat, dog\na.jpg, 1, 0\nb.jpg, 0, 1\n",
    "objects of one class": "a.jpg,1,2,30,40,cat\na.jpg,5,5,30,40,cat\nb.jpg,1,2,30,40,dog\n",
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes(case: str, tmp_path: Path) -> None:
    found = read(tmp_path, {"a.jpg": "", "b.jpg": "", "x.csv": CLASSES[case]}, Task.CLASSIFICATION)
    assert (found.labels, found.findings) == ({"a.jpg": "cat", "b.jpg": "dog"}, [])


def test_the_json_of_a_tool_is_no_class(tmp_path: Path) -> None:
    """Label Studio's CSV has it where an image has boxes, or several choices."""
    cells = ('[{"x": 1, "y": 2, "rectanglelabels": ["cat"]}]', '{"choices": ["cat", "dog"]}', "cat")
    quoted = [cell.replace('"', '""') for cell in cells]
    rows = (f'/data/upload/1/{name}.jpg,"{cell}"' for name, cell in zip("abc", quoted, strict=True))
    files = {**{f"{name}.jpg": "" for name in "abc"}, "x.csv": "\n".join(("image,label", *rows))}
    found = read(tmp_path, files, Task.CLASSIFICATION)
    assert (found.labels, found.findings) == (
        {"c.jpg": "cat"},
        [("InvalidLabel", "x.csv:2"), ("InvalidLabel", "x.csv:3")],
    )


def test_an_image_of_no_class_is_unlabelled(tmp_path: Path) -> None:
    files = {"a.jpg": "", "b.jpg": "", "c.jpg": ""}
    found = read(tmp_path / "hot", files | {"x.csv": "image,cat,dog\na,1,0\nb,0,0\n"}, Task.CLASSIFICATION)
    assert found.findings == [("Unlabelled", "x.csv:3")]
    found = read(tmp_path / "named", files | {"x.csv": "image,label\na,cat\nb,\nc,none\n"}, Task.CLASSIFICATION)
    assert found.findings == [("Unlabelled", "x.csv:3")]
    assert found.labels == {"a.jpg": "cat", "c.jpg": "none"}, "none is a class"


def test_several_classes_of_an_image_are_refused_where_they_are_the_rule(tmp_path: Path) -> None:
    several = "image,cat,dog,day\na.jpg,1,0,1\nb.jpg,0,1,1\n"
    files = {"a.jpg": "", "b.jpg": "", "x.csv": several}
    with pytest.raises(InvalidInput, match=r"x\.csv:2: 2 rows name several classes.*classMap"):
        read(tmp_path, files, Task.CLASSIFICATION)
    dropped = read(tmp_path, files, Task.CLASSIFICATION, class_map={"day": ""})
    assert dropped.labels == {"a.jpg": "cat", "b.jpg": "dog"}
    names = [f"{number}.jpg" for number in range(21)]
    slip = "image,cat,dog\n" + "".join(f"{name},1,{int(name == '7.jpg')}\n" for name in names)
    found = read(tmp_path / "slip", {**dict.fromkeys(names, ""), "x.csv": slip}, Task.CLASSIFICATION)
    assert (len(found.labels), found.findings) == (20, [("InvalidLabel", "x.csv:9")])


# --- What is not clear ---

CLASSES_OR_BOXES = (Task.CLASSIFICATION, Task.DETECTION)
UNCLEAR = {
    "no image": (0, "name_of_it,label,age\nx,cat,3\n",
                 r"x\.csv:1: no column of name_of_it, label, age names the images.*header: filename"),
    "no class": (0, "image,age,sex\na.jpg,45,male\n",
                 r"x\.csv:1: no column of image, age, sex says the class.*'age' has '45'.*`label`"),
    "an image alone": (0, "image\na.jpg\n", r"x\.csv:1: no column of image says the class"),
    "no box": (1, "image,label\na.jpg,cat\n", r"x\.csv:1: no columns of image, label say a box.*xmin"),
    "no class of the box": (1, "image,x1,y1,x2,y2\na.jpg,1,2,3,4\n", r"x\.csv:1: .* say the class of a box"),
    "two labels": (0, "image,label,Label\na.jpg,cat,dog\n", r"x\.csv:1: 2 columns are called label"),
    "no header, six numbers": (1, "a.jpg,1,2,3,4,5,6\n",
                               r"x\.csv:1: the file has no header, and it is not clear.*x1, y1, x2, y2, class"),
    "a quote that stays open": (0, 'image,label\n"a.jpg,cat\nb.jpg,dog\n', r"x\.csv:2: a quote that begins here"),
    "nothing": (0, "\n\n", r"x\.csv: the file is empty"),
    "no table": (0, "x" * (1 << 20), r"x\.csv:1: the first line is longer"),
    "a cell without end": (0, "image,label\na.jpg," + "x" * 200_000, r"x\.csv:2: the row cannot be read: field larger"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_refused_with_what_is_there_and_what_is_expected(case: str, tmp_path: Path) -> None:
    number, table, words = UNCLEAR[case]
    task = CLASSES_OR_BOXES[number]
    with pytest.raises(InvalidInput, match=words):
        of_one(tmp_path, table, task)
    good = BOXES["RetinaNet"] if task == Task.DETECTION else "a.jpg,cat\n"
    beside = read(tmp_path / "beside", {"a.jpg": "", "x.csv": table, "y.csv": good}, task)
    assert [kind for kind, _ in beside.findings] == ["UnreadableFile"]
    assert beside.images["a.jpg"].classes == ("cat",)


ENCODED = {
    "UTF-8": "utf-8",
    "UTF-8 with a mark": "utf-8-sig",
    "Excel's Unicode text": "utf-16",
    "Windows": "windows-1252",
}


@pytest.mark.parametrize("case", ENCODED)
def test_encodings(case: str, tmp_path: Path) -> None:
    table = "filename;label\r\nÄ.jpg;Größe\r\n".encode(ENCODED[case])
    found = read(tmp_path, {"Ä.jpg": "", "x.csv": table}, Task.CLASSIFICATION)
    assert (found.labels, found.findings) == ({"Ä.jpg": "Größe"}, [])
