"""CVAT's own XML as its exports have it. Images have 100 x 100 pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from dataset_support import SourceRead, read_all, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_api.errors import InvalidInput
from fovea_store import StorePath
from fovea_trainer.data.formats import Options, Tree, open_reader
from fovea_trainer.data.records import NamedClass
from fovea_trainer.data.regions import draw, pixels_of
from numpy.typing import NDArray

BOX = '<box label="cat" source="manual" occluded="0" xtl="10.00" ytl="20.00" xbr="40.00" ybr="60.00" z_order="0"></box>'
CORNERS = (10, 20, 40, 60)
LABELS = (
    "<labels><label><name>cat</name><type>any</type></label><label><name>dog</name><type>tag</type></label></labels>"
)


def image(shapes: str = BOX, name: str = "a.jpg", more: str = "", size: int = 100) -> str:
    return f'<image id="0" name="{name}" {more} width="{size}" height="{size}">\n{shapes}</image>'


def cvat(*parts: str, meta: str = f"<task>{LABELS}</task>") -> str:
    text = "\n".join(("<annotations>", "<version>1.1</version>", f"<meta>{meta}</meta>", *parts, "</annotations>"))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'


def read(root: Path, files: Mapping[str, str | bytes], task: Task = Task.DETECTION, **options: object) -> SourceRead:
    return read_source(Format.CVAT, write(root, files), task, **options)


def one(root: Path, shapes: str, task: Task = Task.DETECTION, **options: object) -> SourceRead:
    """What is read of the shapes of one image, in the last lines but one of annotations.xml: line 6 on."""
    return read(root, {"images/a.jpg": "", "annotations.xml": cvat(image(shapes))}, task, **options)


# --- Which image is meant, and its split ---

PLACES: dict[str, tuple[dict[str, str], dict[str, str | None]]] = {
    "a task": ({"images/a.jpg": "", "annotations.xml": cvat(image())}, {"images/a.jpg": None}),
    "a task, beside": ({"a.jpg": "", "annotations.xml": cvat(image())}, {"a.jpg": None}),
    "a path": ({"images/x/a.jpg": "", "annotations.xml": cvat(image(name="x/a.jpg"))}, {"images/x/a.jpg": None}),
    "tasks in folders": (
        {"1/images/a.jpg": "", "1/annotations.xml": cvat(image()),
         "2/images/a.jpg": "", "2/annotations.xml": cvat(image())},
        {"1/images/a.jpg": None, "2/images/a.jpg": None},
    ),
    "a project": (
        {"images/Train/a.jpg": "", "images/Validation/a.jpg": "", "images/default/a.jpg": "",
         "annotations.xml": cvat(*(image(more=f'subset="{subset}" task_id="1"')
                                   for subset in ("Train", "Validation", "default")))},
        {"images/Train/a.jpg": "train", "images/Validation/a.jpg": "validation", "images/default/a.jpg": None},
    ),
    "subsets, the images together": (
        {"images/a.jpg": "", "images/b.jpg": "",
         "annotations.xml": cvat(image(more='subset="train"'), image(name="b.jpg", more='subset="test"'))},
        {"images/a.jpg": "train", "images/b.jpg": "test"},
    ),
    "frames of a video": (
        {"images/frame_000007.PNG": "", "annotations.xml": cvat(image(name="frame_000007"))},
        {"images/frame_000007.PNG": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_places(case: str, tmp_path: Path) -> None:
    files, splits = PLACES[case]
    found = read(tmp_path, files)
    assert (found.splits, found.findings) == (splits, [])
    assert {box for boxes in found.boxes.values() for box in boxes} == {("cat", *CORNERS)}


def test_an_image_that_is_not_there_or_listed_twice_is_told_and_one_without_shapes_shows_nothing(
    tmp_path: Path,
) -> None:
    listed = cvat(image(), image(name="b.jpg"), image("", "c.jpg"), image(name="d.jpg"), image("", name="d.jpg"))
    found = read(tmp_path, {**{f"images/{name}.jpg": "" for name in "acd"}, "annotations.xml": listed})
    assert found.boxes == {"images/a.jpg": [("cat", *CORNERS)], "images/c.jpg": []}
    assert found.findings == [("ListedTwice", "annotations.xml:11"), ("MissingImage", "annotations.xml:7")]


def test_an_image_of_jobs_that_overlap_is_one_where_they_agree(tmp_path: Path) -> None:
    jobs = {f"{job}/annotations.xml": cvat(image()) for job in ("job_1", "job_2")}
    found = read(tmp_path, {"images/a.jpg": "", **jobs})
    assert (found.boxes, found.findings) == ({"images/a.jpg": [("cat", *CORNERS)]}, [])
    found = read(tmp_path, {"job_2/annotations.xml": cvat(image(BOX.replace("cat", "dog")))})
    assert (found.boxes, found.findings) == ({}, [("ListedTwice", "job_1/annotations.xml:5")])


def test_files_of_other_formats_are_told_and_alone_refused(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.xml": "<annotation><object/></annotation>", "b.xml": "<annotations><image"}
    with pytest.raises(InvalidInput, match="the root element is <annotation>, not <annotations>"):
        read(tmp_path, files)
    found = read(tmp_path, {"annotations.xml": cvat(image())})
    assert found.boxes == {"a.jpg": [("cat", *CORNERS)]}
    assert found.findings == [("UnreadableFile", "a.xml:1"), ("UnreadableFile", "b.xml:1")]


def test_a_long_file_is_read_child_by_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fovea_trainer.data.formats.xml_tree.BLOCK", 7)
    monkeypatch.setattr("fovea_trainer.data.formats.xml_tree.MAX_CHILD", 400)
    names = [f"{number}.jpg" for number in range(5)]
    text = cvat(*(image(name=name) for name in names)).replace("cat", "Γάτα")
    files = {f"images/{name}": "" for name in names}
    found = read(tmp_path, {**files, "annotations.xml": text.encode("utf-16")})
    assert found.boxes == {f"images/{name}": [("Γάτα", *CORNERS)] for name in names}
    monkeypatch.setattr("fovea_trainer.data.formats.xml_tree.MAX_CHILD", 100)
    with pytest.raises(InvalidInput, match="longer than 100 characters"):
        read(tmp_path, {"annotations.xml": cvat(*(image(name=name) for name in names))})


# --- Shapes ---


def run_lengths(pixels: NDArray[np.bool_]) -> str:
    """CVAT's own: along the rows, the first of the background."""
    runs = [(value, len(list(group))) for value, group in itertools.groupby(pixels.ravel().tolist())]
    return ", ".join(str(length) for _, length in ([] if not runs[0][0] else [(False, 0)]) + runs)


