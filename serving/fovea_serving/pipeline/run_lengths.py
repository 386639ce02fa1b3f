"""COCO's run-length encodings of masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from faster_coco_eval import mask as coco_mask
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray
from pydantic import JsonValue


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, JsonValue]:
    """A mask `[height, width]` as COCO's compressed run-length encoding, which pycocotools reads."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(length) for length in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


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
