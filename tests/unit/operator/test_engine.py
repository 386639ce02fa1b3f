"""One reconcile as a whole: what is written, and what an object says of itself when nothing can be."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import pytest
from fovea_api.errors import InvalidManifest
from fovea_operator.apply import NotOurs, Writer
from fovea_operator.cache import Cache
from fovea_operator.client import Api, Conflict, Invalid, Refused, Unreachable, WebhookFailed
from fovea_operator.engine import Engine
from fovea_operator.kinds import builtin
from fovea_operator.logs import JsonFormatter
from fovea_operator.metrics import Metrics
from fovea_operator.objects import (
    DATASET,
    JOB,
    NAMESPACE,
    ROLE_BINDING,
    RUN,
    TRAINING_JOB,
    JsonObject,
    Key,
    Kind,
    key_of,
)
from fovea_operator.observe import Observer
from fovea_operator.polling import Poller
from fovea_operator.prerequisites import KubeRayMissing
from fovea_operator.settings import Settings

from tests.unit.operator.fake_api import FakeApi

CELLS = Key(DATASET, "ns", "cells")
SETTINGS = Settings(store="s3://fovea", deletion_poll_seconds=4)
SOURCES = [{"name": "a", "uri": "s3://lab/a", "format": "ImageFolder"}]
LABELS = {"fovea.dev/kind": "Dataset", "fovea.dev/name": "cells"}


def thing(kind: Kind, name: str, namespace: str = "ns", **parts: Any) -> JsonObject:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 2}
    metadata |= {"creationTimestamp": "2026-11-24T18:00:00Z"} | parts.pop("metadata", {})
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **parts}


def dataset(**spec: Any) -> JsonObject:
    return thing(DATASET, "cells", spec={"task": "Classification", "sources": SOURCES} | spec)


def run(name: str = "r-new", type: str = "Training2", owner: bool = True, **parts: Any) -> JsonObject:
    """A Run of the Dataset that a newer version made."""
    references = [{"kind": "Dataset", "name": "cells", "uid": "uid-cells", "controller": True}] if owner else []
    spec = {"type": type, "owner": {"kind": "Dataset", "name": "cells"}, "identity": f"sha256-{'1' * 64}"}
    labels = LABELS | {"fovea.dev/run": name}
    return thing(
        RUN,
        name,
        metadata={"labels": labels, "ownerReferences": references},
        spec=spec | {"store": "s3://b", "recipe": {"keepNewest": 0}},
        **parts,
    )


NAMESPACES = tuple((NAMESPACE, thing(NAMESPACE, name, "")) for name in ("ns", "kube-system"))


class World:
    def __init__(self, *values: tuple[Kind, JsonObject]) -> None:
        self.api = FakeApi()
        self.cache = Cache(builtin())
        for kind, value in (*NAMESPACES, *values):
            self.cache.put(kind, value)
            self.api.objects[key_of(kind, value)] = value
        api = cast(Api, self.api)
        observer = Observer(api, self.cache, Poller(api, SETTINGS, lambda key: None), SETTINGS)
        self.engine = Engine(observer, Writer(api, self.cache, Metrics(), "operator-1"), SETTINGS)

    def says(self, key: Key = CELLS) -> tuple[str, str, list[str]]:
        """Reason and message of an object's Ready condition, and the types of its conditions that hold."""
        status: Any = self.api.objects[key]["status"]
        ready = next(each for each in status["conditions"] if each["type"] == "Ready")
        return (
            ready["reason"],
            ready["message"],
            [each["type"] for each in status["conditions"] if each["status"] == "True"],
        )

    def made(self, kind: Kind) -> list[str]:
        return [key.name for verb, key in self.api.asked if verb == "create" and key.kind == kind]


async def test_a_dataset_gets_its_run_and_the_run_its_child() -> None:
    world = World((DATASET, dataset()))
    await world.engine.reconcile(CELLS)
    assert len(world.made(RUN)) == 1
    assert world.made(JOB) == [f"{world.made(RUN)[0]}-1"]
    reason, _, holds = world.says()
    assert (reason, holds) == ("Starting", ["Reconciling"])


