"""What builds a version again, and what becomes of the version before: the planner of a Dataset, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fovea_api.common import Reference
from fovea_api.dataset import Dataset
from fovea_api.run import BundleInput, Run
from fovea_operator.kinds.dataset.plan import plan_dataset
from fovea_operator.kinds.dataset.snapshot import DatasetSnapshot
from fovea_operator.objects import DATASET, JOB, RUN, Key
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.workload import Child, ChildState
from fovea_operator.writes import Create, Delete, Emit, Plan, SetStatus

NOW = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
BUILT = NOW - timedelta(days=2)
VERSION = f"sha256-{'1' * 64}"
ARTIFACT = f"s3://fovea/ns/dataset/cells/{VERSION}/"
STORE = StoreConfig("s3://fovea/ns", "")
LAB = {"name": "lab", "uri": "s3://lab/x", "format": "PascalVOC"}
MISSING = Reference("Secret", "keys", "spec.sources[0].secretRef")
DAILY: dict[str, Any] = {"refresh": {"schedule": "0 3 * * *"}}
NOT_YET: dict[str, Any] = {"refresh": {"schedule": "0 3 1 * *"}}
NOWHERE: dict[str, Any] = {"refresh": {"schedule": "0 3 * * *", "timeZone": "Europe/Nowhere"}}
CHANGED: dict[str, Any] = {"classes": ["RBC"]}
SIMULATED = {"name": "simulated", "generator": {"image": "simulator:1", "format": "COCO"}}
EXPORTED: dict[str, Any] = {
    "prelabel": {"modelDeploymentRef": {"name": "cells"}, "export": {"uri": "https://cvat/todo", "format": "CVAT"}}
}


def dataset(status: dict[str, Any] | None = None, restart: str = "", **spec: Any) -> Dataset:
    annotations = {"fovea.dev/restart": restart} if restart else {}
    generation = 2 if status and "run" in status and spec else 1  # the API server counts edits of the spec
    metadata = {"name": "cells", "namespace": "ns", "uid": "u", "generation": generation, "annotations": annotations}
    return Dataset.model_validate(
        {"metadata": metadata, "spec": {"task": "Detection", "sources": [LAB]} | spec, "status": status}
    )


def plan(given: Dataset, *runs: RunView, store: StoreConfig = STORE, missing: tuple[Reference, ...] = ()) -> Plan:
    return plan_dataset(DatasetSnapshot(dataset=given, runs=runs, store=store, missing=missing, now=NOW), Settings())


def made(found: Plan, kind: object) -> list[Create]:
    return [each for each in found.writes if isinstance(each, Create) and each.key.kind == kind]


def status_of(found: Plan) -> dict[str, Any]:
    return next(dict(each.status) for each in found.writes if isinstance(each, SetStatus) and each.key.kind == DATASET)


def condition(found: Plan, type: str = "Ready") -> tuple[str, str]:
    each = next(each for each in status_of(found)["conditions"] if each["type"] == type)
    return each["status"], each["reason"]


def events(found: Plan) -> list[str]:
    return [each.reason for each in found.writes if isinstance(each, Emit)]


def build(**status: Any) -> RunView:
    """The run of the plain spec, made two days ago, with what it has come to."""
    create = made(plan(dataset()), RUN)[0]
    metadata = {"name": create.key.name, "namespace": "ns", "uid": "r", "creationTimestamp": BUILT}
    return RunView(Run.model_validate(dict(create.manifest) | {"metadata": metadata, "status": status}), ())


def attempt(run: str, **more: Any) -> dict[str, Any]:
    return {"number": 1, "child": f"{run}-1", "startTime": BUILT} | more


def running() -> RunView:
    name = build().name
    child = Child(Key(JOB, "ns", f"{name}-1"), "j", name, BUILT, ChildState.RUNNING)
    progress = {"stage": "Checking", "percent": 40}
    return replace(build(phase="Running", attempts=[attempt(name)], progress=progress), children=(child,))


def succeeded(findings: Sequence[Mapping[str, Any]] = ()) -> RunView:
    summary = {"version": VERSION, "images": 9, "annotations": 20, "splits": {"train": 7, "test": 2}, "classes": [],
               "findings": findings}  # fmt: skip
    result = {"completedAt": BUILT, "artifact": ARTIFACT, "digest": VERSION, "dataset": summary, "report": "s3://r"}
    ended = attempt(build().name, endTime=BUILT, outcome="Succeeded")
    return build(phase="Succeeded", attempts=[ended], result=result)


def failed() -> RunView:
    why = {"reason": "InvalidInput", "message": "lab: the source is empty"}
    ended = attempt(build().name, endTime=BUILT, outcome="Failed", **why)
    return build(phase="Failed", attempts=[ended], result={"completedAt": BUILT, "error": why})


def settled(view: RunView, **spec: Any) -> tuple[dict[str, Any], RunView]:
    """The Dataset's status and its run after the planner saw this run."""
    found = plan(dataset({"run": view.name}, **spec), view)
    written = next(
        (dict(each.status) for each in found.writes if isinstance(each, SetStatus) and each.key.kind == RUN), {}
    )
    run = view.run.model_copy(update={"status": view.status.model_validate(view.status.to_dict() | written)})
    return status_of(found), replace(view, run=run)


