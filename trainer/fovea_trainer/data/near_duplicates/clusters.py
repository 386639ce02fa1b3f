"""Groups of near duplicates that do not grow without bound."""

from __future__ import annotations

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
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    starts = np.searchsorted(both[:, 0], np.arange(count + 1))
    degree = np.diff(starts)
    result, free = np.arange(count, dtype=np.int64), degree > 0
    for centre in np.lexsort((result, -degree))[: np.count_nonzero(free)]:
        if not free[centre]:
            continue
        members = edge = np.array([centre])
        for _ in range(RADIUS):
            reached = np.concatenate([both[starts[row] : starts[row + 1], 1] for row in edge])
            edge = np.setdiff1d(reached[free[reached]], members)
            members = np.union1d(members, edge)
            if not len(edge):
                break
        result[members] = members[0]
        free[members] = False
    return result
