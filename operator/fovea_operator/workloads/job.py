"""The batch/v1 Job of a dataset build, an engine build or a cleanup: one pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fovea_api import names
from fovea_api.common import PodTemplate, Resources, RunPolicy, parse_duration

from fovea_operator.objects import JOB, JsonObject, Kind, View, flag, items, mapping, number, text, time
from fovea_operator.settings import Settings
from fovea_operator.workloads.demand import PodSet, requests_of
from fovea_operator.workloads.pod_template import ENTRYPOINT, main_container, pod_template, queue_labels
from fovea_operator.workloads.pods import deaths, source_at_work
from fovea_operator.workloads.work import Work
from fovea_operator.workloads.workload import WAITING_FOR_QUOTA, ChildState, State

_KEPT_SECONDS = 600
"""A finished Job holds no resources; it stays so long that an operator that was away can read why it failed."""
BUILD, ENGINE, CLEANUP = "fovea", "engine", "cleanup"
"""Names of the container: where the owner, or the operator's settings, say what it may use."""


@dataclass(frozen=True, slots=True)
class JobWorkload:
    """How a Job is read."""

    kind: Kind = JOB
    parts: tuple[Kind, ...] = ()

    @property
    def memory_fields(self) -> Mapping[str, str]:
        """Where the memory limit of its container is set."""
        return {
            BUILD: "spec.compute.resources.limits.memory",
            names.GENERATOR_CONTAINER: "spec.compute.resources.limits.memory",
            ENGINE: "spec.deferredExport.resources.limits.memory",
            CLEANUP: "the operator's setting cleanup_memory",
        }

    def state(self, value: View, parts: Sequence[View], pods: Sequence[View]) -> State:
        """Where the Job is; it runs when a pod does, or the program of a source before."""
        for condition in items(value, "status", "conditions"):
            if text(condition, "status") != "True":
                continue
            match text(condition, "type"):
                case "Complete" | "SuccessCriteriaMet":
                    return State(ChildState.SUCCEEDED)
                case "Failed" | "FailureTarget":
                    return State(ChildState.FAILED, text(condition, "reason"), text(condition, "message"))
                case "Suspended":
                    return WAITING_FOR_QUOTA
        if flag(value, "spec", "suspend"):
            return WAITING_FOR_QUOTA
        if source := next(filter(None, map(source_at_work, pods)), ""):
            return State(ChildState.RUNNING, "Generating", f"the program of source {source!r} is running")
        running = number(value, "status", "active") and any(text(pod, "status", "phase") == "Running" for pod in pods)
        return State(ChildState.RUNNING if running else ChildState.STARTING)

    def demand(self, value: View) -> tuple[PodSet, ...]:
        """Its one pod."""
        return (PodSet("pod", 1, requests_of(mapping(value, "spec", "template", "spec"))),)

    def ended_at(self, value: View) -> datetime | None:
        """When its controller noted the end."""
        ends = [
            time(condition, "lastTransitionTime")
            for condition in items(value, "status", "conditions")
            if text(condition, "type") in ("Complete", "Failed") and text(condition, "status") == "True"
        ]
        return ends[0] if ends else None

    def released_at(self, value: View) -> datetime | None:
        """Its pod ends before it does."""
        return self.ended_at(value)

    def cause(self, pods: Sequence[View], failure: State) -> State:
        """What ended its pod; a pod of which nothing is known was deleted."""
        known = deaths(pods, self.memory_fields)
        unexplained = not failure.message or "backoff limit" in failure.message.lower()
        if known and (known[0].reason or unexplained):
            return State(failure.state, known[0].reason or failure.reason, known[0].message, known[0].own)
        if unexplained:
            deleted = [text(pod, "metadata", "name") for pod in pods if text(pod, "metadata", "deletionTimestamp")]
            if deleted or not pods:
                what = f"pod {deleted[0]} was deleted" if deleted else "its pod was deleted, or its node was lost"
                return State(failure.state, "PodDeleted", what)
        return failure


def build_job(
    work: Work, container: str, resources: Resources, extra: PodTemplate, policy: RunPolicy, settings: Settings
) -> JsonObject:
    """One pod that works once: Fovea itself repeats attempts. A queue's `suspend` is never written."""
    template = pod_template(work, container, resources, extra, settings)
    spec = template["spec"]
    assert isinstance(spec, dict)
    main_container(template)["command"] = [*ENTRYPOINT.split()]
    spec["restartPolicy"] = "Never"
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.name,
        "metadata": {
            "name": work.name,
            "namespace": work.namespace,
            "labels": {**work.labels, **queue_labels(policy, settings)},
        },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": max(
                _KEPT_SECONDS, int(parse_duration(policy.ttl_after_finished).total_seconds())
            ),
            "template": template,
        },
    }
