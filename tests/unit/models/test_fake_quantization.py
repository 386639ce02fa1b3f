"""Fake quantization rounds as ONNX Runtime's 8-bit layers do, and leaves a network's state as it is."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from fovea_api.common import Task
from fovea_serving.pipeline import Postprocess, Preprocess
from fovea_serving.predictor import Predictor
from fovea_trainer.export import Exportable, exporter, quantize_static
from fovea_trainer.models.fake_quantization import fake_quantize, round_activations, round_weights
from torch import nn


def test_weights_are_rounded_to_steps_of_the_largest_of_each_output() -> None:
    weights = torch.tensor([[64.0, 1.25, -0.4], [-128.0, 3.0, 0.0]])
    assert round_weights(weights).tolist() == [[64, 1, 0], [-128, 4, 0]], "1.5 steps of 2 are rounded to the even 2"
    assert not round_weights(torch.zeros(2, 3, 1, 1)).any(), "an output without weights has no range"


def test_activations_are_rounded_to_steps_of_a_range_with_zero() -> None:
    values = torch.tensor([-51.0, 0.0, 0.4, 0.6, 204.0])  # 255 steps of 1
    assert round_activations(values).tolist() == [-51, 0, 0, 1, 204]
    assert round_activations(torch.tensor([10.0, 255.0, 11.3])).tolist() == [10, 255, 11], "the range begins at 0"


def test_gradients_are_those_of_the_values() -> None:
    values = torch.randn(4, 3, requires_grad=True)
    (round_activations(round_weights(values)) * torch.arange(3.0)).sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.arange(3.0).expand(4, 3))


def test_a_network_computes_so_and_keeps_its_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    state, images = copy.deepcopy(network.state_dict()), torch.randn(2, 3, 8, 8)
    plain = network(images)
    fake_quantize(network)
    fake_quantize(network)
    assert {name: value.tolist() for name, value in network.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    rounded = network(images)
    assert 0 < float((rounded - plain).abs().max().detach()) < 0.1
    first = nn.functional.conv2d(round_activations(images), round_weights(state["0.weight"]), state["0.bias"])
    assert torch.equal(network[0](images), first)
    assert torch.equal(copy.deepcopy(network)(images), rounded)
    network(images).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_what_onnx_runtime_computes(seed: int, tmp_path: Path) -> None:
    """Within a step of the output, which ONNX Runtime rounds as well."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False)).eval()
    images = torch.randn(4, 3, 32, 32)
    model = tmp_path / "model.onnx"
    exporter("ONNX").write(Exportable(network, network, Task.SEMANTIC_SEGMENTATION, (32, 32), True), model)
    small = quantize_static(model, tmp_path / "small.onnx", [images.numpy()])
    outputs = Predictor(small, Preprocess(32, 32), Postprocess(Task.SEMANTIC_SEGMENTATION)).run(images.numpy())
    (measured,) = outputs.values()
    fake_quantize(network)
    expected = network(images).detach().numpy()
    step = float(np.ptp(expected)) / 255
    assert np.abs(measured - expected).max() <= step
