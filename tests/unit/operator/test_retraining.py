"""Retrainings: which trigger leads to which request, that each cause does so once, and what becomes of the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from statistics import NormalDist
from typing import Any

import pytest
from fovea_api.common import parse_duration
from fovea_api.criteria import Criterion
from fovea_api.modeldeployment import (
    Comparison,
    ModelDeploymentStatus,
    Retraining,
    RetrainingStatus,
    RolledBackVersion,
)
from fovea_api.run import BundleInput, RequestedRun, Run, RunRequest
from fovea_operator.evidence.betting import Share
from fovea_operator.kinds.modeldeployment.retraining import (
    Champion,
    Data,
    Observed,
    Transition,
    advance,
    judge,
    may_serve,
    may_serve_result,
    new_labels,
    recipe_patch,
    withdrawn,
)
from fovea_operator.schedule import InvalidSchedule

NOW = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
OLD, NEW, NEWER = (f"sha256-{digit * 64}" for digit in "123")
FIRST, SECOND = "r-000001", "r-000002"
BETTER = {"test/mAP50": 0.9, "champion/mAP50": 0.6, "champion/difference": 0.3, "champion/differenceError": 0.05}
IMAGES = {"champion/images": 40.0}
EVERY: dict[str, Any] = {"newDatasetVersion": True, "drift": {"minNewLabels": 50}, "accuracyBelow": 0.8}


def spec(triggers: dict[str, Any] | None = None, **more: Any) -> Retraining:
    return Retraining.model_validate({"triggers": triggers or {"newDatasetVersion": True}, **more})


def champion(run: str = FIRST, version: str | None = OLD) -> Champion:
    return Champion(run, BundleInput(digest=OLD, artifact=f"s3://{run}/"), version)


def data(version: str = OLD, images: int = 100) -> Data:
    return Data(version, images, {OLD: 100, version: images})


def run_of(request: RunRequest, name: str = SECOND, phase: str = "Succeeded", **metrics: float) -> Run:
    result = {
        "completedAt": NOW,
        "artifact": f"s3://{name}/",
        "digest": OLD,
        "metrics": {**BETTER, **IMAGES, **{key.replace("__", "/"): value for key, value in metrics.items()}},
    }
    origin = {"kind": "ModelDeployment", "name": "cells", "cause": request.cause}
    return Run.model_validate(
        {
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {
                "type": "Training",
                "owner": {"kind": "TrainingJob", "name": "cells"},
                "identity": NEW,
                "recipe": {},
                "store": "s3://fovea/ns",
                "request": origin,
            },
            "status": {"phase": phase, "usage": {"gpuHours": 2, "until": NOW}}
            | ({"result": result} if phase == "Succeeded" else {}),
        }
    )


@dataclass
class World:
    """A deployment with retrainings; each step takes what the last one wrote."""

    spec: Retraining = field(default_factory=spec)
    observed: Observed = field(default_factory=lambda: Observed(NOW, "cells", champion(), FIRST, data=data()))
    status: RetrainingStatus = field(default_factory=RetrainingStatus)
    requests: tuple[RunRequest, ...] = ()
    said: list[Transition] = field(default_factory=list)
    look_after: timedelta | None = None

    def step(self, **observed: Any) -> None:
        self.observed = replace(self.observed, **observed)
        made = advance(self.status, self.requests, self.spec, self.observed)
        self.status, self.requests, self.look_after = made.status, made.requests, made.look_after
        self.said += made.transitions

    def pass_time(self, **hours: float) -> None:
        self.step(now=self.observed.now + timedelta(**hours))

    def ends(self, name: str = SECOND, phase: str = "Succeeded", **metrics: float) -> None:
        request = self.requests[-1]
        self.step(runs={request.cause: run_of(request, name, phase, **metrics)})

    @property
    def outcomes(self) -> list[tuple[str, str | None]]:
        return [(event.trigger, event.outcome) for event in self.status.history]


def asked(triggers: dict[str, Any] | None = None, **more: Any) -> World:
    """A retraining for a new version is under way."""
    world = World(spec(triggers, **more))
    world.step(data=data(NEW, 200))
    assert len(world.requests) == 1
    return world


# --- Triggers --------------------------------------------------------------------------------------------------------


def test_a_new_version_asks_for_one_run_that_starts_from_the_served_model() -> None:
    world = World(spec(recipe={"training": {"epochs": 4}}))
    world.step()
    assert world.requests == ()
    world.step(data=data(NEW, 200))
    (request,) = world.requests
    assert (request.target.kind, request.target.name) == ("TrainingJob", "cells")
    assert request.recipe == {"training": {"epochs": 4}, "model": {"pretrained": {"from": "Current"}}}
    assert request.champion is not None
    assert request.champion.artifact == "s3://r-000001/"
    before = world.status
    world.pass_time(hours=100)
    assert (world.requests, world.status) == ((request,), before), "the same state again changes nothing"
    world.ends(champion__difference=0.0)
    assert world.requests == ()
    world.pass_time(hours=100)
    assert world.requests == (), "the version has had its retraining"
    world.step(data=data(NEWER, 300))
    assert len(world.requests) == 1
    assert world.requests[0].cause != request.cause


def test_a_job_that_trains_new_versions_itself_is_not_asked() -> None:
    world = World()
    world.step(data=data(NEW, 200), trains_new_versions=True)
    assert world.requests == ()


def test_drift_alone_asks_for_nothing_until_the_labels_are_there() -> None:
    world = World(spec({"drift": {"minNewLabels": 50}}))
    world.step(drift_since=NOW)
    assert world.requests == ()
    assert "0 of 50 new labelled images" in world.status.message
    world.step(data=data(NEW, 149))
    assert world.requests == ()
    world.step(data=data(NEWER, 150))
    assert [event.trigger for event in world.status.history] == ["Drift"]
    world.ends(champion__difference=0.0)
    world.pass_time(hours=100)
    assert world.requests == (), "the labels have been learned from"
    assert new_labels(world.status, world.observed) == 0
    world.step(data=data(NEW, 200))
    assert len(world.requests) == 1
    assert World(spec({"drift": {"minNewLabels": 50}})).observed.drift_since is None


def test_labels_of_a_version_that_nobody_knows_any_more_are_no_reason() -> None:
    world = World(spec({"drift": {"minNewLabels": 1}}))
    world.step(drift_since=NOW, champion=champion(version=NEWER), data=data(NEW, 1000))
    assert world.requests == ()
    assert "an unknown number of 1" in world.status.message


@pytest.mark.parametrize(("right", "total", "due"), [(7, 10, False), (79, 100, False), (700, 1000, True)])
def test_accuracy_counts_by_its_bound_and_not_by_its_value(right: int, total: int, due: bool) -> None:
    """7 of 10 and 79 of 100 are below 0.8, and nothing follows from it."""
    world = World(spec({"accuracyBelow": 0.8}))
    world.step(labelled=Share(right, total))
    assert bool(world.requests) == due
    if due:
        world.ends(champion__difference=0.0)
        world.pass_time(hours=100)
        assert world.requests == (), "on the same images once is enough"
        world.step(data=data(NEW, 200))
        assert len(world.requests) == 1


def test_the_annotation_asks_once_for_each_value_and_waits_for_no_cooldown() -> None:
    world = asked(cooldown="24h")
    world.ends(champion__difference=0.0)
    world.step(retrain="one")
    assert world.outcomes[0] == ("Annotation", None)
    world.ends("r-000003", champion__difference=0.0)
    world.step()
    assert world.requests == ()
    world.step(retrain="two")
    assert len(world.requests) == 1
    assert len({event.cause for event in world.status.history}) == 3


@pytest.mark.parametrize(("missed", "late", "runs"), [("RunOnce", 30, 1), ("Skip", 30, 0), ("Skip", 0.01, 1)])
def test_a_schedule_in_its_time_zone_and_what_was_missed(missed: str, late: float, runs: int) -> None:
    """Sunday at two in Berlin is one o'clock in UTC."""
    cron = {"schedule": {"cron": "0 2 * * 0", "timeZone": "Europe/Berlin", "missed": missed}}
    world = World(spec(cron))
    world.step()
    due = datetime(2026, 11, 29, 1, tzinfo=UTC)
    assert world.status.next_scheduled == due
    assert world.look_after == due - NOW
    world.step(now=due - timedelta(seconds=1))
    assert world.requests == ()
    world.step(now=due + timedelta(hours=late))
    assert len(world.requests) == runs
    assert world.status.next_scheduled == due + timedelta(days=7)
    world.step(now=due + timedelta(hours=late + 1))
    assert len(world.requests) == runs


