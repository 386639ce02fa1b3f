"""Box decoding against torchvision."""

from __future__ import annotations

import pytest
import torch
from fovea_trainer.models.boxes import decode
from fovea_trainer.models.heads.fasterrcnn import REGRESSION_WEIGHTS
from torchvision.models.detection._utils import BoxCoder


def boxes(count: int, seed: int = 0, longest: float = 120) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random) * 100
    return torch.cat([low, low + 5 + torch.rand(count, 2, generator=random) * longest], 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), REGRESSION_WEIGHTS, (8.0, 4.0, 2.0, 6.0)])
def test_decoding_is_that_of_torchvision(weights: tuple[float, ...]) -> None:
    anchors, deltas = boxes(50), torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    expected = BoxCoder(weights).decode_single(deltas, anchors)
    expected[:, 0::2] = expected[:, 0::2].clamp(0, 200)
    expected[:, 1::2] = expected[:, 1::2].clamp(0, 160)
    assert torch.allclose(decode(deltas, anchors, 160, 200, weights), expected, atol=1e-4)
    of_two_images = decode(torch.stack([torch.zeros_like(deltas), deltas]), anchors, 160, 200, weights)
    assert torch.allclose(of_two_images[1], expected, atol=1e-4)


def test_decoding_undoes_encoding() -> None:
    anchors, objects = boxes(30), boxes(30, seed=2)
    deltas = BoxCoder((1.0, 1.0, 1.0, 1.0)).encode_single(objects, anchors)
    assert torch.allclose(decode(deltas, anchors, 400, 400), objects, atol=1e-3)


def test_a_wild_size_stays_finite() -> None:
    decoded = decode(torch.tensor([[0.0, 0, 1e4, 1e4]]), torch.tensor([[0.0, 0, 10, 10]]), 100, 100)
    assert decoded.tolist() == [[0, 0, 100, 100]]


def test_a_large_size_is_clamped_as_in_torchvision() -> None:
    anchors, deltas = boxes(20, longest=10), torch.full((20, 4), 6.0)
    deltas[:, :2] = 0.0
    expected = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(deltas, anchors).clamp(0, 5000)
    assert float(expected.max()) < 5000
    assert torch.allclose(decode(deltas, anchors, 5000, 5000), expected, atol=1e-3)


def test_a_box_is_clipped_to_width_and_height() -> None:
    anchors = torch.tensor([[-20.0, -10, 300, 200], [10, 20, 30, 40]])
    assert decode(torch.zeros(2, 4), anchors, 100, 150).tolist() == [[0, 0, 150, 100], [10, 20, 30, 40]]
