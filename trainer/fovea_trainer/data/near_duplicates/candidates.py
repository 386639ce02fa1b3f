"""Which images to compare: of each the few whose coarse structure is nearest, flipped, turned, a little cropped or not.

The descriptor is a perceptual hash kept as numbers: the low frequencies of the thumbnail's cosine transform (pHash;
Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). A flip changes the signs of its
coefficients and a turn swaps pairs of them, so their sorted magnitudes are the same for all eight orientations. A
cropped copy equals a window of its original: each image is looked for by itself and by its windows. The search is an
inverted file (Jégou et al., "Product Quantization for Nearest Neighbor Search", 2011): an image is compared with those
that share one of its nearest centres. Descriptors are whole numbers whose products a float32 adds up exactly:
the outcome does not depend on the machine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.data.near_duplicates.thumbnails import SIDE

FREQUENCIES = 12
"""Of each axis."""
CROPS = (0.0, 0.05, 0.1)
"""Shares of width and height by which a copy may be cropped, as they are looked for; others lie between them."""
NEIGHBOURS = 3
"""Candidates of an image for each of CROPS."""
PROBES = 8
"""Centres near which an image is looked for."""
MOST_CENTRES = 4096
LIST = 1024
"""Images of a centre that are compared with each other; a longer list is cut into pieces."""
CHUNK = 1024
"""Images that are looked for at once."""
SCALE = 500
LEAST = 0.8
"""Cosine between the signed descriptors of an image's window and of a candidate in its best orientation."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of images, and how the second lies in the first.

    Args:
        rows: int64 [M, 2] the two images.
        orientations: int64 [M] what brings the second to the first; see `orient`.
        poses: float64 [M, 4] scale and shift across, scale and shift down, in widths and heights of the picture: the
            point p of the second, from its centre, is the point scale * p + shift of the first.
    """

    rows: NDArray[np.int64]
    orientations: NDArray[np.intp]
    poses: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: NDArray[np.generic] | slice) -> Pairs:
        return Pairs(self.rows[chosen], self.orientations[chosen], self.poses[chosen])


def candidates(thumbnails: NDArray[np.uint8]) -> Pairs:
    """Pairs worth comparing, each once with its best window, sorted by rows.

    Time about N * sqrt(N), memory about 1.2 KB an image beside the thumbnails, which may be a file (np.memmap).

    Args:
        thumbnails: uint8 [N, SIDE, SIDE].
    """
    count = len(thumbnails)
    if count < 2:
        return Pairs(np.empty((0, 2), np.int64), np.empty(0, np.intp), np.empty((0, 4)))
    windows = _windows()
    base = np.empty((count, FREQUENCIES**2 - 1), np.float32)
    signed = np.empty((count, FREQUENCIES**2), np.int16)
    for start in range(0, count, CHUNK):
        coefficients = _coefficients(thumbnails[start : start + CHUNK], windows[0])
        signed[start : start + CHUNK] = _scaled(_flat(coefficients))
        base[start : start + CHUNK] = _scaled(_invariant(coefficients))
    index = _Index(base)
    found: list[NDArray[np.int64]] = []
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        grey = thumbnails[start : start + CHUNK]
        for crop in CROPS:
            of_crop = [number for number, window in enumerate(windows) if window.crop == crop]
            coefficients = np.stack([_coefficients(grey, windows[number]) for number in of_crop], 1)
            hits = index.nearest(_scaled(_invariant(coefficients)).astype(np.float32), rows)
            queries = _scaled(_flat(coefficients))
            found.append(_oriented(queries, signed, hits, np.array(of_crop), start))
    merged = np.concatenate(found)
    # Of a pair that was found more than once, by either of its images, the best is kept.
    low, high = np.minimum(merged[:, 0], merged[:, 1]), np.maximum(merged[:, 0], merged[:, 1])
    order = np.lexsort((*merged.T[2::-1], merged[:, 3], -merged[:, 4], high, low))
    merged, low, high = merged[order], low[order], high[order]
    first = np.ones(len(merged), bool)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    merged = merged[first]
    poses = np.array([window.pose for window in windows])
    return Pairs(merged[:, :2], merged[:, 2].astype(np.intp), poses[merged[:, 3]])


@dataclass(frozen=True, slots=True)
class _Window:
    crop: float
    pose: tuple[float, float, float, float]

    def bases(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        across, down = self.pose[:2], self.pose[2:]
        return _basis(*down), _basis(*across)


def _windows() -> list[_Window]:
    """The whole picture, and those of each crop: in the middle, at the sides and in the corners."""
    windows = []
    for crop in CROPS:
        shifts = (-crop / 2, 0.0, crop / 2) if crop else (0.0,)
        windows += [_Window(crop, (1 - crop, x, 1 - crop, y)) for y in shifts for x in shifts]
    return windows


@cache
def _basis(scale: float, shift: float) -> NDArray[np.float64]:
    """Whole weights [FREQUENCIES, SIDE] of the cosines over a window; those of a wave sum to nothing."""
    edges = (np.arange(SIDE + 1) / SIDE - 0.5 - shift) / scale + 0.5
    inside = edges.clip(0, 1)
    waves = np.arange(FREQUENCIES)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        integral = np.where(waves > 0, np.sin(np.pi * waves * inside) / (np.pi * np.maximum(waves, 1)), inside)
    return np.asarray(np.rint(np.diff(integral) * SIDE * 64 * scale))


def _coefficients(grey: NDArray[np.uint8], window: _Window) -> NDArray[np.int64]:
    """[N, FREQUENCIES, FREQUENCIES], finer waves weighted up as nature has less of them; that of the mean is zero."""
    down, across = window.bases()
    values = down @ grey @ across.T
    waves = np.arange(FREQUENCIES)
    weights = np.rint(16 * np.sqrt(waves[:, None] ** 2 + waves[None] ** 2))
    return np.asarray(values * weights, np.int64)


def _invariant(coefficients: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same for all orientations: [..., F, F] -> [..., F * F - 1]."""
    sizes = np.abs(coefficients)
    turned = sizes.swapaxes(-1, -2)
    upper = np.tri(FREQUENCIES, dtype=bool).T
    both = np.where(upper, np.maximum(sizes, turned), np.minimum(sizes, turned))
    return _flat(both)[..., 1:]


