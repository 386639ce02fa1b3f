"""A detector from pictures to its bundle: one threshold for evaluation, prediction and serving, and a network that its
weights describe."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
import yaml
from faster_coco_eval import COCO, COCOeval_faster
from fovea_api.common import Task
from fovea_api.errors import InvalidInput, NotSupported
from fovea_serving.bundle import MODEL_WITH_NMS, WEIGHTS, Bundle, load_bundle
from fovea_serving.pipeline import Detection, decode
from fovea_serving.pipeline.golden import golden_image, golden_numbers
from fovea_serving.predict import predict_files
from fovea_serving.predictor import Predictor
from fovea_store import StorePath
from fovea_trainer.data.coco_folder import write_folder
from fovea_trainer.data.version import open_version
from fovea_trainer.export.nms import objects_of
from fovea_trainer.local import train_manifest
from fovea_trainer.models.description import restore
from fovea_trainer.use import export_bundle
from synthetic import SIZE, squares

from tests.unit.export import test_tensorrt as of_tensorrt

IMAGES = 40
install = of_tensorrt.install


def pictures(folder: Path) -> None:
    """Squares as COCO."""
    content: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }
    folder.mkdir()
    for index, sample in enumerate(squares(Task.DETECTION, IMAGES, 0).samples["train"]):
        (folder / sample.name).write_bytes(sample.image_bytes)
        x1, y1, x2, y2 = (float(value) for value in sample.boxes[0])
        content["images"].append({"id": index, "file_name": sample.name, "width": SIZE, "height": SIZE})
        box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        content["annotations"].append({"id": index, "image_id": index, "category_id": int(sample.labels[0]) + 1, **box})
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detector")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    pictures(folder / "pictures")
    dataset = {
        "task": "Detection",
        "classes": ["red", "blue"],
        "sources": [{"name": "lab", "uri": f"file://{folder}/pictures", "format": "COCO"}],
        "splits": {
            "ratios": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "keepNearDuplicatesTogether": False,
        },
    }
    job = {
        "datasetRef": {"name": "squares"},
        "model": {"architecture": "retinanet-efficientnet-lite0", "options": {"fpnChannels": 16}},
        "input": {"size": {"width": 64, "height": 64}, "augmentations": []},
        "training": {
            "epochs": 6,
            "batchSize": 8,
            "precision": "FP32",
            "optimizer": {"learningRate": 0.003, "backboneRate": 1.0},
            "ema": {"decay": 0.0},
        },
        "compression": {"quantization": {"calibrationImages": 8, "maxMetricDrop": 1}},
        "export": {"formats": ["ONNX", "ExportedProgram"], "nms": True},
    }
    objects = [
        {"apiVersion": "fovea.dev/v1alpha1", "kind": kind, "metadata": {"name": "squares"}, "spec": content}
        for kind, content in (("Dataset", dataset), ("TrainingJob", job))
    ]
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return load_bundle(str(train_manifest(path, str(folder / "store")).artifact))


def test_the_threshold_is_validations_and_everyones(bundle: Bundle, folder: Path) -> None:
    threshold = bundle.manifest.postprocessing.confidence_threshold
    metrics = bundle.manifest.metrics.exported
    assert metrics["validation/scoreThreshold"] == metrics["test/scoreThreshold"] == pytest.approx(threshold)
    evaluations = {split: json.loads((bundle.path / f"evaluation/{split}.json").read_text())
                   for split in ("validation", "test")}  # fmt: skip
    assert all(evaluation["threshold"] == threshold for evaluation in evaluations.values())
    assert threshold not in (0.4, 0.5), "a default, not what the validation split says"
    picture = folder / "pictures" / "0.png"
    every = Predictor.from_bundle(bundle).predict([picture.read_bytes()], candidates=True)[0]
    assert isinstance(every, Detection)
    for predicted in (
        Predictor.from_bundle(bundle).predict([picture.read_bytes()])[0],
        predict_files(bundle.path, [picture]).files[picture].prediction,
    ):
        assert isinstance(predicted, Detection)
        assert predicted.scores.tolist() == every.above(threshold).scores.tolist()
    assert predict_files(bundle.path, [picture]).confidence == threshold
    low = predict_files(bundle.path, [picture], confidence=0.05).files[picture].prediction
    assert isinstance(low, Detection)
    assert len(low) == len(every.above(0.05))


def test_every_format_is_measured_with_the_bundles_threshold(bundle: Bundle) -> None:
    """Which is that of the 8-bit model here, and not that of the network in floating point."""
    manifest, metrics = bundle.manifest, bundle.manifest.metrics
    assert manifest.precision == "INT8"
    assert metrics.before_compression["test/scoreThreshold"] != metrics.exported["test/scoreThreshold"]
    measured = {each.format: each.metrics for each in manifest.formats or ()}
    assert {name: metrics["test/scoreThreshold"] for name, metrics in measured.items()} == pytest.approx(
        dict.fromkeys(("ONNX", "ExportedProgram"), manifest.postprocessing.confidence_threshold)
    )
    for name in ("mAP", "precision", "recall"):
        assert measured["ONNX"][f"test/{name}"] == pytest.approx(measured["ExportedProgram"][f"test/{name}"], abs=1e-3)


def test_the_file_with_suppression_gives_the_objects_of_fovea_predict(bundle: Bundle, folder: Path) -> None:
    """In plain ONNX Runtime, on all pictures at once; the file says what its outputs are."""
    photos = [folder / "pictures" / f"{index}.png" for index in range(IMAGES)]
    predictor = Predictor.from_bundle(bundle)
    session = ort.InferenceSession(str(bundle.path / MODEL_WITH_NMS))
    outputs = [output.name for output in session.get_outputs()]
    batch, geometries = predictor.preprocess.batch([decode(photo.read_bytes()) for photo in photos])
    given = dict(zip(outputs, session.run(None, {"image": batch}), strict=True))
    about = json.loads(session.get_modelmeta().custom_metadata_map["fovea.outputs"])
    assert list(about) == outputs == ["num_detections", "boxes", "scores", "labels"]
    expected = predictor.predict([photo.read_bytes() for photo in photos])
    assert sum(given["num_detections"]) >= 5, "the detector has learned nothing, so equality proves nothing"
    for index, (geometry, objects) in enumerate(zip(geometries, expected, strict=True)):
        assert isinstance(objects, Detection)
        found = objects_of(given, index, geometry)
        assert found.labels.tolist() == objects.labels.tolist()
        assert found.scores == pytest.approx(objects.scores, abs=1e-5)
        assert found.boxes == pytest.approx(objects.boxes, abs=1e-3)


def test_suppression_is_added_to_a_bundles_model(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    target, photos = tmp_path / "detector.onnx", [folder / "pictures" / "0.png"]
    assert "F1 of its objects with those of fovea predict is 1.000 on 1 image" in export_bundle(
        bundle, "ONNX", target, photos, nms=True
    )
    assert target.read_bytes() == (bundle.path / MODEL_WITH_NMS).read_bytes()
    with pytest.raises(InvalidInput, match="is for ONNX"):
        export_bundle(bundle, "ExportedProgram", tmp_path / "model.pt2", nms=True)


def test_an_engine_is_built_of_the_model_that_is_served(
    bundle: Bundle, install: of_tensorrt.Install, tmp_path: Path
) -> None:
    """Which is the 8-bit one here. TensorRT is a double whose engine is the ONNX file."""
    with pytest.raises(NotSupported, match="TensorRT is not installed"):
        export_bundle(bundle, "TensorRT", tmp_path / "model.plan")
    assert not (tmp_path / "model.plan").exists()
    install()
    proof = export_bundle(bundle, "TensorRT", tmp_path / "model.plan")
    assert "scores of the golden image are within 0 of those that the bundle states" in proof
    assert (tmp_path / "model.plan").read_bytes() == bundle.model_of("INT8").read_bytes()


def test_the_weights_of_a_bundle_are_a_network(bundle: Bundle) -> None:
    """Without the recipe or the dataset, from which its anchors came."""
    network = restore(bundle.path / WEIGHTS)
    predictor = Predictor.from_bundle(bundle, precision="FP32")
    images = np.random.default_rng(0).normal(0, 0.5, (2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        outputs = network.decode(network(torch.from_numpy(images)))
    for name, values in predictor.run(images).items():
        assert values == pytest.approx(outputs[name].numpy(), abs=2e-3), name
    assert "Best possible recall of the anchors" in (bundle.path / "report.html").read_text()


def test_the_bundle_states_what_its_model_says_of_the_golden_image(bundle: Bundle) -> None:
    (prediction,) = Predictor.from_bundle(bundle).predict([golden_image()], candidates=True)
    assert bundle.golden() == pytest.approx(golden_numbers(prediction), abs=1e-6)
    (floating,) = Predictor.from_bundle(bundle, precision="FP32").predict([golden_image()], candidates=True)
    assert bundle.golden("FP32") == pytest.approx(golden_numbers(floating), abs=1e-6)


def test_the_report_shows_threshold_intervals_parts_of_the_loss_and_mistakes(bundle: Bundle) -> None:
    evaluation = json.loads((bundle.path / "evaluation/test.json").read_text())
    for name in ("mAP50", "precision", "recall", "f1"):
        low, high = evaluation["intervals"][name]
        assert 0 <= low <= evaluation["metrics"][f"test/{name}"] + 1e-6
        assert evaluation["metrics"][f"test/{name}"] - 1e-6 <= high <= 1
    curves = {curve["name"]: curve for curve in evaluation["curves"] if curve["kind"] == "threshold"}
    assert set(curves) == {"precision", "recall", "f1"}
    text = (bundle.path / "report.html").read_text()
    for words in ("Confidence threshold", "95 % of", "train/loss/box", "Learning rate", "Parameters (millions)",
                  "Multiply-accumulates", "Augmented images"):  # fmt: skip
        assert words in text, words
    shown = {each["kind"] for each in evaluation["mistakes"]}
    assert ("Worst false positives" in text) == ("FalsePositive" in shown)
    assert ("Missed objects" in text) == ("Miss" in shown)


def test_other_tools_read_a_split_and_the_predictions_as_coco(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    """faster-coco-eval reads the files as FiftyOne does (by pycocotools' interface) and comes to the bundle's mAP."""
    lineage = bundle.manifest.lineage.dataset
    artifact = StorePath.parse(f"{folder}/store/dataset/{lineage.name}/{lineage.version}")
    version = open_version(str(artifact), tmp_path / "cache")
    count = write_folder(version, artifact, "test", tmp_path / "out", Predictor.from_bundle(bundle))
    labels = COCO(str(tmp_path / "out/labels.json"))
    predictions = labels.loadRes(str(tmp_path / "out/predictions.json"))
    assert len(labels.imgs) == count == len(list((tmp_path / "out/data").iterdir()))
    for image in labels.imgs.values():
        pixels = cv2.imread(str(tmp_path / "out/data" / image["file_name"]))
        assert pixels.shape[:2] == (image["height"], image["width"])
    evaluated = COCOeval_faster(labels, predictions, "bbox")
    evaluated.params.maxDets = [1, 10, 300]
    evaluated.evaluate()
    evaluated.accumulate()
    evaluated.summarize()
    assert evaluated.stats[0] == pytest.approx(bundle.manifest.metrics.exported["test/mAP"], abs=0.005)
    with pytest.raises(InvalidInput, match="the folder is not empty"):
        write_folder(version, artifact, "test", tmp_path / "out")
