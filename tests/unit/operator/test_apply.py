"""The writer: what it makes, what it leaves alone, what it refuses. The API server is a stand-in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from fovea_operator.apply import Leftover, NotOurs, Writer
from fovea_operator.cache import Cache
from fovea_operator.client import Api, Conflict, NotFound, Refused, Unreachable
from fovea_operator.kinds import builtin
from fovea_operator.metrics import Metrics
from fovea_operator.objects import (
    DATASET,
    JOB,
    RAY_JOB,
    ROLE_BINDING,
    RUN,
    SERVICE_ACCOUNT,
    TRAINING_JOB,
    JsonObject,
    Key,
    Kind,
    View,
    key_of,
)
from fovea_operator.prerequisites import KubeRayMissing
from fovea_operator.runs.build import namespace_setup
from fovea_operator.settings import Settings
from fovea_operator.writes import Apply, Count, Create, Delete, Emit, Plan, Promote, SetStatus, Write
from prometheus_client import generate_latest

from tests.unit.operator.fake_api import FakeApi

RUN_KEY, OWNER = Key(RUN, "ns", "r-1"), Key(DATASET, "ns", "cells")
JOB_KEY = Key(JOB, "ns", "r-1-1")
LABELS = {"fovea.dev/kind": "Dataset", "fovea.dev/name": "cells"}
MANIFEST: JsonObject = {"kind": "Job", "metadata": {"name": "r-1-1", "namespace": "ns", "labels": dict(LABELS)}}


def world(*present: tuple[Kind, JsonObject]) -> tuple[FakeApi, Writer]:
    """A writer whose cache has the Run r-1 with the uid `run`, and a server that has these objects."""
    cache = Cache(builtin())
    cache.put(RUN, thing("r-1", uid="run"))
    server = FakeApi({key_of(kind, value): value for kind, value in present})
    return server, Writer(cast(Api, server), cache, Metrics(), "operator-1")


def thing(name: str, **metadata: Any) -> JsonObject:
    return {
        "kind": "Any",
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": "5", "labels": dict(LABELS)} | metadata,
    }


async def write(writer: Writer, *writes: Write) -> None:
    await writer.write(Plan(writes))


async def test_a_child_belongs_to_its_controller_and_is_known_at_once() -> None:
    server, writer = world()
    await write(writer, Create(JOB_KEY, MANIFEST, RUN_KEY))
    made = server.objects[JOB_KEY]
    reference = {
        "apiVersion": RUN.api_version, "kind": "Run", "name": "r-1", "uid": "run",
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    assert made["metadata"]["ownerReferences"] == [reference]  # type: ignore[index,call-overload]
    assert (made["metadata"]["labels"], MANIFEST["metadata"]) == (LABELS, MANIFEST["metadata"])  # type: ignore[index,call-overload]
    assert writer.cache.get(JOB_KEY) is not None


async def test_what_was_made_and_forgotten_is_taken_as_made() -> None:
    own = thing("r-1-1", ownerReferences=[{"uid": "other"}, {"uid": "run"}])
    server, writer = world((JOB, own))
    await write(writer, Create(JOB_KEY, MANIFEST, RUN_KEY))
    assert writer.cache.get(JOB_KEY) is not None
    assert server.objects[JOB_KEY] is own


@pytest.mark.parametrize("labels", [{}, LABELS | {"fovea.dev/name": "tissue"}], ids=["no labels", "another object's"])
async def test_a_foreign_object_is_neither_taken_nor_written(labels: dict[str, str]) -> None:
    foreign = thing("r-1-1", labels=labels, ownerReferences=[{"uid": "other", "controller": True}])
    server, writer = world((JOB, foreign))
    with pytest.raises(NotOurs, match=r"^Job ns/r-1-1 exists and does not belong to Any r-1 \(delete or rename it\)$"):
        await write(writer, Create(JOB_KEY, MANIFEST, RUN_KEY))
    assert writer.cache.get(JOB_KEY) is None
    assert server.objects[JOB_KEY] is foreign


async def test_what_is_left_of_the_object_before_is_waited_for() -> None:
    _, writer = world((JOB, thing("r-1-1", ownerReferences=[{"uid": "before", "controller": True}])))
    with pytest.raises(Leftover) as raised:
        await write(writer, Create(JOB_KEY, MANIFEST, RUN_KEY))
    assert str(raised.value) == f"{JOB_KEY}: left of an object that was deleted (it goes by itself)"


async def test_what_is_counted_is_counted_once_for_its_labels() -> None:
    _, writer = world()
    await write(writer, Count("fovea_run_attempts_ended_total", ("Training", "Failed")))
    pages = generate_latest(writer.metrics.registry).decode()
    assert 'fovea_run_attempts_ended_total{outcome="Failed",type="Training"} 1.0' in pages


async def test_what_came_and_went_is_tried_again() -> None:
    server, writer = world()
    server.fails[JOB] = Conflict("exists")
    with pytest.raises(Conflict, match="came and went"):
        await write(writer, Create(JOB_KEY, MANIFEST, RUN_KEY))


async def test_nothing_is_made_for_a_controller_that_is_not_there() -> None:
    server, writer = world()
    with pytest.raises(NotFound, match="Run ns/r-9"):
        await write(writer, Create(JOB_KEY, MANIFEST, Key(RUN, "ns", "r-9")))
    assert server.asked == []


async def test_a_cluster_without_ray_jobs_is_named_and_a_missing_job_is_not() -> None:
    server, writer = world()
    server.fails = {RAY_JOB: NotFound("no matches"), JOB: NotFound("namespace is deleted")}
    words = r"^the cluster knows no RayJobs \(install the KubeRay operator 1.6 or newer\)$"
    with pytest.raises(KubeRayMissing, match=words):
        await write(writer, Create(Key(RAY_JOB, "ns", "r-1-1"), MANIFEST, RUN_KEY))
    with pytest.raises(NotFound, match="namespace is deleted"):
        await write(writer, Create(JOB_KEY, MANIFEST, RUN_KEY))


# --- What belongs to the namespace --------------------------------------------------------------------------------


def binding(**changed: Any) -> JsonObject:
    *_, create = namespace_setup("ns", Settings())
    return create.manifest | {"metadata": {"name": "fovea-run", "namespace": "ns"}} | changed


async def test_service_account_and_binding_are_made_once() -> None:
    server, writer = world()
    await write(writer, *namespace_setup("ns", Settings()))
    await write(writer, *namespace_setup("ns", Settings()))
    written = [(verb, key.kind) for verb, key in server.asked if verb != "get"]
    assert written == [("apply", SERVICE_ACCOUNT), ("apply", ROLE_BINDING)]  # the chart grants no POST of these


async def test_a_binding_made_by_others_that_grants_the_same_will_do() -> None:
    server, writer = world((ROLE_BINDING, binding()))
    await write(writer, *namespace_setup("ns", Settings()))
    assert ("apply", Key(ROLE_BINDING, "ns", "fovea-run")) not in server.asked


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}},
            "another roleRef",
        ),
        ({"subjects": [{"kind": "Group", "name": "everybody"}]}, "another subjects"),
    ],
    ids=["role", "subjects"],
)
async def test_a_binding_that_grants_something_else_is_refused_and_left(changed: dict[str, Any], words: str) -> None:
    foreign = binding(**changed)
    server, writer = world((ROLE_BINDING, foreign))
    with pytest.raises(NotOurs, match=f"RoleBinding ns/fovea-run exists with {words} .*delete it"):
        await write(writer, *namespace_setup("ns", Settings()), Create(JOB_KEY, MANIFEST, RUN_KEY))
    assert server.objects[Key(ROLE_BINDING, "ns", "fovea-run")] is foreign
    assert JOB_KEY not in server.objects


@pytest.mark.parametrize("same", [True, False])
async def test_a_binding_that_somebody_makes_at_the_same_time_is_looked_at(same: bool) -> None:
    server, writer = world()
    apply = server.apply

    async def somebody_is_first(key: Key, manifest: View, force: bool = True, manager: str = "") -> JsonObject:
        if key.kind == ROLE_BINDING:
            server.objects[key] = binding(**({} if same else {"subjects": []}))
            raise Conflict("conflict with somebody")
        return await apply(key, manifest, force)

    server.apply = somebody_is_first  # type: ignore[method-assign]
    if same:
        await write(writer, *namespace_setup("ns", Settings()))
    else:
        with pytest.raises(NotOurs):
            await write(writer, *namespace_setup("ns", Settings()))


async def test_a_foreign_binding_is_refused_with_all_that_differs_and_a_remedy() -> None:
    _, writer = world((ROLE_BINDING, binding(roleRef={}, subjects=[])))
    words = (
        r"^RoleBinding ns/fovea-run exists with another roleRef and another subjects than Fovea would give it "
        r"\(delete it; Fovea then makes it anew\)$"
    )
    with pytest.raises(NotOurs, match=words):
        await write(writer, *namespace_setup("ns", Settings()))


# --- What is kept up to date --------------------------------------------------------------------------------------


def kept(**spec: Any) -> Apply:
    return Apply(JOB_KEY, MANIFEST | {"spec": {"replicas": 1, "color": "red"} | spec}, RUN_KEY)


async def test_what_is_kept_is_applied_when_it_differs_and_only_then() -> None:
    server, writer = world()
    await write(writer, kept(), kept())
    assert [verb for verb, _ in server.asked] == ["get", "apply"]
    made: Any = server.objects[JOB_KEY]
    assert (made["spec"]["color"], made["metadata"]["ownerReferences"][0]["uid"]) == ("red", "run")
    assert writer.cache.get(JOB_KEY) is not None
    await write(writer, kept(color="blue"))
    assert [verb for verb, _ in server.asked] == ["get", "apply", "apply"]
    assert server.objects[JOB_KEY]["spec"] == {"replicas": 1, "color": "blue"}


async def test_a_field_that_others_have_set_is_left_to_them() -> None:
    server, writer = world()
    conflict = Conflict("conflict with autoscaler")
    conflict.fields = (".spec.replicas",)
    server.fails[JOB] = conflict
    await write(writer, kept())
    assert [verb for verb, _ in server.asked] == ["get", "apply", "apply"]
    assert server.objects[JOB_KEY]["spec"] == {"color": "red"}
    await write(writer, kept())
    assert len(server.asked) == 3


async def test_a_conflict_about_no_field_is_tried_again_later() -> None:
    server, writer = world()
    server.fails[JOB] = Conflict("changed meanwhile")
    with pytest.raises(Conflict, match="changed meanwhile"):
        await write(writer, kept())
    assert JOB_KEY not in server.objects


async def test_a_foreign_object_is_not_kept_up_to_date() -> None:
    foreign = thing("r-1-1", labels={}, ownerReferences=[{"uid": "other"}])
    server, writer = world((JOB, foreign))
    with pytest.raises(NotOurs, match="Job ns/r-1-1 exists"):
        await write(writer, kept())
    assert server.objects[JOB_KEY] is foreign


# --- Deletions, statuses, events ----------------------------------------------------------------------------------


async def test_a_deletion_is_of_one_uid_and_noted_until_the_watch_says_so() -> None:
    server, writer = world()
    await write(writer, Delete(RUN_KEY, "run"))
    assert server.asked == [("delete run", RUN_KEY)]
    known = writer.cache.get(RUN_KEY)
    assert known is not None
    assert "deletionTimestamp" in known["metadata"]  # type: ignore[operator]


async def test_a_status_is_known_at_once_and_the_first_failure_ends_the_plan() -> None:
    server, writer = world()
    await write(writer, SetStatus(RUN_KEY, {"phase": "Running"}))
    assert writer.cache.get(RUN_KEY)["status"] == {"phase": "Running"}  # type: ignore[index]
    server.fails[RUN] = Refused("no", "Forbidden")
    with pytest.raises(Refused):
        await write(writer, SetStatus(RUN_KEY, {}), Create(JOB_KEY, MANIFEST, RUN_KEY))
    assert JOB_KEY not in server.objects


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        (OWNER, {"forecast": {"eta": "1h"}}),
        (RUN_KEY, {"forecast": {"eta": "1h"}}),
    ],
)
async def test_a_status_keeps_what_a_newer_version_has_put_there_and_nothing_else(key: Key, kept: JsonObject) -> None:
    """`usage` was ours and is meant to go; progress and result belong to the run's pods."""
    server, writer = world()
    before = {"phase": "Pending", "usage": {}, "progress": {"percent": 5}, "retry": {"value": "now"}}
    status = before if key == RUN_KEY else {"phase": "Pending", "usage": {}, "progress": {"percent": 5}}
    status = {name: part for name, part in status.items() if key != RUN_KEY or name != "usage"}
    writer.cache.put(key.kind, thing(key.name, uid="u", resourceVersion="9") | {"status": status | kept})
    await write(writer, SetStatus(key, {"phase": "Running"}))
    assert server.objects[key]["status"] == {"phase": "Running"} | kept


