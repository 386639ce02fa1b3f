"""TuningSweep: many short trainings around one recipe, to find a better one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, ClassVar, Literal, get_args, get_origin

from pydantic import Field

from fovea_api.choice import AUTO
from fovea_api.common import (
    AnyValue,
    Column,
    Definition,
    DeletionPolicy,
    Digest,
    Duration,
    Int,
    Label,
    ListMap,
    Model,
    Number,
    OpaqueObject,
    Ref,
    Reference,
    Resource,
    Rule,
    RunName,
    RunPolicy,
    Uri,
    not_downloaded,
    parse_duration,
)
from fovea_api.criteria import MetricName
from fovea_api.defaults import completed, identifying
from fovea_api.run import Location, RunInputs, RunOwner, RunOwnerStatus, RunType, run_identity
from fovea_api.sweep import Front, Trial, TrialCounts
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
    """Recipe that the trials start from."""

    spec: TrainingJobSpec
    """Spec of a TrainingJob; each trial sets its parameter values on a copy."""


class Range(Model):
    """Uniformly distributed numbers between two bounds."""

    min: Number
    """Smallest value."""
    max: Number
    """Largest value."""

    rules: ClassVar = (Rule("self.min < self.max", "min must be less than max", lambda obj: obj.min < obj.max, ".min"),)


class LogRange(Range):
    """Log-uniformly distributed positive numbers between two bounds."""

    rules: ClassVar = (
        Rule(
            "self.min > 0.0",
            "min of a logarithmic range must be positive",
            lambda obj: obj.min > 0,
            ".min",
        ),
    )


class IntRange(Model):
    """Uniformly distributed integers between two bounds, both inclusive."""

    min: Int
    """Smallest value."""
    max: Int
    """Largest value."""
    step: Annotated[Int, Field(ge=1)] = 1
    """Step between values: 32 with min 256 gives 256, 288, …"""

    rules: ClassVar = (Rule("self.min < self.max", "min must be less than max", lambda obj: obj.min < obj.max, ".min"),)


Path = Annotated[str, Field(max_length=128, pattern="^[a-zA-Z][a-zA-Z0-9]*([.][a-zA-Z0-9]+)+$")]


class When(Model):
    """Condition on another parameter."""

    path: Path
    """Path of the other parameter, which must have a choice and no condition itself."""
    values: Annotated[tuple[AnyValue, ...], Field(min_length=1, max_length=64)]
    """Values of the other parameter under which the condition holds; each must be in its choice."""


class Parameter(Model):
    """Search space of one field of the recipe."""

    path: Path
    """Path of the field in the TrainingJob's spec, such as training.optimizer.learningRate."""
    case: Annotated[str, Field(max_length=63)] = ""
    """Name that distinguishes parameters of the same path with different conditions, such as the learning rates of two
    optimizers."""
    when: When | None = None
    """Condition under which the parameter is searched; otherwise the template's value is used. Absent: always."""
    choice: Annotated[tuple[AnyValue, ...], Field(min_length=1, max_length=64)] | None = None
    """Values to choose from, of any type that the field accepts."""
    uniform: Range | None = None
    """Range of a number."""
    log_uniform: LogRange | None = None
    """Range of a number on a logarithmic scale."""
    int_uniform: IntRange | None = None
    """Range of an integer."""

    @property
    def key(self) -> str:
        """Unique name of the parameter within its sweep."""
        return f"{self.path}/{self.case}" if self.case else self.path

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
    """Metric to optimize."""

    metric: MetricName
    """Metric of the exported model, such as validation/mAP, latency/p95Milliseconds, size/megabytes or
    complexity/gigaMacs."""
    goal: Literal["Maximize", "Minimize"]
    """Direction of the optimization."""
    limit: Number | None = None
    """Worst acceptable value, in the unit of the metric; trials beyond it are not chosen. Absent: no limit."""

    rules: ClassVar = (
        Rule(
            "!self.metric.startsWith('test/')",
            "choosing by the test split would spoil it; use the same metric of validation/",
            lambda obj: not obj.metric.startswith("test/"),
            ".metric",
        ),
        Rule(
            "!self.metric.startsWith('train/')",
            "images that were trained on say nothing of others; use the same metric of validation/",
            lambda obj: not obj.metric.startswith("train/"),
            ".metric",
        ),
    )

    def loss(self, value: float) -> float:
        """The value with the sign that makes smaller better."""
        return value if self.goal == "Minimize" else -value

    def excess(self, value: float) -> float:
        """Violation of the limit in the unit of the metric: positive if the value is beyond it."""
        return 0.0 if self.limit is None else self.loss(value) - self.loss(self.limit)