def test_another_schedule_counts_from_now_and_one_that_means_nothing_is_named() -> None:
    world = World(spec({"schedule": {"cron": "0 2 * * 0"}}))
    world.step()
    world.spec = spec({"schedule": {"cron": "0 * * * *"}})
    world.step()
    assert world.status.next_scheduled == NOW + timedelta(hours=1)
    world.spec = spec({"schedule": {"cron": "0 2 * * 0", "timeZone": "Mars/Base"}})
    with pytest.raises(InvalidSchedule, match=r"spec\.retraining\.triggers\.schedule\.timeZone"):
        world.step()


def test_one_retraining_serves_all_that_is_due() -> None:
    world = World(spec({**EVERY, "schedule": {"cron": "0 21 * * *"}}))
    world.step()
    world.step(now=NOW + timedelta(hours=1), data=data(NEW, 200), drift_since=NOW, retrain="x")
    assert [event.trigger for event in world.status.history] == ["Annotation"]
    world.ends(champion__difference=0.0)
    world.pass_time(hours=23.9)
    assert world.requests == ()


# --- What holds it back ----------------------------------------------------------------------------------------------


def test_one_at_a_time_and_not_before_the_cooldown_is_over() -> None:
    world = asked(cooldown="6h")
    world.step(data=data(NEWER, 300))
    assert len(world.status.history) == 1
    world.ends(champion__difference=0.0)
    assert len(world.status.history) == 1
    assert "cooldown" in world.status.message
    assert world.look_after == parse_duration("6h")
    world.pass_time(hours=6)
    assert len(world.status.history) == 2


