"""Sweeps under a latency limit on the blood cells: a worker dies in mid-trial, a trial within the limit is promoted.

A short one of three trials, and that of the example: over three architectures, suspended and resumed, whose winner
is trained in full and beats the recipe that the template stands for.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.cluster.conftest import Demo
from tests.cluster.test_faults import kill
from tests.kube import ROOT, documents

pytestmark = pytest.mark.timeout(3000)
NAME, BEST, DEFAULT = "blood-cells-sweep", "blood-cells-best", "blood-cells-default"
LIMIT = "latency/p95Milliseconds"


def example() -> dict[str, Any]:
    """The TuningSweep of the example."""
    _, sweep = copy.deepcopy(documents(ROOT / "examples" / "blood-cells-sweep.yaml"))
    sweep["metadata"]["name"] = NAME
    return dict(sweep)


def short() -> dict[str, Any]:
    """The example with three trials of an epoch each on small images, and a limit that a busy machine keeps; the
    promoted job waits. A worker that dies when the first has ended has one at work, or one before it."""
    sweep = example()
    spec = sweep["spec"]
    spec["objectives"][1] |= {"limit": 1000}
    spec["trials"] |= {"max": 3}
    spec["stopping"] = {"scheduler": "None"}
    spec["promote"] = {"name": BEST, "epochs": 2}
    template = spec["template"]["spec"]
    template["input"] = {"size": {"width": 128, "height": 96}}
    template["training"] |= {"epochs": 1, "schedule": {"warmupEpochs": 0.5}}
    template["runPolicy"] |= {"suspend": True}
    return sweep


def status(demo: Demo) -> dict[str, Any]:
    return dict((demo.object("tuningsweep", NAME) or {}).get("status") or {})


def trials(demo: Demo, *states: str) -> int:
    counts = status(demo).get("trials", {})
    return sum(int(counts.get(state, 0)) for state in states)


def kill_the_worker(demo: Demo, known: int) -> str:
    """Takes the worker away while a trial works, after so many have ended or paused; gives the run."""
    demo.until(lambda: trials(demo, "succeeded", "paused") >= known and trials(demo, "running"), 600)
    run = str(status(demo)["run"])
    kill(demo, demo.namespace, f"fovea.dev/run={run},ray.io/node-type=worker")
    return run


def outcomes(demo: Demo, run: str) -> list[str]:
    return [each["outcome"] for each in demo.object("run", run)["status"]["attempts"]]


def check_promoted(demo: Demo, done: dict[str, Any]) -> None:
    """The best trial keeps the limit, and its recipe is that of a TrainingJob that belongs to nobody."""
    best = done["best"]
    assert best["metrics"][LIMIT] <= limit(demo.object("tuningsweep", NAME))
    job = demo.object("trainingjob", BEST)
    assert "ownerReferences" not in job["metadata"]
    assert job["spec"]["model"]["architecture"] == best["parameters"]["model.architecture"]
    assert job["spec"]["training"]["batchSize"] == best["parameters"]["training.batchSize"]


def limit(sweep: dict[str, Any]) -> float:
    """Milliseconds that the objective of latency allows."""
    return float(next(each["limit"] for each in sweep["spec"]["objectives"] if each["metric"] == LIMIT))


def delete(demo: Demo, kind: str, name: str) -> None:
    demo.kubectl("-n", demo.namespace, "delete", kind, name)


def test_a_worker_dies_in_mid_trial_and_a_trial_within_the_limit_is_promoted(demo: Demo) -> None:
    demo.apply(short(), namespace=demo.namespace)
    run = kill_the_worker(demo, known=1)
    done = demo.wait_ready("tuningsweep", NAME, 600)["status"]
    assert outcomes(demo, run) == ["Succeeded"], "a dead worker ends no attempt"
    assert (done["endedTrials"], done["trials"]["failed"]) == ("3/3", 0)
    check_promoted(demo, done)
    delete(demo, "tuningsweep", NAME)
    delete(demo, "trainingjob", BEST)


def suspend(demo: Demo, value: bool) -> None:
    text = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
    demo.kubectl("-n", demo.namespace, "patch", "tuningsweep", NAME, "--type=merge", "--patch", text)


def default_job() -> dict[str, Any]:
    """The TrainingJob of the template, as long as the promoted one: the recipe that nobody has tuned."""
    spec = example()["spec"]
    template = spec["template"]["spec"]
    template["training"] |= {"epochs": spec["promote"]["epochs"]}
    return {
        "apiVersion": "fovea.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": DEFAULT},
        "spec": template,
    }


@pytest.mark.slow
def test_the_winner_of_three_architectures_keeps_the_limit_and_beats_the_default_recipe(demo: Demo) -> None:
    demo.apply(example(), namespace=demo.namespace)
    run = kill_the_worker(demo, known=1)
    demo.until(lambda: trials(demo, "succeeded", "paused", "stoppedEarly") >= 3 and trials(demo, "running"), 600)
    suspend(demo, True)
    demo.until(lambda: demo.ready("tuningsweep", NAME) == ("False", "Suspended"))
    kept = status(demo)
    suspend(demo, False)

    done = demo.wait_ready("tuningsweep", NAME, 2400)["status"]
    print(demo.kubectl("-n", demo.namespace, "get", "tuningsweep", NAME, "-o", "wide"))
    assert outcomes(demo, run) == ["Suspended", "Succeeded"]
    assert done["run"] == run
    assert (done["endedTrials"], done["trials"]["failed"]) == ("8/8", 0)
    assert "goes on" in demo.log(run), "the trials that were known were not made again"
    assert done["usage"]["cpuHours"] > kept["usage"]["cpuHours"] > 0
    check_promoted(demo, done)

    winner = demo.wait_ready("trainingjob", BEST, 1500)["status"]["result"]["metrics"]
    demo.apply(default_job(), namespace=demo.namespace)  # not before: two Ray heads would leave no room for a worker
    default = demo.wait_ready("trainingjob", DEFAULT, 1500)["status"]["result"]["metrics"]
    print(f"winner {winner['test/mAP50']:.4f} mAP50, {winner[LIMIT]:.1f} ms; default {default['test/mAP50']:.4f} mAP50")
    assert winner[LIMIT] <= limit(example())
    assert winner["test/mAP50"] > default["test/mAP50"]
    delete(demo, "tuningsweep", NAME)
    assert demo.object("trainingjob", BEST) is not None, "it belongs to nobody"
    for name in (BEST, DEFAULT):
        delete(demo, "trainingjob", name)
