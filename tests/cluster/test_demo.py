"""What `make demo` leaves: a good detector, and what people see of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fovea_trainer.data.version import open_version

from tests.cluster.conftest import Demo
from tests.kube import ROOT, documents

pytestmark = pytest.mark.timeout(3600)
NAME = "blood-cells"


def test_the_detector_meets_its_criteria(demo: Demo) -> None:
    assert demo.summary["metrics"]["test/mAP50"] >= 0.85
    assert demo.summary["successCriteria"]
    assert all(item["met"] for item in demo.summary["successCriteria"])
    assert demo.summary["dataset"]["images"] == 364
    assert Path(demo.summary["report"]).stat().st_size > 100_000


@pytest.mark.usefixtures("environment")
def test_a_script_of_its_own_measures_the_same(demo: Demo, tmp_path: Path) -> None:
    """tests/independent_check.py knows nothing of Fovea but the format of the bundle."""
    demo.stored(demo.summary["bundle"]).download_tree(tmp_path / "bundle")
    artifact = demo.object("dataset", NAME)["status"]["artifact"]
    names = open_version(artifact, tmp_path / "version").split("test").column("name")
    (tmp_path / "names").write_text("\n".join(map(str, names)))
    command = [sys.executable, ROOT / "tests" / "independent_check.py", "detection", tmp_path / "bundle"]
    command += [ROOT / "examples" / "data" / "bccd" / "BCCD", tmp_path / "names"]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert measured["mAP50"] == pytest.approx(demo.summary["metrics"]["test/mAP50"], abs=0.01)


def test_kubectl_shows_what_matters(demo: Demo) -> None:
    shown = demo.kubectl("-n", demo.namespace, "get", "trainingjob", NAME).splitlines()
    assert shown[0].split()[:10] == [
        "NAME", "PHASE", "PROGRESS", "EPOCH", "METRIC", "BEST", "ETA", "RESULT", "ELIGIBLE", "REASON",
    ]  # fmt: skip
    row = demo.object("trainingjob", NAME)["status"]
    assert row["phase"] in shown[1]
    assert f"{row['progress']['best']['value']}" in shown[1]
    assert row["result"]["headline"] in shown[1]
    for kind in ("dataset", "trainingjob", "run"):
        names = demo.kubectl("-n", demo.namespace, "get", kind, "-o", "name").split()
        waited = demo.kubectl("-n", demo.namespace, "wait", "--for=condition=Ready", "--timeout=30s", *names)
        assert waited.count("condition met") == len(names) >= 1


def test_events_tell_the_story_once(demo: Demo) -> None:
    reasons = [reason for reason, _ in demo.events(NAME)]
    for reason in ("RunCreated", "AttemptStarted", "AttemptSucceeded"):
        assert reasons.count(reason) == 2, reasons  # of the dataset and of the training
    assert reasons.count("VersionBuilt") == reasons.count("Succeeded") == 1


def test_the_log_is_kept(demo: Demo) -> None:
    run = demo.object("trainingjob", NAME)["status"]["run"]
    assert "--- attempt 1 ---" in demo.log(run)
    assert "bundle" in demo.log(run)


def test_a_lost_object_is_adopted_from_the_store(demo: Demo) -> None:
    """As on a rebuilt cluster: the objects are gone, the store is there, and nothing is trained again."""
    before = demo.object("trainingjob", NAME)["status"]["result"]
    demo.kubectl("-n", demo.namespace, "delete", "trainingjob", NAME, "--wait")
    demo.until(lambda: demo.run(NAME) is None)
    _, job = documents(ROOT / "examples" / "blood-cells.yaml")
    demo.apply(job, namespace=demo.namespace)
    after = demo.wait_ready("trainingjob", NAME, 400)["status"]["result"]
    assert after["bundle"] == before["bundle"]
    assert after["metrics"] == before["metrics"]
