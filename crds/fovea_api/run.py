"""Run: one piece of work, its recipe frozen. Made by the operator, read by users, executed by the trainer."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError

from fovea_api.architectures import as_identified, as_introduced, spelled_out
from fovea_api.common import (
    Bool,
    Column,
    Definition,
    Digest,
    Int,
    ListMap,
    Metrics,
    Model,
    Number,
    ObjectName,
    OpaqueObject,
    PodTemplate,
    Resource,
    Resources,
    Rule,
    RunName,
    RunPolicy,
    Status,
    Time,
    Word,
    frozen_form,
)
from fovea_api.criteria import Criterion
from fovea_api.defaults import completed, identifying
from fovea_api.presets import with_each_preset, with_preset
from fovea_api.version import DatasetSummary, StatedProblem

M = TypeVar("M", bound=Model)
Location = Annotated[str, Field(max_length=2048)]
Message = Annotated[str, Field(max_length=8192)]
Count = Annotated[Int, Field(ge=0)]
KindName = Annotated[str, Field(max_length=63, pattern="^[A-Z][A-Za-z0-9]*$")]
Cause = Annotated[str, Field(min_length=1, max_length=253, pattern="^[A-Za-z0-9]([-A-Za-z0-9_.:]*[A-Za-z0-9])?$")]
MAX_VERSIONS = 2000
"""Versions of a Dataset that a Run speaks of: twice what can be kept, 150 KB."""
MAX_ATTEMPTS = 256
"""Attempts on record: more than the failures of the most retries, which are never dropped."""


class RunType(StrEnum):
    """What kind of work a run is."""

    DATASET_BUILD = "DatasetBuild"
    TRAINING = "Training"
    CLEANUP = "Cleanup"


class RunOwner(Model):
    """The object that the run works for."""

    kind: KindName
    """Kind of the object."""
    name: ObjectName
    """Name of the object."""


class RunRequest(Model):
    """A run that one object asks another for; it stands in the status of the one that asks and refers to the other."""

    cause: Cause
    """Why, as a word that is used once: each cause leads to one run."""
    target: RunOwner
    """The object whose run it is to be."""
    recipe: OpaqueObject = {}
    """Part of a recipe, merged over that of the target."""
    requested_at: Time
    """When it was asked for."""


RunRequests = Annotated[tuple[RunRequest, ...], Field(max_length=64), ListMap(("cause",))]
"""The requests in an object's status."""


class RunOrigin(Model):
    """The request that a run answers."""

    kind: KindName
    """Kind of the object that asked."""
    name: ObjectName
    """Name of the object that asked."""
    cause: Cause
    """Why it asked."""
    recipe: OpaqueObject = {}
    """Part of a recipe that was merged over that of the owner."""


class RequestedRun(Model):
    """A request that others made and what became of it; in the status of the run's owner."""

    kind: KindName
    """Kind of the object that asked."""
    name: ObjectName
    """Name of the object that asked."""
    cause: Cause
    """Why it asked."""
    run: RunName | None = None
    """The run that answers it. Absent: there is none yet."""
    phase: Literal["Waiting", "Refused", "Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"]
    """Waiting for its turn, refused, or where its run is."""
    message: Annotated[str, Field(max_length=8192)] | None = None
    """Why it waits or is refused."""


RequestedRuns = Annotated[tuple[RequestedRun, ...], Field(max_length=256), ListMap(("kind", "name", "cause"))]
"""The requests of others in a run owner's status."""


class DatasetInput(Model):
    """The dataset version that is trained on."""

    name: ObjectName
    """Name of the Dataset."""
    version: Digest
    """Digest of the version."""
    artifact: Location
    """Where the version lies."""
    problem: StatedProblem | None = None
    """The problem as the Dataset states it now, for the report. Absent: as it did when the version was built."""


class VersionInput(Model):
    """An earlier dataset version."""

    version: Digest
    """Digest of the version."""
    artifact: Location
    """Where the version lies."""


class BundleInput(Model):
    """A model bundle of an earlier run: a starting point or a teacher."""

    digest: Digest
    """Digest of the bundle."""
    artifact: Location
    """Where the bundle lies."""


