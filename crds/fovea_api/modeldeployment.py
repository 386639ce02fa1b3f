"""ModelDeployment: a model is served, monitored, and retrained when that pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from fovea_api.common import (
    Bool,
    BundleUri,
    Column,
    Cron,
    Definition,
    Detail,
    Digest,
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
    not_downloaded,
    parse_duration,
)
from fovea_api.partial import PartialOf
from fovea_api.run import Cause, RunRequests
from fovea_api.trainingjob import Recipe

PUBLIC_KEY = "cosign.pub"
"""Key in the Secret of `spec.model.verify` under which the public key stands, in PEM."""
Count = Annotated[Int, Field(ge=0)]
Milliseconds = Annotated[Number, Field(gt=0, le=3_600_000)]
Replicas = Annotated[Int, Field(ge=0, le=1000)]
Precision = Literal["Auto", "FP32", "INT8"]
Runtime = Literal["RayServe", "Triton"]


class ServedModel(Model):
    """Model to serve."""

    training_job_ref: Ref | None = None
    """TrainingJob whose newest eligible bundle is served, and each later one."""
    tuning_sweep_ref: Ref | None = None
    """TuningSweep that promotes a TrainingJob; the newest eligible bundle of that job is served."""
    uri: BundleUri | None = None
    """Location of a model bundle; oci://registry/repository@sha256:… is one that `fovea push` has brought there."""
    verify: Ref | None = None
    """Secret with the public key (cosign.pub) that verifies the signature of the bundle at uri. A bundle without a
    valid signature is never served."""
    precision: Precision = "Auto"
    """Exported precision to serve. Auto: the fastest one that meets the success criteria."""

    exactly_one: ClassVar = ("training_job_ref", "tuning_sweep_ref", "uri")
    rules: ClassVar = (
        Rule(
            "!has(self.verify) || has(self.uri)",
            "verify belongs to uri: bundles of a TrainingJob or TuningSweep are not signed",
            lambda obj: obj.verify is None or obj.uri is not None,
            ".verify",
        ),
    )


class Batching(Model):
    """Batching of requests."""

    max_size: Annotated[Int, Field(ge=1, le=1024)] = 8
    """Maximum number of images per batch."""
    max_delay_milliseconds: Annotated[Number, Field(ge=0, le=10_000)] = 5
    """Maximum time that the first image of a batch waits for others, in milliseconds."""


class Inference(Model):
    """Inference settings."""

    batching: Batching = Batching()
    """Batching of requests."""
    confidence_threshold: Fraction | None = None
    """Minimum score of returned objects, 0 to 1. Default: the threshold of the model, which maximizes F1 on its
    validation split."""
    max_detections: Annotated[Int, Field(ge=1, le=10_000)] = 300
    """Maximum number of objects returned per image."""
    max_image_megapixels: Annotated[Number, Field(gt=0, le=1000)] = 50
    """Maximum size of an image, in megapixels; larger images are refused."""
    timeout_seconds: Annotated[Number, Field(gt=0, le=600)] = 10
    """Timeout of a request, in seconds."""


class Scaling(Model):
    """Number of replicas. With minReplicas and maxReplicas it is autoscaled."""

    replicas: Replicas = 1
    """Number of replicas, as set by `kubectl scale`. With autoscaling: the initial number."""
    min_replicas: Replicas | None = None
    """Lower bound for autoscaling."""
    max_replicas: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """Upper bound for autoscaling."""
    target_ongoing_requests: Annotated[Number, Field(gt=0, le=10_000)] = 4
    """Target number of requests in flight per replica for autoscaling."""

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
    """Gateway (Gateway API) in the same namespace."""

    name: ObjectName
    """Name of the Gateway."""
    section_name: ObjectName | None = None
    """Name of the listener. Default: any matching listener."""


class Expose(Model):
    """Exposure of the service outside the cluster."""

    hostname: Annotated[
        str,
        Field(max_length=253, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)+$"),
    ]
    """Host name."""
    gateway_ref: GatewayRef | None = None
    """Gateway to attach an HTTPRoute to."""
    ingress_class_name: ObjectName | None = None
    """IngressClass of an Ingress."""
    tls_secret_ref: Ref | None = None
    """Secret (kubernetes.io/tls) with the certificate of the Ingress. Absent: plain HTTP. With a Gateway, TLS is
    configured in its listener."""

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
    """Authentication of clients."""

    type: Literal["None", "APIKey", "ServiceAccountToken"] = "ServiceAccountToken"
    """None: no authentication. APIKey: keys from a Secret. ServiceAccountToken: identities that may `get` this
    object."""
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
    """Service level objectives: tested under load before a version gets requests, reported while it serves, and the
    basis of alerts."""

    latency_p95_milliseconds: Milliseconds | None = None
    """95th percentile of the latency, in milliseconds."""
    throughput_per_second: Annotated[Number, Field(gt=0)] | None = None
    """Throughput to sustain, in requests per second."""
    error_rate: Fraction | None = None
    """Maximum fraction of failed requests, 0 to 1."""


