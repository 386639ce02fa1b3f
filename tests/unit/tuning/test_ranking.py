"""Fronts, knees and orders against closed forms and Optuna's own."""

from __future__ import annotations

import numpy as np
import pytest
from fovea_trainer.tuning.ranking import crowding_distances, knee, order, pareto_front, pareto_ranks
from optuna.study._multi_objective import _fast_non_domination_rank


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_ranks_are_those_of_optuna(seed: int, objectives: int) -> None:
    losses = np.random.default_rng(seed).integers(0, 6, (40, objectives)).astype(float)
    assert pareto_ranks(losses).tolist() == _fast_non_domination_rank(losses).tolist()


def test_the_front_of_a_quarter_circle_is_the_circle_and_its_knee_the_middle() -> None:
    angles = np.linspace(np.pi, 1.5 * np.pi, 11)
    circle = 1 + np.stack([np.cos(angles), np.sin(angles)], 1)  # convex to the origin
    losses = np.concatenate([circle + 0.1, circle])  # the first 11 are dominated
    front = pareto_front(losses)
    assert sorted(front) == list(range(11, 22))
    assert losses[front[0]].tolist() == pytest.approx([0, 1]), "the best by the first objective comes first"
    assert knee(losses[front]) == 5


def test_the_knee_is_the_corner_whatever_the_units() -> None:
    assert knee(np.array([[0.0, 100.0], [0.1, 10.0], [0.5, 8.0], [1.0, 0.0]])) == 1
    assert knee(np.array([[0.0, 1.0], [1.0, 0.0]])) == 0, "a tie goes to the first objective"
    assert knee(np.array([[3.0, 4.0]])) == 0


def test_crowding_is_the_width_of_the_gap() -> None:
    distances = crowding_distances(np.array([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0]]))
    assert distances.tolist() == [np.inf, 2.0, np.inf]


def test_limits_go_before_objectives() -> None:
    losses = np.array([[0.1, 9.0], [0.5, 5.0], [0.6, 6.0], [0.2, 7.0]])
    assert order(losses, np.array([2.0, 0.0, -1.0, 1.0])) == [1, 2, 3, 0]


def test_one_objective_is_ordered_by_value() -> None:
    assert order(np.array([[3.0], [1.0], [2.0], [1.0]]), np.zeros(4)) == [1, 3, 2, 0]
