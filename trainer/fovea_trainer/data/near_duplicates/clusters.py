"""Groups of near duplicates that do not grow without bound."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

RADIUS = 2
"""Pairs between a cluster's centre and its farthest member; its diameter is at most twice that."""


def clusters(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest member of each row's cluster [count].

    A cluster is what lies within RADIUS pairs of a centre, and the centre is the row with the most pairs of what is
    left: the original with its copies is one, while a chain of pictures, each like the next, is cut in pieces.

    Args:
        count: Number of rows.
        pairs: [M, 2] rows that are near duplicates.
    """
    near: dict[int, list[int]] = defaultdict(list)
    for first, second in pairs.tolist():
        near[first].append(second)
        near[second].append(first)
    result = np.arange(count, dtype=np.int64)
    free = set(near)
    for centre in sorted(near, key=lambda row: (-len(near[row]), row)):
        if centre not in free:
            continue
        members, edge = {centre}, {centre}
        for _ in range(RADIUS):
            edge = {row for reached in edge for row in near[reached] if row in free} - members
            members |= edge
        result[list(members)] = min(members)
        free -= members
    return result
