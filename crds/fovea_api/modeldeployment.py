"""ModelDeployment: a model is served, monitored, and retrained when that pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from fovea_api.common import (
    Bool,
    Column,
    Cron,
    Definition,
    Duration,
    Fraction,
    Int,
    ListMap,
    Metrics,
    Model,
    Number,
    ObjectName,
    Percent,
    PodTemplate,
    Ref,
    Reference,
    Resource,
    Resources,
    Rule,
    RunName,
    Set,
    Status,
    Time,
    TimeZone,
    Uri,
    Word,
    parse_duration,
)
from fovea_api.errors import InvalidInput, NotSupported
from fovea_api.partial import PartialOf
from fovea_api.trainingjob import Recipe

Count = Annotated[Int, Field(ge=0)]
Milliseconds = Annotated[Number, Field(gt=0, le=3_600_000)]
Replicas = Annotated[Int, Field(ge=0, le=1000)]
Precision = Literal["Auto", "FP32", "INT8"]
Runtime = Literal["RayServe", "Triton"]


class ServedModel(Model):
    """Which model is served."""

    training_job_ref: Ref | None = None
    """A TrainingJob: its newest eligible bundle, and each later one."""
    tuning_sweep_ref: Ref | None = None
    """A TuningSweep: the newest eligible bundle of the TrainingJob that it promotes."""
    uri: Uri | None = None
    """A model bundle."""
    verify: Ref | None = None
    """Secret with the public key (cosign.pub) that must have signed the bundle under uri."""
    precision: Precision = "Auto"
    """Which exported form is served; Auto: the fastest that met the criteria."""

    exactly_one: ClassVar = ("training_job_ref", "tuning_sweep_ref", "uri")


class Batching(Model):
    """How requests are put together."""

    max_size: Annotated[Int, Field(ge=1, le=1024)] = 8
    """Images in a batch at most."""
    max_delay_milliseconds: Annotated[Number, Field(ge=0, le=10_000)] = 5
    """Time that the first image of a batch waits for others, in milliseconds."""


class Inference(Model):
    """How requests are answered."""

    batching: Batching = Batching()
    """How requests are put together."""
    confidence_threshold: Fraction | None = None
    """Objects below are not returned, 0 to 1. Absent: the model's own threshold, where F1 is best on its validation
    split."""
    max_detections: Annotated[Int, Field(ge=1, le=10_000)] = 300
    """Objects returned for an image at most."""
    max_image_megapixels: Annotated[Number, Field(gt=0, le=1000)] = 50
    """Larger images are refused, in megapixels."""
    timeout_seconds: Annotated[Number, Field(gt=0, le=600)] = 10
    """Requests are given up after this time, in seconds."""


class Scaling(Model):
    """How many replicas serve. With both bounds the number follows the load."""

    replicas: Replicas = 1
    """Replicas; what `kubectl scale` sets. With autoscaling: where it starts."""
    min_replicas: Replicas | None = None
    """Smallest number for autoscaling."""
    max_replicas: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """Largest number for autoscaling."""
    target_ongoing_requests: Annotated[Number, Field(gt=0, le=10_000)] = 4
    """Requests at work in one replica that autoscaling aims at."""

    rules: ClassVar = (
        Rule(
            "has(self.minReplicas) == has(self.maxReplicas)",
            "autoscaling needs minReplicas and maxReplicas: give both or neither",
            lambda obj: (obj.min_replicas is None) == (obj.max_replicas is None),
        ),
        Rule(
            "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must not exceed maxReplicas",
            lambda obj: obj.min_replicas is None or obj.max_replicas is None or obj.min_replicas <= obj.max_replicas,
            ".minReplicas",
        ),
    )


class GatewayRef(Model):
    """A Gateway of the Gateway API, in the same namespace."""

    name: ObjectName
    """Name of the Gateway."""
    section_name: ObjectName | None = None
    """Its listener. Absent: any that fits."""


class Expose(Model):
    """How the service is reached from outside of the cluster."""

    hostname: Annotated[
        str,
        Field(max_length=253, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)+$"),
    ]
    """Host name."""
    gateway_ref: GatewayRef | None = None
    """Gateway that an HTTPRoute is attached to."""
    ingress_class_name: ObjectName | None = None
    """IngressClass of an Ingress."""
    tls_secret_ref: Ref | None = None
    """Secret with the certificate of an Ingress (kubernetes.io/tls). Absent: plain HTTP. Behind a Gateway, TLS is its
    listener's."""

    exactly_one: ClassVar = ("gateway_ref", "ingress_class_name")
    rules: ClassVar = (
        Rule(
            "!has(self.tlsSecretRef) || has(self.ingressClassName)",
            "tlsSecretRef belongs to an Ingress: the certificate of a Gateway is its listener's",
            lambda obj: obj.tls_secret_ref is None or obj.ingress_class_name is not None,
            ".tlsSecretRef",
        ),
    )


