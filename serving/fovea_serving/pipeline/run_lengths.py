"""COCO's run-length encodings of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from faster_coco_eval import mask as coco_mask
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import JsonValue


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, JsonValue]:
    """A mask `[height, width]` as COCO's compressed run-length encoding, which pycocotools reads."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(length) for length in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


class Encoded(TypedDict):
    """A mask as pycocotools holds it."""

    size: list[int]
    """Height and width."""
    counts: bytes


def encode(mask: NDArray[np.bool_], left: int, top: int, width: int, height: int) -> bytes:
    """Compressed run lengths of an image whose only set pixels are those of a part of it.

    The time goes with the size of the part, not with that of the image.

    Args:
        mask: The part `[h, w]`.
        left: Its first column.
        top: Its first row.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
    """
    ringed = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
    ringed[:, 1:-1] = mask.T
    columns, edges = np.nonzero(np.diff(ringed, axis=1))  # of each column, in turn where a run starts and ends
    places = (left + columns) * height + top + edges
    joined = np.flatnonzero(places[1:-1:2] == places[2::2])  # runs that go on at the head of the next column
    places = np.delete(places, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    ends = np.array([width * height]) if not len(places) or places[-1] < width * height else np.zeros(0, np.int64)
    counts = np.diff(places, prepend=0, append=ends)
    return bytes(coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)["counts"])


def decode(counts: bytes, width: int, height: int) -> NDArray[np.bool_]:
    """The mask `[height, width]` of compressed run lengths that were checked."""
    return np.asarray(coco_mask.decode(encoded(counts, width, height)), np.bool_)


def decode_part(counts: bytes, box: tuple[int, int, int, int], height: int) -> NDArray[np.bool_]:
    """What of such a mask lies in a box [left, top, right, bottom], as `[bottom - top, right - left]`.

    The time goes with the size of the part, not with that of the image, of which `height` is the height in pixels.
    """
    left, top, right, bottom = box
    ends = np.cumsum(_runs(counts)).clip(left * height, right * height)
    lengths = np.diff(ends, prepend=left * height)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(right - left, height)
    return columns[:, top:bottom].T


def _runs(counts: bytes) -> NDArray[np.int64]:
    """What `decode_runs` gives, of compressed run lengths that were checked."""
    bits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    first = np.flatnonzero(np.concatenate([[True], (bits[:-1] & 0x20) == 0]))
    place = np.arange(len(bits)) - np.repeat(first, np.diff(first, append=len(bits)))
    last = np.append(first[1:], len(bits)) - 1
    runs: NDArray[np.int64] = np.add.reduceat((bits & 0x1F) << 5 * place, first)
    runs -= np.where(bits[last] & 0x10, 1 << 5 * (place[last] + 1), 0)
    for start in (1, 2):  # from the fourth on each is relative to the run before the last
        runs[start::2] = runs[start::2].cumsum()
    return runs


def encoded(counts: bytes, width: int, height: int) -> Encoded:
    """As pycocotools takes it."""
    return {"size": [height, width], "counts": counts}


def bounds(masks: Sequence[Encoded]) -> NDArray[np.float32]:
    """Boxes xyxy `[N, 4]` around the pixels of each; without pixels all is 0."""
    boxes = np.asarray(coco_mask.toBbox(list(masks)), np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).astype(np.float32)


def areas(masks: Sequence[Encoded]) -> NDArray[np.int64]:
    """Pixels of each, `[N]`."""
    return np.asarray(coco_mask.area(list(masks)), np.int64).reshape(-1)


def overlap(first: Sequence[Encoded], second: Sequence[Encoded]) -> NDArray[np.float64]:
    """Intersection over union `[N, M]` of masks of one image."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(list(first), list(second), [0] * len(second)), np.float64)


def pack(counts: Sequence[bytes]) -> NDArray[np.uint8]:
    """Run lengths of N masks as an array `[N, L]`: a row of ASCII each, filled up with zeros."""
    width = max(map(len, counts), default=0)
    text = b"".join(each.ljust(width, b"\0") for each in counts)
    return np.frombuffer(text, np.uint8).reshape(len(counts), width)


def unpack(packed: NDArray[np.uint8]) -> list[bytes]:
    """What `pack` was given."""
    return [row.tobytes().rstrip(b"\0") for row in packed]


def decode_runs(text: str) -> list[int]:
    """COCO's compressed run lengths: 5 bits a character, relative to the run before the last (maskApi.c).

    Raises InvalidInput for a run that is longer than any image.
    """
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more and position < len(text):
            bits = ord(text[position]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            position, shift = position + 1, shift + 5
            if shift > 60:
                raise InvalidInput("`segmentation.counts` is no list of run lengths")
            if not more and bits & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def mask_of(encoded: JsonValue, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask `[height, width]` of a run-length encoding, compressed or not, of strangers.

    Args:
        encoded: `size` [height, width] and `counts`.
        size: Width and height that it must have.

    Raises InvalidInput where it is none, or one of another size.
    """
    width, height = size
    if not isinstance(encoded, Mapping) or encoded.get("size") != [height, width]:
        words = f"`size` of a mask must be [{height}, {width}], the height and width of the image"
        raise InvalidInput(words, "mask", "encode it as COCO run lengths")
    counts = encoded.get("counts")
    listed = decode_runs(counts) if isinstance(counts, str) else counts if isinstance(counts, list) else []
    runs = [run for run in listed if isinstance(run, int) and not isinstance(run, bool) and run >= 0]
    if len(runs) != len(listed) or sum(runs) != width * height:
        raise InvalidInput(f"the run lengths of a mask must sum to {width} x {height}", "mask")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
