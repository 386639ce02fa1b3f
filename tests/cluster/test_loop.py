"""The loop closes itself, from manifests alone: changed images, labels, a version, a run, a comparison, a promotion."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fovea_trainer.data.version import open_version

from tests.cluster.conftest import Demo, show
from tests.kube import ROOT

pytestmark = pytest.mark.timeout(1800)
KIND, NAME = "modeldeployment", "blood-cells"


@pytest.fixture(scope="module")
def story(demo: Demo) -> Any:
    """What the demo's second half wrote; run pytest with -s to see it work."""
    variables = demo.environment | {"NAMESPACE": demo.namespace}
    code, said = show([sys.executable, ROOT / "examples" / "loop.py"], variables)
    assert code == 0, said
    return json.loads((ROOT / ".demo" / "loop.json").read_text())


def test_drift_is_detected_where_images_changed_and_not_before(story: Any) -> None:
    assert story["usual"]["state"] == "None"
    assert story["detected"]["state"] == "Detected"
    assert "ImageProperties" in {each["name"] for each in story["detected"]["detectors"] if each["drifted"]}
    assert story["before"]["run"] == story["retraining"]["served"]


def test_one_run_learns_from_the_labels_and_is_better_on_images_that_nothing_learned_from(
    demo: Demo, story: Any
) -> None:
    retraining, (first, newest) = story["retraining"], story["versions"]
    assert (retraining["trigger"], retraining["outcome"]) == ("Drift", "Promoted"), retraining
    assert retraining["improvementAbove"] > 0
    run = demo.object("run", retraining["run"])["spec"]
    assert run["inputs"]["dataset"]["version"] == retraining["datasetVersion"] == newest["version"] != first["version"]
    assert run["recipe"]["model"]["pretrained"] == {"from": "Current"}
    history = demo.object(KIND, NAME)["status"]["retraining"]["history"]
    assert [each["cause"] for each in history] == [retraining["cause"]], "one cause, one run"
    assert story["after"]["run"] == retraining["run"] == demo.object(KIND, NAME)["status"]["stable"]["run"]
    assert story["after"]["f1"] >= story["before"]["f1"] + 0.1, (story["before"], story["after"])


@pytest.mark.usefixtures("environment")
def test_the_images_of_the_laboratory_stay_in_their_splits(story: Any, tmp_path: Path) -> None:
    first, newest = (open_version(each["artifact"], tmp_path / each["version"]) for each in story["versions"])
    for split in ("train", "validation", "test"):
        before, after = (set(version.split(split).column("digest")) for version in (first, newest))
        assert before <= after
    added = set(newest.split("test").column("digest")) - set(first.split("test").column("digest"))
    assert added, "the comparison sees images of the new stain"


def test_the_candidate_took_over_step_by_step_and_the_story_is_told_once(demo: Demo, story: Any) -> None:
    assert [each["phase"] for each in story["rollout"]][-1] == "Canary"
    (gate,) = story["rollout"][-1]["analysis"]
    assert gate["metric"] == "errorRate"
    told = [each["reason"] for each in story["events"]]
    assert "DriftDetected" in told
    assert told.count("RetrainingRequested") == 1, told
    last = [each for each in told if each in ("RetrainingRequested", "RolloutStarted", "StepStarted", "Promoted")][-4:]
    assert last == ["RetrainingRequested", "RolloutStarted", "StepStarted", "Promoted"]
    described = demo.kubectl("-n", demo.namespace, "describe", KIND, NAME)
    assert story["retraining"]["message"][:60] in " ".join(described.split())


def test_the_page_tells_it_to_a_newcomer(story: Any) -> None:
    page = (ROOT / ".demo" / "index.html").read_text()
    for name in ("dataset.html", "report.html", "retrained.html"):
        assert f'href="{name}"' in page
        assert (ROOT / ".demo" / name).stat().st_size > 10_000
    assert f"{story['after']['f1']:.2f}" in page
    assert "<script" not in page
