"""A TuningSweep against a real API server: KubeRay's and the trainer's sides are played by patches."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from fovea_api import names
from fovea_operator.objects import RAY_JOB, RUN, TRAINING_JOB, TUNING_SWEEP

from tests.controlplane.test_operator import World, built, killed_at, kuberay_crds, world

__all__ = ["kuberay_crds", "world"]  # fixtures

SWEEP, BEST = "search", "blood-cells-best"
TRIALS = f"sha256-{'7' * 64}"
WINNER = {
    "trial": "t-3",
    "parameters": {"training.optimizer.learningRate": 0.002, "training.batchSize": 4},
    "metrics": {"validation/mAP": 0.53, "latency/p95Milliseconds": 41.5},
    "epochs": 4,
}
STORY = ("RunCreated", "AttemptStarted", "AttemptSuspended", "AttemptSucceeded", "BetterTrial", "Promoted", "Succeeded")


def sweep(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "TuningSweep",
        "metadata": {"name": SWEEP},
        "spec": {
            "template": {
                "spec": {
                    "datasetRef": {"name": "blood-cells"},
                    "model": {"architecture": "retinanet-efficientnet-lite0"},
                    "training": {"epochs": 4},
                    "runPolicy": {"suspend": True},  # of the promoted job: no part of these tests
                }
            },
            "parameters": [
                {"path": "training.optimizer.learningRate", "logUniform": {"min": 1e-4, "max": 1e-2}},
                {"path": "training.batchSize", "choice": [4, 8]},
            ],
            "objectives": [
                {"metric": "validation/mAP", "goal": "Maximize"},
                {"metric": "latency/p95Milliseconds", "goal": "Minimize", "limit": 60},
            ],
            "trials": {"max": 4, "parallel": 2},
            "promote": {"name": BEST, "epochs": 12},
        }
        | spec,
    }


def status(world: World) -> dict[str, Any]:
    return dict((world.get(TUNING_SWEEP, SWEEP) or {}).get("status", {}))


def stalled(world: World, reason: str) -> str:
    """The words of Stalled, if it is for this reason."""
    found = [each for each in status(world).get("conditions", []) if each["type"] == "Stalled"]
    return next((each["message"] for each in found if (each["status"], each["reason"]) == ("True", reason)), "")


async def started(world: World, **spec: Any) -> str:
    """A sweep whose first attempt exists; returns its run."""
    await world.apply(sweep(**spec))
    children = await world.until(lambda: world.all(RAY_JOB))
    await world.until(lambda: status(world).get("run"))
    return str(children[0]["metadata"]["labels"][names.LABEL_RUN])


def reports(world: World, run: str) -> None:
    """The run's pods report trials that are at work."""
    counts = {"running": 2, "succeeded": 1, "total": 4}
    trials = {"trials": counts, "best": WINNER | {"trial": "t-1"}, "frontSize": 1, "budgetPercent": 20}
    world.patch(RUN, run, {"status": {"progress": {"stage": "Trials", "eta": "9m", "sweep": trials}}})


def ends(world: World, run: str, **summary: Any) -> None:
    """The run's pods report how the sweep has ended."""
    made = {
        "ended": "AllTrials",
        "trials": {"succeeded": 2, "stoppedEarly": 2, "total": 4},
        "best": WINNER,
        "pareto": [WINNER],
        "frontSize": 1,
        "usage": {"cpuHours": 0.4},
    }
    result = {"completedAt": "2030-01-01T00:00:00Z", "artifact": "s3://fovea/trials/", "digest": TRIALS}
    world.patch(RUN, run, {"status": {"result": result | {"sweep": made | summary}}})


