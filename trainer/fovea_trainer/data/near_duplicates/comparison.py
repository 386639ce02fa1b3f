"""Whether one picture is a copy of another: they are laid upon each other, and what is left must be coding noise.

The registration is Gauss-Newton on the squared difference (Lucas and Kanade, 1981; Baker and Matthews, "Lucas-Kanade 20
Years On", 2004) over scale and shift of each axis, and gain and offset of brightness, for many pairs at once. Then the
difference is judged where it is largest: a defect or an object that moved is a large difference in a small place, while
compression, resampling and noise are small differences everywhere, and larger at edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fovea_trainer.data.near_duplicates.thumbnails import luma

DARK, BRIGHT = 4, 251
"""Grey levels beyond which a cell counts as saturated: its true value may be lower or higher."""
GAIN = (0.35, 2.9)
"""Least and most contrast of a copy, relative to its original."""
OVERLAP = 0.75
"""Least share of the copy that lies in the original."""
EDGE = 0.2
"""Difference that an edge is allowed, as a share of its slope from cell to cell: a fifth of a cell's misalignment."""
ROUNDING = 0.003
"""Share of a picture by which a crop may seem to leave its original, beside half a pixel."""
STEPS = 2.0**-16
"""Poses are rounded to it: what processors compute differently in the last digits is cut off."""


def register(
    first: NDArray[np.uint8], second: NDArray[np.uint8], poses: NDArray[np.float64], iterations: int
) -> NDArray[np.float64]:
    """Better poses [P, 4] (see `Pairs`) of pictures [P, 3, n, n], from poses that are off by a few per cent."""
    side = first.shape[-1]
    original, copy = luma(first), luma(second)
    place = (np.arange(side) + 0.5) / side - 0.5
    poses = poses.copy()
    for _ in range(iterations):
        warped, inside = _warp(original, poses)
        usable = inside & _unsaturated(warped) & _unsaturated(copy)
        gain, offset = _photometry(warped, copy, usable)
        rest = np.where(usable, copy - (gain * warped + offset), 0).clip(-40, 40)
        down, across = (slope * side * gain * usable for slope in np.gradient(warped, axis=(1, 2)))
        columns = (across * place, across, down * place[:, None], down, warped * usable, usable)
        jacobian = np.stack(columns, -1).reshape(len(first), -1, 6)
        hessian = jacobian.swapaxes(1, 2) @ jacobian
        hessian += np.eye(6) * (1e-2 + 1e-4 * np.diagonal(hessian, axis1=1, axis2=2)[:, None, :])
        step = np.linalg.solve(hessian, jacobian.swapaxes(1, 2) @ rest.reshape(len(first), -1, 1))[:, :4, 0]
        poses += np.rint(step.clip(-0.05, 0.05) / STEPS) * STEPS
        poses[:, ::2] = poses[:, ::2].clip(0.85, 1.18)
        poses[:, 1::2] = poses[:, 1::2].clip(-0.1, 0.1)
    return poses


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8], poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest local differences [P, 2] in brightness and in a colour, of RGB pictures [P, 3, n, n].

    In units of what coding explains, about a grey level. Infinite where the second is no copy: too little overlap, or
    no such change of contrast.
    """
    ours, theirs = luma(first), luma(second)
    warped, inside = _warp(ours, poses)
    gain, offset = _photometry(warped, theirs, inside & _unsaturated(warped) & _unsaturated(theirs))
    colours, _ = _warp(first.astype(np.float64), poses)
    copies = second.astype(np.float64)
    possible = (gain >= GAIN[0]) & (gain <= GAIN[1])
    gain, offset = np.where(possible, gain, 1)[:, None], offset[:, None]
    # Saturation loses what was there: the picture that is saturated is foretold from the other, whichever that is.
    forth = _worst(colours, copies, gain, offset, inside)
    back = _worst(copies, colours, 1 / gain, -offset / gain, inside)
    worst = np.minimum(forth, back)
    possible = possible[:, 0, 0] & (inside.mean((1, 2)) >= OVERLAP)
    return np.where(possible[:, None], np.rint(worst * 1024) / 1024, np.inf)


def _worst(
    given: NDArray[np.float64],
    seen: NDArray[np.float64],
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    inside: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Largest difference [P, 2] between what one picture foretells of another and what is seen."""
    expected = (gain * given + offset).clip(0, 255)
    rest = (seen - expected) * inside[:, None]
    slope = _smooth(_slope(_mix(expected)))
    noise = np.maximum(gain, 1)[:, 0]
    brightness = np.abs(_smooth(_mix(rest))) / (noise + EDGE * slope)
    colour = np.abs(_smooth(rest)).max(1) / (noise + EDGE * slope)
    return np.stack([brightness.max((1, 2)), colour.max((1, 2))], 1)


