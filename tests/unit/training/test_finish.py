"""From the best weights to the stored bundle: what is delivered is what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fovea_serving.bundle import MODEL, WEIGHTS, load_bundle
from fovea_trainer.local import train_manifest
from fovea_trainer.models.description import restore
from fovea_trainer.training import finish, quantize
from fovea_trainer.training.quantize import choose
from fovea_trainer.training.state import State
from fovea_trainer.training.trained import Measured, Trained
from fovea_trainer.training.training_run import TrainingRun
from synthetic import manifest

TRAINING = {"epochs": 4, "batchSize": 8, "precision": "FP32", "optimizer": {"learningRate": 0.02}}


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
    assert result.training is not None
    trained, small = result.training.compression
    assert (trained.name, small.name, small.floating_layers) == ("Trained", "Quantized", ())
    assert (trained.metric, small.metric) == ("validation/accuracy",) * 2
    assert (trained.value, small.value) == (
        metrics.before_compression["validation/accuracy"],
        metrics.exported["validation/accuracy"],
    )
    assert trained.interval is not None
    assert trained.interval[0] <= (trained.value or 0) <= trained.interval[1]
    assert small.megabytes == metrics.exported["size/megabytes"] < trained.megabytes
    assert small.giga_macs == trained.giga_macs > 0
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


def test_a_pruned_network_is_delivered_as_any_and_each_stage_is_measured(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        training=TRAINING,
        compression={
            "pruning": {"sparsity": 0.5, "fineTuneEpochs": 2},
            "quantization": {"calibrationImages": 20, "maxMetricDrop": 0.1},
        },
        export={"formats": ["ONNX", "ExportedProgram"]},
        evaluation={"splits": ["validation"]},
    )
    result = train_manifest(path, str(tmp_path / "store"))
    bundle = load_bundle(str(result.artifact))
    assert result.training is not None
    trained, pruned, quantized = result.training.compression
    assert (trained.name, pruned.name, quantized.name) == ("Trained", "Pruned", "Quantized")
    assert pruned.giga_macs == quantized.giga_macs < 0.35 * trained.giga_macs
    assert pruned.mega_parameters < 0.35 * trained.mega_parameters
    assert quantized.megabytes < pruned.megabytes < 0.5 * trained.megabytes
    assert (pruned.value or 0) >= (trained.value or 0) - 0.1
    metrics = bundle.manifest.metrics
    assert metrics.before_compression["complexity/gigaMacs"] == trained.giga_macs
    assert metrics.exported["complexity/gigaMacs"] == pruned.giga_macs
    assert (result.training.epochs, metrics.exported["validation/accuracy"]) == (6, quantized.value)
    network = restore(bundle.path / WEIGHTS)
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(pruned.mega_parameters * 1e6)
    assert (bundle.path / "model.pt2").exists()
    report = (bundle.path / "report.html").read_text()
    assert "Pruning removed 50% of the channels" in report
    assert all(f"<td>{stage}</td>" in report for stage in ("Trained", "Pruned", "Quantized"))


def widen(model: Path, layers: int) -> None:
    """Makes the first layers of a model incompatible with 8 bits per channel, and leaves what it computes as it is: one
    input channel of a layer's weights becomes huge, and what comes in there as small, so that all others round to 0."""
    graph = onnx.load(str(model))
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"][:layers]
    for number, node in enumerate(convolutions):
        values = onnx.numpy_helper.to_array(weights[node.input[1]]).copy()
        scale = np.ones((1, values.shape[1], 1, 1), np.float32)
        scale[0, 0] = 1e5
        weights[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(values * scale, node.input[1]))
        factor = onnx.numpy_helper.from_array(1 / scale, f"factor{number}")
        graph.graph.initializer.append(factor)
        scaled = onnx.helper.make_node("Mul", [node.input[0], factor.name], [f"scaled{number}"], f"scaling{number}")
        node.input[0] = f"scaled{number}"
        graph.graph.node.insert(list(graph.graph.node).index(node), scaled)
    onnx.save(graph, str(model))


