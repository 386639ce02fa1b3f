"""Run: one piece of work, its recipe frozen. Made by the operator, read by users, executed by the trainer."""

from __future__ import annotations

import builtins
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError

from fovea_api.architectures import as_identified, as_introduced, spelled_out
from fovea_api.choice import AUTO, MAX_CANDIDATES, Candidate, limits_of
from fovea_api.common import (
    DIGEST,
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
    Usage,
    Word,
    frozen_form,
)
from fovea_api.criteria import Criterion
from fovea_api.defaults import completed, identifying
from fovea_api.engine import EngineSummary
from fovea_api.latency import MeasuredOn
from fovea_api.paths import at
from fovea_api.presets import with_each_preset, with_preset
from fovea_api.sweep import SweepProgress, SweepSummary
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
    """Type of work of a run."""

    DATASET_BUILD = "DatasetBuild"
    TRAINING = "Training"
    CLEANUP = "Cleanup"
    TUNING_SWEEP = "TuningSweep"
    ENGINE_BUILD = "EngineBuild"


class RunOwner(Model):
    """Object that the run works for."""

    kind: KindName
    """Kind of the object."""
    name: ObjectName
    """Name of the object."""


class BundleInput(Model):
    """Model bundle of an earlier run, as initial weights, teacher or champion."""

    digest: Digest
    """Digest of the bundle."""
    artifact: Location
    """Location of the bundle."""

    @classmethod
    def at(cls, uri: str) -> BundleInput | None:
        """The bundle of a folder, which is named by its digest; None: it is named otherwise, so that it may change."""
        digest = uri.rstrip("/").rpartition("/")[2]
        return cls(digest=digest, artifact=uri) if re.fullmatch(DIGEST, digest) else None


class RunRequest(Model):
    """Request of one object for a run of another; recorded in the status of the requesting object."""

    cause: Cause
    """Unique cause of the request; each cause leads to one run."""
    target: RunOwner
    """Object that is asked for a run."""
    recipe: OpaqueObject = {}
    """Partial recipe merged over that of the target."""
    champion: BundleInput | None = None
    """Bundle that the requesting object serves. The run starts from it if the recipe says `pretrained.from: Current`,
    and its model is compared with it."""
    requested_at: Time
    """Time of the request."""


RunRequests = Annotated[tuple[RunRequest, ...], Field(max_length=64), ListMap(("cause",))]
"""Requests in the status of the requesting object."""


class RunOrigin(Model):
    """Request that a run answers."""

    kind: KindName
    """Kind of the requesting object."""
    name: ObjectName
    """Name of the requesting object."""
    cause: Cause
    """Cause of the request."""
    recipe: OpaqueObject = {}
    """Partial recipe merged over that of the owner."""


class RequestedRun(Model):
    """Request of another object and its state; recorded in the status of the run's owner."""

    kind: KindName
    """Kind of the requesting object."""
    name: ObjectName
    """Name of the requesting object."""
    cause: Cause
    """Cause of the request."""
    run: RunName | None = None
    """Run that answers the request. Absent: none yet."""
    phase: Literal["Waiting", "Refused", "Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"]
    """Waiting, Refused, or the phase of the run."""
    message: Annotated[str, Field(max_length=8192)] | None = None
    """Why the request waits or is refused."""


RequestedRuns = Annotated[tuple[RequestedRun, ...], Field(max_length=256), ListMap(("kind", "name", "cause"))]
"""The requests of others in a run owner's status."""


class DatasetInput(Model):
    """Dataset version to train on."""

    name: ObjectName
    """Name of the Dataset."""
    version: Digest
    """Digest of the version."""
    artifact: Location
    """Location of the version."""
    problem: StatedProblem | None = None
    """Current problem statement of the Dataset, for the report. Default: that of the time when the version was
    built."""


class VersionInput(Model):
    """Earlier dataset version."""

    version: Digest
    """Digest of the version."""
    artifact: Location
    """Location of the version."""


class TrialsInput(Model):
    """Result of an earlier sweep to start from."""

    digest: Digest
    """Digest of the result."""
    artifact: Location
    """Location of the result."""