class GateMetric(StrEnum):
    """Metric of a rollout gate."""

    ERROR_RATE = "errorRate"
    LATENCY_P95 = "latencyP95Milliseconds"
    ACCURACY = "accuracy"
    DISAGREEMENT = "disagreement"


_BOUNDS: Mapping[GateMetric, tuple[str, ...]] = {
    GateMetric.ERROR_RATE: ("max", "max_ratio_to_stable"),
    GateMetric.LATENCY_P95: ("max", "max_ratio_to_stable"),
    GateMetric.ACCURACY: ("min", "min_difference_to_stable"),
    GateMetric.DISAGREEMENT: ("max",),
}


class Gate(Model):
    """Bound on a metric of the candidate."""

    metric: GateMetric
    """Metric. Accuracy requires feedback; disagreement is measured against the stable version."""
    max: Annotated[Number, Field(ge=0)] | None = None
    """Maximum, in the unit of the metric."""
    min: Annotated[Number, Field(ge=0)] | None = None
    """Minimum, in the unit of the metric."""
    max_ratio_to_stable: Annotated[Number, Field(gt=0)] | None = None
    """Maximum ratio to the value of the stable version."""
    min_difference_to_stable: Annotated[Number, Field(ge=-1, lt=1)] | None = None
    """Minimum difference from the value of the stable version; a negative value permits a regression."""
    paired_with_stable: Bool | None = None
    """Whether the difference in accuracy is measured on the same, mirrored images, which needs fewer labels. Default:
    true."""
    if_unmeasured: Literal["Skip", "Block"] = "Block"
    """What happens while too little is measured to decide. Block: the step waits. Skip: the other gates decide, and
    this one can still fail."""

    exactly_one: ClassVar = ("max", "min", "max_ratio_to_stable", "min_difference_to_stable")
    rules: ClassVar = (
        Rule(
            "self.metric == 'accuracy' ? has(self.min) || has(self.minDifferenceToStable) : "
            "self.metric == 'disagreement' ? has(self.max) : has(self.max) || has(self.maxRatioToStable)",
            "errorRate and latencyP95Milliseconds take max or maxRatioToStable, accuracy takes min or "
            "minDifferenceToStable, disagreement takes max",
            lambda obj: any(getattr(obj, name) is not None for name in _BOUNDS[obj.metric]),
        ),
        Rule(
            "self.metric in ['latencyP95Milliseconds'] || "
            "((!has(self.max) || self.max <= 1.0) && (!has(self.min) || self.min <= 1.0))",
            "errorRate, accuracy and disagreement are shares from 0 to 1",
            lambda obj: obj.metric == GateMetric.LATENCY_P95 or ((obj.max or 0) <= 1 and (obj.min or 0) <= 1),
        ),
        Rule(
            "!has(self.max) || self.max > 0.0",
            "max 0 cannot be established by any number of samples; use a small value, such as 0.01 for errorRate",
            lambda obj: obj.max is None or obj.max > 0,
            ".max",
        ),
        Rule(
            "!has(self.min) || self.min < 1.0",
            "min 1 cannot be established by any number of samples; use a smaller value, such as 0.99",
            lambda obj: obj.min is None or obj.min < 1,
            ".min",
        ),
        Rule(
            "!has(self.pairedWithStable) || has(self.minDifferenceToStable)",
            "pairedWithStable belongs to minDifferenceToStable",
            lambda obj: obj.paired_with_stable is None or obj.min_difference_to_stable is not None,
            ".pairedWithStable",
        ),
    )

    @property
    def needs_both_answers(self) -> bool:
        """Whether candidate and stable must answer the same requests."""
        paired = self.min_difference_to_stable is not None and self.paired_with_stable is not False
        return self.metric == GateMetric.DISAGREEMENT or paired


_NEEDS_BOTH_ANSWERS = (
    "(gate.metric == 'disagreement' || "
    "(has(gate.minDifferenceToStable) && (!has(gate.pairedWithStable) || gate.pairedWithStable)))"
)


