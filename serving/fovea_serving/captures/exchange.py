"""Captures and other images out to labelling tools and back: COCO, CVAT (images 1.1) and Label Studio, as files.

An image is called `<group>/<request id>-<number>.<suffix>` in all of them. By the name its label finds the way back,
and by the group captures of a burst stay in one split: a group is one client's captures of which none came more than
BURST_SECONDS after the one before.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_store import NotFound
from numpy.typing import NDArray
from pydantic import JsonValue

from fovea_serving.captures.label_files import Labelled, read_label_file
from fovea_serving.captures.records import Answered, Capture, Label, prediction_of
from fovea_serving.captures.store import CaptureStore
from fovea_serving.pipeline import decode
from fovea_serving.pipeline.properties import thumbnail
from fovea_serving.pipeline.run_lengths import mask_of

BURST_SECONDS = 10.0
"""Pause of a client that ends a group."""
_NAME = re.compile(r"(?:.*/)?(?P<id>[A-Za-z0-9._:-]{1,128})-(?P<index>\d{1,6})\.\w+")
_SURE = 0.05
"""Weight that a picture keeps of which the model is certain: it may be wrong all the same."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One captured image.

    Args:
        found: Its request.
        index: Its number in it, from 0.
        group: The captures that must not be parted.
    """

    found: Answered
    index: int
    group: str

    @property
    def file(self) -> str:
        """Name of its file, which no other image has."""
        return str(self.found.capture.images[self.index].file)

    @property
    def name(self) -> str:
        """Path of the image in an export."""
        return f"{self.group}/{self.file}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        image = self.found.capture.images[self.index]
        return image.width, image.height

    @property
    def prediction(self) -> Mapping[str, JsonValue]:
        """What was answered."""
        return self.found.capture.images[self.index].prediction

    @property
    def label(self) -> Mapping[str, JsonValue] | None:
        """What is right; None: it is not known."""
        label = self.found.label
        return label.images[self.index] if label is not None and label.images else None


def pictures(store: CaptureStore) -> list[Picture]:
    """All captured images with their groups, the oldest of each client first."""
    found = sorted(store.all(), key=lambda each: (each.capture.client, each.capture.time))
    listed: list[Picture] = []
    client, last, group = "", datetime.min.replace(tzinfo=UTC), ""
    for each in found:
        capture = each.capture
        if capture.client != client or (capture.time - last).total_seconds() > BURST_SECONDS:
            group = f"{capture.client}-{capture.time:%Y%m%dT%H%M%S}"
        client, last = capture.client, capture.time
        listed += [Picture(each, index, group) for index in range(len(capture.images))]
    return listed


def listed_in(store: CaptureStore, left_out: frozenset[str]) -> list[str]:
    """Ids of the requests of which `exclude` lists an image: by its name in a version or an export, or by the SHA-256
    of its file.

    The group in an exported name does not count: it is another once the first capture of a burst is deleted.
    """
    names = {request_of(word) for word in left_out} - {None}
    found = (
        each.found.capture.id
        for each in pictures(store)
        if (each.found.capture.id, each.index) in names or _digest(store, each) in left_out
    )
    return list(dict.fromkeys(found))


def _digest(store: CaptureStore, each: Picture) -> str | None:
    """SHA-256 of the file; None: a deletion that was interrupted has left its record alone."""
    try:
        return hashlib.sha256(store.read_image(each.found, each.index)).hexdigest()
    except NotFound:
        return None


def request_of(name: str) -> tuple[str, int] | None:
    """Id of the request and number of the image that an image's name in an export means; None: it is no such name."""
    match = _NAME.fullmatch(unquote(name.rpartition("=")[2]).replace("\\", "/"))
    return None if match is None else (match["id"], int(match["index"]))