class RunInputs(Model):
    """Inputs of a run, fixed at its start. Their digests are part of the identity, their locations are not."""

    dataset: DatasetInput | None = None
    """Dataset version to train on."""
    parent: VersionInput | None = None
    """Dataset version whose split assignments are kept."""
    base_weights: BundleInput | None = None
    """Bundle that training starts from."""
    teacher: BundleInput | None = None
    """Bundle of the teacher for distillation."""
    champion: BundleInput | None = None
    """Served bundle that the result of a retraining is compared with, on the same test images."""
    earlier_trials: TrialsInput | None = None
    """Trials of an earlier sweep to start from."""
    bundle: BundleInput | None = None
    """Bundle whose model an engine is built from."""
    prelabel: BundleInput | None = None
    """Served bundle that predicts the labels of a Dataset's unlabelled images."""

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
        if self.champion is not None:
            inputs["champion"] = self.champion.digest
        if self.earlier_trials is not None:
            inputs["earlierTrials"] = self.earlier_trials.digest
        if self.bundle is not None:
            inputs["bundle"] = self.bundle.digest
        if self.prelabel is not None:
            inputs["prelabel"] = self.prelabel.digest
        return inputs


class Execution(Model):
    """Execution settings. They do not change the result, so they are not part of the identity."""

    workers: Annotated[Int, Field(ge=1, le=1024)] = 1
    """Number of worker processes of Ray Train or of a dataset build."""
    min_workers: Annotated[Int, Field(ge=1, le=1024)] | None = None
    """Minimum number of workers. Absent: not elastic."""
    max_workers: Annotated[Int, Field(ge=1, le=1024)] | None = None
    """Maximum number of workers. Absent: not elastic."""
    resources: Resources = Resources()
    """Resources of each worker."""
    checkpoint_every_epochs: Annotated[Int, Field(ge=1)] = 1
    """Number of epochs between checkpoints. If they take longer than five minutes, checkpoints are saved in between."""
    checkpoints_kept: Annotated[Int, Field(ge=1)] = 2
    """Number of newest checkpoints to keep."""
    parallel_trials: Annotated[Int, Field(ge=1, le=1000)] = 1
    """Largest number of trials at the same time, each on `workers` workers, for a TuningSweep."""
    elastic_trials: Bool = False
    """Whether Ray is asked for the workers that trials wait for, and gives back those that none needs."""


class CleanupRecipe(Model):
    """What a Cleanup keeps of its owner's folder in the store, and settings of its pod."""

    keep_newest: Annotated[Int, Field(ge=0, le=1000)] = 0
    """Number of newest dataset versions to keep. 0: everything is deleted, including runs and bundles."""
    keep: Annotated[tuple[Digest, ...], Field(max_length=MAX_VERSIONS)] = ()
    """Further dataset versions to keep: in use, pinned or a parent. Set when an attempt starts."""
    pod_template: PodTemplate = PodTemplate()
    """Scheduling and environment of the pod, taken from the owner."""
    run_policy: RunPolicy = RunPolicy()
    """Retries, and the queue of the owner."""


class RunSpec(Model):
    """Work of a run, fixed at its start. Immutable."""

    type: RunType
    """Type of work."""
    owner: RunOwner
    """Object that the run works for."""
    identity: Digest
    """Digest of type, owner, recipe (without fields that have no effect), input digests and nonce."""
    nonce: Annotated[str, Field(max_length=256)] = ""
    """Distinguishes runs of one recipe on the same inputs: the annotation fovea.dev/restart, or a scheduled time."""
    request: RunOrigin | None = None
    """Request of another object that the run answers. Absent: the run follows from the spec of its owner."""
    recipe: OpaqueObject
    """Recipe that determines the result, with all defaults: that of a Dataset, a TrainingJob, a TuningSweep or a
    cleanup; of an EngineBuild the deferredExport of its TrainingJob."""
    success_criteria: Annotated[tuple[Criterion, ...], Field(max_length=64)] = ()
    """Success criteria at the start, for the report. Not part of the identity, except for those that limit the choice
    of `model.architecture: Auto`."""
    inputs: RunInputs = RunInputs()
    """Inputs of the run."""
    execution: Execution = Execution()
    """Execution settings. Not part of the identity."""
    store: Location
    """Root of the store of the namespace."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image of the pods. Not part of the identity."""

    rules: ClassVar = (Rule("self == oldSelf", "the spec of a Run is immutable; change its owner instead"),)


def run_identity(
    type: RunType,
    owner: RunOwner,
    recipe: Model | None,
    inputs: RunInputs,
    nonce: str = "",
    criteria: Sequence[Criterion] = (),
) -> str:
    """Digest that says which result is asked for: `sha256-<64 hex>` of canonical JSON (sorted keys, no spaces).

    Recipes that make the same have one identity, and those that do not have two, also across versions with other
    defaults: a field is left out where it has the default that it was introduced with (`fovea_api.defaults`), what a
    preset fills counts as if it were given, and what an architecture supplies is part of it once that has changed.
    Where things lie, images, compute and the problem's words are not, nor are criteria, but for the limits by which an
    architecture is chosen. None: what is done does not depend on the recipe.
    """
    content: dict[str, JsonValue] = {
        "type": type.value,
        "owner": owner.to_dict(),
        "recipe": dict(identifying_recipe(type, recipe)) if recipe is not None else {},
        "inputs": inputs.digests(),
        "nonce": nonce,
    }
    if recipe is not None and (limits := choice_limits(recipe, criteria)):
        content["limits"] = [limit.to_dict() for limit in limits]
    return digest_of(content)


