"""What the observer makes of the cache, and when it asks the API server instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from fovea_api.run import RunInputs, RunOwner, RunType, run_identity, run_name
from fovea_api.trainingjob import Recipe
from fovea_operator.cache import Cache
from fovea_operator.client import Api
from fovea_operator.objects import RAY_JOB, RUN, TRAINING_JOB, JsonObject, Key, Kind, key_of
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

    cache: Cache = field(default_factory=Cache)
    server: Server = field(default_factory=Server)
    settings: Settings = field(default_factory=lambda: Settings(store="s3://fovea"))

    @property
    def observer(self) -> Observer:
        return Observer(cast(Api, self.server), self.cache, self.settings)

    def seen(self, kind: Kind, value: JsonObject) -> None:
        self.cache.put(kind, value)
        self.server.put(kind, value)


def thing(kind: Kind, name: str, owner: RunOwner | None = None, version: int = 1, **parts: Any) -> JsonObject:
    labels = {"fovea.dev/kind": owner.kind, "fovea.dev/name": owner.name} if owner is not None else {}
    labels |= parts.pop("labels", {})
    metadata = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version), "labels": labels}
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
    return thing(RUN, NAME, OWNER, version, spec=spec, status=status)


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
    child = thing(RAY_JOB, f"{NAME}-2", OWNER, labels=labels, status={"jobDeploymentStatus": "Complete"})
    job = thing(TRAINING_JOB, "job", spec=SPEC)
    for kind, value in ((TRAINING_JOB, job), (RAY_JOB, child)):
        world.seen(kind, value)
    world.cache.put(RUN, training(1, attempts=[ENDED, OPEN], **({"result": shown} if shown else {})))
    world.server.put(RUN, training(2, attempts=[ENDED, OPEN], result=MODEL))
    snapshot = await world.observer.training(key_of(TRAINING_JOB, job), NOW)
    assert snapshot is not None
    assert (Key(RUN, "ns", NAME) in world.server.asked) is asked
    if asked:
        assert snapshot.runs[0].status.result is not None
        assert snapshot.runs[0].status.result.error is None