def _mix(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.299 * colours[:, 0] + 0.587 * colours[:, 1] + 0.114 * colours[:, 2])


def contained(poses: NDArray[np.float64], sides: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether one picture lies whole within the other [P], as a crop does; a camera that moved shows something new.

    Args:
        poses: [P, 4]; see `Pairs`.
        sides: [P] the shorter side of the smaller image in pixels.
    """
    scale, shift = np.abs(poses[:, ::2]), np.abs(poses[:, 1::2])
    slack = (ROUNDING + 0.5 / np.maximum(sides, 1))[:, None]
    return np.asarray((scale / 2 + shift <= 0.5 + slack).all(1) | (0.5 + shift <= scale / 2 + slack).all(1))


def _warp(pictures: NDArray[np.float64], poses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The first pictures [P, (C,) n, n] as the second see them, and which cells [P, n, n] lie inside of them."""
    side = pictures.shape[-1]
    place = (np.arange(side) + 0.5) / side - 0.5
    across = poses[:, 0:1] * place + poses[:, 1:2] + 0.5
    down = poses[:, 2:3] * place + poses[:, 3:4] + 0.5
    inside = ((down >= 0) & (down <= 1))[:, :, None] & ((across >= 0) & (across <= 1))[:, None, :]
    once = _take(pictures, (down * side - 0.5).clip(0, side - 1))
    return _take(once.swapaxes(-1, -2), (across * side - 0.5).clip(0, side - 1)).swapaxes(-1, -2), inside


def _take(pictures: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of [P, (C,) n, n] at positions [P, n], linear between neighbours."""
    low = np.minimum(at.astype(np.intp), pictures.shape[-1] - 2)
    shape = (len(at), *([1] * (pictures.ndim - 3)), -1, 1)
    part, low = (at - low).reshape(shape), low.reshape(shape)
    above = np.take_along_axis(pictures, low, -2)
    return np.asarray(above + part * (np.take_along_axis(pictures, low + 1, -2) - above))


def _photometry(
    warped: NDArray[np.float64], copy: NDArray[np.float64], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain and offset [P, 1, 1] of least squares; of a flat picture the gain is 1."""
    count = np.maximum(usable.sum((1, 2)), 1)
    ours, theirs = np.where(usable, warped, 0), np.where(usable, copy, 0)
    mean, other = ours.sum((1, 2)) / count, theirs.sum((1, 2)) / count
    variance = (ours * ours).sum((1, 2)) / count - mean * mean
    covariance = (ours * theirs).sum((1, 2)) / count - mean * other
    gain = np.where(variance > 1, covariance / np.maximum(variance, 1), 1.0)
    gain = np.rint(gain / STEPS) * STEPS
    return gain[:, None, None], (other - gain * mean)[:, None, None]


def _unsaturated(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (picture > DARK) & (picture < BRIGHT)


def _slope(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    down, across = np.gradient(picture, axis=(-2, -1))
    return np.asarray(np.sqrt(down * down + across * across))


def _smooth(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each cell and its eight neighbours."""
    padded = np.pad(picture, [(0, 0)] * (picture.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
