"""The planner of a ModelDeployment: the way of a version from its bundle to its last request, and other situations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest
from fovea_api.gateway import CONFIG_KEY, GatewayConfig, limit_label
from fovea_api.modeldeployment import ModelDeployment
from fovea_api.run import Run
from fovea_api.trainingjob import TrainingJob
from fovea_operator.kinds.modeldeployment.plan import plan_deployment
from fovea_operator.kinds.modeldeployment.snapshot import DeploymentSnapshot
from fovea_operator.measurement import FAILED, NOTHING, SHED, SLOW, TESTED, Measured, Sample, Series, summarize
from fovea_operator.objects import (
    CONFIG_MAP,
    DEPLOYMENT,
    HTTP_ROUTE,
    MODEL_DEPLOYMENT,
    RAY_SERVICE,
    SERVICE,
    JsonObject,
    Key,
    Kind,
    mapping,
    parse,
    text,
)
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.writes import Apply, Delete, Emit, Plan, SetStatus

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key(MODEL_DEPLOYMENT, "ns", "cells")
OLD, NEW = "r-000001", "r-000002"
SETTINGS = Settings()
CURRENT = "current"
"""The revision that the gateways were given last."""
FOLLOWED = Measured(revisions={"10.0.0.1": CURRENT})
"""The gateway goes by what it was given."""


def deployment(**spec: Any) -> JsonObject:
    return {
        "apiVersion": "fovea.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "cells", "namespace": "ns", "uid": "u-md", "generation": 1},
        "spec": {"model": {"trainingJobRef": {"name": "cells"}}, "rollout": {"strategy": "Recreate"}, **spec},
    }


def training(name: str, minute: int, recall: float = 0.9) -> Run:
    """A run whose bundle is eligible from a recall of 0.8 on."""
    return parse(
        Run,
        {
            "apiVersion": "fovea.dev/v1alpha1",
            "kind": "Run",
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z"},
            "spec": {
                "type": "Training",
                "owner": {"kind": "TrainingJob", "name": "cells"},
                "identity": "sha256-" + "1" * 64,
                "recipe": {},
                "inputs": {},
                "execution": {"workers": 1},
                "image": "trainer",
                "store": "s3://fovea/ns",
            },
            "status": {
                "result": {
                    "completedAt": "2026-01-01T01:00:00Z",
                    "artifact": f"s3://fovea/ns/bundles/{name}/",
                    "digest": "sha256-" + "b" * 64,
                    "metrics": {"test/recall": recall},
                }
            },
        },
    )


JOB = parse(
    TrainingJob,
    {
        "metadata": {"name": "cells", "namespace": "ns"},
        "spec": {
            "datasetRef": {"name": "cells"},
            "model": {"architecture": "retinanet-efficientnet-lite0"},
            "successCriteria": [{"metric": "test/recall", "min": 0.8}],
        },
    },
)


@dataclass
class World:
    """Carries plans out on a dictionary; the runtimes answer as told."""

    value: JsonObject = field(default_factory=deployment)
    trainings: tuple[Run, ...] = ()
    running: set[str] = field(default_factory=set)
    """Versions that the runtime has loaded."""
    children: dict[Key, JsonObject] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    now: datetime = START
    gateways: int = 1
    measured: Measured = NOTHING
    more: dict[str, Any] = field(default_factory=dict)
    configs: list[GatewayConfig] = field(default_factory=list)
    """All that the gateways were given, one after the other."""

    def step(self) -> Plan:
        self._play()
        plan = plan_deployment(self._snapshot(), SETTINGS)
        for write in plan.writes:
            match write:
                case Apply():
                    known = self.children.get(write.key, {})
                    status = {"status": known["status"]} if "status" in known else {}
                    self.children[write.key] = {**write.manifest, **status}
                    if write.key.kind == CONFIG_MAP and known.get("data") != write.manifest["data"]:
                        text_ = text(write.manifest, "data", CONFIG_KEY)
                        self.configs.append(GatewayConfig.model_validate_json(text_))
                case Delete():
                    del self.children[write.key]
                case SetStatus():
                    self.value = {**self.value, "status": write.status}
                case Emit():
                    self.events.append(write.reason)
        return plan

    def settle(self, steps: int = 5, seconds: float = 0) -> None:
        for _ in range(steps):
            self.now += timedelta(seconds=seconds)
            self.step()

    def _snapshot(self) -> DeploymentSnapshot:
        return DeploymentSnapshot(
            deployment=parse(ModelDeployment, self.value),
            job=JOB,
            trainings=self.trainings,
            children=dict(self.children),
            pods=tuple(self._pods()),
            store=StoreConfig("s3://fovea/ns", "fovea-store"),
            measured=self._measured(),
            now=self.now,
            **self.more,
        )

    def _measured(self) -> Measured:
        given = self.configs[-1].revision if self.configs else ""
        seen = {pod: given if revision == CURRENT else revision for pod, revision in self.measured.revisions.items()}
        return replace(self.measured, revisions=seen)

    def _pods(self) -> list[JsonObject]:
        def pod(component: str, name: str) -> JsonObject:
            labels = {"fovea.dev/component": component}
            ready = {"type": "Ready", "status": "True"}
            return {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Running", "conditions": [ready]}}

        pods = [pod("gateway", f"gateway-{number}") for number in range(self.gateways)]
        if any(key.kind == RAY_SERVICE for key in self.children):
            pods += [pod("head", "head"), pod("replica", "worker")]
        return pods

    def _play(self) -> None:
        """KubeRay's part and the Deployment controller's: what is in `running` is loaded as soon as it is asked for."""
        for key, child in self.children.items():
            if key.kind == RAY_SERVICE:
                states = {name: {"status": "RUNNING" if name in self.running else "DEPLOYING"} for name in self.loaded}
                child["status"] = {"activeServiceStatus": {"applicationStatuses": states}}
            if key.kind == DEPLOYMENT and any(key.name.endswith(name) for name in self.running):
                child["status"] = {"availableReplicas": 1, "observedGeneration": 1}

    def child(self, kind: Kind, name: str) -> JsonObject:
        return self.children[Key(kind, "ns", name)]

    @property
    def loaded(self) -> dict[str, Any]:
        """The applications of Ray Serve, by name."""
        value = next((value for key, value in self.children.items() if key.kind == RAY_SERVICE), None)
        if value is None:
            return {}
        return {each["name"]: each for each in json.loads(text(value, "spec", "serveConfigV2"))["applications"]}

    @property
    def config(self) -> GatewayConfig:
        return GatewayConfig.model_validate_json(text(self.child(CONFIG_MAP, "cells-gateway"), "data", CONFIG_KEY))

    @property
    def status(self) -> Mapping[str, Any]:
        return mapping(self.value, "status")

    def says(self, type: str = "Ready") -> tuple[str, str, str]:
        found = next(each for each in self.status["conditions"] if each["type"] == type)
        return found["status"], found["reason"], found["message"]

    @property
    def answering(self) -> list[str]:
        return [version.name for version in self.config.versions]


def served() -> World:
    """A deployment that serves OLD."""
    world = World(trainings=(training(OLD, 1),), running={OLD}, measured=FOLLOWED)
    world.settle()
    assert world.answering == [OLD]
    assert world.says()[0] == "True"
    world.measured = NOTHING
    return world


def test_from_nothing_to_a_version_that_serves() -> None:
    world = World()
    world.settle()
    assert world.says()[:2] == ("False", "NoEligibleBundle")
    assert world.status["phase"] == "Pending"
    assert world.config.versions == ()
    assert "NoEligibleBundle" in world.config.reason, "the gateway says why"
    assert world.child(DEPLOYMENT, "cells-gateway")
    assert not world.loaded

    world.trainings = (training(OLD, 1),)
    world.settle()
    assert list(world.loaded) == [OLD]
    assert world.loaded[OLD]["args"] == {"bundle": f"s3://fovea/ns/bundles/{OLD}/"}
    assert world.status["candidate"]["run"] == OLD
    assert "stable" not in world.status
    assert world.says("Reconciling")[0] == "True"
    assert world.answering == []

    world.running = {OLD}
    world.settle()
    assert world.answering == [OLD]
    assert world.says()[:2] == ("False", "Starting"), "a request that came now would be answered with 503"
    assert world.step().requeue_after is not None
    world.measured = FOLLOWED
    world.settle()
    assert world.says()[:2] == ("True", "Serving")
    assert world.says("Reconciling")[0] == "False"
    assert world.answering == [OLD]
    assert world.config.versions[0].weight == 100
    assert world.config.versions[0].address == f"http://cells-serve-svc.ns.svc:8000/{OLD}"
    assert world.status["stable"]["bundle"] == f"s3://fovea/ns/bundles/{OLD}/"
    assert "candidate" not in world.status
    assert world.status["url"] == "http://cells.ns.svc.cluster.local"
    assert world.status["phase"] == "Ready"
    assert world.status["replicas"] == 1
    assert world.events == ["RolloutStarted", "Promoted"]


def test_nothing_is_written_when_nothing_changes() -> None:
    world = served()
    before = dict(world.children)
    assert not [write for write in world.step().writes if isinstance(write, SetStatus | Emit | Delete)]
    assert world.children == before


def test_a_new_bundle_is_loaded_beside_the_old_one_then_gets_everything_then_the_old_one_goes() -> None:
    world = served()
    world.trainings = (training(NEW, 2), *world.trainings)
    world.settle(seconds=1)
    assert list(world.loaded) == [OLD, NEW]
    assert world.answering == [OLD]
    assert world.says()[0] == world.says("Reconciling")[0] == "True"
    assert world.status["phase"] == "Progressing"
    one = world.loaded[OLD]

    world.running |= {NEW}
    world.step()
    assert world.status["retiring"]["run"] == OLD
    assert world.answering == [OLD], "the traffic follows what is recorded, and nothing that is not"
    world.step()
    assert world.answering == [NEW]
    assert world.loaded[OLD] == one, "the switch touches nothing in the runtime"
    assert list(world.loaded) == [OLD, NEW]
    world.settle(seconds=1)
    assert list(world.loaded) == [OLD, NEW], "requests may still be with it"
    world.measured = FOLLOWED
    world.settle(seconds=1)
    assert list(world.loaded) == [OLD, NEW], "a request may take inference.timeoutSeconds"
    world.settle(seconds=2)
    assert list(world.loaded) == [NEW]
    assert "retiring" not in world.status
    assert world.events[-3:] == ["RolloutStarted", "Promoted", "VersionRemoved"]
    assert [names for names, _ in groupby([each.name for each in one.versions] for one in world.configs)] == [
        [],
        [OLD],
        [NEW],
    ]


def test_the_old_version_stays_for_a_gateway_that_cannot_be_asked_until_the_grace_is_over() -> None:
    world = served()
    world.trainings, world.running = (training(NEW, 2), *world.trainings), {OLD, NEW}
    world.measured = Measured(revisions={"10.0.0.1": CURRENT}, silent=1)
    world.settle(steps=20, seconds=1)
    assert list(world.loaded) == [OLD, NEW]
    world.settle(steps=30, seconds=1)
    assert list(world.loaded) == [NEW], "after the grace it goes all the same"


def test_the_old_version_stays_as_long_as_a_gateway_follows_another_configuration_and_then_drains() -> None:
    world = served()
    world.trainings, world.running = (training(NEW, 2), *world.trainings), {OLD, NEW}
    for _ in range(300):
        world.measured = Measured(
            revisions={"10.0.0.1": CURRENT, "10.0.0.2": "before"},
            samples={"10.0.0.2": [Sample(world.now.timestamp(), {})]},
        )
        world.settle(steps=1, seconds=1)
    assert list(world.loaded) == [OLD, NEW], "a gateway sends requests to it"
    assert "until all gateways have left it" in world.says("Reconciling")[2]
    world.measured = Measured(revisions={"10.0.0.1": CURRENT, "10.0.0.2": CURRENT})
    world.settle(steps=10, seconds=1)
    assert list(world.loaded) == [OLD, NEW], "what it sent a moment ago may take inference.timeoutSeconds"
    world.settle(steps=10, seconds=1)
    assert list(world.loaded) == [NEW]


def test_a_bundle_that_the_runtime_refuses_never_serves_and_the_old_one_does() -> None:
    world = served()
    world.trainings = (training(NEW, 2), *world.trainings)
    world.settle()
    world._play = lambda: None  # type: ignore[method-assign]
    words = "Traceback:\n  raise\nCorruptBundle: model.onnx: the content's SHA-256 is not …"
    states = {OLD: {"status": "RUNNING"}, NEW: {"status": "DEPLOY_FAILED", "message": words}}
    world.child(RAY_SERVICE, "cells")["status"] = {"activeServiceStatus": {"applicationStatuses": states}}
    world.settle(steps=40, seconds=10)
    assert world.answering == [OLD]
    assert world.says()[:2] == ("True", "Serving")
    status, reason, message = world.says("Stalled")
    assert (status, reason) == ("True", "RolledBack")
    assert "SHA-256" in message
    assert "fovea.dev/retry" in message
    assert world.status["phase"] == "Degraded"
    assert world.events.count("RolledBack") == 1
    assert list(world.loaded) == [OLD]


def test_a_deployment_is_ready_while_ray_moves_it_to_another_cluster() -> None:
    """KubeRay forgets the applications of the cluster that answers until the other one has taken over."""
    world = served()
    world._play = lambda: None  # type: ignore[method-assign]
    state: JsonObject = {
        "activeServiceStatus": {"rayClusterName": "cells-a"},
        "pendingServiceStatus": {"rayClusterName": "cells-b"},
        "numServeEndpoints": 2,
    }
    world.child(RAY_SERVICE, "cells")["status"] = state
    world.settle()
    assert world.says()[:2] == ("True", "Serving")
    assert world.says("Reconciling")[:2] == ("True", "Moving")
    failed: JsonObject = {"applicationStatuses": {OLD: {"status": "DEPLOY_FAILED", "message": "no such device"}}}
    pending = {"rayClusterName": "cells-b", **failed}
    world.child(RAY_SERVICE, "cells")["status"] = {**state, "pendingServiceStatus": pending}
    world.settle()
    assert world.says()[:2] == ("True", "Serving"), "the cluster before answers as it did"
    assert world.says("Stalled")[:2] == ("True", "BundleRefused")
    world.child(RAY_SERVICE, "cells")["status"] = {**state, "numServeEndpoints": 0}
    world.settle()
    assert world.says()[:2] == ("False", "Loading")


@pytest.mark.parametrize("recall", [0.5, 0.79])
def test_what_misses_its_criteria_is_never_rolled_out(recall: float) -> None:
    world = served()
    world.trainings = (training(NEW, 2, recall), *world.trainings)
    world.settle()
    assert list(world.loaded) == [OLD]
    assert world.says()[0] == "True"


def test_a_newer_bundle_takes_the_place_of_one_that_is_still_being_loaded() -> None:
    world = served()
    world.trainings = (training(NEW, 2), *world.trainings)
    world.settle()
    world.trainings = (training("r-000003", 3), *world.trainings)
    world.settle()
    assert list(world.loaded) == [OLD, "r-000003"]
    assert world.status["candidate"]["run"] == "r-000003"


def test_precision_is_another_version_and_thresholds_are_not() -> None:
    world = served()
    world.value = {**world.value, "spec": {**mapping(world.value, "spec"), "inference": {"confidenceThreshold": 0.7}}}
    world.settle()
    assert list(world.loaded) == [OLD]
    assert world.loaded[OLD]["deployments"][0]["user_config"]["confidenceThreshold"] == 0.7
    assert world.config.inference.confidence_threshold == 0.7
    model = {"trainingJobRef": {"name": "cells"}, "precision": "INT8"}
    world.value = {**world.value, "spec": {**mapping(world.value, "spec"), "model": model}}
    world.settle()
    assert list(world.loaded) == [OLD, f"{OLD}-int8"]
    assert world.loaded[f"{OLD}-int8"]["args"]["precision"] == "INT8"


def test_the_runtime_is_switched_behind_the_gateway() -> None:
    world = served()
    world.value = {**world.value, "spec": {**mapping(world.value, "spec"), "runtime": "Triton"}}
    world.running = set()  # the new one is not up yet
    world.settle()
    assert world.child(DEPLOYMENT, f"cells-{OLD}")
    assert world.answering == [OLD]
    assert world.config.versions[0].runtime == "RayServe"
    world.running = {OLD}
    world.settle()
    assert world.config.versions[0].runtime == "Triton"
    assert world.config.versions[0].address == f"cells-{OLD}.ns.svc:8001"
    assert world.loaded, "both are up for the switch"
    world.settle(steps=60, seconds=1)
    assert not world.loaded
    assert Key(RAY_SERVICE, "ns", "cells") not in world.children
    assert world.child(SERVICE, f"cells-{OLD}")


def test_scaled_to_zero_and_back() -> None:
    world = served()
    spec = mapping(world.value, "spec")
    world.value = {**world.value, "spec": {**spec, "scaling": {"replicas": 0}}}
    world.settle()
    assert world.says()[:2] == ("True", "ScaledToZero")
    assert world.status["replicas"] == 0
    assert not world.loaded
    assert world.answering == []
    assert "spec.scaling.replicas" in world.config.reason
    world.value = {**world.value, "spec": {**spec, "scaling": {"replicas": 2}}}
    world.settle()
    assert world.answering == [OLD]
    assert world.loaded[OLD]["deployments"][0]["num_replicas"] == 2


def test_autoscaling_is_the_runtimes_own() -> None:
    bounds = {"replicas": 1, "minReplicas": 1, "maxReplicas": 8, "targetOngoingRequests": 4}
    world = World(deployment(scaling=bounds), (training(OLD, 1),))
    world.settle()
    scaling = world.loaded[OLD]["deployments"][0]["autoscaling_config"]
    assert scaling == {"min_replicas": 1, "initial_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 4}
    world = World(deployment(scaling=bounds, runtime="Triton"), (training(OLD, 1),))
    world.settle()
    assert "replicas" not in mapping(world.child(DEPLOYMENT, f"cells-{OLD}"), "spec"), "they are the autoscaler's"


def test_a_kind_that_the_cluster_lacks_costs_nothing_but_itself() -> None:
    world = World(deployment(expose={"hostname": "cells.example.com", "gatewayRef": {"name": "public"}}))
    world.trainings, world.running, world.measured = (training(OLD, 1),), {OLD}, FOLLOWED
    world.more = {"lacking": frozenset({HTTP_ROUTE})}
    world.settle()
    assert world.answering == [OLD], "inside of the cluster it serves"
    assert world.says()[:2] == ("False", "GatewayAPIMissing")
    assert "install" in world.says("Stalled")[2]
    world.more = {}
    world.settle()
    assert world.says()[:2] == ("True", "Serving")
    assert world.status["url"] == "https://cells.example.com"
    rules = mapping(world.child(HTTP_ROUTE, "cells"), "spec")
    assert rules["hostnames"] == ["cells.example.com"]
    assert rules["parentRefs"] == [{"name": "public"}]

    world = World(trainings=(training(OLD, 1),), more={"lacking": frozenset({RAY_SERVICE})})
    world.settle()
    assert world.says()[1] == "KubeRayMissing"
    assert Key(RAY_SERVICE, "ns", "cells") not in world.children


def test_what_does_not_act_yet_is_said_and_served_all_the_same() -> None:
    world = World(deployment(runtime="Triton", scaling={"minReplicas": 0, "maxReplicas": 2}))
    world.trainings, world.running, world.measured = (training(OLD, 1),), {OLD}, FOLLOWED
    world.settle()
    assert world.says()[:2] == ("True", "Serving")
    status, reason, message = world.says("FullySupported")
    assert (status, reason) == ("False", "NotSupported")
    assert "spec.scaling.minReplicas 0" in message
    assert world.events.count("NotSupported") == 1


def test_the_service_has_both_protocols_at_the_ports_that_the_gateway_listens_on() -> None:
    world = served()
    ports = {
        each["name"]: (each["port"], each["targetPort"]) for each in world.child(SERVICE, "cells")["spec"]["ports"]
    }
    assert ports == {"http": (80, 8080), "grpc": (8001, 8001)}
    gateway: Any = world.child(DEPLOYMENT, "cells-gateway")
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    listened = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert {"http": 8080, "grpc": 8001}.items() <= listened.items()
    command = container["command"]
    assert command[command.index("--grpc-port") + 1] == "8001"


def test_a_signed_bundle_is_a_version_of_its_own_and_one_that_is_refused_leaves_what_serves() -> None:
    world = served()
    uri = "s3://models/cells"
    for name, model in (("plain", {"uri": uri}), ("signed", {"uri": uri, "verify": {"name": "key"}})):
        world.value = {**world.value, "spec": {**mapping(world.value, "spec"), "model": model}}
        world.settle(2)
        candidate = mapping(world.status, "candidate")
        assert candidate.get("verify") == ("key" if name == "signed" else None)
    assert text(candidate, "name").startswith("b-")
    assert "-key-" in text(candidate, "name")
    assert world.answering == [OLD], "what serves is left alone until the new version is ready"
    application = world.loaded[text(candidate, "name")]
    assert application["args"]["publicKey"] == "/fovea/secrets/key/cosign.pub"


@pytest.mark.parametrize("secret", ["keys", "key"], ids=["two Secrets", "one Secret for both"])
def test_the_gateway_too_is_given_the_key_that_must_have_signed_a_bundle(secret: str) -> None:
    world = World(
        deployment(
            model={"uri": "s3://models/cells", "verify": {"name": "key"}},
            authentication={"type": "APIKey", "secretRef": {"name": secret}},
        )
    )
    world.settle()
    (name,) = world.loaded
    world.running = {name}
    world.settle()
    (version,) = world.config.versions
    assert version.public_key == "/fovea/secrets/key/cosign.pub"
    gateway: Any = world.child(DEPLOYMENT, "cells-gateway")
    pod = gateway["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    mounted = {each["secret"]["secretName"]: mounts[each["name"]] for each in pod["volumes"] if "secret" in each}
    assert {each: mounted[each] for each in (secret, "key")} == {
        each: f"/fovea/secrets/{each}" for each in (secret, "key")
    }
    assert served().config.versions[0].public_key is None


def test_a_head_or_a_gateway_that_is_away_makes_it_not_ready_and_leaves_the_traffic_alone() -> None:
    world = served()
    world.gateways = 0
    world.settle()
    assert world.says()[:2] == ("False", "GatewayStarting")
    assert world.status["phase"] == "Degraded"
    world.gateways = 1
    pods = world._pods()
    world._pods = lambda: [pod for pod in pods if text(pod, "metadata", "name") != "head"]  # type: ignore[method-assign]
    world.settle()
    assert world.says()[:2] == ("False", "RayHeadDown")
    assert world.says("Reconciling")[0] == "True"
    assert world.answering == [OLD], "the gateway itself answers 503 and recovers"


def test_objectives_are_judged_by_what_is_measured_and_by_nothing_else() -> None:
    world = World(deployment(objectives={"latencyP95Milliseconds": 80, "errorRate": 0.01, "throughputPerSecond": 5}))
    world.trainings, world.running = (training(OLD, 1),), {OLD}
    world.settle()
    assert world.says("ObjectivesMet")[:2] == ("Unknown", "TooLittleMeasured")
    assert [each.get("met") for each in world.status["objectives"]] == [None, None, None]
    good = Measured(120, {"200": 1200}, {0.05: 1100, 0.08: 1190, float("inf"): 1200})
    world.measured = good
    world.settle()
    assert world.says("ObjectivesMet")[:2] == ("True", "ObjectivesMet")
    assert world.status["metrics"]["requestsPerSecond"] == 10
    assert world.status["metrics"]["errorRate"] == 0
    world.measured = replace(good, requests={"200": 1100, "500": 100})
    world.settle()
    status, _, message = world.says("ObjectivesMet")
    assert status == "False"
    assert "errorRate is 0.0833, target 0.01" in message


def test_names_of_children_fit_every_kind() -> None:
    long = "a" * 63
    world = World({**deployment(), "metadata": {**mapping(deployment(), "metadata"), "name": long}})
    world.trainings = (training(OLD, 1),)
    world.settle()
    assert all(len(key.name) <= 47 for key in world.children)
    assert len({key.name for key in world.children}) >= 4, "a cut name is not another's"


# --- Rollouts --------------------------------------------------------------------------------------------------------

RATIO = {"metric": "latencyP95Milliseconds", "maxRatioToStable": 1.2}


class Gateways:
    """Counters of two gateway pods, read every ten seconds."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.values: list[dict[Series, float]] = [{}, {}]
        self.samples: list[list[Sample]] = [[], []]

    def count(self, name: str, run: str, role: str, number: float, label: str = "", pod: int = 0) -> None:
        series = Series(name, run, role, label)
        self.values[pod][series] = self.values[pod].get(series, 0.0) + number

    def answer(self, candidate: int, failed: int = 0, slow: int = 0) -> None:
        """So many requests to the candidate, and stable's beside them by its weight."""
        shares = {version.role: version for version in self.world.config.versions}
        if "Candidate" not in shares:
            return
        tested, stable = shares["Candidate"], shares["Stable"]
        self.count(TESTED, tested.name, "candidate", candidate, pod=1)
        self.count(FAILED, tested.name, "candidate", failed)
        self.count(TESTED, stable.name, "stable", candidate * stable.weight / tested.weight)
        for limit in tested.latency_limits_milliseconds:
            self.count(SLOW, tested.name, "candidate", slow, limit_label(limit))
        for limit in stable.latency_limits_milliseconds:
            self.count(
                SLOW, stable.name, "stable", 0.05 * candidate * stable.weight / tested.weight, limit_label(limit)
            )

    def look(self, seconds: float = 10) -> None:
        self.world.now += timedelta(seconds=seconds)
        for pod, values in enumerate(self.values):
            self.samples[pod].append(Sample(self.world.now.timestamp(), dict(values)))
        pods = {f"10.0.0.{pod}": samples[-12:] for pod, samples in enumerate(self.samples)}
        self.world.measured = replace(
            summarize(pods, 0), revisions=dict.fromkeys(pods, CURRENT), of_stable={OLD: {0.1: 95.0, 0.2: 100.0}}
        )
        self.world.step()
        self.world.step()


