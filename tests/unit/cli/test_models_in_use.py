"""Using a model: measuring it elsewhere, writing it in other formats, comparing it, and what its files say of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from cli_support import Fovea, Trained


def test_evaluate_gives_what_the_training_measured(fovea: Fovea, trained: Trained) -> None:
    version = trained.store / "dataset" / "colours" / _lineage(trained)["dataset"]["version"]
    done = fovea("evaluate", trained.bundle, version, "-o", "json")
    assert done.exit_code == 0, done.output
    measured = {name: value for name, value in trained.result["metrics"].items() if name.startswith("test/")}
    assert json.loads(done.stdout)["metrics"] == pytest.approx(measured)
    everything = json.loads(fovea("evaluate", trained.bundle, trained.pictures / "test", "-o", "json").stdout)
    assert everything["images"] == 8
    assert everything["metrics"]["all/accuracy"] == pytest.approx(measured["test/accuracy"])
    assert "all/accuracy" in fovea("evaluate", trained.bundle, trained.pictures / "test").stdout


def test_evaluate_refuses_data_of_other_classes(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.pictures / "test" / "red", tmp_path / "shapes" / "square")
    done = fovea("evaluate", trained.bundle, tmp_path / "shapes")
    assert done.exit_code == 1
    assert "square" in done.stderr
    version = trained.store / "dataset" / "colours" / _lineage(trained)["dataset"]["version"]
    split = fovea("evaluate", trained.bundle, version, "--split", "holdout")
    assert (split.exit_code, "the version has no split 'holdout'" in split.stderr) == (1, True)


def test_export_writes_other_formats_that_compute_the_same(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    done = fovea("export", trained.bundle, "--format", "ONNX", "--to", target, "--images", trained.pictures / "test")
    assert done.exit_code == 0, done.output
    assert "PyTorch and model.onnx agree on 8 images" in done.stdout
    image = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    runs = [
        ort.InferenceSession(str(file)).run(None, {"image": image})[0]
        for file in (target, trained.bundle / "model.onnx")
    ]
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-5)
    again = fovea("export", trained.bundle, "--format", "ONNX", "--to", target)
    assert (again.exit_code, "replace it with --force" in again.stderr) == (1, True)
    other = fovea("export", trained.bundle, "--format", "CoreML", "--to", tmp_path / "x")
    assert (other.exit_code, "the trainer does not write CoreML" in other.stderr) == (1, True)


def test_an_onnx_file_says_what_it_is(trained: Trained) -> None:
    bundle = yaml.safe_load((trained.bundle / "bundle.yaml").read_text())
    about = ort.InferenceSession(str(trained.bundle / "model.onnx")).get_modelmeta().custom_metadata_map
    assert about["fovea.task"] == "Classification"
    assert json.loads(about["fovea.classes"]) == bundle["classes"]
    given = json.loads(about["fovea.input"])
    assert {name: given[name] for name in ("mean", "std", "resize", "padValue")} == {
        name: bundle["preprocessing"][name] for name in ("mean", "std", "resize", "padValue")
    }
    assert (given["width"], given["height"], given["layout"], given["colors"]) == (32, 32, "NCHW", "RGB")
    assert json.loads(about["fovea.postprocessing"]) == bundle["postprocessing"]
    assert list(json.loads(about["fovea.outputs"])) == ["logits"]


def test_compare_shows_what_differs_and_which_is_better(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    same = fovea("compare", trained.bundle, trained.bundle)
    assert same.exit_code == 0, same.output
    assert "the recipes do not differ" in same.stdout
    other = tmp_path / "other"
    shutil.copytree(trained.bundle, other)
    manifest = yaml.safe_load((other / "bundle.yaml").read_text())
    manifest["metrics"]["exported"] |= {"test/accuracy": 0.99, "size/megabytes": 99.0}
    manifest["lineage"]["recipe"]["training"]["epochs"] = 7
    manifest["lineage"]["dataset"]["version"] = "sha256-" + "0" * 64
    (other / "bundle.yaml").write_text(yaml.safe_dump(manifest))
    rows = [line.split() for line in fovea("compare", trained.bundle, other).stdout.splitlines()]
    assert ["recipe.training.epochs", "1", "7"] in rows
    assert {row[0]: row[-1] for row in rows if row and row[-1] in ("better", "worse")} == {
        "test/accuracy": "better", "size/megabytes": "worse",
    }  # fmt: skip
    data = json.loads(fovea("compare", trained.bundle, other, "-o", "json").stdout)
    assert data["metrics"]["test/accuracy"] == [trained.result["metrics"]["test/accuracy"], 0.99]
    assert data["sameDataset"] is False


def _lineage(trained: Trained) -> dict[str, dict[str, str]]:
    lineage: dict[str, dict[str, str]] = yaml.safe_load((trained.bundle / "bundle.yaml").read_text())["lineage"]
    return lineage