RING = np.ones((20, 30), bool)
RING[5:9, 10:30] = False
POLYGON = '<polygon label="cat" points="10.00,20.00;40.00,20.00;40.00,60.00;10.00,60.00"{}></polygon>'
MASK = f'<mask label="cat" rle="{run_lengths(RING)}" left="60" top="7" width="30" height="20" z_order="0"></mask>'
AROUND = {
    "polygon": (POLYGON.format(""), CORNERS),
    "a box turned by a right angle": (BOX.replace("z_order", 'rotation="90.00" z_order'), (5, 25, 45, 55)),
    "a box turned by 30 degrees": (
        BOX.replace("z_order", 'rotation="30.00" z_order'),
        (
            *(25 - 15 * math.cos(math.pi / 6) - 10, 40 - 7.5 - 20 * math.cos(math.pi / 6)),
            *(25 + 15 * math.cos(math.pi / 6) + 10, 40 + 7.5 + 20 * math.cos(math.pi / 6)),
        ),
    ),
    "ellipse": ('<ellipse label="cat" cx="50" cy="40" rx="30" ry="10"></ellipse>', (20, 30, 80, 50)),
    "a turned ellipse": (
        '<ellipse label="cat" cx="50" cy="40" rx="30" ry="10" rotation="45"></ellipse>',
        (*(50 - math.sqrt(500), 40 - math.sqrt(500)), *(50 + math.sqrt(500), 40 + math.sqrt(500))),
    ),
    "mask": (MASK, (60, 7, 90, 27)),
}


