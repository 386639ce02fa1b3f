"""The loop against a real API server: a new dataset version, one requested run, the comparison, and what then serves.

Two planners act: the deployment asks, the TrainingJob runs. The results that a run's pods report are played by patches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fovea_operator.objects import MODEL_DEPLOYMENT, RUN, TRAINING_JOB

from tests.controlplane.test_modeldeployment import SETTINGS, deployment, holds, serves, status
from tests.controlplane.test_operator import World, built, dataset, killed_at, kuberay_crds, started, world

__all__ = ["kuberay_crds", "world"]  # fixtures
NEWER, NEWEST = f"sha256-{'6' * 64}", f"sha256-{'7' * 64}"
COMPARED = {"champion/mAP50": 0.6, "champion/images": 40.0, "champion/differenceError": 0.05}


def bundle(run: str) -> str:
    return f"s3://fovea/bundles/{run}/"


def trained(world: World, run: str, difference: float | None = None) -> None:
    """The run's pods report a model, and how much better it is than the served one."""
    compared = {} if difference is None else {**COMPARED, "champion/difference": difference}
    result = {
        "completedAt": "2030-01-01T00:00:00Z",
        "artifact": bundle(run),
        "digest": f"sha256-{run.removeprefix('r-')[:4] * 16}",
        "metrics": {"test/mAP50": 0.9, **compared},
        "training": {"bestEpoch": 3, "epochs": 4, "seconds": 60.5},
    }
    world.patch(RUN, run, {"status": {"result": result}})


def served_by_job(**retraining: Any) -> dict[str, Any]:
    rules = {"triggers": {"newDatasetVersion": True}, "cooldown": "0s", **retraining}
    manifest = deployment("", model={"trainingJobRef": {"name": "blood-cells"}}, retraining=rules)
    return manifest


def history(world: World) -> list[dict[str, Any]]:
    return list(status(world).get("retraining", {}).get("history", ()))


def outcomes(world: World) -> list[tuple[str, str | None]]:
    return [(each["trigger"], each.get("outcome")) for each in history(world)]


def trainings(world: World) -> list[dict[str, Any]]:
    return [each for each in world.all(RUN) if each["spec"]["type"] == "Training"]


async def until_run(world: World, before: set[str]) -> str:
    """The Run that is new."""

    def new() -> Any:
        return {each["metadata"]["name"] for each in trainings(world)} - before

    (name,) = await world.until(new)
    return str(name)


async def first_serves(world: World, **retraining: Any) -> str:
    """A deployment whose first model serves; its run."""
    await built(world)
    first = await started(world)
    await asyncio.to_thread(trained, world, first)
    await world.until(lambda: world.ready(TRAINING_JOB)["status"] == "True")
    await world.apply(served_by_job(**retraining))
    await serves(world, bundle(first))
    return first


async def another_version(world: World, version: str, **spec: Any) -> None:
    count = len(world.builds())
    await world.apply(dataset(**spec))
    await world.until(lambda: len(world.builds()) == count + 1)
    await asyncio.to_thread(world.dataset_is_ready, version)


async def annotate(world: World, note: str) -> None:
    await asyncio.to_thread(
        world.plane.kubectl, "-n", world.namespace, "annotate", "--overwrite", "modeldeployment", "cells", note
    )