class Authentication(Model):
    """Who may ask."""

    type: Literal["None", "APIKey", "ServiceAccountToken"] = "ServiceAccountToken"
    """None: everybody who reaches it. ServiceAccountToken: who may get this object."""
    secret_ref: Ref | None = None
    """For APIKey: Secret whose values are the keys."""

    rules: ClassVar = (
        Rule(
            "(self.type == 'APIKey') == has(self.secretRef)",
            "secretRef belongs to type APIKey: give it there and nowhere else",
            lambda obj: (obj.type == "APIKey") == (obj.secret_ref is not None),
            ".secretRef",
        ),
    )


class ServiceObjectives(Model):
    """What is promised to those who ask; reported, and the base of alerts."""

    latency_p95_milliseconds: Milliseconds | None = None
    """95th percentile of the latency, in milliseconds."""
    throughput_per_second: Annotated[Number, Field(gt=0)] | None = None
    """Requests per second that are to be borne."""
    error_rate: Fraction | None = None
    """Share of requests that may fail, 0 to 1."""


class GateMetric(StrEnum):
    """What decides on a rollout."""

    ERROR_RATE = "errorRate"
    LATENCY_P95 = "latencyP95Milliseconds"
    ACCURACY = "accuracy"
    DISAGREEMENT = "disagreement"


class Gate(Model):
    """A bound that a candidate must keep."""

    metric: GateMetric
    """What is measured; accuracy comes from feedback, disagreement is that with the stable version."""
    max: Annotated[Number, Field(ge=0)] | None = None
    """Largest value, in the metric's unit."""
    min: Annotated[Number, Field(ge=0)] | None = None
    """Smallest value, in the metric's unit."""
    max_ratio_to_stable: Annotated[Number, Field(gt=0)] | None = None
    """Largest ratio to the stable version's value."""
    min_difference_to_stable: Annotated[Number, Field(ge=-1, le=1)] | None = None
    """Smallest difference from the stable version's value; negative: how much worse it may be."""
    if_unmeasured: Literal["Skip", "Block"] = "Block"
    """What happens when the metric cannot be measured."""

    exactly_one: ClassVar = ("max", "min", "max_ratio_to_stable", "min_difference_to_stable")
    rules: ClassVar = (
        Rule(
            "self.metric in ['latencyP95Milliseconds'] || "
            "((!has(self.max) || self.max <= 1.0) && (!has(self.min) || self.min <= 1.0))",
            "errorRate, accuracy and disagreement are shares from 0 to 1",
            lambda obj: obj.metric == GateMetric.LATENCY_P95 or ((obj.max or 0) <= 1 and (obj.min or 0) <= 1),
        ),
        Rule(
            "self.metric != 'errorRate' || !has(self.max) || self.max > 0.0",
            "max 0 can never be shown for errorRate; give a small share, such as 0.01",
            lambda obj: obj.metric != GateMetric.ERROR_RATE or obj.max is None or obj.max > 0,
            ".max",
        ),
    )


class Mirror(Model):
    """Requests of the candidate that stable is asked too, to compare the answers."""

    percent: Percent = 10
    """Share of the candidate's requests, in per cent."""


def _steps_rise(rollout: Rollout) -> bool:
    return all(low < high for low, high in zip(rollout.steps, rollout.steps[1:], strict=False))


def _evidence(confidence: float) -> float:
    """Requests times error rate that a flawless run needs: -ln(1 - confidence), rounded up in classes."""
    return next((need for limit, need in _EVIDENCE if confidence <= limit), 6.91)


_EVIDENCE = ((0.9, 2.31), (0.95, 3.0), (0.99, 4.61))


