"""The engine of a trained model: when it is built and when not, and that the training's own state never shows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fovea_api.run import Run, RunType
from fovea_operator.kinds.trainingjob.plan import plan_training
from fovea_operator.objects import JOB, RUN, TRAINING_JOB, Key
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.workloads.demand import PodTime
from fovea_operator.workloads.workload import Child, ChildState
from fovea_operator.writes import Create, Delete, Emit, Plan, SetStatus

from tests.unit.operator.test_trainingjob import NEW, NOW, OLD, job, made, snapshot, status_of

SETTINGS = Settings(tensorrt_image="fovea/tensorrt:10.13.3.9")
ENGINE = {
    "model": NEW,
    "tensorrt": "10.13.3.9",
    "computeCapability": "9.0",
    "gpu": "NVIDIA H100",
    "maxBatch": 32,
    "bytes": 900,
}
DEFERRED = {"export": {"deferred": ["TensorRT"]}}
NO_GPU = "pod r-1: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu"


def trained(digest: str = OLD, accuracy: float = 0.9) -> RunView:
    """The finished training of a job that asks for an engine."""
    (create,) = made(plan_training(snapshot(job(**DEFERRED)), SETTINGS), RUN)
    metrics = {"test/accuracy": accuracy}
    result = {"completedAt": NOW, "artifact": f"s3://fovea/ns/{digest}", "digest": digest, "metrics": metrics}
    attempt = {"number": 1, "child": f"{create.key.name}-1", "startTime": NOW, "endTime": NOW, "outcome": "Succeeded"}
    status = {"phase": "Succeeded", "result": result, "attempts": [attempt], "observedGeneration": 1}
    return view_of(create, status)


def view_of(create: Create, status: dict[str, Any] | None, *children: Child) -> RunView:
    metadata = {"name": create.key.name, "namespace": "ns", "uid": f"uid-{create.key.name}", "creationTimestamp": NOW}
    return RunView(
        Run.model_validate({"metadata": metadata, "spec": create.manifest["spec"], "status": status}), children
    )


def plan(
    *deferred: RunView, training: RunView | None = None, status: Any = None, settings: Settings = SETTINGS, **spec: Any
) -> Plan:
    training = training or trained()
    status = status or {"run": training.name, "observedGeneration": 1}
    found = replace(snapshot(job(status, **(DEFERRED | spec)), training), deferred=deferred)
    return plan_training(found, settings)


def builds(planned: Plan) -> list[Create]:
    return [each for each in made(planned, RUN) if each.manifest["spec"]["type"] == "EngineBuild"]  # type: ignore[index,call-overload]


def begun(**spec: Any) -> tuple[Create, dict[str, Any]]:
    """The Run of the first plan, and its status."""
    planned = plan(**spec)
    (create,) = builds(planned)
    statuses = [dict(each.status) for each in planned.writes if isinstance(each, SetStatus) and each.key == create.key]
    return create, statuses[-1]


def under_way(state: ChildState, reason: str = "", message: str = "") -> RunView:
    create, status = begun()
    key = Key(JOB, "ns", f"{create.key.name}-1")
    return view_of(create, status, Child(key, "c", create.key.name, NOW, state, reason=reason, message=message))


def ended(**result: Any) -> RunView:
    create, status = begun()
    made = {"completedAt": NOW, "attempt": 1} | result
    return view_of(create, status | {"result": made})


def built() -> RunView:
    return ended(artifact="s3://fovea/ns/engines/e", digest=NEW, engine=ENGINE)


def failed() -> RunView:
    return ended(error={"reason": "ExportError", "message": "TensorRT cannot read the model: Mod of int64"})


def condition(planned: Plan, type: str = "EngineReady") -> tuple[str, str, str]:
    found = next(each for each in status_of(planned)["conditions"] if each["type"] == type)
    return found["status"], found["reason"], found["message"]


def test_an_eligible_model_gets_a_job_on_the_node_that_is_asked_for() -> None:
    where = {"podTemplate": {"nodeSelector": {"gpu": "h100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}}
    planned = plan(deferredExport=where)
    (create,) = builds(planned)
    spec: Any = create.manifest["spec"]
    assert spec["inputs"]["bundle"] == {"digest": OLD, "artifact": f"s3://fovea/ns/{OLD}"}
    (child,) = made(planned, JOB)
    assert (child.key.name, child.controller) == (f"{create.key.name}-1", create.key)
    pod: Any = child.manifest["spec"]["template"]["spec"]  # type: ignore[index,call-overload]
    (container,) = pod["containers"]
    assert container["image"] == "fovea/tensorrt:10.13.3.9"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert (pod["nodeSelector"], pod["tolerations"][0]["key"]) == ({"gpu": "h100"}, "gpu")
    assert condition(planned)[:2] == ("False", "Starting")


WAITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "nobody named an image": ({"settings": Settings()}, "NoTensorRTImage", "defaults.tensorrtImage"),
    "the model misses a criterion": ({"training": trained(accuracy=0.1)}, "NotEligible", "may not"),
}


@pytest.mark.parametrize("name", WAITS)
def test_without_an_image_or_a_model_to_serve_nothing_is_built_and_the_condition_says_why(name: str) -> None:
    given, reason, words = WAITS[name]
    planned = plan(successCriteria=[{"metric": "test/accuracy", "min": 0.5}], **given)
    assert not builds(planned)
    status, found, message = condition(planned)
    assert (status, found) == ("False", reason)
    assert words in message


def test_before_a_model_is_trained_the_condition_waits_for_it() -> None:
    assert condition(plan_training(snapshot(job(**DEFERRED)), SETTINGS))[:2] == ("False", "NoModel")


def test_an_engine_that_nobody_asks_for_is_in_no_condition() -> None:
    planned = plan_training(snapshot(job()), SETTINGS)
    assert "EngineReady" not in [each["type"] for each in status_of(planned)["conditions"]]


@pytest.mark.parametrize("view", [under_way(ChildState.STARTING, "Unschedulable", NO_GPU), failed(), built()])
def test_whatever_becomes_of_the_engine_the_training_has_succeeded(view: RunView) -> None:
    status = status_of(plan(view))
    alone = status_of(plan_training(snapshot(job({"run": trained().name}), trained()), SETTINGS))
    conditions = {each["type"]: each for each in status["conditions"]}
    assert [conditions[type]["status"] for type in ("Ready", "Reconciling", "Stalled")] == ["True", "False", "False"]
    assert (conditions["Ready"]["reason"], status["phase"], status["run"]) == ("Succeeded", "Succeeded", trained().name)
    assert status["result"] == alone["result"]


def test_a_cluster_without_a_gpu_says_so_and_waits_for_one() -> None:
    planned = plan(under_way(ChildState.STARTING, "Unschedulable", NO_GPU))
    assert condition(planned) == ("False", "Unschedulable", NO_GPU)
    assert not builds(planned)
    assert not made(planned, JOB)


def test_a_failed_build_is_reported_once_and_not_repeated() -> None:
    view = failed()
    planned = plan(view)
    assert condition(planned)[:2] == ("False", "ExportError")
    assert "Mod of int64" in condition(planned)[2]
    events = [each for each in planned.writes if isinstance(each, Emit) and each.reason == "EngineNotBuilt"]
    assert [(each.regarding.kind, each.type) for each in events] == [(TRAINING_JOB, "Warning")]
    assert not made(planned, JOB)
    again = plan(view, status=status_of(planned))
    assert not [each for each in again.writes if isinstance(each, Emit) and each.reason == "EngineNotBuilt"]


def test_a_built_engine_is_in_the_status_and_settles() -> None:
    training, view = trained(), built()
    planned = plan(view, training=training)
    status = status_of(planned)
    assert condition(planned)[:2] == ("True", "EngineBuilt")
    assert status["engine"] == ENGINE | {"run": view.name, "bundle": OLD, "engine": "s3://fovea/ns/engines/e"}
    assert status["history"].count(view.name) == 1
    assert [each.reason for each in planned.writes if isinstance(each, Emit)][-1] == "EngineBuilt"
    views = [with_status(each, planned) for each in (view, training)]
    assert plan(views[0], training=views[1], status=status).writes == ()


def with_status(view: RunView, planned: Plan) -> RunView:
    """The Run after the plan's writes."""
    written = [
        dict(each.status) for each in planned.writes if isinstance(each, SetStatus) and each.key.name == view.name
    ]
    status = view.status.model_validate(view.status.to_dict() | (written[-1] if written else {}))
    return replace(view, run=view.run.model_copy(update={"status": status}))


