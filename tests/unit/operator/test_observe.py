"""What the observer makes of the cache, and when it asks the API server instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from fovea_api.run import RunInputs, RunOwner, RunType, run_identity, run_name
from fovea_api.trainingjob import Recipe
from fovea_operator.cache import Cache
from fovea_operator.cleanups.observe import observe_deleted
from fovea_operator.client import Api
from fovea_operator.kinds import builtin
from fovea_operator.kinds.dataset.observe import observe_dataset
from fovea_operator.kinds.trainingjob.observe import observe_training
from fovea_operator.objects import (
    DATASET,
    MODEL_DEPLOYMENT,
    NAMESPACE,
    POD,
    RAY_JOB,
    RUN,
    TRAINING_JOB,
    JsonObject,
    Key,
    Kind,
    key_of,
)
from fovea_operator.observe import Observer
from fovea_operator.settings import Settings

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

    def put(self, kind: Kind, value: JsonObject) -> None:
        self.objects[key_of(kind, value)] = value

    async def get(self, key: Key, metadata_only: bool = False) -> JsonObject | None:
        self.asked.append(key)
        return self.objects.get(key)

    async def list(
        self, kind: Kind, namespace: str = "", selector: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], int]:
        return [value for key, value in self.objects.items() if key.kind == kind and key.namespace == namespace], 1


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
        return Observer(cast(Api, self.server), self.cache, self.settings)

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


# --- Pods that outlive their attempt -------------------------------------------------------------------------------

STOPPED = {"deletionTimestamp": "2026-11-24T20:30:00Z"}
PODS: dict[str, tuple[str, dict[str, str], bool, bool]] = {
    # phase, metadata, whether the server has the pod still, whether it counts
    "running": ("Running", {}, True, True),
    "stopping": ("Running", STOPPED, True, True),
    "on a node that does not answer": ("Unknown", STOPPED, True, True),
    "gone, and the watch did not tell": ("Running", STOPPED, False, False),
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


# --- Who uses the data of a Dataset that is gone ---------------------------------------------------------------------

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


@pytest.mark.parametrize("name", READERS)
async def test_whoever_names_a_place_in_the_folder_uses_the_data(name: str) -> None:
    kind, value, wanted = READERS[name]
    world = World()
    world.seen(RUN, cleanup())
    world.seen(kind, value)
    snapshot = await observe_deleted(world.observer, KEY, NOW)
    assert snapshot is not None
    assert snapshot.users == ((wanted,) if wanted else ())


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
    stores, wanted = NAMESPACES[name]
    world = World()
    world.seen(RUN, cleanup(store=stores.get("ns", STORE)))
    for namespace in ("a", "b", "ns"):
        annotations = {"fovea.dev/store": stores[namespace]} if namespace in stores else {}
        metadata = {"name": namespace, "namespace": "", "annotations": annotations}
        world.seen(NAMESPACE, thing(NAMESPACE, namespace, metadata=metadata))
    snapshot = await observe_deleted(world.observer, KEY, NOW)
    assert snapshot is not None
    assert snapshot.shared == wanted


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
