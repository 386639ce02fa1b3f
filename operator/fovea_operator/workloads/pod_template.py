"""What every pod of a tenant has: environment, mounts, security, and the part that users may set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fovea_api import names
from fovea_api.common import PodTemplate, Resources, RunPolicy
from fovea_api.run import RunSpec
from fovea_api.trainingjob import Latency
from pydantic import JsonValue

from fovea_operator.objects import JsonObject
from fovea_operator.settings import Settings
from fovea_operator.store import claim_of, strings
from fovea_operator.workloads import run_spec
from fovea_operator.workloads.generators import (
    GENERATED_ROOT,
    NO_TOKEN_MOUNT,
    NO_TOKEN_VOLUME,
    OUTPUT,
    Program,
    programs,
)
from fovea_operator.workloads.work import Work

PVC_ROOT = "/fovea/pvc"
SECRETS_ROOT = "/fovea/secrets"
WORK_DIR = "/fovea/work"
ENTRYPOINT = "fovea run"
_RAY: Mapping[str, str] = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_COLOR_PREFIX": "0"}
TERMINATION_MESSAGE_POLICY = "FallbackToLogsOnError"
"""Puts the end of a dead container's log into the pod's status, where `pods` finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What Fovea puts into a pod; the user's part is merged into it."""

    container: str
    """Name of its container."""
    image: str
    labels: Mapping[str, str]
    env: Mapping[str, str]
    resources: Resources
    store_secret: str = ""
    """Secret whose entries are variables too; empty: none."""
    volumes: Sequence[JsonValue] = ()
    mounts: Sequence[JsonValue] = ()
    grace_seconds: int = 30
    """Time from SIGTERM to SIGKILL."""
    pod: JsonObject = field(default_factory=dict)
    """Further fields of the pod's spec."""
    main: JsonObject = field(default_factory=dict)
    """Further fields of the container."""


def merged(content: Content, extra: PodTemplate, settings: Settings) -> JsonObject:
    """A pod template. Security and what Fovea says of the pod are set after the user's part."""
    user = extra.to_dict()
    spec: JsonObject = {
        name: user[name]
        for name in ("nodeSelector", "tolerations", "affinity", "imagePullSecrets", "runtimeClassName")
        if user.get(name)
    }
    return {
        "metadata": {
            "labels": {**_map(user, "labels"), **content.labels},
            "annotations": _map(user, "annotations"),
        },
        "spec": spec
        | {
            "securityContext": security_context(settings),
            "terminationGracePeriodSeconds": content.grace_seconds,
            "enableServiceLinks": False,
            "containers": [_container(content, user, settings)],
            "volumes": [*_list(user, "volumes"), *content.volumes],
        }
        | content.pod,
    }


def _container(content: Content, user: JsonObject, settings: Settings) -> JsonObject:
    """The container that `content` describes, with the user's part of a pod template."""
    container: JsonObject = {
        "name": content.container,
        "image": content.image,
        "imagePullPolicy": settings.image_pull_policy,
        "terminationMessagePolicy": TERMINATION_MESSAGE_POLICY,
        "env": [*_list(user, "env"), *variables(content.env)],
        "resources": {name: part for name, part in content.resources.to_dict().items() if part},
        "volumeMounts": [*_list(user, "volumeMounts"), *content.mounts],
        "securityContext": container_security(),
    }
    if content.store_secret:
        container["envFrom"] = [{"secretRef": {"name": content.store_secret}}]
    return container | content.main


def pod_template(
    work: Work, container: str, resources: Resources, extra: PodTemplate, settings: Settings
) -> JsonObject:
    """Pod template of a run."""
    volumes, mounts = _volumes(work, settings)
    first = [_program(each, resources, extra, settings) for each in programs(dict(work.spec.recipe))]
    content = Content(
        container=container,
        image=work.image,
        labels=work.labels,
        env=_env(work, settings),
        resources=resources,
        store_secret=work.store.secret,
        volumes=volumes,
        mounts=mounts,
        grace_seconds=settings.termination_grace_seconds,
        pod={"serviceAccountName": names.RUN_SERVICE_ACCOUNT} | ({"initContainers": [*first]} if first else {}),
    )
    return merged(content, extra, settings)


def _program(program: Program, resources: Resources, extra: PodTemplate, settings: Settings) -> JsonObject:
    """The container that runs the program of a source: of the run it is given nothing, not even the token."""
    content = Content(
        container=program.name,
        image=program.image,
        labels={},
        env={OUTPUT: program.folder},
        resources=resources,
        mounts=[program.mount(read_only=False), NO_TOKEN_MOUNT],
        main={"args": [*program.args]} if program.args else {},
    )
    return _container(content, extra.to_dict(), settings)


def latency_pod_template(
    work: Work, container: str, latency: Latency, extra: PodTemplate, settings: Settings
) -> JsonObject:
    """Pod template of what measures a run's latency on a node of its own.

    It is given the model by Ray: no store, claim or volume, which could tie it to other nodes, and no ServiceAccount.
    """
    own = extra.model_copy(update={"volumes": (), "volume_mounts": ()})
    if latency.node_selector:
        own = own.model_copy(update={"node_selector": latency.node_selector, "affinity": None})
        if not latency.gpu:  # a RuntimeClass for the run's GPUs, which this node need not have
            own = own.model_copy(update={"runtime_class_name": None})
    content = Content(
        container=container,
        image=work.image,
        labels=work.labels,
        env=_RAY,
        resources=latency.resources,
        grace_seconds=settings.termination_grace_seconds,
        pod={"automountServiceAccountToken": False},
    )
    return merged(content, own, settings)