def test_a_rollout_ends_before_the_next_retraining_begins() -> None:
    world = asked(cooldown="0s")
    world.ends()
    assert world.outcomes == [("DatasetVersion", "RollingOut")]
    world.step(data=data(NEWER, 300))
    assert "waits for the end of the rollout of r-000002" in world.status.message
    world.step(stable=SECOND, champion=champion(SECOND, NEW))
    assert world.outcomes == [("DatasetVersion", None), ("DatasetVersion", "Promoted")]
    other = World()
    other.step(data=data(NEW, 200), rolling_out="r-00000f")
    assert other.requests == ()


def test_the_budget_of_gpu_hours_is_that_of_the_last_30_days() -> None:
    world = asked(cooldown="0s", gpuHoursPerMonth=2)
    world.ends(champion__difference=0.0)
    world.step(data=data(NEWER, 300))
    assert world.requests == ()
    assert "2.0 of 2 GPU hours" in world.status.message
    world.pass_time(hours=24 * 30)
    assert len(world.requests) == 1


def test_without_a_served_model_nothing_is_asked_for() -> None:
    world = World()
    world.step(champion=None, retrain="x")
    assert world.requests == ()
    assert "waits for a served model" in world.status.message
    world.step(champion=champion())
    assert len(world.requests) == 1


# --- What becomes of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "metrics", "outcome"),
    [
        ("Running", {}, None),
        ("Failed", {}, "Failed"),
        ("Succeeded", {}, "RollingOut"),
        ("Succeeded", {"champion__difference": 0.11}, "NotBetter"),
        ("Succeeded", {"champion__images": 29.0}, "NotCompared"),
        ("Succeeded", {"test__mAP50": 0.4}, "NotEligible"),
    ],
)
def test_the_outcome_of_a_run(phase: str, metrics: dict[str, float], outcome: str | None) -> None:
    """0.11 with an error of 0.05 is above 0 with 98.6 %, and not with 99 %."""
    world = asked()
    world.observed = replace(world.observed, criteria=(Criterion(metric="test/mAP50", min=0.5),))
    world.ends(phase=phase, **metrics)
    assert world.outcomes == [("DatasetVersion", outcome)]
    assert bool(world.requests) == (outcome is None)
    assert (world.status.last_trigger, world.status.last_run) == ("DatasetVersion", SECOND)
    if outcome is not None:
        assert world.said[-1].reason == f"Retraining{outcome}"
        assert (world.said[-1].type == "Warning") == (outcome in ("Failed", "NotCompared"))
        before = world.status
        world.step()
        assert world.status == before
        assert len(world.said) == 2


def test_a_run_that_is_refused_or_deleted_ends_the_retraining() -> None:
    for phase, run, outcome in (("Refused", None, "Refused"), ("Succeeded", SECOND, "Failed")):
        world = asked()
        cause = world.requests[0].cause
        answer = RequestedRun(kind="ModelDeployment", name="cells", cause=cause, run=run, phase=phase, message="why")
        world.step(answers={cause: answer})
        assert world.outcomes == [("DatasetVersion", outcome)]
        assert world.requests == ()


