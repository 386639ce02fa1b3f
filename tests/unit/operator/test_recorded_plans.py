"""Whole plans of each kind: all of the status, every event with what makes it unique, every write in its order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from fovea_api.common import Reference
from fovea_api.run import Run
from fovea_api.trainingjob import TrainingJob
from fovea_operator.kinds.trainingjob.plan import plan_training
from fovea_operator.measurement import Measured
from fovea_operator.objects import DATASET, HTTP_ROUTE, RAY_JOB, RAY_SERVICE, RUN, TRAINING_JOB, Key, mapping
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.workload import Child, ChildState
from fovea_operator.writes import Create, Plan, SetStatus

from tests.unit.operator import test_cleanup as of_cleanups
from tests.unit.operator import test_dataset as of_datasets
from tests.unit.operator import test_modeldeployment as of_deployments
from tests.unit.operator import test_requests as of_requests
from tests.unit.operator import test_trainingjob as of_jobs
from tests.unit.operator.recorded import Records, of_plan

NOW = of_jobs.NOW
OTHER = f"sha256-{'9' * 64}"
GOOD = Measured(120, {"200": 1100, "500": 100}, {0.05: 1100, 0.08: 1190, float("inf"): 1200})
MISSING = Reference("Secret", "keys", "the store's credentials")


# --- Dataset ---------------------------------------------------------------------------------------------------------


def settled(view: RunView, **spec: Any) -> tuple[dict[str, Any], RunView]:
    return of_datasets.settled(view, **spec)


def dataset_again(restart: str = "", **spec: Any) -> Plan:
    """The plan after a version was built and the spec edited."""
    status, view = settled(of_datasets.succeeded())
    return of_datasets.plan(of_datasets.dataset(status, restart, **spec), view)


def dataset_after(view: RunView, **status: Any) -> Plan:
    """The plan when the run has come so far."""
    return of_datasets.plan(of_datasets.dataset({"run": view.name, "phase": "Building", **status}), view)


DATASETS: dict[str, Callable[[], Plan]] = {
    "first apply": lambda: of_datasets.plan(of_datasets.dataset()),
    "first apply, to be deleted with its data": lambda: of_datasets.plan(of_datasets.dataset(deletionPolicy="Delete")),
    "no store": lambda: of_datasets.plan(of_datasets.dataset(), store=StoreConfig("")),
    "a missing Secret": lambda: of_datasets.plan(of_datasets.dataset(), missing=(of_datasets.MISSING,)),
    "suspended": lambda: of_datasets.plan(of_datasets.dataset(runPolicy={"suspend": True})),
    "an unknown time zone": lambda: of_datasets.plan(of_datasets.dataset(**of_datasets.NOWHERE)),
    "an unknown time zone while it runs": lambda: of_datasets.plan(
        of_datasets.dataset({"run": of_datasets.running().name}, **of_datasets.NOWHERE), of_datasets.running()
    ),
    "it runs": lambda: dataset_after(of_datasets.running()),
    "it has a version": lambda: dataset_after(of_datasets.succeeded()),
    "it has a version with serious findings": lambda: dataset_after(
        of_datasets.succeeded([{"kind": "Leak", "severity": "Serious", "count": 2, "message": "a: b.jpg"}])
    ),
    "it has the same version again": lambda: dataset_after(of_datasets.succeeded(), version=of_datasets.VERSION),
    "it failed": lambda: dataset_after(of_datasets.failed(), version=OTHER, artifact="s3://before/"),
    "it failed, as is known": lambda: dataset_after(of_datasets.failed(), phase="Failed"),
    "the recipe changed": lambda: dataset_again(**of_datasets.CHANGED),
    "the recipe changed while it runs": lambda: of_datasets.plan(
        of_datasets.dataset({"run": of_datasets.running().name}, **of_datasets.CHANGED), of_datasets.running()
    ),
    "the schedule is due": lambda: dataset_again(**of_datasets.DAILY),
    "the schedule is not due": lambda: dataset_again(**of_datasets.NOT_YET),
    "restart": lambda: dataset_again("me@work"),
    "more versions than are kept": lambda: dataset_again(retainVersions=1, runPolicy={"historyLimit": 1}),
}


# --- TrainingJob -----------------------------------------------------------------------------------------------------


def training(job: TrainingJob, *runs: RunView, **changes: Any) -> Plan:
    return plan_training(replace(of_jobs.snapshot(job, *runs), **changes), Settings())


def again(restart: str = "", version: str | None = of_jobs.OLD, **spec: Any) -> Plan:
    """The plan after a training has succeeded, its status is written, and the spec or the Dataset was changed."""
    status, view = of_jobs.trained()
    written = of_jobs.status_of(training(of_jobs.job(status), view))
    return plan_training(of_jobs.snapshot(of_jobs.job(written, restart, **spec), view, version=version), Settings())


def begun(status: dict[str, Any], *children: ChildState, **spec: Any) -> Plan:
    """The plan when the first run has come so far. `children`: the states of its attempts' RayJobs."""
    first = training(of_jobs.job())
    (create,), job_status = of_jobs.made(first, RUN), of_jobs.status_of(first)
    name = create.key.name
    attempts = [{**attempt, "child": f"{name}-{attempt['number']}"} for attempt in status["attempts"]]
    run = Run.model_validate(dict(create.manifest) | {"status": status | {"attempts": attempts}})
    run = run.model_copy(update={"metadata": run.metadata.model_copy(update={"creation_timestamp": NOW, "uid": "r"})})
    owned = tuple(
        Child(Key(RAY_JOB, "ns", f"{name}-{at}"), f"c{at}", name, NOW, state) for at, state in enumerate(children, 1)
    )
    return training(of_jobs.job(job_status, **spec), RunView(run, owned))