class WarmStart(Model):
    """Earlier sweep whose trials inform the search from the start. Trials outside the search space or without a
    measurement of every objective are ignored."""

    tuning_sweep_ref: Ref | None = None
    """TuningSweep that has finished; it may have used another version of the dataset."""
    uri: Uri | None = None
    """Folder of a finished sweep in a store, with its sweep.yaml: pvc://, s3:// or gs://."""

    exactly_one: ClassVar = ("tuning_sweep_ref", "uri")
    rules: ClassVar = not_downloaded("uri")


class Search(Model):
    """Search algorithm."""

    algorithm: Literal["Random", "Grid", "TPE", "GaussianProcess", "NSGA2", "PopulationBased"] = "TPE"
    """Algorithm that proposes values. Grid: all combinations of choices. TPE: tree-structured Parzen estimator.
    NSGA2: evolutionary search for several objectives. PopulationBased: trials train in parallel, and the worst continue
    from the weights of the best with perturbed values."""
    seed: Seed = 0
    """Seed of everything random."""
    warm_start: WarmStart | None = None
    """Earlier sweep to start from. Absent: none."""


class Stopping(Model):
    """Early stopping of unpromising trials."""

    scheduler: Literal["ASHA", "Hyperband", "MedianStopping", "None"] = "ASHA"
    """Scheduler of the trials. ASHA: trials pause at each rung (graceEpochs, then times reductionFactor), and the
    best are promoted. Hyperband: ASHA with brackets of different first rungs. MedianStopping: every graceEpochs, trials
    worse than the median are stopped. None: all trials train to the end."""
    grace_epochs: Annotated[Int, Field(ge=1, le=100_000)] = 1
    """Minimum number of epochs of each trial. PopulationBased: epochs between perturbations, whatever the scheduler."""
    reduction_factor: Annotated[Int, Field(ge=2, le=10)] = 3
    """One of this many trials is promoted at each rung. PopulationBased: one of this many is replaced."""


class Trials(Model):
    """Number of trials."""

    max: Annotated[Int, Field(ge=1, le=10_000)] = 20
    """Total number of trials."""
    parallel: Annotated[Int, Field(ge=1, le=1000)] = 1
    """Largest number of trials at the same time."""
    max_failed: Annotated[Int, Field(ge=0, le=10_000)] = 3
    """Number of failed trials beyond which the sweep fails."""

    incidental: ClassVar = ("parallel",)
    rules: ClassVar = (
        Rule(
            "self.parallel <= self.max",
            "parallel must not exceed max",
            lambda obj: obj.parallel <= obj.max,
            ".parallel",
        ),
    )


class Budget(Model):
    """Budget of the sweep; when it is spent, the sweep ends with the trials that have finished."""

    wall_clock: Duration | None = None
    """Running time of the sweep, without queueing and suspension. Absent: unlimited."""
    gpu_hours: Annotated[Number, Field(gt=0)] | None = None
    """GPU hours of all trials: reserved GPUs times hours. Absent: unlimited."""
    cpu_hours: Annotated[Number, Field(gt=0)] | None = None
    """CPU core hours of all trials: reserved cores times hours. Absent: unlimited."""

    rules: ClassVar = (
        Rule(
            "!has(self.wallClock) || duration(self.wallClock) >= duration('1m')",
            "no trial ends within less than a minute; raise it or remove it",
            lambda obj: obj.wall_clock is None or parse_duration(obj.wall_clock) >= timedelta(minutes=1),
            ".wallClock",
        ),
    )


class Promote(Model):
    """TrainingJob to create from the chosen trial."""

    name: Label
    """Name of the TrainingJob. The sweep does not own it."""
    trial: Literal["Best", "Knee"] = "Best"
    """Trial to choose among those within all limits. Best: the best value of the first objective. Knee: the knee point
    of the Pareto front."""
    epochs: Annotated[Int, Field(ge=1, le=100_000)] | None = None
    """Number of epochs of the full training. Absent: as in the chosen trial."""


def _has_condition(parameter: Parameter, parameters: tuple[Parameter, ...]) -> bool:
    """Whether a parameter's condition, if it has one, names a parameter that can be one."""
    when = parameter.when
    return when is None or any(
        other.path == when.path and other.choice is not None and other.when is None for other in parameters
    )