def choice_limits(recipe: Model, criteria: Sequence[Criterion]) -> tuple[Criterion, ...]:
    """The success criteria that decide what is trained; none where the recipe names its architecture."""
    return limits_of(criteria) if chooses(recipe.to_dict()) else ()


def chooses(recipe: Mapping[str, JsonValue]) -> bool:
    """Whether a recipe leaves its architecture to a comparison. Such a one stays silent where it is: the preset is that
    of what is chosen."""
    return at(recipe, "model.architecture") == AUTO


def identifying_recipe(type: RunType, recipe: Model) -> Mapping[str, JsonValue]:
    """The part of a recipe that belongs to the identity: without what says nothing."""
    return as_identified(identifying(with_preset(recipe).effective(), type.value, given=chooses(recipe.to_dict())))


def frozen_recipe(recipe: Model) -> dict[str, JsonValue]:
    """A recipe as a Run keeps it, with the preset laid in: no later version reads anything else out of it."""
    written = recipe.to_dict()
    return written if chooses(written) else dict(spelled_out(frozen_form(with_preset(recipe))))


def read_recipe(type: RunType, frozen: Mapping[str, JsonValue], model: builtins.type[M]) -> M:
    """A Run's recipe, whatever version froze it: what it lacks is meant as on the day that the field was introduced.

    Raises:
        ValidationError: it has fields or values that this version does not know.
    """
    return model.model_validate(as_introduced(completed(frozen, model, type.value, silent=chooses(frozen))))


def is_same_recipe(type: RunType, frozen: Mapping[str, JsonValue], recipe: Model) -> bool:
    """Whether a Run's recipe says what this one says: as it is written, or as this version or an earlier one reads
    it."""
    open_ = chooses(frozen)
    try:
        before = recipe.model_validate(completed(frozen, builtins.type(recipe), type.value, silent=open_))
    except ValidationError:
        return False
    meanings = (
        identifying(meant.effective(), type.value, given=open_) for meant in (before, recipe, *with_each_preset(recipe))
    )
    then = next(meanings)
    return any(now in (then, as_introduced(then)) or then == spelled_out(now) for now in meanings)


