"""A sweep of two architectures under a latency limit: a worker dies in mid-trial, the sweep is suspended and resumed.

It promotes a trial that keeps the limit.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.cluster.conftest import Demo
from tests.cluster.test_faults import kill
from tests.kube import ROOT, documents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
NAME, BEST, LIMIT = "blood-cells-sweep", "blood-cells-best", "latency/p95Milliseconds"


def manifest() -> dict[str, Any]:
    """The example with few and short trials on small images; the promoted job waits."""
    _, sweep = copy.deepcopy(documents(ROOT / "examples" / "blood-cells-sweep.yaml"))
    sweep["metadata"]["name"] = NAME
    spec = sweep["spec"]
    spec["trials"] |= {"max": 4}
    spec["stopping"] = {"scheduler": "None"}
    spec["promote"] = {"name": BEST, "epochs": 2}
    template = spec["template"]["spec"]
    template["input"] = {"size": {"width": 128, "height": 96}}
    template["training"] |= {"epochs": 1, "schedule": {"warmupEpochs": 0.5}}
    template["runPolicy"] = {"suspend": True}
    return dict(sweep)


def status(demo: Demo) -> dict[str, Any]:
    return dict((demo.object("tuningsweep", NAME) or {}).get("status") or {})


def trials(demo: Demo, state: str) -> int:
    return int(status(demo).get("trials", {}).get(state, 0))


def suspend(demo: Demo, value: bool) -> None:
    text = json.dumps({"spec": {"runPolicy": {"suspend": value}}})
    demo.kubectl("-n", demo.namespace, "patch", "tuningsweep", NAME, "--type=merge", "--patch", text)


def test_a_sweep_survives_and_promotes_a_trial_within_the_limit(demo: Demo) -> None:
    demo.apply(manifest(), namespace=demo.namespace)
    demo.until(lambda: trials(demo, "succeeded") >= 1 and trials(demo, "running"), 400)
    run = status(demo)["run"]
    worker = kill(demo, demo.namespace, f"fovea.dev/run={run},ray.io/node-type=worker")
    demo.until(lambda: trials(demo, "succeeded") >= 2, 300)
    suspend(demo, True)
    demo.until(lambda: demo.ready("tuningsweep", NAME) == ("False", "Suspended"), 180)
    kept = trials(demo, "succeeded")
    used = status(demo)["usage"]["cpuHours"]
    suspend(demo, False)

    done = demo.wait_ready("tuningsweep", NAME, 500)["status"]
    attempts = demo.object("run", run)["status"]["attempts"]
    print(f"sweep: {done['headline']}, {done['endedTrials']} trials, {done['usage']}, worker {worker} was killed")
    assert [each["outcome"] for each in attempts] == ["Suspended", "Succeeded"], "a dead worker ends no attempt"
    assert done["run"] == run
    assert (done["endedTrials"], done["trials"]["failed"]) == ("4/4", 0)
    assert kept >= 2
    assert "goes on" in demo.log(run), "the trials that had ended were not made again"
    assert done["usage"]["cpuHours"] > used > 0
    assert done["best"]["metrics"][LIMIT] <= 150
    job = demo.object("trainingjob", BEST)
    assert "ownerReferences" not in job["metadata"]
    assert job["spec"]["model"]["architecture"] == done["best"]["parameters"]["model.architecture"]
    demo.kubectl("-n", demo.namespace, "delete", "tuningsweep", NAME)
    assert demo.object("trainingjob", BEST) is not None
    demo.kubectl("-n", demo.namespace, "delete", "trainingjob", BEST)