class TuningSweepSpec(Model):
    """Desired search."""

    template: Template
    """Recipe that the trials start from."""
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1, max_length=32), ListMap(("path", "case"))]
    """Parameters to search."""
    objectives: Annotated[tuple[SweepObjective, ...], Field(min_length=1, max_length=4), ListMap(("metric",))]
    """Objectives. One: the best trial is searched. Several: the Pareto front; the first breaks ties."""
    search: Search = Search()
    """Search algorithm."""
    stopping: Stopping = Stopping()
    """Early stopping of unpromising trials."""
    trials: Trials = Trials()
    """Number of trials."""
    budget: Budget = Budget()
    """Budget of the sweep. Absent: unlimited."""
    promote: Promote | None = None
    """Creates a TrainingJob from the chosen trial. Absent: none; `fovea sweep patch` prints the changes for Git."""
    compute: Compute | None = None
    """Compute resources of each trial. Absent: those of the template."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    """What happens to the runs and trials in the store when this object is deleted."""
    run_policy: RunPolicy = RunPolicy()
    """Policy for starting, retrying, limiting and retaining runs."""

    def recipe(self) -> SweepRecipe:
        """The part that determines the result."""
        template = identifying(self.template.spec.recipe(), RunType.TRAINING.value, given=True)
        given = {name: getattr(self, name) for name in SweepRecipe.model_fields if name != "template"}
        return SweepRecipe(template=template, **given)

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
            "self.search.algorithm != 'PopulationBased' || self.parameters.all(it, "
            "it.path.startsWith('training.') && it.path != 'training.epochs')",
            "PopulationBased hands weights on between trials; vary fields of training alone, but not training.epochs, "
            "or use another algorithm",
            lambda obj: (
                obj.search.algorithm != "PopulationBased"
                or all(p.path.startswith("training.") and p.path != "training.epochs" for p in obj.parameters)
            ),
            ".search.algorithm",
        ),
        Rule(
            "self.search.algorithm != 'PopulationBased' || self.trials.max >= 4",
            "a population has 4 trials at least",
            lambda obj: obj.search.algorithm != "PopulationBased" or obj.trials.max >= 4,
            ".trials.max",
        ),
        Rule(
            "self.objectives.exists(it, it.metric.startsWith('validation/'))",
            "one objective at least must be of validation/: nothing else says how good a model is",
            lambda obj: any(each.metric.startswith("validation/") for each in obj.objectives),
            ".objectives",
        ),
        Rule(
            f"self.template.spec.model.architecture != '{AUTO}'",
            f"a sweep compares architectures itself; name one instead of {AUTO}, and vary model.architecture",
            lambda obj: obj.template.spec.model.architecture != AUTO,
            ".template.spec.model.architecture",
        ),
        Rule(
            "'validation' in self.template.spec.evaluation.splits",
            "trials are compared on the validation split; add it to evaluation.splits",
            lambda obj: "validation" in obj.template.spec.evaluation.splits,
            ".template.spec.evaluation.splits",
        ),
        Rule(
            "self.stopping.scheduler == 'None' || !self.parameters.exists(it, it.path == 'training.epochs')",
            "trials of different lengths cannot be compared on the way; use the scheduler None or do not vary "
            "training.epochs",
            lambda obj: (
                obj.stopping.scheduler == "None" or not any(p.path == "training.epochs" for p in obj.parameters)
            ),
            ".stopping.scheduler",
        ),
        Rule(
            "self.parameters.all(it, !has(it.when) || self.parameters.exists(other, other.path == it.when.path "
            "&& !has(other.uniform) && !has(other.logUniform) && !has(other.intUniform) && !has(other.when)))",
            "when.path must name another parameter that has a choice and no when itself",
            lambda obj: all(_has_condition(p, obj.parameters) for p in obj.parameters),
            ".parameters",
        ),
        Rule(
            "self.parameters.all(it, has(it.when) || !self.parameters.exists(other, other.path == it.path "
            "&& other.case != it.case))",
            "of several parameters of one path, each needs a when: no two of them may hold at once",
            lambda obj: all(
                p.when is not None or not any(o.path == p.path and o.case != p.case for o in obj.parameters)
                for p in obj.parameters
            ),
            ".parameters",
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


class SweepRecipe(Model):
    """The part of a TuningSweep that determines its result, as its Run keeps it."""

    template: OpaqueObject
    """The recipe that trials start from, without what it is silent about: `template_recipe` reads it. The preset is
    laid into each trial's own recipe, for the architecture may be a parameter."""
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1, max_length=32), ListMap(("path", "case"))]
    """Parameters to search."""
    objectives: Annotated[tuple[SweepObjective, ...], Field(min_length=1, max_length=4), ListMap(("metric",))]
    """Objectives."""
    search: Search = Search()
    """Search algorithm."""
    stopping: Stopping = Stopping()
    """Early stopping of unpromising trials."""
    trials: Trials = Trials()
    """Number of trials."""
    budget: Budget = Budget()
    """Budget of the sweep. Absent: unlimited."""

    def template_recipe(self) -> Recipe:
        """The recipe that trials start from, silent about what the preset is to fill."""
        given = completed(self.template, Recipe, RunType.TRAINING.value, silent=True)
        return Recipe.model_validate(given)


