"""What the console script asks kubectl for: objects of the cluster that its context names."""

from __future__ import annotations

import json
import re
import subprocess

from fovea_api.errors import InvalidInput, InvalidManifest, Retryable
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.trainingjob import TrainingJob
from pydantic import JsonValue, ValidationError

_FINAL = re.compile(r"\((NotFound|Forbidden|Unauthorized|BadRequest)\)|doesn't have a resource type")
"""In kubectl's words: what trying again does not change."""

DEPLOYMENTS = "modeldeployments.fovea.dev"
LIST_DEPLOYMENTS = "kubectl get modeldeployments --all-namespaces"


def get_object(kind: str, name: str, namespace: str | None, remedy: str) -> JsonValue:
    """An object as JSON.

    Args:
        kind: Its resource, such as `runs.fovea.dev`.
        name: Its name.
        namespace: Its namespace; None: kubectl's own.
        remedy: What to do where there is no such object.

    Raises:
        InvalidInput: there is no kubectl, no such kind or object, or it may not be read.
        Retryable: the API server cannot be reached.
    """
    value: JsonValue = json.loads(_kubectl(namespace, ["get", f"{kind}/{name}", "--output=json"], remedy))
    return value


def annotate(kind: str, name: str, namespace: str | None, annotation: str, value: str | None, remedy: str) -> None:
    """Sets an annotation of an object, or removes it (None). Raises as `get_object` does."""
    change = f"{annotation}-" if value is None else f"{annotation}={value}"
    _kubectl(namespace, ["annotate", f"{kind}/{name}", change, "--overwrite"], remedy)


def _kubectl(namespace: str | None, arguments: list[str], remedy: str) -> str:
    scope = [] if namespace is None else ["--namespace", namespace]
    try:
        return subprocess.run(["kubectl", *scope, *arguments], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        words = f"install it; it is asked for {arguments[1]}"
        raise InvalidInput("kubectl is not installed", None, words) from error
    except subprocess.CalledProcessError as error:
        said = ["kubectl failed", *str(error.stderr).strip().splitlines()][-1]
        if _FINAL.search(said):
            raise InvalidInput(said, None, remedy) from error
        raise Retryable(said, f"kubectl, asked for {arguments[1]}") from error


def get_deployment(name: str, namespace: str | None) -> ModelDeployment:
    """A ModelDeployment. Raises InvalidInput, Retryable."""
    try:
        return ModelDeployment.model_validate(get_object(DEPLOYMENTS, name, namespace, LIST_DEPLOYMENTS))
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "the ModelDeployment, as this version reads it") from error


def bundle_of(job: str, namespace: str | None) -> str:
    """URI of the bundle that a TrainingJob has trained. Raises InvalidInput, Retryable."""
    name = job.removeprefix("trainingjob/")
    given = get_object("trainingjobs.fovea.dev", name, namespace, "kubectl get trainingjobs --all-namespaces")
    try:
        status = TrainingJob.model_validate(given).status
    except ValidationError as error:
        raise InvalidManifest.from_validation(error, "the TrainingJob, as this version reads it") from error
    result = None if status is None else status.result
    if result is None:
        why = f"kubectl describe trainingjob {name} says how far it is"
        raise InvalidInput(f"the TrainingJob {name} has no model yet", None, why)
    return result.bundle