def emit(once: str = "r-1", note: str = "note", reason: str = "RunCreated") -> Emit:
    return Emit(RUN_KEY, "Normal", reason, note, once)


async def test_an_event_is_reported_once_under_a_name_made_of_what_it_reports() -> None:
    server, writer = world()
    await write(writer, emit(), emit(), emit("r-2"), emit(reason="Other"))
    events = [value for key, value in server.objects.items() if key.kind.name == "Event"]
    assert len(events) == 3
    first: Any = dict(events[0])
    metadata, time = first.pop("metadata"), first.pop("eventTime")
    assert (metadata["name"].partition(".")[0], metadata["namespace"]) == ("r-1", "ns")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()) < 60
    assert first == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "reportingController": "fovea.dev/operator",
        "reportingInstance": "operator-1",
        "action": "Reconcile",
        "reason": "RunCreated",
        "note": "note",
        "type": "Normal",
        "regarding": {
            "apiVersion": RUN.api_version, "kind": "Run", "name": "r-1", "namespace": "ns", "uid": "run",
        },
    }  # fmt: skip


async def test_an_event_about_an_object_made_again_is_another() -> None:
    server, writer = world()
    await write(writer, emit())
    writer.cache.put(RUN, thing("r-1", uid="made again", resourceVersion="200"))
    await write(writer, emit())
    assert len([key for key in server.objects if key.kind.name == "Event"]) == 2