def digest_of(value: Mapping[str, JsonValue] | Mapping[str, object]) -> str:
    """`sha256-<64 hex>` of the value's canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


def run_name(identity: str) -> str:
    """Name of the Run of this identity: `r-` and the first 10 hexadecimal digits."""
    return f"r-{identity.removeprefix('sha256-')[:10]}"


class Best(Model):
    """Best value so far of the monitored metric."""

    name: Word
    """Name of the metric."""
    value: Number
    """Best value of the metric."""
    epoch: Count
    """Epoch of the best value, from 1."""


class Progress(Model):
    """Progress of a run, reported by its pods at most every 10 seconds."""

    stage: Word | None = None
    """Current stage: Reading, Checking, Training, Evaluating, Exporting, …"""
    epoch: Annotated[Number, Field(ge=0)] | None = None
    """Number of completed epochs."""
    epochs: Count | None = None
    """Total number of epochs."""
    percent: Annotated[Int, Field(ge=0, le=100)] | None = None
    """Completed share of the run, in per cent."""
    eta: Annotated[str, Field(max_length=20)] | None = None
    """Estimated time to completion, such as 3m10s."""
    images_per_second: Annotated[Number, Field(ge=0)] | None = None
    """Images processed per second."""
    metrics: Metrics = {}
    """Latest metrics: train/loss, validation/mAP, …"""
    best: Best | None = None
    """Best value so far of the monitored metric."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """Current activity, in words."""


class RunUsage(Usage):
    """Compute time of all attempts of a run, and the resources that its pods held when it was last counted."""

    until: Time
    """Time of the last count."""
    held_cpus: Annotated[Number, Field(ge=0)] = 0
    """CPU cores that the pods held at that time."""
    held_gpus: Annotated[Number, Field(ge=0)] = 0
    """GPUs that the pods held at that time."""


class UsageOfRuns(Usage):
    """Compute time of all runs of an object."""

    deleted_runs: Usage | None = None
    """Share of the Runs that were deleted by the history limit. Absent: none was."""


class RunProgress(Progress):
    """Progress of a run, with the details of its type."""

    sweep: SweepProgress | None = None
    """Progress of the trials, for a TuningSweep."""

    def general(self) -> Progress:
        """The progress without the details of its type."""
        return Progress.model_validate({name: getattr(self, name) for name in Progress.model_fields})


StageName = Literal["Trained", "Pruned", "Quantized"]


class CompressionStage(Model):
    """The exported model after one stage of compression, measured as it would be served."""

    name: StageName
    """Trained: as it was before any compression. Pruned: with fewer channels, after fine-tuning. Quantized: in 8-bit
    integers."""
    metric: Annotated[str, Field(max_length=128)] | None = None
    """Primary metric, such as test/mAP. Absent: no split was evaluated."""
    value: Number | None = None
    """Value of that metric."""
    interval: Annotated[tuple[Number, ...], Field(min_length=2, max_length=2)] | None = None
    """95 % interval of that value, from the bootstrap over the images."""
    latency_milliseconds: Annotated[Number, Field(ge=0)]
    """Median latency of one image in milliseconds, as evaluation.latency says."""
    megabytes: Annotated[Number, Field(ge=0)]
    """Size of the model file in megabytes."""
    giga_macs: Annotated[Number, Field(ge=0)]
    """Multiply-accumulate operations for one image, in billions."""
    mega_parameters: Annotated[Number, Field(ge=0)]
    """Number of parameters, in millions."""
    floating_layers: Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=256)] = ()
    """Layers that were left in floating point because quantization harmed them most, the most sensitive first."""


class TrainingSummary(Model):
    """Summary of a training."""

    best_epoch: Annotated[Int, Field(ge=1)]
    """Epoch of the exported weights, from 1."""
    epochs: Count
    """Number of trained epochs, over all attempts."""
    input_size: Annotated[str, Field(max_length=16, pattern="^[0-9]+x[0-9]+$")] | None = None
    """Width and height of the network input in pixels, such as 320x240; as specified, or as derived from the
    dataset."""
    seconds: Annotated[Number, Field(ge=0)]
    """Wall-clock seconds since the start of the first attempt."""
    best: Best | None = None
    """Value of the monitored metric at the best epoch. Absent: no validation split."""
    cpu_hours: Annotated[Number, Field(ge=0)] = 0
    """CPU core hours of the training loop's own process. The compute time of its pods is the Run's `status.usage`."""
    compression: Annotated[tuple[CompressionStage, ...], Field(max_length=3), ListMap(("name",))] = ()
    """Stages of compression in their order; the last one is the exported model. Absent: nothing was compressed."""
    architecture: Annotated[str, Field(max_length=128)] | None = None
    """Trained architecture. Absent: reported by an older trainer."""
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=MAX_CANDIDATES), ListMap(("architecture",))] = ()
    """Architectures that were compared for `model.architecture: Auto`. Absent: none were."""
    latency_measured_on: MeasuredOn | None = None
    """Where the metrics `latency/…` were measured. Absent: reported by an older trainer."""


class RunError(Model):
    """Error of a run."""

    reason: Annotated[str, Field(max_length=256, pattern="^[A-Za-z][A-Za-z0-9]*$")]
    """Reason, as one CamelCase word."""
    message: Message
    """Human-readable explanation, with location and remedy."""
    retryable: Bool = False
    """Whether another attempt may succeed; exit code 75 instead of 1."""
    recoverable: Bool = False
    """Whether the infrastructure is at fault: credentials, disk space, an unavailable store. The run waits until the
    cause is resolved and resumes from its last checkpoint without using a retry."""


class RunResult(Model):
    """Result of a run; also stored as result.json next to the artifact."""

    completed_at: Time
    """Time when the run ended."""
    artifact: Location | None = None
    """Location of the resulting dataset version, model bundle, sweep or engine."""
    digest: Digest | None = None
    """Digest of the artifact."""
    report: Location | None = None
    """Location of the HTML report."""
    logs: Location | None = None
    """Location of the log."""
    metrics: Metrics = {}
    """Metrics of the exported model, as `<split>/<metric>`."""
    dataset: DatasetSummary | None = None
    """Summary of the dataset version, for a DatasetBuild."""
    training: TrainingSummary | None = None
    """Summary of the training, for a Training."""
    sweep: SweepSummary | None = None
    """Summary of the sweep, for a TuningSweep; also if it failed."""
    engine: EngineSummary | None = None
    """TensorRT engine, for an EngineBuild."""
    versions: Annotated[tuple[Digest, ...], Field(max_length=MAX_VERSIONS)] = ()
    """Versions of the Dataset in the store, newest first, for a DatasetBuild and a Cleanup."""
    error: RunError | None = None
    """Error of the run. Absent: it succeeded."""
    attempt: Annotated[Int, Field(ge=1)] | None = None
    """Number of the attempt that reported the result. Absent: reported by an older trainer, or adopted from the
    store."""

    def is_of(self, attempt: Attempt) -> bool:
        """Whether this attempt reported it; one without a number is known by its time."""
        if self.attempt is not None:
            return self.attempt == attempt.number
        return attempt.start_time is not None and self.completed_at >= attempt.start_time


class AttemptOutcome(StrEnum):
    """Outcome of an attempt."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    PREEMPTED = "Preempted"
    SUSPENDED = "Suspended"
    BLOCKED = "Blocked"
    """By a fault of the infrastructure, which uses no retry."""