@pytest.fixture
def widened(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the exported models widened before they are measured; parity has been checked by then."""

    def change(layers: int) -> None:
        measure = finish._measure

        def measure_widened(trained: Trained, folder: Path) -> Measured:
            widen(folder / MODEL, layers)
            return measure(trained, folder)

        monkeypatch.setattr(finish, "_measure", measure_widened)

    return change


def test_the_most_sensitive_layers_stay_in_floating_point(
    tmp_path: Path, widened: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    widened(1)
    caplog.set_level("INFO")
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        training=TRAINING,
        compression={"quantization": {"calibrationImages": 20, "maxMetricDrop": 0.1}},
        evaluation={"splits": ["validation"], "primaryMetric": "loss"},
    )
    result = train_manifest(path, str(tmp_path / "store"))
    bundle = load_bundle(str(result.artifact))
    assert result.training is not None
    assert bundle.manifest.precision == "INT8"
    layers = result.training.compression[-1].floating_layers
    assert len(layers) == 2, "a twentieth of 22 layers, rounded up"
    assert layers[0] == "body.conv1", "the layer that was made sensitive, by its name in the network"
    graph = onnx.load(str(bundle.model)).graph
    floating = {tensor.name for tensor in graph.initializer if tensor.data_type == 1 and len(tensor.dims) == 4}
    assert "module.network.body.conv1.weight" in floating
    assert not any("layer1" in name for name in floating), "the others are in 8 bits"
    assert "validation/accuracy is 1.0000 with 8-bit integers" in caplog.text
    assert f"2 of 22 layers stay in floating point: {', '.join(layers)}." in caplog.text
    assert f"<li>{layers[1]}</li>" in (bundle.path / "report.html").read_text()


def test_floating_point_is_delivered_where_too_many_layers_are_sensitive(
    tmp_path: Path, widened: Callable[[int], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "FLOATING_SHARES", (0.05,))
    widened(21)
    caplog.set_level("INFO")
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        training=TRAINING,
        compression={"quantization": {}},
        evaluation={"splits": ["validation"], "primaryMetric": "f1"},
    )
    bundle = load_bundle(str(train_manifest(path, str(tmp_path / "store")).artifact))
    assert (bundle.manifest.precision, bundle.precisions) == (None, ("FP32",))
    assert "FP32 is delivered: validation/f1 is " in caplog.text
    assert "even with the most sensitive 2 of 22 layers in floating point" in caplog.text
    assert not bundle.manifest.metrics.before_compression


def test_where_8_bits_lose_too_much_the_network_learns_to_compute_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel of each block is made huge, and the weights that read it as small: all other channels round to 0."""
    restore_trained = finish.restore

    def restore_widened(run: TrainingRun, state: State) -> Trained:
        made = restore_trained(run, state)
        for name, module in made.network.named_modules():
            if name.endswith(".bn1") and "layer" in name:
                reader = made.network.get_submodule(name.replace("bn1", "conv2"))
                with torch.no_grad():
                    module.weight[0] *= 1e4
                    module.bias[0] *= 1e4
                    reader.weight[:, 0] /= 1e4
        return made

    monkeypatch.setattr(finish, "restore", restore_widened)
    monkeypatch.setattr(quantize, "FLOATING_SHARES", (0.05,))
    monkeypatch.setattr(quantize, "SENSITIVITY_SECONDS", 0.0)
    caplog.set_level("INFO")
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        training=TRAINING,
        compression={"quantization": {"calibrationImages": 20, "maxMetricDrop": 0.1, "fineTuneEpochs": 4}},
        evaluation={"splits": ["validation"]},
    )
    result = train_manifest(path, str(tmp_path / "store"))
    assert result.training is not None
    full, small = result.training.compression
    assert (full.value, small.name) == (1.0, "Quantized")
    assert "after 0 minutes 1 of the 22 layers were compared" in caplog.text
    assert "FP32 is delivered: validation/accuracy is 0." in caplog.text, "before it learned"
    assert "with 8-bit integers after 4 epochs of quantization-aware fine-tuning and 1.0000 in FP32" in caplog.text
    assert load_bundle(str(result.artifact)).manifest.precision == "INT8"


def test_products_of_matrices_compute_their_ranges_as_they_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = manifest(
        tmp_path,
        {"train": 64, "validation": 12},
        model={"architecture": "timm/test_vit", "pretrained": {"weights": "None"}},
        input={"augmentations": []},
        training=TRAINING | {"optimizer": {"learningRate": 0.002}},
        compression={"quantization": {"mode": "Dynamic", "maxMetricDrop": 0.1}},
        evaluation={"splits": ["validation"]},
    )
    result = train_manifest(path, str(tmp_path / "store"))
    bundle = load_bundle(str(result.artifact))
    operations = [node.op_type for node in onnx.load(str(bundle.model)).graph.node]
    assert (bundle.manifest.precision, operations.count("MatMulInteger")) == ("INT8", 25)
    assert "QuantizeLinear" not in operations
    assert result.training is not None
    full, small = result.training.compression
    assert small.megabytes < 0.5 * full.megabytes
    assert (small.value or 0) >= (full.value or 0) - 0.1 >= 0.4
    assert "with 8-bit integers in products of matrices and " in caplog.text


def test_what_has_no_products_of_matrices_stays_in_floating_point(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fovea_trainer.export.quantization.DynamicModel.operations", ())
    caplog.set_level("INFO")
    path = manifest(
        tmp_path, {"train": 16, "validation": 4},
        compression={"quantization": {"mode": "Dynamic"}}, evaluation={"splits": ["validation"]},
    )  # fmt: skip
    bundle = load_bundle(str(train_manifest(path, str(tmp_path / "store")).artifact))
    assert (bundle.manifest.precision, bundle.precisions) == (None, ("FP32",))
    assert quantize.NO_LAYERS in (bundle.path / "report.html").read_text()