def _decidable(rollout: Rollout) -> bool:
    return all(
        gate.metric != GateMetric.ERROR_RATE
        or gate.max is None
        or rollout.min_requests * gate.max >= _evidence(rollout.confidence)
        for gate in rollout.gates
    )


class Rollout(Model):
    """How a new bundle comes to serve."""

    strategy: Literal["Canary", "Shadow", "ShadowThenCanary", "Recreate"] = "Canary"
    """Canary: a growing share of requests. Shadow: copies of requests only. Recreate: all at once."""
    steps: Annotated[tuple[Annotated[Int, Field(ge=1, le=99)], ...], Field(max_length=20)] = (5, 25, 50)
    """Shares of the traffic that a canary gets one after the other, in per cent; after the last, all."""
    interval: Duration = "10m"
    """Shortest time at each step."""
    confidence: Annotated[Number, Field(ge=0.5, lt=1)] = 0.95
    """Confidence of the whole rollout's decision; repeated looks are accounted for."""
    min_requests: Annotated[Int, Field(ge=1, le=100_000_000)] = 400
    """Requests that a step needs."""
    deadline: Duration = "6h"
    """Longest time of the whole rollout."""
    on_inconclusive: Literal["Extend", "Pause", "Rollback"] = "Extend"
    """What happens when a step cannot be decided; Extend: wait until the deadline, then as onFailure says."""
    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = (
        Gate(metric=GateMetric.ERROR_RATE, max=0.01),
        Gate(metric=GateMetric.LATENCY_P95, max_ratio_to_stable=1.2),
    )
    """Bounds that the candidate must keep."""
    mirror: Mirror | None = None
    """Compares answers of candidate and stable; it informs and flags. Absent: not compared."""
    on_failure: Literal["Rollback", "Pause"] = "Rollback"
    """What happens when a gate fails."""

    rules: ClassVar = (
        Rule(
            "self.steps.all(i, step, i == 0 || self.steps[i - 1] < step)",
            "steps must rise",
            _steps_rise,
            ".steps",
        ),
        Rule(
            "!(self.strategy in ['Canary', 'ShadowThenCanary']) || size(self.steps) > 0",
            "a canary needs at least one step",
            lambda obj: obj.strategy not in ("Canary", "ShadowThenCanary") or len(obj.steps) > 0,
            ".steps",
        ),
        Rule(
            "duration(self.interval) <= duration(self.deadline)",
            "interval must not exceed deadline",
            lambda obj: parse_duration(obj.interval) <= parse_duration(obj.deadline),
            ".interval",
        ),
        Rule(
            "self.gates.all(gate, gate.metric != 'errorRate' || !has(gate.max) || "
            "double(self.minRequests) * gate.max >= (self.confidence <= 0.9 ? 2.31 : "
            "self.confidence <= 0.95 ? 3.0 : self.confidence <= 0.99 ? 4.61 : 6.91))",
            "minRequests is too small to decide a gate on errorRate even if no request fails; "
            "it needs about 3 / max requests at confidence 0.95",
            _decidable,
            ".minRequests",
        ),
    )


class CapturePolicy(Model):
    """Which images are kept for labelling."""

    uri: Uri
    """Folder that images are written to."""
    sample_rate: Fraction = 0.01
    """Share of all requests, 0 to 1."""
    low_confidence_below: Fraction = 0.5
    """Images whose best prediction is less sure are kept too."""
    max_per_hour: Annotated[Int, Field(ge=1, le=1_000_000)] = 200
    """Images kept in an hour at most."""
    retention: Duration = "720h"
    """How long images are kept."""


class Drift(Model):
    """Whether what comes in has changed."""

    window: Duration = "1h"
    """Time that is looked at together."""
    min_samples: Annotated[Int, Field(ge=30, le=10_000_000)] = 200
    """Images that a window needs; fewer: it grows."""
    reference: Literal["Training", "FirstWeek"] = "Training"
    """What is compared with: the training data, or the first week of production."""
    min_effect: Literal["Small", "Medium", "Large"] = "Small"
    """Smaller changes are shown, not alarmed."""
    false_alarms_per_year: Annotated[Number, Field(gt=0, le=365)] = 1
    """False alarms expected in a year; the whole budget, shared by the detectors."""
    detectors: Annotated[
        tuple[Literal["ImageProperties", "ModelOutputs", "Embeddings", "LabelShift"], ...],
        Field(min_length=1, max_length=4),
        Set(),
    ] = ("ImageProperties", "ModelOutputs", "Embeddings", "LabelShift")
    """What is monitored."""