def result(**more: Any) -> dict[str, Any]:
    return {"completedAt": NOW, "artifact": "s3://b/", "digest": of_jobs.OLD, "metrics": {"test/accuracy": 0.9}} | more


def with_condition() -> Plan:
    given = of_jobs.dataset(None)
    words = {"type": "Ready", "status": "False", "reason": "X", "message": "it is built", "lastTransitionTime": NOW}
    status = {"observedGeneration": 1, "conditions": [words]}
    return training(of_jobs.job(), dataset=given.model_validate({**given.to_dict(), "status": status}))


def model_of(name: str, there: bool = True, **spec: Any) -> Plan:
    """The plan of a job that builds on the model of the job `base`."""
    base = {"metadata": of_jobs.METADATA | {"name": name}, "spec": of_jobs.job().spec.to_dict()}
    other = TrainingJob.model_validate(
        base | {"status": {"result": of_jobs.BUNDLE | {"metrics": {}, "eligible": there}}}
    )
    return training(of_jobs.job(**spec), jobs={name: other})


OPEN = {"number": 1, "startTime": NOW - timedelta(minutes=9)}
ENDED = OPEN | {
    "outcome": "Failed",
    "reason": "AppFailed",
    "message": "head died",
    "endTime": NOW - timedelta(minutes=1),
}
TEACHER = {"compression": {"distillation": {"teacherRef": {"name": "base"}}}}
SUMMARY = {"bestEpoch": 3, "epochs": 9, "seconds": 90}
JOBS: dict[str, Callable[[], Plan]] = {
    "first apply": lambda: training(of_jobs.job()),
    "first apply, to be deleted with its data": lambda: training(of_jobs.job(deletionPolicy="Delete")),
    "no store": lambda: training(of_jobs.job(), store=StoreConfig("")),
    "a missing Secret": lambda: training(of_jobs.job(), missing=(MISSING,)),
    "something is left of a job before": lambda: training(of_jobs.job(), leftover=Key(RAY_JOB, "ns", "r-0-1")),
    "a Dataset of another name": lambda: training(of_jobs.job(datasetRef={"name": "cell"}), dataset=None),
    "no Dataset at all": lambda: training(of_jobs.job(), dataset=None, datasets=()),
    "an unreadable Dataset": lambda: training(
        of_jobs.job(), dataset=None, unreadable=frozenset({Key(DATASET, "ns", "cells")})
    ),
    "a Dataset without a version": lambda: plan_training(of_jobs.snapshot(of_jobs.job(), version=None), Settings()),
    "a Dataset that says why": with_condition,
    "a pinned version": lambda: training(of_jobs.job(datasetRef={"name": "cells", "version": OTHER})),
    "a pinned version while old ones are deleted": lambda: training(
        of_jobs.job(datasetRef={"name": "cells", "version": OTHER}), dataset_cleanup="r-clean"
    ),
    "the current model without one": lambda: training(
        of_jobs.job(model={"architecture": "resnet18", "pretrained": {"from": "Current"}})
    ),
    "the current model": lambda: again(model={"architecture": "resnet18", "pretrained": {"from": "Current"}}),
    "a teacher": lambda: model_of("base", **TEACHER),
    "an unreadable base": lambda: training(
        of_jobs.job(model={"architecture": "resnet18", "pretrained": {"trainingJobRef": {"name": "base"}}}),
        unreadable=frozenset({Key(TRAINING_JOB, "ns", "base")}),
    ),
    "two wishes that cannot be granted": lambda: training(
        of_jobs.job(training={"loss": "GIoU"}, successCriteria=[{"metric": "test/acuracy", "min": 0.5}])
    ),
    "it runs": lambda: begun(
        {"phase": "Running", "attempts": [OPEN], "progress": {"epoch": 2, "epochs": 9}}, ChildState.RUNNING
    ),
    "it runs, and is suspended": lambda: begun(
        {"phase": "Running", "attempts": [OPEN]}, ChildState.RUNNING, runPolicy={"suspend": True}
    ),
    "it runs, and the recipe changed": lambda: begun(
        {"phase": "Running", "attempts": [OPEN]}, ChildState.RUNNING, **of_jobs.CHANGED
    ),
    "it runs, and the spec asks for what cannot be done": lambda: begun(
        {"phase": "Running", "attempts": [OPEN]}, ChildState.RUNNING, training={"loss": "GIoU"}
    ),
    "an attempt failed": lambda: begun({"phase": "Running", "attempts": [OPEN]}, ChildState.FAILED),
    "its pods are still there": lambda: begun({"phase": "Pending", "attempts": [ENDED]}, ChildState.FAILED),
    "the next attempt": lambda: begun({"phase": "Pending", "attempts": [ENDED]}),
    "retries are used up": lambda: begun({"phase": "Pending", "attempts": [ENDED]}, runPolicy={"retries": 0}),
    "it succeeded": lambda: begun(
        {"phase": "Running", "attempts": [OPEN], "result": result(training=SUMMARY, report="s3://r")},
        ChildState.RUNNING,
    ),
    "it succeeded and misses a criterion": lambda: begun(
        {"phase": "Running", "attempts": [OPEN], "result": result()},
        ChildState.SUCCEEDED,
        successCriteria=[{"metric": "test/accuracy", "min": 0.95}],
    ),
    "it succeeded and was not evaluated": lambda: begun(
        {"phase": "Running", "attempts": [OPEN], "result": result(metrics={"size/megabytes": 1})}, ChildState.SUCCEEDED
    ),
    "it succeeded without a bundle": lambda: begun(
        {"phase": "Running", "attempts": [OPEN], "result": {"completedAt": NOW}}, ChildState.SUCCEEDED
    ),
    "nothing changed": again,
    "the recipe changed": lambda: again(**of_jobs.CHANGED),
    "the recipe changed, and that is ignored": lambda: again(**of_jobs.CHANGED, runPolicy={"onChange": "Ignore"}),
    "a new version that is ignored": lambda: again(version=OTHER),
    "a new version": lambda: again(version=OTHER, runPolicy={"onNewDatasetVersion": "NewRun"}),
    "restart": lambda: again("me@work"),
    "the Dataset is deleted": lambda: again(version=None),
}