def rollout(scaling: JsonObject | None = None, **spec: Any) -> tuple[World, Gateways]:
    """OLD serves, NEW is loaded and gets its first requests."""
    world = World(
        deployment(rollout=spec, scaling=scaling or {}), (training(OLD, 1),), {OLD}, measured=FOLLOWED, gateways=2
    )
    world.measured = Measured(revisions=dict.fromkeys(("10.0.0.0", "10.0.0.1"), CURRENT))
    world.settle()
    assert world.answering == [OLD]
    world.trainings, world.running = (training(NEW, 2), *world.trainings), {OLD, NEW}
    gateways = Gateways(world)
    for _ in range(3):
        gateways.look()
    assert world.status["candidate"]["phase"] == "Canary"
    return world, gateways


def weights(world: World) -> dict[str, float]:
    return {version.name: version.weight for version in world.config.versions}


def test_a_good_candidate_gets_more_and_more_and_then_all() -> None:
    world, gateways = rollout(interval="1m", gates=[{"metric": "errorRate", "max": 0.01}, RATIO])
    seen = [weights(world)]
    for _ in range(60):
        gateways.answer(candidate=300, slow=6)
        gateways.look()
        if weights(world) != seen[-1]:
            seen.append(weights(world))
    assert seen == [{OLD: 95, NEW: 5}, {OLD: 75, NEW: 25}, {OLD: 50, NEW: 50}, {NEW: 100}]
    assert world.events[2:] == ["RolloutStarted", *["StepStarted"] * 3, "Promoted", "VersionRemoved"]
    assert world.says()[:2] == ("True", "Serving")
    assert list(world.loaded) == [NEW]


