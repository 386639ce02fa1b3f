"""What a worker process does: reads and checks images with their labels, and reads them again for writing."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from fovea_api.common import MAX_CLASS_NAME, Task
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline.run_lengths import encode
from fovea_store import NotFound
from numpy.typing import NDArray

from fovea_trainer.data.checks import (
    MAX_FILE_BYTES,
    MIN_BOX_SIDE,
    ROUNDING,
    Inspection,
    check_boxes,
    inspect_image,
    inspect_pixels,
    read_mask,
)
from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.formats import Options, Reader, Tree
from fovea_trainer.data.orientation import TRANSPOSED, turn_labels, turn_pixels
from fovea_trainer.data.records import (
    IGNORE,
    RELATIVE,
    Box,
    FileImage,
    ImageRef,
    Labels,
    MaskFile,
    RawImage,
    Region,
    SourceImage,
)
from fovea_trainer.data.regions import draw, extent, fault_of, ignored, outlined_by_box, pixels_of, scaled
from fovea_trainer.data.text import composed


@dataclass(frozen=True)
class OpenSource:
    """A source that is being read: its name, its files and the reader of its format."""

    name: str
    tree: Tree
    reader: Reader
    options: Options
    program: str = ""
    """The field of the program that has written the files; empty: none has."""

    def class_of(self, raw: str, place: str) -> str | None:
        """The class of a name in the source; None where classMap drops it. Raises InvalidInput.

        Names that look alike are alike: letters may be composed or not.
        """
        raw = composed(raw).strip()
        name = self._renamed.get(raw, raw)
        if not name:
            return None
        if len(name) > MAX_CLASS_NAME:
            raise InvalidInput(
                f"the class {raw[:40]!r}… has a name of {len(name)} characters; {MAX_CLASS_NAME} are possible",
                place,
                "shorten it by classMap",
            )
        if self._classes and name not in self._classes:
            raise InvalidInput(
                f"the class {raw!r} is not one of {', '.join(self.options.classes[:20])}",
                place,
                "see classes, classMap",
            )
        return self._classes.get(name, name)

    @cached_property
    def _renamed(self) -> dict[str, str]:
        return {composed(raw): composed(name) for raw, name in self.options.class_map.items()}

    @cached_property
    def _classes(self) -> dict[str, str]:
        """The recipe's classes, as it writes them, by their composed names."""
        return {composed(name): name for name in self.options.classes}


