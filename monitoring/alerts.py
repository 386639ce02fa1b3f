"""The alerts: what is looked at, from when on it is wrong, and what it means. docs/runbooks.md says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

RUNBOOKS = "https://fovea.dev/docs/runbooks.md"
"""Address of docs/runbooks.md; the chart's value metrics.prometheusRule.runbooks takes its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A condition that a person should hear of."""

    name: str
    value: str
    """PromQL of what is looked at; it has data whenever there is something to look at."""
    condition: str
    """What makes it wrong: a comparison, and what else must hold."""
    lasting: str = "0s"
    """How long it must be wrong before the alert fires."""
    severity: Literal["critical", "warning"] = "warning"
    summary: str
    description: str

    @property
    def expression(self) -> str:
        """PromQL that has data while it is wrong."""
        return f"{self.value} {self.condition}"


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts on one part of Fovea."""

    name: str
    alerts: tuple[Alert, ...]


_DEPLOYMENT = "{{ $labels.namespace }}/{{ $labels.deployment }}"
_OBJECT = "{{ $labels.namespace }}/{{ $labels.name }}"
_BY_DEPLOYMENT = "sum by (namespace, deployment)"
_ASKED = 'role!="shadow"'
"""A shadow's copies are nobody's requests."""
_REQUESTS = f"{_BY_DEPLOYMENT} (rate(fovea_serving_requests_total{{{_ASKED}}}[5m]))"
_LATENCY = (
    "histogram_quantile(0.95, sum by (namespace, deployment, le) "
    f"(rate(fovea_serving_request_seconds_bucket{{{_ASKED}}}[5m])))"
)
_ENOUGH = (
    f"and on (namespace, deployment) {_BY_DEPLOYMENT} (increase(fovea_serving_requests_total{{{_ASKED}}}[5m])) >= 20"
)
"""Below 20 requests a share or a quantile says nothing, as for the condition ObjectivesMet."""


def _share(codes: str) -> str:
    return f'{_BY_DEPLOYMENT} (rate(fovea_serving_requests_total{{code=~"{codes}",{_ASKED}}}[5m])) / {_REQUESTS}'


def _promise(metric: str) -> str:
    return f'on (namespace, deployment) max by (namespace, deployment) (fovea_serving_objective{{metric="{metric}"}})'


OPERATOR = Group(
    "fovea-operator",
    (
        Alert(
            name="FoveaNoLeader",
            value="(sum(fovea_leader) or vector(0))",
            condition="< 1",
            lasting="5m",
            severity="critical",
            summary="No Fovea operator is working",
            description="No replica has held the Lease for five minutes: nothing new starts. What runs goes on.",
        ),
        Alert(
            name="FoveaTwoLeaders",
            value="sum(fovea_leader)",
            condition="> 1",
            lasting="2m",
            severity="critical",
            summary="Two Fovea operators work at once",
            description="{{ $value }} replicas believe that they hold the Lease.",
        ),
        Alert(
            name="FoveaReconcileErrors",
            value="sum by (kind, reason) (rate(fovea_reconcile_errors_total[10m]))",
            condition="> 0.02",
            lasting="15m",
            summary="Reconciles of {{ $labels.kind }} keep failing",
            description="{{ $value | humanize }} a second fail with {{ $labels.reason }}; the log names the objects.",
        ),
        Alert(
            name="FoveaQueueSlow",
            value="histogram_quantile(0.99, sum by (kind, le) (rate(fovea_queue_wait_seconds_bucket[10m])))",
            condition="> 30",
            lasting="15m",
            summary="{{ $labels.kind }} objects wait more than 30 s for the operator",
            description="The 99th percentile of the wait is {{ $value | humanizeDuration }}.",
        ),
        Alert(
            name="FoveaAPIRequestsFail",
            value='(sum(rate(fovea_api_requests_total{code=~"403|429|5.."}[10m])) or vector(0)) '
            "/ sum(rate(fovea_api_requests_total[10m]))",
            condition="> 0.05",
            lasting="10m",
            summary="The API server refuses {{ $value | humanizePercentage }} of the operator's requests",
            description="403 is a missing right, 429 and 5xx an overloaded API server.",
        ),
    ),
)
TRAINING = Group(
    "fovea-training",
    (
        Alert(
            name="FoveaObjectStalled",
            value='max by (kind, namespace, name, reason) (fovea_object_stalled{reason!~"RolledBack|RolloutPaused"})',
            condition="> 0",
            lasting="15m",
            summary=f"{{{{ $labels.kind }}}} {_OBJECT} cannot go on: {{{{ $labels.reason }}}}",
            description="Somebody has to change something; its condition Stalled says what.",
        ),
        Alert(
            name="FoveaAttemptsFail",
            value='sum by (type) (increase(fovea_run_attempts_ended_total{outcome="Failed"}[1h])) '
            "/ sum by (type) (increase(fovea_run_attempts_ended_total[1h]))",
            condition="> 0.5 and on (type) sum by (type) (increase(fovea_run_attempts_ended_total[1h])) >= 5",
            summary="Most attempts of {{ $labels.type }} runs fail",
            description="{{ $value | humanizePercentage }} of those that ended in the last hour failed.",
        ),
        Alert(
            name="FoveaTrainingStuck",
            value="changes(fovea_run_epoch[1h])",
            condition="== 0 and fovea_run_epoch offset 1h",
            summary=f"Training {_OBJECT} has made no progress for an hour",
            description="Its Run is Running and its epoch stands still.",
        ),
        Alert(
            name="FoveaCriteriaNotMet",
            value="max by (namespace, name) (fovea_trainingjob_eligible)",
            condition="== 0",
            summary=f"The newest model of TrainingJob {_OBJECT} misses a criterion",
            description="It is trained and is not served by itself; what served before goes on.",
        ),
        Alert(
            name="FoveaDatasetFindings",
            value='max by (namespace, name, finding) (fovea_dataset_findings{severity="Serious"})',
            condition="> 0",
            summary=f"Dataset {_OBJECT}: {{{{ $value }}}} times {{{{ $labels.finding }}}}",
            description="A model that is trained on its newest version learns something wrong, or nothing.",
        ),
    ),
)
SERVING = Group(
    "fovea-serving",
    (
        Alert(
            name="FoveaDeploymentDown",
            value='max by (namespace, name) (fovea_object_ready{kind="ModelDeployment"})',
            condition="== 0",
            lasting="5m",
            severity="critical",
            summary=f"ModelDeployment {_OBJECT} does not answer",
            description="It has not been Ready for five minutes: requests are answered with 503, or by nobody.",
        ),
        Alert(
            name="FoveaVersionFails",
            value="min by (namespace, deployment, run) "
            "(fovea_serving_version_ready and on (namespace, deployment, run, role, instance) "
            "fovea_serving_version_weight > 0)",
            condition="== 0",
            lasting="2m",
            severity="critical",
            summary=f"Version {{{{ $labels.run }}}} of {_DEPLOYMENT} fails its golden image",
            description="It is away, or gives another answer than the known one.",
        ),
        Alert(
            name="FoveaServingErrors",
            value=_share("5.."),
            condition=f"> 0.05 {_ENOUGH}",
            lasting="2m",
            severity="critical",
            summary=f"{{{{ $value | humanizePercentage }}}} of the requests to {_DEPLOYMENT} fail",
            description="Answers with 5xx over five minutes, whatever is promised.",
        ),
        Alert(
            name="FoveaErrorObjectiveMissed",
            value=_share("5.."),
            condition=f"> {_promise('errorRate')} {_ENOUGH}",
            lasting="10m",
            summary=f"{_DEPLOYMENT} fails more requests than spec.objectives.errorRate promises",
            description="{{ $value | humanizePercentage }} of the requests of the last five minutes failed.",
        ),
        Alert(
            name="FoveaLatencyObjectiveMissed",
            value=f"1000 * {_LATENCY}",
            condition=f"> {_promise('latencyP95Milliseconds')} {_ENOUGH}",
            lasting="10m",
            summary=f"{_DEPLOYMENT} is slower than spec.objectives.latencyP95Milliseconds promises",
            description="The 95th percentile of the last five minutes is {{ $value | humanize }} ms.",
        ),
        Alert(
            name="FoveaRequestsShed",
            value=_share("429"),
            condition=f"> 0.05 {_ENOUGH}",
            lasting="5m",
            summary=f"{_DEPLOYMENT} turns {{{{ $value | humanizePercentage }}}} of its requests away",
            description="More is asked than its replicas can answer in time (429).",
        ),
        Alert(
            name="FoveaDriftDetected",
            value="max by (namespace, name) (fovea_modeldeployment_drift_detected)",
            condition="> 0",
            lasting="1m",
            summary=f"What ModelDeployment {_OBJECT} is asked has changed",
            description="Images or answers of the last windows differ from the reference by more than windows do.",
        ),
        Alert(
            name="FoveaRolloutFailed",
            value="max by (namespace, name) (fovea_modeldeployment_rollout)",
            condition="and on (namespace, name) "
            'fovea_modeldeployment_rollout{state=~"RolledBack|PausedFailed|PausedInconclusive"} == 1',
            summary=f"The newest version of ModelDeployment {_OBJECT} did not pass its rollout",
            description="What served before goes on. status.rolledBack, or status.candidate, has the evidence.",
        ),
        Alert(
            name="FoveaCopiesShed",
            value=f"{_BY_DEPLOYMENT} (rate(fovea_serving_copies_shed_total[10m]))",
            condition="> 0",
            lasting="10m",
            summary=f"{_DEPLOYMENT} leaves copies of requests out",
            description="A shadow, or a comparison with stable, is too slow for them; the rollout takes longer.",
        ),
        Alert(
            name="FoveaGatewayUnmonitored",
            value='max by (namespace, name) (fovea_object_ready{kind="ModelDeployment"})',
            condition="== 1 unless on (namespace, name) "
            'label_replace(fovea_serving_images_at_work, "name", "$1", "deployment", "(.+)")',
            lasting="10m",
            summary=f"No gateway of ModelDeployment {_OBJECT} is scraped",
            description="It answers, and no alert on its requests can fire.",
        ),
    ),
)
GROUPS = (OPERATOR, TRAINING, SERVING)


def alerts() -> Iterator[Alert]:
    """All of them."""
    for group in GROUPS:
        yield from group.alerts


def rules() -> dict[str, object]:
    """The alerts as a rule file of Prometheus, which is the spec of a PrometheusRule too."""
    return {"groups": [{"name": group.name, "rules": [_rule(each) for each in group.alerts]} for group in GROUPS]}


def _rule(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        **({"for": alert.lasting} if alert.lasting != "0s" else {}),
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{RUNBOOKS}#{alert.name.lower()}",
        },
    }
