"""Runs that other objects ask a TrainingJob for, and new dataset versions: which run is next, and that none is lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fovea_api.dataset import Dataset
from fovea_api.presets import with_preset
from fovea_api.run import Run, RunRequest, RunStatus
from fovea_api.trainingjob import Recipe, TrainingJob
from fovea_operator.kinds.trainingjob.plan import plan_training
from fovea_operator.kinds.trainingjob.snapshot import TrainingSnapshot
from fovea_operator.objects import MODEL_DEPLOYMENT, RUN, TRAINING_JOB, Key
from fovea_operator.runs.requests import Requested
from fovea_operator.runs.snapshot import RunView
from fovea_operator.settings import Settings
from fovea_operator.store import StoreConfig
from fovea_operator.writes import Create, Delete, Emit, SetStatus

NOW = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
OLD, NEW = f"sha256-{'1' * 64}", f"sha256-{'2' * 64}"

USUAL = with_preset(Recipe.model_validate({"model": {"architecture": "resnet18"}})).training.epochs
"""What a spec asks for that says nothing of epochs."""


@dataclass
class World:
    """A TrainingJob, its Runs and those who ask for runs; each step carries out what the planner says."""

    spec: dict[str, Any] = field(default_factory=dict)
    generation: int = 1
    restart: str = ""
    version: str = OLD
    requests: list[Requested] = field(default_factory=list)
    runs: dict[str, RunView] = field(default_factory=dict)
    status: dict[str, Any] | None = None
    events: list[str] = field(default_factory=list)
    lost_status: bool = False
    """Whether the operator dies before it writes the job's status."""

    def step(self) -> str:
        """One reconcile. Returns the name of the job's run."""
        base = {"datasetRef": {"name": "cells"}, "model": {"architecture": "resnet18"}}
        annotations = {"fovea.dev/restart": self.restart} if self.restart else {}
        metadata = {"name": "job", "namespace": "ns", "generation": self.generation, "annotations": annotations}
        job = TrainingJob.model_validate({"metadata": metadata, "spec": base | self.spec, "status": self.status})
        runs = tuple(sorted(self.runs.values(), key=lambda view: view.created, reverse=True))
        plan = plan_training(
            TrainingSnapshot(
                job=job,
                runs=runs,
                dataset=self.dataset(),
                store=StoreConfig("s3://fovea/ns"),
                now=NOW,
                requests=tuple(self.requests),
            ),
            Settings(),
        )
        for write in plan.writes:
            match write:
                case Create() if write.key.kind == RUN:
                    created = NOW + timedelta(seconds=len(self.runs))
                    metadata = {"name": write.key.name, "namespace": "ns", "uid": "u", "creationTimestamp": created}
                    run = Run.model_validate({"metadata": metadata, "spec": write.manifest["spec"]})
                    self.runs[write.key.name] = RunView(run, ())
                case SetStatus() if write.key.kind == RUN:
                    self.set_status(write.key.name, RunStatus.model_validate(dict(write.status)))
                case Emit():
                    self.events.append(write.reason)
                case Delete() if write.key.kind == RUN:
                    del self.runs[write.key.name]
                case SetStatus() if write.key.kind == TRAINING_JOB and not self.lost_status:
                    self.status = dict(write.status)
        assert self.lost_status or self.status is not None
        return str((self.status or {}).get("run"))

    def dataset(self) -> Dataset:
        spec = {"task": "Classification", "sources": [{"name": "a", "uri": "s3://a", "format": "ImageFolder"}]}
        status = {"version": self.version, "artifact": f"s3://fovea/{self.version}/"} if self.version else {}
        return Dataset.model_validate({"metadata": {"name": "cells"}, "spec": spec, "status": status})

    def set_status(self, name: str, status: RunStatus) -> None:
        view = self.runs[name]
        kept = {"result": view.status.result}
        self.runs[name] = replace(view, run=view.run.model_copy(update={"status": status.model_copy(update=kept)}))

    def ends(self, name: str, accuracy: float = 0.9) -> None:
        """The run's pods report a model."""
        view = self.runs[name]
        result = {
            "completedAt": NOW,
            "artifact": f"s3://{name}/",
            "digest": OLD,
            "metrics": {"test/accuracy": accuracy},
        }
        status = RunStatus.model_validate(view.status.to_dict() | {"result": result})
        self.runs[name] = replace(view, run=view.run.model_copy(update={"status": status}))
        self.step()

    def asks(self, cause: str, recipe: dict[str, Any] | None = None, by: str = "serve") -> None:
        target = {"kind": "TrainingJob", "name": "job"}
        at = NOW + timedelta(minutes=len(self.requests))
        request = RunRequest.model_validate(
            {"cause": cause, "target": target, "recipe": recipe or {}, "requestedAt": at}
        )
        self.requests.append(Requested(Key(MODEL_DEPLOYMENT, "ns", by), request))

    def requested(self) -> list[tuple[str, str, str | None]]:
        """Cause, phase and run of each request, as the job's status has them."""
        entries = (self.status or {})["requestedRuns"]
        return [(entry["cause"], entry["phase"], entry.get("run")) for entry in entries]

    def condition(self, type: str) -> tuple[str, str]:
        found = next(entry for entry in (self.status or {})["conditions"] if entry["type"] == type)
        return found["status"], found["reason"]

    def epochs(self, name: str) -> int:
        epochs: int = self.runs[name].run.spec.recipe["training"]["epochs"]  # type: ignore[index,call-overload,assignment]
        return epochs


