"""Writes moasha.json: random losses of trials and the Pareto fronts by which MOASHA of Syne Tune ranks them.

    pip install --target lib syne-tune==0.16.0 && PYTHONPATH=lib python tests/unit/tuning/record_moasha.py

A table, because Syne Tune (Apache-2.0) needs XGBoost, statsmodels and pandas. The fronts are recorded, not what MOASHA
does with them: 0.16.0 takes the order of `nondominated_sort` for ranks (of three trials with the losses 1, 2 and 0 it
ranks the last one second), and spaces the trials of one front by an epsilon net instead of the crowding distance.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import NonDominatedPriority
from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import nondominated_sort

OUT = Path(__file__).with_name("moasha.json")
CASES = [(trials, objectives) for trials in (3, 7, 12, 27) for objectives in (2, 3)]


def main() -> None:
    assert NonDominatedPriority()(np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])).tolist() == [2, 0, 1]
    random, cases = np.random.default_rng(0), []
    for trials, objectives in CASES:
        losses = random.integers(0, 10, (trials, objectives)).astype(float)
        fronts = [sorted(map(int, front)) for front in nondominated_sort(losses, dim=0, flatten=False)]
        cases.append({"losses": losses.tolist(), "fronts": fronts})
    content = {"syne-tune": version("syne-tune"), "numpy": version("numpy"), "cases": cases}
    OUT.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
