"""Captures out to labelling tools and back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from faster_coco_eval import mask as coco_mask
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_cli.captures import command
from fovea_serving.captures import Capture, CaptureStore, ImageAnswer
from fovea_serving.captures.exchange import FORMATS, export, k_centre, keep_labels, pictures, take_labels
from fovea_serving.captures.label_files import Labelled
from fovea_serving.pipeline.run_lengths import mask_of
from fovea_store import StorePath
from fovea_trainer.data.formats import Options, Tree
from fovea_trainer.data.formats.coco import open_reader
from fovea_trainer.data.records import SourceImage
from PIL import Image

START = datetime(2026, 11, 26, 10, tzinfo=UTC)
BOX = [10.0, 5.0, 30.0, 25.0]


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), (level, level, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def filled(folder: Path, seconds: dict[str, float], task: Task = Task.DETECTION) -> CaptureStore:
    """Captures `a`, `b`, … of one client, so many seconds after the start."""
    store = CaptureStore(StorePath.parse(str(folder)), timedelta(days=30))
    parts = [{"class": "RBC", "score": 0.4, "box": BOX}, {"class": "WBC", "score": 0.3, "box": [0.0, 0.0, 9.0, 9.0]}]
    known = {"objects": parts} if task == Task.DETECTION else {"classes": [{"class": "RBC", "score": 0.4}]}
    for index, (name, after) in enumerate(seconds.items()):
        image = ImageAnswer(file=f"{name}-0.png", width=60, height=40, confidence=0.02 * index, prediction=known)
        capture = Capture(
            id=name,
            time=START + timedelta(seconds=after),
            run="r-1",
            role="Stable",
            task=task,
            reason="sample",
            client="c0",
            images=(image,),
        )
        store.write(capture, [png(8 * index)])
    return store


def test_a_burst_is_one_group_and_a_pause_ends_it(tmp_path: Path) -> None:
    found = pictures(filled(tmp_path, {"a": 0, "b": 9, "c": 18, "d": 40}))
    groups = {each.found.capture.id: each.group for each in found}
    assert groups["a"] == groups["b"] == groups["c"] != groups["d"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("task", [Task.DETECTION, Task.CLASSIFICATION])
def test_predictions_go_out_and_come_back_as_labels(tmp_path: Path, form: str, task: Task) -> None:
    store = filled(tmp_path / "captures", {"a": 0, "b": 100}, task)
    export(store, pictures(store), tmp_path / "out", form)
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.is_file())
    if form == "LabelStudio":  # what its users do: a prediction becomes an annotation when it is accepted
        tasks = json.loads(file.read_text())
        tasks[0]["annotations"] = tasks[0]["predictions"]
        file.write_text(json.dumps(tasks))
    assert take_labels(store, file, form) == (1 if form == "LabelStudio" else 2, 0)
    label = pictures(store)[0].label
    assert label is not None
    field = "objects" if task == Task.DETECTION else "classes"
    first = label[field][0]  # type: ignore[index, call-overload]
    assert first["class"] == "RBC"
    assert task == Task.CLASSIFICATION or first["box"] == pytest.approx(BOX)


@pytest.mark.parametrize("form", ["CVAT", "LabelStudio"])
@pytest.mark.parametrize("task", [Task.INSTANCE_SEGMENTATION, Task.SEMANTIC_SEGMENTATION])
def test_masks_that_a_form_has_no_place_for_are_not_dropped(tmp_path: Path, form: str, task: Task) -> None:
    store = filled(tmp_path / "captures", {"a": 0}, task)
    with pytest.raises(InvalidInput, match=f"labels of {task} do not go as {form}"):
        export(store, pictures(store), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_labelled_captures_are_a_source_of_a_dataset(tmp_path: Path) -> None:
    store = filled(tmp_path / "captures", {"a": 0, "b": 100})
    export(store, pictures(store)[:1], tmp_path / "out", "COCO")
    take_labels(store, tmp_path / "out/annotations.json", "COCO")
    result = CliRunner().invoke(
        command, ["export", f"file://{tmp_path}/captures", str(tmp_path / "source"), "--labels"], catch_exceptions=False
    )
    assert "1 images" in result.output
    reader = open_reader(Tree.of(StorePath.parse(str(tmp_path / "source"))), Options(Task.DETECTION))
    (image,) = (each for each in reader.scan() if isinstance(each, SourceImage))
    assert image.labels is not None
    assert next((box.name, box.corners) for box in image.labels.boxes) == ("RBC", tuple(BOX))


def test_unknown_images_and_broken_files_change_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "captures", {"a": 0})
    export(store, pictures(store), tmp_path / "out", "COCO")
    store.delete("a")
    assert take_labels(store, tmp_path / "out/annotations.json", "COCO") == (0, 1)
    (tmp_path / "broken.xml").write_text("<annotations")
    with pytest.raises(InvalidInput, match="this is no CVAT file"):
        take_labels(store, tmp_path / "broken.xml", "CVAT")


@pytest.mark.parametrize(
    ("form", "upright", "other"),
    [
        ("CVAT", 'occluded="0"', 'rotation="12.00"'),
        ("CVAT", "<box", '<polygon label="RBC" points="1,2;3,4;5,6" /><box'),
        ("LabelStudio", '"rotation": 0', '"rotation": 12'),
        ("LabelStudio", '"type": "rectanglelabels"', '"type": "ellipselabels"'),
    ],
)
def test_other_shapes_than_upright_boxes_are_refused(tmp_path: Path, form: str, upright: str, other: str) -> None:
    store = filled(tmp_path / "captures", {"a": 0})
    export(store, pictures(store), tmp_path / "out", form)
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.is_file())
    text = file.read_text().replace('"predictions"', '"annotations"')
    file.write_text(text.replace(upright, other, 1))
    with pytest.raises(InvalidInput, match="draw upright boxes"):
        take_labels(store, file, form)
    file.write_text(text)
    assert take_labels(store, file, form) == (1, 0)


def written(folder: Path, form: str, change: Callable[[Any], Any], task: Task = Task.DETECTION) -> tuple[Any, Path]:
    """A store with one capture, and its exported file as it is once a person and a tool have changed it."""
    store = filled(folder / "captures", {"a": 0}, task)
    export(store, pictures(store), folder / "out", form)
    (file,) = (path for path in (folder / "out").iterdir() if path.is_file())
    if form == "CVAT":
        changed = change(file.read_text())
    else:
        content = json.loads(file.read_text().replace('"predictions"', '"annotations"'))
        changed = json.dumps(change(content))
    file.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    return store, file


def each(section: str, **fields: Any) -> Callable[[Any], Any]:
    """Gives all items of a section of a COCO file other fields."""

    def change(content: Any) -> Any:
        for item in content[section]:
            item.update({key: value(item[key]) if callable(value) else value for key, value in fields.items()})
        return content

    return change


def results(change: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    """Changes the results of a Label Studio annotation."""

    def changed(tasks: Any) -> Any:
        change(tasks[0]["annotations"][0]["result"])
        return tasks

    return changed


def annotated(first: dict[str, Any], second: dict[str, Any]) -> Callable[[Any], Any]:
    """A task of Label Studio with a second annotation, in which an object is missing."""

    def change(tasks: Any) -> Any:
        (whole,) = tasks[0]["annotations"]
        tasks[0]["annotations"] = [{**whole, **first}, {"result": whole["result"][:1], **second}]
        return tasks

    return change


def with_geometry_apart(listed: list[Any]) -> None:
    for number, one in enumerate([*listed]):
        named = one["value"].pop("rectanglelabels")
        listed.append({**one, "id": f"r{number}", "type": "labels", "value": {**one["value"], "labels": named}})
        one.update(id=f"r{number}", type="rectangle")


def quoted(tasks: Any) -> Any:
    tasks[0]["data"] = {"photo": tasks[0]["data"]["image"].replace("/a-0", "%2Fa-0")}
    return tasks


AS_TOOLS_WRITE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "ids are texts in one list and numbers in another": ("COCO", each("annotations", image_id=str, category_id=str)),
    "paths of Windows": ("COCO", each("images", file_name=lambda name: name.replace("/", "\\"))),
    "boxes with an empty segmentation": ("COCO", each("annotations", segmentation=[])),
    "another encoding": ("CVAT", lambda text: f'<?xml version="1.0" encoding="utf-16"?>{text}'.encode("utf-16")),
    "of two annotations the newest": ("LabelStudio", annotated({"updated_at": "2026-02"}, {"updated_at": "2026-01"})),
    "of two annotations the ground truth": ("LabelStudio", annotated({"ground_truth": True}, {"updated_at": "2026"})),
    "a relation": ("LabelStudio", results(lambda all: all.append({"type": "relation", "from_id": "a", "to_id": "b"}))),
    "a choice for a region": (
        "LabelStudio",
        results(lambda all: all.append({"type": "choices", "value": {**all[0]["value"], "choices": ["blurred"]}})),
    ),
    "labels in results of their own": ("LabelStudio", results(with_geometry_apart)),
    "another name of the field, and a path as URLs have it": ("LabelStudio", quoted),
}


@pytest.mark.parametrize("case", AS_TOOLS_WRITE)
def test_files_are_read_as_tools_write_them(case: str, tmp_path: Path) -> None:
    store, file = written(tmp_path, *AS_TOOLS_WRITE[case])
    assert take_labels(store, file, AS_TOOLS_WRITE[case][0]) == (1, 0)
    (label,) = (one.label for one in pictures(store))
    assert label == {
        "objects": [{"class": "RBC", "box": BOX}, {"class": "WBC", "box": pytest.approx([0, 0, 9, 9])}],
        "classes": [],
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_of_windows_are_read(form: str, encoding: str, tmp_path: Path) -> None:
    store, file = written(tmp_path, form, lambda content: content)
    file.write_bytes(file.read_bytes().decode().encode(encoding))
    assert take_labels(store, file, form) == (1, 0)


def first(section: str, **fields: Any) -> Callable[[Any], Any]:
    """Gives the first item of a section of a COCO file other fields."""

    def change(content: Any) -> Any:
        content[section][0].update(fields)
        return content

    return change


def more(section: str, **fields: Any) -> Callable[[Any], Any]:
    """Adds an item to a section of a COCO file, like the first but for some fields."""

    def change(content: Any) -> Any:
        content[section].append({**content[section][0], **fields})
        return content

    return change


WRONG: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "no such category": ("COCO", first("annotations", category_id=7), "annotation 1: its `category_id` 7 is not in"),
    "no such image": ("COCO", first("annotations", image_id=7), "annotation 1: its `image_id` 7 is not in the file"),
    "no category": ("COCO", first("annotations", category_id=None), "annotation 1: its `category_id` None is not in"),
    "two names of an id": ("COCO", more("categories", name="x"), "category 1: RBC and x have the same id"),
    "two images of an id": ("COCO", more("images", file_name="x"), "image 1: .*a-0.png and x have the same id"),
    "an image twice": ("COCO", more("images", id=9), "a-0.png: the image has two labels, which differ"),
    "images of another size": ("COCO", each("images", width=120), "a-0.png: it is of 120 x 40 pixels, .* has 60 x 40"),
    "no box": ("COCO", first("annotations", bbox=None), "annotation 1: it has neither `bbox` nor `segmentation`"),
    "half a box": ("COCO", first("annotations", bbox=[1, 2]), r"annotation 1: `bbox` is \[1, 2\], not \[x, y, width"),
    "half a mask": (
        "COCO",
        first("annotations", segmentation={"size": [40, 60], "counts": [9]}),
        "annotation 1: the run lengths of a mask must sum to 60 x 40",
    ),
    "a line": ("COCO", first("annotations", segmentation=[[1, 2, 3, 4]]), "annotation 1: `segmentation` is .* neither"),
    "another format": ("COCO", lambda content: content["images"], "this is no COCO file: it has no list `images`"),
    "CVAT of another size": ("CVAT", lambda text: text.replace('"60"', '"61"'), "a-0.png: it is of 61 x 40 pixels"),
    "PascalVOC": ("CVAT", lambda _: "<annotation/>", "this is no CVAT file of images"),
    "a video": ("CVAT", lambda _: "<annotations><track/></annotations>", "this is no CVAT file of images"),
    "a box without a side": ("CVAT", lambda text: text.replace("xtl", "x"), "a-0.png: `xtl` of a <box> is '', no numb"),
    "a box without a label": ("CVAT", lambda text: text.replace("label=", "l="), "a-0.png: a <box> has no label"),
    "a rectangle without a label": (
        "LabelStudio",
        results(lambda all: all[0]["value"].update(rectanglelabels=[])),
        "task 1, result 1: the rectangle has no label",
    ),
    "Label Studio's of another size": (
        "LabelStudio",
        results(lambda all: [one.update(original_width=61) for one in all]),
        "a-0.png: it is of 61 x 40 pixels, the image has 60 x 40",
    ),
    "two images of a task": (
        "LabelStudio",
        lambda tasks: [{**tasks[0], "data": {"left": "a-0.png", "right": "b-0.png"}}],
        "task 1: which of its `data` is the image is not known",
    ),
    "JSON-MIN": ("LabelStudio", lambda _: [{"image": "a-0.png", "label": []}], "entry 1: .* an entry has no `data`"),
    "COCO": ("LabelStudio", lambda _: {"images": [], "annotations": []}, "entry 1: .* an entry has no `data`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_be_a_wrong_label_is_refused_where_it_stands(case: str, tmp_path: Path) -> None:
    form, change, words = WRONG[case]
    store, file = written(tmp_path, form, change)
    with pytest.raises(InvalidInput, match=words):
        take_labels(store, file, form)
    assert [one.label for one in pictures(store)] == [None]


def test_two_classes_of_an_image_are_refused(tmp_path: Path) -> None:
    two = results(lambda all: all[0]["value"].update(choices=["RBC", "WBC"]))
    store, file = written(tmp_path, "LabelStudio", two, Task.CLASSIFICATION)
    with pytest.raises(InvalidInput, match=r"a-0\.png: the image has the classes RBC, WBC"):
        take_labels(store, file, "LabelStudio")


def test_images_that_are_no_captures_are_counted(tmp_path: Path) -> None:
    store, file = written(tmp_path, "COCO", each("images", file_name="holiday.png"))
    assert take_labels(store, file, "COCO") == (0, 1)


def test_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    """Parts of two points, as contours have them, have no area; a box that is missing is the one around the mask."""
    outline, runs = [10, 5, 30, 5, 30, 25, 10, 25], [0, 40, 2360]
    drawn = coco_mask.decode(coco_mask.frPyObjects([outline], 40, 60))[..., 0]
    content = {
        "images": [{"id": 1, "file_name": "a-0.png", "width": 60, "height": 40}],
        "categories": [{"id": 3, "name": "RBC"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 2, 2], outline]},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 3,
                "segmentation": {"size": [40, 60], "counts": runs},
                "iscrowd": 1,
            },
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    store = filled(tmp_path / "captures", {"a": 0}, Task.INSTANCE_SEGMENTATION)
    assert take_labels(store, tmp_path / "coco.json", "COCO") == (1, 0)
    (label,) = (one.label for one in pictures(store))
    assert label is not None
    polygon, crowd = label["objects"]  # type: ignore[misc]
    assert np.array_equal(mask_of(polygon["mask"], (60, 40)), drawn)  # type: ignore[index, call-overload]
    assert [one["box"] for one in (polygon, crowd)] == [[10, 5, 30, 25], [0, 0, 1, 40]]  # type: ignore[index, call-overload]


def test_objects_with_masks_make_no_class_of_their_image(tmp_path: Path) -> None:
    drawn = each("annotations", segmentation=[[10, 5, 30, 5, 30, 25]])
    store, file = written(tmp_path, "COCO", drawn)
    take_labels(store, file, "COCO")
    export(store, pictures(store), tmp_path / "labelled", "CVAT", labels=True)
    text = (tmp_path / "labelled/annotations.xml").read_text()
    assert (text.count("<box"), text.count("<tag")) == (2, 0)


def test_labels_of_another_task_are_refused_and_none_is_kept(tmp_path: Path) -> None:
    store = filled(tmp_path / "captures", {"a": 0, "b": 100}, Task.CLASSIFICATION)
    right = Labelled("a-0.png", {"classes": [{"class": "WBC"}]})
    wrong = Labelled("b-0.png", {"objects": [{"class": "WBC", "box": [0.0, 0.0, 2.0, 2.0]}]})
    with pytest.raises(InvalidInput, match="it does not fit the task Classification"):
        keep_labels(store, [right, wrong])
    assert [each.label for each in pictures(store)] == [None, None]
    nothing = Labelled("b-0.png", {"objects": [], "classes": []})
    assert keep_labels(store, [right, nothing]) == (1, 0), "b is not labelled yet"


def test_the_order_prefers_the_unsure_and_avoids_repetition() -> None:
    places = np.array([[0.0], [0.0], [1.0], [0.1]])
    assert k_centre(places, np.array([0.9, 0.8, 0.5, 0.5])) == [0, 2, 3, 1]
    assert sorted(k_centre(np.zeros((5, 3)), np.ones(5))) == list(range(5))


def test_captures_are_listed_and_deleted_by_hand(tmp_path: Path) -> None:
    filled(tmp_path / "captures", {"a": 0, "b": 100})
    uri = f"file://{tmp_path}/captures"
    assert len(CliRunner().invoke(command, ["list", uri]).output.splitlines()) == 2
    assert "a: deleted\nx: nothing is kept" in CliRunner().invoke(command, ["delete", uri, "a", "x"]).output
    assert len(CliRunner().invoke(command, ["list", uri]).output.splitlines()) == 1


def test_days_of_a_deleted_deployment_are_deleted_by_age(tmp_path: Path) -> None:
    now = (datetime.now(UTC) - START).total_seconds()
    store = filled(tmp_path / "captures", {"a": now - 3 * 86400, "b": now})
    uri = f"file://{tmp_path}/captures"
    assert CliRunner().invoke(command, ["expire", uri, "--older", "36h"]).output == "1 day deleted\n"
    assert [found.capture.id for found in store.all()] == ["b"]
    assert CliRunner().invoke(command, ["expire", uri, "--older", "old"]).exit_code == 2