# --- Runs that others ask a TrainingJob for --------------------------------------------------------------------------


def asked(play: Callable[[of_requests.World, str], None]) -> Callable[[], Any]:
    """The job's status after a play that begins when its own run has succeeded."""

    def status() -> Any:
        world, first = of_requests.trained()
        play(world, first)
        value = dict(world.status or {})
        return {name: value[name] for name in ("phase", "run", "conditions", "requestedRuns", "history", "result")}

    return status


def _asks(world: of_requests.World, first: str) -> None:
    world.asks("drift-1", {"training": {"epochs": 3}})
    world.step()


def _answered(world: of_requests.World, first: str) -> None:
    _asks(world, first)
    world.ends(world.step())
    world.step()


def _two(world: of_requests.World, first: str) -> None:
    _asks(world, first)
    world.asks("drift-2", {}, by="other")
    world.step()


def _misfit(world: of_requests.World, first: str) -> None:
    world.asks("drift-1", {"training": {"epoch": 3}})
    world.asks("drift-2", {"training": {"loss": "GIoU"}})
    world.step()


def _refused_spec(world: of_requests.World, first: str) -> None:
    world.spec, world.generation = {"training": {"loss": "GIoU"}}, 2
    _asks(world, first)


def _edited(world: of_requests.World, first: str) -> None:
    _asks(world, first)
    world.spec, world.generation = {"training": {"epochs": 7}}, 2
    world.step()


