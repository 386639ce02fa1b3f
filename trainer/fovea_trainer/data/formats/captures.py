"""Captures of a ModelDeployment, read where the gateways keep them: `spec.monitoring.captures.uri`.

Images with a label are the data; those that wait for one are no loss and no finding. An image is called
`<request id>-<number>.<suffix>`, whatever else is deleted. What one client sent without a pause is a group, which stays
in one split. A folder that is not there
yet is an empty source, so that a Dataset can be applied before the first image is captured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_serving.captures import CaptureStore
from fovea_serving.captures.exchange import Picture, best_class, parts_of, pictures
from fovea_serving.captures.records import prediction_of
from pydantic import JsonValue

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree
from fovea_trainer.data.formats.coco import read_segmentation
from fovea_trainer.data.records import Box, FileImage, Labels, Region, SourceImage

LABELLED_BY: Mapping[Task, tuple[Task, ...]] = {
    Task.CLASSIFICATION: (Task.CLASSIFICATION, Task.DETECTION, Task.INSTANCE_SEGMENTATION),
    Task.DETECTION: (Task.DETECTION, Task.INSTANCE_SEGMENTATION),
    Task.INSTANCE_SEGMENTATION: (Task.INSTANCE_SEGMENTATION, Task.DETECTION),
    Task.SEMANTIC_SEGMENTATION: (Task.SEMANTIC_SEGMENTATION,),
}
"""The tasks of deployments whose labels say something about a task: a label of an image's class has no object, which in
Detection would mean that the image shows none."""


@dataclass(frozen=True)
class Captures:
    """Reader of captures."""

    tree: Tree
    task: Task

    def scan(self) -> Iterator[SourceImage | Finding]:
        for each in pictures(CaptureStore(self.tree.root, timedelta.max)) if self.tree.files else ():
            path = f"{each.found.folder}/{each.file}"
            if each.label is not None and path in self.tree.files:
                yield SourceImage(each.file, FileImage(path), labels=_labels(each, path, self.task), group=each.group)
        self.tree.opened.update(self.tree.files)

    def read(self, item: SourceImage) -> Labels:
        raise AssertionError("scan gives all labels")


def open_reader(tree: Tree, options: Options) -> Reader:
    return Captures(tree, options.task)


def _labels(each: Picture, place: str, task: Task) -> Labels:
    """What is known of an image; a label that is none is a finding, and so is one that says nothing about the task."""
    capture, content = each.found.capture, each.label or {}
    fault = "" if capture.task in LABELLED_BY[task] else f"a label of {capture.task} says nothing about {task}"
    try:
        prediction_of(capture.task, capture.images[each.index], content)  # or it says what is wrong
        labels = labels_of(content, each.size, place)
    except InvalidInput as error:
        fault = f"the label cannot be read: {error.message}"
    names = {str(part.get("class")) for part in parts_of(content, "classes") if not {"mask", "score"} & part.keys()}
    if len(names) > 1:
        fault = fault or f"the label has the classes {', '.join(sorted(names))}; an image has one"
    if fault:
        finding = Finding(FindingKind.INVALID_LABEL, place, fault)
        return Labels(place=place, findings=(finding,), complete=False)
    return labels


def labels_of(content: Mapping[str, JsonValue], size: tuple[int, int], place: str) -> Labels:
    """A prediction, or a label in its form, as labels of an image of this width and height. Raises InvalidInput."""
    best = best_class(content)
    parts = [(part, str(part["class"])) for part in parts_of(content, "classes")]
    return Labels(
        name=None if best is None else str(best["class"]),
        boxes=tuple(
            Box(str(part["class"]), *_corners(part["box"]), place=place, outline=_outline(part, place))
            for part in parts_of(content, "objects")
        ),
        regions=tuple(_region(part["mask"], name, place) for part, name in parts if "mask" in part),
        size=size,
        place=place,
    )


def _corners(box: JsonValue) -> tuple[float, float, float, float]:
    assert isinstance(box, list)
    x1, y1, x2, y2 = (float(side) for side in box if isinstance(side, int | float))
    return x1, y1, x2, y2


def _outline(part: dict[str, JsonValue], place: str) -> Region | None:
    return _region(part["mask"], str(part["class"]), place) if "mask" in part else None


def _region(mask: JsonValue, name: str, place: str) -> Region:
    _, runs, size = read_segmentation(mask)
    return Region(name, runs=runs, size=size, place=place)
