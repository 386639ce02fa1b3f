"""What the gateway of a ModelDeployment goes by: which versions answer, where, and with which share of the requests.

The operator writes it (a ConfigMap, key `gateway.json`); the gateway watches that object and acts within seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fovea_api.common import Bool, BundleUri, Int, Model, Number, ObjectName, Percent
from fovea_api.modeldeployment import (
    Authentication,
    CapturePolicy,
    Inference,
    LabelStudioUrl,
    Milliseconds,
    Runtime,
    ServiceObjectives,
)

CONFIG_KEY = "gateway.json"
"""Key of the ConfigMap."""


class ServedVersion(Model):
    """A version of the model that is loaded in the runtime."""

    name: ObjectName
    """The run that made it, or the start of its bundle's digest. The metrics' label `run`."""
    role: Literal["Stable", "Candidate", "Shadow"]
    """Stable and Candidate answer requests; a Shadow gets copies, and its answers reach nobody."""
    weight: Percent = 0
    """Its share of the requests, in per cent; the weights of all versions sum to 100."""
    latency_limits_milliseconds: Annotated[tuple[Milliseconds, ...], Field(max_length=2)] = ()
    """Limits of the rollout's latency gates: requests that take longer than each are counted."""
    runtime: Runtime
    """What runs it."""
    bundle: BundleUri
    """Where its bundle lies; the gateway verifies it."""
    precision: Literal["FP32", "INT8"] | None = None
    """Which exported form is served. Absent: the bundle's own choice."""
    public_key: Annotated[str, Field(max_length=2048)] | None = None
    """File in the gateway's pod with the key that must have signed the bundle. Absent: it need not be signed."""
    address: Annotated[str, Field(max_length=2048)]
    """Where the runtime answers: `http://host:port/path` of a Ray Serve application, `host:port` of Triton's gRPC."""


class VersionLoad(Model):
    """A load test of a version that gets no requests yet."""

    id: Annotated[str, Field(max_length=64)]
    """Names the test; it is run once by each process."""
    version: ServedVersion
    """What is asked."""
    gateways: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(min_length=1, max_length=64)]
    """Host names of the gateways that share the load; no other takes part."""
    rate_per_second: Annotated[Number, Field(gt=0)] | None = None
    """Rate of the requests of all gateways together. Absent: each asks again as soon as it has its answer."""
    seconds: Annotated[Number, Field(gt=0)]
    """Duration, in seconds."""


class LabelStudioHost(Model):
    """The Label Studio whose images may be fetched."""

    url: LabelStudioUrl
    """Where it answers."""
    token: Annotated[str, Field(max_length=2048)] | None = None
    """File in the gateway's pod with the token for it. Absent: it needs none."""


class GatewayConfig(Model):
    """Everything that a gateway knows of its deployment."""

    namespace: ObjectName
    """Namespace of the ModelDeployment."""
    deployment: ObjectName
    """Its name."""
    versions: Annotated[tuple[ServedVersion, ...], Field(max_length=8)] = ()
    """The stable one first. Empty: no version is ready, and every request is answered with 503 and the reason."""
    mirror_percent: Percent = 0
    """Share of the candidate's requests that the stable version is asked too, to compare the answers."""
    revision: Annotated[str, Field(max_length=64)] = ""
    """Names versions, weights and limits together; the gateway reports the revision that it follows."""
    reason: Annotated[str, Field(max_length=1024)] = ""
    """Why no version is ready, for those who ask meanwhile."""
    inference: Inference = Inference()
    """How requests are answered."""
    authentication: Authentication = Authentication()
    """Who may ask."""
    objectives: ServiceObjectives | None = None
    """What is promised; the latency gets a bucket edge of its own."""
    captures: CapturePolicy | None = None
    """Which requests are kept. Absent: none."""
    feedback: Bool = False
    """Whether labels are taken by request id; all answers are kept for it, beside the captures."""
    label_studio: LabelStudioHost | None = None
    """Label Studio whose tasks are predicted. Absent: images are read from the tasks and the captures alone."""
    load_test: VersionLoad | None = None
    """Load test that is due. Absent: none."""
    gateways: Annotated[Int, Field(ge=1)] = 1
    """Gateways that share the limits of the captures."""


def limit_label(milliseconds: float) -> str:
    """The label of a latency limit in the metrics."""
    return f"{milliseconds:g}"
