"""What labelling tools give back: files of COCO, CVAT (images 1.1) and Label Studio with the labels of captures.

A label that is wrong teaches something wrong, and what a file lists without a label counts as showing nothing. So what
cannot be taken whole is refused, with the image, task or annotation that it stands in.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from fovea_api.errors import InvalidInput
from pydantic import JsonValue

from fovea_serving.pipeline.run_lengths import bounds, mask_of

UPRIGHT = "draw upright boxes, or export the labels as COCO"
WITHOUT_NAMES = ("relation", "textarea", "rating", "number", "datetime", "ranker", "pairwise", "taxonomy")
"""Results of Label Studio that neither draw something nor are an image's class."""
GEOMETRY = ("x", "points", "rle", "radiusX", "vertices")
"""Keys of a result that is about a part of an image."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image of a label file.

    Args:
        name: As the file names it.
        content: What is right, in the form of a prediction.
        size: Width and height that the file claims; None: it does not say.
    """

    name: str
    content: Mapping[str, JsonValue]
    size: tuple[int, int] | None = None


def read_label_file(file: Path, form: str) -> Iterator[Labelled]:
    """The labelled images of a file of the form COCO, CVAT or LabelStudio. Raises InvalidInput."""
    yield from {"COCO": _coco, "CVAT": _cvat, "LabelStudio": _label_studio}[form](file)


def finished_annotation(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The annotation of a Label Studio task that counts: that of `ground_truth`, else the newest; None where nobody has
    finished one."""
    listed = task.get("annotations", task.get("completions"))
    done = [
        each
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and not each.get("was_cancelled") and not each.get("skipped")
    ]
    true = [each for each in done if each.get("ground_truth")]
    latest = sorted(true or done, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
    return latest[-1] if latest else None


def label_names(result: Mapping[str, Any]) -> list[str]:
    """The labels or choices of a result of Label Studio."""
    kind, value = str(result.get("type", "")).lower(), result.get("value")
    names = value.get(kind) if isinstance(value, dict) and kind.endswith(("labels", "choices")) else None
    return [name.strip() for name in names if isinstance(name, str) and name.strip()] if isinstance(names, list) else []


# --- COCO -------------------------------------------------------------------------------------------------------


def _coco(file: Path) -> Iterator[Labelled]:
    content = _json(file, "COCO")
    images, annotations, categories = (
        _section(content, name, file) for name in ("images", "annotations", "categories")
    )
    listed, names = _by_id(images, "file_name", f"{file}, image"), _by_id(categories, "name", f"{file}, category")
    boxed = any(each.get("bbox") for each in annotations)  # else they are classes of images
    parts: dict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for number, each in enumerate(annotations, 1):
        place = f"{file}, annotation {each.get('id', number)}"
        for key, known in (("image_id", listed), ("category_id", names)):
            if _id(each.get(key)) not in known:
                raise InvalidInput(f"its `{key}` {each.get(key)!r} is not in the file", place, "repair the file")
        parts[_id(each["image_id"])].append((place, each))
    for identity, image in {_id(image.get("id")): image for image in images}.items():
        size = _size(image)
        objects, classes = list[JsonValue](), list[JsonValue]()
        for place, part in parts[identity]:
            name, box = names[_id(part["category_id"])], _corners(part.get("bbox"), place)
            pixels = _pixels(part.get("segmentation"), size, place)
            if pixels:
                classes.append({"class": name, "mask": pixels})
                box = box or _around(pixels)
            elif box is None and boxed:
                raise InvalidInput("it has neither `bbox` nor `segmentation`", place, "draw the object anew")
            elif box is None or (size is not None and box == [0, 0, *size]):
                classes.append({"class": name})
            if box is not None:
                objects.append({"class": name, "box": [*box], **({"mask": pixels} if pixels else {})})
        yield Labelled(listed[identity], {"objects": objects, "classes": classes}, size)


def _section(content: Any, name: str, file: Path) -> list[dict[str, Any]]:
    items = content.get(name) if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        words = f"this is no COCO file: it has no list `{name}`"
        raise InvalidInput(words, str(file), "export the labels as COCO")
    return items


def _by_id(items: Sequence[Mapping[str, Any]], field: str, place: str) -> dict[str, str]:
    """The texts of a field by the ids of their items. Raises InvalidInput where an id has none, or two."""
    texts: dict[str, str] = {}
    for item in items:
        text, where = item.get(field), f"{place} {item.get('id')}"
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(f"it has no `{field}`", where, "repair the file")
        if (earlier := texts.setdefault(_id(item.get("id")), text)) != text:
            raise InvalidInput(f"{earlier} and {text} have the same id", where, "give each an id of its own")
    return texts


def _id(value: object) -> str:
    """An id as a text: 1, 1.0 and "1" are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _corners(box: object, place: str) -> list[float] | None:
    """Left, top, right and bottom of a `bbox`; None where there is none."""
    if not box:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise InvalidInput(f"`bbox` is {str(box)[:60]}, not [x, y, width, height]", place, "repair the file")
    left, top, width, height = box
    return [left, top, left + width, top + height]


def _pixels(segmentation: object, size: tuple[int, int] | None, place: str) -> dict[str, JsonValue]:
    """The run lengths of a `segmentation`, which tools write as such or as polygons; empty where there is none."""
    if not segmentation:
        return {}
    if size is None:
        raise InvalidInput("its image has no `width` and `height`", place, "export the labels with them")
    if isinstance(segmentation, dict):
        try:
            mask_of(segmentation, size)
        except InvalidInput as error:
            raise InvalidInput(error.message, place, error.remedy or "draw the object anew") from None
        return segmentation
    parts = segmentation if isinstance(segmentation, list) else []
    flat = [part for part in parts if isinstance(part, list) and len(part) % 2 == 0 and all(map(_is_number, part))]
    polygons = [part for part in flat if len(part) >= 6]  # those of one or two points have no area
    if not polygons or len(flat) < len(parts):
        words = f"`segmentation` is {str(segmentation)[:60]}, neither polygons nor run lengths"
        raise InvalidInput(words, place, "draw the object anew")
    drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, size[1], size[0]))
    return {"size": [size[1], size[0]], "counts": drawn["counts"].decode("ascii")}


