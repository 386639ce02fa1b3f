"""Near duplicates: copies of one picture that were flipped, turned, cropped a little, compressed, resized or relit.

Two shots of one scene are no near duplicates, however much they look alike: what counts is whether anything changed.
In three steps, each of which looks closer at what the step before left:

1. `candidates`: of each image the few with the nearest coarse structure (a perceptual hash).
2. `likely_copies`: the thumbnails are laid upon each other, in brightness and colour.
3. `compare` and `copies`: so are the images themselves, at up to 256 cells a side.

`clusters` then makes groups of the pairs, of bounded diameter. docs/near-duplicates.md has what was measured.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.data.near_duplicates.candidates import Pairs, candidates
from fovea_trainer.data.near_duplicates.clusters import clusters
from fovea_trainer.data.near_duplicates.comparison import contained, difference, register
from fovea_trainer.data.near_duplicates.thumbnails import BYTES, SIDE, halved, orient, thumbnail

__all__ = ["BYTES", "SIDE", "Pairs", "candidates", "clusters", "compare", "copies", "likely_copies", "thumbnail"]

BATCH = 256
"""Pairs that are compared at once."""
FINEST, COARSEST = 256, 32
"""Most and least cells a side when images are compared."""
BEST = 6
"""Likely copies of an image that are looked at closely."""
CROWD, STANDS_OUT = 4, 0.5
"""Look-alikes that make a crowd, and the difference that a copy has at most in one."""
STRICT, LOOSE = (5.0, 18.0), (6.0, 12.0)
"""Differences in brightness and colour that coding explains, of images and of thumbnails: docs/near-duplicates.md."""


def likely_copies(thumbnails: NDArray[np.uint8], sides: NDArray[np.int64], pairs: Pairs) -> Pairs:
    """The pairs whose thumbnails agree, with better poses; of each image the BEST.

    Args:
        thumbnails: Of all images, uint8 [N, 3, SIDE, SIDE].
        sides: [N] the shorter side of each image in pixels.
        pairs: What `candidates` found.
    """
    poses, worst = [np.empty((0, 4))], [np.empty(0)]
    for start in range(0, len(pairs), BATCH):
        some, far = _laid_upon(thumbnails, sides, pairs[start : start + BATCH])
        poses.append(some)
        worst.append(far)
    merged = Pairs(pairs.rows, pairs.orientations, np.concatenate(poses))
    return merged[_best(pairs.rows, np.concatenate(worst))]


def _laid_upon(
    thumbnails: NDArray[np.uint8], sides: NDArray[np.int64], pairs: Pairs
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Better poses [P, 4], and the differences [P] as shares of what is allowed; infinite if they are beyond it."""
    first, second = (np.array(thumbnails[pairs.rows[:, column]]) for column in (0, 1))
    for orientation in range(8):
        chosen = pairs.orientations == orientation
        second[chosen] = orient(second[chosen], orientation)
    limits = _limits(SIDE, sides[pairs.rows].min(1), *LOOSE)
    ours, theirs = halved(first), halved(second)
    poses, worst = register(ours, theirs, pairs.poses, 4), np.full(len(pairs), np.inf)
    near = np.flatnonzero((difference(ours, theirs, poses) <= 2 * limits).all(1))
    if len(near):
        poses[near] = register(first[near], second[near], poses[near], 2)
        share = (difference(first[near], second[near], poses[near]) / limits[near]).max(1)
        worst[near] = np.where(share <= 1, share, np.inf)
    return poses, worst


def _best(rows: NDArray[np.int64], worst: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs [M] agree and are among the BEST of one of their images."""
    image, pair = rows.ravel(), np.repeat(np.arange(len(rows)), 2)
    order = np.lexsort((pair, worst[pair], image))
    rank = np.arange(len(image)) - np.searchsorted(image[order], image[order])
    result = np.zeros(len(rows), bool)
    result[pair[order[rank < BEST]]] = True
    return result & np.isfinite(worst)


def compare(first: NDArray[np.uint8], second: NDArray[np.uint8], orientation: int, pose: NDArray[np.float64]) -> float:
    """How much images uint8 [h, w, 3] differ, as a share of what coding explains; infinite where it is much more.

    Orientation and pose as in `Pairs`.
    """
    least = np.array([min(*first.shape[:2], *second.shape[:2])])
    side = max(COARSEST, min(FINEST, int(least[0])) // 16 * 16)
    ours, theirs = thumbnail(first, side)[None], orient(thumbnail(second, side), orientation)[None]
    if side >= 2 * SIDE:  # what differs at half the side is no copy, and most are sorted out by it
        half = halved(ours), halved(theirs)
        poses = register(*half, pose[None], 3)
        if (
            not contained(poses, least)[0]
            or (difference(*half, poses) > 1.5 * _limits(side // 2, least, *STRICT)).any()
        ):
            return math.inf
    else:
        poses = register(ours, theirs, pose[None], 3)
        if not contained(poses, least)[0]:
            return math.inf
    return float((difference(ours, theirs, poses) / _limits(side, least, *STRICT)).max())


def copies(likely: NDArray[np.int64], differences: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which likely pairs [M, 2] are near duplicates, by what `compare` said of each [M].

    An image with CROWD look-alikes that are none was taken by a camera that stands still: there a pair must be
    alike to within half of what coding explains, or two shots in which little happened would pass.
    """
    alike = differences <= 1
    lookalikes = np.bincount(likely[~alike].ravel(), minlength=int(likely.max(initial=-1)) + 1)
    crowded = (lookalikes[likely] >= CROWD).any(1) if len(likely) else alike
    return alike & (~crowded | (differences <= STANDS_OUT))


def _limits(side: int, sides: NDArray[np.int64], brightness: float, colour: float) -> NDArray[np.float64]:
    """Largest difference [N, 2] in brightness and colour that coding explains.

    A cell that averages few pixels keeps more of the noise, and one smaller than a pixel shows how it was resampled.
    """
    cells = side / np.maximum(sides, 1)
    allowed = np.minimum(brightness + 2 * cells + 12 * np.maximum(cells - 1, 0), 2 * brightness)
    return np.stack([allowed, np.maximum(allowed, colour)], 1)
