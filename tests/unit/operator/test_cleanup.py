"""When data are deleted from the store and when they are kept: the planners' cleanups, as tables of situations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fovea_api.common import Reference
from fovea_api.dataset import Dataset
from fovea_api.run import CleanupRecipe, Run, RunSpec, run_name
from fovea_api.trainingjob import TrainingJob
from fovea_operator.cleanups.plan import plan_deleted
from fovea_operator.cleanups.snapshot import DeletedSnapshot
from fovea_operator.kinds.dataset.plan import plan_dataset
from fovea_operator.kinds.dataset.snapshot import DatasetSnapshot
from fovea_operator.kinds.trainingjob.plan import plan_training
from fovea_operator.kinds.trainingjob.snapshot import TrainingSnapshot
from fovea_operator.objects import DATASET, JOB, RAY_JOB, RUN, TRAINING_JOB, Key
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.workload import Child, ChildState
from fovea_operator.writes import Create, Delete, Emit, Plan, SetStatus

NOW = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=61)
SETTINGS = Settings(cleanup_delay_seconds=60, trainer_image="trainer:1", reference_poll_seconds=15)
STORE = StoreConfig("s3://fovea/ns", "keys")
METADATA = {"name": "cells", "namespace": "ns", "uid": "u", "generation": 1}
POLICY = {"deletionPolicy": "Delete"}


def version(number: int) -> str:
    return f"sha256-{number:064}"


# --- Objects and Runs ----------------------------------------------------------------------------------------------


def dataset(status: dict[str, Any] | None = None, **spec: Any) -> Dataset:
    base = {"task": "Classification", "sources": [{"name": "a", "uri": "s3://a", "format": "ImageFolder"}]}
    return Dataset.model_validate({"metadata": METADATA, "spec": base | spec, "status": status})


def job(**spec: Any) -> TrainingJob:
    base = {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}}
    return TrainingJob.model_validate({"metadata": METADATA, "spec": base | spec})


def of_dataset(each: Dataset, *runs: RunView, now: datetime = NOW, **more: Any) -> Plan:
    return plan_dataset(DatasetSnapshot(dataset=each, runs=runs, store=STORE, now=now, **more), SETTINGS)


def of_job(each: TrainingJob, *runs: RunView, dataset: Dataset | None = None, **more: Any) -> Plan:
    snapshot = TrainingSnapshot(job=each, runs=runs, dataset=dataset, datasets=("cells",), store=STORE, now=NOW, **more)
    return plan_training(snapshot, SETTINGS)


def made(plan: Plan, kind: object, type: str = "") -> list[Create]:
    found = [each for each in plan.writes if isinstance(each, Create) and each.key.kind == kind]
    return [each for each in found if not type or each.manifest["spec"]["type"] == type]  # type: ignore[index,call-overload]


def deleted(plan: Plan) -> list[str]:
    return [each.key.name for each in plan.writes if isinstance(each, Delete)]


def status_of(plan: Plan, name: str) -> dict[str, Any]:
    found = [dict(each.status) for each in plan.writes if isinstance(each, SetStatus) and each.key.name == name]
    return found[-1] if found else {}


def ready(status: dict[str, Any]) -> tuple[str, str]:
    found = next(each for each in status["conditions"] if each["type"] == "Ready")
    return found["reason"], found["message"]


def run(spec: Any, status: dict[str, Any] | None = None, *children: Child, created: datetime = NOW) -> RunView:
    made = RunSpec.model_validate(spec)
    metadata = {"name": run_name(made.identity), "namespace": "ns", "uid": "r", "creationTimestamp": created}
    return RunView(Run.model_validate({"metadata": metadata, "spec": made.to_dict(), "status": status}), children)


def child(view: RunView, state: ChildState = ChildState.RUNNING) -> Child:
    return Child(Key(JOB, "ns", f"{view.name}-1"), "c", view.name, NOW, state)


def attempt(view: RunView, outcome: str | None = None) -> dict[str, Any]:
    ended = {"outcome": outcome, "endTime": NOW - timedelta(hours=1), "reason": "X", "message": "why"}
    return {"number": 1, "child": f"{view.name}-1", "startTime": NOW} | (ended if outcome else {})


def waiting(**spec: Any) -> RunView:
    """The Run that waits for the end of a Dataset of policy Delete."""
    create = made(of_dataset(dataset(**(POLICY | spec))), RUN, "Cleanup")[0]
    return run(create.manifest["spec"])


def working_on(view: RunView) -> RunView:
    """The same with a pod at work."""
    status = view.status.model_validate({"phase": "Running", "attempts": [attempt(view)]})
    return RunView(view.run.model_copy(update={"status": status}), (child(view),))


def with_status(view: RunView, **status: Any) -> RunView:
    return RunView(view.run.model_copy(update={"status": view.status.model_validate(status)}), view.children)


def built(number: int, versions: int, nonce: str = "") -> RunView:
    """A finished build of version `number` when the store had so many versions."""
    view = run(made(of_dataset(dataset()), RUN, "DatasetBuild")[0].manifest["spec"])
    spec = view.run.spec.model_copy(update={"nonce": nonce, "identity": version(number)} if nonce else {})
    left = [version(number - each) for each in range(versions)]
    summary = {"version": version(number), "images": 9, "annotations": 9, "splits": {"train": 9}, "classes": []}
    result = {
        "completedAt": NOW + timedelta(minutes=number),
        "artifact": f"s3://fovea/ns/dataset/cells/{version(number)}",
        "digest": version(number),
        "dataset": summary,
        "versions": left,
    }
    return run(spec, {"phase": "Succeeded", "result": result, "attempts": [attempt(view, "Succeeded")]})


def pruning(build: RunView, **spec: Any) -> RunView:
    """The Run that a build leads to."""
    return run(made(of_dataset(dataset(**spec), build), RUN, "Cleanup")[0].manifest["spec"])


# --- deletionPolicy: the object exists -----------------------------------------------------------------------------


def test_retain_makes_nothing() -> None:
    for plan in (of_dataset(dataset()), of_job(job(), dataset=dataset({"version": version(1), "artifact": "s3://x"}))):
        assert made(plan, RUN)
        assert not made(plan, RUN, "Cleanup")


def test_delete_makes_its_run_before_any_data_exist_and_waits() -> None:
    known = dataset({"version": version(1), "artifact": "s3://x"})
    for kind, plan in ((DATASET, of_dataset(dataset(**POLICY))), (TRAINING_JOB, of_job(job(**POLICY), dataset=known))):
        create = plan.writes[0]
        assert isinstance(create, Create)
        assert create.controller is None, "it must outlive its object"
        assert create.manifest["spec"]["type"] == "Cleanup"  # type: ignore[index,call-overload]
        labels = create.manifest["metadata"]["labels"]  # type: ignore[index,call-overload]
        assert (labels["fovea.dev/kind"], labels["fovea.dev/name"]) == (kind.name, "cells")
        status = status_of(plan, create.key.name)
        assert status["phase"] == "Pending"
        assert ready(status) == ("Waiting", f"acts when {kind.name} cells is deleted")
        assert not [
            each for each in plan.writes if isinstance(each, Create) and each.key.name.startswith(f"{create.key.name}-")
        ]


def test_without_a_run_there_is_nothing_to_delete() -> None:
    nowhere = DatasetSnapshot(dataset=dataset(**POLICY), store=StoreConfig(""), now=NOW)
    assert not made(plan_dataset(nowhere, SETTINGS), RUN)
    assert not made(of_job(job(**POLICY)), RUN)


def settled(view: RunView) -> RunView:
    return with_status(view, **status_of(of_dataset(dataset(**POLICY), cleanups=(view,)), view.name))


FAILED = {"phase": "Failed", "result": {"completedAt": NOW, "error": {"reason": "AccessDenied", "message": "keys"}}}
WAITING = waiting()
LIVING: dict[str, tuple[dict[str, Any], RunView, tuple[bool, bool]]] = {
    # spec, the Run that waits, whether it is (deleted, made)
    "it waits on": (POLICY, settled(WAITING), (False, False)),
    "back to Retain": ({}, WAITING, (True, False)),
    "back to Retain while a pod is at work": ({}, working_on(WAITING), (False, False)),
    "the queue changed": (POLICY | {"runPolicy": {"queueName": "q"}}, WAITING, (True, True)),
    "the image changed": (POLICY | {"compute": {"image": "mine:2"}}, WAITING, (True, True)),
    "a failed one of the object before": (POLICY, with_status(WAITING, **FAILED), (True, True)),
    "the policy is Retain and one has failed": ({}, with_status(WAITING, **FAILED), (True, False)),
}


@pytest.mark.parametrize("name", LIVING)
def test_an_object_that_exists(name: str) -> None:
    spec, view, expected = LIVING[name]
    plan = of_dataset(dataset(**spec), cleanups=(view,))
    assert (view.name in deleted(plan), bool(made(plan, RUN, "Cleanup"))) == expected
    assert not [each for each in plan.writes if isinstance(each, Create) and each.key.name == f"{view.name}-1"]


def test_a_settled_one_is_not_written_again() -> None:
    view = settled(WAITING)
    plan = of_dataset(dataset(**POLICY), cleanups=(view,))
    assert not [each for each in plan.writes if isinstance(each, SetStatus | Create) and each.key.name == view.name]


def test_a_build_starts_after_the_last_pod_of_a_cleanup() -> None:
    plan = of_dataset(dataset(**POLICY), cleanups=(replace(WAITING, pods=("p",)),))
    assert not made(plan, JOB)
    assert ready(status_of(plan, "cells"))[0] == "CleaningUp"


def test_an_object_that_cannot_run_still_chooses_its_policy() -> None:
    spec = {"model": {"architecture": "resnet-eighteen"}}
    known = dataset({"version": version(1), "artifact": "s3://x"})
    view = run(made(of_job(job(**POLICY), dataset=known), RUN, "Cleanup")[0].manifest["spec"])
    assert deleted(of_job(job(**spec), cleanups=(view,))) == [view.name]


def test_an_object_made_again_waits_until_the_cleanup_has_ended() -> None:
    """It loses none of its new data, for it makes none."""
    plan = of_dataset(dataset(**POLICY), cleanups=(working_on(WAITING),))
    assert made(plan, RUN, "DatasetBuild")
    assert not made(plan, JOB)
    reason, message = ready(status_of(plan, "cells"))
    assert (reason, WAITING.name in message) == ("CleaningUp", True)
    known = dataset({"version": version(1), "artifact": "s3://x"})
    assert not made(of_job(job(), dataset=known, cleanups=(working_on(WAITING),)), RAY_JOB)
    assert made(of_job(job(), dataset=known, cleanups=(WAITING,)), RAY_JOB)


# --- deletionPolicy: the object is deleted ----------------------------------------------------------------------------


def after_deletion(
    view: RunView, users: tuple[str, ...] = (), missing: tuple[Reference, ...] = (), now: datetime = LATER, **more: Any
) -> Plan:
    return plan_deleted(DeletedSnapshot(view, users, STORE, missing, now, **more), SETTINGS)


def missed(view: RunView, **status: Any) -> RunView:
    """The same a minute after its object was seen missing."""
    first = after_deletion(with_status(view, phase="Pending"), now=NOW)
    return with_status(view, **(status_of(first, view.name) | status))


def spec_of(plan: Plan) -> RunSpec:
    container = made(plan, JOB)[0].manifest["spec"]["template"]["spec"]["containers"][0]  # type: ignore[index,call-overload]
    env = {each["name"]: each.get("value") for each in container["env"]}  # type: ignore[index,call-overload,union-attr]
    return RunSpec.model_validate(json.loads(env["FOVEA_RUN"]))  # type: ignore[arg-type]


def test_the_cleanup_of_a_deleted_object_starts_where_its_pods_ran() -> None:
    template = {"nodeSelector": {"disk": "ssd"}, "imagePullSecrets": [{"name": "registry"}]}
    view = waiting(compute={"podTemplate": template, "image": "mine:1"}, runPolicy={"queueName": "q", "retries": 0})
    plan = after_deletion(missed(view))
    create = made(plan, JOB)[0]
    pod: Any = create.manifest["spec"]["template"]["spec"]  # type: ignore[index,call-overload]
    assert create.controller == Key(RUN, "ns", view.name)
    assert create.manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"  # type: ignore[index,call-overload]
    assert (pod["nodeSelector"], pod["imagePullSecrets"]) == ({"disk": "ssd"}, [{"name": "registry"}])
    assert pod["containers"][0]["image"] == "mine:1"
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]
    recipe = CleanupRecipe.model_validate(dict(spec_of(plan).recipe))
    assert (recipe.keep_newest, recipe.keep) == (0, ())
    assert all(each.regarding == Key(RUN, "ns", view.name) for each in plan.writes if isinstance(each, Emit))


def at_work_or_done(**status: Any) -> RunView:
    return replace(missed(WAITING, phase="Running", attempts=[attempt(WAITING)], **status), children=(child(WAITING),))


AFTER_DELETION: dict[str, tuple[Callable[[], Plan], dict[str, Any]]] = {
    "a pod of an earlier attempt lives": (
        lambda: after_deletion(replace(missed(WAITING, attempts=[attempt(WAITING, "Failed")]), pods=("p",))),
        {"started": False, "reason": "Stopping"},
    ),
    "it was seen missing just now": (
        lambda: after_deletion(settled(WAITING)),
        {"started": False, "deleted": [], "reason": "Deleted", "requeue": 60.0},
    ),
    "it was seen missing a while ago": (
        lambda: after_deletion(missed(WAITING), now=NOW + timedelta(seconds=20)),
        {"started": False, "deleted": [], "requeue": 40.0},
    ),
    "nothing refers to it": (lambda: after_deletion(missed(WAITING)), {"started": True, "deleted": []}),
    "a backup brought the Run back without its object": (
        lambda: after_deletion(WAITING, now=NOW + timedelta(days=1)),
        {"started": False, "deleted": [], "reason": "Unconfirmed", "requeue": None},
    ),
    "its policy was Retain in the end": (
        lambda: after_deletion(missed(WAITING), retained=True),
        {"started": False, "deleted": [WAITING.name]},
    ),
    "its policy was Retain in the end, but data of the one before go already": (
        lambda: after_deletion(at_work_or_done(), retained=True),
        {"started": False, "deleted": [], "reason": "Running"},
    ),
    "something does": (
        lambda: after_deletion(missed(WAITING), users=tuple(f"Pod p{number}" for number in range(7))),
        {"started": False, "reason": "InUse", "requeue": 15.0},
    ),
    "another namespace has the same store": (
        lambda: after_deletion(missed(WAITING), shared="b"),
        {"started": False, "deleted": [], "reason": "StoreShared", "requeue": 15.0},
    ),
    "the store's claim is missing": (
        lambda: after_deletion(missed(WAITING), missing=(Reference("PersistentVolumeClaim", "store", "the store"),)),
        {"started": False, "reason": "PersistentVolumeClaimNotFound"},
    ),
    "its pod is at work": (
        lambda: after_deletion(at_work_or_done()),
        {"started": False, "deleted": [], "reason": "Running"},
    ),
    "an attempt failed": (
        lambda: after_deletion(missed(WAITING, attempts=[attempt(WAITING, "Failed")])),
        {"started": True},
    ),
    "it succeeded": (
        lambda: after_deletion(at_work_or_done(result={"completedAt": NOW})),
        {"started": False, "deleted": [WAITING.name]},
    ),
    "it failed for good": (
        lambda: after_deletion(at_work_or_done(result=FAILED["result"])),
        {"started": False, "deleted": [], "reason": "AccessDenied", "requeue": SETTINGS.exit_grace_seconds},
    ),
}


@pytest.mark.parametrize("name", AFTER_DELETION)
def test_after_an_object_was_deleted(name: str) -> None:
    planned, expected = AFTER_DELETION[name]
    plan = planned()
    status = status_of(plan, WAITING.name)
    found = {
        "started": bool(made(plan, JOB)),
        "deleted": deleted(plan),
        "reason": ready(status)[0] if status else "",
        "requeue": plan.requeue_after,
    }
    assert {key: found[key] for key in expected} == expected


def test_a_run_that_a_backup_brought_back_says_so_once() -> None:
    status = status_of(after_deletion(WAITING), WAITING.name)
    assert {status["observedGeneration"], *(each["observedGeneration"] for each in status["conditions"])} == {1}
    reported = {"progress": {"epoch": 1}, "result": {"completedAt": NOW}}
    assert after_deletion(with_status(WAITING, **status, **reported)).writes == ()


def test_an_object_waits_for_what_its_pods_mount_and_for_what_is_left_of_the_one_before() -> None:
    for more, reason in (
        ({"missing": (Reference("Secret", "keys", "the store's credentials"),)}, "SecretNotFound"),
        ({"leftover": Key(JOB, "ns", "r-before-1")}, "Stopping"),
    ):
        plan = of_dataset(dataset(), **more)
        assert made(plan, RUN, "DatasetBuild")
        assert not made(plan, JOB)
        assert ready(status_of(plan, "cells"))[0] == reason


def test_an_object_that_comes_back_makes_its_cleanup_wait_anew() -> None:
    for view in (WAITING, with_status(WAITING, **status_of(after_deletion(WAITING), WAITING.name)), missed(WAITING)):
        back = with_status(view, **status_of(of_dataset(dataset(**POLICY), cleanups=(view,)), view.name))
        assert ready(back.status.to_dict())[0] == "Waiting"
        assert after_deletion(back).requeue_after == 60


def test_users_are_listed_and_the_list_stays_short() -> None:
    def words(users: int) -> str:
        plan = after_deletion(missed(WAITING), users=tuple(f"Pod p{number}" for number in range(users)))
        return ready(status_of(plan, WAITING.name))[1].partition("deleted: ")[2]

    assert words(7) == "Pod p0, Pod p1, Pod p2, Pod p3, Pod p4 and 2 more"
    assert words(5) == "Pod p0, Pod p1, Pod p2, Pod p3, Pod p4"


def test_the_last_failure_names_the_remedy() -> None:
    attempts = [attempt(WAITING, "Failed") | {"number": number} for number in range(1, 22)]
    status = status_of(after_deletion(missed(WAITING, attempts=attempts)), WAITING.name)
    assert status["phase"] == "Failed"
    assert "apply Dataset cells and delete it anew" in ready(status)[1]


def annotated(view: RunView, value: str) -> RunView:
    metadata = view.run.metadata.model_copy(update={"annotations": {"fovea.dev/retry": value}})
    return replace(view, run=view.run.model_copy(update={"metadata": metadata}))


def test_a_cleanup_of_a_deleted_object_that_has_failed_goes_on_when_its_run_is_annotated() -> None:
    attempts = [attempt(WAITING, "Failed") | {"number": number} for number in range(1, 22)]
    failed = missed(WAITING, attempts=attempts, phase="Failed")
    assert not made(after_deletion(failed), JOB)
    assert f"fovea.dev/retry of run {WAITING.name}" in ready(status_of(after_deletion(failed), WAITING.name))[1]
    plan = after_deletion(annotated(failed, "now"))
    assert made(plan, JOB)
    assert status_of(plan, WAITING.name)["retry"] == {"value": "now", "attempt": 21}


BLOCKED = {"number": 1, "child": "c", "outcome": "Blocked", "reason": "AccessDenied", "endTime": NOW, "message": "m"}


def test_a_cleanup_stopped_by_an_infrastructure_fault_says_whom_to_annotate() -> None:
    waits = status_of(after_deletion(missed(WAITING, attempts=[BLOCKED | {"endTime": LATER}])), WAITING.name)
    assert ready(waits)[0] == "AccessDenied"
    assert f"kubectl annotate run {WAITING.name} fovea.dev/retry=now" in ready(waits)[1]


def test_while_the_object_lives_it_is_the_one_to_annotate() -> None:
    cleanup = replace(with_status(WAITING, phase="Failed"), children=(child(WAITING, ChildState.RUNNING),))
    failed = with_status(
        cleanup, phase="Failed", attempts=[attempt(WAITING, "Failed") | {"number": n} for n in range(1, 22)]
    )
    plan = of_dataset(dataset(**POLICY), cleanups=(failed,))
    message = ready(status_of(plan, failed.name))[1]
    assert message.endswith("to try again give the annotation fovea.dev/retry of dataset cells a new value)")


# --- retainVersions ------------------------------------------------------------------------------------------------

KEEP_TWO = {"retainVersions": 2}
STATUS = {"version": version(3), "artifact": f"s3://fovea/ns/dataset/cells/{version(3)}"}


@pytest.mark.parametrize(("versions", "starts"), [(0, False), (1, False), (2, False), (3, True)])
def test_old_versions_are_deleted_when_there_are_too_many(versions: int, starts: bool) -> None:
    plan = of_dataset(dataset(**KEEP_TWO), built(3, versions))
    found = made(plan, RUN, "Cleanup")
    assert bool(found) is starts
    if starts:
        assert found[0].controller == Key(DATASET, "ns", "cells")
        assert not made(plan, JOB), "it is built in a later reconcile"


def prune(view: RunView, *builds: RunView, now: datetime = LATER, used: tuple[int, ...] = ()) -> Plan:
    versions = frozenset(version(number) for number in used)
    return of_dataset(dataset(STATUS, **KEEP_TWO), *builds, now=now, cleanups=(view,), used=versions)


def test_it_keeps_the_newest_the_current_and_the_used() -> None:
    build = built(3, 3)
    plan = prune(pruning(build, **KEEP_TWO), build, used=(1, 7))
    recipe = CleanupRecipe.model_validate(dict(spec_of(plan).recipe))
    assert recipe.keep_newest == 2
    assert recipe.keep == (version(1), version(3), version(7))


def test_it_keeps_the_version_whose_splits_the_newest_keeps() -> None:
    build = built(3, 3)
    inputs = {"parent": {"version": version(2), "artifact": "s3://x"}}
    spec = build.run.spec.model_copy(update={"inputs": type(build.run.spec.inputs).model_validate(inputs)})
    build = replace(build, run=build.run.model_copy(update={"spec": spec}))
    recipe = CleanupRecipe.model_validate(dict(spec_of(prune(pruning(build, **KEEP_TWO), build)).recipe))
    assert recipe.keep == (version(2), version(3))


def test_it_waits_until_every_run_that_was_being_created_is_known() -> None:
    build = built(3, 3)
    plan = prune(pruning(build, **KEEP_TWO), build, now=NOW + timedelta(seconds=20))
    assert not made(plan, JOB)
    assert plan.requeue_after == 40


def test_it_starts_no_attempt_as_long_as_nobody_looked_for_what_is_used() -> None:
    """While an attempt is open nobody looks; it may end in the same step that could start the next."""
    build = built(3, 3)
    cleanup = pruning(build, **KEEP_TWO)
    ended = with_status(cleanup, phase="Running", attempts=[attempt(cleanup) | {"reason": "Suspended"}])
    for view in (cleanup, ended):
        plan = of_dataset(dataset(STATUS, **KEEP_TWO), build, now=LATER, cleanups=(view,))
        assert not made(plan, JOB)
        assert ready(status_of(plan, cleanup.name)) == ("Waiting", "acts when it is known which versions are in use")
        assert plan.requeue_after == SETTINGS.reference_poll_seconds


def test_a_cleanup_of_versions_follows_the_annotation_of_its_dataset() -> None:
    build = built(3, 3)
    view = pruning(build, **KEEP_TWO)
    failed = with_status(view, phase="Failed", attempts=[BLOCKED, BLOCKED | {"number": 2, "endTime": LATER}])
    asked = dataset(STATUS, **KEEP_TWO)
    metadata = asked.metadata.model_copy(update={"annotations": {"fovea.dev/retry": "now"}})
    for of, starts in ((asked, False), (asked.model_copy(update={"metadata": metadata}), True)):
        plan = of_dataset(of, build, now=LATER, cleanups=(failed,), used=frozenset())
        assert bool(made(plan, JOB)) is starts
    waits = status_of(of_dataset(asked, build, now=LATER, cleanups=(failed,), used=frozenset()), view.name)
    assert "kubectl annotate dataset cells fovea.dev/retry=now" in ready(waits)[1]


def test_it_deletes_nothing_in_a_store_of_two_namespaces() -> None:
    build = built(3, 3)
    cleanup = pruning(build, **KEEP_TWO)
    plan = of_dataset(dataset(STATUS, **KEEP_TWO), build, now=LATER, cleanups=(cleanup,), used=frozenset(), shared="b")
    assert not made(plan, JOB)
    assert ready(status_of(plan, cleanup.name))[0] == "StoreShared"
    assert plan.requeue_after == SETTINGS.reference_poll_seconds


@pytest.mark.parametrize(
    "spec",
    [
        {"prelabel": {"modelDeploymentRef": {"name": "m"}, "export": {"uri": "https://cvat/todo", "format": "CVAT"}}},
        {"refresh": {"schedule": "0 3 * * *", "timeZone": "Europe/Nowhere"}},
    ],
    ids=["not supported", "time zone"],
)
def test_it_goes_on_while_the_spec_cannot_be_followed(spec: dict[str, Any]) -> None:
    """Jobs that pin a version wait for its end."""
    build = built(3, 3)
    cleanup = pruning(build, **KEEP_TWO)

    def blocked(*views: RunView, now: datetime = LATER) -> Plan:
        return of_dataset(dataset(STATUS, **KEEP_TWO, **spec), build, now=now, cleanups=views, used=frozenset())

    assert made(blocked(), RUN, "Cleanup")
    assert blocked(cleanup, now=NOW).requeue_after == 60
    assert made(blocked(cleanup), JOB)
    assert status_of(blocked(cleaned(working_on(cleanup), 3, 2)), cleanup.name)["phase"] == "Succeeded"


def test_a_build_and_a_cleanup_never_work_at_the_same_time() -> None:
    build = built(3, 3)
    cleanup = pruning(build, **KEEP_TWO)
    at_work = with_status(build, phase="Running", attempts=[attempt(build)])
    at_work = RunView(at_work.run, (child(at_work),))
    plan = prune(working_on(cleanup), with_status(build, phase="Pending"))
    assert not made(plan, JOB)
    assert ready(status_of(plan, "cells"))[0] == "CleaningUp"
    plan = of_dataset(dataset(STATUS, **KEEP_TWO), at_work, now=LATER, cleanups=(cleanup,))
    assert not made(plan, JOB)
    changed = dataset(STATUS, **KEEP_TWO, classes=["a"])
    plan = of_dataset(changed, build, now=LATER, cleanups=(cleanup,))
    assert [each.manifest["metadata"]["labels"]["fovea.dev/run"] for each in made(plan, JOB)] != [cleanup.name]  # type: ignore[index,call-overload]


def cleaned(cleanup: RunView, *left: int) -> RunView:
    result = {"completedAt": NOW + timedelta(seconds=210), "versions": [version(number) for number in left]}
    return with_status(cleanup, phase="Succeeded", attempts=[attempt(cleanup, "Succeeded")], result=result)


def test_one_cleanup_is_kept_as_a_record_and_writes_nothing_more() -> None:
    build = built(3, 3)
    record = cleaned(pruning(build, **KEEP_TWO), 3, 2)
    settled = with_status(record, **(record.status.to_dict() | status_of(prune(record, build), record.name)))
    assert not [
        each for each in prune(settled, build).writes if getattr(each, "key", None) == Key(RUN, "ns", record.name)
    ]
    newer = built(4, 3, nonce="again")
    plan = of_dataset(dataset(STATUS | {"run": newer.name}, **KEEP_TWO), newer, cleanups=(settled,))
    assert deleted(plan) == [record.name]
    assert len(made(plan, RUN, "Cleanup")) == 1


def test_fewer_retained_versions_are_a_reason_too() -> None:
    build = built(3, 3)
    record = cleaned(pruning(build, **KEEP_TWO), 3, 2)
    plan = of_dataset(dataset(STATUS, retainVersions=1), build, cleanups=(record,))
    assert deleted(plan) == [record.name]
    assert len(made(plan, RUN, "Cleanup")) == 1


def test_builds_whose_version_was_deleted_are_forgotten() -> None:
    old, build = built(1, 1, nonce="old"), built(3, 3)
    record = cleaned(pruning(build, **KEEP_TWO), 3, 2)
    plan = prune(record, build, old)
    assert deleted(plan) == [old.name]
    assert status_of(plan, "cells")["history"] == [build.name]


def test_a_pinned_old_version_waits_for_the_cleanup() -> None:
    pinned = {"datasetRef": {"name": "cells", "version": version(1)}}
    known = dataset(STATUS)
    plan = of_job(job(**pinned), dataset=known, dataset_cleanup="r-0123456789")
    assert not made(plan, RUN)
    assert ready(status_of(plan, "cells"))[0] == "CleaningUp"
    assert plan.requeue_after == 15
    for free in (
        of_job(job(**pinned), dataset=known),
        of_job(job(), dataset=known, dataset_cleanup="r-0123456789"),
        of_job(job(datasetRef={"name": "cells", "version": version(3)}), dataset=known, dataset_cleanup="r-1"),
    ):
        assert made(free, RAY_JOB)