async def test_what_is_reported_is_logged_with_reason_object_and_run() -> None:
    lines: list[dict[str, str]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    world, logger, handler = World((DATASET, dataset())), logging.getLogger("fovea_operator.engine"), Lines()
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    try:
        await world.engine.reconcile(CELLS)
    finally:
        logger.removeHandler(handler)
        logger.setLevel("NOTSET")
    (run,) = world.made(RUN)
    about = {"kind": "Dataset", "namespace": "ns", "name": "cells", "level": "INFO", "run": run}
    found = {line.get("reason", ""): line for line in lines}
    for reason, words in (
        ("RunCreated", f"run {run} was created"),
        ("AttemptStarted", f"run {run}: attempt 1 started as {run}-1"),
    ):
        assert about | {"reason": reason, "message": f"{reason}: {words}"} == {
            name: part for name, part in found[reason].items() if name not in ("time", "logger")
        }
    assert [line["message"] for line in lines if line["level"] == "DEBUG"] == [
        f"Run ns/{run} is Pending",
        f"{CELLS} is Pending",
    ]


async def test_each_reconcile_asks_anew_for_what_is_not_watched() -> None:
    world = World((DATASET, dataset(sources=[SOURCES[0] | {"uri": "pvc://scans/a"}])))
    poller = world.engine.observer.poller
    assert await world.engine.reconcile(CELLS) == SETTINGS.resync_seconds
    assert world.says()[0] == "PersistentVolumeClaimNotFound"
    assert list(poller._asked) == [CELLS]
    world.cache.forget(CELLS)
    await world.engine.reconcile(CELLS)
    assert not poller._asked


async def test_of_a_deleted_object_only_its_cleanup_goes_on() -> None:
    world = World()
    assert await world.engine.reconcile(CELLS) is None
    world = World((RUN, run("r-clean", "Cleanup", owner=False)))
    await world.engine.reconcile(CELLS)
    assert world.says(Key(RUN, "ns", "r-clean"))[0] == "Unconfirmed"


FAILURES: dict[str, tuple[Kind, Exception, str, str, list[str]]] = {
    # what fails to be created, how, and what the object says
    "a quota": (
        JOB,
        Refused("exceeded quota: team", "Forbidden"),
        "Forbidden",
        "exceeded quota: team",
        ["Reconciling"],
    ),
    "a webhook that does not answer": (
        JOB,
        WebhookFailed('failed calling webhook "check.example.com": no endpoints', "InternalError"),
        "WebhookFailed",
        'failed calling webhook "check.example.com": no endpoints',
        ["Reconciling"],
    ),
    "a bad pod template": (
        JOB,
        Invalid('Job "r" is invalid: spec.template.spec.volumes[0].name: Invalid value', "Invalid"),
        "Invalid",
        'Job "r" is invalid: spec.template.spec.volumes[0].name: Invalid value',
        ["Stalled"],
    ),
    "a request that is not understood": (
        JOB,
        Invalid("strict decoding error", "BadRequest"),
        "BadRequest",
        "strict decoding error",
        ["Stalled"],
    ),
    "no RayJobs": (JOB, KubeRayMissing("none", None, "install it"), "KubeRayMissing", "none (install it)", ["Stalled"]),
    "a foreign object": (
        ROLE_BINDING,
        NotOurs("RoleBinding fovea-run exists", None, "delete it"),
        "NotOurs",
        "RoleBinding fovea-run exists (delete it)",
        ["Stalled"],
    ),
    "a fault of the operator": (
        JOB,
        ZeroDivisionError("division by zero"),
        "InternalError",
        "ZeroDivisionError: division by zero; a fault of the operator, whose log says where it lies",
        ["Stalled"],
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_what_fails_is_reported_by_the_object_and_tried_again(name: str) -> None:
    kind, error, reason, message, holds = FAILURES[name]
    world = World((DATASET, dataset()))
    world.api.fails[kind] = error
    with pytest.raises(type(error)):
        await world.engine.reconcile(CELLS)
    assert world.says() == (reason, message, holds)
    before = list(world.api.asked)
    with pytest.raises(type(error)):
        await world.engine.reconcile(CELLS)
    assert ("status", CELLS) not in world.api.asked[len(before) :]  # it says so already


@pytest.mark.parametrize("error", [Unreachable("down"), Conflict("changed")])
async def test_what_passes_by_itself_is_tried_again_without_words(error: Exception) -> None:
    world = World((DATASET, dataset()))
    world.api.fails[RUN] = error
    with pytest.raises(type(error)):
        await world.engine.reconcile(CELLS)
    assert "status" not in world.api.objects[CELLS]


async def test_a_report_that_fails_too_does_not_hide_the_fault() -> None:
    world = World((DATASET, dataset()))
    world.api.fails = {JOB: ZeroDivisionError("division by zero"), DATASET: Unreachable("down")}
    with pytest.raises(ZeroDivisionError):
        await world.engine.reconcile(CELLS)


async def test_what_is_left_of_the_object_before_is_waited_for() -> None:
    world = World((DATASET, dataset()))
    await world.engine.reconcile(CELLS)
    (name,) = world.made(RUN)
    world = World((DATASET, dataset()))
    left = thing(RUN, name, metadata={"labels": LABELS, "ownerReferences": [{"uid": "before", "controller": True}]})
    world.api.objects[Key(RUN, "ns", name)] = left  # the watch has not shown it yet
    assert await world.engine.reconcile(CELLS) == SETTINGS.deletion_poll_seconds
    reason, message, holds = world.says()
    assert (reason, holds) == ("Stopping", ["Reconciling"])
    assert f"Run ns/{name}" in message


async def test_the_rest_of_a_status_stays_when_a_failure_is_reported() -> None:
    world = World((DATASET, dataset() | {"status": {"version": f"sha256-{'4' * 64}", "newer": {"field": 1}}}))
    world.api.fails[RUN] = Refused("no", "Forbidden")
    with pytest.raises(Refused):
        await world.engine.reconcile(CELLS)
    status: Any = world.api.objects[CELLS]["status"]
    assert (status["version"], status["newer"]) == (f"sha256-{'4' * 64}", {"field": 1})
    assert {status["observedGeneration"], *(each["observedGeneration"] for each in status["conditions"])} == {2}


async def test_of_an_object_that_is_deleted_its_cleanup_reports() -> None:
    cleanup = run("r-clean", "Cleanup", owner=False, status={"progress": {"epoch": 1}, "phase": "Pending"})
    world = World((RUN, cleanup | {"metadata": cleanup["metadata"]}))
    world.api.fails[DATASET] = Refused("datasets may not be listed", "Forbidden")

    async def refused(*_: Any, **__: Any) -> Any:
        raise Refused("datasets may not be listed", "Forbidden")

    world.api.list = refused  # type: ignore[method-assign]
    with pytest.raises(Refused):
        await world.engine.reconcile(CELLS)
    key = Key(RUN, "ns", "r-clean")
    assert world.says(key)[:2] == ("Forbidden", "datasets may not be listed")
    assert "progress" not in world.api.objects[key]["status"]  # type: ignore[operator]  # its pods' part stays theirs


# --- Objects of a newer version -------------------------------------------------------------------------------------


async def test_a_run_of_an_unknown_type_reports_itself_and_holds_nobody_up() -> None:
    world = World((DATASET, dataset()), (RUN, run()))
    await world.engine.reconcile(CELLS)
    assert len(world.made(JOB)) == 1
    assert world.says()[0] == "Starting"
    reason, message, holds = world.says(Key(RUN, "ns", "r-new"))
    assert (reason, holds) == ("InvalidManifest", ["Stalled"])
    assert message.startswith("Run r-new: spec.type: Input should be")
    assert not [key for verb, key in world.api.asked if verb.startswith("delete")]


async def test_a_run_with_an_unknown_field_is_read() -> None:
    newer = run("r-old", "Cleanup", status={"phase": "Succeeded", "newer": 1})
    newer["spec"]["newer"] = {"a": 1}  # type: ignore[index,call-overload]
    world = World((DATASET, dataset()), (RUN, newer))
    await world.engine.reconcile(CELLS)
    assert "conditions" not in world.api.objects[Key(RUN, "ns", "r-old")]["status"]  # type: ignore[operator]
    assert len(world.made(JOB)) == 1


async def test_a_run_that_cannot_be_read_is_not_made_anew() -> None:
    world = World((DATASET, dataset()))
    await world.engine.reconcile(CELLS)
    (name,) = world.made(RUN)
    world = World((DATASET, dataset()), (RUN, run(name, "DatasetBuild", status={"phase": "Evaluating"})))
    with pytest.raises(InvalidManifest):
        await world.engine.reconcile(CELLS)
    assert world.says()[:1] == ("InvalidManifest",)
    assert world.made(JOB) == []


async def test_an_object_with_an_unknown_field_works() -> None:
    world = World((DATASET, dataset(newer={"a": 1})))
    await world.engine.reconcile(CELLS)
    assert world.says()[0] == "Starting"


async def test_an_object_that_cannot_be_read_reports_itself() -> None:
    world = World((DATASET, dataset(task="Captioning")))
    with pytest.raises(InvalidManifest):
        await world.engine.reconcile(CELLS)
    reason, message, holds = world.says()
    assert (reason, holds) == ("InvalidManifest", ["Stalled"])
    assert message.startswith("Dataset cells: spec.task: ")


async def test_who_refers_to_it_waits_and_says_why() -> None:
    job = thing(TRAINING_JOB, "job", spec={"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}})
    world = World((DATASET, dataset(task="Captioning")), (TRAINING_JOB, job))
    key = Key(TRAINING_JOB, "ns", "job")
    await world.engine.reconcile(key)
    words = "this version of Fovea cannot read Dataset 'cells', whose own conditions say why"
    assert world.says(key) == ("DatasetUnreadable", words, ["Reconciling"])