def test_while_a_candidate_is_tried_it_is_ready_and_reconciling_with_the_evidence_in_status() -> None:
    world, gateways = rollout(interval="1m", gates=[{"metric": "errorRate", "max": 0.01}, RATIO])
    for _ in range(3):
        gateways.answer(candidate=300, slow=6)
        gateways.look()
    assert world.says()[:2] == ("True", "Serving")
    status, reason, message = world.says("Reconciling")
    assert (status, reason) == ("True", "Canary")
    assert "gets 5 % of the requests, step 1 of 3" in message
    candidate = world.status["candidate"]
    assert candidate["counts"]["candidate/total"] > 0
    assert candidate["stableLatencyMilliseconds"] == 100
    assert {each["metric"] for each in candidate["analysis"]} == {"errorRate", "latencyP95Milliseconds"}
    tested = next(version for version in world.config.versions if version.role == "Candidate")
    assert tested.latency_limits_milliseconds == (120,)
    assert world.step().requeue_after is not None


@pytest.mark.parametrize("what", ["failed", "slow"])
def test_a_bad_candidate_is_gone_at_the_next_look_and_the_former_state_is_back(what: str) -> None:
    world, gateways = rollout(interval="1m", gates=[{"metric": "errorRate", "max": 0.01}, RATIO])
    before = world.loaded[OLD]
    for _ in range(4):
        gateways.answer(candidate=100)
        gateways.look()
    gateways.answer(candidate=300, **{what: 150})
    gateways.look()
    assert weights(world) == {OLD: 100}
    assert world.events[-1] == "RolledBack"
    assert world.status["rolledBack"]["reason"] == "GateFailed"
    assert world.says()[:2] == ("True", "Serving")
    assert world.says("Stalled")[:2] == ("True", "RolledBack")
    for _ in range(6):
        gateways.look()
    assert world.loaded == {OLD: before}
    assert "candidate" not in world.status


