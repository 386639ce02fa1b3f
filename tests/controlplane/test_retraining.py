"""The loop against a real API server: a new dataset version, one requested run, the comparison, and what then serves.

Two planners act: the deployment asks, the TrainingJob runs. The results that a run's pods report are played by patches.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web
from fovea_api.profile import FEATURES
from fovea_operator.objects import MODEL_DEPLOYMENT, RUN, TRAINING_JOB
from fovea_operator.workloads.deployment import GATEWAY_METRICS_PORT

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


@contextlib.asynccontextmanager
async def gateway(page: Callable[[], str]) -> AsyncIterator[None]:
    """What answers at the played gateway pod's address: its page of metrics."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=page())

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", GATEWAY_METRICS_PORT).start()
    try:
        yield
    finally:
        await runner.cleanup()


class Traffic:
    """A gateway's histogram of brightness, and the reference beside it."""

    def __init__(self, run: str) -> None:
        self.run, self.bin = run, 10
        self.counts = [0] * FEATURES["brightness"].bins

    def page(self) -> str:
        for index in (self.bin, self.bin + 1):
            self.counts[index] += 20
        lines = []
        for index, edge in enumerate((*FEATURES["brightness"].edges, "+Inf")):
            labels = f'run="{self.run}",role="stable",le="{edge}"'
            lines.append(f"fovea_serving_image_brightness_bucket{{{labels}}} {sum(self.counts[: index + 1])}")
            known = 3000 * (index >= 10) - 1500 * (index == 10)  # in the two bins of the calm traffic
            lines.append(f'fovea_serving_reference_bucket{{run="{self.run}",feature="brightness",le="{edge}"}} {known}')
        lines.append(f'fovea_serving_reference_items{{run="{self.run}"}} 3000')
        return "\n".join(lines) + "\n"


async def test_drift_waits_for_labels_and_then_asks_for_a_run(world: World) -> None:
    """Images get brighter; drift alone retrains nothing, the version with enough new images does."""

    def drift() -> dict[str, Any]:
        return dict(status(world).get("drift", {}))

    triggers = {"drift": {"minNewLabels": 50}}
    async with world.operator(**SETTINGS):
        first = await first_serves(world)
        traffic = Traffic(first)
        manifest = served_by_job(triggers=triggers)
        manifest["spec"]["monitoring"] = {"drift": {"window": "2s", "minSamples": 30}}
        async with gateway(traffic.page):
            await world.apply(manifest)
            await world.until(lambda: drift().get("state") == "None" and drift()["windows"] >= 2)
            traffic.bin = 25
            await world.until(lambda: drift()["state"] == "Detected")
            assert drift()["detectors"][0]["feature"] == "brightness"
            assert world.events("DriftDetected")
            assert "DriftDetected" in holds(world)
            await asyncio.sleep(1)
            assert len(trainings(world)) == 1
            await world.until(lambda: "0 of 50 new labelled images" in status(world)["retraining"]["message"])

            count = len(world.builds())
            await world.apply(dataset(quality={"minImagesPerClass": 3}))
            await world.until(lambda: len(world.builds()) == count + 1)
            await asyncio.to_thread(world.dataset_is_ready, NEWER, images=364 + 50)
            second = await until_run(world, {first})
            assert outcomes(world) == [("Drift", None)]
            await asyncio.to_thread(trained, world, second, 0.3)
            await serves(world, bundle(second))
            await world.until(lambda: outcomes(world) == [("Drift", "Promoted")])
            await world.until(lambda: drift().get("version") == second)
            assert drift()["state"] == "Unknown", "the new model has a reference of its own"
