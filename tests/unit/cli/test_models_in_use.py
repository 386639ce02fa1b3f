"""Using a model: measuring it elsewhere, writing it in other formats, comparing it, and what its files say of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from cli_support import Fovea, Trained
from fovea_serving.bundle import load_bundle
from fovea_serving.edge import write_package


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


def test_every_format_that_runs_is_measured_like_the_served_model(trained: Trained) -> None:
    bundle = yaml.safe_load((trained.bundle / "bundle.yaml").read_text())
    formats = {each["format"]: each for each in bundle["formats"]}
    assert set(formats) == {"ONNX", "OpenVINO", "ExportedProgram", "StateDict"}
    stored = {entry["path"] for entry in bundle["files"]}
    assert {each["file"] for each in formats.values()} | {"openvino/model.bin"} <= stored
    assert "difference" not in formats["StateDict"]
    assert not formats["StateDict"]["metrics"]
    served = bundle["metrics"]["exported"]
    for name in ("ONNX", "OpenVINO", "ExportedProgram"):
        measured = formats[name]["metrics"]
        assert formats[name]["difference"]["logits"] < 1e-4
        assert measured["test/accuracy"] == served["test/accuracy"]
        assert measured["test/ece"] == pytest.approx(served["test/ece"], abs=1e-5)
        assert measured["latency/p50Milliseconds"] > 0
    size = sum((trained.bundle / "openvino" / f"model.{part}").stat().st_size for part in ("xml", "bin")) / 1e6
    assert formats["OpenVINO"]["metrics"]["size/megabytes"] == pytest.approx(size)
    assert set(bundle["lineage"]["versions"]) >= {"openvino", "onnxruntime"}
    assert "openvino/model.xml" in (trained.bundle / "report.html").read_text()


@pytest.mark.parametrize("name", ["openvino", "ExportedProgram"])
def test_a_format_predicts_and_is_evaluated_as_the_served_model(fovea: Fovea, trained: Trained, name: str) -> None:
    pictures = trained.pictures / "test"
    served, other = (
        json.loads(fovea("predict", trained.bundle, pictures, *option, "-o", "json").stdout)
        for option in ((), ("--format", name))
    )
    assert served.keys() == other.keys()
    for file, prediction in served.items():
        scores, theirs = ([each["score"] for each in found[file]["classes"]] for found in (served, other))
        assert theirs == pytest.approx(scores, abs=1e-4), prediction
    done = fovea("evaluate", trained.bundle, pictures, "--model-format", name, "-o", "json")
    measured = json.loads(done.stdout)["metrics"]
    assert measured["all/accuracy"] == pytest.approx(trained.result["metrics"]["test/accuracy"])


def test_a_format_that_the_bundle_lacks_is_refused_with_those_it_has(
    fovea: Fovea, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained.bundle, tmp_path / "plain")
    manifest = tmp_path / "plain" / "bundle.yaml"
    content = yaml.safe_load(manifest.read_text())
    manifest.write_text(yaml.safe_dump({**content, "formats": [content["formats"][0]]}))
    done = fovea("predict", tmp_path / "plain", trained.pictures / "test", "--format", "OpenVINO")
    assert done.exit_code == 1
    assert "has no OpenVINO that can be run" in done.stderr
    assert "train with export.formats [ONNX, OpenVINO]" in done.stderr


def test_openvino_is_written_from_a_bundle(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    target, images = tmp_path / "net.xml", trained.pictures / "test"
    done = fovea("export", trained.bundle, "--format", "OpenVINO", "--to", target, "--images", images)
    assert done.exit_code == 0, done.output
    assert "PyTorch and net.xml agree on 8 images" in done.stdout
    target.unlink()
    again = fovea("export", trained.bundle, "--format", "OpenVINO", "--to", target)
    assert (again.exit_code, "net.bin" in again.stderr, "--force" in again.stderr) == (1, True, True)
    other = fovea("export", trained.bundle, "--format", "OpenVINO", "--to", tmp_path / "other.onnx")
    assert (other.exit_code, "a file of OpenVINO is called *.xml" in other.stderr) == (1, True)


@pytest.mark.parametrize(("form", "name"), [("ONNX", "model.onnx"), ("OpenVINO", "model.xml")])
def test_an_export_that_fails_leaves_the_file_as_it_was(
    fovea: Fovea, trained: Trained, tmp_path: Path, form: str, name: str
) -> None:
    target, broken = tmp_path / "here" / name, tmp_path / "pictures"
    shutil.copytree(trained.pictures / "test", broken)
    next(broken.rglob("*.png")).write_bytes(b"no picture")
    target.parent.mkdir()
    target.write_bytes(b"before")
    done = fovea("export", trained.bundle, "--format", form, "--to", target, "--images", broken, "--force")
    assert done.exit_code == 1, done.output
    assert [(file.name, file.read_bytes()) for file in target.parent.iterdir()] == [(name, b"before")]


def test_a_package_that_is_interrupted_leaves_the_file_as_it_was(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "edge.zip"
    target.write_bytes(b"before")
    written = ZipFile.writestr

    def interrupted(archive: ZipFile, info: ZipInfo, *content: Any) -> None:
        if info.filename == "predict.py":
            raise KeyboardInterrupt
        written(archive, info, *content)

    monkeypatch.setattr(ZipFile, "writestr", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_package(load_bundle(trained.bundle), target)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("edge.zip", b"before")]


def test_an_edge_package_answers_as_fovea_predict(fovea: Fovea, trained: Trained, tmp_path: Path) -> None:
    target, picture = tmp_path / "edge.zip", trained.pictures / "test" / "red" / "test-0.png"
    done = fovea("export", trained.bundle, "--package", target)
    assert (done.exit_code, "not signed" in done.stdout) == (0, True), done.output
    again = fovea("export", trained.bundle, "--package", target)
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    shutil.unpack_archive(target, tmp_path / "edge")
    command = [sys.executable, str(tmp_path / "edge" / "predict.py"), str(picture)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    served = json.loads(fovea("predict", trained.bundle, picture, "-o", "json").stdout)[str(picture)]
    assert [each["class"] for each in answer["classes"]] == [each["class"] for each in served["classes"]]
    scores, known = ([each["score"] for each in found["classes"]] for found in (answer, served))
    assert scores == pytest.approx(known, abs=1e-5)
    both = fovea("export", trained.bundle, "--package", target, "--format", "ONNX")
    assert (both.exit_code, "either --format or --package" in both.stderr) == (2, True)


def test_an_onnx_file_says_what_it_is(trained: Trained) -> None:
    bundle = yaml.safe_load((trained.bundle / "bundle.yaml").read_text())
    about = ort.InferenceSession(str(trained.bundle / "model.onnx")).get_modelmeta().custom_metadata_map
    assert about["fovea.task"] == "Classification"
    assert about["fovea.opset"] == "18"
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
