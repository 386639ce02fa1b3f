"""Label Studio's JSON export. Images have 100 x 100 pixels, so that percents are pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_support import SourceRead, draw, read_all, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_trainer.data.formats.label_studio import decode_alpha
from fovea_trainer.data.regions import pixels_of
from oracles.oracle_sets import MASKS, rgba

ORACLE = json.loads((Path(__file__).parents[1] / "oracles/label_studio.json").read_text())
BOX = {"x": 10, "y": 20.0, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}
CORNERS = (10, 20, 40, 60)
NO = "a1b2c3d4"


def result(value: Mapping[str, Any], kind: str | None = None, size: int = 100, **more: Any) -> dict[str, Any]:
    """A region as the tool writes it; its type is the key of its labels."""
    named = next((key for key in value if key.endswith(("labels", "choices"))), "")
    sizes = {"original_width": size, "original_height": size, "image_rotation": 0}
    names = {"id": "r1", "from_name": "label", "to_name": "image", "origin": "manual"}
    return {**sizes, **names, "type": kind or named, "value": value, **more}


def annotation(*results: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False, **more}


def task(*annotations: Any, image: str = f"/data/upload/3/{NO}-a.jpg", **more: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "annotations": list(annotations),
        "drafts": [],
        "predictions": [],
        "data": {"image": image},
        **more,
    }


def export(*tasks: Any) -> str:
    return json.dumps(tasks, indent=1)


def read(root: Path, files: Mapping[str, str | bytes], task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read_source(Format.LABEL_STUDIO, write(root, files), task, **options)


def one(root: Path, *results: Any, to: Task = Task.DETECTION, **options: object) -> SourceRead:
    """What is read of one image with such results."""
    return read(root, {"a.jpg": "", "tasks.json": export(task(annotation(*results)))}, to, **options)


# --- Which image is meant ---

PLACES = {
    "an upload": (f"/data/upload/3/{NO}-a.jpg", "images/a.jpg"),
    "an upload, by the tool's name": (f"/data/upload/3/{NO}-a.jpg", f"upload/{NO}-a.jpg"),
    "an upload with its host": (f"https://label.example/data/upload/3/{NO}-a.jpg", "a.jpg"),
    "an upload whose name was changed": (f"/data/upload/3/{NO}-my_pic_1.jpg", "my pic (1).jpg"),
    "an upload without digits": ("/data/upload/3/a.jpg", "a.jpg"),
    "local files": ("/data/local-files/?d=lab/x%20y/a.jpg", "x y/a.jpg"),
    "S3": ("s3://bucket/lab/a.jpg", "lab/a.jpg"),
    "Google": ("gs://bucket/lab/a.jpg", "a.jpg"),
    "the web, signed": ("https://host/lab/a.jpg?X-Amz-Signature=1/b.jpg", "a.jpg"),
    "a path": ("images/a.jpg", "images/a.jpg"),
}


@pytest.mark.parametrize("case", PLACES)
def test_places(case: str, tmp_path: Path) -> None:
    written, path = PLACES[case]
    for number, data in enumerate(({"image": written}, {"id": "x7", "photo": written})):
        files = {path: "", "other/z.jpg": "", "tasks.json": export(task(annotation(result(BOX)), data=data))}
        found = read(tmp_path / str(number), files)
        assert (found.boxes, found.findings) == ({path: [("cat", *CORNERS)]}, [])


def test_an_image_that_is_not_there_or_could_be_two_or_is_listed_twice_is_told(tmp_path: Path) -> None:
    upload, labels = "/data/upload/3/{}-{}.jpg", annotation(result(BOX))
    names = ("a", "b", "c", "d", "d")
    tasks = [task(labels, image=upload.format(f"0000000{number}", name)) for number, name in enumerate(names)]
    tasks[-1]["annotations"] = [annotation()]
    text = "[" + ",\n".join(map(json.dumps, tasks)) + "]"
    files = {"a.jpg": "", "x/b.jpg": "", "y/b.jpg": "", "d.jpg": "", "tasks.json": text}
    found = read(tmp_path, files)
    assert found.boxes == {"a.jpg": [("cat", *CORNERS)]}
    assert found.findings == [
        *(("ListedTwice", "tasks.json:4"), ("MissingImage", "tasks.json:2"), ("MissingImage", "tasks.json:3")),
    ]
    assert "could be x/b.jpg or y/b.jpg" in found.source_findings[0].message


def test_folders_name_the_splits(tmp_path: Path) -> None:
    labels = annotation(result(BOX))
    tasks = [task(labels, image=f"/data/local-files/?d={split}/a.jpg") for split in ("train", "test")]
    found = read(tmp_path, {"train/a.jpg": "", "test/a.jpg": "", "tasks.json": export(*tasks)})
    assert found.splits == {"train/a.jpg": "train", "test/a.jpg": "test"}


# --- Which annotation counts ---

OTHER = result({**BOX, "rectanglelabels": ["dog"]})
OLD, NEW = {"updated_at": "2026-01-05T10:00:00.1Z"}, {"updated_at": "2026-01-05T10:00:01.1Z"}
COUNTS: dict[str, tuple[tuple[dict[str, Any], ...], str]] = {
    "the newest": ((annotation(result(BOX), **NEW), annotation(OTHER, **OLD)), "cat"),
    "the newest that is none of the cancelled": (
        (annotation(OTHER, **(NEW | {"was_cancelled": True})), annotation(result(BOX), **OLD)),
        "cat",
    ),
    "the newest that was not skipped": (
        (annotation(OTHER, **NEW, skipped=True), annotation(result(BOX), **OLD)),
        "cat",
    ),
    "the ground truth": (
        (annotation(result(BOX), **(OLD | {"ground_truth": True})), annotation(OTHER, **NEW)),
        "cat",
    ),
    "the last": ((annotation(OTHER), annotation(result(BOX))), "cat"),
}


@pytest.mark.parametrize("case", COUNTS)
def test_annotations(case: str, tmp_path: Path) -> None:
    annotations, name = COUNTS[case]
    found = read(tmp_path, {"a.jpg": "", "tasks.json": export(task(*annotations))})
    assert (found.boxes, found.findings) == ({"a.jpg": [(name, *CORNERS)]}, [])
    legacy = task() | {"completions": list(annotations)}
    del legacy["annotations"]
    assert read(tmp_path, {"tasks.json": export(legacy)}).boxes == found.boxes


UNLABELLED = {
    "nobody": task(),
    "a model alone": task(predictions=[{"result": [result(BOX)], "score": 0.9}]),
    "a draft": task(drafts=[{"result": [result(BOX)]}]),
    "who skipped it": task(annotation(result(BOX), was_cancelled=True)),
    "nothing that says what": task({"id": 3}),
}


@pytest.mark.parametrize("case", UNLABELLED)
def test_a_task_that_nobody_has_finished_is_not_labelled_and_one_without_regions_shows_nothing(
    case: str, tmp_path: Path
) -> None:
    tasks = (UNLABELLED[case], task(annotation(), image="b.jpg"))
    found = read(tmp_path, {"a.jpg": "", "b.jpg": "", "tasks.json": export(*tasks)})
    assert found.boxes == {"b.jpg": []}
    assert found.findings == [("Unlabelled", "tasks.json:2")]


# --- Shapes ---

POINTS = [[10, 20], [40, 20], [40, 60], [10, 60]]
POLYGON = {"points": POINTS, "closed": True, "polygonlabels": ["cat"]}
COS, SIN = math.cos(math.pi / 6), math.sin(math.pi / 6)
SHAPES: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "rectangle": (result(BOX), CORNERS),
    "polygon": (result(POLYGON), CORNERS),
    "a rectangle turned by a right angle": (result(BOX | {"x": 60, "rotation": 90}), (20, 20, 60, 50)),
    "a rectangle turned by 30 degrees": (
        result(BOX | {"x": 50, "rotation": 30}),
        (50 - 40 * SIN, 20, 50 + 30 * COS, 20 + 30 * SIN + 40 * COS),
    ),
    "ellipse": (
        result({"x": 50, "y": 40, "radiusX": 30, "radiusY": 10, "rotation": 0, "ellipselabels": ["cat"]}),
        (20, 30, 80, 50),
    ),
    "a picture that was turned for the labelling": (result(BOX, image_rotation=90), CORNERS),
    "a rectangle and its label apart": (
        result({**{key: BOX[key] for key in ("x", "y", "width", "height")}, "labels": ["cat"]}),
        CORNERS,
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_box_around_a_shape(case: str, tmp_path: Path) -> None:
    shape, corners = SHAPES[case]
    geometry = {key: value for key, value in shape["value"].items() if not key.endswith("labels")}
    found = one(tmp_path, result(geometry, "rectangle"), shape) if "apart" in case else one(tmp_path, shape)
    ((name, *sides, _),) = found.images["a.jpg"].content.boxes
    assert (name, sides) == ("cat", pytest.approx(corners, abs=1e-4))
    assert found.findings == []


def test_percents_are_of_the_width_and_the_height(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", 200, 50)
    sized = {**result(BOX | {"rotation": 90, "x": 50}), "original_width": 200, "original_height": 50}
    found = read(tmp_path, {"tasks.json": export(task(annotation(sized)))})
    assert found.boxes == {"a.jpg": [("cat", 80, 10, 100, 50)]}, "turned in pixels, not in percents"


@pytest.mark.parametrize("name", MASKS)
def test_brush_strokes_are_unpacked_as_the_tool_packs_them(name: str) -> None:
    width, height = MASKS[name]
    assert (decode_alpha(bytes(ORACLE[name]), width, height, "x") == rgba(name)[..., 3]).all()


def test_runs_of_single_values_are_unpacked() -> None:
    """By hand: 8 values of 8 bits; lengths in 1, 2, 3 and 4 bits; 5 values one by one, then one of three."""
    fields = ((8, 32), (7, 5), *((length, 4) for length in range(4)))
    literal = ((0, 1), (2, 2), (4, 3), *((value, 8) for value in (1, 2, 3, 4, 5)))
    repeated = ((1, 1), (1, 2), (2, 2), (9, 8))
    bits = "".join(f"{value:0{length}b}" for value, length in (*fields, *literal, *repeated))
    data = int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes((len(bits) + 7) // 8, "big")
    assert decode_alpha(data, 1, 2, "x").tolist() == [[4], [9]]
    with pytest.raises(InvalidInput, match="end early"):
        decode_alpha(data[:-1], 1, 2, "x")


def test_the_pixels_of_shapes(tmp_path: Path) -> None:
    width, height = MASKS["soft"]
    strokes = result({"format": "rle", "rle": ORACLE["soft"], "brushlabels": ["cat"]}, size=32)
    draw(tmp_path / "a.png", width, height)
    write(tmp_path, {"tasks.json": export(task(annotation(strokes), image="a.png"))})
    ((_, labels),) = read_all(Format.LABEL_STUDIO, tmp_path, Task.INSTANCE_SEGMENTATION)
    assert labels.boxes[0].outline is not None
    assert (pixels_of(labels.boxes[0].outline, width, height) == (rgba("soft")[..., 3] > 0)).all()
    y, x = np.nonzero(rgba("soft")[..., 3])
    assert labels.boxes[0].corners == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    write(tmp_path, {"b.jpg": "", "tasks.json": export(task(annotation(result(POLYGON)), image="b.jpg"))})
    ((_, labels),) = read_all(Format.LABEL_STUDIO, tmp_path, Task.SEMANTIC_SEGMENTATION)
    assert pixels_of(labels.regions[0], 100, 100).sum() == 30 * 40


UNUSABLE = {
    "keypoint": result({"x": 5, "y": 6, "width": 1, "keypointlabels": ["cat"]}),
    "vector": result({"vertices": [{"x": 1, "y": 2}], "vectorlabels": ["cat"]}),
    "bitmask": result({"imageDataURL": "data:image/png;base64,AAAA", "bitmasklabels": ["cat"]}),
}
BAD = {
    "no label": result({key: value for key, value in BOX.items() if key != "rectanglelabels"}, "rectangle", id="r9"),
    "no name": result(BOX | {"rectanglelabels": []}),
    "words": result(BOX | {"x": "left"}),
    "not a number": result(BOX | {"x": float("nan")}),
    "no width": result({key: value for key, value in BOX.items() if key != "width"}),
    "no size": result(BOX, original_width=None),
    "two points": result(POLYGON | {"points": POINTS[:2]}),
    "points of other things": result(POLYGON | {"points": [1, [2], "x", {}]}),
    "strokes of another size": result({"format": "rle", "rle": ORACLE["half"], "brushlabels": ["cat"]}),
    "strokes that are none": result({"format": "rle", "rle": [1, 256, "x"], "brushlabels": ["cat"]}),
    "strokes that end early": result({"rle": ORACLE["soft"][:40], "brushlabels": ["cat"]}, size=32),
    "strokes of a huge picture": result({"rle": [255] * 90, "brushlabels": ["cat"]}, size=2**19),
}


@pytest.mark.parametrize("case", [*UNUSABLE, *BAD])
def test_a_bad_region_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    bad = UNUSABLE.get(case) or BAD[case]
    found = one(tmp_path, bad, result(BOX, id="r2"))
    assert (found.boxes, found.findings) == (
        {"a.jpg": [("cat", *CORNERS)]},
        [("DegenerateBox" if case == "keypoint" else "InvalidLabel", f"tasks.json:2, result {bad['id']}")],
    )
    if case in UNUSABLE:
        assert one(tmp_path, bad, class_map={"cat": ""}).findings == []


def test_where_pixels_are_learned_those_of_boxes_are_ignored(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no object has an outline"):
        one(tmp_path, result(BOX), to=Task.INSTANCE_SEGMENTATION)
    both = (result(BOX), result(POLYGON | {"points": [[60, 5], [90, 5], [90, 50]]}, id="r2"))
    for to in (Task.INSTANCE_SEGMENTATION, Task.SEMANTIC_SEGMENTATION):
        found = one(tmp_path, *both, to=to, classes=("background", "cat"))
        assert found.findings == [("IgnoredRegion", "tasks.json:2, result r1")]
        assert (
            one(tmp_path, *both, BAD["words"], to=to).images["a.jpg"].digest == "" or to == Task.INSTANCE_SEGMENTATION
        )


# --- Classes of images ---


def test_choices_are_the_classes_of_images(tmp_path: Path) -> None:
    cat, both = result({"choices": ["cat"]}), result({"choices": ["cat", "dog"]})
    of_region = result({**BOX, "choices": ["blurred"]}, "choices")
    annotations = ([cat, result(BOX), of_region], [result(BOX)], [both])
    tasks = [task(annotation(*each), image=f"{name}.jpg") for name, each in zip("abc", annotations, strict=True)]
    text = "[" + ",\n".join(map(json.dumps, tasks)) + "]"
    found = read(tmp_path, {**{f"{name}.jpg": "" for name in "abc"}, "tasks.json": text}, Task.CLASSIFICATION)
    assert found.labels == {"a.jpg": "cat"}
    assert found.findings == [("InvalidLabel", "tasks.json:3"), ("Unlabelled", "tasks.json:2")]


# --- Several images of a task ---

PAIR = {"left": "/data/upload/1/a.jpg", "right": "/data/upload/1/b.jpg"}
LEFT, RIGHT = result(BOX, to_name="left"), result({**BOX, "x": 50, "rectanglelabels": ["dog"]}, to_name="right")
CAT, DOG = [("cat", *CORNERS)], [("dog", 50, 20, 80, 60)]
OF_SEVERAL: dict[str, tuple[dict[str, str], list[Any], dict[str, Any]]] = {
    "each by its tag": (PAIR, [LEFT, RIGHT], {"a.jpg": CAT, "b.jpg": DOG}),
    "one that nobody has drawn on": (PAIR, [RIGHT], {"b.jpg": DOG}),
    "the one that is called so": ({"thumb": "b.jpg", "image": "a.jpg"}, [result(BOX, to_name="img")], {"a.jpg": CAT}),
    "another name beside an address": ({"image": "https://x/17", "name": "a.jpg"}, [result(BOX)], {"a.jpg": CAT}),
    "tags without a field": ({"image": "a.jpg", "x": "b.jpg"}, [result(BOX, to_name="y"), RIGHT], {}),
    "one tag, and no field of it": (PAIR, [result(BOX)], {}),
    "nothing drawn": (PAIR, [], {}),
}


@pytest.mark.parametrize("case", OF_SEVERAL)
def test_regions_are_of_the_image_that_they_are_drawn_on(case: str, tmp_path: Path) -> None:
    data, results, expected = OF_SEVERAL[case]
    labelled = {**task(annotation(*results)), "data": data}
    other = task(annotation(), image="c.jpg")
    found = read(tmp_path, {"a.jpg": "", "b.jpg": "", "c.jpg": "", "tasks.json": json.dumps([labelled, other])})
    assert found.boxes == {**expected, "c.jpg": []}
    assert found.findings == ([] if expected else [("InvalidLabel", "tasks.json:1")])


def test_the_image_of_a_region_is_not_another_of_its_task(tmp_path: Path) -> None:
    labelled = {**task(annotation(LEFT, RIGHT)), "data": PAIR}
    found = read(tmp_path, {"b.jpg": "", "tasks.json": export(labelled)})
    assert (found.boxes, found.findings) == ({"b.jpg": DOG}, [("MissingImage", "tasks.json:2")])


# --- Other files ---

REFUSED = {
    "JSON-MIN": (
        json.dumps([{"image": "a.jpg", "id": 1, "label": [BOX], "annotator": 1, "annotation_id": 1}]),
        "JSON-MIN",
        "export the project as JSON",
    ),
    "COCO": ('{"images": []}', "begins with '{'", "it is of another format, or broken; move it away"),
    "a list of other things": ('[{"file": "a.jpg"}]', "no tasks", None),
    "nothing": ("", "expected", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_alone_and_told_beside_others(case: str, tmp_path: Path) -> None:
    text, words, remedy = REFUSED[case]
    with pytest.raises(InvalidInput, match=words) as refused:
        read(tmp_path, {"a.jpg": "", "x.json": text})
    assert remedy in (None, refused.value.remedy)
    found = read(tmp_path, {"tasks.json": export(task(annotation(result(BOX))))})
    assert (found.boxes, found.findings) == ({"a.jpg": [("cat", *CORNERS)]}, [("UnreadableFile", "x.json:1")])


def test_an_entry_that_is_no_task_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    entries = ["7", '{"data": {}}', '{"data": {"image": ["a.jpg"]}}', json.dumps(task(annotation(result(BOX))))]
    found = read(tmp_path, {"a.jpg": "", "tasks.json": f"[{', '.join(entries)}]".replace(", ", ",\n", 1)})
    assert found.boxes == {"a.jpg": [("cat", *CORNERS)]}
    assert found.findings == [
        ("InvalidLabel", place) for place in ("tasks.json:1", "tasks.json:2", "tasks.json:2, entry 3")
    ]
