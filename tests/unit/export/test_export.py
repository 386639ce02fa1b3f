"""Exported files compute what the module computes, and the check of that is not vacuous."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from fovea_api.common import Task
from fovea_api.errors import MissingExtra, NotSupported
from fovea_api.trainingjob import Recipe
from fovea_serving.backends import BackendOptions, Device, InvalidModel, open_backend
from fovea_serving.pipeline import Postprocess, Preprocess, decode
from fovea_serving.predictor import Predictor
from fovea_trainer.export import (
    Exportable,
    ExportError,
    ParityError,
    check_parity,
    exporter,
    quantize_static,
    save_weights,
)
from fovea_trainer.export.exporters import tflite
from fovea_trainer.export.quantization import calibrated, decibels, dynamic, weight_decibels
from fovea_trainer.training.finish import check_supported
from safetensors.torch import load_file
from torch import Tensor, nn

PHOTOS = sorted((Path(__file__).parents[3] / "examples/data/bccd/BCCD/JPEGImages").glob("*.jpg"))[:8]
SIZE = (96, 64)


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return Preprocess(*SIZE).batch([decode(photo.read_bytes()) for photo in PHOTOS])[0]


def exportable(module: nn.Module, task: Task = Task.CLASSIFICATION, dynamic_batch: bool = True) -> Exportable:
    return Exportable(module, module, task, SIZE, dynamic_batch)


def export(model: Exportable, folder: Path, name: str = "ONNX") -> Path:
    """The file of a format."""
    form = exporter(name)
    form.write(model, folder / form.file)
    return folder / form.file


class Classifier(nn.Module):
    """A small real network whose batch norms have seen real images."""

    def __init__(self, batch: np.ndarray) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = timm.create_model("mobilenetv3_small_050", num_classes=3)
        with torch.no_grad():
            for _ in range(4):
                self.body(torch.from_numpy(batch))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


class Detector(nn.Module):
    """Boxes and scores of a grid of anchors, decoded in the graph; gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 8, 1), nn.ReLU(), nn.Conv2d(16, 7, 3, 1, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.body(image).flatten(2).transpose(1, 2)
        center = outputs[..., :2].tanh() * 20 + 40
        half = outputs[..., 2:4].clamp(max=3).exp() * 4
        return {"scores": outputs[..., 4:].sigmoid(), "boxes": torch.cat([center - half, center + half], -1)}


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.interpolate(self.body(image), scale_factor=2.0, mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def classifier(batch: np.ndarray) -> Classifier:
    return Classifier(batch)


@pytest.fixture(scope="module")
def exported(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(exportable(classifier), tmp_path_factory.mktemp("onnx"))


def test_a_classifier_agrees_for_every_batch_size(exported: Path, classifier: Classifier, batch: np.ndarray) -> None:
    parity = check_parity(exportable(classifier), exported, batch)
    assert parity.images == len(PHOTOS)
    assert parity.difference["logits"] < 1e-4 < parity.spread["logits"]
    predictor = Predictor(exported, Preprocess(*SIZE), Postprocess(Task.CLASSIFICATION), max_batch=3)
    with torch.no_grad():
        assert predictor.run(batch)["logits"] == pytest.approx(classifier(torch.from_numpy(batch)).numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("module", "task"), [(Detector(), Task.DETECTION), (Segmenter(), Task.SEMANTIC_SEGMENTATION)], ids=str
)
@pytest.mark.parametrize("dynamic", [True, False])
def test_every_task_is_exported(
    module: nn.Module, task: Task, dynamic: bool, batch: np.ndarray, tmp_path: Path
) -> None:
    model = exportable(module, task, dynamic)
    path = export(model, tmp_path)
    check_parity(model, path, batch)
    check_parity(model, export(model, tmp_path, "ExportedProgram"), batch)
    openvino = export(replace(model, onnx=path), tmp_path, "OpenVINO")
    check_parity(model, openvino, batch)
    assert open_backend(openvino, BackendOptions(Postprocess(task).outputs)).fixed_batch == (None if dynamic else 1)
    written = onnx.load(str(path))
    shape = written.graph.input[0].type.tensor_type.shape.dim
    assert written.graph.input[0].name == "image"
    assert bool(shape[0].dim_param) == dynamic
    assert [dim.dim_value for dim in shape[1:]] == [3, 64, 96]
    assert [output.name for output in written.graph.output] == list(Postprocess(task).outputs)


class Chooser(nn.Module):
    """A hundred boxes that follow from the image, in an order, and with some of them moved."""

    def __init__(self, order: list[int], moved: int = 0) -> None:
        super().__init__()
        shift = torch.zeros(100, 1)
        shift[:moved] = 5.0
        self.order, self.shift = torch.tensor(order), shift

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        colour = image.mean((2, 3))[:, :1, None]
        boxes = colour + torch.arange(400.0).reshape(1, 100, 4) + self.shift
        scores = (colour + torch.linspace(-3, 3, 100)[None, :, None]).sigmoid()
        return boxes[:, self.order], scores[:, self.order]


def test_boxes_that_are_chosen_agree_in_any_order_but_for_a_few(batch: np.ndarray, tmp_path: Path) -> None:
    order = list(range(100))
    file = export(exportable(Chooser(order), Task.DETECTION), tmp_path)
    swapped = [*order[:40], 41, 40, *order[42:]]
    with pytest.raises(ParityError, match=r"boxes\[.*allowed is a difference"):
        check_parity(exportable(Chooser(swapped), Task.DETECTION), file, batch)
    for moved in (0, 5):
        model = replace(exportable(Chooser(swapped, moved), Task.DETECTION), chooses_boxes=True)
        assert check_parity(model, file, batch).difference["boxes"] < 0.01
    model = replace(exportable(Chooser(swapped, 6), Task.DETECTION), chooses_boxes=True)
    with pytest.raises(ParityError, match=r"boxes\[.*allowed is a difference"):
        check_parity(model, file, batch)


def test_the_file_is_whole(exported: Path) -> None:
    assert [file.name for file in exported.parent.iterdir()] == ["model.onnx"]


def test_changed_weights_are_found(exported: Path, classifier: Classifier, batch: np.ndarray, tmp_path: Path) -> None:
    model = onnx.load(str(exported))
    weights = next(tensor for tensor in model.graph.initializer if sorted(tensor.dims) == [3, 1024])
    values = onnx.numpy_helper.to_array(weights).copy()
    values.reshape(-1)[:1024] += 0.01
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(ParityError, match=r"logits\[.*allowed is a difference"):
        check_parity(exportable(classifier), tmp_path / "model.onnx", batch)


def test_a_network_that_ignores_its_input_proves_nothing(batch: np.ndarray, tmp_path: Path) -> None:
    class Blind(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.mean((2, 3)) * 0 + torch.tensor([1.0, 2.0, 3.0])

    path = export(exportable(Blind()), tmp_path)
    with pytest.raises(ParityError, match="proves nothing"):
        check_parity(exportable(Blind()), path, batch)


def test_a_network_gone_wild_is_found(batch: np.ndarray, tmp_path: Path) -> None:
    class Wild(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.mean((2, 3)).log()

    path = export(exportable(Wild()), tmp_path)
    with pytest.raises(ParityError, match="not finite"):
        check_parity(exportable(Wild()), path, -np.abs(batch))


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    class Impossible(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("no forward today")

    with pytest.raises(ExportError, match="no forward today"):
        export(exportable(Impossible()), tmp_path)
    with pytest.raises(ExportError, match="no forward today"):
        export(exportable(Impossible()), tmp_path, "ExportedProgram")


def test_weights_are_read_back_without_pickle(classifier: Classifier, batch: np.ndarray, tmp_path: Path) -> None:
    save_weights(classifier, tmp_path / "model.safetensors")
    export(exportable(classifier), tmp_path, "StateDict")
    plain = torch.load(tmp_path / "model.pth", weights_only=True)
    for weights in (load_file(tmp_path / "model.safetensors"), plain):
        other = Classifier(batch[:2])
        other.load_state_dict(weights)
        with torch.no_grad():
            assert torch.equal(other(torch.from_numpy(batch)), classifier(torch.from_numpy(batch)))


def test_an_exported_program_is_held_against_the_network(
    classifier: Classifier, batch: np.ndarray, tmp_path: Path
) -> None:
    file = export(exportable(classifier), tmp_path, "ExportedProgram")
    assert check_parity(exportable(classifier), file, batch).difference["logits"] < 1e-4
    other = Classifier(batch[:2])
    with pytest.raises(ParityError, match=r"model\.pt2: logits\[.*allowed is a difference"):
        check_parity(exportable(other), file, batch)


def test_openvino_serves_several_threads_and_no_gpu(
    classifier: Classifier, exported: Path, batch: np.ndarray, tmp_path: Path
) -> None:
    file = export(replace(exportable(classifier), onnx=exported), tmp_path, "OpenVINO")
    assert {each.name for each in file.parent.iterdir()} == {"model.xml", "model.bin"}
    options = BackendOptions(("logits",), threads=1)
    backend = open_backend(file, options)
    assert backend.device is Device.CPU
    with torch.no_grad():
        expected = classifier(torch.from_numpy(batch)).numpy()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda image: backend.run(image[None])["logits"], [*batch] * 8))
    for index, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected[[index % len(batch)]], atol=1e-4)
    with pytest.raises(InvalidModel, match=r"OpenVINO has no CUDA here.*use ONNX"):
        open_backend(file, BackendOptions(("logits",), Device.CUDA))
    with pytest.raises(InvalidModel, match=r"inputs \['image'\] and outputs \['logits'\]"):
        open_backend(file, BackendOptions(("boxes", "scores")))
    file.write_text("<net/>")
    with pytest.raises(InvalidModel, match="OpenVINO cannot load the model"):
        open_backend(file, options)


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is trained; `None` in `sys.modules` is what Python takes for a module that is not there."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    recipe = Recipe.model_validate({"model": {"architecture": "resnet18"}, "export": {"formats": ["ONNX", "OpenVINO"]}})
    with pytest.raises(MissingExtra, match=r"pip install 'fovea\[openvino\]'"):
        check_supported(recipe)
    with pytest.raises(MissingExtra, match=r"OpenVINO needs packages that are not installed"):
        open_backend(tmp_path / "model.xml", BackendOptions(("logits",)))


@pytest.mark.parametrize(("python", "words"), [("/bin/false", "/bin/false does not have"), ("/no/python", "no Python")])
def test_without_its_converter_tflite_is_refused_before_a_training(
    python: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_LITERT_PYTHON", python)
    recipe = Recipe.model_validate({"model": {"architecture": "resnet18"}, "export": {"formats": ["ONNX", "TFLite"]}})
    with pytest.raises(NotSupported, match=words):
        check_supported(recipe)


def test_a_conversion_to_tflite_that_hangs_is_ended(
    batch: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a Python that says it has litert-torch, and then says no more."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$2" = -c ] && exec echo 0.10.0\nexec sleep 600\n')
    python.chmod(0o755)
    monkeypatch.setenv("FOVEA_LITERT_PYTHON", str(python))
    monkeypatch.setattr(tflite, "CONVERSION_SECONDS", 0.1)
    with pytest.raises(ExportError, match=r"did not end within 0\.1 s"):
        export(exportable(Classifier(batch)), tmp_path, "TFLite")


@pytest.mark.skipif(find_spec("litert_torch") is None, reason="the converter is installed by hand: see the guide")
@pytest.mark.parametrize(("module", "task"), [(Detector(), Task.DETECTION), (Segmenter(), Task.SEMANTIC_SEGMENTATION)])
def test_tflite_computes_the_same(module: nn.Module, task: Task, batch: np.ndarray, tmp_path: Path) -> None:
    model = exportable(module, task)
    check_parity(model, export(model, tmp_path, "TFLite"), batch)


@pytest.mark.skipif(find_spec("litert_torch") is None, reason="the converter is installed by hand: see the guide")
@pytest.mark.parametrize(("mode", "size"), [("nearest", (15, 21)), ("bilinear", (15, 21)), ("nearest", (16, 20))])
def test_tflite_takes_the_same_pixels_for_a_larger_map(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    """As a feature pyramid does whose levels are no multiples of each other."""

    class Larger(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            align = None if mode == "nearest" else False
            larger = nn.functional.interpolate(image[..., :8, :10], size=size, mode=mode, align_corners=align)
            return larger.flatten(1)

    batch = np.random.default_rng(0).normal(size=(2, 3, *SIZE[::-1])).astype(np.float32)
    model = exportable(Larger())
    check_parity(model, export(model, tmp_path, "TFLite"), batch)


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotSupported, match=r"does not write CoreML \(use one of ExportedProgram, ONNX, OpenVINO, S"):
        exporter("CoreML")


def test_quantization_makes_it_smaller_and_stays_close(exported: Path, batch: np.ndarray, tmp_path: Path) -> None:
    small = quantize_static(exported, tmp_path / "small.onnx", [batch[:4], batch[4:]])
    assert small.stat().st_size < 0.5 * exported.stat().st_size
    operations = {node.op_type for node in onnx.load(str(small)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operations
    assert "Relu" not in operations, "it is in the rounding"
    task = Postprocess(Task.CLASSIFICATION)
    full, quantized = (Predictor(path, Preprocess(*SIZE), task).run(batch)["logits"] for path in (exported, small))
    assert np.corrcoef(full.ravel(), quantized.ravel())[0, 1] > 0.9
    assert np.abs(full - quantized).max() > 0


def test_the_signal_to_noise_ratio_of_outputs_is_that_of_the_closed_form() -> None:
    one, other = np.full((2, 5), 3.0, np.float32), np.full((2, 5), 10.0, np.float32)
    assert decibels([one], [one + 0.3]) == pytest.approx(20)
    assert decibels([one, other], [one + 0.3, other]) == pytest.approx(20 + 10 * np.log10(2)), "mean over the outputs"
    assert decibels([one], [one]) > 200


def test_the_signal_to_noise_ratio_of_weights_is_that_of_seven_bits_a_row() -> None:
    weights = np.array([[64.0, 1.25], [128.0, 2.5]], np.float32)  # rounded to 1 of 64 steps, which are 1 and 2 wide
    signal, noise = 64**2 + 1.25**2, 0.25**2
    assert weight_decibels(weights) == pytest.approx(10 * np.log10(signal / noise))
    assert weight_decibels(weights[0]) == pytest.approx(weight_decibels(weights)), (
        "a vector, as of a detector's decoding"
    )


def test_layers_are_compared_until_the_time_is_over(batch: np.ndarray, tmp_path: Path) -> None:
    module = Segmenter()
    last = module.body[2]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        last.weight.sign_()  # loses nothing in 8 bits
    with calibrated(export(exportable(module, Task.SEMANTIC_SEGMENTATION), tmp_path), [batch]) as ready:
        everything = ready.sensitivities(batch[:2])
        (first,) = ready.sensitivities(batch[:2], seconds=0)
    assert {each.node for each in everything} == set(ready.layers)
    assert everything[0].decibels <= everything[1].decibels
    assert first.layer.endswith("body.0"), "whose weights lose most"


def weights_of(model: onnx.ModelProto, type: int) -> list[np.ndarray]:
    """Quantized tensors of more than a channel's size, which are no scales or zero points."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == type]
    return [array for array in arrays if array.ndim > 1]


def zero_points(model: onnx.ModelProto) -> list[np.ndarray]:
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [known[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]


def test_weights_use_seven_bits_for_processors_that_saturate(exported: Path, batch: np.ndarray, tmp_path: Path) -> None:
    model = onnx.load(str(quantize_static(exported, tmp_path / "small.onnx", [batch])))
    largest = max(int(np.abs(array.astype(int)).max()) for array in weights_of(model, onnx.TensorProto.INT8))
    assert largest <= 64
    assert any(point.dtype == np.uint8 and point != 0 for point in zero_points(model)), "activations are asymmetric"


def test_for_tensorrt_zero_is_zero_and_weights_use_all_bits(exported: Path, batch: np.ndarray, tmp_path: Path) -> None:
    model = onnx.load(str(quantize_static(exported, tmp_path / "small.onnx", [batch], for_tensorrt=True)))
    assert all(point.dtype == np.int8 and not point.any() for point in zero_points(model))
    assert max(int(np.abs(array.astype(int)).max()) for array in weights_of(model, onnx.TensorProto.INT8)) == 127
    assert not [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT32], (
        "biases are floats"
    )


def test_dynamic_quantization_is_of_products_with_weights(batch: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformer = timm.create_model("test_vit", num_classes=3, img_size=SIZE[::-1]).eval()
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)  # as after a training: no two are equal
    full = export(exportable(transformer), tmp_path)
    with dynamic(full) as ready:
        small = ready.write(tmp_path / "small.onnx")
        first, *others = ready.sensitivities(batch[:2])
        all_but_one = ready.write(tmp_path / "all-but-one.onnx", [first.node])
        layers = set(ready.layers.values())
    linear = {f"module.{name}" for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    assert layers == {each.layer for each in (first, *others)} == linear, "the classifier too, which is a Gemm"
    for path, count in ((small, len(linear)), (all_but_one, len(linear) - 1)):
        operations = [node.op_type for node in onnx.load(str(path)).graph.node]
        assert operations.count("MatMulInteger") == count
        assert {"Conv", "MatMul"} <= set(operations), "patches and attention stay in floating point"
        assert "QuantizeLinear" not in operations, "no range is calibrated"
    assert max(int(np.abs(each.astype(int)).max()) for each in weights_of(onnx.load(str(small)), 3)) <= 64
    task = Postprocess(Task.CLASSIFICATION)
    expected, answers = (Predictor(path, Preprocess(*SIZE), task).run(batch)["logits"] for path in (full, small))
    assert 20 < decibels([expected], [answers]) < 80
    assert small.stat().st_size < 0.5 * full.stat().st_size


def test_a_network_of_convolutions_has_nothing_for_dynamic_quantization(tmp_path: Path) -> None:
    with dynamic(export(exportable(Segmenter(), Task.SEMANTIC_SEGMENTATION), tmp_path)) as ready:
        assert ready.layers == {}


QUANTIZE = """
import logging, pathlib, sys
import numpy as np, onnx
from onnx import helper, numpy_helper
from fovea_trainer.export import quantize_static
folder = pathlib.Path(sys.argv[1])
shape = ["batch", 3, 8, 8]
image, output = (helper.make_tensor_value_info(name, 1, shape) for name in ("image", "logits"))
weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("k", (3, 3, 1, 1)), ("b", 3))]
first = helper.make_node("Conv", ["image", "k", "b"], ["between"])  # a detector's heads share weights, too
second = helper.make_node("Conv", ["between", "k", "b"], ["logits"])
graph = helper.make_graph([first, second], "g", [image], [output], weights)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "full.onnx")
quantize_static(folder / "full.onnx", folder / "small.onnx", [np.random.rand(2, 3, 8, 8).astype(np.float32)])
print("handlers:", logging.getLogger().handlers, "level:", logging.getLogger().level)
"""


def test_quantizing_leaves_the_root_logger_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", QUANTIZE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    assert "handlers: [] level: 30" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "small.onnx").exists()