@pytest.mark.parametrize(
    ("triggers", "observed"),
    [
        ({"newDatasetVersion": True}, {}),
        ({"drift": {"minNewLabels": 50}}, {"drift_since": NOW - timedelta(hours=1)}),
        ({"accuracyBelow": 0.8}, {"labelled": Share(100, 400)}),
    ],
)
def test_a_run_that_failed_uses_its_version_up_after_the_third_time(
    triggers: dict[str, Any], observed: dict[str, Any]
) -> None:
    """A node that is lost must not keep a version from being learned for ever; one that cannot be learned ends."""
    world = World(spec(triggers, cooldown="2h"))
    world.step(data=data(NEW, 160), **observed)
    causes = []
    for attempt in range(3):
        causes.append(world.requests[-1].cause)
        world.ends(f"r-00001{attempt}", "Failed")
        assert not world.requests, "the cooldown is waited for"
        world.pass_time(hours=3)
    assert len(set(causes)) == 3
    assert world.outcomes == [(world.outcomes[0][0], "Failed")] * 3
    assert not world.requests
    world.step(data=Data(NEWER, 230, {OLD: 100, NEW: 160, NEWER: 230}), drift_since=NOW - timedelta(hours=1))
    assert len(world.requests) == 1, "another version is another matter"


def test_a_model_that_was_not_better_uses_its_version_up_at_once() -> None:
    world = World(spec(cooldown="2h"))
    world.step(data=data(NEW, 160))
    world.ends(champion__differenceError=10)
    world.pass_time(hours=3)
    assert world.outcomes == [("DatasetVersion", "NotBetter")]


def test_manual_promotion_waits_for_the_name_of_the_run() -> None:
    world = asked(promotion="Manual", cooldown="0s")
    world.ends()
    assert world.outcomes == [("DatasetVersion", "AwaitingApproval")]
    assert "fovea.dev/approve=r-000002" in world.status.message
    world.step(approve="r-000009")
    assert world.outcomes == [("DatasetVersion", "AwaitingApproval")]
    world.step(approve=SECOND)
    assert world.outcomes == [("DatasetVersion", "RollingOut")]
    world.step(rolled_back=SECOND)
    assert world.outcomes == [("DatasetVersion", "RolledBack")]
    world.step(stable=SECOND)
    assert world.outcomes == [("DatasetVersion", "Promoted")], "tried again, it passed"


def test_what_waits_is_superseded_by_a_later_model() -> None:
    world = asked(promotion="Manual", cooldown="0s")
    world.ends()
    world.step(data=data(NEWER, 300))
    world.ends("r-000003")
    world.step(approve="r-000003")
    world.step(stable="r-000003", champion=champion("r-000003", NEWER))
    assert world.outcomes == [("DatasetVersion", "Promoted"), ("DatasetVersion", "Superseded")]


def test_a_retraining_that_is_no_longer_asked_for_is_not_waited_for() -> None:
    world = asked()
    assert [event.outcome for event in withdrawn(world.status).history] == ["Superseded"]


def test_what_nobody_waits_for_any_more_is_not_served() -> None:
    """Removed in the middle, a retraining was never found to be better; put back, it must not be rolled out."""
    for promotion, end in (("Automatic", "Running"), ("Manual", "Succeeded")):
        world = asked(promotion=promotion)
        request = world.requests[0]
        world.ends(phase=end)
        status = ModelDeploymentStatus(retraining=withdrawn(world.status))
        assert not may_serve(run_of(request), "cells", status, None, manual=False)
        assert not may_serve_result(SECOND, status)


def test_a_model_that_another_version_takes_the_place_of_holds_nothing_back() -> None:
    """The job's own run, of a newer version: no retraining has made it, and the rollout never came to its end."""
    world = asked(cooldown="0s")
    world.ends()
    world.step(offered=SECOND, rolling_out=SECOND)
    world.step(offered=None)
    assert world.outcomes == [("DatasetVersion", "RollingOut")]
    world.step(offered="r-00000f", rolling_out="r-00000f")
    assert world.outcomes == [("DatasetVersion", "Superseded")]
    world.step(rolling_out="", stable="r-00000f", champion=champion("r-00000f", NEW), data=data(NEWER, 300))
    assert world.outcomes[0] == ("DatasetVersion", None)