@dataclass(frozen=True, slots=True)
class Content:
    """Labels that have been checked, by class name. The text form is canonical."""

    label: str | None = None
    boxes: tuple[tuple[str, float, float, float, float, bool], ...] = ()
    masks: tuple[str, ...] = ()
    """COCO's compressed run lengths of each box's pixels, where the task asks for them."""
    regions: tuple[Region, ...] = ()
    mask: MaskFile | None = None
    mask_digest: str = ""
    pixels: tuple[tuple[int, int], ...] = ()
    """Class index and number of pixels, of a mask."""

    def to_json(self) -> str:
        mask = self.mask and [
            *(self.mask.path, self.mask.lookup.hex(), self.mask.known.hex()),
            *(self.mask.orientation, self.mask.colors),
        ]
        regions = [[r.name, r.polygons, r.runs, r.size] for r in self.regions]
        return json.dumps([self.label, self.boxes, self.masks, regions, mask, self.mask_digest, self.pixels])

    @classmethod
    def from_json(cls, text: str) -> Content:
        label, boxes, masks, regions, mask, mask_digest, pixels = json.loads(text)
        return cls(
            label,
            tuple((b[0], b[1], b[2], b[3], b[4], b[5]) for b in boxes),
            tuple(masks),
            tuple(Region(r[0], tuple(tuple(p) for p in r[1]), tuple(r[2]), (r[3][0], r[3][1])) for r in regions),
            MaskFile(mask[0], bytes.fromhex(mask[1]), bytes.fromhex(mask[2]), mask[3], tuple(mask[4]))
            if mask
            else None,
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
    thumbnail: bytes = b""
    content: Content = Content()
    classes: tuple[str, ...] = ()
    """Names of the classes that it shows, each once."""
    group: str = ""
    """That of the source; empty: it has none."""
    waiting: str = ""
    """Digest of an image that has no label yet and is therefore left out; empty: it is not so."""


def check_chunk(source: OpenSource, chunk: Sequence[SourceImage]) -> list[Checked]:
    """Reads and checks images with their labels."""
    cv2.setNumThreads(1)
    return [check(source, item) for item in chunk]


def check(source: OpenSource, item: SourceImage) -> Checked:
    """Reads and checks one image with its labels. What is wrong is reported in `findings`, never raised.

    Only a store that fails raises.
    """

    def left_out(kind: FindingKind, error: InvalidInput) -> Checked:
        finding = Finding(kind, error.location or item.name, error.message, error.remedy or "")
        return Checked(item.name, item.image, item.split, (*findings, finding))

    findings: list[Finding] = []
    try:
        data = image_bytes(source.tree, item.image)
    except NotFound:
        place = item.labels_path or (item.labels.place if item.labels else item.name)
        error = InvalidInput(f"the image {item.name} is missing", place)
        return left_out(FindingKind.MISSING_IMAGE, error)
    except InvalidInput as error:
        return left_out(FindingKind.CORRUPT_IMAGE, InvalidInput(error.message, item.name))
    try:
        if isinstance(item.image, RawImage):
            seen = inspect_pixels(rgb(raw_pixels(source.tree, item.image)))
        else:
            seen = inspect_image(data, item.name)
    except InvalidInput as error:
        return left_out(FindingKind.CORRUPT_IMAGE, error)
    try:
        labels = item.labels if item.labels is not None else source.reader.read(item)
    except InvalidInput as error:
        return left_out(FindingKind.INVALID_LABEL, error)
    findings.extend(labels.findings)

    def waits() -> Checked:
        return Checked(
            *(item.name, item.image, item.split, tuple(findings)),
            width=seen.width,
            height=seen.height,
            thumbnail=seen.thumbnail,
            group=item.group,
            waiting=hashlib.sha256(data).hexdigest(),
        )

    if seen.scaled_from is not None:
        message = f"its values from {seen.scaled_from[0]:g} to {seen.scaled_from[1]:g} became 0 to 255"
        findings.append(Finding(FindingKind.SCALED_VALUES, item.name, message))
    if labels.waits:
        return waits()
    if source.options.task != Task.CLASSIFICATION and (labels.boxes or labels.regions):
        try:
            labels, finding = as_displayed(labels, seen)
        except InvalidInput as error:
            return left_out(FindingKind.OTHER_SIZE, error)
        findings.extend(finding)
    try:
        content, classes = content_of(source, labels, seen, findings)
    except InvalidInput as error:
        return left_out(FindingKind.INVALID_LABEL, error)
    if any(finding.kind == FindingKind.UNLABELLED for finding in findings):
        return waits()
    if not labels.complete or content is None:
        return Checked(item.name, item.image, item.split, tuple(findings))
    return Checked(
        item.name,
        item.image,
        item.split,
        tuple(findings),
        hashlib.sha256(data).hexdigest(),
        seen.width,
        seen.height,
        seen.thumbnail,
        content,
        classes,
        item.group,
    )


def as_displayed(labels: Labels, seen: Inspection) -> tuple[Labels, tuple[Finding, ...]]:
    """Labels of the picture as it is displayed, and what is doubtful about them.

    Labels of the raster that EXIF turns are rotated with it where the size that the annotation claims says so.
    Raises InvalidInput where the labels are of an image of another size.
    """
    shown, claimed = (seen.width, seen.height), labels.size
    if claimed == RELATIVE:
        return labels, ()  # shares of the picture as it is displayed: so Ultralytics reads and writes YOLO
    if claimed in (None, shown):
        if seen.orientation == 1 or (claimed == shown and seen.orientation in TRANSPOSED and seen.width != seen.height):
            return labels, ()
        message = f"EXIF turns the picture (orientation {seen.orientation}); the annotation does not say if it did, too"
        return labels, (Finding(FindingKind.TURNED_IMAGE, labels.place, message),)
    assert claimed is not None
    message = f"the annotation claims {claimed[0]} x {claimed[1]} pixels, the image has {shown[0]} x {shown[1]}"
    if claimed == shown[::-1] and seen.orientation in TRANSPOSED:
        rotated = turn_labels(labels, seen.orientation, *shown)
        return rotated, (Finding(FindingKind.TURNED_LABELS, labels.place, f"{message}, as EXIF turns it"),)
    # What fits the image alone is of the image, whatever the annotation claims, as is what fits with its sides swapped.
    if _fit(labels, shown) and (claimed == shown[::-1] or not _fit(labels, claimed)):
        return labels, (Finding(FindingKind.SIZE_MISMATCH, labels.place, message),)
    raise InvalidInput(message, labels.place)


def _fit(labels: Labels, size: tuple[int, int]) -> bool:
    """Whether boxes and polygons lie inside of an image of this size."""
    ends = [box.corners[2:] for box in labels.boxes]
    ends += [(max(polygon[0::2]), max(polygon[1::2])) for region in labels.regions for polygon in region.polygons]
    return all(x <= size[0] + ROUNDING and y <= size[1] + ROUNDING for x, y in ends)


def content_of(
    source: OpenSource, labels: Labels, seen: Inspection, findings: list[Finding]
) -> tuple[Content | None, tuple[str, ...]]:
    """Labels as the task wants them, and the classes shown. None where an image has no usable label."""
    task, width, height = source.options.task, seen.width, seen.height
    if task == Task.SEMANTIC_SEGMENTATION:
        if labels.mask is not None:
            return _mask_content(source, labels.mask, seen, findings)
        regions = tuple(_region(source, region, width, height, findings) for region in labels.regions)
        return Content(regions=regions), tuple(sorted({region.name for region in regions if region.name}))
    known = [
        replace(box, name=name)
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
        known = [_absolute(box, width, height) for box in known]
    good, of_boxes = check_boxes(known, width, height)
    findings.extend(of_boxes)
    masks = [""] * len(good)
    if source.options.outlines:
        drawn = [_outlined(box, width, height, findings) for box in good]
        good, masks = [each[0] for each in drawn if each], [each[1] for each in drawn if each]
    objects = sorted(((box.name, *box.corners, box.difficult), mask) for box, mask in zip(good, masks, strict=True))
    return (
        Content(boxes=tuple(box for box, _ in objects), masks=tuple(mask for _, mask in objects if mask)),
        tuple(sorted({box.name for box in good})),
    )


def _absolute(box: Box, width: int, height: int) -> Box:
    """A box in shares of the image's sides, in pixels."""
    x1, y1, x2, y2 = box.x1 * width, box.y1 * height, box.x2 * width, box.y2 * height
    return replace(box, x1=x1, y1=y1, x2=x2, y2=y2, outline=box.outline and scaled(box.outline, width, height))


def _outlined(box: Box, width: int, height: int, findings: list[Finding]) -> tuple[Box, str] | None:
    """An object with the box around its pixels, and these as compressed run lengths; None where it has too few."""
    fault = "the object has a box and no outline" if box.outline is None else fault_of(box.outline, width, height)
    if fault:
        findings.append(Finding(FindingKind.IGNORED_REGION, box.place, fault))
        box = outlined_by_box(box)
    assert box.outline is not None
    pixels = pixels_of(box.outline, width, height)
    left, top, right, bottom = extent(pixels)
    if min(right - left, bottom - top) < MIN_BOX_SIDE:
        message = f"the outline of the {box.name} holds {pixels.sum()} pixels"
        findings.append(Finding(FindingKind.DEGENERATE_BOX, box.place, message))
        return None
    counts = encode(pixels[top:bottom, left:right], left, top, width, height).decode("ascii")
    return replace(box, x1=float(left), y1=float(top), x2=float(right), y2=float(bottom)), counts


def _region(source: OpenSource, region: Region, width: int, height: int, findings: list[Finding]) -> Region:
    """A region as it is drawn; without a name where its pixels are ignored. Raises InvalidInput where nobody knows
    which pixels these would be."""
    fault = fault_of(region, width, height) if region.polygons or region.runs else ""
    if fault:
        if region.box is None:
            raise InvalidInput(fault, region.place)
        findings.append(Finding(FindingKind.IGNORED_REGION, region.place, fault))
    if fault or not (region.polygons or region.runs):
        assert region.box is not None, "a region without pixels and box makes its image incomplete"
        return ignored(region, width, height)
    name = _known(source, region.name, region.place, findings) if region.name else None
    return replace(region, name=name or "", box=None)


def _known(source: OpenSource, raw: str, place: str, findings: list[Finding]) -> str | None:
    try:
        return source.class_of(raw, place)
    except InvalidInput as error:
        findings.append(Finding(FindingKind.UNKNOWN_CLASS, place, error.message, subject=raw))
        return None


def _mask_content(
    source: OpenSource, mask: MaskFile, seen: Inspection, findings: list[Finding]
) -> tuple[Content | None, tuple[str, ...]]:
    width, height = seen.width, seen.height
    values = read_mask((source.tree / mask.path).read_bytes(MAX_FILE_BYTES), mask.path, mask.colors)
    if seen.orientation in TRANSPOSED and values.shape == (width, height) != (height, width):
        mask = replace(mask, orientation=seen.orientation)
        values = turn_pixels(values, mask.orientation)
        message = f"the mask is one of the picture as EXIF finds it (orientation {mask.orientation})"
        findings.append(Finding(FindingKind.TURNED_LABELS, mask.path, message))
    if values.shape != (height, width):
        raise InvalidInput(
            f"the mask has {values.shape[1]} x {values.shape[0]} pixels, the image {width} x {height}",
            mask.path,
        )
    counts = np.bincount(values.ravel(), minlength=256)
    if unknown := [value for value in range(256) if counts[value] and not mask.known[value]]:
        shown = ", ".join(map(str, unknown[:10]))
        message = f"the pixel values {shown} belong to no class; see maskValues and classes"
        if mask.colors:
            message = f"{counts[IGNORE]:,} pixels have a colour that belongs to no class; see maskColors"
        findings.append(Finding(FindingKind.UNKNOWN_CLASS, mask.path, message))
    indices = cv2.LUT(np.ascontiguousarray(values), np.frombuffer(mask.lookup, np.uint8))
    digest = hashlib.sha256(struct.pack(">II", width, height) + indices.tobytes()).hexdigest()
    pixels = np.bincount(indices.ravel(), minlength=256)
    present = [index for index in range(256) if pixels[index] and index != IGNORE]
    names = source.options.mask_classes
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


def rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [h, w, 3] of grey [h, w] or RGB ones."""
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


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
    """Class indices [height, width] of a mask file or of regions; IGNORE elsewhere."""
    if content.mask is None:
        return draw(content.regions, classes, width, height)
    data = (tree / content.mask.path).read_bytes(MAX_FILE_BYTES)
    values = read_mask(data, content.mask.path, content.mask.colors)
    if content.mask.orientation in TRANSPOSED:
        values = turn_pixels(values, content.mask.orientation)
    return np.asarray(cv2.LUT(np.ascontiguousarray(values), np.frombuffer(content.mask.lookup, np.uint8)), np.uint8)


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """A compressed PNG of class indices."""
    _, data = cv2.imencode(".png", mask)
    return bytes(data.tobytes())
