"""How a run's spec gets into its pods: in an environment variable, or where it is too large, in a mounted ConfigMap.

The kernel takes no variable over 128 KiB. The ConfigMap belongs to the Run and is immutable, and the pod has the digest
of what it must hold: who can write ConfigMaps in the namespace still cannot give a run another spec.
"""

from __future__ import annotations

import base64
import gzip
import hashlib

from pydantic import JsonValue

from fovea_operator.objects import CONFIG_MAP, JsonObject
from fovea_operator.workloads.work import Work

VARIABLE_BYTES = 64 << 10
"""The largest spec that is handed over in a variable: a RayJob holds the pods' environment twice, and copies of it."""
FOLDER, FILE, KEY = "/fovea/run", "/fovea/run/spec.json.gz", "spec.json.gz"
_VOLUME = "fovea-run-spec"


def environment(work: Work) -> dict[str, str]:
    """The variables by which the pod finds the spec."""
    text = _text(work)
    if not needs_config_map(work):
        return {"FOVEA_RUN": text.decode()}
    return {"FOVEA_RUN_FILE": FILE, "FOVEA_RUN_SHA256": hashlib.sha256(text).hexdigest()}


def needs_config_map(work: Work) -> bool:
    """Whether the spec is too large for a variable."""
    return len(_text(work)) > VARIABLE_BYTES


def volumes(work: Work) -> tuple[list[JsonValue], list[JsonValue]]:
    """The volume and its mount, where the spec lies in a ConfigMap."""
    if not needs_config_map(work):
        return [], []
    volume: JsonObject = {"name": _VOLUME, "configMap": {"name": work.name, "defaultMode": 0o444}}
    return [volume], [{"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}]


def config_map(work: Work) -> JsonObject:
    """The ConfigMap of an attempt, named after its child."""
    packed = gzip.compress(_text(work), mtime=0)
    return {
        "apiVersion": CONFIG_MAP.api_version,
        "kind": CONFIG_MAP.name,
        "metadata": {"name": work.name, "namespace": work.namespace, "labels": dict(work.labels)},
        "immutable": True,
        "binaryData": {KEY: base64.b64encode(packed).decode()},
    }


def _text(work: Work) -> bytes:
    return work.spec.model_dump_json(exclude_none=True, by_alias=True).encode()