def test_what_was_counted_twice_or_before_the_warm_up_or_by_an_operator_before_is_not_counted() -> None:
    world, gateways = rollout(interval="10m", gates=[{"metric": "errorRate", "max": 0.01}])
    gateways.answer(candidate=40, failed=40)
    for _ in range(3):
        gateways.look()
    assert not world.status["candidate"].get("counts"), "the warm-up of 30 s"
    gateways.look()
    gateways.answer(candidate=100, failed=0)
    for _ in range(5):
        gateways.look()
        world.settle()
    assert world.status["candidate"]["counts"] == {"candidate/total": 100, "stable/total": 1900}
    gateways.samples = [[], []]  # a new operator
    gateways.look()
    gateways.answer(candidate=10)
    gateways.values[1] = {Series(TESTED, NEW, "candidate"): 7}  # a gateway began anew
    gateways.look()
    assert world.status["candidate"]["counts"]["candidate/total"] == 107


@pytest.mark.parametrize(
    ("scaling", "minutes", "goes_on"), [("autoscaled", 4, True), ("autoscaled", 7, False), ("fixed", 4, False)]
)
def test_what_a_candidate_turns_away_while_it_may_scale_up_is_no_failure(
    scaling: str, minutes: int, goes_on: bool
) -> None:
    """Nothing is for ever: a candidate that is still too small after that has failed these requests."""
    bounds = {"minReplicas": 1, "maxReplicas": 4} if scaling == "autoscaled" else {}
    world, gateways = rollout(scaling=bounds, interval="20m", gates=[{"metric": "errorRate", "max": 0.01}])
    for _ in range(minutes * 6 - 1):
        gateways.answer(candidate=50)
        gateways.count(SHED, NEW, "candidate", 10)
        gateways.look()
    assert (NEW in weights(world)) == goes_on