def _scaled(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers [..., D] whose length is SCALE, whatever brightness and contrast were."""
    real = values.astype(np.float64) / 1024
    squares = np.rint(real * real).sum(-1, keepdims=True)
    return np.asarray(np.rint(real * SCALE / np.sqrt(np.maximum(squares, 1))), np.int64)


def _flat(coefficients: NDArray[np.int64]) -> NDArray[np.int64]:
    return coefficients.reshape(*coefficients.shape[:-2], -1)


class _Index:
    """Descriptors by their nearest centre."""

    def __init__(self, base: NDArray[np.float32]) -> None:
        count = len(base)
        centres = min(MOST_CENTRES, max(1, int(count**0.5)))
        # Images come sorted by digest: an even choice is as good as a random choice, and the same everywhere.
        self.base = base
        self.squares = (base**2).sum(1).astype(np.int64)
        self.centres = base[np.arange(centres) * count // centres]
        nearest = np.concatenate(
            [self._nearest_centres(base[start : start + CHUNK], 1)[:, 0] for start in range(0, count, CHUNK)]
        )
        order = np.argsort(nearest, kind="stable")
        ends = np.searchsorted(nearest[order], np.arange(centres + 1))
        self.lists = [order[first:last] for first, last in itertools.pairwise(ends)]

    def _nearest_centres(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        scores = (queries @ self.centres.T).astype(np.int64)
        return _best(scores, min(count, len(self.centres)))

    def nearest(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Hits [M, 4] of queries [N, W, D] of images `rows`: number in `rows`, window, image, score.

        Of each image the NEIGHBOURS best others.
        """
        windows, size = queries.shape[1:]
        flat = queries.reshape(-1, size)
        probes = self._nearest_centres(flat, PROBES)
        asking = np.repeat(np.arange(len(flat)), probes.shape[1])
        order = np.argsort(probes.ravel(), kind="stable")
        asking, centres = asking[order], probes.ravel()[order]
        ends = np.searchsorted(centres, np.arange(len(self.lists) + 1))
        hits: list[NDArray[np.int64]] = []
        for number in np.unique(centres):
            who, members = asking[ends[number] : ends[number + 1]], self.lists[number]
            for piece in range(0, len(members), LIST) if len(members) <= 2 * LIST else (0,):
                hits.append(self._hits(flat, who, members[piece : piece + LIST], rows, windows))
            if len(members) > 2 * LIST:
                # Too many that are all but equal: each is compared with the first piece, and with its own.
                own = np.searchsorted(np.sort(members), rows[who // windows]) // LIST
                for piece in np.unique(own[own > 0]):
                    some = members[piece * LIST : (piece + 1) * LIST]
                    hits.append(self._hits(flat, who[own == piece], some, rows, windows))
        merged = np.concatenate(hits)
        # The best window of each pair, then the best of each image.
        merged = merged[np.lexsort((merged[:, 1], -merged[:, 3], merged[:, 2], merged[:, 0]))]
        new = np.ones(len(merged), bool)
        new[1:] = (np.diff(merged[:, 0]) != 0) | (np.diff(merged[:, 2]) != 0)
        merged = merged[new]
        merged = merged[np.lexsort((merged[:, 2], -merged[:, 3], merged[:, 0]))]
        rank = np.arange(len(merged)) - np.searchsorted(merged[:, 0], merged[:, 0])
        return merged[rank < NEIGHBOURS]

    def _hits(
        self,
        queries: NDArray[np.float32],
        who: NDArray[np.int64],
        members: NDArray[np.int64],
        rows: NDArray[np.int64],
        windows: int,
    ) -> NDArray[np.int64]:
        scores = 2 * (queries[who] @ self.base[members].T).astype(np.int64) + 4 * SCALE**2
        scores -= (queries[who] ** 2).sum(1).astype(np.int64)[:, None] + self.squares[members]  # less the distance
        scores[rows[who // windows][:, None] == members[None]] = -1
        best = _best(scores, min(NEIGHBOURS, len(members)))
        score = np.take_along_axis(scores, best, 1).ravel()
        asked = np.repeat(who, best.shape[1])
        hits = np.stack([asked // windows, asked % windows, members[best].ravel(), score], 1)
        return hits[score > 0]


def _best(scores: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Columns [N, count] of the highest scores, of equal ones the first."""
    width = scores.shape[1]
    keys = scores * width + np.arange(width)[::-1]
    return np.argpartition(-keys, count - 1, axis=1)[:, :count] if count < width else np.argsort(-keys, 1, "stable")


def _oriented(
    queries: NDArray[np.int64],
    signed: NDArray[np.int16],
    hits: NDArray[np.int64],
    numbers: NDArray[np.int64],
    start: int,
) -> NDArray[np.int64]:
    """Hits in their best orientation [M, 5]: first, second, orientation, window, score. Unlike ones go."""
    ask = queries[hits[:, 0], hits[:, 1]].reshape(-1, FREQUENCIES, FREQUENCIES)
    answer = signed[hits[:, 2]].astype(np.int64).reshape(-1, FREQUENCIES, FREQUENCIES)
    signs = np.where(np.arange(FREQUENCIES) % 2, -1, 1)
    scores = []
    for orientation in range(8):
        turned = answer.swapaxes(1, 2) if orientation & 4 else answer
        turned = turned * signs[:, None] if orientation & 2 else turned
        turned = turned * signs if orientation & 1 else turned
        scores.append(-((ask - turned) ** 2).sum((1, 2)))
    table = np.stack(scores, 1)
    best = table.argmax(1)
    score = table[np.arange(len(table)), best]
    merged = np.stack([hits[:, 0] + start, hits[:, 2], best, numbers[hits[:, 1]], score], 1)
    return np.asarray(merged[score >= -2 * (1 - LEAST) * SCALE**2], np.int64)
