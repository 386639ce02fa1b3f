"""Assignment, distributions and boxes of YOLO, against the papers' formulas in plain Python and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from fovea_api.trainingjob import Loss
from fovea_trainer.models.assignment import OVERLAP_POWER, POINTS_PER_OBJECT, SCORE_POWER, assign
from fovea_trainer.models.bodies import Body
from fovea_trainer.models.description import NetworkDescription, build
from fovea_trainer.models.heads.yolo import BINS, FIRST_DISTANCE, RawPoints, Yolo, distribution_loss
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.points import grid
from fovea_trainer.tasks.detection.targets import BoxTargets
from torch.nn import functional as F


def yolo() -> Yolo:
    torch.manual_seed(0)
    network = build(
        NetworkDescription("yolo", Body("test_resnet"), {"neckChannels": 16, "depth": 1}, 3), LossSettings()
    )
    assert isinstance(network, Yolo)
    return network.eval()


def iou(one: list[float], other: list[float]) -> float:
    across, down = (max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return across * down / (areas - across * down)


def naive(
    scores: list[list[float]], predicted: list[list[float]], points: list[list[float]], boxes: list[list[float]],
    labels: list[int],
) -> dict[int, tuple[int, float]]:  # fmt: skip
    """Point -> (object, quality), one object and one point after the other."""
    taken: dict[int, list[int]] = {}
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        inside = [p for p, (x, y) in enumerate(points) if box[0] < x < box[2] and box[1] < y < box[3]]
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        inside = inside or [min(range(len(points)), key=lambda p: math.dist(points[p], middle))]
        ranked = sorted(
            inside, key=lambda p: -(scores[p][label] ** SCORE_POWER) * iou(box, predicted[p]) ** OVERLAP_POWER
        )
        for p in ranked[:POINTS_PER_OBJECT]:
            taken.setdefault(p, []).append(index)
    owner = {p: max(objects, key=lambda o: iou(boxes[o], predicted[p])) for p, objects in taken.items()}
    result = {}
    for p, o in owner.items():
        mine = [q for q, other in owner.items() if other == o]
        aligned = {q: scores[q][labels[o]] ** SCORE_POWER * iou(boxes[o], predicted[q]) ** OVERLAP_POWER for q in mine}
        best = max(iou(boxes[o], predicted[q]) for q in mine)
        result[p] = (o, aligned[p] / max(aligned.values()) * best)
    return result


@pytest.mark.parametrize("seed", range(4))
def test_points_are_assigned_as_the_paper_says(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    points, strides = grid([torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 6, 8)], (8, 16))
    count = len(points)
    scores = torch.rand(count, 3, generator=random)
    predicted = torch.cat([points - strides * (0.2 + 3 * torch.rand(count, 2, generator=random)),
                           points + strides * (0.2 + 3 * torch.rand(count, 2, generator=random))], 1)  # fmt: skip
    low = torch.rand(6, 2, generator=random) * 60
    boxes = torch.cat([low, low + 8 + 40 * torch.rand(6, 2, generator=random)], 1)
    boxes[0] = torch.tensor([9.0, 9.0, 11.0, 11.0])  # between all points
    labels = torch.randint(0, 3, (6,), generator=random)
    assignment = assign(scores, predicted, points, boxes, labels)
    expected = naive(scores.tolist(), predicted.tolist(), points.tolist(), boxes.tolist(), labels.tolist())
    assert dict(zip(assignment.points.tolist(), assignment.objects.tolist(), strict=True)) == {
        p: o for p, (o, _) in expected.items()
    }
    for point, quality in zip(assignment.points.tolist(), assignment.quality.tolist(), strict=True):
        assert quality == pytest.approx(expected[point][1], rel=1e-4)


def test_an_untrained_network_assigns_points_of_almost_no_overlap() -> None:
    """Boxes of 400 pixels around an object of 10, at scores of 0.01: alignments of 1e-21."""
    points = torch.tensor([[100.0, 100.0], [104.0, 104.0], [300.0, 300.0]])
    predicted = torch.cat([points - 200, points + 200], 1)
    assignment = assign(
        torch.full((3, 1), 0.01), predicted, points, torch.tensor([[98.0, 98, 108, 108]]), torch.tensor([0])
    )
    assert sorted(assignment.points.tolist()) == [0, 1]
    assert assignment.quality.tolist() == pytest.approx([100 / 160_000] * 2, rel=1e-3)


def test_an_image_without_objects_assigns_nothing_and_teaches_background() -> None:
    network = yolo()
    nothing = BoxTargets((torch.zeros(0, 4),), (torch.zeros(0, dtype=torch.int64),))
    with torch.no_grad():
        raw = network(torch.randn(1, 3, 64, 96))
        losses = network.loss(raw, nothing)
    p = raw.logits.sigmoid()
    assert float(losses["class"]) == pytest.approx(float((p**2 * -(1 - p).log()).sum()), rel=1e-4)
    assert float(losses["box"]) == float(losses["distribution"]) == 0


def test_the_loss_is_its_formula_for_each_image_and_their_mean() -> None:
    network = yolo()
    with torch.no_grad():
        raw = network(torch.randn(2, 3, 64, 96))
    boxes, labels = torch.tensor([[10.0, 12, 44, 40], [50, 20, 90, 60]]), torch.tensor([2, 0])
    targets = BoxTargets((boxes, boxes[:1]), (labels, labels[:1]))
    losses = network.loss(raw, targets)
    expected = []
    for image, (some, classes) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
        probability = raw.logits[image].sigmoid()
        assignment = assign(probability, raw.boxes[image], raw.points, some, classes)
        total = max(1.0, float(assignment.quality.sum()))
        parts = 0.0
        for point, index, quality in zip(assignment.points, assignment.objects, assignment.quality, strict=True):
            parts += float(quality) * (1 - iou(raw.boxes[image, point].tolist(), some[index].tolist()))
        target = torch.zeros_like(probability)
        for point, index, quality in zip(assignment.points, assignment.objects, assignment.quality, strict=True):
            target[point, classes[index]] = quality
        cross = F.binary_cross_entropy(probability, target, reduction="none")
        expected.append((float(((target - probability) ** 2 * cross).sum()) / total, 2 * parts / total))
    assert float(losses["class"]) == pytest.approx(sum(one for one, _ in expected) / 2, rel=1e-3)
    network.loss_settings = LossSettings({Loss.IOU: 1.0})
    assert float(network.loss(raw, targets)["box"]) == pytest.approx(sum(two for _, two in expected) / 2, rel=1e-3)


def test_the_distribution_of_a_distance_is_learned_by_the_two_bins_around_it() -> None:
    logits = torch.randn(5, BINS, generator=torch.Generator().manual_seed(0))
    distances = torch.tensor([0.0, 3.25, 14.9, 15.0, 40.0])
    log = logits.log_softmax(-1)
    expected = [-log[0, 0], -0.75 * log[1, 3] - 0.25 * log[1, 4], -0.1 * log[2, 14] - 0.9 * log[2, 15], -log[3, 15],
                -log[4, 15]]  # fmt: skip
    assert distribution_loss(logits, distances).tolist() == pytest.approx(
        [float(value) for value in expected], rel=1e-4
    )


def test_boxes_are_decoded_from_the_means_of_the_distributions_and_clipped() -> None:
    points, strides = grid([torch.zeros(1, 1, 2, 3)], (32,))
    assert points.tolist() == [[16, 16], [48, 16], [80, 16], [16, 48], [48, 48], [80, 48]]
    sides = torch.full((1, 6, 4, BINS), -50.0)
    sides[0, :, [0, 1, 2, 3], [1, 0, 2, 1]] = 50  # 1 stride to the left, 0 up, 2 to the right, 1 down
    raw = RawPoints(torch.zeros(1, 6, 3), sides.flatten(2), points, strides, (64, 96))
    boxes = yolo().decode(raw)["boxes"][0]
    assert boxes[1].tolist() == pytest.approx([16, 16, 96, 48])  # 48 + 64 is beyond the image
    assert boxes[3].tolist() == pytest.approx([0, 48, 80, 64])


def test_it_starts_with_boxes_of_four_strides_and_rare_objects() -> None:
    network = yolo()
    for branch in (*network.of_classes, *network.of_sides):
        torch.nn.init.zeros_(branch[-1].weight)
    raw = network(torch.randn(1, 3, 64, 96))
    extent = (raw.boxes[0, :, 2:] - raw.boxes[0, :, :2]) / raw.strides
    assert torch.allclose(extent, torch.full_like(extent, 2 * FIRST_DISTANCE), rtol=0.02)
    assert torch.allclose(raw.logits.sigmoid(), torch.tensor(0.01), rtol=1e-3)
