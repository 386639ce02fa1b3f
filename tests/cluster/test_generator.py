"""A Dataset of what a program writes, from the image to the version: the program of the guide, in a real pod."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fovea_trainer.data.version import open_version

from tests.cluster.conftest import Demo
from tests.kube import ROOT

pytestmark = pytest.mark.timeout(1200)
NAME, IMAGE, IMAGES = "shapes", "fovea.local/trainer:dev", 24
UNTRUSTED = """
import os
assert not os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"), "it has the run's token"
assert not [name for name in os.environ if name.startswith(("AWS_", "FOVEA_RUN"))], "it has what the run has"
assert os.getuid(), "it is root"
"""
FAILING = "import sys; print('no licence is left'); sys.exit(3)"


def dataset(program: str) -> dict[str, Any]:
    generator = {"image": IMAGE, "args": ["python", "-c", program, str(IMAGES)], "format": "COCO"}
    spec = {
        "task": "Detection",
        "sources": [{"name": "simulated", "generator": generator}],
        "splits": {"ratios": {"train": 1, "validation": 0, "test": 0}},
        "quality": {"nearDuplicates": "Ignore"},
        "compute": {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
        "runPolicy": {"retries": 0},
    }
    return {"apiVersion": "fovea.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": NAME}, "spec": spec}


@pytest.mark.usefixtures("environment")
def test_what_a_program_writes_becomes_a_version(demo: Demo, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "guide" / "generator.md").read_text()
    (drawing,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    demo.apply(dataset(UNTRUSTED + drawing), namespace=demo.namespace)
    status = demo.wait_ready("dataset", NAME)["status"]
    assert (status["images"], status["annotations"]) == (IMAGES, IMAGES)
    version = open_version(status["artifact"], tmp_path / "version")
    assert [each.uri for each in version.manifest.provenance] == [IMAGE]
    assert {sample.name for sample in version.split("train")} == {f"{number:05}.png" for number in range(IMAGES)}

    demo.kubectl("-n", demo.namespace, "annotate", "dataset", NAME, "fovea.dev/restart=again")
    demo.until(lambda: "NothingChanged" in [reason for reason, _ in demo.events(NAME)])
    again = demo.object("dataset", NAME)["status"]
    assert again["run"] != status["run"], "the program ran again, and wrote the same"
    assert again["version"] == status["version"]

    demo.apply(dataset(FAILING), namespace=demo.namespace)
    demo.until(lambda: demo.ready("dataset", NAME)[1] == "GeneratorFailed")
    message = demo.message("dataset", NAME)
    assert "the program of source 'simulated'" in message
    assert "exit code 3" in message
    assert "no licence is left" in message
    assert demo.object("dataset", NAME)["status"]["version"] == status["version"], "what was good stays"
    demo.kubectl("-n", demo.namespace, "delete", "dataset", NAME)
