"""What the observer makes of the cache, and when it asks the API server instead."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from fovea_api.run import RunInputs, RunOwner, RunType, run_identity, run_name
from fovea_api.trainingjob import Recipe
from fovea_operator.cache import Cache
from fovea_operator.cleanups.observe import observe_deleted
from fovea_operator.client import Api, NotFound
from fovea_operator.kinds import builtin
from fovea_operator.kinds.dataset.observe import observe_dataset
from fovea_operator.kinds.trainingjob.observe import observe_training
from fovea_operator.objects import (
    DATASET,
    EVENT,
    JOB,
    MODEL_DEPLOYMENT,
    NAMESPACE,
    POD,
    RAY_CLUSTER,
    RAY_JOB,
    RUN,
    TRAINING_JOB,
    WORKLOAD,
    JsonObject,
    Key,
    Kind,
    key_of,
)
from fovea_operator.observe import Observer
from fovea_operator.polling import Poller
from fovea_operator.settings import Settings
from fovea_operator.workloads.workload import Child, ChildState

START = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
NOW = START + timedelta(hours=1)
SPEC: dict[str, Any] = {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}}
OWNER = RunOwner(kind="TrainingJob", name="job")
IDENTITY = run_identity(RunType.TRAINING, OWNER, Recipe.model_validate({"model": SPEC["model"]}), RunInputs())
NAME = run_name(IDENTITY)


@dataclass
class Server:
    """Stands for an API server that is ahead of the watch, which cannot be arranged on a real one."""

    objects: dict[Key, JsonObject] = field(default_factory=dict)
    asked: list[Key] = field(default_factory=list)
    lacking: bool = False
    """Whether it serves no kind now."""

    def put(self, kind: Kind, value: JsonObject) -> None:
        self.objects[key_of(kind, value)] = value

    async def get(self, key: Key, metadata_only: bool = False) -> JsonObject | None:
        self.asked.append(key)
        return self.objects.get(key)

    async def list(
        self, kind: Kind, namespace: str = "", selector: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], int]:
        found = [value for key, value in self.objects.items() if key.kind == kind and key.namespace == namespace]
        return found, 0 if self.lacking else 1


@dataclass
class World:
    """A cache and a server, with one place to fill them."""

    cache: Cache = field(default_factory=lambda: Cache(builtin()))
    server: Server = field(default_factory=Server)
    settings: Settings = field(default_factory=lambda: Settings(store="s3://fovea"))

    def __post_init__(self) -> None:
        self.seen(NAMESPACE, thing(NAMESPACE, "ns", metadata={"namespace": ""}))
        self.server.put(NAMESPACE, thing(NAMESPACE, "kube-system", metadata={"namespace": ""}))

    @property
    def observer(self) -> Observer:
        api = cast(Api, self.server)
        return Observer(api, self.cache, Poller(api, self.settings, lambda key: None), self.settings)

    def seen(self, kind: Kind, value: JsonObject) -> None:
        self.cache.put(kind, value)
        self.server.put(kind, value)


def thing(kind: Kind, name: str, owner: RunOwner | None = None, version: int = 1, **parts: Any) -> JsonObject:
    """An object whose uid is its name; `controller` is the uid of the one that it belongs to."""
    labels = {"fovea.dev/kind": owner.kind, "fovea.dev/name": owner.name} if owner is not None else {}
    labels |= parts.pop("labels", {})
    labels |= {"fovea.dev/run": name} if kind == RUN else {}
    controller = {"apiVersion": "v1", "kind": "Any", "uid": parts.pop("controller", ""), "controller": True}
    owners = [controller | {"name": controller["uid"]}] if controller["uid"] else []
    metadata = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version)}
    metadata |= {"labels": labels, "ownerReferences": owners, "creationTimestamp": "2026-11-24T18:00:00Z"}
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": metadata | parts.pop("metadata", {}),
        **parts,
    }


def training(version: int = 1, **status: Any) -> JsonObject:
    spec = {
        "type": "Training",
        "owner": OWNER.to_dict(),
        "identity": IDENTITY,
        "recipe": {"model": SPEC["model"]},
        "store": "s3://fovea/ns",
    }
    return thing(RUN, NAME, OWNER, version, spec=spec, status=status, controller="job")


# --- A run's result before its child's end ---------------------------------------------------------------------------

OLD_ERROR = {"completedAt": "2026-11-24T19:00:00Z", "error": {"reason": "Lost", "message": "m", "retryable": True}}
MODEL = {"completedAt": "2026-11-24T20:59:00Z", "artifact": "s3://b/", "digest": f"sha256-{'b' * 64}"}
ENDED = {"number": 1, "child": f"{NAME}-1", "startTime": "2026-11-24T18:00:00Z", "outcome": "Failed"}
OPEN = {"number": 2, "child": f"{NAME}-2", "startTime": "2026-11-24T20:00:00Z"}
RESULTS: dict[str, tuple[dict[str, Any] | None, bool]] = {
    # what the watch has shown beside the child's end, whether the server is asked
    "no result": (None, True),
    "the error of an earlier attempt": (OLD_ERROR | {"attempt": 1}, True),
    "an error that is older than the attempt": (OLD_ERROR, True),
    "the attempt's own error": (OLD_ERROR | {"attempt": 2}, False),
    "a model": (MODEL, False),
}


@pytest.mark.parametrize("name", RESULTS)
async def test_what_is_known_of_an_attempt_whose_child_has_ended(name: str) -> None:
    shown, asked = RESULTS[name]
    world = World()
    labels = {"fovea.dev/run": NAME}
    child = thing(
        RAY_JOB, f"{NAME}-2", OWNER, labels=labels, status={"jobDeploymentStatus": "Complete"}, controller=NAME
    )
    job = thing(TRAINING_JOB, "job", spec=SPEC)
    for kind, value in ((TRAINING_JOB, job), (RAY_JOB, child)):
        world.seen(kind, value)
    world.cache.put(RUN, training(1, attempts=[ENDED, OPEN], **({"result": shown} if shown else {})))
    world.server.put(RUN, training(2, attempts=[ENDED, OPEN], result=MODEL))
    snapshot = await observe_training(world.observer, key_of(TRAINING_JOB, job), NOW)
    assert snapshot is not None
    assert (Key(RUN, "ns", NAME) in world.server.asked) is asked
    if asked:
        assert snapshot.runs[0].status.result is not None
        assert snapshot.runs[0].status.result.error is None


@pytest.mark.parametrize("there", [True, False], ids=["it was just made", "somebody deleted it"])
async def test_a_child_that_the_watch_has_not_shown_is_looked_for(there: bool) -> None:
    world = World()
    world.seen(TRAINING_JOB, thing(TRAINING_JOB, "job", spec=SPEC))
    world.seen(RUN, training(attempts=[OPEN]))
    if there:
        status = {"jobStatus": "RUNNING"}
        child = thing(RAY_JOB, OPEN["child"], OWNER, labels={"fovea.dev/run": NAME}, status=status, controller=NAME)
        world.server.put(RAY_JOB, child)
    snapshot = await observe_training(world.observer, Key(TRAINING_JOB, "ns", "job"), NOW)
    assert snapshot is not None
    assert [child.state for child in snapshot.runs[0].children] == ([ChildState.RUNNING] if there else [])


# --- Pods that outlive their attempt -------------------------------------------------------------------------------

STOPPED = {"deletionTimestamp": "2026-11-24T20:30:00Z"}
PODS: dict[str, tuple[str, dict[str, str], bool, bool]] = {
    # phase, metadata, whether the server has the pod still, whether it counts
    "running": ("Running", {}, True, True),
    "stopping": ("Running", STOPPED, True, True),
    "on a node that does not answer": ("Unknown", STOPPED, True, True),
    "deleted, and the watch did not report it": ("Running", STOPPED, False, False),
    "done": ("Succeeded", {}, True, False),
    "failed": ("Failed", STOPPED, True, False),
}


@pytest.mark.parametrize("name", PODS)
async def test_pods_that_have_not_ended(name: str) -> None:
    phase, metadata, there, counts = PODS[name]
    world = World()
    labels = {"fovea.dev/run": NAME, "fovea.dev/attempt": "1"}
    pod = thing(POD, "p", OWNER, labels=labels, metadata=metadata, status={"phase": phase})
    world.seen(TRAINING_JOB, thing(TRAINING_JOB, "job", spec=SPEC))
    world.seen(RUN, training(attempts=[ENDED]))
    world.cache.put(POD, pod)
    if there:
        world.server.put(POD, pod)
    snapshot = await observe_training(world.observer, Key(TRAINING_JOB, "ns", "job"), NOW)
    assert snapshot is not None
    assert snapshot.runs[0].pods == (("p",) if counts else ())
    assert snapshot.runs[0].at_work is counts


async def test_another_pod_of_its_name_is_not_the_one_that_was_stopped() -> None:
    world = World()
    labels = {"fovea.dev/run": NAME, "fovea.dev/attempt": "1"}
    pod = thing(POD, "p", OWNER, labels=labels, metadata=STOPPED, status={"phase": "Running"})
    world.seen(TRAINING_JOB, thing(TRAINING_JOB, "job", spec=SPEC))
    world.seen(RUN, training(attempts=[ENDED]))
    world.cache.put(POD, pod)
    world.server.put(POD, thing(POD, "p", metadata={"uid": "another"}, status={"phase": "Running"}))
    snapshot = await observe_training(world.observer, Key(TRAINING_JOB, "ns", "job"), NOW)
    assert snapshot is not None
    assert snapshot.runs[0].pods == ()


# --- What a child waits for ---------------------------------------------------------------------------------------

CHILD = f"{NAME}-1"
FIRST = {"number": 1, "child": CHILD, "startTime": "2026-11-24T18:00:00Z"}


async def test_the_build_of_an_engine_is_no_training() -> None:
    """Or the one would be stopped for the other."""
    world = World()
    world.seen(TRAINING_JOB, thing(TRAINING_JOB, "job", spec=SPEC))
    world.seen(RUN, training())
    name = "r-00000000ee"
    spec = {"type": "EngineBuild", "owner": OWNER.to_dict(), "identity": IDENTITY, "recipe": {}, "store": STORE}
    world.seen(RUN, thing(RUN, name, OWNER, controller="job", spec=spec))
    world.seen(JOB, thing(JOB, f"{name}-1", OWNER, labels={"fovea.dev/run": name}, controller=name))
    snapshot = await observe_training(world.observer, Key(TRAINING_JOB, "ns", "job"), NOW)
    assert snapshot is not None
    assert [view.name for view in snapshot.runs] == [NAME]
    assert [(view.name, [child.key.name for child in view.children]) for view in snapshot.deferred] == [
        (name, [f"{name}-1"])
    ]
    assert snapshot.leftover is None


def waiting(phase: str = "Pending", **status: Any) -> World:
    """A job whose one child has this status; the namespace has no events and no Workloads yet."""
    world = World()
    world.seen(TRAINING_JOB, thing(TRAINING_JOB, "job", spec=SPEC))
    world.seen(RUN, training(attempts=[FIRST], phase=phase))
    world.seen(RAY_JOB, thing(RAY_JOB, CHILD, OWNER, labels={"fovea.dev/run": NAME}, status=status, controller=NAME))
    return world


async def only_child(world: World, look: bool = True) -> Child:
    """The child as it is seen after a look at what is not watched."""
    observer = world.observer
    for _ in range(2):
        snapshot = await observe_training(observer, Key(TRAINING_JOB, "ns", "job"), NOW)
        assert snapshot is not None
        if look:
            await observer.poller.look()
    (child,) = snapshot.runs[0].children
    return child


def event(
    about: str, name: str, note: str, type: str = "Warning", version: int = 7, reason: str = "Failed"
) -> JsonObject:
    regarding = {"kind": about, "name": name}
    return thing(EVENT, f"e-{version}", version=version, regarding=regarding, type=type, note=note, reason=reason)


def pending_pod(**status: Any) -> JsonObject:
    labels = {"fovea.dev/run": NAME, "fovea.dev/attempt": "1"}
    return thing(POD, "p", OWNER, labels=labels, status={"phase": "Pending"} | status)


async def test_a_child_without_pods_waits_for_what_the_newest_warning_about_it_says() -> None:
    world = waiting()
    world.server.put(EVENT, event("RayJob", CHILD, "exceeded quota: team", version=7))
    world.server.put(EVENT, event("RayJob", CHILD, "trying again", type="Normal", version=8))
    world.server.put(EVENT, event("RayJob", "another", "other", version=9))
    assert (await only_child(world, look=False)).message == ""
    child = await only_child(world)
    assert (child.reason, child.message, child.stalled) == ("Failed", "exceeded quota: team", False)


async def test_what_the_api_server_accepts_at_no_time_is_stalled() -> None:
    world = waiting()
    words = 'Error creating: Pod "p" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "data"'
    world.server.put(EVENT, event("RayJob", CHILD, words, reason="FailedCreate"))
    child = await only_child(world)
    assert (child.reason, child.message, child.stalled) == ("FailedCreate", words, True)


async def test_a_pod_without_containers_waits_for_what_was_reported_last_about_it() -> None:
    world = waiting()
    world.seen(POD, pending_pod())
    world.server.put(EVENT, event("Pod", "p", "secret not found", version=7))
    assert (await only_child(world)).message == "pod p: secret not found"
    world.server.put(EVENT, event("Pod", "p", "pulling", type="Normal", version=8))
    assert (await only_child(world)).message == ""


async def test_of_the_scheduler_the_pods_own_condition_is_enough() -> None:
    world = waiting()
    world.seen(POD, pending_pod())
    world.server.put(EVENT, event("Pod", "p", "0/3 nodes", reason="FailedScheduling"))
    assert (await only_child(world)).message == ""


async def test_no_event_counts_within_the_grace() -> None:
    world = waiting()
    world.settings = replace(world.settings, scheduling_grace_seconds=10**9)
    world.server.put(EVENT, event("RayJob", CHILD, "exceeded quota: team"))
    assert (await only_child(world)).message == ""


def workload(**status: Any) -> JsonObject:
    return thing(WORKLOAD, "w", labels={"kueue.x-k8s.io/job-uid": CHILD}, status=status)


async def test_a_queued_child_waits_for_what_kueue_says() -> None:
    world = waiting(phase="Queued", jobDeploymentStatus="Suspended")
    assert (await only_child(world)).reason == "WaitingForQuota"
    conditions = [{"type": "QuotaReserved", "status": "False", "message": "couldn't assign flavors: 2 cpu short"}]
    world.server.put(WORKLOAD, workload(conditions=conditions))
    child = await only_child(world)
    assert (child.message, child.stalled) == ("couldn't assign flavors: 2 cpu short", False)


async def test_a_deactivated_workload_is_stalled() -> None:
    world = waiting(phase="Queued", jobDeploymentStatus="Suspended")
    world.server.put(WORKLOAD, workload() | {"spec": {"active": False}})
    child = await only_child(world)
    assert (child.reason, child.stalled) == ("WorkloadDeactivated", True)


def in_slices(elastic: bool, **status: Any) -> World:
    """A child that was at work, whose first Workload has lost its quota while a larger one waited to replace it."""
    world = waiting("Running")
    labels = {"fovea.dev/run": NAME, "kueue.x-k8s.io/queue-name": "team"}
    spec = {"rayClusterSpec": {"enableInTreeAutoscaling": elastic}}
    status |= {"startTime": "2026-11-24T18:00:05Z"}
    world.seen(RAY_JOB, thing(RAY_JOB, CHILD, OWNER, 2, labels=labels, spec=spec, status=status, controller=NAME))
    for name, conditions in (("w-1", {"Evicted": "preempted by team b", "Finished": "too late"}), ("w-2", {})):
        told = [{"type": type, "status": "True", "message": words} for type, words in conditions.items()]
        job = {"kueue.x-k8s.io/job-uid": CHILD}
        world.server.put(WORKLOAD, thing(WORKLOAD, name, labels=job, status={"conditions": told}))
    return world


async def test_an_elastic_job_that_goes_on_without_its_quota_was_preempted() -> None:
    """Kueue suspends it not, and the pods would run beside those that it made room for."""
    child = await only_child(in_slices(elastic=True, jobStatus="RUNNING"))
    assert child.state is ChildState.FAILED
    assert child.disruption is not None
    assert child.disruption.message == "Kueue took its quota: preempted by team b"
    assert (await only_child(in_slices(elastic=False, jobStatus="RUNNING"))).state is ChildState.RUNNING
    assert (await only_child(in_slices(elastic=True, jobStatus="SUCCEEDED"))).state is ChildState.SUCCEEDED


@pytest.mark.parametrize("started", [True, False])
async def test_a_job_that_kueue_cannot_start_again_does_not_wait_for_it(started: bool) -> None:
    world = waiting("Queued", jobDeploymentStatus="Suspended", **({"startTime": NOW.isoformat()} if started else {}))
    world.server.put(WORKLOAD, workload(conditions=[{"type": "Finished", "status": "True", "message": "a conflict"}]))
    child = await only_child(world)
    assert (child.state, child.message) == (ChildState.FAILED, "a conflict")
    assert (child.disruption is not None) is started, "what had begun was taken away"


async def test_a_pod_that_its_queue_has_not_admitted_waits_for_quota() -> None:
    world = waiting()
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gates"}
    pod = pending_pod(conditions=[gated])
    world.seen(POD, pod | {"spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/elastic-job"}], "containers": []}})
    child = await only_child(world)
    assert (child.state, child.reason) == (ChildState.STARTING, "WaitingForQuota")
    assert child.message == "pod p waits for its queue to admit it"


@pytest.mark.parametrize(
    ("phase", "started", "asked"),
    [("Running", "2026-11-24T18:00:05Z", True), ("Queued", "2026-11-24T18:00:05Z", False), ("Running", "", False)],
    ids=["came back", "was there", "never left"],
)
async def test_when_a_child_went_back_into_its_queue_is_read_once(phase: str, started: str, asked: bool) -> None:
    status = {"jobDeploymentStatus": "Suspended"} | ({"startTime": started} if started else {})
    world = waiting(phase=phase, **status)
    evicted = {"type": "Evicted", "status": "True", "lastTransitionTime": "2026-11-24T19:00:00Z"}
    world.server.put(WORKLOAD, workload(conditions=[evicted]))
    child = await only_child(world, look=False)
    assert child.queued_since == (datetime(2026, 11, 24, 19, tzinfo=UTC) if asked else None)


# --- Who uses the data of a Dataset that is deleted -------------------------------------------------------------------

CELLS = RunOwner(kind="Dataset", name="cells")
KEY = Key(DATASET, "ns", "cells")
STORE = "s3://fovea/ns"
FOLDER = f"{STORE}/dataset/cells"
VERSION = f"sha256-{'4' * 64}"
SOURCE = {"name": "a", "uri": "s3://lab/a", "format": "ImageFolder"}


def cleanup(keep_newest: int = 0, store: str = STORE) -> JsonObject:
    nonce = "x" if keep_newest else ""
    identity = run_identity(RunType.CLEANUP, CELLS, None, RunInputs(), nonce)
    spec = {"type": "Cleanup", "owner": CELLS.to_dict(), "identity": identity, "recipe": {"keepNewest": keep_newest}}
    spec |= {"store": store, "nonce": nonce}
    controller = "cells" if keep_newest else ""
    return thing(RUN, run_name(identity), CELLS, spec=spec, status={"phase": "Pending"}, controller=controller)


def other_dataset(**spec: Any) -> JsonObject:
    return thing(DATASET, "other", spec={"task": "Classification", "sources": [SOURCE]} | spec)


def other_job(**model: Any) -> JsonObject:
    model = {"architecture": "resnet18"} | model
    return thing(TRAINING_JOB, "job", spec={"datasetRef": {"name": "other"}, "model": model})


def other_run(**parts: Any) -> JsonObject:
    spec = {"type": "Training", "owner": OWNER.to_dict(), "identity": IDENTITY, "recipe": {}, "store": STORE}
    return thing(RUN, NAME, OWNER, spec=spec | parts, controller="job")


READERS: dict[str, tuple[Kind, JsonObject, str]] = {
    "weights": (
        TRAINING_JOB,
        other_job(pretrained={"uri": f"{FOLDER}/{VERSION}/model.pth"}),
        "TrainingJob job (spec.model.pretrained.uri)",
    ),
    "a bundle that is served": (
        MODEL_DEPLOYMENT,
        thing(MODEL_DEPLOYMENT, "serve", spec={"model": {"uri": f"{FOLDER}/bundles/x/"}}),
        "ModelDeployment serve (spec.model.uri)",
    ),
    "a source": (
        DATASET,
        other_dataset(sources=[SOURCE | {"uri": FOLDER}]),
        "Dataset other (spec.sources.uri)",
    ),
    "a list of what is left out": (
        DATASET,
        other_dataset(exclude={"uri": f"{STORE}//dataset/./cells/names.txt"}),
        "Dataset other (spec.exclude.uri)",
    ),
    "a run's recipe": (
        RUN,
        other_run(recipe={"model": {"pretrained": {"uri": f"{FOLDER}/x"}}}),
        f"Run {NAME} of TrainingJob job",
    ),
    "a run's input": (
        RUN,
        other_run(inputs={"dataset": {"name": "cells", "version": VERSION, "artifact": f"{FOLDER}/{VERSION}/"}}),
        f"Run {NAME} of TrainingJob job",
    ),
    "another folder whose name begins alike": (DATASET, other_dataset(sources=[SOURCE | {"uri": f"{FOLDER}2/x"}]), ""),
    "the folder of another store": (DATASET, other_dataset(sources=[SOURCE | {"uri": "s3://b/dataset/cells/x"}]), ""),
}


@pytest.mark.parametrize(
    ("bundle", "digest"),
    [(f"s3://fovea/ns/trainingjob/cells/{VERSION}/", VERSION), ("s3://models/newest", None), (None, None)],
    ids=["named by its digest", "named otherwise", "none"],
)
async def test_a_dataset_is_labelled_beforehand_by_what_is_served(bundle: str | None, digest: str | None) -> None:
    """And its pods write to the claim that receives the images."""
    world = World()
    wish = {"modelDeploymentRef": {"name": "cells"}, "export": {"uri": "pvc://todo/cells", "format": "CVAT"}}
    video = {"name": "camera", "video": {"uri": "pvc://recordings/hall"}}
    spec = {"task": "Detection", "sources": [SOURCE | {"format": "COCO"}, video], "prelabel": wish}
    world.seen(DATASET, thing(DATASET, "cells", spec=spec))
    status = {"stable": {"bundle": bundle}} if bundle is not None else {}
    model = {"model": {"trainingJobRef": {"name": "cells"}}}
    world.seen(MODEL_DEPLOYMENT, thing(MODEL_DEPLOYMENT, "cells", spec=model, status=status))
    snapshot = await observe_dataset(world.observer, Key(DATASET, "ns", "cells"), NOW)
    assert snapshot is not None
    assert (snapshot.prelabel and snapshot.prelabel.digest) == digest
    assert {each.path for each in snapshot.missing if each.kind == "PersistentVolumeClaim"} == {
        "spec.sources[1].video.uri",
        "spec.prelabel.export.uri",
    }


async def test_an_object_that_was_not_listed_is_not_deleted() -> None:
    world = World()
    world.seen(RUN, cleanup())
    world.server.put(DATASET, thing(DATASET, "cells", spec={"task": "Classification", "sources": [SOURCE]}))
    assert await observe_deleted(world.observer, KEY, NOW) is None
    assert world.cache.get(KEY) is not None


async def test_a_user_that_was_not_listed_counts() -> None:
    world = World()
    world.seen(RUN, cleanup())
    world.server.put(TRAINING_JOB, other_job(pretrained={"uri": f"{FOLDER}/model.pth"}))
    snapshot = await observe_deleted(world.observer, KEY, NOW)
    assert snapshot is not None
    assert snapshot.users == ("TrainingJob job (spec.model.pretrained.uri)",)


async def test_while_a_kind_is_not_served_nothing_is_known_to_be_deleted() -> None:
    world = World()
    world.seen(RUN, cleanup())
    world.server.lacking = True
    with pytest.raises(NotFound, match="serves no Datasets now"):
        await observe_deleted(world.observer, KEY, NOW)


@pytest.mark.parametrize("name", READERS)
async def test_whoever_names_a_place_in_the_folder_uses_the_data(name: str) -> None:
    kind, value, expected = READERS[name]
    world = World()
    world.seen(RUN, cleanup())
    world.seen(kind, value)
    snapshot = await observe_deleted(world.observer, KEY, NOW)
    assert snapshot is not None
    assert snapshot.users == ((expected,) if expected else ())


async def test_a_version_that_is_named_is_used() -> None:
    world = World()
    for kind, value in (
        (DATASET, thing(DATASET, "cells", spec={"task": "Classification", "sources": [SOURCE]})),
        (RUN, cleanup(keep_newest=1)),
        (TRAINING_JOB, other_job(pretrained={"uri": f"{FOLDER}/{VERSION}/model.pth"})),
    ):
        world.seen(kind, value)
    snapshot = await observe_dataset(world.observer, KEY, NOW)
    assert snapshot is not None
    assert snapshot.used == {VERSION}


NAMESPACES: dict[str, tuple[dict[str, str], str]] = {
    # stores that are named on namespaces, and the one that shares that of `ns`
    "each has its own": ({}, ""),
    "the same": ({"b": "s3://fovea/ns/"}, "b"),
    "in it": ({"b": "s3://fovea/ns/b"}, "b"),
    "around it": ({"b": "s3://fovea"}, "b"),
    "beside it": ({"b": "s3://fovea/ns2"}, ""),
    "claims of one name": ({"b": "pvc://store", "ns": "pvc://store"}, ""),
}


@pytest.mark.parametrize("name", NAMESPACES)
async def test_a_store_of_two_namespaces(name: str) -> None:
    stores, expected = NAMESPACES[name]
    world = World()
    world.seen(RUN, cleanup(store=stores.get("ns", STORE)))
    for namespace in ("a", "b", "ns"):
        annotations = {"fovea.dev/store": stores[namespace]} if namespace in stores else {}
        metadata = {"name": namespace, "namespace": "", "annotations": annotations}
        world.seen(NAMESPACE, thing(NAMESPACE, namespace, metadata=metadata))
    snapshot = await observe_deleted(world.observer, KEY, NOW)
    assert snapshot is not None
    assert snapshot.shared == expected


@pytest.mark.parametrize(("policy", "retained"), [("Delete", False), ("Retain", True)])
async def test_the_policy_that_an_object_had_in_the_end(policy: str, retained: bool) -> None:
    world = World()
    world.seen(RUN, cleanup())
    spec = {"task": "Classification", "sources": [SOURCE], "deletionPolicy": "Delete"}
    world.cache.put(DATASET, thing(DATASET, "cells", spec=spec))
    world.cache.remove(DATASET, thing(DATASET, "cells", version=2, spec=spec | {"deletionPolicy": policy}))
    snapshot = await observe_deleted(world.observer, KEY, NOW)
    assert snapshot is not None
    assert snapshot.retained is retained


async def test_the_owner_of_a_store_is_the_namespace_of_this_cluster() -> None:
    world = World()
    word = {"namespace": "", "annotations": {"fovea.dev/adopt": "old/ns"}}
    world.seen(NAMESPACE, thing(NAMESPACE, "ns", version=2, metadata=word))
    store = await world.observer.store("ns")
    assert (store.cluster, store.namespace, store.adopt) == ("kube-system", "ns", "old/ns")


# --- A child that cannot be scheduled --------------------------------------------------------------------------------


def ray_job(name: str, owner: RunOwner, labels: dict[str, str], **status: Any) -> JsonObject:
    """A RayJob of a head, two workers and a submitter."""

    def pod(cpu: str, memory: str) -> dict[str, Any]:
        return {"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}}}]}}

    cluster = {
        "headGroupSpec": {"template": pod("500m", "2Gi")},
        "workerGroupSpecs": [{"groupName": "worker", "replicas": 2, "template": pod("100m", "3Gi")}],
    }
    spec = {"rayClusterSpec": cluster, "submitterPodTemplate": pod("100m", "1Gi"), "ttlSecondsAfterFinished": 3600}
    return thing(RAY_JOB, name, owner, labels=labels, spec=spec, status=status, controller=NAME)


COMPLETE = {"jobDeploymentStatus": "Complete", "endTime": "2026-11-24T20:40:00Z"}
HELD: dict[str, tuple[bool, dict[str, str], str]] = {
    # whether another run has a Ray cluster, its RayJob's status, and what is said of it
    "finished": (True, COMPLETE, "; run r-other has finished and keeps 1 cpu, 9Gi memory until 21:40:00 UTC"),
    "finished and gone": (False, COMPLETE, ""),
    "at work": (True, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, ""),
    "starts": (
        True,
        {"jobDeploymentStatus": "Initializing"},
        "; run r-other starts as well, and the two may wait for each other: suspend one, or use a queue",
    ),
}


@pytest.mark.parametrize("name", HELD)
async def test_who_holds_what_a_child_waits_for_and_what_it_asks_for(name: str) -> None:
    cluster, state, held = HELD[name]
    world = World()
    other = RunOwner(kind="TrainingJob", name="other")
    world.seen(TRAINING_JOB, thing(TRAINING_JOB, "job", spec=SPEC))
    world.seen(RUN, training(attempts=[OPEN]))
    world.seen(RAY_JOB, ray_job(f"{NAME}-2", OWNER, {"fovea.dev/run": NAME}))
    world.seen(RAY_JOB, ray_job("r-other-1", other, {"fovea.dev/run": "r-other"}, **state))
    for owner, job in ((OWNER, f"{NAME}-2"), (other, "r-other-1")) if cluster else ():
        controller = {"apiVersion": "ray.io/v1", "kind": "RayJob", "uid": "x", "name": job, "controller": True}
        world.seen(RAY_CLUSTER, thing(RAY_CLUSTER, job, owner, metadata={"ownerReferences": [controller]}))
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    labels = {"fovea.dev/run": NAME, "fovea.dev/attempt": "2"}
    world.seen(POD, thing(POD, "p", OWNER, labels=labels, status={"phase": "Pending", "conditions": [condition]}))
    snapshot = await observe_training(world.observer, Key(TRAINING_JOB, "ns", "job"), NOW)
    assert snapshot is not None
    (child,) = snapshot.runs[0].children
    asked = "in all (head of 0.5 cpu, 2Gi memory; 2 workers of 0.2 cpu, 3Gi memory; submitter of 0.1 cpu, 1Gi memory)"
    assert child.message.startswith(f"pod p: Insufficient cpu; the run asks for 1 cpu, 9Gi memory {asked}")
    assert child.message.endswith(asked + held)