@pytest.mark.parametrize("case", AROUND)
def test_the_box_around_a_shape(case: str, tmp_path: Path) -> None:
    shape, corners = AROUND[case]
    found = one(tmp_path, shape)
    ((name, *sides, difficult),) = found.images["images/a.jpg"].content.boxes
    assert (name, sides, difficult) == ("cat", pytest.approx(corners, abs=1e-4), False)
    assert found.findings == []


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (POLYGON.format(""), 30 * 40),
        (BOX.replace("z_order", 'rotation="30.00" z_order'), 30 * 40),
        ('<ellipse label="cat" cx="50" cy="40" rx="30" ry="20" rotation="20"></ellipse>', math.pi * 600),
        (MASK, int(RING.sum())),
    ],
    ids=["polygon", "turned box", "ellipse", "mask"],
)
def test_the_pixels_of_a_shape(shape: str, area: float, tmp_path: Path) -> None:
    write(tmp_path, {"images/a.jpg": "", "annotations.xml": cvat(image(shape))})
    ((_, labels),) = read_all(Format.CVAT, tmp_path, Task.INSTANCE_SEGMENTATION)
    assert labels.boxes[0].outline is not None
    pixels = pixels_of(labels.boxes[0].outline, 100, 100)
    assert pixels.sum() == pytest.approx(area, rel=0.03)
    if shape == MASK:
        assert (pixels[7:27, 60:90] == RING).all()
        assert pixels.sum() == RING.sum()


def test_shapes_lie_over_each_other_by_their_height(tmp_path: Path) -> None:
    low, high = POLYGON.format(' z_order="-1"').replace("cat", "dog"), POLYGON.format(' z_order="2"')
    write(tmp_path, {"images/a.jpg": "", "annotations.xml": cvat(image(high + low + MASK))})
    ((_, labels),) = read_all(Format.CVAT, tmp_path, Task.SEMANTIC_SEGMENTATION)
    drawn = draw(labels.regions, ["background", "cat", "dog"], 100, 100)
    assert np.bincount(drawn.ravel()).tolist() == [10_000 - 1200 - RING.sum(), 1200 + RING.sum()]


def test_polygons_of_a_group_are_one_object_where_label_and_image_agree(tmp_path: Path) -> None:
    other = POLYGON.replace("10.00", "70.00").replace("40.00", "90.00")
    grouped = [shape.format(' group_id="3"') for shape in (POLYGON, other, POLYGON.replace("cat", "dog"))]
    found = one(tmp_path, "".join([*grouped, POLYGON.format(' group_id="0"'), other.format(' group_id="0"')]))
    assert found.boxes["images/a.jpg"] == [
        *(("cat", 10, 20, 40, 60), ("cat", 10, 20, 90, 60)),
        *(("cat", 70, 20, 90, 60), ("dog", 10, 20, 40, 60)),
    ]


LINES = {
    "polyline": '<polyline label="cat" points="1.00,2.00;30.00,40.00"></polyline>',
    "points": '<points label="cat" points="1.00,2.00"></points>',
    "cuboid": '<cuboid label="cat" xtl1="1" ytl1="2" xbl1="1" ybl1="9" xtr1="9" ytr1="2" xbr1="9" ybr1="9"></cuboid>',
    "skeleton": '<skeleton label="cat"><points label="1" outside="0" points="1.00,2.00"></points></skeleton>',
}


@pytest.mark.parametrize("case", LINES)
def test_shapes_that_surround_nothing_are_told(case: str, tmp_path: Path) -> None:
    found = one(tmp_path, LINES[case] + BOX)
    assert found.boxes == {"images/a.jpg": [("cat", *CORNERS)]}
    assert found.findings == [("DegenerateBox", "annotations.xml:6")]
    assert one(tmp_path, LINES[case] + BOX, class_map={"cat": ""}).findings == []
    found = one(tmp_path, LINES[case] + POLYGON.format(""), Task.INSTANCE_SEGMENTATION)
    assert ("IgnoredRegion", "annotations.xml:6") in found.findings
    assert ("cat", *CORNERS) in found.boxes["images/a.jpg"]


