"""Trainings and sweeps in the queue of a real Kueue: its checks, its deactivation, its quota.

`make test-slow`. What a queue that takes pods away does to a training is in test_examples.py.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import kueue
from tests.cluster.conftest import Demo, short_job
from tests.cluster.test_release import helm
from tests.kube import ROOT, devcluster, documents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
QUEUE, CHECK, GROWING = "checked", "machines", "growing"
JOB, SWEEP, ELASTIC = "queued", "queued-sweep", "elastic-sweep"


@pytest.fixture(scope="module", autouse=True)
def queue(demo: Demo) -> None:
    """A LocalQueue of three cores whose workloads have to pass a check."""
    devcluster("up", "--with-kueue")
    kueue.admission_check(demo, CHECK)
    flavor = {"kind": "ResourceFlavor", "metadata": {"name": "nodes"}}
    queues = kueue.cluster_queue(QUEUE, 3, check=CHECK), kueue.local_queue(QUEUE, demo.namespace)
    kueue.apply(demo, flavor, *queues)


def child(demo: Demo, kind: str, name: str, attempt: int = 1) -> str:
    """Name of an attempt of the object's run."""
    return f"{demo.object(kind, name)['status']['run']}-{attempt}"


def patch(demo: Demo, kind: str, name: str, **spec: Any) -> None:
    demo.kubectl("-n", demo.namespace, "patch", kind, name, "--type=merge", "--patch", json.dumps({"spec": spec}))


def outcomes(demo: Demo, kind: str, name: str) -> list[tuple[str | None, str | None]]:
    """Outcome and reason of each attempt of the object's run."""
    run = demo.object("run", demo.object(kind, name)["status"]["run"])
    return [(each.get("outcome"), each.get("reason")) for each in run["status"]["attempts"]]


def test_a_training_says_what_a_check_waits_for_and_gives_its_quota_back_at_its_end(demo: Demo) -> None:
    job = short_job(1, 0.0)
    job["metadata"]["name"] = JOB
    job["spec"]["runPolicy"] = {"queueName": QUEUE, "retries": 0}
    demo.apply(job, namespace=demo.namespace)

    def ready() -> tuple[str, str]:
        return demo.ready("trainingjob", JOB)

    def message() -> str:
        return demo.message("trainingjob", JOB)

    demo.until(lambda: ready() == ("False", "WaitingForAdmissionCheck"))
    assert message().startswith(f"Kueue's admission check {CHECK} is Pending")
    own = child(demo, "trainingjob", JOB)
    assert kueue.reserved(demo, QUEUE) > 1, "quota is reserved while the check waits"
    kueue.set_check(demo, own, CHECK, "Pending", "no machine yet")
    demo.until(lambda: message() == f"Kueue's admission check {CHECK} is Pending: no machine yet")

    kueue.set_check(demo, own, CHECK, "Retry", "try later")  # Kueue takes the quota back, and queues it again
    demo.until(lambda: "no machine yet" not in message() and ready()[1].startswith("WaitingFor"))

    demo.until(lambda: kueue.workload(demo, own)["status"].get("admissionChecks"))
    kueue.set_check(demo, own, CHECK, "Rejected", "no such machine")
    demo.until(lambda: ready() == ("False", "WorkloadDeactivated"))
    assert demo.condition("trainingjob", JOB, "Stalled")["status"] == "True"
    assert "were rejected; to queue it again set spec.runPolicy.suspend to true, and then to false" in message()
    assert kueue.reserved(demo, QUEUE) == 0, "what is deactivated holds no quota"

    patch(demo, "trainingjob", JOB, runPolicy={"suspend": True})
    demo.until(lambda: ready() == ("False", "Suspended"))
    patch(demo, "trainingjob", JOB, runPolicy={"suspend": False})
    demo.until(lambda: ready() == ("False", "WaitingForAdmissionCheck"))
    kueue.set_check(demo, child(demo, "trainingjob", JOB, 2), CHECK, "Ready", "here it is")
    demo.wait_ready("trainingjob", JOB, 900)
    demo.until(lambda: kueue.reserved(demo, QUEUE) == 0)
    run = demo.object("trainingjob", JOB)["status"]["run"]
    demo.until(lambda: not demo.get(demo.namespace, "pods", "-l", f"fovea.dev/run={run}")["items"])
    assert outcomes(demo, "trainingjob", JOB) == [("Suspended", "Suspended"), ("Succeeded", None)]