def study_identity(owner: RunOwner, recipe: SweepRecipe, inputs: RunInputs, nonce: str = "") -> str:
    """Digest of what makes trials comparable: all of a sweep but how many trials it makes and what they may cost. So a
    sweep with more trials or a larger budget goes on with those that it has."""
    endless = recipe.model_copy(update={"trials": Trials(), "budget": Budget()})
    return run_identity(RunType.TUNING_SWEEP, owner, endless, inputs, nonce)


class Promotion(Model):
    """The promotion of a trial to a TrainingJob."""

    training_job: Label
    """Name of the TrainingJob."""
    run: RunName
    """Run of the sweep that the trial belongs to."""
    trial: Annotated[str, Field(max_length=64)]
    """Name of the trial."""


class TuningSweepStatus(RunOwnerStatus):
    """Observed state of a TuningSweep."""

    phase: Literal["Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"] | None = None
    """One-word summary."""
    trials: TrialCounts | None = None
    """Number of trials by state."""
    best: Trial | None = None
    """Best trial so far: the best value of the first objective among the trials within all limits."""
    knee: Trial | None = None
    """Knee point of the Pareto front, among the trials within all limits. Absent with one objective."""
    pareto: Front = ()
    """Pareto front, ordered by the first objective, best first."""
    front_size: Annotated[Int, Field(ge=0)] | None = None
    """Number of trials of the Pareto front, which may exceed those listed."""
    budget_percent: Annotated[Int, Field(ge=0, le=100)] | None = None
    """Percentage of the budget that is spent, of the limit closest to being reached. Absent: no budget."""
    headline: Annotated[str, Field(max_length=160)] | None = None
    """Value of the first objective of the best trial so far, such as `validation/mAP 0.53`."""
    ended_trials: Annotated[str, Field(max_length=32)] | None = None
    """Number of ended trials out of the total, such as 17/20."""
    spent: Annotated[str, Field(max_length=64)] | None = None
    """Spent share of the budget, such as 35 %; without a budget the compute time of the trials, such as 1.2 CPU h."""
    artifact: Location | None = None
    """Location of the trials of the last run that has ended."""
    digest: Digest | None = None
    """Digest of these trials."""
    report: Location | None = None
    """Location of the HTML report."""
    promoted: Promotion | None = None
    """Last promotion of a trial. Absent: there was none."""


class TuningSweep(Resource):
    """A hyperparameter and architecture search around one recipe, within limits of accuracy, latency, size and cost."""

    definition: ClassVar = Definition(
        plural="tuningsweeps",
        short_names=("sweep",),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Trials", ".status.endedTrials", description="Ended trials out of the total"),
            Column("Best", ".status.headline", description="First objective of the best trial within all limits"),
            Column("Front", ".status.frontSize", "integer", "Trials of the Pareto front"),
            Column("Spent", ".status.spent", description="Share of the budget, or compute time of the trials"),
            Column("ETA", ".status.progress.eta"),
            Column("Running", ".status.trials.running", "integer", wide=True),
            Column("Stopped", ".status.trials.stoppedEarly", "integer", "Trials stopped early", wide=True),
            Column("Failed", ".status.trials.failed", "integer", wide=True),
            Column("Promoted", ".status.promoted.trainingJob", wide=True),
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
    if spec.search.warm_start is not None and spec.search.warm_start.tuning_sweep_ref is not None:
        yield Reference(
            "TuningSweep", spec.search.warm_start.tuning_sweep_ref.name, "spec.search.warmStart.tuningSweepRef"
        )


__all__ = [
    "SWEEPABLE",
    "Parameter",
    "SweepObjective",
    "SweepRecipe",
    "TuningSweep",
    "TuningSweepSpec",
    "TuningSweepStatus",
    "references",
    "study_identity",
]