def main_container(template: JsonObject) -> JsonObject:
    """The one container of a template that `pod_template` made."""
    spec = _map(template, "spec")
    container = _list(spec, "containers")[0]
    assert isinstance(container, dict)
    return container


def queue_labels(policy: RunPolicy, settings: Settings) -> dict[str, str]:
    """Kueue's labels on a child: its own queue, else the installation's. Kueue then owns its `suspend`."""
    labels = {
        names.LABEL_QUEUE: policy.queue_name or settings.queue_name,
        names.LABEL_PRIORITY: policy.workload_priority_class_name,
    }
    return {name: value for name, value in labels.items() if value}


def security_context(settings: Settings) -> JsonObject:
    """The pod's part of the restricted Pod Security Standard."""
    context: JsonObject = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.run_user:
        context |= dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), settings.run_user)
        context["fsGroupChangePolicy"] = "OnRootMismatch"
    return context


def variables(values: Mapping[str, str]) -> list[JsonValue]:
    """Environment variables as a container lists them."""
    return [{"name": name, "value": value} for name, value in values.items()]


def container_security() -> JsonObject:
    """A container's part of the restricted Pod Security Standard."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def claim_volumes(claims: Mapping[str, bool]) -> tuple[list[JsonValue], list[JsonValue]]:
    """Volumes and mounts of PersistentVolumeClaims, where `pvc://` is looked for; by name whether one is written."""
    volumes: list[JsonValue] = []
    mounts: list[JsonValue] = []
    for index, (claim, writable) in enumerate(sorted(claims.items())):
        volume = f"fovea-pvc-{index}"
        volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": volume, "mountPath": f"{PVC_ROOT}/{claim}", "readOnly": not writable})
    return volumes, mounts


def secret_volumes(secrets: Iterable[str]) -> tuple[list[JsonValue], list[JsonValue]]:
    """Volumes and mounts of Secrets, a folder each."""
    volumes: list[JsonValue] = []
    mounts: list[JsonValue] = []
    for index, secret in enumerate(sorted(set(secrets))):
        volume = f"fovea-secret-{index}"
        volumes.append({"name": volume, "secret": {"secretName": secret, "defaultMode": 0o440}})
        mounts.append({"name": volume, "mountPath": f"{SECRETS_ROOT}/{secret}", "readOnly": True})
    return volumes, mounts


def _env(work: Work, settings: Settings) -> dict[str, str]:
    return {
        **run_spec.environment(work),
        "FOVEA_RUN_NAME": work.run,
        "FOVEA_NAMESPACE": work.namespace,
        "FOVEA_ATTEMPT": str(work.attempt),
        "FOVEA_CLUSTER_UID": work.store.cluster,
        "FOVEA_NAMESPACE_UID": work.store.namespace,
        "FOVEA_ADOPT": work.store.adopt,
        "FOVEA_PVC_ROOT": PVC_ROOT,
        "FOVEA_SECRETS_ROOT": SECRETS_ROOT,
        "FOVEA_GENERATED_ROOT": GENERATED_ROOT,
        "FOVEA_WORK_DIR": WORK_DIR,
        "FOVEA_WORK_DIR_SIZE": settings.work_dir_size,
        **_RAY,
    }


def _volumes(work: Work, settings: Settings) -> tuple[list[JsonValue], list[JsonValue]]:
    volumes, mounts = run_spec.volumes(work)
    volumes.append({"name": "fovea-work", "emptyDir": {"sizeLimit": settings.work_dir_size}})
    mounts.append({"name": "fovea-work", "mountPath": WORK_DIR})
    claims, secrets = claim_volumes(_claims(work.spec)), secret_volumes(_secrets(dict(work.spec.recipe)))
    written = tuple(programs(dict(work.spec.recipe)))
    volumes += [program.volume(settings.work_dir_size) for program in written] + [NO_TOKEN_VOLUME] * bool(written)
    mounts += [program.mount(read_only=True) for program in written]
    return [*volumes, *claims[0], *secrets[0]], [*mounts, *claims[1], *secrets[1]]


def _claims(spec: RunSpec) -> dict[str, bool]:
    """Claims that the run spec names, and whether a run writes there: only the store and an export for review.

    What a program makes of its arguments is its own business.
    """
    claims: dict[str, bool] = {}
    for path, uri in strings(spec.to_dict()):
        if path[-2:] != ("generator", "args") and (claim := claim_of(uri)) is not None:
            writable = path == ("store",) or path[-2:] == ("export", "uri")
            claims[claim] = claims.get(claim, False) or writable
    return claims


def _secrets(recipe: JsonValue) -> Iterator[str]:
    yield from (name for path, name in strings(recipe) if path[-2:] == ("secretRef", "name"))


def _list(value: JsonObject, name: str) -> list[JsonValue]:
    part = value.get(name)
    return part if isinstance(part, list) else []


def _map(value: JsonObject, name: str) -> JsonObject:
    part = value.get(name)
    return part if isinstance(part, dict) else {}
