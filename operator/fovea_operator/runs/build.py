"""Builds a Run, the child of an attempt, and what the pods of a namespace need."""

from __future__ import annotations

import hashlib
import json

from fovea_api import names
from fovea_api.common import Model, RunPolicy
from fovea_api.paths import Part, at
from fovea_api.run import RunSpec
from fovea_api.trainingjob import Latency

from fovea_operator.objects import CONFIG_MAP, ROLE_BINDING, RUN, SERVICE_ACCOUNT, JsonObject, Key, Kind
from fovea_operator.settings import Settings
from fovea_operator.workloads import run_spec
from fovea_operator.workloads.work import Work
from fovea_operator.writes import Create


def run_manifest(run: Key, spec: RunSpec) -> JsonObject:
    """The Run, with the labels by which it is found."""
    return {
        "apiVersion": RUN.api_version,
        "kind": RUN.name,
        "metadata": {
            "name": run.name,
            "namespace": run.namespace,
            "labels": {
                names.LABEL_KIND: spec.owner.kind,
                names.LABEL_NAME: spec.owner.name,
                names.LABEL_RUN: run.name,
                names.LABEL_MANAGED_BY: names.MANAGED_BY,
            },
        },
        "spec": spec.to_dict(),
    }


def child_writes(run: Key, kind: Kind, work: Work, manifest: JsonObject, settings: Settings) -> tuple[Create, ...]:
    """The child of an attempt, after what its pods and those of its namespace need."""
    spec = Create(Key(CONFIG_MAP, run.namespace, work.name), run_spec.config_map(work), run)
    return (
        *namespace_setup(run.namespace, settings),
        *([spec] if run_spec.needs_config_map(work) else []),
        Create(Key(kind, run.namespace, work.name), manifest, run),
    )


def pods_digest(compute: Model, policy: RunPolicy, *settings: str) -> str:
    """Digest of what determines the pods of a run beside its recipe: compute and queue, defaults left out."""
    parts = {
        "compute": compute.model_dump(mode="json", exclude_defaults=True),
        "queue": [policy.queue_name, policy.workload_priority_class_name],
        "settings": [*settings],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def latency_of(recipe: Part, path: str) -> Latency:
    """Where the run of a frozen recipe measures latency, whatever the spec of its owner says by now."""
    return Latency.model_validate(at(recipe, path) or {})


def namespace_setup(namespace: str, settings: Settings) -> tuple[Create, ...]:
    """ServiceAccount of run pods and its binding; they belong to the namespace, so they have no controller."""
    name = names.RUN_SERVICE_ACCOUNT
    metadata: JsonObject = {
        "name": name,
        "namespace": namespace,
        "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
    }
    account: JsonObject = {
        "apiVersion": SERVICE_ACCOUNT.api_version,
        "kind": SERVICE_ACCOUNT.name,
        "metadata": metadata,
    }
    binding: JsonObject = {
        "apiVersion": ROLE_BINDING.api_version,
        "kind": ROLE_BINDING.name,
        "metadata": metadata,
        "roleRef": {
            "apiGroup": ROLE_BINDING.group,
            "kind": "ClusterRole",
            "name": settings.cluster_role,
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    return (
        Create(Key(SERVICE_ACCOUNT, namespace, name), account, None),
        Create(Key(ROLE_BINDING, namespace, name), binding, None),
    )
