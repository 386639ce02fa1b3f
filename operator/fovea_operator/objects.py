"""Kubernetes objects as JSON: the kinds the operator knows, keys, and typed access to what may be absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from fovea_api import names
from fovea_api.common import Model
from fovea_api.errors import InvalidManifest
from pydantic import JsonValue, ValidationError

JsonObject = dict[str, JsonValue]
View = Mapping[str, JsonValue]
M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A kind of object and where the API server has it."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version within the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection, of one object, or of its subresource."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(filter(None, (f"{root}{scope}/{self.plural}", name, subresource)))

    def __str__(self) -> str:
        return self.name


DATASET = Kind("Dataset", names.API_VERSION, "datasets")
TRAINING_JOB = Kind("TrainingJob", names.API_VERSION, "trainingjobs")
TUNING_SWEEP = Kind("TuningSweep", names.API_VERSION, "tuningsweeps")
MODEL_DEPLOYMENT = Kind("ModelDeployment", names.API_VERSION, "modeldeployments")
RUN = Kind("Run", names.API_VERSION, "runs")
RAY_JOB = Kind("RayJob", "ray.io/v1", "rayjobs")
RAY_CLUSTER = Kind("RayCluster", "ray.io/v1", "rayclusters")
RAY_SERVICE = Kind("RayService", "ray.io/v1", "rayservices")
JOB = Kind("Job", "batch/v1", "jobs")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")
SERVICE = Kind("Service", "v1", "services")
AUTOSCALER = Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
INGRESS = Kind("Ingress", "networking.k8s.io/v1", "ingresses")
HTTP_ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes")
POD = Kind("Pod", "v1", "pods")
NAMESPACE = Kind("Namespace", "v1", "namespaces", namespaced=False)
SECRET = Kind("Secret", "v1", "secrets")
CLAIM = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
SERVICE_ACCOUNT = Kind("ServiceAccount", "v1", "serviceaccounts")
ROLE = Kind("Role", "rbac.authorization.k8s.io/v1", "roles")
ROLE_BINDING = Kind("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
EVENT = Kind("Event", "events.k8s.io/v1", "events")
WORKLOAD = Kind("Workload", "kueue.x-k8s.io/v1beta2", "workloads")

CHILD_SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """One object."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def mapping(value: View, *path: str) -> View:
    """The object at the path; empty when anything on the way is absent."""
    inner: JsonValue = dict(value)
    for name in path:
        inner = inner.get(name) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else {}


def text(value: View, *path: str) -> str:
    """The string at the path; empty when absent."""
    part = mapping(value, *path[:-1]).get(path[-1])
    return part if isinstance(part, str) else ""


def flag(value: View, *path: str) -> bool:
    """Whether true stands at the path."""
    return mapping(value, *path[:-1]).get(path[-1]) is True


def number(value: View, *path: str) -> int:
    """The integer at the path; 0 when absent."""
    part = mapping(value, *path[:-1]).get(path[-1])
    return part if isinstance(part, int) else 0


def items(value: View, *path: str) -> Iterator[View]:
    """The objects of the list at the path."""
    part = mapping(value, *path[:-1]).get(path[-1])
    yield from (item for item in (part if isinstance(part, list) else ()) if isinstance(item, dict))


def time(value: View, *path: str) -> datetime | None:
    """The time at the path, in whole seconds of UTC."""
    part = text(value, *path)
    return datetime.fromisoformat(part).astimezone(UTC).replace(microsecond=0) if part else None


def key_of(kind: Kind, value: View) -> Key:
    """The key of an object."""
    return Key(kind, text(value, "metadata", "namespace"), text(value, "metadata", "name"))


def uid_of(value: View) -> str:
    """The uid of an object."""
    return text(value, "metadata", "uid")


def controller_uid(value: View) -> str:
    """The uid of the object that controls this one; empty when none does."""
    return next(
        (text(owner, "uid") for owner in items(value, "metadata", "ownerReferences") if flag(owner, "controller")), ""
    )


def parse(model: type[M], value: View) -> M:
    """Reads an object, which a newer version may have written: fields that this one does not know are passed over.

    Raises InvalidManifest where a field that it knows has a value that it does not, which could mean anything.
    """
    try:
        return model.model_validate(value, extra="ignore")
    except ValidationError as error:
        raise InvalidManifest.from_validation(
            error, f"{text(value, 'kind')} {text(value, 'metadata', 'name')}"
        ) from None
