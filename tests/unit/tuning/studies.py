"""Studies whose trials are functions instead of trainings, so that what is decided can be held against closed forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fovea_api.run import DatasetInput, Execution, RunInputs, RunOwner, RunSpec, RunType, frozen_recipe, run_identity
from fovea_api.tuningsweep import SweepRecipe, TuningSweepSpec
from fovea_store import StorePath
from fovea_trainer.environment import RunEnvironment
from fovea_trainer.tuning.journal import Entry, Journal, Phase
from fovea_trainer.tuning.study import Study
from fovea_trainer.tuning.trial import Job, Outcome

RATE = {"path": "training.optimizer.learningRate", "logUniform": {"min": 1e-4, "max": 1e-1}}
Curve = Callable[[Mapping[str, Any], int], dict[str, float]]
"""Values by path, and the number of an epoch: the metrics after it."""


def recipe(epochs: int = 9, **spec: Any) -> SweepRecipe:
    content = {
        "template": {
            "spec": {
                "datasetRef": {"name": "squares"},
                "model": {"architecture": "resnet18"},
                "training": {"epochs": epochs},
            }
        },
        "parameters": [RATE],
        "objectives": [{"metric": "validation/accuracy", "goal": "Maximize"}],
    } | spec
    return TuningSweepSpec.model_validate(content).recipe()


def study(folder: Path, given: SweepRecipe, parallel: int = 1) -> Study:
    owner = RunOwner(kind="TuningSweep", name="squares")
    inputs = RunInputs(dataset=DatasetInput(name="squares", version="sha256-" + "0" * 64, artifact=str(folder)))
    spec = RunSpec(
        type=RunType.TUNING_SWEEP,
        owner=owner,
        identity=run_identity(RunType.TUNING_SWEEP, owner, given, inputs),
        recipe=frozen_recipe(given),
        inputs=inputs,
        execution=Execution(parallel_trials=parallel),
        store=str(folder),
    )
    return Study(spec, given, RunEnvironment("r-123456", 1, folder, False), Journal(StorePath.parse(str(folder))))


def outcome(made: Study, job: Job, curve: Curve, epochs: int) -> Outcome:
    """What a trial of so many epochs would have come to."""
    entry = made.entries[job.number - 1]
    until = min(job.until or epochs, epochs)
    metrics = [curve(entry.values, epoch) for epoch in range(1, until + 1)]
    best = {
        o.metric: min((m[o.metric] for m in metrics), key=o.loss)
        for o in made.recipe.objectives
        if o.metric in metrics[-1]
    }
    return Outcome(metrics, epochs, best, until == epochs, seconds=1.0)


def carry_out(made: Study, curve: Curve, epochs: int, at_once: int = 1) -> list[tuple[str, int]]:
    """Carries out a study, as many jobs at once as are asked for; gives each job's trial and milestone."""
    jobs: list[Job] = []
    log: list[tuple[str, int]] = []
    while True:
        while len(jobs) < at_once and (job := made.next()) is not None:
            jobs.append(job)
            log.append((job.name, job.until))
        if not jobs:
            break
        job = jobs.pop(0)
        made.done(job, outcome(made, job, curve, epochs))
    made.finish()
    return log


def entry(number: int, *values: float, phase: Phase = Phase.PAUSED, metric: str = "validation/accuracy") -> Entry:
    return Entry(number=number, phase=phase, curve=tuple({metric: value} for value in values))