def in_order_of_use(store: CaptureStore, listed: Sequence[Picture], most: int | None = None) -> list[Picture]:
    """Those first whose labels would teach most: of what the model is unsure, and unlike those before; at most so many.

    Greedy k-centre (Sener and Savarese, Active learning for convolutional neural networks, ICLR 2018) on thumbnails;
    the distance to the nearest picture before is weighted by how unsure the model is of the picture.
    """
    if not listed:
        return []
    places = np.stack([thumbnail(decode(store.read_image(each.found, each.index))) for each in listed]) / 255.0
    scores = [each.found.capture.images[each.index].confidence for each in listed]
    unsure = np.array([_SURE + 1 - (score if score is not None else 0.0) for score in scores])
    return [listed[index] for index in k_centre(places, unsure, most)]


def k_centre(places: NDArray[np.float64], weights: NDArray[np.float64], most: int | None = None) -> list[int]:
    """Indices: first that of the largest weight, then always the one furthest from those before, by its weight.

    Args:
        places: `[N, D]`.
        weights: `[N]`, positive.
        most: How many; None: all.
    """
    order = [int(weights.argmax())]
    nearest = np.full(len(places), np.inf)
    left = np.ones(len(places), bool)
    left[order[0]] = False
    while left.any() and len(order) != most:
        nearest = np.minimum(nearest, np.linalg.norm(places - places[order[-1]], axis=1))
        # equal pictures have no distance; the less certain one comes first all the same
        gain = np.where(left, weights * (nearest + 1e-6), -1.0)
        order.append(int(gain.argmax()))
        left[order[-1]] = False
    return order


# --- Out ---------------------------------------------------------------------------------------------------------