def trained(**more: Any) -> tuple[World, str]:
    """A job whose own run has succeeded."""
    world = World(**more)
    first = world.step()
    world.ends(first)
    return world, first


def test_a_request_is_answered_by_a_run_of_the_job_with_the_patched_recipe() -> None:
    world, first = trained()
    world.asks("drift-1", {"training": {"epochs": 3}})
    second = world.step()
    assert second != first
    assert (world.epochs(first), world.epochs(second)) == (USUAL, 3)
    assert world.requested() == [("drift-1", "Pending", second)]
    assert (world.condition("Ready"), world.condition("Reconciling")[0]) == (("True", "Succeeded"), "True")
    assert [world.step() for _ in range(3)] == [second] * 3, "neither superseded as changed nor repeated"
    world.ends(second)
    assert world.requested() == [("drift-1", "Succeeded", second)]
    assert world.condition("Reconciling")[0] == "False"
    assert [world.step() for _ in range(3)] == [second] * 3
    assert len(world.runs) == 2


def test_the_run_of_the_model_that_is_served_stays_until_there_is_a_newer_one() -> None:
    world, first = trained(spec={"runPolicy": {"historyLimit": 1}})
    world.asks("drift-1", {"training": {"epochs": 3}})
    second = world.step()
    assert set(world.runs) == {first, second}
    world.ends(second)
    assert set(world.runs) == {second}


def test_how_a_run_came_out_is_reported_once_and_not_while_a_requested_one_works() -> None:
    world, _ = trained()
    assert world.events.count("Succeeded") == 1
    world.asks("drift-1", {"training": {"epochs": 3}})
    second = world.step()
    world.step()
    assert world.events.count("Succeeded") == 1
    world.ends(second)
    world.step()
    assert world.events.count("Succeeded") == 2


def test_an_edit_beside_the_recipe_leaves_the_requested_run_alone_and_an_edit_of_it_does_not() -> None:
    world, _ = trained()
    world.asks("drift-1", {"training": {"epochs": 3}})
    requested = world.step()
    world.spec, world.generation = {"runPolicy": {"retries": 1}}, 2
    assert [world.step() for _ in range(3)] == [requested] * 3
    world.spec, world.generation = {"input": {"size": {"width": 64, "height": 64}}}, 3
    edited = world.step()
    assert edited != requested
    assert world.epochs(edited) == USUAL
    assert world.step() == edited
    assert world.requested() == [("drift-1", "Suspended", requested)]


def test_requests_wait_for_the_run_before_and_come_in_their_order() -> None:
    world = World()
    own = world.step()
    world.asks("b")
    world.asks("a")
    assert world.step() == own
    assert world.requested() == [("b", "Waiting", None), ("a", "Waiting", None)]
    world.ends(own)
    first = world.step()
    assert first != own
    world.ends(first)
    second = world.step()
    world.ends(second)
    assert world.requested() == [("b", "Succeeded", first), ("a", "Succeeded", second)]
    assert len({own, first, second}) == 3


def test_the_same_cause_of_two_objects_is_two_requests() -> None:
    world, _ = trained()
    world.asks("drift", by="serve")
    world.asks("drift", by="edge")
    world.ends(world.step())
    world.ends(world.step())
    assert len(world.runs) == 3


