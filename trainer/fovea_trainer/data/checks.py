"""Checks of images and labels, and the search for images that look alike."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from fovea_api.errors import InvalidInput
from fovea_serving.pipeline import decode_image, is_heic
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from fovea_trainer.data.findings import Finding, FindingKind
from fovea_trainer.data.records import IGNORE, Box

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
"""What is opened at all; Pillow's rarer decoders are attack surface."""
ORIENTATION = 0x0112
"""EXIF's tag."""
MAX_FILE_BYTES = 512 << 20
"""Largest image file."""
MAX_PIXELS = 268_435_456
"""Most pixels of an image: 16384 x 16384. A small file can claim more than any memory holds."""
MIN_BOX_SIDE = 2.0
"""Pixels; a smaller box shows nothing that could be learned."""
ROUNDING = 1.0
"""Pixels by which a box may leave its image unmentioned: tools count from 0 or from 1."""

HASH_SIDE = 16
"""Side of the hash in bits, each of which says whether brightness rises to the next cell (dHash, Krawetz)."""
RISE = 2
"""Grey levels that count as rising; below is noise."""
THUMB_SIDE = 8
HASH_DISTANCE = 12
"""Bits of 256 in which near duplicates may differ: JPEG at quality 50 changes 8 at most in 95 of 100."""
THUMB_DISTANCE = 2.0
"""Mean difference of the thumbnails, in grey levels, after brightness is evened out."""
TABLES, TABLE_BITS, NEIGHBOURS = 24, 32, 12
"""Search: sorted by TABLE_BITS bits TABLES times, each image is compared with NEIGHBOURS next ones.
Two images that differ in 8 bits meet with probability 0.9999, in 12 bits with 0.997."""

ImageFile.LOAD_TRUNCATED_IMAGES = False
Image.MAX_IMAGE_PIXELS = None  # own limit, below, with an error that says what to do


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image's size as displayed, in pixels, and fingerprints for the search of duplicates."""

    width: int
    height: int
    hash: bytes
    thumb: bytes
    orientation: int = 1
    """How EXIF turns the picture, 1 to 8; from 5 on the file's own width and height are the other way round."""
    scaled_from: tuple[float, float] | None = None
    """Least and largest value of an image of more than 8 bits."""


def inspect_image(data: bytes, place: str) -> Inspection:
    """Decodes an image file whole. Raises InvalidInput where it is no image, is cut off, or is too large."""
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", place)
    formats = (*FORMATS, _heif()) if is_heic(data) else FORMATS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                size = image.size
                if size[0] * size[1] > MAX_PIXELS:
                    raise InvalidInput(f"the image has {size[0]} x {size[1]} pixels, more than {MAX_PIXELS:,}", place)
                orientation = image.getexif().get(ORIENTATION, 1)
                # Pillow finds damage that OpenCV fills up with grey. A JPEG is decoded at an eighth of its size where
                # that is enough: all bytes are still read.
                image.draft("L", (4 * HASH_SIDE, 4 * HASH_SIDE))
                image.load()
    except UnidentifiedImageError:
        raise InvalidInput("the file is no image of a known format", place) from None
    except InvalidInput:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        TypeError,
        IndexError,
        KeyError,
        ZeroDivisionError,
    ) as error:
        raise InvalidInput(f"the image cannot be decoded: {error}", place) from None
    except (MemoryError, OverflowError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"the image is too large: {error}", place) from None
    decoded = decode_image(data, place)
    height, width = decoded.pixels.shape[:2]
    if sorted(size) != sorted((width, height)):
        raise InvalidInput(f"decoders disagree about the size: {size[0]} x {size[1]} or {width} x {height}", place)
    seen = inspect_pixels(np.asarray(cv2.cvtColor(decoded.pixels, cv2.COLOR_RGB2GRAY), np.uint8), width, height)
    orientation = orientation if orientation in range(1, 9) else 1
    return replace(seen, orientation=orientation, scaled_from=decoded.scaled_from)


def _heif() -> str:
    """Pillow's name of HEIF, once it can read it."""
    from pi_heif import register_heif_opener  # loads libheif, which few data sets need

    register_heif_opener()
    return "HEIF"


def inspect_pixels(grey: NDArray[np.uint8], width: int, height: int) -> Inspection:
    """Fingerprints of grey pixels [h, w]."""
    cells = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = cells[:, 1:] > cells[:, :-1] + RISE
    thumb = cv2.resize(grey, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA)
    return Inspection(width, height, np.packbits(bits).tobytes(), np.asarray(thumb, np.uint8).tobytes())


