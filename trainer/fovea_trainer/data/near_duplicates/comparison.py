"""Whether one picture is a copy of another: they are laid upon each other, and what is left must be coding noise.

The difference counts where it is largest: a defect or an object that moved is a large difference in a small place;
compression, resampling and noise are small differences everywhere, and larger at edges.

Of a camera that stands still, two shots may agree in all but the noise of the sensor. A copy has its original's noise,
another shot has its own (Lukáš, Fridrich and Goljan, "Digital Camera Identification From Sensor Pattern Noise", 2006,
tell cameras by it). How much of it differs is measured beside the difference: in small blocks, of which a quiet one
counts, so that what moved does not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fovea_trainer.data.near_duplicates.registration import STEPS, contained, register

Picture = NDArray[np.float32]

FINEST, COARSEST = 256, 32
"""Most and least cells a side when images are compared."""
STRICT = (5.0, 18.0)
"""Differences in brightness and in a colour that coding explains, in grey levels: docs/near-duplicates.md."""
EARLY = 1.5
"""Difference at half the cells beyond which no closer look is taken."""
GAIN = (0.35, 2.9)
"""Least and most contrast of a copy, relative to its original."""
OVERLAP = 0.75
"""Least share of the copy that lies in the original."""
EDGE = 0.2
"""Difference that an edge is allowed, as a share of its slope from cell to cell: a fifth of a cell's misalignment."""
SMOOTH = np.array([0.125, 0.75, 0.125], np.float32)
"""Weights of a cell and its neighbours: less aliasing, so that what lies between cells can be foretold."""
LEAST_USABLE = 0.004
"""Share of a picture by which gain and offset are found; with less of it unsaturated all of it is used."""
DARK, BRIGHT = 4, 251
"""Levels beyond which a pixel counts as saturated: its true value may be lower or higher."""
BLOCK = 8
"""Cells a side of the blocks in which noise is measured."""
IDENTITY = np.array([1.0, 0.0, 1.0, 0.0])
COARSER = 0.9
"""Pixels a side below which, as a share of the other's, an image has less resolution."""
CROPPED = 0.01
"""Change of scale, or shift in shares of the picture, from which on a picture is taken for a window of the other."""
QUIET = 0.25
"""Quantile of the blocks' noise that counts: what moved, and edges, are in other blocks."""


class Comparison(NamedTuple):
    """What is left between two images that were laid upon each other.

    Attributes:
        difference: The largest local difference, as a share of what coding explains; infinite where it is much more.
        noise: Mean square of the fine difference in the quieter blocks, in grey levels of the second.
        changed: Share of the picture in which more than noise differs.
    """

    difference: float
    noise: float
    changed: float


