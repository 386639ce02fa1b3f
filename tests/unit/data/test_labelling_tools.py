"""Real images as labelling tools export them, and captures as they are written for these tools: the same labels."""

from __future__ import annotations

import io
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from dataset_support import Build, read_source, write
from fovea_api.common import Task
from fovea_api.dataset import Format
from fovea_cli.captures import command
from fovea_serving.captures import Capture, CaptureStore, ImageAnswer
from fovea_serving.captures.exchange import ANNOTATIONS, LabelledImage, annotation_text
from fovea_serving.captures.records import Label
from fovea_store import StorePath
from fovea_trainer.data.formats import Tree
from fovea_trainer.data.guess import guess_format, guess_task
from PIL import Image

Boxes = dict[str, list[tuple[str, float, float, float, float]]]


def labels_of(voc: Path) -> Boxes:
    return {Path(name).name: boxes for name, boxes in read_source(Format.PASCAL_VOC, voc).boxes.items()}


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def cvat(images: Path, boxes: Boxes) -> tuple[str, str]:
    root = ET.Element("annotations")
    labels = ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels")
    for name in sorted({box[0] for each in boxes.values() for box in each}):
        ET.SubElement(ET.SubElement(labels, "label"), "name").text = name
    for number, (name, each) in enumerate(boxes.items()):
        sides = zip(("width", "height"), map(str, size_of(images / name)), strict=True)
        image = ET.SubElement(root, "image", {"id": str(number), "name": f"JPEGImages/{name}", **dict(sides)})
        for label, *corners in each:
            edges = zip(("xtl", "ytl", "xbr", "ybr"), (f"{corner:.2f}" for corner in corners), strict=True)
            ET.SubElement(image, "box", {"label": label, "occluded": "0", **dict(edges)})
    return "annotations.xml", ET.tostring(root, encoding="unicode")


def label_studio(images: Path, boxes: Boxes) -> tuple[str, str]:
    tasks = []
    for number, (name, each) in enumerate(boxes.items()):
        width, height = size_of(images / name)
        results = [
            {
                "type": "rectanglelabels",
                "original_width": width,
                "original_height": height,
                "value": {
                    "x": 100 * x1 / width,
                    "y": 100 * y1 / height,
                    "width": 100 * (x2 - x1) / width,
                    "height": 100 * (y2 - y1) / height,
                    "rectanglelabels": [label],
                },
            }
            for label, x1, y1, x2, y2 in each
        ]
        data = {"image": f"/data/upload/1/{number:08x}-{name}"}
        tasks.append({"id": number, "data": data, "annotations": [{"result": results}]})
    return "export.json", json.dumps(tasks)


WRITERS: dict[Format, Callable[[Path, Boxes], tuple[str, str]]] = {
    Format.CVAT: cvat,
    Format.LABEL_STUDIO: label_studio,
}


def test_the_same_labels_make_the_same_version(voc: Path, tmp_path: Path, build: Build) -> None:
    def built(format: Format, root: Path) -> str:
        source = {"name": "lab", "uri": f"file://{root}", "format": format.value}
        result = build({"task": "Detection", "sources": [source]})
        assert result.summary.images == 24
        return result.digest

    boxes, digest = labels_of(voc), built(Format.PASCAL_VOC, voc)
    for format, write_labels in WRITERS.items():
        root = tmp_path / format
        shutil.copytree(voc / "JPEGImages", root / "JPEGImages")
        name, text = write_labels(voc / "JPEGImages", boxes)
        (root / name).write_text(text)
        assert built(format, root) == digest, format


