"""From the best weights to the stored bundle: what is delivered is what was measured."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fovea_serving.bundle import load_bundle
from fovea_trainer.local import train_manifest
from fovea_trainer.training import quantize
from fovea_trainer.training.quantize import choose
from synthetic import manifest


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_quantized_model_has_the_batch_that_was_asked_for(tmp_path: Path, dynamic: bool) -> None:
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        training={"epochs": 4, "batchSize": 8, "precision": "FP32", "optimizer": {"learningRate": 0.02}},
        compression={"quantization": {"calibrationImages": 20, "maxMetricDrop": 0.1}},
        export={"dynamicBatch": dynamic},
        evaluation={"splits": ["validation"]},
    )
    result = train_manifest(path, str(tmp_path / "store"))
    bundle = load_bundle(str(result.artifact))
    graph = onnx.load(str(bundle.model)).graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    assert (bundle.manifest.precision, bundle.precisions) == ("INT8", ("FP32", "INT8"))
    assert any(node.op_type == "QuantizeLinear" for node in graph.node), "the FP32 model was delivered"
    full = onnx.load(str(bundle.model_of("FP32"))).graph
    assert not any(node.op_type == "QuantizeLinear" for node in full.node)
    assert bundle.model_of("FP32").stat().st_size > bundle.model.stat().st_size
    assert bool(batch.dim_param) if dynamic else batch.dim_value == 1
    metrics = bundle.manifest.metrics
    assert metrics.before_compression["validation/accuracy"] >= 0.9
    assert metrics.exported["validation/accuracy"] >= metrics.before_compression["validation/accuracy"] - 0.1
    assert metrics.exported["size/megabytes"] < 0.6 * metrics.before_compression["size/megabytes"]
    assert set(metrics.before_compression) == set(metrics.exported)
    report = (bundle.path / "report.html").read_text()
    assert "Validation before compression" in report
    assert f"{metrics.before_compression['size/megabytes']:.4g}" in report
    assert metrics.exported["validation/accuracy"] == result.metrics["validation/accuracy"]
    profile = bundle.profile()
    assert profile is not None
    assert (profile.items, profile.splits) == (12, ("validation",)), "train images are no reference"
    assert profile.accuracy == metrics.exported["validation/accuracy"], "of the model that is served"
    assert sum(profile.classes.values()) == sum(profile.features["brightness"]) == 12


@pytest.mark.parametrize(
    ("before", "after", "quantized"), [(0.5, 0.495, True), (0.5, 0.48, False), (0.5, 0.6, True), (None, 0.5, False)]
)
def test_eight_bits_are_delivered_where_the_metric_holds(
    before: float | None, after: float | None, quantized: bool
) -> None:
    choice = choose("validation/mAP", before, after, 0.01)
    assert choice.quantized == quantized
    assert choice.reason.startswith("INT8 is delivered" if quantized else "FP32 is delivered: validation/mAP")


@pytest.mark.parametrize("metric", ["loss", "f1"])
def test_the_choice_goes_by_a_metric_that_an_exported_model_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, metric: str
) -> None:
    """An 8-bit model that answers nothing right; the double stands for a network that 8 bits ruin."""

    def ruin(model: Path, path: Path, batches: object, **_: object) -> Path:
        graph = onnx.load(str(model))
        for tensor in graph.graph.initializer:
            if len(tensor.dims) > 1:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
        onnx.save(graph, str(path))
        return path

    monkeypatch.setattr(quantize, "quantize_static", ruin)
    caplog.set_level("INFO")
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        training={"epochs": 4, "batchSize": 8, "precision": "FP32", "optimizer": {"learningRate": 0.02}},
        compression={"quantization": {}},
        evaluation={"splits": ["validation"], "primaryMetric": metric},
    )
    bundle = load_bundle(str(train_manifest(path, str(tmp_path / "store")).artifact))
    assert (bundle.manifest.precision, bundle.precisions) == (None, ("FP32",))
    shown = "accuracy" if metric == "loss" else metric
    assert f"FP32 is delivered: validation/{shown} is " in caplog.text
    assert not bundle.manifest.metrics.before_compression
