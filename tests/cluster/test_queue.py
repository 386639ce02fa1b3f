"""Trainings and sweeps in the queue of a real Kueue: its checks, its deactivation, its quota.

`make test-slow`. What a queue that takes pods away does to a training is in test_examples.py.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.cluster import kueue
from tests.cluster.conftest import Demo, short_job
from tests.kube import ROOT, devcluster, documents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
QUEUE, CHECK = "checked", "machines"
JOB, SWEEP = "queued", "queued-sweep"


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

    demo.until(lambda: ready() == ("False", "WaitingForAdmissionCheck"), 90)
    assert message().startswith(f"Kueue's admission check {CHECK} is Pending")
    own = child(demo, "trainingjob", JOB)
    assert kueue.reserved(demo, QUEUE) > 1, "quota is reserved while the check waits"
    kueue.set_check(demo, own, CHECK, "Pending", "no machine yet")
    demo.until(lambda: message() == f"Kueue's admission check {CHECK} is Pending: no machine yet", 60)

    kueue.set_check(demo, own, CHECK, "Retry", "try later")  # Kueue takes the quota back, and queues it again
    demo.until(lambda: "no machine yet" not in message() and ready()[1].startswith("WaitingFor"), 90)

    demo.until(lambda: kueue.workload(demo, own)["status"].get("admissionChecks"), 60)
    kueue.set_check(demo, own, CHECK, "Rejected", "no such machine")
    demo.until(lambda: ready() == ("False", "WorkloadDeactivated"), 60)
    assert demo.condition("trainingjob", JOB, "Stalled")["status"] == "True"
    assert "were rejected; to queue it again set spec.runPolicy.suspend to true, and then to false" in message()
    assert kueue.reserved(demo, QUEUE) == 0, "what is deactivated holds no quota"

    patch(demo, "trainingjob", JOB, runPolicy={"suspend": True})
    demo.until(lambda: ready() == ("False", "Suspended"), 60)
    patch(demo, "trainingjob", JOB, runPolicy={"suspend": False})
    demo.until(lambda: ready() == ("False", "WaitingForAdmissionCheck"), 90)
    kueue.set_check(demo, child(demo, "trainingjob", JOB, 2), CHECK, "Ready", "here it is")
    demo.wait_ready("trainingjob", JOB, 900)
    demo.until(lambda: kueue.reserved(demo, QUEUE) == 0, 60)
    run = demo.object("trainingjob", JOB)["status"]["run"]
    demo.until(lambda: not demo.get(demo.namespace, "pods", "-l", f"fovea.dev/run={run}")["items"], 90)
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

    demo.until(lambda: ready() == ("False", "WaitingForQuota"), 90)
    demo.until(lambda: "insufficient" in demo.message("tuningsweep", SWEEP), 60)
    first = child(demo, "tuningsweep", SWEEP)
    assert sorted(kueue.pods_of(demo, first).values()) == [1, 1, 4], "head, submitter and a worker a trial"

    patch(demo, "tuningsweep", SWEEP, trials={"parallel": 1})
    demo.until(lambda: ready() == ("False", "WaitingForAdmissionCheck"), 120)
    second = child(demo, "tuningsweep", SWEEP, 2)
    assert sorted(kueue.pods_of(demo, second).values()) == [1, 1, 1]
    assert outcomes(demo, "tuningsweep", SWEEP) == [("Suspended", "SpecChanged"), (None, None)]
    one = kueue.reserved(demo, QUEUE)

    patch(demo, "tuningsweep", SWEEP, trials={"parallel": 2})
    demo.until(lambda: kueue.reserved(demo, QUEUE) > one, 120)
    assert sorted(kueue.pods_of(demo, child(demo, "tuningsweep", SWEEP, 3)).values()) == [1, 1, 2]
    demo.kubectl("-n", demo.namespace, "delete", "tuningsweep", SWEEP)
    demo.until(lambda: kueue.reserved(demo, QUEUE) == 0, 60)