class Feedback(Model):
    """Ground truth that is posted later, by request id: live accuracy."""

    enabled: Bool = True
    """Whether it is taken."""


class Monitoring(Model):
    """What is monitored and kept of production."""

    captures: CapturePolicy | None = None
    """Which images are kept for labelling. Absent: none."""
    drift: Drift | None = None
    """Whether what comes in has changed. Absent: not monitored."""
    feedback: Feedback | None = None
    """Ground truth that is posted later. Absent: not taken."""


class ScheduleTrigger(Model):
    """Retrains at set times."""

    cron: Cron
    """Cron expression of five fields: minute, hour, day of month, month, day of week."""
    time_zone: TimeZone = "UTC"
    """Time zone of the expression, such as Europe/Berlin."""
    missed: Literal["RunOnce", "Skip"] = "RunOnce"
    """What happens when times were missed while the operator was away."""


class DriftTrigger(Model):
    """Retrains after drift, once there is something new to learn from."""

    min_new_labels: Annotated[Int, Field(ge=1, le=10_000_000)] = 100
    """New labelled images that it waits for."""


class Triggers(Model):
    """What asks for a retraining."""

    schedule: ScheduleTrigger | None = None
    """Set times."""
    drift: DriftTrigger | None = None
    """Drift with new labels."""
    accuracy_below: Fraction | None = None
    """Live accuracy (from feedback) below this, 0 to 1."""
    new_dataset_version: Bool = False
    """A new version of the dataset."""

    rules: ClassVar = (
        Rule(
            "has(self.schedule) || has(self.drift) || has(self.accuracyBelow) || self.newDatasetVersion",
            "give at least one of schedule, drift, accuracyBelow, newDatasetVersion",
            lambda obj: bool(obj.schedule or obj.drift or obj.accuracy_below is not None or obj.new_dataset_version),
        ),
    )


RecipePatch = Annotated[Mapping[str, JsonValue], PartialOf(Recipe)]
"""Part of a TrainingJob's recipe: everything optional, no defaults."""


class Retraining(Model):
    """When and how the model is trained again. The run belongs to the TrainingJob that is served."""

    triggers: Triggers
    """What asks for a retraining."""
    cooldown: Duration = "24h"
    """Shortest time between two retrainings."""
    recipe: RecipePatch | None = None
    """Merged over the TrainingJob's recipe. Absent: the recipe as it is."""
    promotion: Literal["Automatic", "Manual"] = "Automatic"
    """Manual: rolled out only after annotating fovea.dev/approve=<run>."""


def _served_by_job(spec: ModelDeploymentSpec) -> bool:
    return spec.retraining is None or spec.model.training_job_ref is not None


def _observable(spec: ModelDeploymentSpec) -> bool:
    triggers = spec.retraining and spec.retraining.triggers
    return not triggers or triggers.drift is None or spec.monitoring.drift is not None


def _measurable(spec: ModelDeploymentSpec) -> bool:
    triggers = spec.retraining and spec.retraining.triggers
    feedback = spec.monitoring.feedback
    return not triggers or triggers.accuracy_below is None or (feedback is not None and feedback.enabled)


class ModelDeploymentSpec(Model):
    """What is served, how it is monitored and when it is retrained."""

    model: ServedModel
    """Which model is served."""
    runtime: Runtime = "RayServe"
    """What runs the model."""
    inference: Inference = Inference()
    """How requests are answered."""
    scaling: Scaling = Scaling()
    """How many replicas serve."""
    expose: Expose | None = None
    """How it is reached from outside. Absent: inside the cluster only."""
    authentication: Authentication = Authentication()
    """Who may ask."""
    resources: Resources = Resources(requests={"cpu": "1", "memory": "2Gi"})
    """Resources of each replica; a GPU is asked for by limits."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image. Absent: the installation's serving image."""
    pod_template: PodTemplate = PodTemplate()
    """Where and how the pods run."""
    objectives: ServiceObjectives | None = None
    """What is promised to those who ask. Absent: nothing."""
    rollout: Rollout = Rollout()
    """How a new bundle comes to serve."""
    monitoring: Monitoring = Monitoring()
    """What is monitored and kept of production."""
    retraining: Retraining | None = None
    """When and how the model is trained again. Absent: never by itself."""

    rules: ClassVar = (
        Rule(
            "!has(self.retraining) || has(self.model.trainingJobRef)",
            "retraining needs model.trainingJobRef: it is the TrainingJob that is run again",
            _served_by_job,
            ".retraining",
        ),
        Rule(
            "!has(self.retraining) || !has(self.retraining.triggers.drift) || has(self.monitoring.drift)",
            "the trigger drift needs monitoring.drift",
            _observable,
            ".retraining.triggers.drift",
        ),
        Rule(
            "!has(self.retraining) || !has(self.retraining.triggers.accuracyBelow) || "
            "(has(self.monitoring.feedback) && self.monitoring.feedback.enabled)",
            "the trigger accuracyBelow needs monitoring.feedback",
            _measurable,
            ".retraining.triggers.accuracyBelow",
        ),
    )


