"""Matching, losses and decoding of the detectors, against torchvision and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from fovea_api.trainingjob import Loss
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.heads.fasterrcnn import FasterRCNN, LevelPool, RawProposals, _iou
from fovea_trainer.models.heads.retinanet import RawBoxes, RetinaNet
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.tasks.detection.targets import BoxTargets
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import MultiScaleRoIAlign, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

SMALL = {"fpnChannels": 16, "anchorSizes": (), "anchorRatios": ()}


def boxes(count: int, seed: int = 0, longest: float = 120) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random) * 100
    return torch.cat([low, low + 5 + torch.rand(count, 2, generator=random) * longest], 1)


def retinanet(loss: Loss = Loss.FOCAL) -> RetinaNet:
    torch.manual_seed(0)
    network = build(NetworkDescription("retinanet", Body("mobilenetv3_small_050"), SMALL, 3), LossSettings(loss))
    assert isinstance(network, RetinaNet)
    return network.eval()


def faster_rcnn(proposals: int = 32) -> FasterRCNN:
    torch.manual_seed(0)
    options = {**SMALL, "proposals": proposals}
    network = build(NetworkDescription("fasterrcnn", Body("mobilenetv3_small_050"), options, 3), LossSettings())
    assert isinstance(network, FasterRCNN)
    return network.eval()


def raw_boxes(network: RetinaNet, seed: int = 0) -> RawBoxes:
    """Random raw outputs for two images of 128 x 96."""
    with torch.no_grad():
        plain = network(torch.zeros(2, 3, 96, 128))
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(plain.logits.shape, generator=random)
    return RawBoxes(logits, torch.randn(plain.deltas.shape, generator=random) * 0.2, plain.anchors, plain.size)


@pytest.mark.parametrize("loss", [Loss.FOCAL, Loss.SMOOTH_L1, Loss.GIOU])
def test_retinanets_loss_is_that_of_its_paper(loss: Loss) -> None:
    """Focal over all anchors but those of IoU 0.4 to 0.5, box loss over those of 0.5, both over the matched ones."""
    network = retinanet(loss)
    raw = raw_boxes(network)
    objects, labels = torch.tensor([[8.0, 8, 60, 70], [70, 20, 120, 90]]), torch.tensor([2, 0])
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    losses = network.loss(raw, BoxTargets((objects, nothing[0]), (labels, nothing[1])))

    overlap = box_iou(objects, raw.anchors)
    best, match = overlap.max(0)
    positive = best >= 0.5
    for row in overlap:  # the best anchors of every object are positive, whatever they overlap
        positive |= row == row.max()
    counted = positive | (best < 0.4)
    target = torch.zeros_like(raw.logits[0])
    target[positive, labels[match[positive]]] = 1
    n_positive = max(1, int(positive.sum()))
    focal = sigmoid_focal_loss(raw.logits[0][counted], target[counted], reduction="sum") / n_positive
    empty = sigmoid_focal_loss(raw.logits[1], torch.zeros_like(raw.logits[1]), reduction="sum")
    assert losses["class"] == pytest.approx(float((focal + empty) / 2), rel=1e-4)

    anchors, deltas, matched = raw.anchors[positive], raw.deltas[0][positive], objects[match[positive]]
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    if loss is Loss.GIOU:
        box = generalized_box_iou_loss(coder.decode_single(deltas, anchors), matched, reduction="sum")
    else:
        error = (deltas - coder.encode_single(matched, anchors)).abs()
        box = (error if loss is Loss.FOCAL else torch.where(error < 1, error**2 / 2, error - 0.5)).sum()
    assert losses["box"] == pytest.approx(float(box / n_positive / 2), rel=1e-4)


def test_retinanets_scores_are_the_sigmoid_of_its_logits_and_its_boxes_decoded_anchors() -> None:
    network = retinanet()
    raw = raw_boxes(network)
    outputs = network.decode(raw)
    assert torch.allclose(outputs["scores"], 1 / (1 + (-raw.logits).exp()))
    still = RawBoxes(raw.logits, torch.zeros_like(raw.deltas), raw.anchors, raw.size)
    low, high = raw.anchors[:, :2], raw.anchors[:, 2:]
    limit = torch.tensor([128.0, 96.0])
    expected = torch.cat([low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)], 1)
    assert torch.allclose(network.decode(still)["boxes"][0], expected, atol=1e-4)


def test_proposals_are_pooled_from_the_level_of_their_size_as_in_torchvision() -> None:
    random = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 4, 320 // stride, 320 // stride, generator=random) for stride in (8, 16, 32, 64, 128)]
    proposals = [boxes(20, seed, longest=250).clamp(max=319) for seed in (0, 1)]
    # torchvision takes the level of stride 16 for 224 pixels when 4 is the level of the canonical size.
    reference = MultiScaleRoIAlign(["0", "1", "2"], 7, 2, canonical_scale=224, canonical_level=4)
    named = {str(index): values for index, values in enumerate(features[:3])}
    expected = reference(named, proposals, [(320, 320)] * 2)
    assert torch.allclose(LevelPool()(features, proposals), expected, atol=1e-5)


def test_overlaps_of_all_pairs_are_torchvisions() -> None:
    some = torch.stack([boxes(10), boxes(10, seed=3)])
    assert torch.allclose(_iou(some)[1], box_iou(some[1], some[1]), atol=1e-5)


def raw_proposals(network: FasterRCNN) -> RawProposals:
    torch.manual_seed(0)
    with torch.no_grad():
        raw: RawProposals = network(torch.randn(1, 3, 96, 128))
    return raw


def test_the_background_is_class_0_inside_and_no_class_outside() -> None:
    """The second stage says of everything: class index 1 inside, which is class 0 of the dataset."""
    network = faster_rcnn()
    raw = raw_proposals(network)
    predictor = network.roi.box_predictor
    with torch.no_grad():
        predictor.scores.weight.zero_()
        predictor.scores.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
        scores = network.decode(raw)["scores"]
        assert scores.shape[-1] == 3
        assert (scores.argmax(-1) == 0).all()
        assert float(scores.min()) < 0.01 < 0.99 < float(scores.max())
        nothing = BoxTargets((torch.zeros(0, 4),), (torch.zeros(0, dtype=torch.int64),))
        everywhere_class_0 = network.loss(raw, nothing)["class"]
        predictor.scores.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
        everywhere_background = network.loss(raw, nothing)["class"]
    assert everywhere_background == pytest.approx(math.log(1 + 3 * math.exp(-9)), rel=1e-3)
    assert everywhere_class_0 == pytest.approx(9 + math.log(1 + 3 * math.exp(-9)), rel=1e-3)


def test_the_label_of_an_object_is_its_class_inside_plus_one() -> None:
    network = faster_rcnn()
    raw = raw_proposals(network)
    predictor, label = network.roi.box_predictor, 2
    target = BoxTargets((torch.tensor([[0.0, 0, 128, 96]]),), (torch.tensor([label]),))
    losses = []
    with torch.no_grad():
        predictor.scores.weight.zero_()
        for index in range(4):
            predictor.scores.bias.copy_(9.0 * torch.eye(4)[index])
            torch.manual_seed(0)
            losses.append(float(network.loss(raw, target)["class"]))
    foreground = losses.index(min(losses[1:]))
    assert foreground == label + 1


def test_proposals_that_overlap_a_better_one_are_thinned_out() -> None:
    """20 anchors in one place and one elsewhere: the two best of different places come first."""
    network = faster_rcnn(proposals=2)
    raw = raw_proposals(network)
    anchors = torch.cat([torch.tensor([[10.0, 10, 60, 60]]).repeat(7, 1), torch.tensor([[70.0, 20, 110, 90]])])
    objectness = torch.tensor([9.0, 8, 7, 6, 5, 4, 3, 1])[:, None]
    few = RawProposals(raw.features, objectness, torch.zeros(8, 4), anchors, (8,), raw.size)
    kept = network._propose(few)[0]
    assert {tuple(box) for box in kept.tolist()} == {(10.0, 10.0, 60.0, 60.0), (70.0, 20.0, 110.0, 90.0)}


def test_the_first_stages_loss_is_that_of_torchvision() -> None:
    """As RegionProposalNetwork.forward gives it for the same outputs."""
    network = faster_rcnn()
    raw = raw_proposals(network)
    target = BoxTargets((torch.tensor([[10.0, 10, 70, 80]]),), (torch.tensor([1]),))
    torch.manual_seed(1)
    losses = network.loss(raw, target)
    torch.manual_seed(1)
    labels, matched = network.rpn.assign_targets_to_anchors([raw.anchors], [{"boxes": target.boxes[0]}])
    expected = network.rpn.box_coder.encode(matched, [raw.anchors])
    objectness, box = network.rpn.compute_loss(raw.objectness, raw.deltas, labels, expected)
    assert losses["objectness"] == pytest.approx(float(objectness))
    assert losses["proposalBox"] == pytest.approx(float(box))
    overlap = box_iou(target.boxes[0], raw.anchors)[0]
    background = (overlap < 0.3) & (overlap < overlap.max())
    assert (labels[0][background] == 0).all()
    assert (labels[0][(overlap >= 0.7) | (overlap == overlap.max())] == 1).all()