def test_a_sweep_counts_with_its_parallel_trials_and_fits_itself_into_the_quota(demo: Demo) -> None:
    _, sweep = copy.deepcopy(documents(ROOT / "examples" / "blood-cells-sweep.yaml"))
    sweep["metadata"]["name"] = SWEEP
    sweep["spec"]["runPolicy"] = {"queueName": QUEUE, "retries": 0}
    del sweep["spec"]["promote"]
    sweep["spec"]["trials"] |= {"max": 4, "parallel": 4}
    demo.apply(sweep, namespace=demo.namespace)

    def ready() -> tuple[str, str]:
        return demo.ready("tuningsweep", SWEEP)

    demo.until(lambda: ready() == ("False", "WaitingForQuota"))
    demo.until(lambda: "insufficient" in demo.message("tuningsweep", SWEEP))
    first = child(demo, "tuningsweep", SWEEP)
    assert sorted(kueue.pods_of(demo, first).values()) == [1, 1, 4], "head, submitter and a worker a trial"

    patch(demo, "tuningsweep", SWEEP, trials={"parallel": 1})
    demo.until(lambda: ready() == ("False", "WaitingForAdmissionCheck"))
    second = child(demo, "tuningsweep", SWEEP, 2)
    assert sorted(kueue.pods_of(demo, second).values()) == [1, 1, 1]
    assert outcomes(demo, "tuningsweep", SWEEP) == [("Suspended", "SpecChanged"), (None, None)]
    one = kueue.reserved(demo, QUEUE)

    patch(demo, "tuningsweep", SWEEP, trials={"parallel": 2})
    demo.until(lambda: kueue.reserved(demo, QUEUE) > one)
    assert sorted(kueue.pods_of(demo, child(demo, "tuningsweep", SWEEP, 3)).values()) == [1, 1, 2]
    demo.kubectl("-n", demo.namespace, "delete", "tuningsweep", SWEEP)
    demo.until(lambda: kueue.reserved(demo, QUEUE) == 0)


@pytest.fixture
def elastic(demo: Demo) -> Iterator[None]:
    """Sweeps that grow and shrink, in a queue of 0.8 cores."""
    chart = ("upgrade", "fovea", str(ROOT / "charts" / "fovea"), "--reuse-values", "--force-conflicts", "--wait")
    helm(demo, *chart, "--set", "operator.elasticSweeps=true,operator.settings.ray_idle_seconds=15")
    kueue.apply(demo, kueue.cluster_queue(GROWING, "800m"), kueue.local_queue(GROWING, demo.namespace))
    yield
    helm(demo, *chart, "--set", "operator.elasticSweeps=false,operator.settings.ray_idle_seconds=60")


def elastic_sweep() -> dict[str, Any]:
    """Three trials of minutes, two at a time, each on 0.4 cores of quota, with 0.3 for head and submitter."""
    _, sweep = copy.deepcopy(documents(ROOT / "examples" / "blood-cells-sweep.yaml"))
    sweep["metadata"]["name"] = ELASTIC
    spec, template = sweep["spec"], sweep["spec"]["template"]["spec"]
    del spec["promote"]
    spec |= {"objectives": spec["objectives"][:1], "stopping": {"scheduler": "None"}, "budget": {}}
    spec |= {"parameters": [each for each in spec["parameters"] if each["path"].endswith("learningRate")]}
    spec |= {"trials": {"max": 3, "parallel": 2}, "runPolicy": {"queueName": GROWING, "retries": 0}}
    template["input"] = {"size": {"width": 128, "height": 96}}
    template["training"] |= {"epochs": 12}
    resources = {"requests": {"cpu": "400m", "memory": "1Gi"}, "limits": {"cpu": "1"}}
    template["compute"] |= {"resources": resources}
    return dict(sweep)


def test_a_sweep_grows_with_its_quota_and_shrinks_with_its_trials(demo: Demo, elastic: None) -> None:
    demo.apply(elastic_sweep(), namespace=demo.namespace)

    def trials(state: str) -> int:
        return int((demo.object("tuningsweep", ELASTIC).get("status") or {}).get("trials", {}).get(state, 0))

    def pods() -> list[Any]:
        run = demo.object("tuningsweep", ELASTIC)["status"]["run"]
        return list(demo.get(demo.namespace, "pods", "-l", f"fovea.dev/run={run},ray.io/node-type")["items"])

    def gated() -> int:
        return sum("schedulingGates" in pod["spec"] for pod in pods())

    def waits_to_grow(attempt: int) -> bool:
        own = kueue.workloads(demo, child(demo, "tuningsweep", ELASTIC, attempt))
        return [kueue.counts(each)["worker"] for each in own] == [1, 2] and gated() == 1

    def reserves(cores: float) -> bool:
        return kueue.reserved(demo, GROWING) == pytest.approx(cores)

    demo.until(lambda: reserves(0.7) and trials("running") == 1)
    demo.until(lambda: waits_to_grow(1))
    assert demo.ready("tuningsweep", ELASTIC) == ("False", "Running"), "what waits to grow works"

    kueue.apply(demo, kueue.cluster_queue(GROWING, "800m", stop_policy="HoldAndDrain"))
    demo.until(lambda: outcomes(demo, "tuningsweep", ELASTIC)[0] == ("Preempted", "Preempted"))
    demo.until(lambda: reserves(0) and demo.ready("tuningsweep", ELASTIC)[1] == "WaitingForQuota")
    assert not pods(), "no pod stays that has no quota"
    kueue.apply(demo, kueue.cluster_queue(GROWING, "800m"))
    demo.until(lambda: reserves(0.7) and trials("running") == 1 and waits_to_grow(2))

    kueue.apply(demo, kueue.cluster_queue(GROWING, 2))
    demo.until(lambda: reserves(1.1) and not gated())
    demo.until(lambda: trials("running") == 2)
    demo.until(lambda: reserves(0.7) and trials("running") == 1, 900)
    assert trials("succeeded") == 2, "the worker that the last trial does not need has left before its end"
    demo.wait_ready("tuningsweep", ELASTIC, 600)
    demo.until(lambda: reserves(0))
    assert outcomes(demo, "tuningsweep", ELASTIC) == [("Preempted", "Preempted"), ("Succeeded", None)]
    demo.kubectl("-n", demo.namespace, "delete", "tuningsweep", ELASTIC)
