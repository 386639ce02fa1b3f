"""The other examples, trained to their criteria; on the way one is suspended, and one waits in a queue.

`make test-slow`, a quarter of an hour.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fovea_trainer.data.version import open_version

from tests.cluster import kueue
from tests.cluster.conftest import Demo
from tests.kube import ROOT, devcluster, documents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MEMBRANES = ROOT / "examples" / "data" / "membrane"
QUEUE = "vision"


def independent(demo: Demo, uri: str, folder: Path, task: str, *arguments: Path) -> dict[str, float]:
    """What tests/independent_check.py, which knows nothing of Fovea, measures on the exported model."""
    demo.stored(uri).download_tree(folder)
    command = [sys.executable, ROOT / "tests" / "independent_check.py", task, folder, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def dataset_version(demo: Demo, name: str, folder: Path, split: str) -> list[str]:
    """Names of the images of a split."""
    demo.wait_ready("dataset", name, 600)
    artifact = demo.object("dataset", name)["status"]["artifact"]
    return list(map(str, open_version(artifact, folder).split(split).column("name")))


def apply(demo: Demo, example: str, folder: Path, **run_policy: Any) -> None:
    """The example's manifests on the example's images; a run policy for its TrainingJob."""
    demo.kubectl("-n", demo.namespace, "cp", str(folder), f"loader:/datasets/{folder.name}")
    dataset, job = documents(ROOT / "examples" / f"{example}.yaml")
    job["spec"].setdefault("runPolicy", {}).update(ttlAfterFinished="30s", **run_policy)
    demo.apply(dataset, job, namespace=demo.namespace)


def patch(demo: Demo, name: str, **spec: Any) -> None:
    text = json.dumps({"spec": spec})
    demo.kubectl("-n", demo.namespace, "patch", "trainingjob", name, "--type=merge", "--patch", text)


@pytest.mark.usefixtures("environment")
def test_fashion_mnist_suspended_and_resumed_on_two_workers(demo: Demo, tmp_path: Path) -> None:
    assert FASHION_MNIST.is_dir(), "install Debian's package dataset-fashion-mnist"
    name = "fashion-mnist"
    apply(demo, name, FASHION_MNIST)
    demo.wait_ready("dataset", name, 600)
    demo.until(lambda: demo.epoch(name) >= 1.25, 900)

    patch(demo, name, runPolicy={"suspend": True})
    demo.until(lambda: demo.ready("trainingjob", name) == ("False", "Suspended"))
    run = demo.run(name)["metadata"]["name"]
    demo.until(lambda: not demo.get(demo.namespace, "pods", "-l", f"fovea.dev/run={run}")["items"])
    half = {"requests": {"cpu": "500m", "memory": "2Gi"}}
    patch(demo, name, runPolicy={"suspend": False}, compute={"workers": 2, "resources": half})

    status = demo.wait_ready("trainingjob", name, 1200)["status"]
    assert status["run"] == run
    assert [attempt["outcome"] for attempt in demo.run(name)["status"]["attempts"]] == ["Suspended", "Succeeded"]
    assert demo.resumed(run) == [[], [1]], "the second attempt went on from the checkpoint of epoch 1"
    accuracy = status["result"]["metrics"]["test/accuracy"]
    files = [FASHION_MNIST / f"t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    measured = independent(demo, status["result"]["bundle"], tmp_path / "bundle", "classification", *files)
    print(f"fashion-mnist: test/accuracy {accuracy}, by the independent script {measured}")
    assert accuracy >= 0.90
    assert measured["accuracy"] == pytest.approx(accuracy, abs=0.002)


@pytest.fixture
def queue(demo: Demo) -> None:
    """A Kueue LocalQueue whose ClusterQueue has no quota yet."""
    devcluster("up", "--with-kueue")
    flavor = {"kind": "ResourceFlavor", "metadata": {"name": "nodes"}}
    kueue.apply(demo, flavor, kueue.cluster_queue(QUEUE, 0), kueue.local_queue(QUEUE, demo.namespace))


@pytest.mark.usefixtures("environment", "queue")
def test_membranes_through_a_queue_that_takes_its_pods_away(demo: Demo, tmp_path: Path) -> None:
    name = "membranes"
    apply(demo, name, MEMBRANES, queueName=QUEUE)
    names = dataset_version(demo, name, tmp_path / "version", "test")
    assert len(names) == 10, "a third of the block, so that no image has a neighbour in train but the last"
    demo.until(lambda: demo.ready("trainingjob", name) == ("False", "WaitingForQuota"))
    shown = demo.kubectl("-n", demo.namespace, "get", "trainingjob", name)
    assert "Queued" in shown
    demo.until(lambda: "insufficient quota for cpu" in demo.message("trainingjob", name))

    kueue.apply(demo, kueue.cluster_queue(QUEUE, 8))
    demo.until(lambda: demo.epoch(name) >= 11, 1200)
    kueue.apply(demo, kueue.cluster_queue(QUEUE, 8, "HoldAndDrain"))
    demo.until(lambda: demo.ready("trainingjob", name) == ("False", "WaitingForQuota"))
    kueue.apply(demo, kueue.cluster_queue(QUEUE, 8))
    status = demo.wait_ready("trainingjob", name, 2400)["status"]
    attempts = demo.run(name)["status"]["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["Succeeded"], "a queue takes no attempt"
    assert demo.resumed(status["run"]) == [[10]], "taken away by the queue, it went on from the checkpoint of epoch 10"
    (tmp_path / "names").write_text("\n".join(names))
    folders = [MEMBRANES / "images", MEMBRANES / "labels", tmp_path / "names"]
    measured = independent(demo, status["result"]["bundle"], tmp_path / "bundle", "segmentation", *folders)
    dice = status["result"]["metrics"]["test/dice/boundary"]
    print(f"membranes: test/dice/boundary {dice}, by the independent script {measured}")
    assert dice >= 0.74
    assert measured["dice/boundary"] == pytest.approx(dice, abs=0.01)