async def test_from_apply_to_a_promoted_job_that_is_nobodys(world: World) -> None:
    async with world.operator():
        wrong = [{"metric": "validation/accuracy", "goal": "Maximize"}]
        await world.apply(sweep(objectives=wrong))
        await world.until(lambda: world.reason(TUNING_SWEEP, "UnknownMetric", SWEEP))
        assert "validation/mAP" in world.ready(TUNING_SWEEP, SWEEP)["message"]
        await built(world)
        run = await started(world)
        (child,) = world.all(RAY_JOB)
        assert child["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 2
        await asyncio.to_thread(world.ray_job, f"{run}-1", "Running", "RUNNING")
        await asyncio.to_thread(reports, world, run)
        await world.until(lambda: status(world).get("spent") == "20 %")
        columns = await asyncio.to_thread(world.plane.kubectl, "-n", world.namespace, "get", "sweep", SWEEP)
        head, row = (re.split(r"\s{2,}", line.strip()) for line in columns.splitlines())
        assert head == ["NAME", "PHASE", "TRIALS", "BEST", "FRONT", "SPENT", "ETA", "REASON", "AGE"]
        assert row[:-1] == [SWEEP, "Running", "1/4", "validation/mAP 0.53", "1", "20 %", "9m", "Running"]

        await asyncio.to_thread(ends, world, run)
        await world.until(lambda: status(world).get("promoted"))
        assert world.ready(TUNING_SWEEP, SWEEP)["status"] == "True"
        job = world.get(TRAINING_JOB, BEST)
        assert job is not None
        assert "ownerReferences" not in job["metadata"]
        assert job["metadata"]["labels"][names.LABEL_PROMOTED_FROM] == SWEEP
        training = job["spec"]["training"]
        assert (training["epochs"], training["batchSize"]) == (12, 4)
        await world.until(
            lambda: world.reason(TRAINING_JOB, "Suspended", BEST) or world.reason(TRAINING_JOB, "Starting", BEST)
        )
        for reason in STORY:
            count = len([each for each in world.events(reason) if run in each])
            assert count == {"AttemptSuspended": 0, "BetterTrial": 2}.get(reason, 1), reason
        await world.delete("tuningsweep", SWEEP)
        await world.until(lambda: world.get(RUN, run) is None)
        assert world.get(TRAINING_JOB, BEST) is not None
    world.writes.clear()
    async with world.operator():
        await asyncio.sleep(1)
    assert world.writes == []


async def test_a_job_that_others_made_or_changed_is_theirs(world: World) -> None:
    own = {"apiVersion": names.API_VERSION, "kind": "TrainingJob", "metadata": {"name": BEST}}
    own["spec"] = {"datasetRef": {"name": "none"}, "model": {"architecture": "fasterrcnn"}}
    async with world.operator():
        await built(world)
        await world.apply(own)
        run = await started(world)
        await asyncio.to_thread(ends, world, run)
        words = await world.until(lambda: stalled(world, "PromotionRefused"))
        assert world.ready(TUNING_SWEEP, SWEEP)["status"] == "True"
        command = re.search(r"kubectl (label trainingjob .*)$", words)
        assert command is not None
        await asyncio.to_thread(world.plane.kubectl, "-n", world.namespace, *command[1].split())
        await world.until(lambda: status(world).get("promoted"))
        job = world.get(TRAINING_JOB, BEST)
        assert job is not None
        assert job["spec"]["model"]["architecture"] == "fasterrcnn", "kubectl has set it"
        assert job["spec"]["training"]["batchSize"] == 4
        left = job["metadata"]["annotations"]["fovea.dev/left-to-others"].splitlines()
        assert ".spec.model.architecture" in left

        await asyncio.to_thread(world.plane.kubectl, "-n", world.namespace, "delete", "trainingjob", BEST)
        await world.apply(sweep(runPolicy={"retries": 1}))
        await world.until(lambda: status(world)["observedGeneration"] == 2)
        await asyncio.sleep(0.5)
        assert world.get(TRAINING_JOB, BEST) is None, "that somebody deleted it stands"


def outcome(world: World) -> Any:
    """What counts in the end, without names and times."""
    job = world.get(TRAINING_JOB, BEST) or {}
    run = status(world)["run"]
    found = world.get(RUN, run) or {}
    return (
        [(each["type"], each["status"], each["reason"]) for each in status(world)["conditions"]],
        [(each["number"], each.get("outcome")) for each in found["status"]["attempts"]],
        [each["metadata"]["name"] for each in world.all(RAY_JOB)],
        status(world)["promoted"],
        job.get("metadata", {}).get("generation"),
        [(reason, len([each for each in world.events(reason) if run in each])) for reason in STORY],
    )


async def test_killed_at_any_write_from_apply_over_a_suspension_to_the_promotion(world: World) -> None:
    """The operator dies at its n-th write after each of four things that happen; others take over."""
    async with world.operator():
        await built(world)
    outcomes = []
    for number in (1, 2, 3, 5):
        await killed_at(world, number, lambda: world.apply(sweep()))
        async with world.operator():
            run = await started(world)
            await world.until(lambda: (world.get(RUN, run) or {}).get("status", {}).get("attempts"))  # noqa: B023
        await asyncio.to_thread(world.ray_job, f"{run}-1", "Running", "RUNNING")
        await killed_at(world, number, lambda: world.apply(sweep(runPolicy={"suspend": True})))
        async with world.operator():
            await world.until(lambda: world.reason(TUNING_SWEEP, "Suspended", SWEEP) and not world.all(RAY_JOB))
        await killed_at(world, number, lambda: world.apply(sweep()))
        async with world.operator():
            await world.until(lambda: world.get(RAY_JOB, f"{run}-2"))  # noqa: B023
            await world.until(lambda: len(world.get(RUN, run)["status"]["attempts"]) == 2)  # type: ignore[index] # noqa: B023
        await killed_at(world, number, lambda: asyncio.to_thread(ends, world, run))  # noqa: B023
        async with world.operator():
            await world.until(lambda: status(world).get("promoted") and world.get(TRAINING_JOB, BEST))
            await world.until(lambda: world.reason(TUNING_SWEEP, "Succeeded", SWEEP))
            await asyncio.sleep(0.3)
            outcomes.append(outcome(world))
            kubectl = world.plane.kubectl
            await asyncio.to_thread(kubectl, "-n", world.namespace, "delete", "sweep,tj,events", "--all")
            await world.until(lambda: not world.all(RAY_JOB) and len(world.all(RUN)) == 1)
    assert outcomes[1:] == outcomes[:1] * (len(outcomes) - 1)
