"""The model that the demo deployed: it answers, and goes on answering while what runs it is changed or dies."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

import pytest

from tests.cluster.conftest import Demo
from tests.kube import ROOT, devcluster

pytestmark = pytest.mark.timeout(1800)
KIND, NAME = "modeldeployment", "blood-cells"
REPLICAS = """
import json
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

applications = ServeSubmissionClient("http://127.0.0.1:8265").get_serve_details()["applications"]
print(json.dumps({
    name: [each["replica_id"] for part in of["deployments"].values() for each in part["replicas"]]
    for name, of in applications.items()
}))
"""
IMAGE = min((ROOT / "examples/data/bccd/BCCD/JPEGImages").glob("*.jpg"))


def address(demo: Demo, name: str = NAME) -> str:
    """The Service's address, which reaches from the host of a devcluster."""
    return str(demo.object("service", name)["spec"]["clusterIP"])


def predict(demo: Demo, name: str = NAME) -> tuple[int, dict[str, Any]]:
    """Status and answer of one request."""
    request = urllib.request.Request(
        f"http://{address(demo, name)}/v1/predict", IMAGE.read_bytes(), {"content-type": "image/jpeg"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


@contextmanager
def load(demo: Demo) -> Iterator[Counter[int]]:
    """Two clients that ask without a pause; counts the answers by status."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            statuses[predict(demo)[0]] += 1

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield statuses
    finally:
        stop.set()
        for client in clients:
            client.join()


def settled(demo: Demo) -> bool:
    status = demo.object(KIND, NAME)["status"]
    return demo.ready(KIND, NAME)[0] == "True" and "candidate" not in status and "retiring" not in status


def pods(demo: Demo, component: str) -> list[str]:
    selector = f"fovea.dev/name={NAME},fovea.dev/component={component}"
    return demo.kubectl("-n", demo.namespace, "get", "pods", "-l", selector, "-o", "name").split()


def change(demo: Demo, spec: dict[str, Any]) -> None:
    patch = json.dumps({"spec": spec})
    demo.kubectl("-n", demo.namespace, "patch", KIND, NAME, "--type=merge", f"--patch={patch}")


def replicas_of_ray(demo: Demo) -> dict[str, set[str]]:
    """The replicas of each version, as Ray names them: one that is started anew has another id."""
    (head,) = pods(demo, "head")
    found = demo.kubectl("-n", demo.namespace, "exec", head, "--", "python", "-c", REPLICAS, timeout=60)
    return {version: set(ids) for version, ids in json.loads(found.splitlines()[-1]).items()}


def recovers(demo: Demo, component: str) -> None:
    """Kills the pods of a component; requests are answered again by themselves."""
    demo.kubectl("-n", demo.namespace, "delete", *pods(demo, component), "--grace-period=0", "--force", timeout=60)
    time.sleep(2)
    demo.until(lambda: answers(demo))
    demo.until(lambda: settled(demo))


def answers(demo: Demo) -> bool:
    try:
        status, answer = predict(demo)
    except (OSError, HTTPException):  # no gateway at all, or one that dies while it answers
        return False
    assert status in (200, 502, 503, 504), answer
    return status == 200


def test_the_newest_eligible_bundle_answers(demo: Demo) -> None:
    run = demo.object("trainingjob", NAME)["status"]["result"]["run"]
    status, answer = predict(demo)
    assert status == 200
    assert answer["model"]["run"] == run == demo.object(KIND, NAME)["status"]["stable"]["run"]
    assert {each["class"] for each in answer["predictions"][0]["objects"]} <= {"RBC", "WBC", "Platelets"}
    assert demo.summary["serving"]["objects"]
    shown = demo.kubectl("-n", demo.namespace, "get", KIND, NAME).splitlines()
    assert shown[0].split()[:5] == ["NAME", "READY", "URL", "STABLE", "REPLICAS"]
    assert run in shown[1]


def test_the_runtime_is_switched_under_load_without_a_failed_request(demo: Demo) -> None:
    devcluster("images", "triton")
    devcluster("load", "triton")
    before = predict(demo)[1]["predictions"]
    with load(demo) as statuses:
        for runtime in ("Triton", "RayServe"):
            change(demo, {"runtime": runtime})
            demo.until(lambda runtime=runtime: demo.object(KIND, NAME)["status"]["stable"]["runtime"] == runtime, 600)
            demo.until(lambda: settled(demo))
            assert len(predict(demo)[1]["predictions"][0]["objects"]) == len(before[0]["objects"])
    assert set(statuses) == {200}, statuses


def test_another_bundle_takes_over_under_load_without_a_failed_request(demo: Demo) -> None:
    """The stable one's copy, by its URI, is another version; then the job's again. Nothing that is done to one version
    or its settings starts another replica, neither of it nor of its neighbour."""
    bundle = demo.object(KIND, NAME)["status"]["stable"]["bundle"]
    source = demo.stored(bundle)
    copy = f"{bundle.rstrip('/').rpartition('/')[0]}/copies/{source.name}"
    for entry in source.files():
        (demo.stored(copy) / entry.path).write_bytes((source / entry.path).read_bytes())
    with load(demo) as statuses:
        for expected, model in (
            (copy, {"uri": copy, "trainingJobRef": None}),
            (bundle, {"uri": None, "trainingJobRef": {"name": NAME}}),
        ):
            started: dict[str, set[str]] = defaultdict(set)

            def stable(bundle: str = expected, started: dict[str, set[str]] = started) -> bool:
                for version, replicas in replicas_of_ray(demo).items():
                    started[version] |= replicas
                return bool(demo.object(KIND, NAME)["status"]["stable"]["bundle"] == bundle)

            change(demo, {"model": model})
            demo.until(stable, 600)
            demo.until(lambda: settled(demo))
            assert {version: len(ids) for version, ids in started.items()} == dict.fromkeys(started, 1)
            assert len(started) == 2, "the versions were not up beside each other"
            change(demo, {"inference": {"confidenceThreshold": 0.99}})
            demo.until(lambda: not predict(demo)[1]["predictions"][0]["objects"])
            change(demo, {"inference": {"confidenceThreshold": None}})
            demo.until(lambda: predict(demo)[1]["predictions"][0]["objects"])
            served = demo.object(KIND, NAME)["status"]["stable"]["name"]
            assert replicas_of_ray(demo) == {served: started[served]}
    assert set(statuses) == {200}, statuses


@pytest.mark.parametrize("component", ["gateway", "replica", "head"])
def test_what_dies_comes_back_and_answers_again(demo: Demo, component: str) -> None:
    recovers(demo, component)
