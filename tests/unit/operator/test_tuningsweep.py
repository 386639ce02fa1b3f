"""The planner of a TuningSweep, as a table of situations."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fovea_api.dataset import Dataset
from fovea_api.run import Run, RunStatus
from fovea_api.trainingjob import TrainingJobSpec
from fovea_api.tuningsweep import SweepRecipe, Trials, TuningSweep, TuningSweepSpec
from fovea_operator.kinds.tuningsweep.plan import plan_sweep
from fovea_operator.kinds.tuningsweep.snapshot import SweepSnapshot
from fovea_operator.objects import RAY_JOB, RUN, TUNING_SWEEP, Key
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.workloads.workload import Child, ChildState
from fovea_operator.writes import Create, Delete, Emit, Plan, Promote, SetStatus

NOW = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)
OLD, NEW = f"sha256-{'1' * 64}", f"sha256-{'2' * 64}"
METADATA = {"name": "search", "namespace": "ns", "uid": "u", "generation": 1}
SPEC: dict[str, Any] = {
    "template": {"spec": {"datasetRef": {"name": "cells"}, "model": {"architecture": "retinanet-efficientnet-lite0"}}},
    "parameters": [
        {"path": "training.optimizer.learningRate", "logUniform": {"min": 1e-4, "max": 1e-2}},
        {"path": "model.architecture", "choice": ["retinanet-efficientnet-lite0", "fasterrcnn"]},
    ],
    "objectives": [
        {"metric": "validation/mAP", "goal": "Maximize"},
        {"metric": "latency/p95Milliseconds", "goal": "Minimize", "limit": 60},
    ],
    "promote": {"name": "cells-best", "epochs": 30},
}
BEST = {
    "trial": "t-11",
    "parameters": {"training.optimizer.learningRate": 1.3e-3, "model.architecture": "fasterrcnn"},
    "metrics": {"validation/mAP": 0.53, "latency/p95Milliseconds": 48.0},
    "epochs": 8,
}
SLOW = {"trial": "t-2", "metrics": {"validation/mAP": 0.6, "latency/p95Milliseconds": 75.0}, "epochs": 8}
COUNTS = {"succeeded": 6, "stoppedEarly": 11, "failed": 3, "total": 20}
SUMMARY: dict[str, Any] = {
    "ended": "AllTrials", "trials": COUNTS, "best": BEST, "pareto": [SLOW, BEST], "frontSize": 2,
    "usage": {"cpuHours": 1.234},
}  # fmt: skip


def sweep(status: dict[str, Any] | None = None, restart: str = "", **spec: Any) -> TuningSweep:
    annotations = {"fovea.dev/restart": restart} if restart else {}
    generation = 2 if status and spec else 1  # the API server counts edits of the spec
    metadata = METADATA | {"annotations": annotations, "generation": generation}
    return TuningSweep.model_validate({"metadata": metadata, "spec": SPEC | spec, "status": status})


def dataset(version: str | None = OLD) -> Dataset:
    spec = {"task": "Detection", "sources": [{"name": "a", "uri": "s3://a", "format": "COCO"}]}
    status = {"version": version, "artifact": f"s3://fovea/ns/dataset/cells/{version}/"} if version else None
    return Dataset.model_validate({"metadata": METADATA | {"name": "cells"}, "spec": spec, "status": status})


def snapshot(of: TuningSweep, *runs: RunView, version: str | None = OLD, **more: Any) -> SweepSnapshot:
    store = StoreConfig("s3://f/ns")
    return SweepSnapshot(
        sweep=of, runs=runs, dataset=dataset(version), datasets=("cells",), store=store, now=NOW, **more
    )


def plan(of: TuningSweep, *runs: RunView, **more: Any) -> Plan:
    return plan_sweep(snapshot(of, *runs, **more), Settings())


def made(plan: Plan, kind: object) -> list[Create]:
    return [each for each in plan.writes if isinstance(each, Create) and each.key.kind == kind]


def promoted(plan: Plan) -> list[Promote]:
    return [each for each in plan.writes if isinstance(each, Promote)]


def status_of(plan: Plan) -> dict[str, Any]:
    return next(
        dict(each.status) for each in plan.writes if isinstance(each, SetStatus) and each.key.kind == TUNING_SWEEP
    )


def condition(status: dict[str, Any], type: str = "Ready") -> tuple[str, str, str]:
    found = next(each for each in status["conditions"] if each["type"] == type)
    return found["status"], found["reason"], found["message"]


def run_of(of: TuningSweep, result: dict[str, Any] | None = None, progress: dict[str, Any] | None = None) -> RunView:
    """The run of a sweep, at work or with a result."""
    create = made(plan(of), RUN)[0]
    attempt = {"number": 1, "child": f"{create.key.name}-1", "startTime": NOW}
    attempt |= {"endTime": NOW, "outcome": "Succeeded"} if result and "error" not in result else {}
    status = {"phase": "Running", "attempts": [attempt], "result": result, "progress": progress}
    metadata = {"name": create.key.name, "namespace": "ns", "uid": "r", "creationTimestamp": NOW}
    return RunView(Run.model_validate({"metadata": metadata, "spec": create.manifest["spec"], "status": status}), ())


def result(**summary: Any) -> dict[str, Any]:
    return {
        "completedAt": NOW, "artifact": "s3://f/t/", "digest": OLD, "report": "s3://f/r.html", "attempt": 1,
        "sweep": SUMMARY | summary,
    }  # fmt: skip


def ended(of: TuningSweep | None = None, **summary: Any) -> tuple[dict[str, Any], RunView]:
    """The status of a sweep whose run has ended, and the run."""
    given = of or sweep()
    view = run_of(given, result(**summary))
    status = status_of(plan(given, view))
    return status, view


def test_a_sweep_makes_one_run_on_the_version_and_its_ray_job_with_a_worker_a_trial() -> None:
    wide = sweep(trials={"max": 20, "parallel": 3}, compute={"resources": {"requests": {"cpu": "1"}}})
    first = plan(wide)
    (run,), (job,) = made(first, RUN), made(first, RAY_JOB)
    spec: Any = run.manifest["spec"]
    assert (spec["type"], spec["inputs"]["dataset"]["version"]) == ("TuningSweep", OLD)
    assert (spec["execution"]["parallelTrials"], spec["execution"]["workers"]) == (3, 1)
    cluster: Any = job.manifest["spec"]
    assert cluster["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 3
    narrow = made(plan(sweep(trials={"max": 20, "parallel": 1})), RUN)[0]
    assert narrow.key == run.key, "how many train at once changes no result"


def test_trials_on_several_workers_have_what_ray_places_them_by() -> None:
    """As the shell reads it that KubeRay writes `ray start --resources=…` into."""
    (job,) = made(plan(sweep(trials={"max": 20, "parallel": 2}, compute={"workers": 3})), RAY_JOB)
    cluster: Any = job.manifest["spec"]
    (group,) = cluster["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == 6
    (words,) = shlex.split(group["rayStartParams"]["resources"])
    assert json.loads(words) == {"trial": 1}
    (narrow,) = made(plan(sweep()), RAY_JOB)
    plain: Any = narrow.manifest["spec"]
    assert plain["rayClusterSpec"]["workerGroupSpecs"][0]["rayStartParams"] == {}


CHANGES: dict[str, tuple[dict[str, Any], str | None, bool]] = {
    # the spec, the dataset's newest version, whether another run is made
    "nothing": ({}, OLD, False),
    "a default was spelled out": ({"search": {"algorithm": "TPE"}}, OLD, False),
    "another range": (
        {"parameters": [{"path": "training.batchSize", "choice": [4, 8]}]},
        OLD,
        True,
    ),
    "more trials": ({"trials": {"max": 40}}, OLD, True),
    "more at once": ({"trials": {"parallel": 2}}, OLD, False),
    "another budget": ({"budget": {"wallClock": "1h"}}, OLD, True),
    "another target of the promotion": ({"promote": {"name": "other"}}, OLD, False),
    "compute": ({"compute": {"resources": {"requests": {"cpu": "4"}}}}, OLD, False),
    "a new dataset version": ({}, NEW, False),
    "another version was pinned": (
        {"template": {"spec": SPEC["template"]["spec"] | {"datasetRef": {"name": "cells", "version": NEW}}}},
        OLD,
        True,
    ),
    "restart was asked for": ({"restart": "again"}, OLD, True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_makes_another_run(name: str) -> None:
    change, version, another = CHANGES[name]
    status, view = ended()
    again = made(plan(sweep(status, **change), view, version=version), RUN)
    assert bool(again) is another
    assert not any(create.key.name == view.name for create in again)


def test_progress_is_shown_while_it_runs() -> None:
    reported = {
        "stage": "Trials", "eta": "12m",
        "sweep": {"trials": COUNTS | {"running": 2, "failed": 0}, "best": BEST, "frontSize": 2, "budgetPercent": 35},
    }  # fmt: skip
    given = sweep()
    first = plan(given, run_of(given, progress=reported))
    status = status_of(first)
    assert status["progress"] == {"stage": "Trials", "eta": "12m", "metrics": {}}
    shown = {name: status[name] for name in ("endedTrials", "headline", "spent", "frontSize")}
    assert shown == {"endedTrials": "17/20", "headline": "validation/mAP 0.53", "spent": "35 %", "frontSize": 2}
    assert [each.note for each in first.writes if isinstance(each, Emit) and each.reason == "BetterTrial"] == [
        f"run {status['run']}: trial t-11 with validation/mAP 0.53, latency/p95Milliseconds 48"
    ]
    again = plan(sweep(status), run_of(given, progress=reported))
    assert not [each for each in again.writes if isinstance(each, SetStatus) and each.key.kind == TUNING_SWEEP]
    assert not [each for each in again.writes if isinstance(each, Emit) and each.reason == "BetterTrial"]


ENDS: dict[str, tuple[dict[str, Any], tuple[str, str], str]] = {
    # the summary, status and reason of Ready, words
    "all trials": ({}, ("True", "Succeeded"), "trial t-11 with validation/mAP 0.53"),
    "the budget is spent": ({"ended": "BudgetSpent"}, ("True", "BudgetSpent"), "the budget is spent: 20 of 20 trials"),
    "no trial is named": ({"best": None}, ("False", "ResultIncomplete"), "the trainer image does not fit"),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_sweep_ends(name: str) -> None:
    summary, (ready, reason), words = ENDS[name]
    status, _ = ended(**summary)
    found = condition(status)
    assert found[:2] == (ready, reason)
    assert words in found[2]
    assert (status["artifact"], status["digest"], status["report"]) == ("s3://f/t/", OLD, "s3://f/r.html")
    assert condition(status, "Stalled")[0] == ("False" if ready == "True" else "True")


def test_what_was_found_before_stays_when_the_next_run_fails_or_has_reported_nothing() -> None:
    status, _ = ended()
    longer = sweep(status, trials={"max": 40})
    starting = status_of(plan(longer))
    assert (starting["headline"], starting["best"]["trial"]) == ("validation/mAP 0.53", "t-11")
    error = {"reason": "TrialsFailed", "message": "4 trials failed: out of memory"}
    failed = status_of(
        plan(longer, run_of(longer, {"completedAt": NOW, "attempt": 1, "error": error, "sweep": SUMMARY}))
    )
    assert condition(failed)[:2] == ("False", "TrialsFailed")
    assert "found before that: trial t-11" in condition(failed)[2]
    assert failed["artifact"] == "s3://f/t/"


def superseded(of: TuningSweep, *children: Child) -> RunView:
    """The run of a sweep whose pods are there still, after another took its place."""
    view = run_of(of)
    status = RunStatus.model_validate(view.status.to_dict() | {"phase": "Suspended"})
    return replace(
        view, run=view.run.model_copy(update={"status": status}), children=children, pods=("search-1-head-x",)
    )


def child_of(view: RunView, **fields: Any) -> Child:
    key = Key(RAY_JOB, "ns", f"{view.name}-1")
    return Child(key, "c", view.name, created=NOW, state=ChildState.SUCCEEDED, **fields)


def test_a_run_with_more_trials_waits_until_the_pods_of_the_one_before_have_ended_for_both_write_one_journal() -> None:
    before = superseded(sweep())
    longer = sweep({"run": before.name}, trials={"max": 40}, runPolicy={"historyLimit": 1})
    going = child_of(before, deleting=True)
    for pods_left in (before, replace(before, children=(going,))):
        waiting = plan(longer, pods_left)
        assert made(waiting, RUN)
        assert not made(waiting, RAY_JOB)
        assert condition(status_of(waiting))[1] == "Stopping"
        assert "search-1-head-x" in condition(status_of(waiting))[2]
        assert waiting.requeue_after is not None
        assert not any(isinstance(each, Delete) and each.key.kind == RUN for each in waiting.writes), (
            "its pods are known"
        )
    for done in (replace(before, pods=()), replace(before, children=(child_of(before),))):
        assert made(plan(longer, done), RAY_JOB), "the Ray cluster of a finished run is kept idle"


def test_the_winner_is_promoted_once() -> None:
    given = sweep()
    view = run_of(given, result())
    first = plan(given, view)
    (promote,) = promoted(first)
    spec: Any = promote.manifest["spec"]
    metadata: Any = promote.manifest["metadata"]
    assert (promote.key.name, metadata["labels"]) == ("cells-best", {"fovea.dev/promoted-from": "search"})
    assert metadata["annotations"] == {"fovea.dev/promoted-trial": f"{view.name}/t-11"}
    assert spec == {
        "datasetRef": {"name": "cells"},
        "model": {"architecture": "fasterrcnn"},
        "training": {"optimizer": {"learningRate": 1.3e-3}, "epochs": 30},
    }, "what the template and the trial are silent about is left to defaults, and to others"
    TrainingJobSpec.model_validate(spec)
    status = status_of(first)
    assert status["promoted"] == {"trainingJob": "cells-best", "run": view.name, "trial": "t-11"}
    assert [each.reason for each in first.writes if isinstance(each, Emit)].count("Promoted") == 1
    writes = list(first.writes)
    assert writes.index(promote) < next(
        index for index, each in enumerate(writes) if isinstance(each, SetStatus) and each.key.kind == TUNING_SWEEP
    ), "an operator that dies between the two promotes again"
    for there in ("search", "", None):  # also where it was changed, taken over or deleted since
        assert not promoted(plan(sweep(status), view, promoted_from=there))
    other = promoted(plan(sweep(status, promote={"name": "other"}), view))
    assert [each.key.name for each in other] == ["other"]
    longer = sweep(status, trials={"max": 40})
    assert promoted(plan(longer, run_of(longer, result()), promoted_from="search")), "the next run's winner"


@pytest.mark.parametrize("origin", ["", "another"])
def test_a_job_that_it_did_not_make_is_not_touched(origin: str) -> None:
    given = sweep()
    refused = plan(given, run_of(given, result()), promoted_from=origin)
    assert not promoted(refused)
    status = status_of(refused)
    assert condition(status)[:2] == ("True", "Succeeded"), "the sweep itself has what it was to find"
    stalled = condition(status, "Stalled")
    assert stalled[:2] == ("True", "PromotionRefused")
    assert "kubectl label trainingjob cells-best fovea.dev/promoted-from=search" in stalled[2]
    assert "promoted" not in status
    assert refused.requeue_after is not None, "the job may be deleted or labelled"


def test_epochs_that_do_not_fit_the_recipe_are_refused_with_the_field() -> None:
    template = SPEC["template"]["spec"] | {"training": {"schedule": {"warmupEpochs": 5}, "epochs": 8}}
    given = sweep(template={"spec": template}, promote={"name": "best", "epochs": 2})
    status = status_of(plan(given, run_of(given, result())))
    assert condition(status, "Stalled")[1] == "PromotionRefused"
    assert "warmupEpochs" in condition(status, "Stalled")[2]


def test_a_report_of_before_takes_back_nothing() -> None:
    """What an earlier attempt has written last may arrive after the first report of the next one."""
    given = sweep(budget={"wallClock": "1h"})

    def reported(succeeded: int, best: dict[str, Any], front: int, percent: int) -> RunView:
        counts = {"running": 1, "succeeded": succeeded, "total": 4}
        trials = {"trials": counts, "best": best, "frontSize": front, "budgetPercent": percent}
        return run_of(given, progress={"stage": "Tuning", "sweep": trials})

    better, before = reported(3, BEST, 2, 7), reported(2, SLOW, 1, 4)
    status = status_of(plan(given, better))
    assert (status["endedTrials"], status["spent"]) == ("3/4", "7 %")
    again = plan(sweep(status, budget={"wallClock": "1h"}), before)
    statuses = [each.status for each in again.writes if isinstance(each, SetStatus) and each.key.kind == TUNING_SWEEP]
    shown = {**status, **(statuses[0] if statuses else {})}
    for name in ("endedTrials", "trials", "best", "headline", "frontSize", "spent"):
        assert shown[name] == status[name], name
    other = status | {"run": "r-123456"}
    assert status_of(plan(sweep(other, budget={"wallClock": "1h"}), before))["endedTrials"] == "2/4"


def test_the_knee_is_promoted_where_it_is_asked_for() -> None:
    given = sweep(promote={"name": "best", "trial": "Knee"})
    knee = BEST | {"trial": "t-4"}
    (promote,) = promoted(plan(given, run_of(given, result(knee=knee))))
    metadata: Any = promote.manifest["metadata"]
    assert metadata["annotations"]["fovea.dev/promoted-trial"].endswith("/t-4")


OWN_MODEL = {"architecture": "fasterrcnn", "pretrained": {"from": "Current"}}
WAITS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str]]] = {
    # the spec, what is observed, reason and words
    "no dataset": ({}, {"dataset": None, "datasets": ("cell",)}, ("DatasetNotFound", "did you mean cell?")),
    "a metric that nobody measures": (
        {"objectives": [{"metric": "validation/accuracy", "goal": "Maximize"}]},
        {},
        ("UnknownMetric", "spec.objectives[0].metric"),
    ),
    "an architecture that is not there": (
        {"parameters": [{"path": "model.architecture", "choice": ["fasterrcn"]}]},
        {},
        ("ImpossibleSpace", "fasterrcnn"),
    ),
    "a sweep to start from that is not there": (
        {"search": {"warmStart": {"tuningSweepRef": {"name": "before"}}}},
        {},
        ("TuningSweepNotFound", "spec.search.warmStart.tuningSweepRef"),
    ),
    "itself": (
        {"search": {"warmStart": {"tuningSweepRef": {"name": "search"}}}},
        {},
        ("InvalidReference", "cannot start from itself"),
    ),
    "one that has not ended": (
        {"search": {"warmStart": {"tuningSweepRef": {"name": "before"}}}},
        {"earlier": sweep()},
        ("TuningSweepNotReady", "no run of TuningSweep 'before' has ended yet"),
    ),
    "its own model": (
        {"template": {"spec": SPEC["template"]["spec"] | {"model": OWN_MODEL}}, "parameters": SPEC["parameters"][:1]},
        {},
        ("NoCurrentModel", "spec.template.spec.model.pretrained.from"),
    ),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_a_sweep_waits_for(name: str) -> None:
    spec, observed, (reason, words) = WAITS[name]
    waiting = plan_sweep(replace(snapshot(sweep(**spec)), **observed), Settings())
    assert not made(waiting, RUN)
    found = condition(status_of(waiting))
    assert found[:2] == ("False", reason)
    assert words in found[2]


def test_trials_of_an_earlier_sweep_are_an_input() -> None:
    status, _ = ended()
    given = sweep(search={"warmStart": {"tuningSweepRef": {"name": "before"}}})
    (run,) = made(plan(given, earlier=sweep(status)), RUN)
    spec: Any = run.manifest["spec"]
    assert spec["inputs"]["earlierTrials"] == {"digest": OLD, "artifact": "s3://f/t/"}


class MoreTrials(Trials):
    """A later version, in which sweeps make more trials."""

    max: int = 50


class LaterRecipe(SweepRecipe):
    trials: MoreTrials = MoreTrials()  # type: ignore[assignment]


def test_an_upgrade_starts_no_run_and_an_edit_after_it_asks_for_the_new_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, view = ended()
    recipe = TuningSweepSpec.recipe

    def later(spec: TuningSweepSpec) -> SweepRecipe:
        then = recipe(spec)
        given = {name: getattr(then, name) for name in SweepRecipe.model_fields if name != "trials"}
        return LaterRecipe.model_validate({**given, "trials": spec.trials.model_dump(exclude_unset=True)})

    monkeypatch.setattr(TuningSweepSpec, "recipe", later)
    assert not made(plan(sweep(status), view), RUN)
    (create,) = made(plan(sweep(status, budget={"wallClock": "1h"}), view), RUN)
    spec: Any = create.manifest["spec"]
    assert spec["recipe"]["trials"]["max"] == 50