async def test_from_a_new_version_to_a_better_model_and_a_worse_one_that_nobody_serves(world: World) -> None:
    async with world.operator(**SETTINGS):
        first = await first_serves(world)
        await another_version(world, NEWER, quality={"minImagesPerClass": 3})
        second = await until_run(world, {first})
        run = next(each for each in trainings(world) if each["metadata"]["name"] == second)
        assert run["spec"]["inputs"]["dataset"]["version"] == NEWER
        for name in ("baseWeights", "champion"):  # warm-started from the served model, and compared with it
            assert run["spec"]["inputs"][name]["artifact"] == bundle(first)
        assert run["metadata"]["ownerReferences"][0]["kind"] == "TrainingJob"
        await world.until(lambda: history(world) and history(world)[0].get("run") == second)
        requested = (world.get(TRAINING_JOB, "blood-cells") or {})["status"]["requestedRuns"]
        assert [(each["cause"], each["run"]) for each in requested] == [(history(world)[0]["cause"], second)]

        await asyncio.to_thread(trained, world, second, 0.3)
        await serves(world, bundle(second))
        await world.until(lambda: outcomes(world) == [("DatasetVersion", "Promoted")])
        assert "runRequests" not in status(world) or not status(world)["runRequests"]

        # A challenger that is worse is kept, and the champion goes on.
        await annotate(world, "fovea.dev/retrain=now")
        third = await until_run(world, {first, second})
        await asyncio.to_thread(trained, world, third, -0.1)
        await world.until(lambda: outcomes(world)[0] == ("Annotation", "NotBetter"))
        await world.until(lambda: world.events("RetrainingNotBetter"))
        await asyncio.sleep(1)
        assert (status(world)["stable"]["run"], "candidate" in status(world)) == (second, False)
        described = world.plane.kubectl("-n", world.namespace, "describe", "modeldeployment", "cells")
        for words in ("is kept and not rolled out", "not shown to be better", "dataset version"):
            assert words in described

        # Somebody must approve.
        await world.apply(served_by_job(promotion="Manual"))
        await another_version(world, NEWEST, quality={"minImagesPerClass": 4})
        fourth = await until_run(world, {first, second, third})
        await asyncio.to_thread(trained, world, fourth, 0.3)
        await world.until(lambda: outcomes(world)[0] == ("DatasetVersion", "AwaitingApproval"))
        await asyncio.sleep(0.5)
        assert status(world)["stable"]["run"] == second
        await annotate(world, f"fovea.dev/approve={fourth}")
        await serves(world, bundle(fourth))
        await world.until(lambda: outcomes(world)[0] == ("DatasetVersion", "Promoted"))

    world.writes.clear()
    async with world.operator(**SETTINGS):
        await asyncio.sleep(1)
    assert world.writes == [], "a restart with nothing to do writes nothing"


async def test_killed_at_any_write_a_cause_leads_to_one_run_and_one_promotion(world: World) -> None:
    async with world.operator(**SETTINGS):
        first = await first_serves(world)
        await another_version(world, NEWER, quality={"minImagesPerClass": 3})
        second = await until_run(world, {first})
        await asyncio.to_thread(trained, world, second, 0.3)
        await serves(world, bundle(second))
    known, stable = {first, second}, second
    for count, number in enumerate((0, 1, 2, 4), 2):
        await killed_at(world, number, asked(world, f"fovea.dev/retrain={number}"))
        async with world.operator(**SETTINGS):
            run = await until_run(world, known)
            better = count % 2 == 0
            await world.until(lambda run=run: history(world)[0].get("run") == run)

        async def reported(run: str = run, better: bool = better) -> None:
            await asyncio.to_thread(trained, world, run, 0.3 if better else -0.3)

        await killed_at(world, number, reported)
        known, stable = known | {run}, run if better else stable
        async with world.operator(**SETTINGS):
            await serves(world, bundle(stable))
            wanted = "Promoted" if better else "NotBetter"
            await world.until(lambda wanted=wanted: outcomes(world)[0] == ("Annotation", wanted))
        assert {each["metadata"]["name"] for each in trainings(world)} <= known, f"killed at write {number}"
        assert len(history(world)) == count
        assert len({each["cause"] for each in history(world)}) == count
        assert status(world)["stable"]["run"] == stable
    assert "Ready" in holds(world)
    assert world.get(MODEL_DEPLOYMENT, "cells") is not None


def asked(world: World, note: str) -> Callable[[], Any]:
    async def act() -> None:
        await annotate(world, note)

    return act