async def test_an_event_is_cut_in_whole_characters() -> None:
    server, writer = world()
    await write(writer, emit(note="ü" * 1000, reason="R" * 200))
    (event,) = [value for key, value in server.objects.items() if key.kind.name == "Event"]
    assert (event["note"], event["reason"]) == ("ü" * 512, "R" * 128)


@pytest.mark.parametrize("error", [Refused("no", "Forbidden"), Unreachable("down")])
async def test_a_lost_event_keeps_nothing_else_from_being_written(error: Exception) -> None:
    server, writer = world()
    server.fails = dict.fromkeys([Kind("Event", "events.k8s.io/v1", "events")], error)
    await write(writer, emit(), SetStatus(RUN_KEY, {"phase": "Running"}))
    assert ("status", RUN_KEY) in server.asked


# --- What is made for others ---------------------------------------------------------------------------------------

BEST = Key(TRAINING_JOB, "ns", "cells-best")


def promote(**spec: Any) -> Promote:
    metadata = {"name": BEST.name, "namespace": "ns", "labels": {"fovea.dev/promoted-from": "search"}}
    return Promote(BEST, {"kind": "TrainingJob", "metadata": metadata, "spec": spec})


async def test_a_promoted_job_belongs_to_nobody() -> None:
    server, writer = world()
    await write(writer, promote(training={"epochs": 30}), promote(training={"epochs": 40}))
    made: Any = server.objects[BEST]
    assert made["spec"] == {"training": {"epochs": 40}}
    assert "ownerReferences" not in made["metadata"]
    assert server.managers == ["fovea-sweep", "fovea-sweep"]


@pytest.mark.parametrize("labels", [{}, {"fovea.dev/promoted-from": "another"}])
async def test_a_job_of_that_name_that_somebody_else_made_is_left(labels: dict[str, str]) -> None:
    foreign: JsonObject = {
        "kind": "TrainingJob",
        "metadata": {"name": BEST.name, "namespace": "ns", "labels": {**labels}},
    }
    server, writer = world((TRAINING_JOB, foreign))
    with pytest.raises(NotOurs, match=r"was not promoted from search .*label it fovea\.dev/promoted-from=search"):
        await write(writer, promote())
    assert server.objects[BEST] is foreign


async def test_what_others_have_set_in_a_promoted_job_is_left_to_them() -> None:
    server, writer = world()
    conflict = Conflict("conflict with kubectl")
    conflict.fields = (".spec.training.epochs",)
    server.fails[TRAINING_JOB] = conflict
    await write(writer, promote(training={"epochs": 30, "batchSize": 8}))
    made: Any = server.objects[BEST]
    assert made["spec"] == {"training": {"batchSize": 8}}
