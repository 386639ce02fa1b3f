"""Eight real images of each task, from the examples' data: windows of 96 x 64 pixels, which are learned in seconds."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from fovea_api.common import Task
from fovea_api.version import DatasetVersion
from fovea_serving.pipeline.run_lengths import bounds, encode, encoded
from numpy.typing import NDArray
from synthetic import Sample, Version, png

DATA = Path(__file__).parents[3] / "examples/data"
CELLS = ("RBC", "WBC")
"""Classes of blood cells; platelets are too small in what a window shows."""
IMAGES = 8
SIZE = WIDTH, HEIGHT = 96, 64
REDUCED = 4
"""Pixels of a blood smear that a pixel of its window shows, across and down."""
SIDES = ("xmin", "ymin", "xmax", "ymax")
LEAST_VISIBLE = 0.5
"""Share of a cell from which it is labelled in a window."""
LEAST_PIXELS = 64
"""Of a nerve cell in its window, from which it is an object."""

Pixels = NDArray[np.uint8]


def eight_images(task: Task) -> Version:
    """A version with a train split of eight images."""
    classes, images = {
        Task.CLASSIFICATION: (CELLS, blood_cells),
        Task.DETECTION: (CELLS, smears),
        Task.SEMANTIC_SEGMENTATION: (("cell", "boundary"), membranes),
        Task.INSTANCE_SEGMENTATION: (("cell",), nerve_cells),
    }[task]
    samples = list(islice(images(), IMAGES))
    manifest = DatasetVersion(
        task=task,
        classes=classes,
        splits={"train": IMAGES},
        images=IMAGES,
        annotations=IMAGES,
        shards=(),
        digest="sha256-" + "0" * 64,
    )
    return Version(manifest, {"train": samples})


def blood_cells() -> Iterator[Sample]:
    """Red and white cells in turn, each from another smear."""
    for index, (image, boxes, labels) in enumerate(smears_with_a_white_cell()):
        label = index % 2
        x1, y1, x2, y2 = boxes[labels == label][0].astype(int)
        crop = cv2.resize(image[max(0, y1) : y2, max(0, x1) : x2], SIZE, interpolation=cv2.INTER_AREA)
        yield Sample(f"{index}.png", png(crop), label, width=WIDTH, height=HEIGHT)


def smears() -> Iterator[Sample]:
    """A white cell with what is around it."""
    window = np.array(SIZE) * REDUCED
    for index, (image, boxes, labels) in enumerate(smears_with_a_white_cell()):
        height, width = image.shape[:2]
        middle = (boxes[labels == 1][0, :2] + boxes[labels == 1][0, 2:]) / 2
        x, y = np.clip(middle - window / 2, 0, (width, height) - window).astype(int)
        inside = np.clip(boxes - [x, y, x, y], 0, [*window, *window])
        visible = (inside[:, 2:] - inside[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1) >= LEAST_VISIBLE
        part = cv2.resize(image[y : y + window[1], x : x + window[0]], SIZE, interpolation=cv2.INTER_AREA)
        yield of_objects(index, part, inside[visible] / REDUCED, labels[visible])


def membranes() -> Iterator[Sample]:
    """The middles of sections of a nerve cord."""
    for index, (pixels, is_cell) in enumerate(sections()):
        mask = png((~is_cell).astype(np.uint8))
        yield Sample(f"{index}.png", png(pixels), mask_bytes=mask, width=WIDTH, height=HEIGHT)


def nerve_cells() -> Iterator[Sample]:
    """The cells that the membranes part."""
    for index, (pixels, is_cell) in enumerate(sections()):
        _, cells = cv2.connectedComponents(is_cell.astype(np.uint8), connectivity=4)
        each = [cells == cell for cell in np.unique(cells)[1:]]
        masks = tuple(encode(mask, 0, 0, *SIZE) for mask in each if mask.sum() >= LEAST_PIXELS)
        boxes = bounds([encoded(counts, *SIZE) for counts in masks])
        yield of_objects(index, pixels, boxes, np.zeros(len(masks), np.int64), masks)


def of_objects(
    index: int, pixels: Pixels, boxes: NDArray[np.floating], labels: NDArray[np.int64], masks: tuple[bytes, ...] = ()
) -> Sample:
    """An image of SIZE with its objects, boxes xyxy in its pixels."""
    return Sample(
        f"{index}.png",
        png(pixels),
        boxes=boxes.astype(np.float32),
        labels=labels.astype(np.int32),
        difficult=np.zeros(len(boxes), bool),
        masks=masks,
        width=WIDTH,
        height=HEIGHT,
    )


def sections() -> Iterator[tuple[Pixels, NDArray[np.bool_]]]:
    """RGB pixels of a window of each section, and whether each is of a cell, not of a membrane."""
    window = slice(224, 224 + HEIGHT), slice(224, 224 + WIDTH)
    for index in range(IMAGES):
        image, mask = (cv2.imread(str(DATA / f"membrane/{kind}/{index}.png"), 0) for kind in ("images", "labels"))
        yield np.repeat(image[window][..., None], 3, 2), mask[window] > 0


def smears_with_a_white_cell() -> Iterator[tuple[Pixels, NDArray[np.float64], NDArray[np.int64]]]:
    """RGB pixels, boxes xyxy in pixels and classes of the smears that show one, in the order of their names."""
    for file in sorted((DATA / "bccd/BCCD/Annotations").glob("*.xml")):
        objects = [each for each in ET.parse(file).getroot().iter("object") if each.findtext("name") in CELLS]
        labels = np.array([CELLS.index(str(each.findtext("name"))) for each in objects])
        sides = [[float(each.findtext(f"bndbox/{side}", "0")) for side in SIDES] for each in objects]
        if {0, 1} <= set(labels.tolist()):
            image = cv2.imread(str(DATA / f"bccd/BCCD/JPEGImages/{file.stem}.jpg"))[..., ::-1]
            yield np.ascontiguousarray(image), np.array(sides), labels
