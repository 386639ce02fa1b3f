"""Mask R-CNN against torchvision's RoIHeads."""

from __future__ import annotations

import pytest
import torch
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.heads.base import heads
from fovea_trainer.models.heads.maskrcnn import MaskRCNN
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets
from torchvision.models.detection.roi_heads import maskrcnn_inference, maskrcnn_loss


@pytest.fixture(scope="module")
def network() -> MaskRCNN:
    torch.manual_seed(0)
    options = {option.name: option.default for option in heads()["maskrcnn"].options}
    small = {"fpnChannels": 16, "proposals": 16, "maskChannels": 16}
    description = NetworkDescription("maskrcnn", Body("test_resnet"), {**options, **small}, 3)
    built = build(description, LossSettings())
    assert isinstance(built, MaskRCNN)
    return built.eval()


def targets() -> InstanceTargets:
    """Two objects that overlap, and one alone."""
    layers = torch.zeros(2, 64, 96, dtype=torch.int16)
    layers[0, 10:40, 10:50], layers[1, 20:60, 30:80] = 1, 2
    single = torch.zeros(1, 64, 96, dtype=torch.int16)
    single[0, 5:30, 60:90] = 1
    return InstanceTargets(
        (torch.tensor([[10.0, 10, 50, 40], [30, 20, 80, 60]]), torch.tensor([[60.0, 5, 90, 30]])),
        (torch.tensor([2, 0]), torch.tensor([1])),
        (layers, single),
    )


def test_the_loss_of_the_masks_is_torchvisions(network: MaskRCNN) -> None:
    """Of the same proposals, with all objects of an image as whole masks."""
    objects, images = targets(), torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    raw = network(images)
    torch.manual_seed(5)
    parts, sampled = network.sampled_loss(raw, objects)
    torch.manual_seed(5)
    losses = network.loss(raw, objects)
    assert set(losses) == {*parts, "mask"}
    positive = [labels > 0 for labels in sampled.labels]
    proposals = [boxes[chosen] for boxes, chosen in zip(sampled.proposals, positive, strict=True)]
    matched = [index[chosen] for index, chosen in zip(sampled.objects, positive, strict=True)]
    masks = [objects.masks(image, torch.arange(len(labels))) for image, labels in enumerate(objects.labels)]
    logits = network.mask_predictor(network.mask_head(network.mask_pool(raw.features, proposals)))
    expected = maskrcnn_loss(logits, proposals, masks, list(objects.labels), matched)
    assert losses["mask"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert sum(map(len, proposals)) > 3


def test_the_masks_are_those_of_the_best_class(network: MaskRCNN) -> None:
    raw = network(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    outputs = network.decode(raw)
    assert outputs["masks"].shape == (2, 16, 28, 28)
    boxes, best = list(outputs["boxes"]), outputs["scores"].argmax(-1)
    logits = network.mask_predictor(network.mask_head(network.mask_pool(raw.features, boxes)))
    expected = maskrcnn_inference(logits, list(best))
    for image in range(2):
        assert torch.allclose(outputs["masks"][image], expected[image][:, 0], atol=1e-6)


def test_a_batch_without_objects_has_a_loss(network: MaskRCNN) -> None:
    nothing = InstanceTargets(
        (torch.zeros(0, 4),), (torch.zeros(0, dtype=torch.int64),), (torch.zeros(1, 64, 96, dtype=torch.int16),)
    )
    losses = network.loss(network(torch.randn(1, 3, 64, 96)), nothing)
    assert losses["mask"].item() == 0
    assert torch.isfinite(sum(losses.values()))  # type: ignore[arg-type]