def _restarted(world: of_requests.World, first: str) -> None:
    _answered(world, first)
    world.restart = "now"
    world.step()


REQUESTS = {
    "a request": asked(_asks),
    "a request is answered": asked(_answered),
    "a request beside another": asked(_two),
    "requests that do not fit": asked(_misfit),
    "a request to a job whose spec is refused": asked(_refused_spec),
    "the recipe is edited meanwhile": asked(_edited),
    "the job is restarted after it": asked(_restarted),
}


# --- ModelDeployment -------------------------------------------------------------------------------------------------


def deployed(play: Callable[[of_deployments.World], None], **spec: Any) -> Callable[[], Plan]:
    """The next plan after a play that begins when a version serves."""

    def plan() -> Plan:
        world = of_deployments.served()
        play(world)
        world.value = {**world.value, "spec": {**mapping(world.value, "spec"), **spec}}
        return world.step()

    return plan


def _new(world: of_deployments.World) -> None:
    world.trainings = (of_deployments.training(of_deployments.NEW, 2), *world.trainings)


def _loading(world: of_deployments.World) -> None:
    _new(world)
    world.step()


def _switched(world: of_deployments.World) -> None:
    _loading(world)
    world.running = {of_deployments.OLD, of_deployments.NEW}


def _draining(world: of_deployments.World) -> None:
    _switched(world)
    world.settle(2, seconds=1)


def _drained(world: of_deployments.World) -> None:
    _draining(world)
    world.now += timedelta(minutes=5)


def _measured(world: of_deployments.World) -> None:
    world.measured = GOOD


def _no_gateway(world: of_deployments.World) -> None:
    world.gateways = 0


def _no_ray(world: of_deployments.World) -> None:
    world.more = {"lacking": frozenset({RAY_SERVICE})}


def _no_routes(world: of_deployments.World) -> None:
    world.more = {"lacking": frozenset({HTTP_ROUTE})}


def _missing(world: of_deployments.World) -> None:
    world.more = {"missing": (MISSING,)}


def _lost(world: of_deployments.World) -> None:
    world.running = set()


ROUTE = {"hostname": "cells.example.org", "gatewayRef": {"name": "public"}}
OBJECTIVES = {"errorRate": 0.01, "throughputPerSecond": 5, "latencyP95Milliseconds": 100}
CANARY = {"strategy": "Canary"}
DEPLOYMENTS: dict[str, Callable[[], Plan]] = {
    "first apply": lambda: of_deployments.World().step(),
    "first apply, with a bundle": lambda: of_deployments.World(
        trainings=(of_deployments.training(of_deployments.OLD, 1),)
    ).step(),
    "nothing changed": deployed(lambda world: None),
    "a new bundle": deployed(_new),
    "a new bundle is being loaded": deployed(_loading),
    "a new bundle is loaded": deployed(_switched),
    "the version before is drained": deployed(_draining),
    "the version before is done": deployed(_drained),
    "scaled to zero": deployed(lambda world: None, scaling={"replicas": 0}),
    "Triton": deployed(lambda world: None, runtime="Triton"),
    "behind a Gateway": deployed(lambda world: None, expose=ROUTE),
    "behind a Gateway that cannot be had": deployed(_no_routes, expose=ROUTE),
    "without KubeRay": deployed(_no_ray),
    "a missing Secret": deployed(_missing),
    "no gateway answers": deployed(_no_gateway),
    "the version is down": deployed(_lost),
    "objectives": deployed(_measured, objectives=OBJECTIVES),
    "what has no effect yet": deployed(
        lambda world: None, runtime="Triton", scaling={"minReplicas": 0, "maxReplicas": 2}
    ),
}


# --- Cleanups --------------------------------------------------------------------------------------------------------

WAITING = of_cleanups.WAITING
AT_WORK = {"phase": "Running", "attempts": [of_cleanups.attempt(WAITING)]}


