"""Which changes train again: the planner of a TrainingJob, as a table of situations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fovea_api.common import Task
from fovea_api.dataset import Dataset
from fovea_api.run import Run
from fovea_api.trainingjob import Recipe, Training, TrainingJob, TrainingJobSpec
from fovea_operator.kinds.trainingjob.plan import plan_training
from fovea_operator.kinds.trainingjob.snapshot import TrainingSnapshot
from fovea_operator.objects import RAY_JOB, RUN, TRAINING_JOB
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.writes import Count, Create, Delete, Plan, SetStatus

NOW = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
OLD, NEW = f"sha256-{'1' * 64}", f"sha256-{'2' * 64}"
METADATA = {"name": "cells", "namespace": "ns", "uid": "u", "generation": 1}


def job(status: dict[str, Any] | None = None, restart: str = "", **spec: Any) -> TrainingJob:
    base = {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}}
    annotations = {"fovea.dev/restart": restart} if restart else {}
    generation = 2 if status and spec else 1  # the API server counts edits of the spec
    metadata = METADATA | {"annotations": annotations, "generation": generation}
    return TrainingJob.model_validate({"metadata": metadata, "spec": base | spec, "status": status})


def dataset(version: str | None = OLD) -> Dataset:
    spec = {"task": "Classification", "sources": [{"name": "a", "uri": "s3://a", "format": "ImageFolder"}]}
    status = {"version": version, "artifact": f"s3://fovea/ns/dataset/cells/{version}/"} if version else None
    return Dataset.model_validate({"metadata": METADATA, "spec": spec, "status": status})


def snapshot(job: TrainingJob, *runs: RunView, version: str | None = OLD) -> TrainingSnapshot:
    return TrainingSnapshot(
        job=job, runs=runs, dataset=dataset(version), datasets=("cells",), store=StoreConfig("s3://fovea/ns"), now=NOW
    )


def made(plan: Plan, kind: object) -> list[Create]:
    return [each for each in plan.writes if isinstance(each, Create) and each.key.kind == kind]


def status_of(plan: Plan) -> dict[str, Any]:
    return next(
        dict(each.status) for each in plan.writes if isinstance(each, SetStatus) and each.key.kind == TRAINING_JOB
    )


def trained(recipe: dict[str, Any] | None = None) -> tuple[dict[str, Any], RunView]:
    """A job's status and its finished run, on version OLD with the plain recipe."""
    plan = plan_training(snapshot(job()), Settings())
    create = made(plan, RUN)[0]
    spec = dict(create.manifest["spec"])  # type: ignore[arg-type]
    if recipe is not None:
        spec["recipe"] = recipe
    result = {"completedAt": NOW, "artifact": "s3://b/", "digest": OLD, "metrics": {"test/accuracy": 0.9}}
    attempts = [
        {"number": 1, "child": f"{create.key.name}-1", "startTime": NOW, "endTime": NOW, "outcome": "Succeeded"}
    ]
    status = {"phase": "Succeeded", "result": result, "attempts": attempts, "observedGeneration": 1}
    metadata = {"name": create.key.name, "namespace": "ns", "uid": "r", "creationTimestamp": NOW}
    view = RunView(Run.model_validate({"metadata": metadata, "spec": spec, "status": status}), ())
    return {"run": create.key.name, "observedGeneration": 1}, view


class LongTraining(Training):
    """A later version, in which trainings are longer."""

    epochs: int = 20


class LongRecipe(Recipe):
    training: LongTraining = LongTraining()  # type: ignore[assignment]


def upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, the operator is of the later version: it reads more epochs out of a spec that names none."""
    monkeypatch.setattr(
        TrainingJobSpec,
        "recipe",
        lambda spec: LongRecipe.model_validate(spec.model_dump(include=set(Recipe.model_fields), exclude_unset=True)),
    )


def test_an_upgrade_starts_no_run_and_an_edit_after_it_asks_for_the_new_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, run = trained()
    status = status_of(plan_training(snapshot(job(status), run), Settings()))
    assert status["runGeneration"] == 1
    upgraded(monkeypatch)
    same = plan_training(snapshot(job(status), run), Settings())
    assert not made(same, RUN)

    again = plan_training(snapshot(job(status, restart="now"), run), Settings())
    spec = made(again, RUN)[0].manifest["spec"]
    assert isinstance(spec, dict)
    assert spec["recipe"] == run.run.spec.recipe, "the spec was not edited: it says what it said"

    edited = job(status, runPolicy={"retries": 1})
    (create,) = made(plan_training(snapshot(edited, run), Settings()), RUN)
    assert isinstance(create.manifest["spec"], dict)
    assert create.manifest["spec"]["recipe"]["training"]["epochs"] == 20
    assert create.key.name != run.name


def test_a_change_that_starts_no_run_is_not_answered_by_the_run_of_before() -> None:
    status, run = trained()
    status = status_of(plan_training(snapshot(job(status), run), Settings()))
    edited = job(status, runPolicy={"onChange": "Ignore"}, **CHANGED)
    ignored = status_of(plan_training(snapshot(edited, run), Settings()))
    assert (ignored["observedGeneration"], ignored["runGeneration"]) == (2, 1)


CHANGED = {"training": {"epochs": 3}}
SITUATIONS: dict[str, tuple[dict[str, Any], str | None, bool]] = {
    # the spec, the dataset's newest version, whether it trains again
    "nothing changed": ({}, OLD, False),
    "the recipe changed": (CHANGED, OLD, True),
    "a default was spelled out": ({"training": {"seed": 0}}, OLD, False),
    "the default weights were spelled out": (
        {"model": {"architecture": "resnet18", "pretrained": {"weights": "ImageNet"}}},
        OLD,
        False,
    ),
    "other weights": ({"model": {"architecture": "resnet18", "pretrained": {"weights": "None"}}}, OLD, True),
    "the recipe changed, and that is to be ignored": (CHANGED | {"runPolicy": {"onChange": "Ignore"}}, OLD, False),
    "latency is measured elsewhere": ({"evaluation": {"latency": {"nodeSelector": {"disk": "ssd"}}}}, OLD, True),
    "where latency is measured was spelled out": (
        {"evaluation": {"latency": {"resources": {"requests": {"cpu": "1"}}, "nodeSelector": {}}}},
        OLD,
        False,
    ),
    "criteria changed": ({"successCriteria": [{"metric": "test/accuracy", "min": 0.5}]}, OLD, False),
    "compute changed": ({"compute": {"workers": 4, "image": "other"}}, OLD, False),
    "a new dataset version": ({}, NEW, False),
    "a new dataset version that is asked for": ({"runPolicy": {"onNewDatasetVersion": "NewRun"}}, NEW, True),
    "the version in use was pinned": ({"datasetRef": {"name": "cells", "version": OLD}}, NEW, False),
    "another version was pinned": ({"datasetRef": {"name": "cells", "version": NEW}}, OLD, True),
    "restart was asked for": ({"restart": "again"}, OLD, True),
    "restart was asked for though changes are ignored": (
        {"restart": "again", "runPolicy": {"onChange": "Ignore"}},
        OLD,
        True,
    ),
    "the dataset is deleted": ({}, None, False),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_trains_again(name: str) -> None:
    spec, version, again = SITUATIONS[name]
    status, view = trained()
    plan = plan_training(snapshot(job(status, **spec), view, version=version), Settings())
    assert bool(made(plan, RAY_JOB)) is again
    assert bool(made(plan, RUN)) is again


def test_the_report_of_a_training_has_the_problem_as_it_is_stated_now() -> None:
    given = dataset()
    stated = given.spec.problem.model_copy(update={"statement": "Tell cells apart"})
    given = given.model_copy(update={"spec": given.spec.model_copy(update={"problem": stated})})
    specs = [
        dict(made(plan_training(replace(snapshot(job()), dataset=each), Settings()), RUN)[0].manifest["spec"])  # type: ignore[arg-type]
        for each in (given, dataset())
    ]
    assert specs[0]["inputs"]["dataset"]["problem"]["statement"] == "Tell cells apart"  # type: ignore[index,call-overload]
    assert specs[0]["identity"] == specs[1]["identity"]


def test_a_recipe_frozen_by_an_older_version_equals_its_defaults() -> None:
    status, view = trained(recipe={"model": {"architecture": "resnet18"}})
    assert not made(plan_training(snapshot(job(status), view), Settings()), RUN)


def test_a_recipe_frozen_with_the_default_weights_equals_a_spec_without_them() -> None:
    model = {"architecture": "resnet18", "pretrained": {"weights": "ImageNet"}}
    status, view = trained(recipe={"model": model})
    assert not made(plan_training(snapshot(job(status), view), Settings()), RUN)


def test_what_can_never_work_is_reported_before_a_run_is_made() -> None:
    spec = {"training": {"loss": "GIoU"}, "successCriteria": [{"metric": "test/acuracy", "min": 0.5}]}
    plan = plan_training(snapshot(job(**spec)), Settings())
    assert not made(plan, RUN)
    found = {each["type"]: each for each in status_of(plan)["conditions"]}
    assert (found["Stalled"]["status"], found["Stalled"]["reason"]) == ("True", "UnsuitableLoss")
    assert "spec.training.loss: resnet18 cannot be trained with the loss GIoU" in found["Ready"]["message"]
    assert "spec.successCriteria[0].metric: test/acuracy is not measured" in found["Ready"]["message"]
    assert "did you mean test/accuracy" in found["Ready"]["message"]


def test_a_run_of_before_goes_on_while_the_spec_asks_for_what_cannot_be_done() -> None:
    plan = plan_training(snapshot(job()), Settings())
    create, status = made(plan, RUN)[0], status_of(plan)
    manifest = dict(create.manifest) | {"status": {"phase": "Running"}}
    view = RunView(Run.model_validate(manifest), ())
    plan = plan_training(snapshot(job(status, training={"loss": "GIoU"}), view), Settings())
    assert not made(plan, RUN)
    assert made(plan, RAY_JOB)[0].key.name == f"{view.name}-1"
    ready = next(each for each in status_of(plan)["conditions"] if each["type"] == "Ready")
    assert ready["reason"] == "UnsuitableLoss"


def test_criteria_are_checked_as_they_are_now() -> None:
    status, view = trained()
    hard = [{"metric": "test/accuracy", "min": 0.95}]
    found = status_of(plan_training(snapshot(job(status, successCriteria=hard), view), Settings()))
    assert found["result"]["eligible"] is False
    ready = next(each for each in found["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "CriteriaNotMet")
    assert "test/accuracy 0.9 (required ≥ 0.95)" in ready["message"]


def with_metrics(view: RunView, metrics: dict[str, float]) -> RunView:
    result = view.run.status.result
    assert result is not None
    status = view.run.status.model_copy(update={"result": result.model_copy(update={"metrics": metrics})})
    return replace(view, run=view.run.model_copy(update={"status": status}))


@pytest.mark.parametrize("metrics", [{}, {"latency/p95Milliseconds": 9.0, "size/megabytes": 1.0}, {"train/mAP": 1.0}])
def test_a_model_whose_quality_nobody_measured_is_never_eligible(metrics: dict[str, float]) -> None:
    status, view = trained()
    for criteria in ([], [{"metric": "size/megabytes", "max": 5}]):
        planned = plan_training(
            snapshot(job(status, successCriteria=criteria), with_metrics(view, metrics)), Settings()
        )
        found = status_of(planned)
        assert found["result"]["eligible"] is False
        ready = next(each for each in found["conditions"] if each["type"] == "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "NotEvaluated")
        assert "splits.ratios" in ready["message"]


def test_a_missing_split_is_in_the_status_of_a_model_that_may_be_served() -> None:
    status, view = trained()
    for metrics, words in (
        ({"validation/accuracy": 0.9}, "there is no test split"),
        ({"test/accuracy": 0.9}, "there is no validation split, so the weights of the last epoch were kept"),
    ):
        found = status_of(plan_training(snapshot(job(status), with_metrics(view, metrics)), Settings()))
        ready = next(each for each in found["conditions"] if each["type"] == "Ready")
        assert (ready["status"], found["result"]["eligible"]) == ("True", True)
        assert words in ready["message"]


def test_a_settled_job_plans_nothing() -> None:
    status, view = trained()
    first = plan_training(snapshot(job(status), view), Settings())
    run_status = next(
        (dict(each.status) for each in first.writes if isinstance(each, SetStatus) and each.key.kind == RUN), {}
    )
    settled = view.run.model_copy(update={"status": view.status.model_validate(view.status.to_dict() | run_status)})
    again = plan_training(snapshot(job(status_of(first)), replace(view, run=settled)), Settings())
    assert again.writes == ()


def test_going_back_finds_what_was_trained() -> None:
    status, view = trained()
    plan = plan_training(snapshot(job(status | {"run": "r-ffffffffff"}), view), Settings())
    assert not made(plan, RUN)
    assert status_of(plan)["run"] == view.name


def test_history_is_kept_to_its_limit() -> None:
    status, view = trained()
    olds = [
        replace(
            view,
            run=view.run.model_copy(
                update={"metadata": view.run.metadata.model_copy(update={"name": f"r-{number:010d}"})}
            ),
        )
        for number in range(4)
    ]
    plan = plan_training(snapshot(job(status, runPolicy={"historyLimit": 3}), view, *olds), Settings())
    deleted = [each.key.name for each in plan.writes if isinstance(each, Delete)]
    assert deleted == [olds[2].name, olds[3].name]


def test_raising_the_memory_that_a_message_names_lets_a_failed_training_go_on() -> None:
    started = plan_training(snapshot(job()), Settings())
    create, status = made(started, RUN)[0], status_of(started)
    run = next(dict(each.status) for each in started.writes if isinstance(each, SetStatus) and each.key.kind == RUN)
    (attempt,) = run["attempts"]  # type: ignore[misc]
    ended = {"outcome": "Failed", "reason": "OOMKilled", "message": "raise it", "endTime": "2026-11-24T19:00:00Z"}
    failed = {"phase": "Failed", "attempts": [attempt | ended | {"number": number} for number in (1, 2)]}  # type: ignore[operator]
    view = RunView(Run.model_validate(dict(create.manifest) | {"status": failed}), ())
    same = plan_training(snapshot(job(status), view), Settings())
    assert not made(same, RAY_JOB)
    assert status_of(same)["phase"] == "Failed"
    memory = {"resources": {"limits": {"memory": "16Gi"}}}
    (child,) = made(plan_training(snapshot(job(status, compute=memory), view), Settings()), RAY_JOB)
    assert child.key.name == f"{view.name}-3"
    annotations = child.manifest["metadata"]["annotations"]  # type: ignore[index,call-overload]
    assert annotations["fovea.dev/pods"] != attempt["podsDigest"]  # type: ignore[index,call-overload]


def test_an_ended_attempt_is_counted_after_the_status_that_records_it() -> None:
    started = plan_training(snapshot(job()), Settings())
    create, status = made(started, RUN)[0], status_of(started)
    running = {"phase": "Running", "attempts": [{"number": 1, "child": f"{create.key.name}-1", "startTime": NOW}]}
    view = RunView(Run.model_validate(dict(create.manifest) | {"status": running}), ())
    plan = plan_training(snapshot(job(status), view), Settings())
    writes = [
        each
        for each in plan.writes
        if isinstance(each, Count) or (isinstance(each, SetStatus) and each.key.kind == RUN)
    ]
    assert isinstance(writes[0], SetStatus)
    assert writes[1:] == [Count("fovea_run_attempts_ended_total", ("Training", "Failed"))]


def test_a_restart_takes_the_recipe_as_it_was_frozen_and_checks_the_spec_as_it_is_written() -> None:
    """What a Run spells out, such as sizes that follow from the dataset, is nothing that a user may write."""
    detector = {"model": {"architecture": "retinanet-efficientnet-lite0"}}
    given = dataset().model_copy(update={"spec": dataset().spec.model_copy(update={"task": Task.DETECTION})})
    first = plan_training(replace(snapshot(job(**detector)), dataset=given), Settings())
    create, status = made(first, RUN)[0], status_of(first)
    ended = {"phase": "Succeeded", "result": {"completedAt": NOW, "artifact": "s3://b/", "digest": OLD}}
    view = RunView(Run.model_validate(dict(create.manifest) | {"status": ended}), ())
    status["runGeneration"] = 2  # that of the job below: its spec was not edited since
    again = plan_training(replace(snapshot(job(status, restart="again", **detector), view), dataset=given), Settings())
    assert len(made(again, RUN)) == 1


# --- Another job's model as base weights -----------------------------------------------------------------------------

BUNDLE = {"run": "r-1234567890", "bundle": "s3://b/base/", "digest": f"sha256-{'b' * 64}", "completedAt": NOW}
FIELD = "spec.model.pretrained.trainingJobRef"


def based(*, there: bool = True, **result: Any) -> Plan:
    """The plan of a job that starts from the model of the job `base`, which has this result."""
    status = {"result": BUNDLE | {"metrics": {}} | result} if result else None
    spec = {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}}
    base = TrainingJob.model_validate({"metadata": METADATA | {"name": "base"}, "spec": spec, "status": status})
    found = snapshot(job(model={"architecture": "resnet18", "pretrained": {"trainingJobRef": {"name": "base"}}}))
    return plan_training(replace(found, jobs={"base": base} if there else {}), Settings())


def waits(plan: Plan) -> tuple[str, str]:
    """Reason and message of Ready, of a job for which nothing is made."""
    assert not [each for each in plan.writes if isinstance(each, Create)]
    ready = next(each for each in status_of(plan)["conditions"] if each["type"] == "Ready")
    return ready["reason"], ready["message"]


def test_an_eligible_model_is_an_input_of_the_run() -> None:
    (create,) = made(based(eligible=True), RUN)
    inputs: Any = create.manifest["spec"]["inputs"]  # type: ignore[index,call-overload]
    assert inputs["baseWeights"] == {"digest": BUNDLE["digest"], "artifact": BUNDLE["bundle"]}


def test_a_model_that_is_not_eligible_is_none() -> None:
    words = f"{FIELD}: TrainingJob 'base' has no eligible model yet"
    assert waits(based(eligible=False)) == waits(based()) == ("TrainingJobNotReady", words)


def test_a_job_that_is_not_there_is_named_with_its_field() -> None:
    words = f"{FIELD}: there is no TrainingJob 'base' in this namespace; apply it"
    assert waits(based(there=False)) == ("TrainingJobNotFound", words)


def test_a_limit_that_chooses_the_architecture_chooses_anew_and_other_criteria_do_not() -> None:
    small, good = {"metric": "size/megabytes", "max": 20}, {"metric": "test/accuracy", "min": 0.5}
    choosing = {"model": {"architecture": "Auto"}}
    first = plan_training(snapshot(job(**choosing, successCriteria=[small])), Settings())
    create, status = made(first, RUN)[0], status_of(first)
    candidates = [
        {"architecture": "resnet18", "metrics": {"validation/accuracy": 0.9}, "epochs": 2},
        {"architecture": "resnet50", "reason": "size/megabytes 94 (required ≤ 20)"},
    ]
    training = {"bestEpoch": 1, "epochs": 1, "seconds": 1, "architecture": "resnet18", "candidates": candidates}
    metrics = {"test/accuracy": 0.9, "size/megabytes": 12}
    result = {"completedAt": NOW, "artifact": "s3://b/", "digest": OLD, "metrics": metrics, "training": training}
    ended = {"number": 1, "child": f"{create.key.name}-1", "startTime": NOW, "endTime": NOW, "outcome": "Succeeded"}
    run = {"status": {"phase": "Succeeded", "result": result, "attempts": [ended]}}
    view = RunView(Run.model_validate(dict(create.manifest) | run), ())

    again = plan_training(snapshot(job(status, **choosing, successCriteria=[small, good]), view), Settings())
    assert not made(again, RUN)
    found = status_of(again)
    assert found["result"]["architecture"] == "resnet18"
    (message,) = [each["message"] for each in found["conditions"] if each["type"] == "Ready"]
    assert "resnet18 was chosen of 2 candidates with validation/accuracy 0.9 after 2 epochs" in message
    assert "resnet50: size/megabytes 94 (required ≤ 20)" in message

    tighter = job(status, **choosing, successCriteria=[small | {"max": 10}])
    (other,) = made(plan_training(snapshot(tighter, view), Settings()), RUN)
    assert other.key.name != view.name
    ignored = job(status, **choosing, successCriteria=[small | {"max": 10}], runPolicy={"onChange": "Ignore"})
    assert not made(plan_training(snapshot(ignored, view), Settings()), RUN)