def test_a_gateway_that_does_not_follow_is_replaced_and_the_rollout_goes_on() -> None:
    world = served()
    world.trainings, world.running = (training(NEW, 2), *world.trainings), {OLD, NEW}

    def restarted() -> str:
        annotations = mapping(world.child(DEPLOYMENT, "cells-gateway"), "spec", "template", "metadata", "annotations")
        return str(annotations.get("kubectl.kubernetes.io/restartedAt", ""))

    def pass_time(seconds: int) -> None:
        for _ in range(seconds // 10):
            behind = [Sample(world.now.timestamp(), {})]
            revisions = {"10.0.0.1": CURRENT, "10.0.0.2": "before"}
            world.measured = Measured(revisions=revisions, samples={"10.0.0.2": behind})
            world.settle(steps=1, seconds=10)

    pass_time(250)
    assert restarted() == ""
    pass_time(100)
    first = restarted()
    assert first != ""
    assert world.events.count("GatewaysRestarted") == 1
    pass_time(250)
    assert restarted() == first
    pass_time(100)
    assert restarted() > first, "what did not help is tried again"
    world.measured = FOLLOWED
    last = restarted()
    world.settle(steps=10, seconds=10)
    assert list(world.loaded) == [NEW]
    assert restarted() == last, "what follows is not replaced again"
    assert "behindSince" not in world.status["gateways"]


def test_nothing_measured_waits_until_the_deadline() -> None:
    world, gateways = rollout(interval="1m", deadline="1h", gates=[{"metric": "errorRate", "max": 0.01}])
    for _ in range(20):
        gateways.look(seconds=120)
    assert weights(world) == {OLD: 95, NEW: 5}
    for _ in range(15):
        gateways.look(seconds=120)
    assert weights(world) == {OLD: 100}
    assert world.status["rolledBack"]["reason"] == "Inconclusive"


def annotate(world: World, **annotations: str) -> None:
    values = {f"fovea.dev/{name}": value for name, value in annotations.items()}
    world.value = {**world.value, "metadata": {**mapping(world.value, "metadata"), "annotations": values}}


def test_a_person_pauses_promotes_aborts_and_retries() -> None:
    world, gateways = rollout(interval="1m", gates=[{"metric": "errorRate", "max": 0.01}])
    annotate(world, rollout=f"pause/{NEW}")
    for _ in range(50):
        gateways.answer(candidate=300)
        gateways.look()
    assert (weights(world), world.status["phase"]) == ({OLD: 95, NEW: 5}, "Paused")
    assert [world.says(type)[0] for type in ("Ready", "Reconciling", "Stalled")] == ["True", "False", "False"]
    annotate(world, rollout=f"abort/{NEW}")
    gateways.look()
    assert (weights(world), world.status["rolledBack"]["reason"]) == ({OLD: 100}, "Aborted")
    annotate(world, retry="again")
    for _ in range(10):
        gateways.look()
    assert weights(world) == {OLD: 95, NEW: 5}
    annotate(world, rollout=f"promote/{NEW}", retry="again")
    gateways.look()
    assert weights(world) == {NEW: 100}


def test_a_shadow_gets_copies_and_no_request() -> None:
    world = World(deployment(rollout={"strategy": "Shadow"}), (training(OLD, 1),), {OLD}, measured=FOLLOWED)
    world.settle()
    world.trainings, world.running = (training(NEW, 2), *world.trainings), {OLD, NEW}
    world.settle(8)
    assert [(each.name, each.role, each.weight) for each in world.config.versions] == [
        (OLD, "Stable", 100),
        (NEW, "Shadow", 0),
    ]
    assert world.says("Reconciling")[:2] == ("True", "Shadow")


def test_without_replicas_nothing_is_tested_and_the_rollout_begins_anew_later() -> None:
    world, gateways = rollout(interval="1m", gates=[{"metric": "errorRate", "max": 0.01}])
    spec = mapping(world.value, "spec")
    world.value = {**world.value, "spec": {**spec, "scaling": {"replicas": 0}}}
    world.settle()
    assert "candidate" not in world.status
    assert world.answering == []
    assert "rolledBack" not in world.status
    world.value = {**world.value, "spec": spec}
    for _ in range(10):
        gateways.look()
    assert weights(world) == {OLD: 95, NEW: 5}


def test_the_two_runtimes_of_one_bundle_are_told_apart() -> None:
    world = World(deployment(rollout={"interval": "1m"}), (training(OLD, 1),), {OLD}, measured=FOLLOWED)
    world.settle()
    world.value = {**world.value, "spec": {**mapping(world.value, "spec"), "runtime": "Triton"}}
    world.settle(8)
    served = [(each.name, each.runtime, each.role, each.weight) for each in world.config.versions]
    assert served == [(OLD, "RayServe", "Stable", 95), (OLD, "Triton", "Candidate", 5)]


def test_the_traffic_is_that_of_the_recorded_status_whatever_was_decided_since() -> None:
    """The operator dies after any of its writes: what the gateways are given never depends on what was not recorded."""
    world, gateways = rollout(interval="1m", gates=[{"metric": "errorRate", "max": 0.01}])
    for _ in range(30):
        gateways.answer(candidate=300)
        gateways.look()
        recorded = world.status
        shares = {recorded["stable"]["name"]: 100 - recorded.get("candidate", {}).get("weight", 0)}
        if (weight := recorded.get("candidate", {}).get("weight", 0)) > 0:
            shares[recorded["candidate"]["name"]] = weight
        plan = plan_deployment(world._snapshot(), SETTINGS)
        config = next(write for write in plan.writes if isinstance(write, Apply) and write.key.kind == CONFIG_MAP)
        given = GatewayConfig.model_validate_json(text(config.manifest, "data", CONFIG_KEY))
        assert {version.name: version.weight for version in given.versions} == shares
        assert sum(shares.values()) == 100
