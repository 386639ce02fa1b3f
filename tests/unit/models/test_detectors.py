"""Matching, losses and decoding of the detectors, against torchvision and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fovea_api.common import Task
from fovea_api.trainingjob import Loss
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.boxes import overlaps, thin
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.heads.base import Head, heads
from fovea_trainer.models.heads.detection import RawBoxes
from fovea_trainer.models.heads.fasterrcnn import FasterRCNN, LevelPool, RawProposals
from fovea_trainer.models.heads.fcos import FCOS, NO_OBJECT, match
from fovea_trainer.models.heads.retinanet import RetinaNet
from fovea_trainer.models.heads.ssd import NEGATIVES_PER_POSITIVE, SSD
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.norms import BatchNorm
from fovea_trainer.models.points import grid
from fovea_trainer.tasks.detection.targets import BoxTargets
from fovea_trainer.tasks.instance_segmentation.targets import InstanceTargets
from torch import nn
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import MultiScaleRoIAlign, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

SMALL = {"fpnChannels": 16, "anchorSizes": (), "anchorRatios": ()}


def boxes(count: int, seed: int = 0, longest: float = 120) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random) * 100
    return torch.cat([low, low + 5 + torch.rand(count, 2, generator=random) * longest], 1)


def retinanet(loss: Loss = Loss.FOCAL) -> RetinaNet:
    torch.manual_seed(0)
    network = build(NetworkDescription("retinanet", Body("mobilenetv3_small_050"), SMALL, 3), LossSettings({loss: 1.0}))
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
    assert torch.allclose(overlaps(some)[1], box_iou(some[1], some[1]), atol=1e-5)


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


def test_removed_boxes_follow_in_their_order() -> None:
    """Also those that hardly differ, which two backends would sort in ways of their own."""
    alike = torch.tensor([10.0, 10, 60, 60]).repeat(6, 1)
    elsewhere = torch.tensor([[70.0, 20, 110, 90]])
    assert thin(torch.cat([alike, elsewhere])[None], 5).tolist() == [[0, 6, 1, 2, 3]]


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


CLASS_WEIGHTS = (5.0, 0.5, 2.0)


def detector_losses(head: Head, weights: tuple[float, ...]) -> dict[str, float]:
    """Losses of a small network on an image with objects of the classes 0 and 1 and an empty one, by these weights."""
    torch.manual_seed(0)
    small = {"fpnChannels": 16, "neckChannels": 16, "maskChannels": 16}
    options = {option.name: small.get(option.name, option.default) for option in head.options}
    description = NetworkDescription(head.name, Body("mobilenetv3_small_050"), options, 3)
    network = build(description, LossSettings({}, weights)).eval()
    masks = torch.zeros(1, 128, 128, dtype=torch.int16)
    masks[0, 10:60, 10:60], masks[0, 20:120, 70:120] = 1, 2
    boxes, labels = torch.tensor([[10.0, 10, 60, 60], [70, 20, 120, 120]]), torch.tensor([0, 1])
    target = (boxes, boxes[:0]), (labels, labels[:0])
    instances = (masks, torch.zeros_like(masks))
    targets = BoxTargets(*target) if head.task is Task.DETECTION else InstanceTargets(*target, instances)
    with torch.no_grad():
        raw = network(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
        torch.manual_seed(2)  # sampled anchors and proposals
        return {name: float(value) for name, value in network.loss(raw, targets).items()}


@pytest.mark.parametrize("name", [name for name, head in heads().items() if head.task.finds_objects])
def test_class_weights_weigh_what_has_an_object_in_every_detectors_loss_of_classes(name: str) -> None:
    """Which is linear in them: background + weight x part of the class, of the classes that occur."""
    head = heads()[name]
    plain, parts = detector_losses(head, ()), []
    for label in range(3):
        weights = [1.0, 1.0, 1.0]
        weights[label] = 2.0
        doubled = detector_losses(head, tuple(weights))
        parts.append(doubled["class"] - plain["class"])
        assert {name: value for name, value in doubled.items() if name != "class"} == {
            name: value for name, value in plain.items() if name != "class"
        }, "boxes and masks are of no class"
    assert parts[0] > 0.01 * plain["class"] < 100 * parts[1]
    assert parts[2] == pytest.approx(0, abs=1e-6)
    expected = plain["class"] + sum((weight - 1) * part for weight, part in zip(CLASS_WEIGHTS, parts, strict=True))
    assert detector_losses(head, CLASS_WEIGHTS)["class"] == pytest.approx(expected, rel=1e-4)


def test_class_weights_of_one_stage_are_those_of_the_rows_of_their_objects() -> None:
    network, label = fcos(), 2
    with torch.no_grad():
        raw = network(torch.randn(1, 3, *SIZE))
    target = torch.tensor([[20.0, 20, 160, 150]])
    targets = BoxTargets((target,), (torch.tensor([label]),))
    plain = network.loss(raw, targets)["class"]
    network.loss_settings = replace(network.loss_settings, class_weights=CLASS_WEIGHTS)
    (rows,) = torch.where(match(raw.points, raw.strides, target) != NO_OBJECT)
    logits = raw.logits[0, rows]
    focal = sigmoid_focal_loss(logits, torch.eye(3)[label].expand_as(logits), reduction="sum") / len(rows)
    expected = float(plain + (CLASS_WEIGHTS[label] - 1) * focal)
    assert network.loss(raw, targets)["class"] == pytest.approx(expected, rel=1e-5)


def test_class_weights_of_the_second_stage_are_those_of_a_weighted_cross_entropy() -> None:
    """Where every proposal is called background, with a margin of 9."""
    network, label = faster_rcnn(), 0
    raw = raw_proposals(network)
    target = BoxTargets((torch.tensor([[0.0, 0, 128, 96]]),), (torch.tensor([label]),))
    losses = []
    with torch.no_grad():
        network.roi.box_predictor.scores.weight.zero_()
        network.roi.box_predictor.scores.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
        for weights in ((), CLASS_WEIGHTS):
            network.loss_settings = LossSettings(network.loss_settings.terms, weights)
            torch.manual_seed(0)
            losses.append(float(network.loss(raw, target)["class"]))
    right = math.log(1 + 3 * math.exp(-9))
    wrong = 9 + right
    share = (losses[0] - right) / (wrong - right)  # of the proposals that have the object
    assert 0 < share < 1
    assert losses[1] == pytest.approx(CLASS_WEIGHTS[label] * share * wrong + (1 - share) * right, rel=1e-4)


def ssd(name: str = "ssd") -> SSD:
    torch.manual_seed(0)
    options = {"extraChannels": 32, "anchorSizes": (), "anchorRatios": ()}
    network = build(NetworkDescription(name, Body("mobilenetv3_small_050"), options, 3), LossSettings())
    assert isinstance(network, SSD)
    return network.eval()


def default_boxes(network: SSD) -> RawBoxes:
    """Random raw outputs for one image of 128 x 96."""
    with torch.no_grad():
        plain = network(torch.zeros(1, 3, 96, 128))
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(plain.logits.shape, generator=random)
    return RawBoxes(logits, torch.randn(plain.deltas.shape, generator=random), plain.anchors, plain.size)


def torchvisions_ssd() -> TorchvisionSSD:
    """For its losses and decoding: it has no network."""
    return TorchvisionSSD(nn.Identity(), DefaultBoxGenerator([[2]]), (96, 128), 4, head=nn.Identity(), score_thresh=0.0,
                          nms_thresh=1.0, topk_candidates=10_000, detections_per_img=30_000)  # fmt: skip


@pytest.mark.parametrize("objects", [1, 4])
def test_ssds_loss_is_that_of_torchvision(objects: int) -> None:
    network = ssd()
    raw = default_boxes(network)
    target, labels = boxes(objects, seed=3, longest=60), torch.arange(objects) % 3
    losses = network.loss(raw, BoxTargets((target,), (labels,)))
    matches = SSDMatcher(0.5)(box_iou(target, raw.anchors))
    expected = torchvisions_ssd().compute_loss(
        [{"boxes": target, "labels": labels + 1}],
        {"cls_logits": raw.logits, "bbox_regression": raw.deltas},
        [raw.anchors],
        [matches],
    )
    assert losses["class"] == pytest.approx(float(expected["classification"]), rel=1e-5)
    assert losses["box"] == pytest.approx(float(expected["bbox_regression"]), rel=1e-5)


def test_ssds_loss_of_a_batch_is_the_mean_over_images_and_an_empty_one_teaches_background() -> None:
    network = ssd()
    raw = default_boxes(network)
    target, nothing = boxes(2, seed=3, longest=60), torch.zeros(0, 4)
    labels, none = torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)
    alone = network.loss(raw, BoxTargets((target,), (labels,)))
    empty = network.loss(raw, BoxTargets((nothing,), (none,)))
    hardest = -raw.logits[0].log_softmax(-1)[:, 0].topk(NEGATIVES_PER_POSITIVE, largest=False).values
    assert float(empty["class"]) == pytest.approx(float(hardest.sum()), rel=1e-5)
    assert float(empty["box"]) == 0
    two = RawBoxes(raw.logits.repeat(2, 1, 1), raw.deltas.repeat(2, 1, 1), raw.anchors, raw.size)
    both = network.loss(two, BoxTargets((target, nothing), (labels, none)))
    for name, value in both.items():
        assert value == pytest.approx(float(alone[name] + empty[name]) / 2, rel=1e-5)


def test_ssds_boxes_and_scores_are_those_of_torchvision() -> None:
    network = ssd()
    raw = default_boxes(network)
    outputs = network.decode(raw)
    (expected,) = torchvisions_ssd().postprocess_detections(
        {"cls_logits": raw.logits, "bbox_regression": raw.deltas}, [raw.anchors], [raw.size]
    )
    best, order = outputs["scores"][0].flatten().sort(descending=True)
    assert torch.allclose(best[:200], expected["scores"][:200], atol=1e-6)
    assert (expected["labels"][:200] == order[:200] % 3 + 1).all()
    assert torch.allclose(outputs["boxes"][0, order[:200] // 3], expected["boxes"][:200], atol=1e-3)


def test_ssdlite_takes_one_image_on_a_map_of_one_cell() -> None:
    network = ssd("ssdlite").train()
    raw = network(torch.randn(1, 3, 64, 96))
    sum(network.loss(raw, BoxTargets((boxes(1),), (torch.tensor([1]),))).values()).backward()
    norm, plain = BatchNorm(4).train(), nn.BatchNorm2d(4).train()
    batch = torch.randn(2, 4, 1, 1)
    assert torch.equal(norm(batch), plain(batch)), "of two values it is batch norm"
    with pytest.raises(ValueError, match="more than 1 value"):
        plain(batch[:1])
    assert torch.equal(norm(batch[:1]), plain.eval()(batch[:1]))


def fcos() -> FCOS:
    torch.manual_seed(0)
    network = build(NetworkDescription("fcos", Body("mobilenetv3_small_050"), {"fpnChannels": 32}, 3), LossSettings())
    assert isinstance(network, FCOS)
    return network.eval()


def torchvisions_fcos() -> TorchvisionFCOS:
    """For its losses and decoding; of its network nothing is used."""
    body = nn.Identity()
    body.out_channels = 32
    sizes = tuple((stride,) for stride in (8, 16, 32, 64, 128))
    return TorchvisionFCOS(body, 3, anchor_generator=AnchorGenerator(sizes, ((1.0,),) * 5), score_thresh=0.0,
                           nms_thresh=1.0, topk_candidates=10_000, detections_per_img=30_000)  # fmt: skip


SIZE = (192, 256)
MAPS = [torch.zeros(1, 1, math.ceil(SIZE[0] / stride), math.ceil(SIZE[1] / stride)) for stride in (8, 16, 32, 64, 128)]


@pytest.mark.parametrize("objects", [0, 1, 6])
def test_fcos_loss_is_that_of_torchvision(objects: int) -> None:
    network = fcos()
    with torch.no_grad():
        raw = network(torch.randn(1, 3, *SIZE))
    target, labels = boxes(objects, seed=2, longest=90), torch.arange(objects) % 3
    losses = network.loss(raw, BoxTargets((target,), (labels,)))
    cells = torch.cat([raw.points - raw.strides / 2, raw.points + raw.strides / 2], 1)
    per_level = [level.shape[-2] * level.shape[-1] for level in MAPS]
    outputs = {"cls_logits": raw.logits, "bbox_regression": raw.distances, "bbox_ctrness": raw.centredness[..., None]}
    expected = torchvisions_fcos().compute_loss([{"boxes": target, "labels": labels}], outputs, [cells], per_level)
    assert float(losses["class"]) == pytest.approx(float(expected["classification"]), rel=1e-5)
    assert float(losses["box"]) == pytest.approx(float(expected["bbox_regression"]), rel=1e-5)
    assert float(losses["centredness"]) == pytest.approx(float(expected["bbox_ctrness"]), rel=1e-5)
    assert (float(losses["box"]) > 0) == (objects > 0)


def test_fcos_gives_a_point_to_the_smallest_object_on_the_level_of_its_size() -> None:
    points, strides = grid(MAPS, (8, 16, 32, 64, 128))
    large, small = [20.0, 20, 160, 150], [70.0, 70, 100, 100]
    index = match(points, strides, torch.tensor([large, small]))
    assert set(strides[index == 1].flatten().tolist()) == {8}
    assert set(strides[index == 0].flatten().tolist()) == {16}
    near = (points[index == 0] - torch.tensor([90.0, 85])).abs().amax(1) < 1.5 * strides[index == 0].flatten()
    assert near.all()
    between = match(points, strides, torch.tensor([[13.0, 13, 19, 19]]))
    assert (between == NO_OBJECT).all()


def test_fcos_boxes_and_scores_are_those_of_torchvision() -> None:
    network, reference = fcos(), torchvisions_fcos()
    with torch.no_grad():
        raw = network(torch.randn(1, 3, *SIZE))
        outputs = network.decode(raw)
        cells = torch.cat([raw.points - raw.strides / 2, raw.points + raw.strides / 2], 1)
        (expected,) = reference.postprocess_detections(
            {
                "cls_logits": [raw.logits],
                "bbox_regression": [raw.distances],
                "bbox_ctrness": [raw.centredness[..., None]],
            },
            [[cells]],
            [raw.size],
        )
    best, order = outputs["scores"][0].flatten().sort(descending=True)
    assert torch.allclose(best[:200], expected["scores"][:200], atol=1e-6)
    assert torch.allclose(outputs["boxes"][0, order[:200] // 3], expected["boxes"][:200], atol=1e-2)