class Mirror(Model):
    """Requests to the candidate that are mirrored to the stable version to compare the answers."""

    percent: Percent = 10
    """Share of the candidate's requests, in per cent."""


def _steps_rise(rollout: Rollout) -> bool:
    return all(low < high for low, high in zip(rollout.steps, rollout.steps[1:], strict=False))


LATENCY_SHARE = 0.05
"""Share of requests above a 95th percentile. A gate on the percentile is tested as a bound on this share."""
_EVIDENCE = ((0.9, 3.84), (0.95, 4.71), (0.99, 6.63), (0.999, 9.25), (0.9999, 11.82))
"""For each confidence: requests times bound that the test needs to pass a candidate without a single violation."""
_EVIDENCE_CEL = "".join(f"self.confidence <= {limit} ? {need} : " for limit, need in _EVIDENCE[:-1])
_EVIDENCE_CEL += f"{_EVIDENCE[-1][1]}"
_SMALLEST_SHARE_CEL = (
    "self.gates.map(gate, !has(gate.max) ? 1.0 : gate.metric == 'latencyP95Milliseconds' ? "
    f"{LATENCY_SHARE} : gate.metric == 'disagreement' && has(self.mirror) ? gate.max * self.mirror.percent / 100.0 : "
    "gate.max).min()"
)


def _smallest_share(rollout: Rollout) -> float:
    """The smallest share of the candidate's requests that a gate permits."""
    return min((_permitted_share(gate, rollout.mirror) for gate in rollout.gates), default=1.0)


def _permitted_share(gate: Gate, mirror: Mirror | None) -> float:
    if gate.max is None:
        return 1.0
    if gate.metric == GateMetric.LATENCY_P95:
        return LATENCY_SHARE
    compared = mirror.percent / 100 if gate.metric == GateMetric.DISAGREEMENT and mirror is not None else 1.0
    return gate.max * compared


def _evidence(confidence: float) -> float:
    return next(need for limit, need in _EVIDENCE if confidence <= limit)


def least_requests(rollout: Rollout) -> int:
    """Number of requests per step from which every gate on a share is decidable, given no violation at all."""
    smallest = _smallest_share(rollout)
    return int(_evidence(rollout.confidence) / smallest) + 1 if smallest > 0 else 0


class Rollout(Model):
    """Rollout of a new bundle."""

    strategy: Literal["Canary", "Shadow", "ShadowThenCanary", "Recreate"] = "Canary"
    """Canary: a growing share of the requests. Shadow: copies of requests only. Recreate: all requests at once."""
    steps: Annotated[tuple[Annotated[Int, Field(ge=1, le=99)], ...], Field(max_length=20)] = (5, 25, 50)
    """Traffic shares of the canary, in per cent, one per step; after the last step it gets all traffic."""
    interval: Duration = "10m"
    """Minimum duration of each step."""
    confidence: Annotated[Number, Field(ge=0.5, le=0.9999)] = 0.95
    """Confidence of the decision over the whole rollout, corrected for repeated testing. The probability of promoting a
    candidate that violates a gate, and that of rolling back one that satisfies all, are each at most 1 - confidence."""
    min_requests: Annotated[Int, Field(ge=1, le=100_000_000)] = 1000
    """Minimum number of requests to the candidate per step."""
    deadline: Duration = "6h"
    """Maximum duration of the whole rollout."""
    on_inconclusive: Literal["Extend", "Pause", "Rollback"] = "Extend"
    """What happens if a step is inconclusive. Extend: wait until the deadline, then act as for onFailure."""
    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = (
        Gate(metric=GateMetric.ERROR_RATE, max=0.01),
        Gate(metric=GateMetric.LATENCY_P95, max_ratio_to_stable=1.2),
    )
    """Bounds on metrics of the candidate."""
    mirror: Mirror | None = None
    """Comparison of candidate and stable answers, for information only. Absent: none."""
    on_failure: Literal["Rollback", "Pause"] = "Rollback"
    """What happens if a gate fails."""

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
            "self.strategy == 'Recreate' || self.gates.exists(gate, gate.ifUnmeasured == 'Block')",
            "without a gate with ifUnmeasured Block nothing would be tested; add one, or use the strategy Recreate",
            lambda obj: obj.strategy == "Recreate" or any(gate.if_unmeasured == "Block" for gate in obj.gates),
            ".gates",
        ),
        Rule(
            "has(self.mirror) && self.mirror.percent > 0.0 || self.strategy in ['Shadow', 'Recreate'] || "
            f"!self.gates.exists(gate, {_NEEDS_BOTH_ANSWERS})",
            "disagreement, and minDifferenceToStable unless pairedWithStable is false, compare answers to the same "
            "requests; set mirror.percent",
            lambda obj: (
                (obj.mirror is not None and obj.mirror.percent > 0)
                or obj.strategy in ("Shadow", "Recreate")
                or not any(gate.needs_both_answers for gate in obj.gates)
            ),
            ".mirror",
        ),
        Rule(
            f"self.strategy == 'Recreate' || self.gates.size() == 0 || "
            f"double(self.minRequests) * {_SMALLEST_SHARE_CEL} >= ({_EVIDENCE_CEL})",
            "minRequests is too small to decide the gates even without a single violation",
            lambda obj: (
                obj.strategy == "Recreate" or obj.min_requests * _smallest_share(obj) >= _evidence(obj.confidence)
            ),
            ".minRequests",
            Detail(
                "at least %d are needed",
                f"int(({_EVIDENCE_CEL}) / {_SMALLEST_SHARE_CEL}) + 1",
                least_requests,
            ),
        ),
    )