# --- Status ---------------------------------------------------------------------------------------------


class DeployedVersion(Model):
    """A version of the model in the runtime: a bundle, and how it is served."""

    name: ObjectName | None = None
    """Its name in the runtime and in metrics."""
    bundle: Annotated[str, Field(max_length=2048)]
    """Where its bundle lies."""
    run: RunName | None = None
    """The run that made it. Absent: the bundle was given by its URI."""
    precision: Precision = "Auto"
    """Which exported form is served."""
    runtime: Runtime = "RayServe"
    """What runs it."""
    since: Time | None = None
    """Since when it is what it is: stable, candidate or retiring."""


class StableVersion(DeployedVersion):
    """The version that serves."""

    replicas: Count = 0
    """Its ready replicas."""


class GateResult(Model):
    """Result of one gate."""

    metric: Word
    """What is measured."""
    candidate: Number | None = None
    """Value of the candidate."""
    stable: Number | None = None
    """Value of the stable version."""
    requests: Count = 0
    """Requests that were counted."""
    outcome: Literal["Pass", "Fail", "Inconclusive", "Skipped"]
    """Outcome of the gate."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Explanation of the outcome."""


class CandidateVersion(DeployedVersion):
    """The version that is loaded or on trial."""

    weight: Annotated[Int, Field(ge=0, le=100)] = 0
    """Its share of the traffic, in per cent."""
    step: Count = 0
    """The step it is at, from 1."""
    analysis: Annotated[tuple[GateResult, ...], Field(max_length=16)] = ()
    """The gates of this step."""


class ObjectiveResult(Model):
    """Measured state of one objective."""

    metric: Word
    """Name of the objective."""
    target: Number
    """Target value of the objective."""
    measured: Number | None = None
    """Value measured. Absent: not measured."""
    met: Bool | None = None
    """Whether the objective is met. Absent: unknown, because too little was measured."""


class DetectorResult(Model):
    """One detector and what it sees."""

    name: Word
    """Name of the detector."""
    score: Annotated[Number, Field(ge=0)]
    """Size of the change it sees."""
    drifted: Bool
    """Whether that is drift."""


class DriftStatus(Model):
    """Whether what comes in has changed."""

    state: Literal["None", "Suspected", "Detected", "Unknown"]
    """Summary in a word."""
    score: Number | None = None
    """Size of the largest change seen."""
    detectors: Annotated[tuple[DetectorResult, ...], Field(max_length=8)] = ()
    """What each detector sees."""


class RetrainingEvent(Model):
    """One retraining and what came of it."""

    run: RunName
    """The run."""
    trigger: Word
    """What asked for it."""
    time: Time
    """When."""
    outcome: Word | None = None
    """What came of it. Absent: it goes on."""


class RetrainingStatus(Model):
    """What has been retrained."""

    last_trigger: Word | None = None
    """What asked for the last retraining."""
    last_run: RunName | None = None
    """Its run."""
    next_scheduled: Time | None = None
    """When the schedule asks next."""
    history: Annotated[tuple[RetrainingEvent, ...], Field(max_length=50)] = ()
    """Retrainings, newest first."""