def test_another_job_is_not_waited_for() -> None:
    world = asked(cooldown="0s")
    world.step(job="others")
    assert world.outcomes == [("DatasetVersion", "Superseded")]
    assert world.requests == ()


def test_a_model_is_compared_with_the_one_that_serves_when_it_is_done() -> None:
    world = asked()
    world.step(stable="r-00000f", champion=champion("r-00000f", NEW))
    world.ends()
    assert world.outcomes == [("DatasetVersion", "NotCompared")]
    assert "r-00000f serves now" in world.status.history[0].message


def test_a_value_of_the_annotation_that_was_used_before_asks_for_another_run() -> None:
    world = World(spec(cooldown="0s"))
    for hour, value in enumerate(("now", "again", "now", "again")):
        world.step(retrain=value, now=NOW + timedelta(hours=hour))
        world.ends(f"r-00001{hour}", champion__difference=0.0)
    assert len({event.cause for event in world.status.history}) == 4
    assert [event.run for event in world.status.history] == [f"r-00001{hour}" for hour in (3, 2, 1, 0)]


def test_history_is_bounded_and_newest_first() -> None:
    world = World(spec(cooldown="0s"))
    for number in range(60):
        world.step(retrain=str(number), now=NOW + timedelta(hours=number))
        world.ends(f"r-{number:06x}", champion__difference=0.0)
    assert len(world.status.history) == 50
    assert world.status.history[0].run == "r-00003b"
    ModelDeploymentStatus(retraining=world.status)


# --- Champion and challenger -----------------------------------------------------------------------------------------


def test_the_bound_is_the_normal_quantile() -> None:
    found = judge({**BETTER, **IMAGES}, Comparison(confidence=0.99))
    assert found.above == pytest.approx(0.3 - NormalDist().inv_cdf(0.99) * 0.05)
    assert found.better
    assert judge({**BETTER, **IMAGES, "champion/difference": 0.0}, Comparison(min_improvement=-0.2)).better
    assert not judge({**BETTER, **IMAGES}, Comparison(min_improvement=0.2)).better
    assert not judge(
        {**BETTER, **IMAGES, "champion/difference": 0.0, "champion/differenceError": 0.0}, Comparison()
    ).better
    assert not judge({"test/mAP50": 0.9}, Comparison()).compared


def test_the_recipe_starts_from_the_served_model_unless_it_says_otherwise() -> None:
    warm = {"pretrained": {"from": "Current"}}
    assert recipe_patch(spec()) == {"model": warm}
    assert recipe_patch(spec(recipe={"model": {"freeze": "Backbone"}})) == {"model": {"freeze": "Backbone", **warm}}
    other = {"model": {"architecture": "resnet18"}}
    assert recipe_patch(spec(recipe=other)) == other
    weights = {"model": {"pretrained": {"weights": "COCO"}}}
    assert recipe_patch(spec(recipe=weights)) == weights


def test_a_deployment_serves_what_it_has_released_and_no_model_of_anothers_retraining() -> None:
    world = asked()
    request = world.requests[0]
    run = run_of(request)

    def serves(outcome: str | None, name: str = "cells", rolled_back: str | None = None) -> bool:
        event = world.status.history[0].model_copy(update={"run": SECOND, "outcome": outcome})
        failed = rolled_back and RolledBackVersion(bundle="s3://x/", run=rolled_back, reason="GateFailed")
        status = ModelDeploymentStatus(retraining=RetrainingStatus(history=(event,)), rolled_back=failed or None)
        return may_serve(run, name, status, Comparison(), manual=False)

    served = [
        outcome for outcome in (None, "NotBetter", "AwaitingApproval", "RollingOut", "Promoted") if serves(outcome)
    ]
    assert served == ["RollingOut", "Promoted"]
    assert not serves("Promoted", name="other")
    assert not serves("RolledBack")
    assert serves("RolledBack", rolled_back=SECOND), "the rollout itself knows that it failed, and may be tried again"
    nothing = ModelDeploymentStatus()
    assert may_serve(run, "cells", nothing, Comparison(), manual=False), "a deployment that was made anew"
    assert not may_serve(run, "cells", nothing, Comparison(), manual=True)
    assert not may_serve(run_of(request, champion__difference=0.0), "cells", nothing, Comparison(), manual=False)