def export(store: CaptureStore, listed: Sequence[Picture], target: Path, form: str, *, labels: bool = False) -> None:
    """Writes images and an annotation file into a folder.

    Args:
        store: Where the images lie.
        listed: Which ones, in this order.
        target: A folder.
        form: A name in FORMATS.
        labels: Whether labels are written, and not predictions; pictures without one are left out.

    Raises InvalidInput, and writes nothing, where the form has no place for what is labelled.
    """
    chosen = [(each, each.label if labels else each.prediction) for each in listed]
    pairs = [(each, content) for each, content in chosen if content is not None]
    captures = [(each, each.found.capture, content) for each, content in pairs]
    images = [
        LabelledImage(each.name, each.size, of.task, None if labels else of.run, content)
        for each, of, content in captures
    ]
    text = annotation_text(form, images)
    for each, _ in pairs:
        file = target / "images" / each.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.read_image(each.found, each.index))
    target.mkdir(parents=True, exist_ok=True)
    (target / ANNOTATIONS[form]).write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image as a labelling tool is told of it.

    Args:
        name: Its path below `images/`.
        size: Width and height in pixels.
        task: What is labelled.
        model: The version of the model that predicted it; None: a person has labelled it.
        content: Prediction or label in its JSON form.
    """

    name: str
    size: tuple[int, int]
    task: Task
    model: str | None
    content: Mapping[str, JsonValue]


def annotation_text(form: str, images: Sequence[LabelledImage], classes: Sequence[str] = ()) -> str:
    """The annotation file, which lies beside `images/` under its name in ANNOTATIONS.

    Args:
        form: A name in FORMATS.
        images: In the order in which they are to be shown.
        classes: Classes that may be chosen beside those that occur; only COCO lists them.

    Raises InvalidInput for masks in another form than COCO.
    """
    if form == "COCO":
        return _coco(images, classes)
    if (masked := next((each for each in images if each.task not in WITHOUT_MASKS), None)) is not None:
        raise InvalidInput(f"labels of {masked.task} do not go as {form}", masked.name, "export them as COCO")
    return _cvat(images) if form == "CVAT" else _label_studio(images)


def parts_of(content: Mapping[str, JsonValue], field: str) -> list[dict[str, Any]]:
    """The objects or classes of a prediction or label; none where it has none."""
    parts = content.get(field)
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def best_class(content: Mapping[str, JsonValue]) -> dict[str, Any] | None:
    """The most probable class of an image; None where it has none, or classes of pixels."""
    named = (part for part in parts_of(content, "classes") if "mask" not in part)
    return max(named, key=lambda part: part.get("score", 1.0), default=None)


def _coco(listed: Sequence[LabelledImage], classes: Sequence[str]) -> str:
    shown = {part["class"] for each in listed for f in ("objects", "classes") for part in parts_of(each.content, f)}
    categories = {name: number for number, name in enumerate((*classes, *sorted(shown - {*classes})), 1)}
    images, annotations = [], list[dict[str, Any]]()
    for number, each in enumerate(listed, 1):
        width, height = each.size
        images.append({"id": number, "file_name": f"images/{each.name}", "width": width, "height": height})
        for part, shape in _coco_shapes(each):
            score = {"score": part["score"]} if "score" in part else {}
            head = {"id": len(annotations) + 1, "image_id": number, "category_id": categories[part["class"]]}
            annotations.append({**head, **shape, "iscrowd": 0, **score})
    named = [{"id": number, "name": name} for name, number in categories.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": named}, indent=1)


def _coco_shapes(each: LabelledImage) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    (width, height), content = each.size, each.content
    for part in parts_of(content, "objects"):
        left, top, right, bottom = part["box"]
        area = part.get("pixels", (right - left) * (bottom - top))
        pixels = {"segmentation": part["mask"]} if "mask" in part else {}
        yield part, {**pixels, "bbox": [left, top, right - left, bottom - top], "area": area}
    if each.task == Task.CLASSIFICATION:
        if (best := best_class(content)) is not None:
            yield best, {"bbox": [0, 0, width, height], "area": width * height}
        return
    for part in parts_of(content, "classes"):
        mask = mask_of(part["mask"], each.size)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box = [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            yield part, {"segmentation": part["mask"], "bbox": box, "area": int(mask.sum())}


def _cvat(images: Sequence[LabelledImage]) -> str:
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    for number, each in enumerate(images):
        width, height = each.size
        source = "manual" if each.model is None else "auto"
        image = ET.SubElement(root, "image", id=str(number), name=each.name, width=str(width), height=str(height))
        for part in parts_of(each.content, "objects"):
            edges = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{edge:.2f}" for edge in part["box"]), strict=True))
            ET.SubElement(image, "box", {"label": part["class"], "source": source, "occluded": "0", **edges})
        if (best := best_class(each.content)) is not None:
            ET.SubElement(image, "tag", label=best["class"], source=source)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _label_studio(images: Sequence[LabelledImage]) -> str:
    tasks = []
    for each in images:
        result = label_studio_result(each.content, each.size)
        data = {"image": f"/data/local-files/?d={quote(f'images/{each.name}')}"}
        if each.model is None:
            tasks.append({"data": data, "annotations": [{"result": result}]})
            continue
        best = best_class(each.content)
        scores = [part.get("score", 1.0) for part in (*parts_of(each.content, "objects"), *([best] if best else []))]
        prediction = {"model_version": each.model, "score": max(scores, default=0.0), "result": result}
        tasks.append({"data": data, "predictions": [prediction]})
    return json.dumps(tasks, indent=1)


def label_studio_result(
    content: Mapping[str, JsonValue], size: tuple[int, int], control: str = "label", image: str = "image"
) -> list[JsonValue]:
    """The `result` of a prediction in Label Studio's form: boxes as rectanglelabels, the best class as choices.

    Args:
        content: The prediction.
        size: Width and height of the image in pixels.
        control: Name of the control tag of the labelling configuration.
        image: Name of its image tag.
    """
    width, height = size
    names: dict[str, JsonValue] = {"from_name": control, "to_name": image}
    sizes: dict[str, JsonValue] = {"original_width": width, "original_height": height, "image_rotation": 0}
    result: list[JsonValue] = [
        {
            "type": "rectanglelabels",
            **names,
            **sizes,
            "score": part.get("score", 1.0),
            "value": {**_percent(part["box"], width, height), "rotation": 0, "rectanglelabels": [part["class"]]},
        }
        for part in parts_of(content, "objects")
    ]
    if (best := best_class(content)) is not None:
        result.append({"type": "choices", **names, "value": {"choices": [best["class"]]}})
    return result


def _percent(box: Sequence[float], width: int, height: int) -> dict[str, float]:
    left, top, right, bottom = box
    return {
        "x": 100 * left / width,
        "y": 100 * top / height,
        "width": 100 * (right - left) / width,
        "height": 100 * (bottom - top) / height,
    }


ANNOTATIONS: Mapping[str, str] = {"COCO": "annotations.json", "CVAT": "annotations.xml", "LabelStudio": "tasks.json"}
"""Names of the annotation files."""
FORMATS = tuple(ANNOTATIONS)
"""The forms that are written and read. Masks go as COCO alone."""
WITHOUT_MASKS = (Task.CLASSIFICATION, Task.DETECTION)
"""Tasks whose labels are classes of images and boxes, for which each form has a place."""


# --- Back --------------------------------------------------------------------------------------------------------


def take_labels(store: CaptureStore, file: Path, form: str) -> tuple[int, int]:
    """Keeps the labels of a file: how many requests have one now, and how many images found no request.

    Every image of a COCO or CVAT file counts as labelled, also one without objects, but for one without a class where
    the task is classification; of Label Studio's tasks those that have an annotation. Raises InvalidInput, and keeps
    none, where the file cannot be read, or one does not fit its request.
    """
    return keep_labels(store, read_label_file(file, form))


def keep_labels(store: CaptureStore, labelled: Iterable[Labelled]) -> tuple[int, int]:
    """Keeps labels; a request is labelled where all of its images are.

    Returns how many requests have a label now, and how many images found no request. Raises InvalidInput, and keeps
    none, where one does not fit the task of its request or the size of its image, or where an image has two.
    """
    labels: dict[str, dict[int, Labelled]] = defaultdict(dict)
    unknown = 0
    for each in labelled:
        if (request := request_of(each.name)) is None:
            unknown += 1
        elif labels[request[0]].setdefault(request[1], each).content != each.content:
            words = "the image has two labels, which differ"
            raise InvalidInput(words, f"the label of {each.name}", "keep the one that is right")
    fitting = list[tuple[Answered, tuple[Mapping[str, JsonValue], ...]]]()
    for request_id, images in labels.items():
        found = store.find(request_id)
        if found is None or set(images) != set(range(len(found.capture.images))):
            unknown += len(images)
            continue
        ordered = tuple(images[index].content for index in sorted(images))
        if found.capture.task == Task.CLASSIFICATION and not all(map(_has_parts, ordered)):
            continue  # COCO and CVAT list images that nobody has labelled yet
        for index, each in images.items():
            _check(found.capture, index, each)
        fitting.append((found, ordered))
    for found, ordered in fitting:
        store.label(found, Label(time=datetime.now(UTC), source="import", images=ordered))
    return len(fitting), unknown


def _has_parts(label: Mapping[str, JsonValue]) -> bool:
    return bool(label.get("classes") or label.get("objects"))


def _check(capture: Capture, index: int, label: Labelled) -> None:
    image = capture.images[index]
    place = f"the label of {image.file or f'{capture.id}-{index}'}"
    if label.size not in (None, (image.width, image.height)):
        assert label.size is not None
        words = f"it is of {label.size[0]} x {label.size[1]} pixels, the image has {image.width} x {image.height}"
        raise InvalidInput(words, place, "label the images as they were exported")
    names = list(dict.fromkeys(str(part.get("class")) for part in parts_of(label.content, "classes")))
    if capture.task == Task.CLASSIFICATION and len(names) > 1:
        raise InvalidInput(f"the image has the classes {', '.join(names)}", place, "give it one")
    try:
        prediction_of(capture.task, image, label.content)
    except InvalidInput as error:
        raise InvalidInput(
            f"it does not fit the task {capture.task}: {error.message}", place, "correct it where it was made"
        ) from error
