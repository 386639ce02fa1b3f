"""What is proposed: within the space, by condition, again after a restart, and from what is known."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fovea_trainer.tuning.journal import Entry, Phase
from fovea_trainer.tuning.search import Known, compared_epochs, explore, grid, propose
from studies import RATE, entry, recipe

OPTIMIZER = {"path": "training.optimizer.name", "choice": ["SGD", "AdamW"]}
MOMENTUM = {
    "path": "training.optimizer.momentum",
    "uniform": {"min": 0.5, "max": 0.99},
    "when": {"path": "training.optimizer.name", "values": ["SGD"]},
}
SIZES = {"path": "input.size", "choice": [{"width": 32, "height": 32}, {"width": 64, "height": 64}]}
BATCH = {"path": "training.batchSize", "intUniform": {"min": 4, "max": 17, "step": 4}}
TWO = [
    {"metric": "validation/accuracy", "goal": "Maximize"},
    {"metric": "size/megabytes", "goal": "Minimize", "limit": 5},
]


def made(algorithm: str, trials: int, **spec: Any) -> list[Entry]:
    """Trials of which the best has the highest rate."""
    given = recipe(parameters=[RATE, OPTIMIZER, MOMENTUM, SIZES, BATCH], search={"algorithm": algorithm}, **spec)
    entries: list[Entry] = []
    for number in range(1, trials + 1):
        proposal = propose(given, entries, number)
        assert proposal is not None
        value = 1 - 1e-2 / (1e-2 + float(str(proposal.values[RATE["path"]])))
        metrics = {"validation/accuracy": value, "size/megabytes": 10 * value}
        entries.append(
            Entry(number=number, phase=Phase.SUCCEEDED, keyed=proposal.keyed, values=proposal.values, measured=True,
                  attributes=proposal.attributes, curve=(metrics,) * 9, artefact=metrics)
        )  # fmt: skip
    return entries


@pytest.mark.parametrize("objectives", [TWO[:1], TWO])
@pytest.mark.parametrize("algorithm", ["Random", "TPE", "GaussianProcess", "NSGA2"])
def test_proposals_are_within_the_space_and_the_same_again(algorithm: str, objectives: list[dict[str, Any]]) -> None:
    if algorithm == "NSGA2" and len(objectives) == 1:
        return
    entries = made(algorithm, 24 if algorithm == "NSGA2" else 13, objectives=objectives)
    for each in entries:
        assert (MOMENTUM["path"] in each.values) == (each.values[OPTIMIZER["path"]] == "SGD")
        assert 1e-4 <= each.values[RATE["path"]] <= 1e-1
        assert each.values["training.batchSize"] in (4, 8, 12, 16)
        assert each.values["input.size"] in SIZES["choice"]
    again = made(algorithm, len(entries), objectives=objectives)
    assert [each.values for each in again] == [each.values for each in entries]


def test_a_model_proposes_what_did_well_and_keeps_the_limit() -> None:
    rates = [float(str(each.values[RATE["path"]])) for each in made("TPE", 40)[20:]]
    assert sum(rate > 1e-2 for rate in rates) >= 14, "the best rates are the highest"
    sizes = [each.artefact["size/megabytes"] for each in made("TPE", 40, objectives=TWO)[20:]]
    assert sum(size <= 5 for size in sizes) >= 14, "of accuracy alone, 10 MB would be best"


def test_a_grid_is_every_combination_once() -> None:
    parameters = recipe(parameters=[OPTIMIZER, SIZES | {"when": MOMENTUM["when"]}]).parameters
    combinations = list(grid(parameters))
    assert len(combinations) == 3, "two sizes with SGD, none with AdamW"
    given = recipe(parameters=[OPTIMIZER, SIZES], search={"algorithm": "Grid"})
    entries: list[Entry] = []
    while (proposal := propose(given, entries, len(entries) + 1)) is not None:
        entries.append(Entry(number=len(entries) + 1, keyed=proposal.keyed, values=proposal.values))
    assert len({str(each.values) for each in entries}) == len(entries) == 4


def test_an_earlier_sweep_is_known_from_the_first_trial_on() -> None:
    given = recipe(search={"algorithm": "TPE"})
    earlier = [
        Known({RATE["path"]: 10 ** (-4 + 3 * index / 29)}, {"validation/accuracy": -abs(index - 20) / 10})
        for index in range(30)
    ]
    best = 10 ** (-4 + 3 * 20 / 29)
    outside = Known({RATE["path"]: 5.0}, {"validation/accuracy": 9.0})
    near = [
        abs(float(str(proposal.values[RATE["path"]])) / best - 1) < 0.6
        for number in range(1, 9)
        if (proposal := propose(given, [], number, [*earlier, outside])) is not None
    ]
    assert sum(near) >= 6


def test_trials_are_compared_after_the_longest_training_that_enough_have_reached() -> None:
    entries = [entry(number, *[0.5] * epochs) for number, epochs in enumerate([9, 9, 3, 3, 3, 1, 1], 1)]
    assert compared_epochs(entries, parameters=1) == 3
    assert compared_epochs(entries[:3], parameters=1) is None


def test_a_population_explores_near_what_is_better() -> None:
    parameters = recipe(parameters=[RATE, OPTIMIZER, MOMENTUM, BATCH]).parameters
    keyed = {RATE["path"]: 1e-2, OPTIMIZER["path"]: "SGD", MOMENTUM["path"]: 0.9, BATCH["path"]: 8}
    explored = [explore(parameters, keyed, random.Random(seed)) for seed in range(200)]
    rates = [float(str(each[RATE["path"]])) for each in explored]
    near = [rate for rate in rates if rate == pytest.approx(0.8e-2) or rate == pytest.approx(1.2e-2)]
    assert 0.65 < len(near) / len(rates) < 0.85, "one in four is drawn anew"
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert all((MOMENTUM["path"] in each) == (each[OPTIMIZER["path"]] == "SGD") for each in explored)
    assert {each[BATCH["path"]] for each in explored} <= {4, 8, 12, 16}