def test_an_operator_that_dies_after_the_run_was_made_goes_on_with_it() -> None:
    world, _ = trained()
    world.asks("drift-1")
    world.lost_status = True
    world.step()
    world.lost_status = False
    world.step()
    world.step()
    assert len(world.runs) == 2
    assert world.requested()[0][1] == "Pending"


def test_a_run_that_was_deleted_with_the_history_is_not_made_again() -> None:
    world, _ = trained(spec={"runPolicy": {"historyLimit": 1}})
    for number in range(3):
        world.asks(f"drift-{number}")
        world.ends(world.step())
    world.step()
    assert len(world.runs) <= 2
    assert [phase for _, phase, _ in world.requested()] == ["Succeeded"] * 3
    last = world.step()
    assert [world.step() for _ in range(3)] == [last] * 3


def test_a_request_that_does_not_fit_is_refused_with_the_reason_and_the_next_is_answered() -> None:
    world, _ = trained()
    world.asks("typo", {"trainig": {"epochs": 3}})
    world.asks("loss", {"training": {"loss": "GIoU"}})
    world.asks("fine")
    world.step()
    assert [phase for _, phase, _ in world.requested()] == ["Refused", "Refused", "Pending"]
    assert "cannot be trained with the loss GIoU" in (world.status or {})["requestedRuns"][1]["message"]
    assert world.condition("Ready")[0] == "True"


@pytest.mark.parametrize("began", [False, True], ids=["before its first run", "after a run"])
def test_requests_to_a_job_whose_own_spec_is_refused_are_listed_until_it_is_corrected(began: bool) -> None:
    world = trained()[0] if began else World()
    good, generation = world.spec, world.generation
    world.spec, world.generation = {"training": {"loss": "GIoU"}}, generation + 1
    world.asks("drift-1")
    world.step()
    assert world.condition("Stalled") == ("True", "UnsuitableLoss")
    assert [phase for _, phase, _ in world.requested()] == ["Refused"]
    assert "cannot be trained with the loss GIoU" in (world.status or {})["requestedRuns"][0]["message"]
    world.spec, world.generation = good, generation + 2
    own = world.step()
    if not began:
        world.ends(own)
        world.step()
    assert [phase for _, phase, _ in world.requested()] == ["Pending"]


def test_a_request_waits_with_a_job_that_waits_for_its_dataset() -> None:
    world = World(version="")
    world.asks("drift-1")
    world.step()
    assert world.requested() == [("drift-1", "Waiting", None)]


def test_a_requested_model_that_misses_the_criteria_is_reported() -> None:
    world, _ = trained(spec={"successCriteria": [{"metric": "test/accuracy", "min": 0.5}]})
    world.asks("drift-1")
    world.ends(world.step(), accuracy=0.1)
    assert world.condition("Stalled") == ("True", "CriteriaNotMet")


def test_restart_and_request_do_not_take_each_other_for_a_change() -> None:
    world, _ = trained(restart="one")
    world.asks("drift-1")
    requested = world.step()
    world.ends(requested)
    assert [world.step() for _ in range(3)] == [requested] * 3
    world.restart = "two"
    assert world.step() != requested


def test_a_suspended_job_starts_no_requested_run() -> None:
    world, first = trained()
    world.spec, world.generation = {"runPolicy": {"suspend": True}}, 2
    world.asks("drift-1")
    assert world.step() == first


# --- New dataset versions --------------------------------------------------------------------------------------------


def test_a_new_dataset_version_lets_the_training_before_it_end() -> None:
    world = World(spec={"runPolicy": {"onNewDatasetVersion": "NewRun"}})
    first = world.step()
    for number in range(3, 6):  # a refresh that is faster than a training
        world.version = f"sha256-{str(number) * 64}"
        assert world.step() == first
    world.ends(first)
    second = world.step()
    assert second != first
    used = world.runs[second].run.spec.inputs.dataset
    assert used is not None
    assert used.version == world.version, "versions in between are left out"
    world.ends(second)
    assert world.step() == second


def test_a_training_that_failed_for_good_gives_way_to_a_new_dataset_version() -> None:
    world = World(spec={"runPolicy": {"onNewDatasetVersion": "NewRun"}})
    first = world.step()
    error = {"reason": "BadImage", "message": "m", "retryable": False}
    view = world.runs[first]
    status = RunStatus.model_validate(view.status.to_dict() | {"result": {"completedAt": NOW, "error": error}})
    world.runs[first] = replace(view, run=view.run.model_copy(update={"status": status}))
    world.step()
    world.version = NEW
    assert world.step() != first