class RunInputs(Model):
    """What a run reads, fixed at its start. The digests are part of the identity, the places are not."""

    dataset: DatasetInput | None = None
    """The dataset version that is trained on."""
    parent: VersionInput | None = None
    """The dataset version whose split assignments are kept."""
    base_weights: BundleInput | None = None
    """The bundle that training starts from."""
    teacher: BundleInput | None = None
    """The bundle that is distilled from."""

    def digests(self) -> dict[str, JsonValue]:
        """The part that belongs to the identity: digests by input, without places."""
        inputs: dict[str, JsonValue] = {}
        if self.dataset is not None:
            inputs["dataset"] = self.dataset.version
        if self.parent is not None:
            inputs["parent"] = self.parent.version
        if self.base_weights is not None:
            inputs["baseWeights"] = self.base_weights.digest
        if self.teacher is not None:
            inputs["teacher"] = self.teacher.digest
        return inputs


class Execution(Model):
    """How the work is carried out. It changes no result, so it is not part of the identity."""

    workers: Annotated[Int, Field(ge=1, le=1024)] = 1
    """Worker processes: of Ray Train, or of a dataset build."""
    min_workers: Annotated[Int, Field(ge=1, le=1024)] | None = None
    """Smallest number of workers that training goes on with. Absent: not elastic."""
    max_workers: Annotated[Int, Field(ge=1, le=1024)] | None = None
    """Largest number of workers. Absent: not elastic."""
    resources: Resources = Resources()
    """Resources of each worker."""
    checkpoint_every_epochs: Annotated[Int, Field(ge=1)] = 1
    """Epochs between two checkpoints; where these take longer than five minutes, there are more within them."""
    checkpoints_kept: Annotated[Int, Field(ge=1)] = 2
    """Newest checkpoints that are kept."""


class CleanupRecipe(Model):
    """What a Cleanup leaves of its owner's folder in the store, and how its pod runs."""

    keep_newest: Annotated[Int, Field(ge=0, le=1000)] = 0
    """Newest dataset versions that stay. 0: nothing stays, neither versions nor runs nor bundles."""
    keep: Annotated[tuple[Digest, ...], Field(max_length=MAX_VERSIONS)] = ()
    """Dataset versions that stay beyond that: in use, pinned or a parent. Filled in when an attempt starts."""
    pod_template: PodTemplate = PodTemplate()
    """Where and how the pod runs: as the owner's."""
    run_policy: RunPolicy = RunPolicy()
    """Retries, and the owner's queue."""


class RunSpec(Model):
    """What is to be done, fixed at its start. Immutable."""

    type: RunType
    """What kind of work it is."""
    owner: RunOwner
    """The object that the run works for."""
    identity: Digest
    """Digest of type, owner, recipe (without what says nothing), input digests and nonce."""
    nonce: Annotated[str, Field(max_length=256)] = ""
    """Tells apart runs of one recipe on one input: the fovea.dev/restart annotation or a schedule's time."""
    request: RunOrigin | None = None
    """The request of another object that the run answers. Absent: its owner's spec asked for it."""
    recipe: OpaqueObject
    """What determines the result, defaults spelled out: a Dataset's or TrainingJob's recipe, or a cleanup's."""
    success_criteria: Annotated[tuple[Criterion, ...], Field(max_length=64)] = ()
    """The criteria as they stood at the start, for the report. Not part of the identity."""
    inputs: RunInputs = RunInputs()
    """What the run reads."""
    execution: Execution = Execution()
    """How the work is carried out. Not part of the identity."""
    store: Location
    """Root of the namespace's store."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image of the run's pods. Not part of the identity."""

    rules: ClassVar = (Rule("self == oldSelf", "the spec of a Run is immutable; change its owner instead"),)


def run_identity(type: RunType, owner: RunOwner, recipe: Model | None, inputs: RunInputs, nonce: str = "") -> str:
    """Digest that says which result is asked for: `sha256-<64 hex>` of canonical JSON (sorted keys, no spaces).

    Recipes that make the same have one identity, and those that do not have two, also across versions with other
    defaults: a field is left out where it has the default that it was introduced with (`fovea_api.defaults`), what a
    preset fills counts as if it were given, and what an architecture supplies is part of it once that has changed.
    Where things lie, images, criteria, compute and the problem's words are not. None: what is done does not depend on
    the recipe.
    """
    content = {
        "type": type.value,
        "owner": owner.to_dict(),
        "recipe": identifying_recipe(type, recipe) if recipe is not None else {},
        "inputs": inputs.digests(),
        "nonce": nonce,
    }
    return digest_of(content)


def identifying_recipe(type: RunType, recipe: Model) -> Mapping[str, JsonValue]:
    """The part of a recipe that belongs to the identity: without what says nothing."""
    return as_identified(identifying(with_preset(recipe), type.value))


def frozen_recipe(recipe: Model) -> dict[str, JsonValue]:
    """A recipe as a Run keeps it, with the preset laid in: no later version reads anything else out of it."""
    return dict(spelled_out(frozen_form(with_preset(recipe))))