class Attempt(Model):
    """Attempt at a run: one child object."""

    number: Annotated[Int, Field(ge=1)]
    """Number of the attempt, from 1."""
    child: ObjectName
    """Name of the Job or RayJob."""
    start_time: Time | None = None
    """Time when the child was created, or when it last left its queue."""
    worked_seconds: Count | None = None
    """Running time in seconds, excluding time in a queue. While the attempt is open: the time before startTime."""
    end_time: Time | None = None
    """Time when the attempt ended. While it is open: when it reported its end or was asked to stop."""
    pods_digest: Annotated[str, Field(max_length=64)] | None = None
    """Digest of the part of the spec that configures the pods: compute and queue."""
    adopt: Annotated[str, Field(max_length=256)] | None = None
    """Owner whose store the attempt may take over: the namespace annotation fovea.dev/adopt at its start."""
    disrupted_at: Time | None = None
    """Time when the cluster last disrupted one of its pods."""
    outcome: AttemptOutcome | None = None
    """How the attempt ended. Absent: it is open."""
    reason: Annotated[str, Field(max_length=256)] | None = None
    """Reason of the outcome, as one CamelCase word."""
    message: Message | None = None
    """Human-readable explanation, such as the end of the log or the message of a quota."""


class RetryRequest(Model):
    """Last request for another attempt that was followed: the annotation fovea.dev/retry of the run's owner."""

    value: Annotated[str, Field(max_length=256)]
    """Value of the annotation. A different value is a new request."""
    attempt: Count
    """Number of the last attempt that had ended by then; attempts up to it no longer count as failures."""


class RunStatus(Status):
    """Observed state of a Run. Its pods write progress and result, the operator all other fields."""

    phase: Literal["Pending", "Queued", "Running", "Succeeded", "Failed", "Suspended"] | None = None
    """One-word summary."""
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=MAX_ATTEMPTS), ListMap(("number",))] = ()
    """Attempts, oldest first. Beyond the limit the oldest that did not fail are dropped and their running time is
    carried over."""
    retry: RetryRequest | None = None
    """Last request for another attempt that was followed."""
    usage: RunUsage | None = None
    """Compute time of the pods of all attempts."""
    progress: RunProgress | None = None
    """Progress. Written by the pods of the run."""
    result: RunResult | None = None
    """Result. Written by the pods of the run."""


class RunOwnerStatus(Status):
    """Observed state that every kind with runs has in common."""

    run: RunName | None = None
    """Name of the current or last run."""
    run_generation: Annotated[Int, Field(ge=0)] | None = None
    """Generation of the spec that the run answers. While it equals the object's generation, an upgrade of Fovea starts
    no run."""
    progress: Progress | None = None
    """Progress of the current run."""
    usage: UsageOfRuns | None = None
    """Compute time of the pods of all runs; while pods run, it is updated together with other fields."""
    history: Annotated[tuple[RunName, ...], Field(max_length=100)] = ()
    """Names of the Runs, newest first."""


class Run(Resource):
    """One unit of work with a frozen recipe: a dataset build, a training, a sweep, an engine build or a cleanup.
    Created by Fovea; read-only for users."""

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
    """Work of the run, fixed at its start."""
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
    "RunOwnerStatus",
    "RunProgress",
    "RunRequest",
    "RunRequests",
    "RunResult",
    "RunSpec",
    "RunStatus",
    "RunType",
    "RunUsage",
    "Usage",
    "UsageOfRuns",
    "digest_of",
    "frozen_recipe",
    "identifying_recipe",
    "is_same_recipe",
    "read_recipe",
    "run_identity",
    "run_name",
]
