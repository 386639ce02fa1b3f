"""Near duplicates: copies of one picture that were flipped, turned, cropped a little, compressed, resized or relit.

Two shots of one scene are no near duplicates, however much they look alike: what counts is whether anything changed,
and where nothing did, whether the noise is the same. In three steps, each of which looks closer at what the step before
left:

1. `candidates`: of each image the few with the nearest coarse structure (a perceptual hash).
2. `likely_copies`: the thumbnails are laid upon each other.
3. `compare` and `copies`: so are the images themselves, in colour, at up to 256 cells a side.

`clusters` then makes groups of the pairs, of bounded diameter. docs/near-duplicates.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.data.near_duplicates.candidates import Pairs, candidates
from fovea_trainer.data.near_duplicates.clusters import clusters
from fovea_trainer.data.near_duplicates.comparison import Comparison, compare, reduced
from fovea_trainer.data.near_duplicates.registration import register, tone, unsaturated, warp
from fovea_trainer.data.near_duplicates.thumbnails import BYTES, SIDE, halved, orient, thumbnail

__all__ = [
    "BYTES",
    "SIDE",
    "Comparison",
    "Pairs",
    "candidates",
    "clusters",
    "compare",
    "copies",
    "likely_copies",
    "reduced",
    "thumbnail",
]

BATCH = 256
"""Pairs that are compared at once."""
BEST = 6
"""Likely copies of an image that are looked at closely."""
UNLIKE, LEVELS = 0.4, 8.5
"""Share of a thumbnail's variance, and grey levels, that may be left of a likely copy's."""
CROWD = 8
"""Pairs that make a crowd."""
SCENE = 0.2
"""Share of the picture that changes at most between two shots of a camera that stands still."""
OTHER_NOISE = 0.7
"""Noise that a copy leaves at most, as a share of what the others in its crowd leave."""
SILENT = 0.01
"""Noise, in squared grey levels, below which none is left to go by: a compressed film."""
STANDS_OUT = 0.5
"""Difference that a copy has at most in a crowd without noise."""


def likely_copies(thumbnails: NDArray[np.uint8], pairs: Pairs) -> Pairs:
    """The pairs whose thumbnails agree, with better poses; of each image the BEST.

    Args:
        thumbnails: Of all images, uint8 [N, SIDE, SIDE].
        pairs: What `candidates` found.
    """
    poses, left = [np.empty((0, 4))], [np.empty(0)]
    for start in range(0, len(pairs), BATCH):
        some, share = _laid_upon(thumbnails, pairs[start : start + BATCH])
        poses.append(some)
        left.append(share)
    merged = Pairs(pairs.rows, pairs.orientations, np.concatenate(poses))
    return merged[_best(pairs.rows, np.concatenate(left))]


def _laid_upon(thumbnails: NDArray[np.uint8], pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Better poses [P, 4], and what is left [P] as a share of what may be; infinite if it is more."""
    first, second = (np.array(thumbnails[pairs.rows[:, column]]) for column in (0, 1))
    for orientation in range(8):
        chosen = pairs.orientations == orientation
        second[chosen] = orient(second[chosen], orientation)
    poses = register(halved(first), halved(second), pairs.poses, 4)
    poses = register(first, second, poses, 2)
    copy = second.astype(np.float64)
    warped, inside = warp(first.astype(np.float64), poses)
    gain, offset = tone(warped, copy, inside & unsaturated(warped) & unsaturated(copy))
    forth = copy - (gain * warped + offset).clip(0, 255)
    count = np.maximum(inside.sum((1, 2)), 1)
    rest = (forth * forth * inside).sum((1, 2)) / count
    share = rest / (LEVELS**2 + UNLIKE * copy.var((1, 2)))
    share = np.rint(share * 1024) / 1024
    return poses, np.where(share <= 1, share, np.inf)


def _best(rows: NDArray[np.int64], left: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs [M] agree and are among the BEST of one of their images."""
    image, pair = rows.ravel(), np.repeat(np.arange(len(rows)), 2)
    order = np.lexsort((pair, left[pair], image))
    rank = np.arange(len(image)) - np.searchsorted(image[order], image[order])
    result = np.zeros(len(rows), bool)
    result[pair[order[rank < BEST]]] = True
    return result & np.isfinite(left)


def copies(likely: NDArray[np.int64], comparisons: Sequence[Comparison] | NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which likely pairs [M, 2] are near duplicates, by the comparison of each, which may be rows [M, 3].

    Where the look-alikes of two images, and theirs, are a crowd that has one noise, a camera stands still. There it is
    not enough to be alike: a pair must have less noise between them than others of the crowd have, or two shots in
    which little happened would pass.
    """
    difference, noise, changed = np.asarray(comparisons, np.float64).reshape(-1, 3).T
    of_camera = np.isfinite(noise) & (changed <= SCENE)
    result = difference <= 1
    order = np.argsort(likely.ravel(), kind="stable")
    image, pair = likely.ravel()[order], order // 2

    def pairs_of(images: NDArray[np.int64]) -> NDArray[np.int64]:
        first, last = np.searchsorted(image, images), np.searchsorted(image, images, side="right")
        return np.unique(np.concatenate([pair[start:end] for start, end in zip(first, last, strict=True)]))

    for candidate in np.flatnonzero(result):
        others = pairs_of(np.unique(likely[pairs_of(likely[candidate])]))
        others = others[others != candidate]
        crowd = others[of_camera[others]]
        if len(crowd) >= max(CROWD, len(others) / 2):
            result[candidate] = _stands_out(noise[candidate], difference[candidate], noise[crowd], difference[crowd])
    return np.asarray(result, np.bool_)


def _stands_out(
    noise: float, difference: float, crowd_noise: NDArray[np.float64], crowd_difference: NDArray[np.float64]
) -> bool:
    """Whether a pair is nearer than two shots of the camera that took the crowd, if a camera took it."""
    if np.median(crowd_noise) <= SILENT:
        return bool(np.median(crowd_difference) <= 1 or difference <= STANDS_OUT)
    as_near = int(((crowd_noise > SILENT) & (crowd_noise <= noise / OTHER_NOISE)).sum())
    same = int((crowd_noise <= SILENT).sum())  # many, among copies of one picture
    return noise <= SILENT or as_near < max(CROWD, same)