def read_recipe(type: RunType, frozen: Mapping[str, JsonValue], model: builtins.type[M]) -> M:
    """A Run's recipe, whatever version froze it: what it lacks is meant as on the day that the field was introduced.

    Raises:
        ValidationError: it has fields or values that this version does not know.
    """
    return model.model_validate(as_introduced(completed(frozen, model, type.value)))


def is_same_recipe(type: RunType, frozen: Mapping[str, JsonValue], recipe: Model) -> bool:
    """Whether a Run's recipe says what this one says: as it is written, or as this version or an earlier one reads
    it."""
    try:
        before = recipe.model_validate(completed(frozen, builtins.type(recipe), type.value))
    except ValidationError:
        return False
    then = identifying(before, type.value)
    meanings = (identifying(meant, type.value) for meant in (recipe, *with_each_preset(recipe)))
    return any(now in (then, as_introduced(then)) or then == spelled_out(now) for now in meanings)


def digest_of(value: Mapping[str, JsonValue] | Mapping[str, object]) -> str:
    """`sha256-<64 hex>` of the value's canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


def run_name(identity: str) -> str:
    """Name of the Run of this identity: `r-` and the first 10 hexadecimal digits."""
    return f"r-{identity.removeprefix('sha256-')[:10]}"


class Best(Model):
    """The best value so far of the monitored metric."""

    name: Word
    """Name of the metric."""
    value: Number
    """Its best value."""
    epoch: Count
    """The epoch that reached it, from 1."""


class Progress(Model):
    """How far a run is; sent at most every 10 seconds by the run itself."""

    stage: Word | None = None
    """What is being done: Reading, Checking, Training, Evaluating, Exporting, …"""
    epoch: Annotated[Number, Field(ge=0)] | None = None
    """Epochs done."""
    epochs: Count | None = None
    """Epochs in all."""
    percent: Annotated[Int, Field(ge=0, le=100)] | None = None
    """Share of the whole run that is done, in per cent."""
    eta: Annotated[str, Field(max_length=20)] | None = None
    """Time until the end as far as it can be estimated, such as 3m10s."""
    images_per_second: Annotated[Number, Field(ge=0)] | None = None
    """Images worked on per second."""
    metrics: Metrics = {}
    """Latest metrics: train/loss, validation/mAP, …"""
    best: Best | None = None
    """Best value so far of the monitored metric."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What is going on, in words."""


class Usage(Model):
    """Compute time used."""

    cpu_hours: Annotated[Number, Field(ge=0)] = 0
    """CPU core hours."""
    gpu_hours: Annotated[Number, Field(ge=0)] = 0
    """GPU hours."""


class TrainingSummary(Model):
    """A training in figures."""

    best_epoch: Annotated[Int, Field(ge=1)]
    """The epoch whose weights were exported, from 1."""
    epochs: Count
    """Epochs that were trained, over all attempts."""
    input_size: Annotated[str, Field(max_length=16, pattern="^[0-9]+x[0-9]+$")] | None = None
    """Width and height of the network's input in pixels, such as 320x240: as given, or as followed from the dataset."""
    seconds: Annotated[Number, Field(ge=0)]
    """Wall-clock seconds from the start of the first attempt."""
    best: Best | None = None
    """Value of the monitored metric at the best epoch; absent without a validation split."""
    cpu_hours: Annotated[Number, Field(ge=0)] = 0
    """CPU core hours used."""
    gpu_hours: Annotated[Number, Field(ge=0)] = 0
    """GPU hours used."""


class RunError(Model):
    """Why a run failed."""

    reason: Annotated[str, Field(max_length=256, pattern="^[A-Za-z][A-Za-z0-9]*$")]
    """Why, as one CamelCase word."""
    message: Message
    """Why, in words, with the place and what would be right."""
    retryable: Bool = False
    """Whether another attempt may succeed: exit code 75, not 1."""
    recoverable: Bool = False
    """Whether the surroundings are at fault: credentials, space, a store that is away. The run waits until the cause is
    gone and goes on from its last checkpoint; no retry is used up."""