@pytest.mark.parametrize(
    ("spec", "training", "again"),
    [
        ({}, trained(), False),
        ({"deferredExport": {"image": "fovea/tensorrt:10.13.3.9"}}, trained(), False),
        ({"deferredExport": {"image": "fovea/tensorrt:11.2.1.2"}}, trained(), True),
        ({"deferredExport": {"podTemplate": {"nodeSelector": {"gpu": "l4"}}}}, trained(), True),
        ({}, trained(NEW), True),
    ],
    ids=["nothing", "the image spelled out", "another TensorRT", "another type of node", "another model"],
)
def test_what_builds_again(spec: dict[str, Any], training: RunView, again: bool) -> None:
    view = built()
    planned = plan(view, training=training, **spec)
    assert bool(builds(planned)) is again
    deleted = [each.key.name for each in planned.writes if isinstance(each, Delete)]
    assert deleted == ([view.name] if again else [])
    assert ("engine" in status_of(planned)) is not again


@pytest.mark.parametrize("quantization", [None, {"mode": "Static"}])
def test_asking_for_an_engine_of_a_trained_model_trains_again_only_where_its_8_bit_layers_change(
    quantization: dict[str, Any] | None,
) -> None:
    spec = {"compression": {"quantization": quantization}} if quantization is not None else {}
    (create,) = made(plan_training(snapshot(job(**spec)), SETTINGS), RUN)
    training = view_of(create, trained().status.to_dict())
    planned = plan(training=training, **spec)
    started = {each.manifest["spec"]["type"] for each in made(planned, RUN)}  # type: ignore[index,call-overload]
    assert started == ({"Training"} if quantization is not None else {"EngineBuild"})


