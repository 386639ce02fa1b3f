"""What a worker process does: reads and checks images with their labels, and reads them again for writing."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

from fovea_trainer.data.checks import MAX_FILE_BYTES, check_boxes, inspect_image, inspect_pixels, read_mask
from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree
from fovea_trainer.data.records import (
    IGNORE,
    RELATIVE,
    Box,
    FileImage,
    Found,
    ImageRef,
    Labels,
    MaskFile,
    RawImage,
    Region,
)
from fovea_trainer.store import NotFound


@dataclass(frozen=True)
class OpenSource:
    """A source that is being read: its name, its files and the reader of its format."""

    name: str
    tree: Tree
    reader: Reader
    options: Options

    def class_of(self, raw: str, place: str) -> str | None:
        """The class of a name found in the source; None where classMap drops it. Raises InvalidInput."""
        name = self.options.class_map.get(raw, raw)
        if not name:
            return None
        if self.options.classes and name not in self.options.classes:
            raise InvalidInput(
                f"the class {raw!r} is not one of {', '.join(self.options.classes[:20])}",
                place,
                "see classes, classMap",
            )
        return name


@dataclass(frozen=True, slots=True)
class Content:
    """Labels that have been checked, by class name. The text form is canonical."""

    label: str | None = None
    boxes: tuple[tuple[str, float, float, float, float, bool], ...] = ()
    regions: tuple[Region, ...] = ()
    mask: MaskFile | None = None
    mask_digest: str = ""
    pixels: tuple[tuple[int, int], ...] = ()
    """Class index and number of pixels, of a mask."""

    def to_json(self) -> str:
        mask = self.mask and [self.mask.path, self.mask.lookup.hex(), self.mask.known.hex()]
        regions = [[r.name, r.polygons, r.runs, r.size] for r in self.regions]
        return json.dumps([self.label, self.boxes, regions, mask, self.mask_digest, self.pixels])

    @classmethod
    def from_json(cls, text: str) -> Content:
        label, boxes, regions, mask, mask_digest, pixels = json.loads(text)
        return cls(
            label,
            tuple((b[0], b[1], b[2], b[3], b[4], b[5]) for b in boxes),
            tuple(Region(r[0], tuple(tuple(p) for p in r[1]), tuple(r[2]), (r[3][0], r[3][1])) for r in regions),
            MaskFile(mask[0], bytes.fromhex(mask[1]), bytes.fromhex(mask[2])) if mask else None,
            mask_digest,
            tuple((p[0], p[1]) for p in pixels),
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """An image that was read. Without a digest it is left out."""

    name: str
    image: ImageRef
    split: str | None
    findings: tuple[Finding, ...]
    digest: str = ""
    width: int = 0
    height: int = 0
    hash: bytes = b""
    thumb: bytes = b""
    content: Content = Content()
    classes: tuple[str, ...] = ()
    """Names of the classes that it shows, each once."""


def check_chunk(source: OpenSource, chunk: Sequence[Found]) -> list[Checked]:
    """Reads and checks images with their labels."""
    cv2.setNumThreads(1)
    return [check(source, found) for found in chunk]


def check(source: OpenSource, found: Found) -> Checked:
    """Reads and checks one image with its labels. What is wrong is told in `findings`, never raised.

    Only a store that fails raises.
    """

    def left_out(kind: FindingKind, error: InvalidInput) -> Checked:
        finding = Finding(kind, error.place or found.name, error.message)
        return Checked(found.name, found.image, found.split, (*findings, finding))

    findings: list[Finding] = []
    try:
        data = image_bytes(source.tree, found.image)
    except NotFound:
        place = found.labels_path or (found.labels.place if found.labels else found.name)
        error = InvalidInput(f"the image {found.name} is missing", place)
        return left_out(FindingKind.MISSING_IMAGE, error)
    except InvalidInput as error:
        return left_out(FindingKind.CORRUPT_IMAGE, InvalidInput(error.message, found.name))
    try:
        if isinstance(found.image, RawImage):
            grey = raw_pixels(source.tree, found.image)
            grey = grey if grey.ndim == 2 else np.asarray(cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY), np.uint8)
            seen = inspect_pixels(grey, found.image.width, found.image.height)
        else:
            seen = inspect_image(data, found.name)
    except InvalidInput as error:
        return left_out(FindingKind.CORRUPT_IMAGE, error)
    try:
        labels = found.labels if found.labels is not None else source.reader.read(found)
    except InvalidInput as error:
        return left_out(FindingKind.INVALID_LABEL, error)
    findings.extend(labels.findings)
    try:
        content, classes = _content(source, labels, seen.width, seen.height, findings)
    except InvalidInput as error:
        return left_out(FindingKind.INVALID_LABEL, error)
    if labels.size not in (None, RELATIVE, (seen.width, seen.height)):
        turned = " (EXIF turns the picture: boxes must refer to it as it is displayed)" if seen.turned else ""
        assert labels.size is not None
        message = (
            f"the annotation claims {labels.size[0]} x {labels.size[1]} pixels, "
            f"the image has {seen.width} x {seen.height}{turned}"
        )
        findings.append(Finding(FindingKind.SIZE_MISMATCH, labels.place, message))
    if any(finding.kind == FindingKind.UNLABELLED for finding in findings) or content is None:
        return Checked(found.name, found.image, found.split, tuple(findings))
    return Checked(
        found.name,
        found.image,
        found.split,
        tuple(findings),
        hashlib.sha256(data).hexdigest(),
        seen.width,
        seen.height,
        seen.hash,
        seen.thumb,
        content,
        classes,
    )


def _content(
    source: OpenSource, labels: Labels, width: int, height: int, findings: list[Finding]
) -> tuple[Content | None, tuple[str, ...]]:
    """Labels as the task wants them, and the classes shown. None where an image has no usable label."""
    task = source.options.task
    if task == Task.SEMANTIC_SEGMENTATION:
        if labels.mask is not None:
            return _mask_content(source, labels.mask, width, height, findings)
        regions = [
            Region(name, region.polygons, region.runs, region.size, region.place)
            for region in labels.regions
            if (name := _known(source, region.name, region.place, findings)) is not None
        ]
        wrong = [region for region in regions if region.runs and region.size != (height, width)]
        for region in wrong:
            message = f"the region has {region.size[1]} x {region.size[0]} pixels, the image {width} x {height}"
            findings.append(Finding(FindingKind.INVALID_LABEL, region.place, message))
        kept = tuple(region for region in regions if region not in wrong)
        return Content(regions=kept), tuple(sorted({region.name for region in kept}))
    known = [
        Box(name, *box.corners, box.difficult, box.place)
        for box in labels.boxes
        if (name := _known(source, box.name, box.place, findings)) is not None
    ]
    if task == Task.CLASSIFICATION:
        raw = [labels.name] if labels.name is not None else []
        named = {name for text in raw if (name := _known(source, text, labels.place, findings)) is not None}
        names = sorted(named | {box.name for box in known})
        if len(names) > 1:
            message = f"the image has the classes {', '.join(names)}; classification wants one"
            findings.append(Finding(FindingKind.INVALID_LABEL, labels.place, message))
        elif not names and not labels.findings and not findings and not raw and not labels.boxes:
            findings.append(Finding(FindingKind.UNLABELLED, labels.place, "the image has no class"))
        return (Content(label=names[0]), (names[0],)) if len(names) == 1 else (None, ())
    if labels.size == RELATIVE:
        known = [
            Box(b.name, b.x1 * width, b.y1 * height, b.x2 * width, b.y2 * height, b.difficult, b.place) for b in known
        ]
    good, of_boxes = check_boxes(known, width, height)
    findings.extend(of_boxes)
    boxes = tuple(sorted((box.name, *box.corners, box.difficult) for box in good))
    return Content(boxes=boxes), tuple(sorted({box.name for box in good}))


def _known(source: OpenSource, raw: str, place: str, findings: list[Finding]) -> str | None:
    try:
        return source.class_of(raw, place)
    except InvalidInput as error:
        findings.append(Finding(FindingKind.UNKNOWN_CLASS, place, error.message, subject=raw))
        return None


def _mask_content(
    source: OpenSource, mask: MaskFile, width: int, height: int, findings: list[Finding]
) -> tuple[Content | None, tuple[str, ...]]:
    values = read_mask((source.tree / mask.path).read_bytes(MAX_FILE_BYTES), mask.path)
    if values.shape != (height, width):
        raise InvalidInput(
            f"the mask has {values.shape[1]} x {values.shape[0]} pixels, the image {width} x {height}",
            mask.path,
        )
    counts = np.bincount(values.ravel(), minlength=256)
    if unknown := [value for value in range(256) if counts[value] and not mask.known[value]]:
        shown = ", ".join(map(str, unknown[:10]))
        message = f"the pixel values {shown} belong to no class; see maskValues and classes"
        findings.append(Finding(FindingKind.UNKNOWN_CLASS, mask.path, message))
    indices = cv2.LUT(values, np.frombuffer(mask.lookup, np.uint8))
    digest = hashlib.sha256(struct.pack(">II", width, height) + indices.tobytes()).hexdigest()
    pixels = np.bincount(indices.ravel(), minlength=256)
    present = [index for index in range(256) if pixels[index] and index != IGNORE]
    names = list(source.options.classes) or sorted(
        {name for raw in source.options.mask_values if (name := source.options.class_map.get(raw, raw))}
    )
    content = Content(mask=mask, mask_digest=digest, pixels=tuple((index, int(pixels[index])) for index in present))
    return content, tuple(names[index] for index in present)


# --- Pixels -------------------------------------------------------------------------------------------------


def image_bytes(tree: Tree, image: ImageRef) -> bytes:
    """The image file's bytes. Raw pixels become a PNG whose bytes are the same on every machine."""
    if isinstance(image, FileImage):
        return (tree / image.path).read_bytes(MAX_FILE_BYTES)
    return plain_png(raw_pixels(tree, image))