class CapturePolicy(Model):
    """Capture of images for labelling."""

    uri: Uri
    """Folder for captured images, of this ModelDeployment alone."""
    sample_rate: Fraction = 0.01
    """Fraction of all requests to capture, 0 to 1."""
    low_confidence_below: Fraction = 0.5
    """Images whose highest confidence is below this are captured too, 0 to 1."""
    max_per_hour: Annotated[Int, Field(ge=1, le=1_000_000)] = 200
    """Maximum number of captured images per hour."""
    retention: Duration = "720h"
    """Retention time of captured images."""

    rules: ClassVar = not_downloaded("uri")


class Drift(Model):
    """Drift detection."""

    window: Duration = "1h"
    """Length of the detection window."""
    min_samples: Annotated[Int, Field(ge=30, le=10_000_000)] = 200
    """Minimum number of images per window; the window is extended until it has them."""
    reference: Literal["Training", "FirstWeek"] = "Training"
    """Reference distribution: the training data, or the first week in production."""
    min_effect: Literal["Small", "Medium", "Large"] = "Small"
    """Minimum effect size that raises an alarm; smaller changes are only reported."""
    false_alarms_per_year: Annotated[Number, Field(gt=0, le=365)] = 1
    """Expected number of false alarms per year, over all detectors."""
    detectors: Annotated[
        tuple[Literal["ImageProperties", "ModelOutputs", "Embeddings", "LabelShift"], ...],
        Field(min_length=1, max_length=4),
        Set(),
    ] = ("ImageProperties", "ModelOutputs", "Embeddings", "LabelShift")
    """Detectors."""


class Feedback(Model):
    """Feedback: ground truth posted later by request ID, from which live accuracy is computed."""

    enabled: Bool = True
    """Whether feedback is accepted."""


LabelStudioUrl = Annotated[str, Field(max_length=2048, pattern=r"^https?://[^ \r\n@?#]+$")]
TOKEN = "token"
"""Key of the Secret that has the token for Label Studio."""


class LabelStudio(Model):
    """Label Studio that asks for pre-labels at the deployment's URL (`/setup`, `/predict`)."""

    url: LabelStudioUrl
    """URL of Label Studio. Images of its tasks are fetched from there and from nowhere else."""
    secret_ref: Ref | None = None
    """Secret with the access token for it, under `token`. Absent: none is sent."""


class Monitoring(Model):
    """Monitoring of production traffic."""

    captures: CapturePolicy | None = None
    """Capture of images for labelling. Absent: none."""
    drift: Drift | None = None
    """Drift detection. Absent: none."""
    feedback: Feedback | None = None
    """Ground truth posted later. Absent: not accepted."""
    label_studio: LabelStudio | None = None
    """Label Studio whose images may be fetched to pre-label them. Absent: none."""

    rules: ClassVar = (
        Rule(
            "!has(self.feedback) || !self.feedback.enabled || has(self.captures)",
            "feedback needs captures: any gateway finds an answer in their folder by its request id; sampleRate 0 with "
            "lowConfidenceBelow 0 keeps no image",
            lambda obj: obj.feedback is None or not obj.feedback.enabled or obj.captures is not None,
            ".captures",
        ),
    )


