"""Champion and challenger: both are measured on the challenger's test images, and the difference has an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fovea_api.run import BundleInput, RunInputs, RunResult, RunSpec
from fovea_serving.bundle import load_bundle
from fovea_serving.predictor import Predictor
from fovea_trainer import local
from fovea_trainer.data.version import open_version
from fovea_trainer.evaluation.evaluate import evaluate
from synthetic import manifest


def retrain(path: Path, champion: BundleInput | None, monkeypatch: pytest.MonkeyPatch, **training: Any) -> RunResult:
    """Trains by hand as a run that a deployment has asked for does."""
    objects = list(yaml.safe_load_all(path.read_text()))
    objects[1]["spec"]["training"].update(training)
    path.write_text(yaml.safe_dump_all(objects))
    original = local._training_spec

    def requested(*given: Any) -> RunSpec:
        spec = original(*given)
        inputs = RunInputs(**dict(spec.inputs) | {"champion": champion})
        return spec.model_copy(update={"inputs": inputs})

    with monkeypatch.context() as patch:
        patch.setattr(local, "_training_spec", requested)
        return local.train_manifest(path, str(path.parent / "store"))


def test_both_are_measured_on_the_same_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest(tmp_path, {"train": 32, "validation": 8, "test": 40}, evaluation={"splits": ["validation"]})
    untrained = retrain(path, None, monkeypatch, epochs=1, optimizer={"learningRate": 1e-9})
    assert not any(name.startswith("champion/") for name in untrained.metrics), "nobody serves a model"
    champion = BundleInput(digest=str(untrained.digest), artifact=str(untrained.artifact))
    result = retrain(path, champion, monkeypatch, epochs=6, optimizer={"learningRate": 0.02}, seed=1)
    (version,) = (tmp_path / "store/dataset/squares").glob("sha256-*")
    opened = open_version(str(version), tmp_path / "work")

    def accuracy(bundle: str) -> float:
        served = Predictor.from_bundle(load_bundle(bundle))
        return evaluate(served, opened.split("test"), opened.manifest.classes).metrics["test/accuracy"]

    before, after = accuracy(champion.artifact), accuracy(str(result.artifact))
    metrics = result.metrics
    assert metrics["champion/accuracy"] == before
    assert metrics["champion/difference"] == pytest.approx(after - before)
    assert metrics["champion/images"] == 40
    assert after - before > 3 * metrics["champion/differenceError"] > 0
    assert "champion/accuracy" not in load_bundle(str(result.artifact)).manifest.metrics.exported
    report = Path(str(result.report)).read_text()
    assert "the served model on the same 40 images" in report

    # A comparison that cannot be made loses no model.
    gone = BundleInput(digest=f"sha256-{'0' * 64}", artifact=str(tmp_path / "gone"))
    result = retrain(path, gone, monkeypatch, epochs=1, seed=2)
    assert not any(name.startswith("champion/") for name in result.metrics)
    report = Path(str(result.report)).read_text()
    assert "was not compared with the served one: its bundle cannot be read" in report
