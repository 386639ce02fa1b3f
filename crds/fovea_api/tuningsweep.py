"""TuningSweep: many short trainings around one recipe, to find a better one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, get_args, get_origin

from pydantic import Field

from fovea_api.common import (
    AnyValue,
    Bool,
    Column,
    Definition,
    Duration,
    Int,
    Label,
    ListMap,
    Metrics,
    Model,
    Number,
    Reference,
    Resource,
    Rule,
    RunPolicy,
)
from fovea_api.criteria import MetricName
from fovea_api.run import RunOwnerStatus
from fovea_api.trainingjob import Compute, Recipe, Seed, TrainingJobSpec
from fovea_api.trainingjob import references as training_references


def _paths(model: type[Model], prefix: str = "") -> Iterator[str]:
    """Paths of a model's fields and of theirs, in camelCase; a list is one value."""
    for field in model.model_fields.values():
        path = f"{prefix}{field.alias}"
        yield path
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Model) and get_origin(field.annotation) is not tuple:
                yield from _paths(kind, f"{path}.")


OPTIONS_PREFIX = "model.options."
SWEEPABLE = tuple(
    sorted(path for path in _paths(Recipe) if path.startswith(("model.", "input.", "training.", "compression.")))
)
"""Fields of a recipe that a sweep may set; besides these, every `model.options.<name>`."""


class Template(Model):
    """The recipe that trials start from."""

    spec: TrainingJobSpec
    """A TrainingJob's spec; each trial sets the parameters on a copy of it."""


class Range(Model):
    """Numbers between two bounds."""

    min: Number
    """Smallest value."""
    max: Number
    """Largest value."""

    rules: ClassVar = (Rule("self.min < self.max", "min must be less than max", lambda obj: obj.min < obj.max, ".min"),)


class LogRange(Range):
    """Positive numbers between two bounds, each order of magnitude as likely as another."""

    rules: ClassVar = (
        Rule(
            "self.min > 0.0",
            "min of a logarithmic range must be positive",
            lambda obj: obj.min > 0,
            ".min",
        ),
    )


class IntRange(Model):
    """Whole numbers between two bounds, both included."""

    min: Int
    """Smallest value."""
    max: Int
    """Largest value."""

    rules: ClassVar = (Rule("self.min < self.max", "min must be less than max", lambda obj: obj.min < obj.max, ".min"),)


class Parameter(Model):
    """One field of the recipe and the values that are tried."""

    path: Annotated[str, Field(max_length=128, pattern="^[a-zA-Z][a-zA-Z0-9]*([.][a-zA-Z0-9]+)+$")]
    """Path of the field in the TrainingJob's spec, such as training.optimizer.learningRate."""
    choice: Annotated[tuple[AnyValue, ...], Field(min_length=1, max_length=64)] | None = None
    """Values to choose from; of any type that the field takes."""
    uniform: Range | None = None
    """Evenly spread numbers."""
    log_uniform: LogRange | None = None
    """Numbers spread evenly over orders of magnitude."""
    int_uniform: IntRange | None = None
    """Evenly spread whole numbers."""

    exactly_one: ClassVar = ("choice", "uniform", "log_uniform", "int_uniform")
    rules: ClassVar = (
        Rule(
            f"self.path.startsWith('{OPTIONS_PREFIX}') || self.path in {list(SWEEPABLE)}",
            "path must name a field of model, input, training or compression of a TrainingJob's spec, "
            "such as training.optimizer.learningRate, training.batchSize or model.architecture",
            lambda obj: obj.path.startswith(OPTIONS_PREFIX) or obj.path in SWEEPABLE,
            ".path",
        ),
    )


class SweepObjective(Model):
    """One measure of a good model."""

    metric: MetricName
    """Name of the metric, on the validation split or of the artefact."""
    goal: Literal["Maximize", "Minimize"]
    """Whether more or less is better."""
    limit: Number | None = None
    """Value that a trial must not be worse than to be chosen, in the metric's unit."""

    rules: ClassVar = (
        Rule(
            "!self.metric.startsWith('test/')",
            "choosing by the test split would spoil it; use the same metric of validation/",
            lambda obj: not obj.metric.startswith("test/"),
            ".metric",
        ),
    )


class Search(Model):
    """How values are proposed."""

    algorithm: Literal["Random", "Grid", "TPE", "GaussianProcess", "NSGA2", "PopulationBased"] = "TPE"
    """The method; NSGA2 for several objectives, Grid for choices only."""
    seed: Seed = 0
    """Seed of everything random."""


class Stopping(Model):
    """When a trial that does badly is ended early."""

    scheduler: Literal["ASHA", "Hyperband", "MedianStopping", "None"] = "ASHA"
    """The method; None: every trial trains all epochs."""
    grace_epochs: Annotated[Int, Field(ge=1, le=100_000)] = 1
    """Epochs that every trial gets."""
    reduction_factor: Annotated[Int, Field(ge=2, le=10)] = 3
    """Of this many trials one goes on, at each rung."""


class Trials(Model):
    """How many trials are made."""

    max: Annotated[Int, Field(ge=1, le=10_000)] = 20
    """Trials in all."""
    parallel: Annotated[Int, Field(ge=1, le=1000)] = 1
    """Trials at the same time."""
    max_failed: Annotated[Int, Field(ge=0, le=10_000)] = 3
    """The sweep fails when more trials have failed."""

    rules: ClassVar = (
        Rule(
            "self.parallel <= self.max",
            "parallel must not exceed max",
            lambda obj: obj.parallel <= obj.max,
            ".parallel",
        ),
    )