class ScheduleTrigger(Model):
    """Retraining on a schedule."""

    cron: Cron
    """Cron expression with five fields: minute, hour, day of month, month, day of week."""
    time_zone: TimeZone = "UTC"
    """Time zone of the expression, such as Europe/Berlin."""
    missed: Literal["RunOnce", "Skip"] = "RunOnce"
    """What happens if no retraining could start at a scheduled time: the operator was down, the cooldown was not over,
    or another one was under way. RunOnce: one starts as soon as it can. Skip: the next time counts."""


class DriftTrigger(Model):
    """Retraining after drift, once enough new labels exist."""

    min_new_labels: Annotated[Int, Field(ge=1, le=10_000_000)] = 100
    """Minimum number of labelled images that the newest dataset version has beyond the one that was trained on last."""


class Triggers(Model):
    """Triggers of a retraining."""

    schedule: ScheduleTrigger | None = None
    """Schedule."""
    drift: DriftTrigger | None = None
    """Drift, once enough new labels exist."""
    accuracy_below: Fraction | None = None
    """Live accuracy (from feedback) that is below this value with a confidence of 95 %, 0 to 1."""
    new_dataset_version: Bool = False
    """A new version of the Dataset."""

    rules: ClassVar = (
        Rule(
            "has(self.schedule) || has(self.drift) || has(self.accuracyBelow) || self.newDatasetVersion",
            "give at least one of schedule, drift, accuracyBelow, newDatasetVersion",
            lambda obj: bool(obj.schedule or obj.drift or obj.accuracy_below is not None or obj.new_dataset_version),
        ),
    )


RecipePatch = Annotated[Mapping[str, JsonValue], PartialOf(Recipe)]
"""Part of a TrainingJob's recipe: everything optional, no defaults."""


class Comparison(Model):
    """Comparison of a retrained model with the served one on the test split of the newest dataset version, by accuracy,
    mAP50 or Dice. A model that is not better is kept and not rolled out."""

    min_improvement: Annotated[Number, Field(ge=-1, lt=1)] = 0
    """Improvement that must be exceeded; a negative value permits a regression."""
    confidence: Annotated[Number, Field(ge=0.5, le=0.9999)] = 0.99
    """Confidence with which it must be exceeded: the probability that a model which does not exceed it is rolled out is
    at most 1 - confidence."""


class Retraining(Model):
    """Automatic retraining. Its runs belong to the served TrainingJob. The annotation fovea.dev/retrain=<any new value>
    asks for one at once."""

    triggers: Triggers
    """Triggers of a retraining."""
    cooldown: Duration = "24h"
    """Minimum time between retrainings; the annotation does not wait for it."""
    gpu_hours_per_month: Annotated[Number, Field(gt=0)] | None = None
    """GPU hours of the retrainings of the last 30 days from which on no further one starts. Absent: no limit."""
    recipe: RecipePatch | None = None
    """Partial recipe merged over that of the TrainingJob. Unless it names another architecture or other weights,
    training starts from the served model. Absent: no changes."""
    comparison: Comparison = Comparison()
    """Comparison with the served model."""
    promotion: Literal["Automatic", "Manual"] = "Automatic"
    """Manual: a retrained model is rolled out only after the annotation fovea.dev/approve=<run> is set."""


def _served_by_job(spec: ModelDeploymentSpec) -> bool:
    return spec.retraining is None or spec.model.training_job_ref is not None


def _observable(spec: ModelDeploymentSpec) -> bool:
    triggers = spec.retraining and spec.retraining.triggers
    return not triggers or triggers.drift is None or spec.monitoring.drift is not None


def _measurable(spec: ModelDeploymentSpec) -> bool:
    triggers = spec.retraining and spec.retraining.triggers
    feedback = spec.monitoring.feedback
    return not triggers or triggers.accuracy_below is None or (feedback is not None and feedback.enabled)


def _fed_back(spec: ModelDeploymentSpec) -> bool:
    feedback = spec.monitoring.feedback
    return (feedback is not None and feedback.enabled) or not any(
        gate.metric == GateMetric.ACCURACY for gate in spec.rollout.gates
    )