def compare(
    first: NDArray[np.uint8], second: NDArray[np.uint8], orientation: int, pose: NDArray[np.float64]
) -> Comparison:
    """Compares images uint8 [h, w, 3] in RGB, large ones `reduced`; orientation and pose as in `Pairs`."""
    second = np.ascontiguousarray(_oriented(second, orientation))
    first, second = _as_coarse(first, second, pose), _as_coarse(second, first, _inverse(pose))
    least = min(*first.shape[:2], *second.shape[:2])
    side = max(COARSEST, min(FINEST, least // 16 * 16))
    coarse = side // 2 if side >= 3 * COARSEST else side
    ours, theirs = cells(first, coarse), cells(second, coarse)
    pose = _registered(ours, theirs, pose)
    result = Comparison(math.inf, math.inf, 1.0)
    if contained(pose[None], np.array([least]))[0]:
        result = _difference(first, second, pose, (coarse, side))
    if first.shape == second.shape:  # what moves before a camera that stands still moves the pose, but not the rest
        rest = _luma(theirs) - _luma(ours) * _brightness(theirs) / _brightness(ours)
        if (noise := _noise(rest)) <= result.noise:
            result = Comparison(result.difference, noise, _changed(rest))
    return result


def _as_coarse(image: NDArray[np.uint8], other: NDArray[np.uint8], pose: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A small image at the resolution of the other where that one has less; of larger ones cells are coarse enough.

    What a smaller copy has lost is no difference.
    """
    height, width = (max(1, round(side / scale)) for side, scale in zip(other.shape, pose[[2, 0]], strict=False))
    if min(height, width) >= FINEST or height > COARSER * image.shape[0] or width > COARSER * image.shape[1]:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _registered(ours: Picture, theirs: Picture, pose: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(register(_luma(ours)[None], _luma(theirs)[None], pose[None], 3)[0])


def _difference(
    first: NDArray[np.uint8], second: NDArray[np.uint8], pose: NDArray[np.float64], sides: tuple[int, int]
) -> Comparison:
    """What is left at few cells and, where there is little at these, at many."""
    coarse, side = sides
    if np.abs(pose - IDENTITY).max() > CROPPED:
        # A crop starts and ends with a pixel: from its own pixels a cell is not interpolated.
        first, second = _window(first, pose), _window(second, _inverse(pose))
        pose = _registered(cells(first, coarse), cells(second, coarse), IDENTITY)
    ours, theirs = cells(first, coarse), cells(second, coarse)
    sound = [cells(_unsaturated(image), coarse) > 1 - 1e-6 for image in (first, second)]
    tone = _tone(ours, theirs, pose, *sound)
    if tone is None:
        return Comparison(math.inf, math.inf, 1.0)
    result = _look(first, second, ours, theirs, pose, tone)
    if side > coarse and result.difference <= EARLY:
        finer = _look(first, second, cells(first, side), cells(second, side), pose, tone)
        result = result._replace(difference=finer.difference)
    return result


def _inverse(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    scale, shift = pose[::2], pose[1::2]
    return np.stack([1 / scale, -shift / scale], 1).ravel()


def _window(image: NDArray[np.uint8], pose: NDArray[np.float64]) -> NDArray[np.uint8]:
    """What the other picture sees of an image, in whole pixels."""
    for axis, scale, shift in ((1, *pose[:2]), (0, *pose[2:])):
        size = image.shape[axis]
        first, last = (round(size * min(1.0, max(0.0, 0.5 + shift + half * scale))) for half in (-0.5, 0.5))
        image = image.take(range(first, max(last, first + 1)), axis)
    return np.ascontiguousarray(image)


def reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A large image [h, w, 3] averaged over blocks of pixels: finer cells than are compared, at less cost."""
    height, width = image.shape[:2]
    block = min(height, width) // (2 * FINEST)
    if block < 2:
        return image
    return np.asarray(cv2.resize(image, (width // block, height // block), interpolation=cv2.INTER_AREA), np.uint8)


def cells(image: NDArray[np.uint8], side: int) -> Picture:
    """An image [h, w, 3] squashed to float32 [side, side, 3]: means of the pixels in and around each cell."""
    squashed = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.sepFilter2D(squashed, -1, SMOOTH, SMOOTH, borderType=cv2.BORDER_REPLICATE), np.float32)


def _oriented(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation & 4:
        image = image.swapaxes(0, 1)
    if orientation & 2:
        image = image[::-1]
    return image[:, ::-1] if orientation & 1 else image


def _luma(picture: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)


def _brightness(picture: Picture) -> float:
    return max(float(picture.mean()), 1.0)


def _unsaturated(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.inRange(image.reshape(-1, 1), DARK + 1, BRIGHT - 1).reshape(image.shape) // 255, np.uint8)


def _tone(
    ours: Picture, theirs: Picture, pose: NDArray[np.float64], sound: NDArray[np.bool_], also: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """Gain and offset of least squares, of what is not saturated; None where no copy has such contrast."""
    warped, inside = _warp(ours, pose)
    if inside.mean() < OVERLAP:
        return None
    usable = inside[..., None] & (_warp(sound.astype(np.float32), pose)[0] > 0.999) & also
    if usable.mean() < LEAST_USABLE:
        usable = np.broadcast_to(inside[..., None], warped.shape)
    x, y = warped[usable].astype(np.float64), theirs[usable].astype(np.float64)
    variance = x.var()
    gain = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 1 else 1.0
    gain = round(gain / STEPS) * STEPS
    if not GAIN[0] <= gain <= GAIN[1]:
        return None
    return float(gain), float(y.mean() - gain * x.mean())


def _look(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    ours: Picture,
    theirs: Picture,
    pose: NDArray[np.float64],
    tone: tuple[float, float],
) -> Comparison:
    side, (gain, offset) = len(ours), tone
    limits = _limits(side, min(*first.shape[:2], *second.shape[:2]))
    # Saturation loses what was there: each picture is foretold from the other, pixel by pixel.
    forth, inside = _warp(cells(_relit(first, gain, offset), side), pose)
    back = cells(_relit(second, 1 / gain, -offset / gain), side)
    warped, _ = _warp(ours, pose)
    rest = (theirs - forth) * inside[..., None]
    there = _largest(rest, forth, max(gain, 1), limits)
    here = _largest((warped - back) * inside[..., None], back, max(1 / gain, 1), limits)
    return Comparison(min(there, here), _noise(_luma(rest)), _changed(_luma(rest)))


def _relit(image: NDArray[np.uint8], gain: float, offset: float) -> NDArray[np.uint8]:
    levels = np.rint(gain * np.arange(256) + offset).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, levels))


def _largest(rest: Picture, expected: Picture, noise: float, limits: tuple[float, float]) -> float:
    grey = _luma(expected)
    slope = cv2.blur(cv2.magnitude(_slope(grey, 1), _slope(grey, 0)), (3, 3), borderType=cv2.BORDER_REPLICATE)
    scale = noise + EDGE * slope
    colours = np.abs(cv2.blur(rest, (3, 3), borderType=cv2.BORDER_REPLICATE)) / scale[..., None]
    grey = np.abs(cv2.blur(_luma(rest), (3, 3), borderType=cv2.BORDER_REPLICATE)) / scale
    worst = max(grey.max() / limits[0], colours.max() / limits[1])
    return round(float(worst) * 1024) / 1024


def _slope(picture: Picture, axis: int) -> Picture:
    kernel = np.array([[-0.5, 0, 0.5]], np.float32)
    return np.asarray(cv2.filter2D(picture, -1, kernel if axis else kernel.T, borderType=cv2.BORDER_REPLICATE))


def _noise(rest: Picture) -> float:
    fine = rest - cv2.blur(rest, (5, 5), borderType=cv2.BORDER_REPLICATE)
    blocks = len(rest) // BLOCK
    squares = (fine * fine)[: blocks * BLOCK, : blocks * BLOCK].reshape(blocks, BLOCK, blocks, BLOCK)
    return float(np.quantile(squares.mean((1, 3)), QUIET))


def _changed(rest: Picture) -> float:
    blurred = cv2.blur(rest, (3, 3), borderType=cv2.BORDER_REPLICATE)
    return round(float((np.abs(blurred) > 2 * STRICT[0]).mean()), 3)


def _limits(side: int, pixels: int) -> tuple[float, float]:
    """Largest differences in brightness and colour that coding explains, `side` cells of `pixels` pixels in all.

    A cell that averages few pixels keeps more of the noise, and one smaller than a pixel shows how it was resampled.
    """
    share = side / max(pixels, 1)
    most = min(STRICT[0] + 2 * share + 12 * max(share - 1, 0), 2 * STRICT[0])
    return most, max(most, STRICT[1])


def _warp(picture: Picture, pose: NDArray[np.float64]) -> tuple[Picture, NDArray[np.bool_]]:
    """The first picture [n, n(, 3)] as the second sees it, and which cells [n, n] lie inside of it."""
    side = len(picture)
    scale, shift = pose[::2], pose[1::2]
    matrix = np.zeros((2, 3))
    matrix[[0, 1], [0, 1]] = scale
    matrix[:, 2] = scale * (0.5 - side / 2) + (shift + 0.5) * side - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(picture, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    place = (np.arange(side) + 0.5) / side - 0.5
    across, down = (np.abs(scale[axis] * place + shift[axis]) <= 0.5 for axis in (0, 1))
    return np.asarray(warped, np.float32), down[:, None] & across