class Budget(Model):
    """When the sweep ends with what it has."""

    wall_clock: Duration | None = None
    """Time since its start. Absent: no limit."""
    gpu_hours: Annotated[Number, Field(gt=0)] | None = None
    """GPU hours of all trials together. Absent: no limit."""
    cpu_hours: Annotated[Number, Field(gt=0)] | None = None
    """CPU core hours of all trials together. Absent: no limit."""


class Promote(Model):
    """The TrainingJob that is made from the winner."""

    name: Label
    """Name of the TrainingJob; the sweep does not own it."""
    epochs: Annotated[Int, Field(ge=1, le=100_000)] | None = None
    """Epochs of the full training. Absent: those of the winner."""


class TuningSweepSpec(Model):
    """What is varied, what is sought and what it may cost."""

    template: Template
    """The recipe that trials start from."""
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1, max_length=32), ListMap(("path",))]
    """Fields that are varied."""
    objectives: Annotated[tuple[SweepObjective, ...], Field(min_length=1, max_length=4), ListMap(("metric",))]
    """One: the best trial is sought. Several: the Pareto front; the first breaks ties."""
    search: Search = Search()
    """How values are proposed."""
    stopping: Stopping = Stopping()
    """When a trial that does badly is ended early."""
    trials: Trials = Trials()
    """How many trials are made."""
    budget: Budget = Budget()
    """When the sweep ends with what it has."""
    promote: Promote | None = None
    """Makes a TrainingJob from the winner. Absent: none is made."""
    compute: Compute | None = None
    """What each trial runs on. Absent: as the template says."""
    run_policy: RunPolicy = RunPolicy()
    """How the sweep's run is started, repeated, limited and kept."""

    rules: ClassVar = (
        Rule(
            "self.search.algorithm != 'NSGA2' || size(self.objectives) > 1",
            "NSGA2 searches a Pareto front; give several objectives or another algorithm",
            lambda obj: obj.search.algorithm != "NSGA2" or len(obj.objectives) > 1,
            ".search.algorithm",
        ),
        Rule(
            "self.search.algorithm != 'Grid' || self.parameters.all(it, "
            "!has(it.uniform) && !has(it.logUniform) && !has(it.intUniform))",
            "Grid tries every combination; give each parameter a choice or use another algorithm",
            lambda obj: obj.search.algorithm != "Grid" or all(p.choice is not None for p in obj.parameters),
            ".search.algorithm",
        ),
        Rule(
            "!has(self.template.spec.training.epochs) || "
            "self.stopping.graceEpochs <= self.template.spec.training.epochs",
            "graceEpochs must not exceed the template's training.epochs",
            lambda obj: (
                "epochs" in obj.template.spec.training.silent()
                or obj.stopping.grace_epochs <= obj.template.spec.training.epochs
            ),
            ".stopping.graceEpochs",
        ),
    )


class TrialCounts(Model):
    """Trials by what became of them."""

    running: Annotated[Int, Field(ge=0)] = 0
    """At work."""
    succeeded: Annotated[Int, Field(ge=0)] = 0
    """Trained to the end."""
    stopped_early: Annotated[Int, Field(ge=0)] = 0
    """Ended because they did badly."""
    failed: Annotated[Int, Field(ge=0)] = 0
    """Ended by an error."""
    total: Annotated[Int, Field(ge=0)] = 0
    """Wanted in all."""


ParameterValues = Annotated[Mapping[str, AnyValue], Field(max_length=32)]


class Trial(Model):
    """One training of a sweep."""

    trial: Annotated[str, Field(max_length=64)]
    """Name of the trial."""
    parameters: ParameterValues = {}
    """Values that were set, by path."""
    metrics: Metrics = {}
    """What was measured."""


class TuningSweepStatus(RunOwnerStatus):
    """What has been found."""

    phase: Literal["Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"] | None = None
    """Summary in a word."""
    trials: TrialCounts | None = None
    """Trials by what became of them."""
    best: Trial | None = None
    """The best trial so far."""
    pareto: Annotated[tuple[Trial, ...], Field(max_length=64)] = ()
    """Trials that no other beats in all objectives."""
    report: Annotated[str, Field(max_length=2048)] | None = None
    """The HTML report."""
    promoted: Bool = False
    """Whether the winner's TrainingJob has been made."""


class TuningSweep(Resource):
    """Many short trainings around one recipe, to find a better one within limits of latency and cost."""

    definition: ClassVar = Definition(
        plural="tuningsweeps",
        short_names=("sweep",),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Running", ".status.trials.running", "integer"),
            Column("Succeeded", ".status.trials.succeeded", "integer"),
            Column("Stopped", ".status.trials.stoppedEarly", "integer", "Trials ended early"),
            Column("Failed", ".status.trials.failed", "integer"),
            Column("Total", ".status.trials.total", "integer"),
            Column("Best", ".status.best.trial"),
            Column("ETA", ".status.progress.eta"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    kind: Literal["TuningSweep"] = "TuningSweep"
    """Kind of the object."""
    spec: TuningSweepSpec
    """Desired state."""
    status: TuningSweepStatus | None = None
    """Observed state."""


def references(spec: TuningSweepSpec) -> Iterator[Reference]:
    """The objects that a TuningSweep needs before it can start."""
    for reference in training_references(spec.template.spec):
        path = reference.path.replace("spec.", "spec.template.spec.", 1)
        yield replace(reference, path=path)


__all__ = ["SWEEPABLE", "TuningSweep", "TuningSweepSpec", "TuningSweepStatus", "references"]