class RunResult(Model):
    """What a run has made; the same is in the store, in result.json beside it."""

    completed_at: Time
    """When the run ended."""
    artifact: Location | None = None
    """The directory made: a dataset version or a model bundle."""
    digest: Digest | None = None
    """Digest of the artifact."""
    report: Location | None = None
    """The HTML report."""
    logs: Location | None = None
    """The kept log."""
    metrics: Metrics = {}
    """Metrics measured on the exported artefact, `<split>/<metric>`."""
    dataset: DatasetSummary | None = None
    """The dataset version in figures, for a DatasetBuild."""
    training: TrainingSummary | None = None
    """The training in figures, for a Training."""
    versions: Annotated[tuple[Digest, ...], Field(max_length=MAX_VERSIONS)] = ()
    """The Dataset's versions that are in the store now, newest first, for a DatasetBuild and a Cleanup."""
    error: RunError | None = None
    """Why the run failed. Absent: it did not."""
    attempt: Annotated[Int, Field(ge=1)] | None = None
    """Number of the attempt that reported it. Absent: made by an older trainer, or read from the store."""

    def is_of(self, attempt: Attempt) -> bool:
        """Whether this attempt reported it; one without a number is known by its time."""
        if self.attempt is not None:
            return self.attempt == attempt.number
        return attempt.start_time is not None and self.completed_at >= attempt.start_time


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    PREEMPTED = "Preempted"
    SUSPENDED = "Suspended"
    BLOCKED = "Blocked"
    """By a fault of the surroundings, which uses up no retry."""


class Attempt(Model):
    """One child object that works or worked on the run."""

    number: Annotated[Int, Field(ge=1)]
    """Number of the attempt, from 1."""
    child: ObjectName
    """Name of the Job or RayJob."""
    start_time: Time | None = None
    """When it was created, or left its queue last."""
    worked_seconds: Count | None = None
    """Seconds that it worked, queues left out; while it is open, those before startTime."""
    end_time: Time | None = None
    """When it ended; while it is open: when it reported its end, or was asked to stop."""
    pods_digest: Annotated[str, Field(max_length=64)] | None = None
    """Digest of what the spec said of its pods: compute and queue."""
    adopt: Annotated[str, Field(max_length=256)] | None = None
    """Owner whose store it was allowed to take over: the namespace's annotation fovea.dev/adopt when it started."""
    disrupted_at: Time | None = None
    """When the cluster last took a pod of it away."""
    outcome: Outcome | None = None
    """How it ended. Absent: it has not."""
    reason: Annotated[str, Field(max_length=256)] | None = None
    """Why it ended so, as one CamelCase word."""
    message: Message | None = None
    """Why, in words: the last lines of the log, a quota refusal's own words."""


class RetryRequest(Model):
    """The request for another attempt that was followed last: the annotation fovea.dev/retry of the run's owner."""

    value: Annotated[str, Field(max_length=256)]
    """Value of the annotation; another one is a new request."""
    attempt: Count
    """Number of the last attempt that had ended then: this one and those before count as failures no more."""


class RunStatus(Status):
    """What the run has come to. The run's pods write progress and result, the operator all else."""

    phase: Literal["Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"] | None = None
    """Summary in a word."""
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=MAX_ATTEMPTS), ListMap(("number",))] = ()
    """The attempts, first to last. Of very many, the oldest that did not fail are left out; their seconds are not."""
    retry: RetryRequest | None = None
    """The request for another attempt that was followed last."""
    progress: Progress | None = None
    """How far the run is. Written by the run's pods."""
    result: RunResult | None = None
    """What it has made. Written by the run's pods."""


class Run(Resource):
    """One piece of work, its recipe frozen: a dataset build, a training, a cleanup. Made by Fovea; only to be read."""

    definition: ClassVar = Definition(
        plural="runs",
        columns=(
            Column("Type", ".spec.type"),
            Column("Owner", ".spec.owner.name"),
            Column("Phase", ".status.phase"),
            Column("Stage", ".status.progress.stage"),
            Column("Progress", ".status.progress.percent", "integer", "Per cent of the run"),
            Column("ETA", ".status.progress.eta"),
            Column("Best", ".status.progress.best.value", "number", "Best value of the monitored metric"),
            Column("Artifact", ".status.result.artifact", wide=True),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    kind: Literal["Run"] = "Run"
    """Kind of the object."""
    spec: RunSpec
    """What is to be done, fixed at its start."""
    status: RunStatus | None = None
    """Observed state."""


__all__ = [
    "MAX_ATTEMPTS",
    "MAX_VERSIONS",
    "CleanupRecipe",
    "Progress",
    "RequestedRun",
    "RequestedRuns",
    "Run",
    "RunInputs",
    "RunName",
    "RunOrigin",
    "RunOwner",
    "RunRequest",
    "RunRequests",
    "RunResult",
    "RunSpec",
    "RunStatus",
    "RunType",
    "Usage",
    "digest_of",
    "frozen_recipe",
    "identifying_recipe",
    "is_same_recipe",
    "read_recipe",
    "run_identity",
    "run_name",
]