class ModelDeploymentSpec(Model):
    """Model, serving, monitoring and retraining."""

    model: ServedModel
    """Model to serve."""
    runtime: Runtime = "RayServe"
    """Inference runtime."""
    inference: Inference = Inference()
    """Inference settings."""
    scaling: Scaling = Scaling()
    """Number of replicas."""
    expose: Expose | None = None
    """Exposure outside the cluster. Absent: reachable in the cluster only."""
    authentication: Authentication = Authentication()
    """Authentication of clients."""
    resources: Resources = Resources(requests={"cpu": "1", "memory": "2Gi"})
    """Resources of each replica; request GPUs in limits."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Container image. Default: the serving image of the installation."""
    pod_template: PodTemplate = PodTemplate()
    """Scheduling and environment of the pods."""
    objectives: ServiceObjectives | None = None
    """Service level objectives. Absent: none."""
    rollout: Rollout = Rollout()
    """Rollout of a new bundle."""
    monitoring: Monitoring = Monitoring()
    """Monitoring of production traffic."""
    retraining: Retraining | None = None
    """Automatic retraining. Absent: none."""

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
        Rule(
            "(has(self.monitoring.feedback) && self.monitoring.feedback.enabled) || "
            "!self.rollout.gates.exists(gate, gate.metric == 'accuracy')",
            "a gate on accuracy needs monitoring.feedback; without it, it can never be measured",
            _fed_back,
            ".rollout.gates",
        ),
    )


# --- Status ---------------------------------------------------------------------------------------------


class ObjectiveResult(Model):
    """State of one objective."""

    metric: Word
    """Name of the objective."""
    target: Number
    """Target value of the objective."""
    measured: Number | None = None
    """Measured value. Absent: not measured."""
    met: Bool | None = None
    """Whether the objective is met. Absent: not enough measurements."""


class LoadTest(Model):
    """Short load on a version before it gets requests, at the rate of the objectives."""

    subject: Annotated[str, Field(max_length=16)]
    """Digest of what is tested: the version, its resources and replicas, and the objectives."""
    started: Time
    """Start of the test."""
    attempt: Annotated[Int, Field(ge=1, le=2)] = 1
    """Number of the test: a miss is tested once more."""
    gateways: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=64)] = ()
    """Pods of the gateway that share the load."""
    rate_per_second: Annotated[Number, Field(gt=0)] | None = None
    """Rate of the requests. Absent: each gateway asks again as soon as it has its answer."""
    seconds: Annotated[Number, Field(gt=0)]
    """Duration of the load, in seconds."""
    finished: Time | None = None
    """End of the test. Absent: under way."""
    requests: Count = 0
    """Number of requests sent."""
    failed: Count = 0
    """Number of them that failed or were shed."""
    results: Annotated[tuple[ObjectiveResult, ...], Field(max_length=8)] = ()
    """State of each objective under this load."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Explanation of the result."""


class DeployedVersion(Model):
    """Version of the model in the runtime."""

    name: ObjectName | None = None
    """Name of the version in the runtime and in metrics."""
    bundle: Annotated[str, Field(max_length=2048)]
    """Location of the bundle."""
    run: RunName | None = None
    """Run that produced the bundle. Absent: the bundle was given by its URI."""
    precision: Precision = "Auto"
    """Exported precision that is served."""
    runtime: Runtime = "RayServe"
    """Inference runtime."""
    verify: ObjectName | None = None
    """Secret with the key that verifies the bundle's signature. Absent: it need not be signed."""
    since: Time | None = None
    """Time since when the version has been stable, candidate or retiring."""
    load_test: LoadTest | None = None
    """Test of the objectives before the version got requests. Absent: there was none."""


class StableVersion(DeployedVersion):
    """Version that serves."""

    replicas: Count = 0
    """Number of ready replicas."""


class GateResult(Model):
    """Result of one gate."""

    metric: Word
    """Name of the metric."""
    candidate: Number | None = None
    """Value of the candidate."""
    stable: Number | None = None
    """Value of the stable version."""
    lower: Number | None = None
    """Lower bound of the tested value."""
    upper: Number | None = None
    """Upper bound of the tested value."""
    needed: Count | None = None
    """Further samples until the gate is decided, if they continue as before. Absent: decided, or unknown."""
    requests: Count = 0
    """Number of requests counted."""
    outcome: Literal["Pass", "Fail", "Inconclusive", "Skipped"]
    """Outcome of the gate."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Explanation of the outcome."""


class RolloutPhase(StrEnum):
    """State of a rollout."""

    PENDING = "Pending"
    LOADING = "Loading"
    SHADOW = "Shadow"
    CANARY = "Canary"
    PAUSED = "Paused"