SITUATIONS: dict[str, tuple[dict[str, Any], bool]] = {
    # the spec beside a version that was built two days ago, whether it builds again
    "a default was spelled out": ({"splits": {"seed": 0}}, False),
    "the recipe changed": (CHANGED, True),
    "a program is run too": ({"sources": [LAB, SIMULATED]}, True),
    "the problem was put into other words": ({"problem": {"statement": "Count cells"}}, False),
    "compute changed": ({"compute": {"workers": 4, "image": "other"}}, False),
    "the schedule is due": (DAILY, True),
    "the schedule is not due": (NOT_YET, False),
    "the schedule means nothing": (NOWHERE, False),
    "restart was asked for": ({"restart": "again"}, True),
    "images cannot be exported there": (EXPORTED, False),
    "suspended": (CHANGED | {"runPolicy": {"suspend": True}}, False),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_builds_again(name: str) -> None:
    spec, again = SITUATIONS[name]
    status, view = settled(succeeded())
    found = plan(dataset(status, **spec), view)
    assert bool(made(found, JOB)) is again
    assert not found.writes or status_of(found)["version"] == VERSION


def test_a_clock_that_was_ahead_holds_up_no_schedule() -> None:
    """The time that the last run was due stands in its spec, by the operator's clock; when it was made, by another."""
    status, view = settled(succeeded())
    spec = view.run.spec.model_copy(update={"nonce": "@2027-11-24T03:00:00Z"})
    found = plan(dataset(status, **DAILY), replace(view, run=view.run.model_copy(update={"spec": spec})))
    assert made(found, JOB)


def test_that_a_run_was_created_is_reported_once_while_it_waits() -> None:
    secret = (Reference("Secret", "keys", "the store's credentials"),)
    assert events(plan(dataset(), missing=secret)) == ["RunCreated"]
    view = build()
    assert events(plan(dataset({"run": view.name}), view, missing=secret)) == []


def test_nothing_changed_plans_nothing() -> None:
    status, view = settled(succeeded())
    assert plan(dataset(status), view) == Plan()


class TestFirstApply:
    def test_makes_a_run_and_its_first_attempt(self) -> None:
        found = plan(dataset())
        (run,), (job,) = made(found, RUN), made(found, JOB)
        assert (run.controller, job.controller) == (Key(DATASET, "ns", "cells"), run.key)
        assert job.key.name == f"{run.key.name}-1"
        assert status_of(found)["run"] == run.key.name
        assert status_of(found)["phase"] == "Pending"
        assert condition(found, "Reconciling") == ("True", "Starting")
        assert "RunCreated" in events(found)

    def test_without_a_store_says_where_to_name_one(self) -> None:
        found = plan(dataset(), store=StoreConfig(""))
        assert not made(found, RUN)
        assert condition(found, "Reconciling") == ("True", "StoreNotConfigured")

    def test_with_a_missing_secret_makes_the_run_and_waits(self) -> None:
        found = plan(dataset(), missing=(MISSING,))
        assert made(found, RUN)
        assert not made(found, JOB)
        assert condition(found) == ("False", "SecretNotFound")
        assert found.requeue_after == Settings().resync_seconds  # the poller wakes it

    def test_suspended_starts_nothing(self) -> None:
        found = plan(dataset(runPolicy={"suspend": True}))
        assert not made(found, JOB)
        assert status_of(found)["phase"] == "Suspended"
        assert condition(found, "Stalled")[0] == condition(found, "Reconciling")[0] == "False"

    @pytest.mark.parametrize(
        ("spec", "reason", "field"),
        [
            (NOWHERE, "InvalidSchedule", "spec.refresh.timeZone"),
            (EXPORTED, "NotSupported", "spec.prelabel.export.uri"),
        ],
        ids=["time zone", "export"],
    )
    def test_of_what_cannot_be_done_makes_no_run(self, spec: dict[str, Any], reason: str, field: str) -> None:
        found = plan(dataset(**spec))
        assert not made(found, RUN)
        assert condition(found, "Stalled") == ("True", reason)
        assert status_of(found)["phase"] == "Failed"
        assert status_of(found)["conditions"][0]["message"].startswith(field)
        assert events(found) == [reason]
        assert plan(dataset(status_of(found), **spec)).writes == ()


class TestRunning:
    def test_shows_progress(self) -> None:
        found = plan(dataset({"run": running().name}), running())
        assert not made(found, JOB)
        assert status_of(found)["phase"] == "Building"
        assert status_of(found)["progress"] == {"stage": "Checking", "percent": 40, "metrics": {}}
        assert condition(found) == ("False", "Running")

    def test_a_changed_recipe_stops_it_first(self) -> None:
        found = plan(dataset({"run": running().name}, **CHANGED), running())
        assert [each.key.name for each in found.writes if isinstance(each, Delete)] == [f"{running().name}-1"]
        assert made(found, RUN)
        assert not made(found, JOB)
        assert condition(found) == ("False", "Stopping")

    @pytest.mark.parametrize("spec", [NOWHERE, EXPORTED], ids=["time zone", "export"])
    def test_goes_on_while_the_spec_cannot_be_followed(self, spec: dict[str, Any]) -> None:
        found = plan(dataset({"run": running().name}, **spec), running())
        assert not any(isinstance(each, Create | Delete) for each in found.writes)
        assert status_of(found)["phase"] == "Building"
        assert condition(found, "Stalled")[0] == "True"

    def test_the_schedule_waits_for_it(self) -> None:
        found = plan(dataset({"run": running().name}, **DAILY), running())
        assert not made(found, RUN)
        assert status_of(found)["nextRefresh"] == "2026-11-25T03:00:00Z"


class TestRepeating:
    @pytest.mark.parametrize("pods", [("r-1-head",), ()], ids=["pods left", "none left"])
    def test_no_attempt_starts_beside_pods_of_the_one_before(self, pods: tuple[str, ...]) -> None:
        ended = attempt(build().name, endTime=BUILT, outcome="Preempted", reason="Preempted", message="drained")
        view = replace(build(phase="Pending", attempts=[ended]), pods=pods)
        found = plan(dataset({"run": view.name}), view)
        assert bool(made(found, JOB)) is not bool(pods)
        if pods:
            assert condition(found) == ("False", "Stopping")
            assert status_of(found)["conditions"][0]["message"].startswith("waiting for pod r-1-head of an earlier")


class TestBuilt:
    def test_shows_the_version(self) -> None:
        found = plan(dataset({"run": succeeded().name, "phase": "Building"}), succeeded())
        status = status_of(found)
        assert (status["phase"], status["version"], status["artifact"]) == ("Ready", VERSION, ARTIFACT)
        assert (status["images"], status["splits"]) == (9, {"train": 7, "test": 2})
        assert condition(found) == ("True", "VersionBuilt")
        assert events(found) == ["VersionBuilt"]

    def test_serious_findings_are_in_the_condition_in_one_line(self) -> None:
        serious = [
            {
                "kind": f"Kind{number}",
                "severity": "Serious",
                "count": 3,
                "message": f"lab: a.txt:{number}:\n" + "x" * 400,
            }
            for number in range(4)
        ]
        note = {"kind": "ExactDuplicate", "severity": "Note", "count": 2, "message": "lab: b.jpg: twice"}
        view = succeeded(findings=[*serious, note])
        found = plan(dataset({"run": view.name, "phase": "Building"}), view)
        message = status_of(found)["conditions"][0]["message"]
        assert message.startswith("9 images in 2 splits; serious findings, see the report: Kind0: lab: a.txt:0: xxx")
        assert message.endswith("…; and 1 more")
        assert "\n" not in message
        assert "ExactDuplicate" not in message
        assert condition(found) == ("True", "VersionBuilt")
        assert [each["kind"] for each in status_of(found)["findings"]][-1] == "ExactDuplicate"
        assert [each.type for each in found.writes if isinstance(each, Emit)] == ["Warning"]

    def test_the_same_version_again_is_reported_as_such(self) -> None:
        status = {"run": succeeded().name, "phase": "Building", "version": VERSION}
        assert events(plan(dataset(status), succeeded())) == ["NothingChanged"]

    @pytest.mark.parametrize(
        ("splits", "parent"), [({}, VERSION), ({"keepAssignments": False}, None)], ids=["kept", "not kept"]
    )
    def test_the_next_build_keeps_its_assignments(self, splits: dict[str, Any], parent: str | None) -> None:
        status, view = settled(succeeded())
        found = plan(dataset(status, **CHANGED, splits=splits), view)
        inputs: Any = made(found, RUN)[0].manifest["spec"]
        assert inputs["inputs"].get("parent", {}).get("version") == parent

    def test_the_next_build_labels_beforehand_by_the_model_that_is_served_then(self) -> None:
        """And none starts because of it: else each training would build the version that it waits for anew."""
        wish = {"prelabel": {"modelDeploymentRef": {"name": "cells"}, "use": "Immediately"}}
        first, second = (BundleInput(digest=f"sha256-{n * 64}", artifact=f"s3://fovea/ns/b/{n}") for n in "ab")

        def planned(given: Dataset, *runs: RunView, served: BundleInput | None) -> Plan:
            snapshot = DatasetSnapshot(dataset=given, runs=runs, store=STORE, missing=(), now=NOW, prelabel=served)
            return plan_dataset(snapshot, Settings())

        def read(run: Create) -> Any:
            return Run.model_validate(dict(run.manifest)).spec.inputs.prelabel

        (run,) = made(planned(dataset(**wish), served=first), RUN)
        assert read(run) == first
        metadata = {"name": run.key.name, "namespace": "ns", "uid": "r", "creationTimestamp": BUILT}
        manifest = Run.model_validate(dict(run.manifest) | {"metadata": metadata})
        view = RunView(manifest.model_copy(update={"status": succeeded().run.status}), ())
        assert not made(planned(dataset({"run": view.name}, **wish), view, served=second), RUN)
        (again,) = made(planned(dataset({"run": view.name}, "again", **wish), view, served=second), RUN)
        assert read(again) == second
        assert read(made(planned(dataset(**wish), served=None), RUN)[0]) is None

    def test_a_due_build_is_distinguished_by_its_time(self) -> None:
        status, view = settled(succeeded())
        found = plan(dataset(status, **DAILY), view)
        spec: Any = made(found, RUN)[0].manifest["spec"]
        assert spec["nonce"] == "@2026-11-24T03:00:00Z"
        assert found.requeue_after == timedelta(hours=7).total_seconds() + 1

    @pytest.mark.parametrize("spec", [{}, NOT_YET, DAILY], ids=["by hand", "not due", "due"])
    def test_whatever_the_restart_annotation_says_it_builds_once(self, spec: dict[str, Any]) -> None:
        status, view = settled(succeeded())
        again_made = made(plan(dataset(status, "me@work", **spec), view), RUN)[0]
        metadata = {"name": again_made.key.name, "namespace": "ns", "uid": "r2", "creationTimestamp": NOW}
        newer = VERSION.replace("1", "2")
        result = succeeded().status.result
        assert result is not None
        ended = {"phase": "Succeeded", "result": result.model_copy(update={"digest": newer}).to_dict()}
        again = RunView(Run.model_validate(dict(again_made.manifest) | {"metadata": metadata, "status": ended}), ())
        found = plan(dataset(status | {"run": again.name, "version": newer}, "me@work", **spec), again, view)
        assert not made(found, RUN)


class TestFailed:
    def test_keeps_the_earlier_version(self) -> None:
        earlier = {"run": failed().name, "phase": "Building", "version": VERSION, "artifact": ARTIFACT, "images": 9}
        found = plan(dataset(earlier), failed())
        status = status_of(found)
        assert (status["phase"], status["version"], status["images"]) == ("Failed", VERSION, 9)
        assert condition(found, "Stalled") == ("True", "InvalidInput")
        assert events(found) == ["BuildFailed"]

    def test_a_changed_recipe_builds_again(self) -> None:
        status, view = settled(failed())
        assert made(plan(dataset(status, **CHANGED), view), JOB)


def test_history_is_kept_to_its_limit() -> None:
    status, view = settled(succeeded())
    olds = [
        replace(view, run=view.run.model_copy(update={"metadata": view.run.metadata.model_copy(update={"name": name})}))
        for name in ("r-000000", "r-000001", "r-000002")
    ]
    found = plan(dataset(status, runPolicy={"historyLimit": 2}), view, *olds)
    assert [each.key.name for each in found.writes if isinstance(each, Delete)] == ["r-000001", "r-000002"]
    assert status_of(found)["history"] == [view.name, "r-000000"]