def after_deletion(change: dict[str, Any] | None = None, *children: Child, **more: Any) -> Plan:
    """The plan after the object was deleted, when its cleanup has come so far."""
    view = replace(of_cleanups.missed(WAITING, **(change or {})), children=children)
    return of_cleanups.after_deletion(view, **more)


def of_versions(now: datetime = of_cleanups.LATER, used: frozenset[str] | None = frozenset(), **more: Any) -> Plan:
    """The plan of a Dataset with more versions than it keeps, and the cleanup of these."""
    build = of_cleanups.built(3, 3)
    cleanup = of_cleanups.pruning(build, **of_cleanups.KEEP_TWO)
    dataset = of_cleanups.dataset(of_cleanups.STATUS, **of_cleanups.KEEP_TWO)
    return of_cleanups.of_dataset(dataset, build, now=now, cleanups=(cleanup,), used=used, **more)


CLEANUPS: dict[str, Callable[[], Plan]] = {
    "never seen to be asked for": lambda: of_cleanups.after_deletion(WAITING),
    "seen missing a while ago": lambda: after_deletion(now=NOW + timedelta(seconds=20)),
    "it starts": after_deletion,
    "kept in the end": lambda: after_deletion(retained=True),
    "kept in the end, but at work": lambda: after_deletion(AT_WORK, of_cleanups.child(WAITING), retained=True),
    "in use": lambda: after_deletion(users=("Pod a", "Pod b")),
    "in use by many": lambda: after_deletion(users=tuple(f"Pod {number}" for number in range(6))),
    "a store of two namespaces": lambda: after_deletion(shared="b"),
    "at work": lambda: after_deletion(AT_WORK, of_cleanups.child(WAITING)),
    "done": lambda: after_deletion(AT_WORK | {"result": {"completedAt": NOW}}, of_cleanups.child(WAITING)),
    "failed": lambda: after_deletion({"attempts": [of_cleanups.attempt(WAITING, "Failed") | {"number": 21}]}),
    "a fault outside": lambda: after_deletion({"attempts": [of_cleanups.BLOCKED | {"endTime": of_cleanups.LATER}]}),
    "of versions, just made": lambda: of_versions(now=NOW + timedelta(seconds=20)),
    "of versions, it starts": of_versions,
    "of versions, what is used is not known": lambda: of_versions(used=None),
    "of versions, one is used": lambda: of_versions(used=frozenset({of_cleanups.version(1)})),
    "of versions, a store of two namespaces": lambda: of_versions(shared="b"),
    "the object changes how its cleanup runs": lambda: of_cleanups.of_dataset(
        of_cleanups.dataset(deletionPolicy="Delete", compute={"image": "other"}), cleanups=(WAITING,)
    ),
    "the object is kept after all": lambda: of_cleanups.of_dataset(of_cleanups.dataset(), cleanups=(WAITING,)),
    "data of the one before go while it is made again": lambda: of_cleanups.of_dataset(
        of_cleanups.dataset(deletionPolicy="Delete"), cleanups=(of_cleanups.working_on(WAITING),)
    ),
}


# --- All -------------------------------------------------------------------------------------------------------------


def rendered(made: Callable[[], Plan]) -> Callable[[], Any]:
    return lambda: of_plan(made())


PLANS: dict[str, dict[str, Callable[[], Any]]] = {
    "dataset": {name: rendered(made) for name, made in DATASETS.items()},
    "trainingjob": {name: rendered(made) for name, made in JOBS.items()},
    "requests": dict(REQUESTS),
    "cleanups": {name: rendered(made) for name, made in CLEANUPS.items()},
    "modeldeployment": {name: rendered(made) for name, made in DEPLOYMENTS.items()},
}
RECORDS = {kind: Records(kind, situations) for kind, situations in PLANS.items()}


@pytest.mark.parametrize(("kind", "situation"), [(kind, name) for kind, known in PLANS.items() for name in known])
def test_plan(kind: str, situation: str) -> None:
    RECORDS[kind].check(situation)


def test_every_write_is_recorded() -> None:
    plan = JOBS["first apply"]()
    assert len(of_plan(plan)) == len(plan.writes) + 1
    assert any(isinstance(write, Create) for write in plan.writes)
    assert any(isinstance(write, SetStatus) for write in plan.writes)