def read_mask(data: bytes, place: str, colors: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Pixel values [h, w] of a mask; palette pictures by index. Raises InvalidInput for colours that are not expected.

    Args:
        data: The file.
        place: What errors call it.
        colors: Colours 0xRRGGBB; a pixel's value is the position of its colour, IGNORE for any other.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise InvalidInput(f"the mask has more than {MAX_PIXELS:,} pixels", place)
            image.load()
            if colors:
                return _positions(np.asarray(image.convert("RGB"), np.uint8), colors)
            if image.mode == "1":
                return np.asarray(image, np.uint8)
            values = np.asarray(image)
    except InvalidInput:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, MemoryError) as error:
        raise InvalidInput(f"the mask cannot be decoded: {error}", place) from None
    if values.ndim == 3 and (values[..., :1] == values[..., : min(3, values.shape[2])]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.max(initial=0) > 255:
        raise InvalidInput(
            f"the mask has pixels of kind {values.dtype}{list(values.shape[2:])}",
            place,
            "use one channel of 8 bits",
        )
    return values.astype(np.uint8)


def _positions(pixels: NDArray[np.uint8], colors: Sequence[int]) -> NDArray[np.uint8]:
    """The position [h, w] of each pixel's colour among some; IGNORE for others."""
    packed = (pixels.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2, dtype=np.uint32)
    order = np.argsort(colors)
    listed = np.asarray(colors, np.uint32)[order]
    nearest = np.searchsorted(listed, packed).clip(max=len(listed) - 1)
    return np.where(listed[nearest] == packed, order[nearest], IGNORE).astype(np.uint8)


def check_boxes(boxes: Iterable[Box], width: int, height: int) -> tuple[list[Box], list[Finding]]:
    """The boxes that are right, clipped to the image, and what was wrong with the others."""
    good: dict[tuple[str, tuple[float, float, float, float]], Box] = {}
    findings: list[Finding] = []

    def told(kind: FindingKind, box: Box, message: str) -> None:
        findings.append(Finding(kind, box.place, message))

    for box in boxes:
        corners = box.corners
        words = f"the {box.name} box {', '.join(f'{value:g}' for value in corners)}"
        if not all(math.isfinite(value) for value in corners):
            told(FindingKind.INVALID_LABEL, box, f"{words} has coordinates that are no finite numbers")
            continue
        if box.x2 - box.x1 < MIN_BOX_SIDE or box.y2 - box.y1 < MIN_BOX_SIDE:
            told(FindingKind.DEGENERATE_BOX, box, f"{words} is less than {MIN_BOX_SIDE:g} pixels wide or high")
            continue
        x1, y1, x2, y2 = max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height)
        if x2 - x1 < MIN_BOX_SIDE or y2 - y1 < MIN_BOX_SIDE:
            told(
                FindingKind.OUTSIDE_BOX,
                box,
                f"{words} lies outside of the image of {width} x {height} pixels",
            )
            continue
        over = max(x1 - box.x1, y1 - box.y1, box.x2 - x2, box.y2 - y2)
        if over > ROUNDING:
            told(
                FindingKind.CLIPPED_BOX,
                box,
                f"{words} leaves the image of {width} x {height} pixels; it is clipped",
            )
        # float32 is what a version stores: equal there is equal.
        x1, y1, x2, y2 = (float(np.float32(value)) for value in (x1, y1, x2, y2))
        key = (box.name, (x1, y1, x2, y2))
        if key in good:
            told(FindingKind.DUPLICATE_BOX, box, f"{words} is there twice")
            continue
        good[key] = Box(box.name, x1, y1, x2, y2, box.difficult, box.place)
    return list(good.values()), findings


# --- Images that look alike ---------------------------------------------------------------------------------


def near_duplicates(hashes: NDArray[np.uint8], thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs [M, 2] of rows that look alike, each once, smaller row first, sorted.

    Args:
        hashes: [N, 32] the 256 bits of `Inspection.hash`.
        thumbs: [N, 64] grey levels of `Inspection.thumb`.

    Time N log N, memory about 100 bytes an image beside the arguments.
    """
    count = len(hashes)
    if count < 2:
        return np.empty((0, 2), np.int64)
    words = np.ascontiguousarray(hashes).view(np.uint64).reshape(count, -1)
    random = np.random.default_rng(0)
    found: list[NDArray[np.int64]] = []
    for _ in range(TABLES):
        chosen = random.permutation(8 * hashes.shape[1])[:TABLE_BITS]
        key = np.zeros(count, np.uint32)
        for bit in chosen:
            key = (key << np.uint32(1)) | ((hashes[:, bit >> 3] >> np.uint8(7 - (bit & 7))) & np.uint8(1)).astype(
                np.uint32
            )
        # Within one key the order of the whole hash brings like to like.
        order = np.lexsort((*np.roll(words, int(random.integers(4)), axis=1).T, key))
        for step in range(1, min(NEIGHBOURS, count - 1) + 1):
            first, second = order[:-step], order[step:]
            same = key[first] == key[second]
            first, second = first[same], second[same]
            distance = np.bitwise_count(words[first] ^ words[second]).sum(1)
            close = distance <= HASH_DISTANCE
            pairs = np.stack([first[close], second[close]], 1)
            if len(pairs) and len(pairs := pairs[_alike(thumbs, pairs)]):
                found.append(np.sort(pairs, axis=1))
    if not found:
        return np.empty((0, 2), np.int64)
    return np.unique(np.concatenate(found), axis=0)


def _alike(thumbs: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the thumbnails agree once the mean brightness is evened out."""
    first, second = (thumbs[pairs[:, side]].astype(np.float32) for side in (0, 1))
    difference = (first - first.mean(1, keepdims=True)) - (second - second.mean(1, keepdims=True))
    return np.asarray(np.abs(difference).mean(1) <= THUMB_DISTANCE)


def clusters(count: int, links: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """The smallest member of each row's connected component [count] (union-find with path halving)."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for link in links:
        first, second = root(int(link[0])), root(int(link[1]))
        if first != second:
            parent[max(first, second)] = min(first, second)
    return np.array([root(node) for node in range(count)], np.int64)
