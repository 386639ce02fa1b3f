"""How one picture lies in another: Gauss-Newton on the squared difference, for many pairs at once.

Lucas and Kanade, "An Iterative Image Registration Technique", 1981; Baker and Matthews, "Lucas-Kanade 20 Years On",
2004. Over scale and shift of each axis, and gain and offset of brightness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DARK, BRIGHT = 4, 251
"""Grey levels beyond which a cell counts as saturated: its true value may be lower or higher."""
ROUNDING = 0.003
"""Share of a picture by which a crop may seem to leave its original, beside half a pixel."""
STEPS = 2.0**-16
"""Poses are rounded to it: what processors compute differently in the last digits is cut off."""


def register(
    first: NDArray[np.generic], second: NDArray[np.generic], poses: NDArray[np.float64], iterations: int
) -> NDArray[np.float64]:
    """Better poses [P, 4] (see `Pairs`) of grey pictures [P, n, n], from poses that are off by a few per cent."""
    side = first.shape[-1]
    original, copy = first.astype(np.float64), second.astype(np.float64)
    place = (np.arange(side) + 0.5) / side - 0.5
    poses = poses.copy()
    for _ in range(iterations):
        warped, inside = warp(original, poses)
        usable = inside & unsaturated(warped) & unsaturated(copy)
        gain, offset = tone(warped, copy, usable)
        rest = np.where(usable, copy - (gain * warped + offset), 0).clip(-40, 40)
        down, across = (slope * side * gain * usable for slope in np.gradient(warped, axis=(1, 2)))
        columns = (across * place, across, down * place[:, None], down, warped * usable, usable)
        jacobian = np.stack(columns, 1).reshape(len(first), 6, -1)
        hessian = jacobian @ jacobian.swapaxes(1, 2)
        hessian += np.eye(6) * (1e-2 + 1e-4 * np.diagonal(hessian, axis1=1, axis2=2)[:, None, :])
        step = np.linalg.solve(hessian, jacobian @ rest.reshape(len(first), -1, 1))[:, :4, 0]
        poses += np.rint(step.clip(-0.05, 0.05) / STEPS) * STEPS
        poses[:, ::2] = poses[:, ::2].clip(0.85, 1.18)
        poses[:, 1::2] = poses[:, 1::2].clip(-0.1, 0.1)
    return poses


def contained(poses: NDArray[np.float64], sides: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether one picture lies whole within the other [P], as a crop does; a camera that moved shows something new.

    Args:
        poses: [P, 4]; see `Pairs`.
        sides: [P] the shorter side of the smaller image in pixels.
    """
    scale, shift = np.abs(poses[:, ::2]), np.abs(poses[:, 1::2])
    slack = (ROUNDING + 0.5 / np.maximum(sides, 1))[:, None]
    return np.asarray((scale / 2 + shift <= 0.5 + slack).all(1) | (0.5 + shift <= scale / 2 + slack).all(1))


def warp(pictures: NDArray[np.float64], poses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The first pictures [P, n, n] as the second see them, and which cells [P, n, n] lie inside of them."""
    side = pictures.shape[-1]
    place = (np.arange(side) + 0.5) / side - 0.5
    across = poses[:, 0:1] * place + poses[:, 1:2] + 0.5
    down = poses[:, 2:3] * place + poses[:, 3:4] + 0.5
    inside = ((down >= 0) & (down <= 1))[:, :, None] & ((across >= 0) & (across <= 1))[:, None, :]
    once = _take(pictures, (down * side - 0.5).clip(0, side - 1))
    return _take(once.swapaxes(-1, -2), (across * side - 0.5).clip(0, side - 1)).swapaxes(-1, -2), inside


def _take(pictures: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of [P, n, n] at positions [P, n], linear between neighbours."""
    low = np.minimum(at.astype(np.intp), pictures.shape[-1] - 2)
    part, row = (at - low)[..., None], np.arange(len(at))[:, None]
    above = pictures[row, low]
    return np.asarray(above + part * (pictures[row, low + 1] - above))


def tone(
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


def unsaturated(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (picture > DARK) & (picture < BRIGHT)