BAD = {
    "no label": BOX.replace('label="cat"', ""),
    "words": BOX.replace("10.00", "wide"),
    "not a number": BOX.replace("10.00", "nan"),
    "no edge": BOX.replace("xtl", "left"),
    "two points": '<polygon label="cat" points="1,2;3,4"/>',
    "half a point": '<polygon label="cat" points="1,2;3,4;5,6;7"/>',
    "an ellipse without an area": '<ellipse label="cat" cx="1" cy="1" rx="0" ry="3"/>',
    "runs of another size": MASK.replace('width="30"', 'width="29"'),
    "a run below nothing": '<mask label="cat" rle="-1, 2, 3" left="0" top="0" width="2" height="2"/>',
    "a mask that leaves the image": MASK.replace('left="60"', 'left="71"'),
    "a mask of nothing": '<mask label="cat" rle="4" left="0" top="0" width="2" height="2"/>',
    "a huge mask": f'<mask label="cat" rle="0, {10**12}" left="0" top="0" width="{10**6}" height="{10**6}"/>',
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_shape_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    found = one(tmp_path, f"{BAD[case]}\n{BOX}")
    assert (found.boxes, found.findings) == (
        {"images/a.jpg": [("cat", *CORNERS)]},
        [("InvalidLabel", "annotations.xml:6")],
    )
    found = one(tmp_path, f"{BAD[case]}\n{BOX}", Task.SEMANTIC_SEGMENTATION, classes=("background", "cat"))
    assert found.boxes == {}, "which pixels the shape has, nobody knows"


def test_boxes_have_no_outline(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no object has an outline") as refused:
        one(tmp_path, BOX, Task.INSTANCE_SEGMENTATION)
    assert refused.value.location == "annotations.xml:6"
    found = one(tmp_path, f"{BOX}\n{POLYGON.format('')}", Task.SEMANTIC_SEGMENTATION, classes=("background", "cat"))
    assert found.findings == [("IgnoredRegion", "annotations.xml:6")]
    ((_, labels),) = read_all(Format.CVAT, tmp_path, Task.SEMANTIC_SEGMENTATION)
    assert [region.box for region in labels.regions] == [tuple(map(float, CORNERS)), None]


# --- Classes of images ---


def test_tags_are_the_classes_of_images(tmp_path: Path) -> None:
    tag, other = '<tag label="cat" source="manual"></tag>', '<tag label="dog" source="manual"></tag>'
    listed = cvat(image(tag + BOX), image(BOX, "b.jpg"), image(tag + other, "c.jpg"))
    files = {**{f"images/{name}.jpg": "" for name in "abc"}, "annotations.xml": listed}
    found = read(tmp_path, files, Task.CLASSIFICATION)
    assert found.labels == {"images/a.jpg": "cat"}
    assert found.findings == [("InvalidLabel", "annotations.xml:9"), ("Unlabelled", "annotations.xml:7")]


@pytest.mark.parametrize(
    ("task", "names"), [(Task.DETECTION, {"any", "rectangle"}), (Task.CLASSIFICATION, {"any", "tag"})]
)
def test_the_labels_of_a_task_are_classes_where_they_can_be(task: Task, names: set[str], tmp_path: Path) -> None:
    kinds = ("any", "rectangle", "tag", "skeleton", "points")
    labels = "".join(f"<label><name>{kind}</name><type>{kind}</type></label>" for kind in kinds)
    part = "<label><name>nose</name><type>any</type><parent>skeleton</parent></label>"
    meta = f"<project><labels>{labels}{part}</labels><tasks></tasks></project>"
    write(tmp_path, {"images/a.jpg": "", "annotations.xml": cvat(image(), meta=meta)})
    reader = open_reader(Format.CVAT, Tree.of(StorePath.parse(str(tmp_path))), Options(task))
    assert {each.name for each in reader.scan() if isinstance(each, NamedClass)} == names


# --- Video ---


def frame(number: int, left: int, outside: int = 0) -> str:
    return (
        f'<box frame="{number}" keyframe="1" outside="{outside}" occluded="0" xtl="{left}.00" ytl="20.00" '
        f'xbr="{left + 20}.00" ybr="60.00" z_order="0"></box>\n'
    )


def track(*shapes: str, label: str = "cat", subset: str = "") -> str:
    more = f'task_id="1" subset="{subset}"' if subset else ""
    return f'<track id="0" label="{label}" source="manual" {more}>\n{"".join(shapes)}</track>'


SIZE = "<original_size><width>100</width><height>100</height></original_size>"
SOURCE = "<dumped>2020-04-23</dumped><source>t.mp4</source>"
VIDEO = f"<task><mode>interpolation</mode>{LABELS}{SIZE}</task>{SOURCE}"
FRAMES = {f"images/frame_{number:06d}.png": "" for number in (0, 5, 10, 15)}


def test_tracks_are_split_into_frames(tmp_path: Path) -> None:
    tracks = (
        track(frame(0, 10), frame(5, 12), frame(10, 12, outside=1)),
        track(frame(5, 70), frame(10, 71), label="dog"),
    )
    found = read(tmp_path, {**FRAMES, "annotations.xml": cvat(*tracks, meta=VIDEO)})
    assert found.boxes == {
        "images/frame_000000.png": [("cat", 10, 20, 30, 60)],
        "images/frame_000005.png": [("cat", 12, 20, 32, 60), ("dog", 70, 20, 90, 60)],
        "images/frame_000010.png": [("dog", 71, 20, 91, 60)],
        "images/frame_000015.png": [],
    }
    assert found.findings == []


def test_a_job_has_the_size_of_its_frames_beside_it_and_a_skeleton_tracks_within_its_own(tmp_path: Path) -> None:
    job = f"<job><mode>interpolation</mode></job>{SIZE}{SOURCE}"
    parts = track('<points frame="0" outside="0" points="1.00,2.00"></points>', label="1")
    skeleton = track('<skeleton frame="0" points="1.00,2.00"></skeleton>', parts, label="pose")
    mask = MASK.replace("<mask", '<mask frame="0" outside="0"')
    found = read(tmp_path, {"images/frame_000000.png": "", "annotations.xml": cvat(track(mask), skeleton, meta=job)})
    assert found.boxes == {"images/frame_000000.png": [("cat", 60, 7, 90, 27)]}
    assert found.findings == [("DegenerateBox", "annotations.xml:8")]


def test_a_frame_that_a_track_jumps_over_is_left_out_and_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    tracks = (
        track(frame(0, 10), frame(10, 12), frame(20, 12)),
        track(frame(0, 1), frame(5, 1, outside=1), frame(15, 2), frame(25, 2, outside=1)),
    )
    found = read(tmp_path, {**FRAMES, "annotations.xml": cvat(*tracks, meta=VIDEO)})
    assert sorted(found.boxes) == ["images/frame_000000.png", "images/frame_000010.png"]
    assert found.findings == [
        *(
            ("MissingImage", "annotations.xml:8"),
            ("Unlabelled", "annotations.xml:7"),
            ("Unlabelled", "annotations.xml:8"),
        ),
    ]


def test_videos_of_a_project_lie_in_the_folders_of_their_subsets(tmp_path: Path) -> None:
    files = {f"images/{subset}/frame_000000.png": "" for subset in ("train", "test")}
    task = "<task><id>{}</id><mode>interpolation</mode><subset>{}</subset></task>"
    tracks = [track(frame(0, left), subset=subset) for subset, left in (("train", 10), ("test", 20))]
    meta = "<project><tasks>{}</tasks></project>"
    text = cvat(*tracks, meta=meta.format(task.format(1, "train") + task.format(2, "test")))
    found = read(tmp_path, {**files, "annotations.xml": text})
    assert {name: boxes[0][1] for name, boxes in found.boxes.items()} == {
        "images/train/frame_000000.png": 10,
        "images/test/frame_000000.png": 20,
    }
    assert set(found.splits.values()) == {"train", "test"}
    text = cvat(*tracks, meta=meta.format(task.format(1, "train") * 2))
    with pytest.raises(InvalidInput, match="two videos are in one subset"):
        read(tmp_path, {**files, "annotations.xml": text})


def test_a_video_without_its_frames_is_refused_with_what_to_export(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="by numbers of frames") as refused:
        read(tmp_path, {"images/a.jpg": "", "annotations.xml": cvat(track(frame(0, 10)), meta=VIDEO)})
    assert refused.value.remedy == "export with images, or as CVAT for images 1.1"