def test_no_edit_of_the_build_trains_again() -> None:
    planned = plan(built(), deferredExport={"image": "other"})
    assert [each.manifest["spec"]["type"] for each in made(planned, RUN)] == [RunType.ENGINE_BUILD]  # type: ignore[index,call-overload]


def test_the_gpu_of_a_build_counts_as_the_jobs_also_when_its_run_is_deleted() -> None:
    view = replace(built(), pod_times=(PodTime(2.0, 1.0, NOW, NOW.replace(minute=30)),))
    later = replace(snapshot(job({"run": trained().name}, **DEFERRED), trained()), now=NOW.replace(minute=45))
    first = status_of(plan_training(replace(later, deferred=(view,)), SETTINGS))
    assert first["usage"]["gpuHours"] == 0.5
    moved = job(first, **DEFERRED, deferredExport={"image": "other"})
    second = status_of(plan_training(replace(later, job=moved, deferred=(view,)), SETTINGS))
    assert second["usage"]["gpuHours"] == second["usage"]["deletedRuns"]["gpuHours"] == 0.5


def test_an_engine_stays_while_the_spec_asks_for_what_cannot_be_done() -> None:
    view = built()
    status = status_of(plan(view))
    edited = job(status, training={"loss": "GIoU"}, **DEFERRED)
    edited = edited.model_copy(update={"metadata": edited.metadata.model_copy(update={"generation": 3})})
    blocked = plan_training(replace(snapshot(edited, trained()), deferred=(view,)), SETTINGS)
    assert condition(blocked, "Ready")[:2] == ("False", "UnsuitableLoss")
    assert condition(blocked)[:2] == ("True", "EngineBuilt")
    assert status_of(blocked)["engine"] == status["engine"]
