"""From the best weights to the stored bundle: what is delivered is what was measured."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fovea_serving.bundle import load_bundle
from fovea_trainer.local import train_manifest
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
    assert any(node.op_type == "QuantizeLinear" for node in graph.node), "the FP32 model was delivered"
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
