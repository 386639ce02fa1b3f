"""Which trial is better: limits first, then objectives; the Pareto front and its knee.

All functions take losses: values of which less is better, one a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from fovea_api.tuningsweep import SweepObjective
from numpy.typing import NDArray

Losses = NDArray[np.float64]
"""[trials, objectives], less is better."""


def losses_of(objectives: Sequence[SweepObjective], metrics: Mapping[str, float]) -> NDArray[np.float64] | None:
    """A trial's losses, [objectives]; None where one of the objectives was not measured."""
    if any(objective.metric not in metrics for objective in objectives):
        return None
    return np.array([objective.loss(metrics[objective.metric]) for objective in objectives])


def violations_of(objectives: Sequence[SweepObjective], metrics: Mapping[str, float]) -> dict[str, float]:
    """How much each limit is missed, as a share of the limit (positive) or kept (not positive), by metric; of those
    that were measured."""
    return {
        objective.metric: objective.excess(metrics[objective.metric]) / (abs(objective.limit) or 1.0)
        for objective in objectives
        if objective.limit is not None and objective.metric in metrics
    }


def excess_of(objectives: Sequence[SweepObjective], metrics: Mapping[str, float]) -> float:
    """All misses of limits together; 0: all that were measured are kept."""
    return sum(max(0.0, violation) for violation in violations_of(objectives, metrics).values())


def dominates(losses: Losses) -> NDArray[np.bool_]:
    """[n, n]: whether the first is nowhere worse than the second and somewhere better."""
    first, second = losses[:, None], losses[None]
    return np.asarray((first <= second).all(-1) & (first < second).any(-1), np.bool_)


def pareto_ranks(losses: Losses) -> NDArray[np.int64]:
    """The front that each trial belongs to, from 0: non-dominated sorting (Deb et al., "A fast and elitist
    multiobjective genetic algorithm: NSGA-II", 2002)."""
    ranks = np.full(len(losses), -1, np.int64)
    beaten_by = dominates(losses)
    rank = 0
    while (left := ranks < 0).any():
        ranks[left & ~beaten_by[left].any(0)] = rank
        rank += 1
    return ranks


def crowding_distances(losses: Losses) -> NDArray[np.float64]:
    """How lonely each trial of one front is: the sum of the gaps around it, infinite at the ends (Deb et al., 2002)."""
    distances = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        width = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if width > 0:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / width
    return distances


def order(losses: Losses, excess: NDArray[np.float64]) -> list[int]:
    """Indices of trials, the best first.

    Constrained domination (Deb et al., 2002): those that keep all limits go before those that miss one, which are
    ordered by how much; among the former the front decides, and within one the distance to others. Ties go by index.
    """
    ranks, crowding = np.zeros(len(losses)), np.zeros(len(losses))
    kept = np.flatnonzero(excess <= 0)
    if len(kept):
        ranks[kept] = pareto_ranks(losses[kept])
        for rank in np.unique(ranks[kept]):
            front = kept[ranks[kept] == rank]
            crowding[front] = crowding_distances(losses[front])
    return sorted(
        range(len(losses)), key=lambda index: (max(0.0, excess[index]), ranks[index], -crowding[index], index)
    )


def pareto_front(losses: Losses) -> list[int]:
    """Indices of the trials that no other beats, the best by the first objective first."""
    if not len(losses):
        return []
    front = np.flatnonzero(pareto_ranks(losses) == 0)
    return sorted((int(index) for index in front), key=lambda index: tuple(losses[index]))


def knee(losses: Losses) -> int:
    """Index of the knee of a front, whose trials are given: the one farthest from the plane through the ends, after
    each objective was scaled to 0 to 1 (Das, "On characterizing the knee of the Pareto curve", 1999). Ties go by index.
    """
    low, width = losses.min(0), np.ptp(losses, axis=0)
    scaled = (losses - low) / np.where(width > 0, width, 1.0)
    return int(np.argmin(scaled.sum(1).round(12)))


__all__ = ["Losses", "crowding_distances", "excess_of", "knee", "losses_of", "order", "pareto_front", "pareto_ranks",
           "violations_of"]  # fmt: skip