class CandidateVersion(DeployedVersion):
    """Version that is being loaded or tested."""

    phase: RolloutPhase | None = None
    """State of its rollout. Pending: waits until the version before it has drained."""
    weight: Annotated[Int, Field(ge=0, le=100)] = 0
    """Share of the traffic, in per cent."""
    step: Count = 0
    """Current step, from 1."""
    started: Time | None = None
    """Start of the rollout, moved by the duration of each pause; the deadline counts from it."""
    step_started: Time | None = None
    """Time since when all gateways have followed the current step."""
    counted_until: Time | None = None
    """Time until which the requests of the current step are counted."""
    stable_latency_milliseconds: Milliseconds | None = None
    """95th percentile of the latency of the stable version when the current step began, in milliseconds."""
    gates: Annotated[str, Field(max_length=16)] = ""
    """Digest of spec.rollout as it was when the current step began; when it changes, counting begins anew."""
    paused: Time | None = None
    """Start of the pause."""
    pause: Literal["Requested", "Failed", "Inconclusive"] | None = None
    """Cause of the pause."""
    retry: Annotated[str, Field(max_length=256)] = ""
    """Value of the annotation fovea.dev/retry when the rollout started."""
    counts: Metrics = {}
    """Counts of the current step, on which its gates are tested."""
    analysis: Annotated[tuple[GateResult, ...], Field(max_length=16)] = ()
    """Results of the gates in the current step."""


class RolledBackVersion(DeployedVersion):
    """Version that failed its rollout. It is not tried again until fovea.dev/retry gets a new value."""

    reason: Word
    """Reason of the rollback."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Explanation of the reason."""
    step: Count = 0
    """Step that it had reached."""
    retry: Annotated[str, Field(max_length=256)] = ""
    """Value of the annotation fovea.dev/retry at the rollback."""
    analysis: Annotated[tuple[GateResult, ...], Field(max_length=16)] = ()
    """Results of the gates that decided."""


class DetectorResult(Model):
    """Result of one detector."""

    name: Word
    """Name of the detector."""
    score: Annotated[Number, Field(ge=0)]
    """Effect size of the change."""
    drifted: Bool
    """Whether the change counts as drift."""
    feature: Word | None = None
    """Feature with the largest effect."""


Sums = Annotated[tuple[Number, ...], Field(max_length=8)]
Histogram = Annotated[tuple[Number, ...], Field(max_length=256)]


class DriftStatus(Model):
    """Drift detection."""

    state: Literal["None", "Suspected", "Detected", "Unknown"]
    """One-word summary."""
    since: Time | None = None
    """Time since when it has been so."""
    score: Number | None = None
    """Largest effect size of all detectors."""
    detectors: Annotated[tuple[DetectorResult, ...], Field(max_length=8)] = ()
    """Result of each detector."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Explanation of the state."""
    version: ObjectName | None = None
    """Version of the model whose requests are monitored."""
    started: Time | None = None
    """Start of the week in which windows are compared with each other, or in which the reference is collected."""
    window_start: Time | None = None
    """Start of the present window."""
    windows: Count = 0
    """Number of windows so far."""
    kept_budget: Number | None = None
    """False alarms per year that can be kept with this reference. Absent: it is large enough."""
    wealth: Metrics = {}
    """Logarithm of the evidence of each test."""
    spreads: Annotated[Mapping[Word, Sums], Field(max_length=1024)] = {}
    """Differences between the windows of the first week, as sums."""
    reference: Annotated[Mapping[Word, Histogram], Field(max_length=64)] = {}
    """Images of the first week in production by feature and bin, for reference FirstWeek."""
    reference_images: Count = 0
    """Number of images of that reference."""
    reference_is_whole: Bool = False
    """Whether the first week is over."""


class RetrainingOutcome(StrEnum):
    """Outcome of a retraining."""

    REFUSED = "Refused"
    """The TrainingJob cannot run it."""
    FAILED = "Failed"
    NOT_ELIGIBLE = "NotEligible"
    """The model misses success criteria."""
    NOT_COMPARED = "NotCompared"
    """The model could not be compared with the served one."""
    NOT_BETTER = "NotBetter"
    AWAITING_APPROVAL = "AwaitingApproval"
    ROLLING_OUT = "RollingOut"
    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    SUPERSEDED = "Superseded"
    """A later version serves, or spec.retraining was removed."""