class ModelDeploymentStatus(Status):
    """What serves, and how well."""

    phase: Literal["Pending", "Progressing", "Ready", "Degraded", "Paused", "Failed"] | None = None
    """Summary in a word."""
    replicas: Count | None = None
    """Ready replicas, of all versions."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the replicas, for `kubectl scale` and autoscalers."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """Where requests go."""
    stable: StableVersion | None = None
    """The version that serves."""
    candidate: CandidateVersion | None = None
    """The version that is loaded or on trial."""
    retiring: DeployedVersion | None = None
    """The version before, which finishes its requests."""
    objectives: Annotated[tuple[ObjectiveResult, ...], Field(max_length=8), ListMap(("metric",))] = ()
    """The promises and how they are kept."""
    metrics: Metrics = {}
    """What was measured in the last window."""
    drift: DriftStatus | None = None
    """Whether what comes in has changed."""
    retraining: RetrainingStatus | None = None
    """What has been retrained."""


class ModelDeployment(Resource):
    """A model behind an HTTP endpoint: rolled out on evidence, monitored, and retrained when that pays."""

    definition: ClassVar = Definition(
        plural="modeldeployments",
        short_names=("md",),
        scale=True,
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("URL", ".status.url"),
            Column("Stable", ".status.stable.name"),
            Column("Replicas", ".status.replicas", "integer"),
            Column("RPS", ".status.metrics.requestsPerSecond", "number", "Requests per second"),
            Column("P95", ".status.metrics.latencyP95Milliseconds", "number", "95th percentile, in milliseconds"),
            Column("Errors", ".status.metrics.errorRate", "number", "Share of requests that failed"),
            Column("Objectives", ".status.conditions[?(@.type=='ObjectivesMet')].status"),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
            Column("Phase", ".status.phase", wide=True),
            Column("Candidate", ".status.candidate.name", wide=True),
            Column("Weight", ".status.candidate.weight", "integer", "Per cent for the candidate", wide=True),
            Column("Drift", ".status.drift.state", wide=True),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    )

    kind: Literal["ModelDeployment"] = "ModelDeployment"
    """Kind of the object."""
    spec: ModelDeploymentSpec
    """Desired state."""
    status: ModelDeploymentStatus | None = None
    """Observed state."""


def references(spec: ModelDeploymentSpec) -> Iterator[Reference]:
    """The objects that a ModelDeployment serves."""
    if spec.model.training_job_ref is not None:
        yield Reference("TrainingJob", spec.model.training_job_ref.name, "spec.model.trainingJobRef")
    if spec.model.tuning_sweep_ref is not None:
        yield Reference("TuningSweep", spec.model.tuning_sweep_ref.name, "spec.model.tuningSweepRef")
    if spec.authentication.secret_ref is not None:
        yield Reference("Secret", spec.authentication.secret_ref.name, "spec.authentication.secretRef")
    if spec.model.verify is not None:
        yield Reference("Secret", spec.model.verify.name, "spec.model.verify")
    if spec.expose is not None and spec.expose.tls_secret_ref is not None:
        yield Reference("Secret", spec.expose.tls_secret_ref.name, "spec.expose.tlsSecretRef")


def unsupported(spec: ModelDeploymentSpec) -> tuple[InvalidInput, ...]:
    """What this version cannot do and without which serving would be wrong: such a deployment is refused."""
    if spec.model.verify is None:
        return ()
    remedy = "remove it; a bundle whose files differ from their digests is refused in any case"
    return (NotSupported("signatures of bundles are not verified by this version", "spec.model.verify", remedy),)


def without_effect(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    """What is asked for and does not act in this version, in words; the model is served all the same."""
    words = []
    if spec.rollout.strategy != "Recreate":
        words.append(f"spec.rollout.strategy {spec.rollout.strategy}: a new bundle replaces the old one (Recreate)")
    parts = {
        "captures": spec.monitoring.captures is not None,
        "drift": spec.monitoring.drift is not None,
        "feedback": spec.monitoring.feedback is not None and spec.monitoring.feedback.enabled,
    }
    words += [f"spec.monitoring.{name}" for name, asked in parts.items() if asked]
    if spec.retraining is not None:
        words.append("spec.retraining: nothing asks for a training")
    if spec.runtime == "Triton" and spec.scaling.min_replicas == 0:
        words.append("spec.scaling.minReplicas 0: a HorizontalPodAutoscaler keeps one replica of Triton")
    return tuple(words)


__all__ = [
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "RecipePatch",
    "references",
    "unsupported",
    "without_effect",
]
