"""What the children of a ModelDeployment have in common: names, labels, the pods' part, and how a version is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fovea_api import names
from fovea_api.modeldeployment import PUBLIC_KEY, DeployedVersion, ModelDeploymentSpec
from pydantic import JsonValue

from fovea_operator.objects import MODEL_DEPLOYMENT, JsonObject, View, items, mapping, text
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig, claim_of
from fovea_operator.workloads.pod_template import (
    PVC_ROOT,
    SECRETS_ROOT,
    WORK_DIR,
    Content,
    claim_volumes,
    merged,
    secret_volumes,
)
from fovea_operator.workloads.pods import deaths, waits_for

GATEWAY, REPLICA, HEAD = "gateway", "replica", "head"
"""What a pod is; the container of a gateway or replica has the same name."""
NAME_LENGTH = 47
"""Characters of a child's name: KubeRay's limit for a RayService."""
DRAIN_SECONDS = 5
"""Seconds that a pod which is asked to stop goes on before it hears of it: endpoints take that long to forget it."""

_HOST_NAME_LENGTH = 63


def child_name(name: str, suffix: str = "", limit: int = NAME_LENGTH) -> str:
    """The owner's name, a DNS label, with a suffix; its start and a digest where that is too long."""
    full = f"{name}-{suffix}" if suffix else name
    if len(full) <= limit:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{full[: limit - len(digest) - 1].rstrip('-')}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A ModelDeployment, as the builders of its children are given it."""

    namespace: str
    name: str
    spec: ModelDeploymentSpec
    store: StoreConfig

    def child(self, suffix: str = "", limit: int = NAME_LENGTH) -> str:
        """Name of a child."""
        return child_name(self.name, suffix, limit)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all children, by which they are found."""
        return {
            names.LABEL_KIND: MODEL_DEPLOYMENT.name,
            names.LABEL_NAME: self.name,
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
        }

    def component(self, component: str) -> dict[str, str]:
        """Labels of the pods of one component."""
        return {**self.labels, names.LABEL_COMPONENT: component}

    def metadata(self, name: str, **more: str) -> JsonObject:
        """Metadata of a child."""
        return {"name": name, "namespace": self.namespace, "labels": {**self.labels, **more}}

    def image(self, default: str) -> str:
        """The image of the runtime."""
        return self.spec.image or default

    def pod(self, component: str, versions: Sequence[DeployedVersion], settings: Settings, own: Content) -> JsonObject:
        """The template of a pod that reads the bundles of versions. `own`: what is particular to it."""
        claims = {claim: False for version in versions if (claim := claim_of(version.bundle)) is not None}
        captures = self.spec.monitoring.captures
        if component == GATEWAY and captures is not None and (claim := claim_of(captures.uri)) is not None:
            claims[claim] = True
        volumes, mounts = claim_volumes(claims)
        work: JsonObject = {"name": "fovea-work", "emptyDir": {"sizeLimit": settings.work_dir_size}}
        whole = replace(
            own,
            labels={**self.component(component), **own.labels},
            env={
                "FOVEA_NAMESPACE": self.namespace,
                "FOVEA_PVC_ROOT": PVC_ROOT,
                "FOVEA_SECRETS_ROOT": SECRETS_ROOT,
                "FOVEA_WORK_DIR": WORK_DIR,
                **own.env,
            },
            store_secret=self.store.secret,
            volumes=[*volumes, work, *own.volumes],
            mounts=[*mounts, {"name": "fovea-work", "mountPath": WORK_DIR}, *own.mounts],
            grace_seconds=int(self.spec.inference.timeout_seconds) + 3 * DRAIN_SECONDS,
        )
        return merged(whole, self.spec.pod_template, settings)


def public_key(version: DeployedVersion) -> str | None:
    """File in a pod with the key that must have signed the version's bundle; None: it need not be signed."""
    return f"{SECRETS_ROOT}/{version.verify}/{PUBLIC_KEY}" if version.verify is not None else None


def key_volumes(versions: Sequence[DeployedVersion], *secrets: str) -> tuple[list[JsonValue], list[JsonValue]]:
    """Volumes and mounts of the keys of versions, and of other Secrets."""
    return secret_volumes([*secrets, *(version.verify for version in versions if version.verify is not None)])


# --- Reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VersionState:
    """Where a version is in its runtime."""

    ready: bool = False
    """Whether it answers with all the replicas that it is to have."""
    answers: bool = False
    """Whether it answers with some of them at least."""
    replicas: int = 0
    """Its ready replicas."""
    reason: str = ""
    """What it waits for or what ended it, in a word; empty: nothing is known."""
    message: str = ""
    """The same in words."""
    refused: bool = False
    """Whether the runtime has given it up: nothing more happens until somebody changes something."""


def is_ready(pod: View) -> bool:
    """Whether a pod answers, and nobody has asked it to stop."""
    if text(pod, "metadata", "deletionTimestamp"):
        return False
    return any(
        text(condition, "type") == "Ready" and text(condition, "status") == "True"
        for condition in items(pod, "status", "conditions")
    )


def of_component(pods: Sequence[View], component: str) -> Iterator[View]:
    """The pods that are this component."""
    yield from (pod for pod in pods if text(mapping(pod, "metadata", "labels"), names.LABEL_COMPONENT) == component)


def host_names(pods: Sequence[View]) -> Iterator[str]:
    """Host names of the gateway pods that are ready, as the kubelet gives them."""
    for pod in filter(is_ready, of_component(pods, GATEWAY)):
        yield text(pod, "metadata", "name")[:_HOST_NAME_LENGTH].rstrip("-.")


def trouble(pods: Sequence[View], memory_field: str) -> tuple[str, str] | None:
    """What keeps pods from answering: what they wait for, or what ended their containers. A word, and words.

    `memory_field`: where their memory limit is set.
    """
    down = [pod for pod in pods if not is_ready(pod)]
    died = deaths(down, dict.fromkeys((GATEWAY, REPLICA, HEAD), memory_field))
    if died:
        return died[0].reason or "ContainerFailed", died[0].message
    return next(filter(None, map(waits_for, down)), None)