def raw_pixels(tree: Tree, image: RawImage) -> NDArray[np.uint8]:
    """Pixels [h, w] or [h, w, 3] of an image inside of a file of raw pixels."""
    size = image.height * image.width * image.channels
    with (tree / image.path).open() as file:
        file.seek(image.offset)
        data = file.read(size)
    if len(data) != size:
        raise InvalidInput("the file ends within the image", f"{image.path}@{image.offset}")
    shape = (image.height, image.width) if image.channels == 1 else (image.height, image.width, image.channels)
    return np.frombuffer(data, np.uint8).reshape(shape)


def plain_png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of grey [h, w] or RGB [h, w, 3] pixels, not compressed: compressors differ between machines."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    data = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    blocks = [data[start : start + 65535] for start in range(0, len(data), 65535)]
    stored = b"".join(
        struct.pack("<BHH", index == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for index, block in enumerate(blocks)
    )
    color = 0 if pixels.ndim == 2 else 2
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)),
            (b"IDAT", b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(data))),
            (b"IEND", b""),
        )
    )


def class_mask(tree: Tree, content: Content, classes: Sequence[str], width: int, height: int) -> NDArray[np.uint8]:
    """Class indices [height, width] of a mask file or of regions, later ones over earlier; IGNORE elsewhere.

    Where a class is named `background`, pixels of no region are of that class.
    """
    if content.mask is not None:
        values = read_mask((tree / content.mask.path).read_bytes(MAX_FILE_BYTES), content.mask.path)
        return np.asarray(cv2.LUT(values, np.frombuffer(content.mask.lookup, np.uint8)), np.uint8)
    ground = classes.index("background") if "background" in classes else IGNORE
    indices = np.full((height, width), ground, np.uint8)
    for region in content.regions:
        index = classes.index(region.name)
        if region.runs:
            flags = np.arange(len(region.runs)) % 2 == 1
            inside = np.repeat(flags, region.runs).reshape(width, height).T
            indices[inside] = index
        for polygon in region.polygons:
            points = np.asarray(polygon, np.float64).reshape(-1, 2).clip(-1e6, 1e6).round().astype(np.int32)
            cv2.fillPoly(indices, [points], index)
    return indices


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """A compressed PNG of class indices."""
    _, data = cv2.imencode(".png", mask)
    return bytes(data.tobytes())