class RetrainingEvent(Model):
    """One retraining and its outcome."""

    cause: Cause
    """Unique cause; each leads to one run."""
    run: RunName | None = None
    """Name of the run. Absent: there is none yet."""
    trigger: Word
    """Trigger of the retraining."""
    time: Time
    """Time of the trigger."""
    dataset_version: Digest | None = None
    """Newest version of the dataset at that time."""
    served: RunName
    """Run of the model that was served at that time, the champion."""
    outcome: RetrainingOutcome | None = None
    """Outcome. Absent: in progress."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Explanation of trigger and outcome."""
    improvement: Number | None = None
    """Improvement over the served model on the same test images."""
    improvement_above: Number | None = None
    """Value that the improvement exceeds, with the confidence of spec.retraining.comparison."""
    gpu_hours: Annotated[Number, Field(ge=0)] = 0
    """GPU hours of the run."""


class RetrainingStatus(Model):
    """State of automatic retraining."""

    message: Annotated[str, Field(max_length=1024)] = ""
    """What is under way, or what a trigger waits for."""
    annotation: Annotated[str, Field(max_length=256)] = ""
    """Value of the annotation fovea.dev/retrain that was acted on last."""
    dataset_version: Digest | None = None
    """Newest dataset version that a retraining was asked for."""
    images: Count | None = None
    """Number of its images."""

    last_trigger: Word | None = None
    """Trigger of the last retraining."""
    last_run: RunName | None = None
    """Run of the last retraining."""
    next_scheduled: Time | None = None
    """Next scheduled time."""
    history: Annotated[tuple[RetrainingEvent, ...], Field(max_length=50)] = ()
    """Retrainings, newest first."""


class GatewaysStatus(Model):
    """Gateway pods that do not follow."""

    behind_since: Time | None = None
    """Time since when a gateway has followed other versions or weights than the recorded ones. Absent: none does."""
    restarted: Time | None = None
    """Time of the last replacement of the gateway pods because of that."""


class ModelDeploymentStatus(Status):
    """Observed state of a ModelDeployment."""

    phase: Literal["Pending", "Progressing", "Ready", "Degraded", "Paused", "Failed"] | None = None
    """One-word summary."""
    replicas: Count | None = None
    """Number of ready replicas, over all versions."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the replicas, for `kubectl scale` and autoscalers."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """URL for requests."""
    stable: StableVersion | None = None
    """Version that serves."""
    candidate: CandidateVersion | None = None
    """Version that is being loaded or tested."""
    retiring: DeployedVersion | None = None
    """Previous version, which is draining."""
    rolled_back: RolledBackVersion | None = None
    """Version whose rollout failed last."""
    rollout_command: Annotated[str, Field(max_length=320)] = ""
    """Value of the annotation fovea.dev/rollout that was acted on."""
    gateways: GatewaysStatus | None = None
    """Gateway pods that do not follow. Absent: all have followed so far."""
    objectives: Annotated[tuple[ObjectiveResult, ...], Field(max_length=8), ListMap(("metric",))] = ()
    """State of each objective."""
    metrics: Metrics = {}
    """Metrics of the last window."""
    drift: DriftStatus | None = None
    """State of drift detection."""
    retraining: RetrainingStatus | None = None
    """State of automatic retraining."""
    run_requests: RunRequests = ()
    """Runs that the served TrainingJob is asked for."""


class ModelDeployment(Resource):
    """A model behind an HTTP endpoint, rolled out on measurements, monitored and retrained."""

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
            Column("Retraining", ".status.retraining.history[0].outcome", wide=True),
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
    if spec.monitoring.label_studio is not None and spec.monitoring.label_studio.secret_ref is not None:
        yield Reference("Secret", spec.monitoring.label_studio.secret_ref.name, "spec.monitoring.labelStudio.secretRef")
    if spec.model.verify is not None:
        yield Reference("Secret", spec.model.verify.name, "spec.model.verify")
    if spec.expose is not None and spec.expose.tls_secret_ref is not None:
        yield Reference("Secret", spec.expose.tls_secret_ref.name, "spec.expose.tlsSecretRef")


def without_effect(spec: ModelDeploymentSpec) -> tuple[str, ...]:
    """What is asked for and does not act in this version, in words; the model is served all the same."""
    words = []
    if spec.runtime == "Triton" and spec.scaling.min_replicas == 0:
        words.append("spec.scaling.minReplicas 0: a HorizontalPodAutoscaler keeps one replica of Triton")
    return tuple(words)


__all__ = [
    "PUBLIC_KEY",
    "ModelDeployment",
    "ModelDeploymentSpec",
    "ModelDeploymentStatus",
    "RecipePatch",
    "least_requests",
    "references",
    "without_effect",
]