def kept(voc: Path, folder: Path, task: Task) -> dict[str, list[tuple[str, float, float, float, float]]]:
    """Captures of the real images, each labelled with its boxes, or with the class of its first."""
    store = CaptureStore(StorePath.parse(str(folder)), timedelta(days=30))
    boxes = dict(list(labels_of(voc).items())[:6])
    for number, (name, each) in enumerate(boxes.items()):
        data = (voc / "JPEGImages" / name).read_bytes()
        width, height = Image.open(io.BytesIO(data)).size
        objects = [{"class": label, "box": [float(corner) for corner in corners]} for label, *corners in each]
        content = {"objects": objects} if task == Task.DETECTION else {"classes": [{"class": each[0][0]}]}
        guessed = {"objects": []} if task == Task.DETECTION else {"classes": [{"class": "other", "score": 0.9}]}
        image = ImageAnswer(file=f"c{number}-0.jpg", width=width, height=height, confidence=0.5, prediction=guessed)
        time = datetime(2026, 11, 26, 10, number, tzinfo=UTC)
        of = {"run": "r-1", "role": "Stable", "task": task, "reason": "sample", "client": "c", "images": (image,)}
        store.write(Capture(id=f"c{number}", time=time, **of), [data])
        found = store.find(f"c{number}")
        assert found is not None
        store.label(found, Label.model_validate({"time": time, "source": "import", "images": (content,)}))
    return {f"c{number}-0.jpg": each for number, each in enumerate(boxes.values())}


@pytest.mark.parametrize("task", [Task.DETECTION, Task.CLASSIFICATION])
@pytest.mark.parametrize("format", WRITERS)
def test_labelled_captures_are_exported_as_a_source(format: Format, task: Task, voc: Path, tmp_path: Path) -> None:
    expected = kept(voc, tmp_path / "captures", task)
    to = str(tmp_path / "out")
    arguments = ["export", f"file://{tmp_path}/captures", to, "--labels", "--format", format.value]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).output.startswith("6 images")
    found = read_source(format, Path(to), task)
    assert found.findings == []
    if task == Task.DETECTION:
        ours = {Path(name).name: sorted(boxes) for name, boxes in found.boxes.items()}
        assert ours == {name: sorted(boxes) for name, boxes in expected.items()}
    else:
        assert {Path(name).name: label for name, label in found.labels.items()} == {
            name: boxes[0][0] for name, boxes in expected.items()
        }


@pytest.mark.parametrize("name", ["a+b.jpg", "a&b.jpg", "a#b.jpg", "a%41b.jpg", "a?b.jpg", 'ä "1" <b>.jpg'])
@pytest.mark.parametrize("form", [Format.COCO, Format.CVAT, Format.LABEL_STUDIO])
def test_images_of_any_name_find_their_labels_again(form: Format, name: str, tmp_path: Path) -> None:
    labelled = {"objects": [{"class": "cat", "box": [10.0, 20.0, 40.0, 60.0]}]}
    text = annotation_text(form.value, [LabelledImage(f"lab/{name}", (100, 100), Task.DETECTION, None, labelled)])
    found = read_source(form, write(tmp_path, {f"images/lab/{name}": "", ANNOTATIONS[form.value]: text}))
    assert (found.boxes, found.findings) == ({f"images/lab/{name}": [("cat", 10, 20, 40, 60)]}, [])


# --- fovea init ---

SHAPE = '<polygon label="cat" points="1,1;50,1;50,50"/>'
REGION = {"type": "polygonlabels", "original_width": 100, "original_height": 100}
CHOICE = {"type": "choices", "value": {"choices": ["cat"]}}
DRAWN = {
    Format.CVAT: {
        Task.INSTANCE_SEGMENTATION: SHAPE,
        Task.DETECTION: '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>',
        Task.CLASSIFICATION: '<tag label="cat"/>',
    },
    Format.LABEL_STUDIO: {
        Task.INSTANCE_SEGMENTATION: REGION | {"value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["cat"]}},
        Task.DETECTION: REGION
        | {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["cat"]}},
        Task.CLASSIFICATION: CHOICE,
    },
}


@pytest.mark.parametrize(("format", "task"), [(format, task) for format, drawn in DRAWN.items() for task in drawn])
def test_format_and_task_are_guessed(format: Format, task: Task, tmp_path: Path) -> None:
    drawn = DRAWN[format][task]
    image = f'<image name="a.jpg" width="100" height="100">{drawn}</image>'
    tasks = [{"annotations": [{"result": [drawn]}], "data": {"image": "a.jpg"}}]
    files = {
        Format.CVAT: {"annotations.xml": f"<annotations>{image}</annotations>"},
        Format.LABEL_STUDIO: {"x.json": json.dumps(tasks)},
    }
    write(tmp_path, {"images/a.jpg": "", **files[format]})
    tree = Tree.of(StorePath.parse(str(tmp_path)))
    assert (guess_format(tree), guess_task(format, tree)) == (format, task)
