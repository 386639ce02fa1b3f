"""From a video to a version: the served model labels its frames beforehand, somebody reviews them, they come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from fovea_trainer.data.version import open_version

from tests.cluster.conftest import Demo
from tests.kube import ROOT

pytestmark = pytest.mark.timeout(1200)
NAME, FRAMES = "blood-cells-filmed", 8
PICTURES = sorted((ROOT / "examples" / "data" / "bccd" / "BCCD" / "JPEGImages").glob("*.jpg"))[:FRAMES]


def film(file: Path) -> Path:
    """A video that shows each picture for a second."""
    pictures = [cv2.imread(str(picture)) for picture in PICTURES]
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 5, (width, height))
    for picture in pictures:
        for _ in range(5):
            writer.write(picture)
    writer.release()
    return file


def dataset(*reviewed: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "task": "Detection",
        "classes": ["RBC", "WBC", "Platelets"],
        "sources": [{"name": "camera", "video": {"uri": "pvc://datasets/recordings"}}, *reviewed],
        "prelabel": {
            "modelDeploymentRef": {"name": "blood-cells"},
            "minConfidence": 0.3,
            "export": {"uri": "pvc://datasets/todo", "format": "COCO"},
        },
        "splits": {"ratios": {"train": 1, "validation": 0, "test": 0}},
        "quality": {"nearDuplicates": "Ignore"},
        "compute": {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
        "runPolicy": {"retries": 0},
    }
    return {"apiVersion": "fovea.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": NAME}, "spec": spec}


def as_reviewed(batch: Path) -> int:
    """Takes all predictions for right, as somebody does who saves them; gives how many there are."""
    file = batch / "annotations.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["score"]
    file.write_text(json.dumps(content))
    return len(content["annotations"])


@pytest.mark.usefixtures("environment")
def test_frames_wait_for_review_and_come_back_as_labelled_images(demo: Demo, tmp_path: Path) -> None:
    def copy(source: str, target: str) -> None:
        demo.kubectl("-n", demo.namespace, "cp", source, target)

    demo.kubectl("-n", demo.namespace, "exec", "loader", "--", "mkdir", "-p", "/datasets/recordings")
    copy(str(film(tmp_path / "slide.mp4")), "loader:/datasets/recordings/slide.mp4")
    demo.apply(dataset(), namespace=demo.namespace)
    demo.until(lambda: demo.ready("dataset", NAME)[1] == "NothingLabelled")
    assert f"{FRAMES} wait for one" in demo.message("dataset", NAME)
    found = demo.kubectl("-n", demo.namespace, "exec", "loader", "--", "ls", "/datasets/todo")
    (batch,) = found.split()
    copy(f"loader:/datasets/todo/{batch}", str(tmp_path / "batch"))
    labelled = as_reviewed(tmp_path / "batch")
    assert labelled > 3 * FRAMES, "a smear shows a dozen cells"

    copy(str(tmp_path / "batch"), "loader:/datasets/reviewed")
    reviewed = {"name": "reviewed", "uri": "pvc://datasets/reviewed", "format": "COCO"}
    demo.apply(dataset(reviewed), namespace=demo.namespace)
    status = demo.wait_ready("dataset", NAME)["status"]
    assert (status["images"], status["annotations"]) == (FRAMES, labelled)
    version = open_version(status["artifact"], tmp_path / "version").split("train")
    assert {str(name).split("/")[-1] for name in version.column("name")} == {
        f"{s * 1000:08}.jpg" for s in range(FRAMES)
    }
    found = demo.kubectl("-n", demo.namespace, "exec", "loader", "--", "ls", "/datasets/todo")
    assert found.split() == [batch], "what has come back is not exported again"
    demo.kubectl("-n", demo.namespace, "delete", "dataset", NAME)