def _around(pixels: Mapping[str, Any]) -> list[float]:
    """The box around a mask."""
    height, width = pixels["size"]
    mask = mask_of({**pixels}, (width, height))
    return [float(edge) for edge in bounds([coco_mask.encode(np.asfortranarray(mask, np.uint8))])[0]]


# --- CVAT -------------------------------------------------------------------------------------------------------


def _cvat(file: Path) -> Iterator[Labelled]:
    try:
        root = ET.fromstring(file.read_bytes())
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InvalidInput(f"this is no CVAT file: {error}", str(file), "export the labels as CVAT") from error
    if root.tag != "annotations" or root.find("image") is None:
        words = "this is no CVAT file of images"
        raise InvalidInput(words, str(file), "export the labels as CVAT for images 1.1")
    for image in root.iter("image"):
        place = f"{file}, image {image.get('name')}"
        objects, classes = list[JsonValue](), list[JsonValue]()
        for each in image:
            name = each.get("label")
            if each.tag not in ("box", "tag"):
                raise InvalidInput(f"it has a {each.tag}", place, UPRIGHT)
            if not name:
                raise InvalidInput(f"a <{each.tag}> has no label", place, "repair the file")
            if each.tag == "tag":
                classes.append({"class": name})
                continue
            if _xml_number(each, "rotation", place, "0"):
                raise InvalidInput("it has a rotated box", place, UPRIGHT)
            edges: list[JsonValue] = [_xml_number(each, edge, place) for edge in ("xtl", "ytl", "xbr", "ybr")]
            objects.append({"class": name, "box": edges})
        yield Labelled(image.get("name", ""), {"objects": objects, "classes": classes}, _size(image.attrib))


def _xml_number(element: ET.Element, key: str, place: str, default: str = "") -> float:
    text = element.get(key, default)
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"`{key}` of a <{element.tag}> is {text[:40]!r}, no number", place) from None


# --- Label Studio -----------------------------------------------------------------------------------------------


def _label_studio(file: Path) -> Iterator[Labelled]:
    tasks = _json(file, "LabelStudio")
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks], 1):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(task, dict) or not isinstance(data, dict):
            words = "this is no Label Studio export: an entry has no `data`"
            raise InvalidInput(words, f"{file}, entry {number}", "export the project as JSON")
        place = f"{file}, task {task.get('id', number)}"
        annotation = finished_annotation(task)
        if annotation is None:
            continue
        names = [value for value in data.values() if isinstance(value, str)]
        if "image" not in data and len(names) != 1:
            raise InvalidInput("which of its `data` is the image is not known", place, "call it `image`")
        name = data.get("image", names[0] if names else None)
        if not isinstance(name, str):
            raise InvalidInput("its `image` is no path or URL", place, "label one image a task")
        results = annotation.get("result")
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise InvalidInput("its annotation has no `result`", place, "export the project as JSON")
        yield _labelled(name, results, place)


def _labelled(name: str, results: Sequence[Mapping[str, Any]], place: str) -> Labelled:
    """What the results of an annotation say of its image."""
    objects, classes = list[JsonValue](), list[JsonValue]()
    size = None
    named = {str(one.get("id")) for one in results if label_names(one)}
    for number, result in enumerate(results, 1):
        kind, value = str(result.get("type", "")).lower(), result.get("value")
        if not isinstance(value, dict) or kind in WITHOUT_NAMES:
            continue
        names, where = label_names(result), f"{place}, result {result.get('id', number)}"
        if kind == "choices":
            if not any(key in value for key in GEOMETRY):  # else it says something about an object
                classes += [{"class": each} for each in names]
            continue
        if not names and kind == "rectangle" and str(result.get("id")) in named:
            continue  # the result of the same id has its geometry, too
        if kind not in ("rectanglelabels", "rectangle", "labels") or "height" not in value:
            raise InvalidInput(f"it has a {kind}", where, UPRIGHT)
        if not names:
            raise InvalidInput("the rectangle has no label", where, "label it, or delete it")
        if value.get("rotation"):
            raise InvalidInput("it has a rotated rectangle", where, UPRIGHT)
        edges = [value[key] for key in ("x", "y", "width", "height") if _is_number(value.get(key))]
        size = _size({"width": result.get("original_width"), "height": result.get("original_height")})
        if size is None or len(edges) != 4:
            raise InvalidInput("the rectangle or its image has no size", where, "export the project as JSON")
        left, top, width, height = edges
        across, down = size[0] / 100, size[1] / 100
        box: list[JsonValue] = [left * across, top * down, (left + width) * across, (top + height) * down]
        objects += [{"class": each, "box": box} for each in names]
    return Labelled(name, {"objects": objects, "classes": classes}, size)


# --- Values -----------------------------------------------------------------------------------------------------


def _json(file: Path, form: str) -> Any:
    """The content of a file in any of JSON's encodings. Raises InvalidInput."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"this is no {form} file: {error}", str(file), f"export the labels as {form}") from error


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height; None where they are none."""
    try:
        width, height = int(item.get("width") or 0), int(item.get("height") or 0)
    except (TypeError, ValueError):
        return None
    return (width, height) if min(width, height) > 0 else None
